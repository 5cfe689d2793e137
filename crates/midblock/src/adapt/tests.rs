use super::*;
use crate::checkpoint::ConfigJson;
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) fn architecture(changes: Value) -> Architecture {
    let mut value = json!({
        "model_type": "qwen2", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_hidden_layers": 5, "vocab_size": 10, "max_position_embeddings": 16,
        "tie_word_embeddings": false,
    });
    value
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    let path = PathBuf::from("config.json");
    Architecture::resolve(&ConfigJson {
        path,
        value: value.as_object().unwrap().clone(),
    })
    .unwrap()
}

fn lora(scaling: Scaling) -> LoraOptions {
    LoraOptions {
        rank: 4,
        alpha: None,
        dropout: 0.0,
        scaling,
    }
}

fn recipe(kind: Kind, layers: &str, modules: Option<&str>) -> Recipe {
    Recipe {
        kind,
        layers: layers.parse().unwrap(),
        modules: modules.map(|text| text.parse().unwrap()),
        extra: Vec::new(),
        seed: 42,
    }
}

fn plan(kind: Kind, layers: &str, modules: Option<&str>) -> Result<Plan> {
    Plan::resolve(&architecture(json!({})), &recipe(kind, layers, modules), None)
}

fn names(plan: &Plan) -> Vec<String> {
    let a = architecture(json!({}));
    plan.entries.iter().map(|entry| entry.id.name(&a)).collect()
}

#[test]
fn full_tuning_of_every_block_is_the_whole_model() {
    for tied in [true, false] {
        let a = architecture(json!({"tie_word_embeddings": tied}));
        let all = Plan::resolve(&a, &recipe(Kind::Full, "all", None), None).unwrap();
        assert_eq!(all.parameters(), a.parameters());
        assert!(all.trains_embedding() && all.first_block() == 0);
        assert_eq!(all.entry(ParameterId::Head).is_some(), !tied);
    }
}

#[test]
fn full_tuning_of_a_band_is_its_blocks_and_what_is_named_besides() {
    let a = architecture(json!({}));
    let band = plan(Kind::Full, "range:1..3", None).unwrap();
    assert_eq!((band.parameters(), band.first_block()), (2 * a.block_parameters(), 1));
    assert_eq!(band.trained_blocks(), [1, 2]);
    assert!(!band.trains_embedding());

    let mut with_extra = recipe(Kind::Full, "last:1", Some("down_proj"));
    with_extra.extra = ["model.norm.weight", "model.layers.0.self_attn.q_proj.bias"]
        .map(str::to_owned)
        .to_vec();
    let extra = Plan::resolve(&a, &with_extra, None).unwrap();
    let expected = [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.4.mlp.down_proj.weight",
        "model.norm.weight",
    ];
    assert_eq!(names(&extra), expected);
}

#[test]
fn lora_follows_the_rank_budget() {
    let mid = plan(Kind::Lora(lora(Scaling::FixedAlpha)), "mid", Some("v_proj,mlp")).unwrap();
    // ⌊4 · 5 / 3⌋ = 6 on blocks 1..4; v (4, 8), gate and up (12, 8), down (8, 12)
    assert_eq!(mid.parameters(), 3 * 6 * (12 + 3 * 20));
    assert_eq!((mid.first_block(), mid.trained_blocks()), (1, vec![1, 2, 3]));
    assert_eq!(mid.entries.len(), 12);
    let Move::Lora { rank, alpha, scale, .. } = mid.entries[0].how else {
        panic!()
    };
    assert_eq!((rank, alpha, scale), (6, 8.0, 8.0 / 6.0));
}

#[test]
fn the_scalings_agree_at_the_uniform_rank_and_nowhere_else() {
    let scale = |scaling, rank| match lora(scaling).of_rank(rank) {
        Move::Lora { alpha, scale, .. } => (alpha, scale),
        _ => panic!(),
    };
    for scaling in Scaling::ALL {
        assert_eq!(scale(scaling, 4).1, 2.0, "{scaling}");
    }
    assert_eq!(scale(Scaling::FixedAlpha, 16), (8.0, 0.5));
    assert_eq!(scale(Scaling::FixedRatio, 16), (32.0, 2.0));
    assert_eq!(scale(Scaling::Rslora, 16), (4.0, 1.0));
    let given = LoraOptions {
        alpha: Some(12.0),
        ..lora(Scaling::FixedRatio)
    };
    assert!(matches!(
        given.of_rank(6),
        Move::Lora {
            alpha: 18.0,
            scale: 3.0,
            ..
        }
    ));
    assert_eq!("rslora".parse::<Scaling>().unwrap(), Scaling::Rslora);
    assert!(
        "rs".parse::<Scaling>()
            .unwrap_err()
            .to_string()
            .contains("fixed-alpha, fixed-ratio, rslora")
    );
}

#[test]
fn masks_are_over_the_channels_of_whole_blocks() {
    let masked = |weights| {
        Kind::Masked(MaskOptions {
            weights,
            ..MaskOptions::default()
        })
    };
    let mid = plan(masked(true), "mid", None).unwrap();
    // D 8, F 12, H·E 8, K·E 4
    let (channels, matrices) = (4 * 8 + 12 + 8 + 2 * 4, 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 12);
    assert_eq!(mid.parameters(), 3 * (channels + matrices));
    assert_eq!(
        (mid.first_block(), mid.trained_blocks(), mid.entries.len()),
        (1, vec![1, 2, 3], 21)
    );
    let groups: Vec<_> = mid
        .masks()
        .filter(|(block, ..)| *block == 2)
        .map(|(_, group, n)| (group, n))
        .collect();
    let a = architecture(json!({}));
    assert_eq!(groups, MaskGroup::ALL.map(|group| (group, group.channels(&a))));
    let frozen = plan(masked(false), "mid", None).unwrap();
    assert_eq!((frozen.parameters(), frozen.masks().count()), (3 * channels, 24));
    assert_eq!(plan(Kind::Full, "mid", None).unwrap().masks().count(), 0);
    let message = plan(masked(true), "mid", Some("mlp")).unwrap_err().to_string();
    assert!(
        message.contains("modules `mlp`: masks are over all seven matrices"),
        "{message}"
    );
}

#[test]
fn thetas_start_where_the_options_say_each_group_on_its_own() {
    let options = MaskOptions::default();
    let theta = options.initial(42, 3, MaskGroup::FfnHidden, 4000);
    assert_eq!(options.initial(42, 3, MaskGroup::FfnHidden, 100), theta[..100]);
    let mean = theta.iter().map(|v| f64::from(*v)).sum::<f64>() / 4000.0;
    let variance = theta.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 4000.0;
    // 4 standard errors: 0.5/√4000 = 0.0079, and 0.25·√(2/4000) = 0.0056
    assert!(
        (mean - 1.5).abs() < 0.032 && (variance - 0.25).abs() < 0.023,
        "{mean} {variance}"
    );
    for (seed, block, group) in [
        (43, 3, MaskGroup::FfnHidden),
        (42, 4, MaskGroup::FfnHidden),
        (42, 3, MaskGroup::Value),
    ] {
        assert_ne!(options.initial(seed, block, group, 4000), theta);
    }
}

#[test]
fn what_cannot_be_trained_is_named() {
    let message = |recipe: &Recipe| {
        let a = architecture(json!({"tie_word_embeddings": true}));
        Plan::resolve(&a, recipe, None).unwrap_err().to_string()
    };
    let with = |change: fn(&mut LoraOptions)| {
        let mut options = lora(Scaling::FixedAlpha);
        change(&mut options);
        message(&recipe(Kind::Lora(options), "all", None))
    };
    assert!(with(|o| o.rank = 0).contains("LoRA rank `0`: not a positive"));
    assert!(with(|o| o.dropout = 1.0).contains("LoRA dropout `1`: not from 0 to below 1"));
    assert!(with(|o| o.dropout = f64::NAN).contains("LoRA dropout"));
    assert!(with(|o| o.alpha = Some(-1.0)).contains("LoRA alpha `-1`: not a positive number"));
    let masks = |change: fn(&mut MaskOptions)| {
        let mut options = MaskOptions::default();
        change(&mut options);
        message(&recipe(Kind::Masked(options), "all", None))
    };
    assert!(masks(|o| o.lr = 0.0).contains("learning rate of masks `0`: not above 0"));
    assert!(masks(|o| o.momentum = 1.0).contains("momentum of masks `1`"));
    assert!(masks(|o| o.std = -0.5).contains("standard deviation of masks `-0.5`"));
    let extra = |kind, name: &str| {
        message(&Recipe {
            extra: vec![name.to_owned()],
            ..recipe(kind, "mid", None)
        })
    };
    assert!(extra(Kind::Full, "lm_head.weight").contains("name model.embed_tokens.weight"));
    assert!(extra(Kind::Full, "model.layers.0.mlp.up_proj.lora_A.weight").contains("the model has no such parameter"));
    assert!(extra(Kind::Lora(lora(Scaling::Rslora)), "model.norm.weight").contains("use full fine-tuning"));
    let modules = message(&recipe(Kind::Full, "mid", Some("q_proj,c_attn")));
    assert_eq!(
        modules,
        "--modules `q_proj,c_attn`: `c_attn` matches no linear layer of the chosen blocks\n  help: there are q_proj, \
         k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or attention, mlp, all-linear, or a pattern of full names"
    );
}

#[test]
fn the_start_of_a_pair_is_its_own_and_in_bounds() {
    let a = initial_a(42, 3, Part::Q, 6, 16);
    assert_eq!((a.len(), initial_a(42, 3, Part::Q, 2, 16)), (96, a[..32].to_vec()));
    assert!(a.iter().all(|value| value.abs() <= 0.25) && a.iter().any(|value| value.abs() > 0.2));
    let mean = a.iter().sum::<f32>() / 96.0;
    assert!(mean.abs() < 0.06, "{mean}"); // 4 standard errors: 0.25/√3/√96 = 0.0147
    for (seed, block, part) in [(43, 3, Part::Q), (42, 4, Part::Q), (42, 3, Part::K)] {
        assert_ne!(a, initial_a(seed, block, part, 6, 16));
    }
}
