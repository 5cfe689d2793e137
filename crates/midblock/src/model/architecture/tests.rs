use super::*;
use proptest::prelude::*;
use serde_json::json;

fn resolve(value: Value) -> Result<Architecture> {
    let Value::Object(value) = value else {
        panic!("an object")
    };
    Architecture::resolve(&ConfigJson {
        path: "config.json".into(),
        value,
    })
}

fn llama(extra: Value) -> Value {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": true, "some_future_key": [1, 2]
    });
    for (key, value) in extra.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

/// The message of the error that `extra` must cause.
fn refused(extra: Value) -> String {
    resolve(llama(extra)).expect_err("must be refused").to_string()
}

#[test]
fn smollm2_has_its_published_number_of_parameters() {
    let a = resolve(llama(json!({}))).unwrap();
    assert_eq!((a.head_dim, a.kv_heads, a.parameters()), (64, 3, 134_515_008));
    assert_eq!(a.block_flops_per_token(), 2 * 3_538_944);
}

#[test]
fn families_differ_where_they_should() {
    let qwen2 = resolve(llama(json!({"model_type": "qwen2"}))).unwrap();
    assert!(qwen2.qkv_bias && !qwen2.o_bias && qwen2.windows.iter().all(Option::is_none));
    let qwen3 = resolve(llama(json!({"model_type": "qwen3", "head_dim": 128}))).unwrap();
    assert_eq!((qwen3.qk_norm, qwen3.head_dim), (QkNorm::PerHead, 128));
    let olmo2 = resolve(llama(json!({"model_type": "olmo2"}))).unwrap();
    assert_eq!((olmo2.norms, olmo2.qk_norm), (NormPlacement::After, QkNorm::AllHeads));
    let mistral = resolve(llama(json!({"model_type": "mistral", "sliding_window": 7}))).unwrap();
    assert_eq!(mistral.windows, vec![Some(7); 30]);
}

#[test]
fn only_upper_blocks_slide_in_qwen2() {
    let sliding =
        json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 9, "max_window_layers": 28});
    let a = resolve(llama(sliding)).unwrap();
    assert_eq!(&a.windows[27..], [None, Some(9), Some(9)]);
}

#[test]
fn both_spellings_of_rope_agree() {
    let scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048});
    let old = resolve(llama(json!({"rope_scaling": scaling}))).unwrap();
    let mut new = scaling;
    new["rope_theta"] = json!(100_000.0);
    let new = resolve(llama(json!({"rope_theta": null, "rope_parameters": new}))).unwrap();
    assert_eq!(old.rope, new.rope);
    let RopeScaling::Yarn { attention_factor, .. } = old.rope.scaling else {
        panic!("yarn")
    };
    assert!((attention_factor - 1.138_629_436_111_989).abs() < 1e-12);
}

#[test]
fn unsupported_values_name_the_key() {
    for (extra, key) in [
        (json!({"model_type": "mamba"}), "model_type"),
        (json!({"hidden_act": "relu"}), "hidden_act"),
        (json!({"pretraining_tp": 2}), "pretraining_tp"),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "rope_scaling.type",
        ),
        (
            json!({"rope_parameters": {"rope_type": "linear", "factor": 0}}),
            "rope_parameters.factor",
        ),
        (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        (json!({"hidden_size": 0}), "hidden_size"),
        (json!({"hidden_size": -3}), "hidden_size"),
        (json!({"hidden_size": 577}), "head_dim"),
        (json!({"num_key_value_heads": 4}), "num_key_value_heads"),
        (json!({"vocab_size": null}), "vocab_size"),
        (json!({"tie_word_embeddings": "yes"}), "tie_word_embeddings"),
        (json!({"layer_types": ["full_attention"]}), "layer_types"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
    ] {
        let message = refused(extra);
        assert!(message.contains(&format!("`{key}`")), "{message}");
    }
}

/// Values that configurations written by hand or by an opponent may hold.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|x| json!(x)),
        "[a-z_]{0,12}".prop_map(Value::from),
        proptest::collection::vec(any::<i32>(), 0..4).prop_map(|list| json!(list)),
        ("linear|llama3|yarn|factors|default", any::<f64>()).prop_map(
            |(kind, factor)| json!({"rope_type": kind, "factor": factor, "low_freq_factor": 1, "factors": [0]})
        ),
    ]
}

proptest! {
    #[test]
    fn no_configuration_panics(
        family in "llama|mistral|qwen2|qwen3|olmo2",
        changes in proptest::collection::vec((0usize..16, odd_value()), 1..4),
    ) {
        const KEYS: [&str; 16] = [
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling",
            "rope_parameters", "sliding_window", "use_sliding_window", "layer_types", "tie_word_embeddings",
        ];
        let mut config = llama(json!({"model_type": family}));
        for (key, value) in changes {
            config[KEYS[key]] = value;
        }
        if let Ok(architecture) = resolve(config) {
            prop_assert!(architecture.parameters() >= architecture.block_parameters());
            prop_assert_eq!(architecture.windows.len(), architecture.blocks);
        }
    }
}
