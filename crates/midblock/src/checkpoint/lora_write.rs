//! A PEFT LoRA adapter as a folder that Python PEFT and this program read: `adapter_config.json` and
//! `adapter_model.safetensors` in f32.

use super::{
    folder::ADAPTER_CONFIG,
    lora::ADAPTER_WEIGHTS,
    stream::{Declared, write_tensors},
};
use crate::{
    Result,
    adapt::{Move, Plan},
    model::{Architecture, Kind, ParameterId},
    run::write_bytes,
};
use midblock_kernels::Dtype;
use std::{collections::HashMap, fs, path::Path};

/// Writes the adapter that `plan` describes into the folder `dir`, each file atomically and the configuration last.
/// `values` gives the elements of an A (R, in) or B (out, R), whose shape it is told, when its turn comes; `base_name` is
/// what PEFT will load as the base.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), and those of `values`.
///
/// # Panics
/// If the plan is no LoRA plan, or `values` gives another number of elements.
pub fn write_adapter(
    dir: &Path,
    base_name: &str,
    architecture: &Architecture,
    plan: &Plan,
    mut values: impl FnMut(ParameterId, [usize; 2]) -> Result<Vec<f32>>,
) -> Result<()> {
    let config = plan
        .peft_json(architecture, base_name)
        .expect("invariant: only LoRA makes an adapter");
    let mut ids = HashMap::new();
    let mut tensors = Vec::new();
    for entry in &plan.entries {
        let (Move::Lora { rank, .. }, ParameterId::Block { block, part, .. }, [out, inp]) =
            (entry.how, entry.id, entry.shape.as_slice())
        else {
            panic!("invariant: LoRA moves matrices of blocks, not {:?}", entry.id)
        };
        for (kind, shape) in [(Kind::LoraA, [rank, *inp]), (Kind::LoraB, [*out, rank])] {
            let id = ParameterId::Block { block, part, kind };
            let name = format!("base_model.model.{}", id.name(architecture));
            ids.insert(name.clone(), (id, shape));
            tensors.push(Declared {
                name,
                dtype: Dtype::F32,
                shape: shape.to_vec(),
            });
        }
    }
    fs::create_dir_all(dir).map_err(crate::Error::io("create", dir))?;
    write_tensors(&dir.join(ADAPTER_WEIGHTS), &tensors, |tensor| {
        let (id, shape) = ids[&tensor.name];
        values(id, shape)
    })?;
    write_bytes(&dir.join(ADAPTER_CONFIG), format!("{config:#}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapt::{Kind as How, LoraOptions, Recipe, Scaling},
        checkpoint::{Checkpoint, ConfigJson, LowRank, TokenizerSource, lora},
    };
    use serde_json::{Value, json};

    fn base() -> (Checkpoint, Architecture) {
        let value = json!({
            "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_hidden_layers": 12, "vocab_size": 10, "max_position_embeddings": 16,
        });
        let value = value.as_object().unwrap().clone();
        let config = ConfigJson {
            path: "config.json".into(),
            value,
        };
        let architecture = Architecture::resolve(&config).unwrap();
        let tokenizer = TokenizerSource::Missing { path: "".into() };
        (
            Checkpoint::untrained("random", config, tokenizer, 1).unwrap(),
            architecture,
        )
    }

    fn plan(architecture: &Architecture, layers: &str, modules: &str, scaling: Scaling) -> Plan {
        let recipe = Recipe {
            kind: How::Lora(LoraOptions {
                rank: 3,
                alpha: None,
                dropout: 0.1,
                scaling,
            }),
            layers: layers.parse().unwrap(),
            modules: Some(modules.parse().unwrap()),
            extra: Vec::new(),
            seed: 42,
        };
        Plan::resolve(architecture, &recipe, None).unwrap()
    }

    /// Values that tell every element of every matrix from every other.
    fn value(id: ParameterId, index: usize) -> f32 {
        let ParameterId::Block { block, part, kind } = id else {
            panic!("{id:?}")
        };
        (((block * 11 + part as usize) * 4 + kind as usize) * 1000 + index) as f32
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (base, architecture) = base();
        for (layers, modules, scaling) in [
            ("mid", "attention", Scaling::FixedAlpha),
            ("all", "q_proj", Scaling::Rslora),
            ("segments:2,-1,5,2", "mlp,o_proj", Scaling::FixedRatio),
            (
                "segments:2,1",
                "model.layers.1?.mlp.*,model.layers.1.*.v_proj",
                Scaling::Rslora,
            ),
        ] {
            let plan = plan(&architecture, layers, modules, scaling);
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("new/adapter");
            let values = |id, [rows, columns]: [usize; 2]| Ok((0..rows * columns).map(|i| value(id, i)).collect());
            write_adapter(&folder, "base", &architecture, &plan, values).unwrap();
            let (adapter, _) = lora::open(&folder, base.tensors()).unwrap();
            assert_eq!(adapter.pairs.len(), plan.entries.len());
            for entry in &plan.entries {
                let (Move::Lora { rank, scale, .. }, ParameterId::Block { block, part, .. }) = (entry.how, entry.id)
                else {
                    panic!("{entry:?}")
                };
                let matrix = |kind, len: usize| {
                    let id = ParameterId::Block { block, part, kind };
                    (0..len).map(|i| value(id, i)).collect()
                };
                let (a, b) = (
                    matrix(Kind::LoraA, rank * entry.shape[1]),
                    matrix(Kind::LoraB, entry.shape[0] * rank),
                );
                assert_eq!(
                    adapter.pairs[&entry.id.name(&architecture)],
                    LowRank { rank, scale, a, b },
                    "{layers}"
                );
            }
        }
    }

    /// The keys that PEFT reads, for a selection that is the same in every block and for one that is not.
    #[test]
    fn the_configuration_says_it_in_pefts_words() {
        let (_, architecture) = base();
        let config = |layers, modules, scaling| {
            let mut json = plan(&architecture, layers, modules, scaling)
                .peft_json(&architecture, "org/base")
                .unwrap();
            let keys = [
                "r",
                "lora_alpha",
                "rank_pattern",
                "alpha_pattern",
                "target_modules",
                "layers_to_transform",
                "layers_pattern",
                "use_rslora",
            ];
            assert_eq!(
                (&json["peft_type"], &json["base_model_name_or_path"]),
                (&json!("LORA"), &json!("org/base"))
            );
            assert_eq!(
                (&json["task_type"], &json["lora_dropout"]),
                (&json!("CAUSAL_LM"), &json!(0.1))
            );
            Value::from_iter(keys.map(|key| (key.to_owned(), json[key].take())))
        };
        assert_eq!(
            config("range:2..5", "v_proj,q_proj", Scaling::FixedAlpha),
            json!({
                "r": 12, "lora_alpha": 6, "rank_pattern": {}, "alpha_pattern": {}, "target_modules": ["q_proj", "v_proj"],
                "layers_to_transform": [2, 3, 4], "layers_pattern": "layers", "use_rslora": false,
            })
        );
        assert_eq!(
            config("segments:2,-1,-1,-1,-1,1", "q_proj", Scaling::FixedRatio),
            json!({
                "r": 2, "lora_alpha": 4,
                "rank_pattern": {"model.layers.10.self_attn.q_proj": 1, "model.layers.11.self_attn.q_proj": 1},
                "alpha_pattern": {"model.layers.10.self_attn.q_proj": 2, "model.layers.11.self_attn.q_proj": 2},
                "target_modules": ["q_proj"], "layers_to_transform": [0, 1, 10, 11], "layers_pattern": "layers",
                "use_rslora": false,
            })
        );
        assert_eq!(
            config(
                "all",
                "model.layers.3.*.q_proj,model.layers.7.*.k_proj",
                Scaling::Rslora
            ),
            json!({
                "r": 3, "lora_alpha": 2.0 * 3f64.sqrt(), "rank_pattern": {}, "alpha_pattern": {},
                "target_modules": ["model.layers.3.self_attn.q_proj", "model.layers.7.self_attn.k_proj"],
                "layers_to_transform": null, "layers_pattern": null, "use_rslora": true,
            })
        );
    }
}
