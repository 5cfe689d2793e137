use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokenizers::Tokenizer;

const TINY: &[u8] = include_bytes!("../../../../../fixtures/gguf/tiny-llama.gguf");
const TINY_REFERENCE: &[u8] = include_bytes!("../../../../../fixtures/gguf/tiny-llama.safetensors");
const TINY_TOKENS: &str = include_str!("../../../../../fixtures/gguf/tiny-llama.tokens.json");

/// Writes GGUF files, right and wrong ones.
#[derive(Clone, Default)]
struct Builder {
    keys: Vec<(String, Vec<u8>)>,
    /// Name, dimensions innermost first, ggml type, offset.
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes(), value.as_bytes()].concat()
}

impl Builder {
    fn key(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self.keys.retain(|(other, _)| other != key);
        self.keys
            .push((key.to_owned(), [&kind.to_le_bytes()[..], &value].concat()));
        self
    }

    fn uint(self, key: &str, value: u32) -> Self {
        self.key(key, 4, value.to_le_bytes().to_vec())
    }

    fn float(self, key: &str, value: f32) -> Self {
        self.key(key, 6, value.to_le_bytes().to_vec())
    }

    fn bool(self, key: &str, value: bool) -> Self {
        self.key(key, 7, vec![value.into()])
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.key(key, 8, text(value))
    }

    fn array(self, key: &str, kind: u32, elements: Vec<Vec<u8>>) -> Self {
        let head = [&kind.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes()].concat();
        self.key(key, 9, [head, elements.concat()].concat())
    }

    fn texts(self, key: &str, values: &[&str]) -> Self {
        self.array(key, 8, values.iter().map(|value| text(value)).collect())
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.tensors
            .push((name.to_owned(), dims.to_vec(), kind, self.data.len() as u64));
        self.data.extend_from_slice(data);
        self
    }

    fn f32_tensor(self, name: &str, dims: &[u64], values: &[f32]) -> Self {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, dims, 0, &data)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            out.extend(text(key));
            out.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&self.data);
        out
    }

    fn parse(&self) -> Result<Contents> {
        parse(&self.bytes(), Path::new("model.gguf"))
    }

    fn config(&self) -> serde_json::Map<String, Value> {
        self.parse().unwrap().config.value
    }

    fn error(&self) -> String {
        self.parse().unwrap_err().to_string()
    }
}

/// A model of no blocks: D = 8, 2 heads of 4, 70 embeddings.
fn minimal(architecture: &str) -> Builder {
    let key = |name: &str| format!("{architecture}.{name}");
    Builder::default()
        .text("general.architecture", architecture)
        .uint(&key("block_count"), 1)
        .uint(&key("context_length"), 64)
        .uint(&key("embedding_length"), 8)
        .uint(&key("feed_forward_length"), 16)
        .uint(&key("attention.head_count"), 2)
        .float(&key("attention.layer_norm_rms_epsilon"), 1e-6)
        .f32_tensor("token_embd.weight", &[8, 70], &[0.5; 560])
}

fn tokenizer(contents: &Contents) -> Tokenizer {
    match &contents.tokenizer {
        TokenizerSource::Embedded { json, .. } => json.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, true).unwrap().get_ids().to_vec()
}

/// The committed model from disk, through the memory map.
fn tiny() -> GgufCheckpoint {
    open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf/tiny-llama.gguf")).unwrap()
}

#[test]
fn every_weight_equals_the_reference_in_name_shape_and_bits() {
    let reference = safetensors::SafeTensors::deserialize(TINY_REFERENCE).unwrap();
    let mut expected_names = reference.names();
    expected_names.sort_unstable();
    let source = tiny().source;
    assert_eq!(source.names(), expected_names);
    for name in expected_names {
        let (got, expected) = (source.get(name).unwrap().unwrap(), reference.tensor(name).unwrap());
        assert_eq!(source.describe(name), Some((got.dtype, got.shape.as_slice())), "{name}");
        assert_eq!(got.shape, expected.shape(), "{name}");
        for (i, (got, expected)) in got.to_f32().iter().zip(expected.data().as_chunks().0).enumerate() {
            assert_eq!(got.to_bits(), u32::from_le_bytes(*expected), "{name}, element {i}");
        }
    }
    assert!(source.get("lm_head.weight").unwrap().is_none());
}

#[test]
fn weights_stay_where_they_are_unless_rows_must_move() {
    let source = tiny().source;
    let twice = |name: &str| [(); 2].map(|()| source.get(name).unwrap().unwrap().bytes);
    let [a, b] = twice("model.layers.1.mlp.up_proj.weight");
    assert!(a.same_place(&b));
    let [a, b] = twice("model.layers.1.self_attn.k_proj.weight");
    assert!(!a.same_place(&b) && a.as_ref() == b.as_ref());
}

#[test]
fn the_configuration_is_that_of_hugging_face() {
    let contents = parse(TINY, Path::new("tiny.gguf")).unwrap();
    assert_eq!(contents.config.path, PathBuf::from("tiny.gguf"));
    let expected = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "rope_scaling": null, "vocab_size": 286,
        "max_position_embeddings": 128, "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false,
        "sliding_window": null, "bos_token_id": 1, "eos_token_id": 2,
    });
    assert_eq!(Value::Object(contents.config.value), expected);
    assert!(
        contents
            .chat_template
            .unwrap()
            .starts_with("{% for m in messages %}<|im_start|>")
    );
}

#[test]
fn text_becomes_the_ids_of_the_models_own_tokenizer() {
    let tokenizer = tokenizer(&parse(TINY, Path::new("tiny.gguf")).unwrap());
    let cases: Vec<Value> = serde_json::from_str(TINY_TOKENS).unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(ids(&tokenizer, text), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected, false).unwrap(), text);
    }
}

#[test]
fn an_absent_head_is_tied_and_biases_are_found() {
    let config = minimal("qwen2")
        .f32_tensor("output.weight", &[8, 70], &[0.5; 560])
        .f32_tensor("blk.0.attn_q.bias", &[8], &[1.0; 8])
        .config();
    assert_eq!(config["model_type"], "qwen2");
    assert_eq!(config["tie_word_embeddings"], false);
    assert_eq!(config["attention_bias"], true);
    assert_eq!(config["num_key_value_heads"], 2);
    let mistral = minimal("llama").uint("llama.attention.sliding_window", 16).config();
    assert_eq!(
        (&mistral["model_type"], &mistral["sliding_window"]),
        (&json!("mistral"), &json!(16))
    );
}

/// Divisors as llama.cpp's converter computes them, in f32 where it does.
fn llama3_divisors(factor: f32) -> Vec<f32> {
    let divisor = |j: i32| {
        let frequency = 1.0 / 500_000_f32.powf(2.0 * j as f32 / 64.0);
        let wavelength = std::f32::consts::TAU / frequency;
        match wavelength {
            w if w < 2048.0 => 1.0,
            w if w > 8192.0 => factor,
            w => {
                let smooth = (8192.0 / w - 1.0) / 3.0;
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        }
    };
    (0..32).map(divisor).collect()
}

#[test]
fn rope_scaling_is_read_or_recognised() {
    let model = minimal("llama")
        .uint("llama.attention.key_length", 64)
        .float("llama.rope.freq_base", 500_000.0);
    let divisors = llama3_divisors(32.0);
    assert!(divisors.iter().any(|d| *d > 1.0 && *d < 32.0));
    let scaled = model.clone().f32_tensor("rope_freqs.weight", &[32], &divisors);
    let expected = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    assert_eq!(scaled.config()["rope_scaling"], expected);
    let mut other = divisors;
    other[12] *= 1.01;
    let kept = model.clone().f32_tensor("rope_freqs.weight", &[32], &other);
    assert_eq!(
        kept.config()["rope_scaling"],
        json!({ "rope_type": "factors", "factors": other })
    );

    let scaled = |kind| {
        model
            .clone()
            .text("llama.rope.scaling.type", kind)
            .float("llama.rope.scaling.factor", 4.0)
    };
    assert_eq!(
        scaled("linear").config()["rope_scaling"],
        json!({ "rope_type": "linear", "factor": 4.0 })
    );
    let yarn = scaled("yarn")
        .uint("llama.rope.scaling.original_context_length", 4096)
        .float("llama.rope.scaling.yarn_beta_fast", 16.0);
    let expected = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": 16.0,
    });
    assert_eq!(yarn.config()["rope_scaling"], expected);
    assert!(
        scaled("longrope")
            .error()
            .contains("`llama.rope.scaling.type` is \"longrope\"")
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let model = || minimal("llama");
    let tensor = |kind, offset| {
        let mut model = model();
        model
            .tensors
            .push(("blk.0.ffn_up.weight".to_owned(), vec![32, 1], kind, offset));
        model.data.extend([0; 64]);
        model
    };
    for (case, expected) in [
        (
            minimal("gemma2"),
            "`general.architecture` is \"gemma2\", expected llama, qwen2, qwen3 or olmo2",
        ),
        (
            tensor(23, 0),
            "tensor `blk.0.ffn_up.weight` is stored as IQ4_XS (ggml type 23)",
        ),
        (tensor(99, 0), "stored as an unknown type (ggml type 99)"),
        (
            tensor(8, 2244),
            "tensor `blk.0.ffn_up.weight` is at 2244, not a multiple of 32",
        ),
        (
            tensor(8, 2176),
            "tensors `token_embd.weight` and `blk.0.ffn_up.weight` overlap",
        ),
        (
            tensor(8, 2304),
            "tensor `blk.0.ffn_up.weight` takes bytes 2304 to 2338 of the data",
        ),
        (
            tensor(8, u64::MAX),
            "tensor `blk.0.ffn_up.weight` of type q8_0 cannot have the dimensions [32, 1]",
        ),
        (
            model().tensor("blk.0.ffn_up.weight", &[1 << 40, 1 << 40], 0, &[]),
            "cannot have the dimensions",
        ),
        (
            model().tensor("blk.0.ffn_up.weight", &[33], 8, &[0; 34]),
            "of type q8_0 cannot have the dimensions [33]",
        ),
        (
            model().tensor("blk.0.ffn_up.weight", &[0], 0, &[]),
            "cannot have the dimensions [0]",
        ),
        (
            model().tensor("blk.0.ffn_up.weight", &[1; 5], 0, &[0; 4]),
            "has 5 dimensions",
        ),
        (
            model().f32_tensor("blk.0.ssm_a", &[1], &[0.0]),
            "tensor `blk.0.ssm_a` is not part of a model",
        ),
        (
            model().f32_tensor("token_embd.weight", &[1], &[0.0]),
            "`model.embed_tokens.weight`, here `token_embd.weight`, occurs",
        ),
        (
            model().f32_tensor("blk.0.attn_k.weight", &[8, 6], &[0.0; 48]),
            "has 6 rows, expected 2 heads of 4",
        ),
        (
            model().uint("llama.expert_count", 8),
            "`llama.expert_count` is 8, expected 0",
        ),
        (
            model().uint("llama.rope.dimension_count", 2),
            "`llama.rope.dimension_count` is 2, expected 4",
        ),
        (
            model().uint("llama.attention.head_count_kv", 0),
            "`llama.attention.head_count_kv` is 0",
        ),
        (
            model().array("llama.attention.head_count", 4, vec![vec![2, 0, 0, 0]]),
            "is an array of numbers, expected one whole number",
        ),
        (
            model().text("llama.block_count", "one"),
            "`llama.block_count` is \"one\", expected one whole number",
        ),
        (
            model().uint("general.alignment", 3),
            "`general.alignment` is 3, expected a power of two",
        ),
        (
            model().text("tokenizer.ggml.model", "bert"),
            "`tokenizer.ggml.model` is \"bert\", expected gpt2 or llama",
        ),
        (model().key("x", 13, vec![]), "the value of `x` is of kind 13"),
        (
            model().array("x", 9, vec![]),
            "the value of `x` is an array of elements of kind 9",
        ),
    ] {
        let error = case.error();
        assert!(
            error.starts_with("model.gguf: ") && error.contains(expected),
            "expected {expected}\ngot {error}"
        );
    }
}

#[test]
fn a_wrong_start_is_explained() {
    let parse_error = |bytes: &[u8]| parse(bytes, Path::new("model.gguf")).unwrap_err().to_string();
    assert!(parse_error(b"PK\x03\x04rest").contains("does not begin with \"GGUF\""));
    assert!(parse_error(b"GGUF\x01\0\0\0").contains("version 1 is not supported"));
    assert!(parse_error(b"GGUF\0\0\0\x03").contains("big-endian"));
    let counts = [b"GGUF\x03\0\0\0".as_slice(), &[0xff; 16]].concat();
    assert!(parse_error(&counts).contains("a key at byte 24 needs 8 bytes, 0 are left"));
    assert!(parse_error(&TINY[..TINY.len() - 1]).contains("truncated?"));
    let other = minimal("llama").key("y", 8, u64::MAX.to_le_bytes().to_vec());
    assert!(other.error().contains("the value of `y` at byte"));
}

/// A vocabulary of single letters and what merges make of them.
fn byte_level(pre: &str) -> Builder {
    minimal("llama")
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts(
            "tokenizer.ggml.tokens",
            &[
                "<s>", "</s>", "1", "2", "3", "4", "a", "Ġ", "12", "123", "1234", "Ġa", "aĠ", "=",
            ],
        )
        .array(
            "tokenizer.ggml.token_type",
            5,
            [3, 3]
                .into_iter()
                .chain([1; 12])
                .map(|t: i32| t.to_le_bytes().to_vec())
                .collect(),
        )
        .texts("tokenizer.ggml.merges", &["1 2", "12 3", "123 4", "Ġ a", "a Ġ"])
        .uint("tokenizer.ggml.bos_token_id", 0)
        .uint("tokenizer.ggml.eos_token_id", 1)
}

#[test]
fn splitting_follows_the_named_rules() {
    for (pre, expected) in [
        ("smollm", &[6, 11, 7, 2, 3, 4, 5][..]), // digits stand alone
        ("gpt-2", &[6, 11, 7, 10]),              // digits stay together
        ("qwen2", &[6, 11, 7, 2, 3, 4, 5]),
        ("dbrx", &[6, 11, 7, 9, 5]),         // three digits
        ("default", &[6, 11, 7, 9, 5]),      // likewise, by its last rule
        ("llama-bpe", &[0, 6, 11, 7, 9, 5]), // BOS unless the file says otherwise
    ] {
        assert_eq!(
            ids(&tokenizer(&byte_level(pre).parse().unwrap()), "a a 1234"),
            expected,
            "{pre}"
        );
    }
    let error = byte_level("tekken").error();
    assert!(
        error.contains("`tokenizer.ggml.pre` is \"tekken\", expected smollm"),
        "{error}"
    );
}

#[test]
fn bos_and_eos_are_added_as_the_file_says() {
    let both = byte_level("gpt-2")
        .bool("tokenizer.ggml.add_bos_token", true)
        .bool("tokenizer.ggml.add_eos_token", true);
    assert_eq!(ids(&tokenizer(&both.parse().unwrap()), "a<s>a"), [0, 6, 0, 6, 1]);
    let none = byte_level("llama-bpe").bool("tokenizer.ggml.add_bos_token", false);
    assert_eq!(ids(&tokenizer(&none.parse().unwrap()), "a"), [6]);
    assert!(
        both.uint("tokenizer.ggml.eos_token_id", 14)
            .error()
            .contains("`tokenizer.ggml.eos_token_id` is 14")
    );
}

#[test]
fn a_vocabulary_that_contradicts_itself_is_refused() {
    let model = byte_level("gpt-2");
    for (case, expected) in [
        (
            model.clone().texts("tokenizer.ggml.merges", &["1 2", "2 1"]),
            "merge 1, \"2 1\", is not of two tokens",
        ),
        (
            model.clone().texts("tokenizer.ggml.merges", &["12"]),
            "merge 0, \"12\", is not of two tokens",
        ),
        (model.clone().texts("tokenizer.ggml.tokens", &["a", "a"]), "14 types"),
        (
            model.clone().texts("tokenizer.ggml.tokens", &["a"; 14]),
            "token \"a\" occurs twice, at 0 and 1",
        ),
        (
            model.clone().texts("tokenizer.ggml.tokens", &["a"; 71]).array(
                "tokenizer.ggml.token_type",
                5,
                vec![vec![1, 0, 0, 0]; 71],
            ),
            "71 tokens share 70 rows",
        ),
    ] {
        let error = case.error();
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
}

/// SentencePiece's rule, directly: merge the leftmost of the pairs whose union has the best score, until none is a token.
fn sentence_piece_ids(tokens: &[String], scores: &[f32], text: &str) -> Vec<u32> {
    let find = |piece: &str| tokens.iter().position(|token| token == piece);
    let mut pieces: Vec<String> = format!("▁{}", text.replace(' ', "▁"))
        .chars()
        .map(String::from)
        .collect();
    loop {
        let unions = pieces
            .windows(2)
            .enumerate()
            .filter_map(|(i, pair)| Some((i, find(&pair.concat())?)));
        let Some((i, _)) = unions.reduce(|best, next| if scores[next.1] > scores[best.1] { next } else { best }) else {
            return pieces.iter().map(|piece| find(piece).unwrap() as u32).collect();
        };
        let right = pieces.remove(i + 1);
        pieces[i].push_str(&right);
    }
}

fn sentence_piece(tokens: &[String], scores: &[f32]) -> Builder {
    let types = (0..tokens.len())
        .map(|i| (if i == 0 { 2_i32 } else { 1 }).to_le_bytes().to_vec())
        .collect();
    minimal("llama")
        .text("tokenizer.ggml.model", "llama")
        .texts(
            "tokenizer.ggml.tokens",
            &tokens.iter().map(String::as_str).collect::<Vec<_>>(),
        )
        .array("tokenizer.ggml.token_type", 5, types)
        .array(
            "tokenizer.ggml.scores",
            6,
            scores.iter().map(|s| s.to_le_bytes().to_vec()).collect(),
        )
        .bool("tokenizer.ggml.add_bos_token", false)
}

#[test]
fn sentence_piece_falls_back_to_bytes_and_decodes() {
    let tokens = ["<unk>", "<0xC3>", "<0xA9>", "▁", "a", "▁a"].map(String::from);
    let scores = [0.0, 0.0, 0.0, -1.0, -2.0, -3.0];
    let tokenizer = tokenizer(&sentence_piece(&tokens, &scores).parse().unwrap());
    assert_eq!(ids(&tokenizer, "a aé a"), [5, 5, 1, 2, 5]);
    assert_eq!(tokenizer.decode(&[5, 5, 1, 2, 5], false).unwrap(), "a aé a");
    let tied = sentence_piece(
        &["<unk>", "a", "▁", "aa", "▁a"].map(String::from),
        &[0.0, -1.0, -1.0, -2.0, -2.0],
    );
    assert!(
        tied.error()
            .contains("`tokenizer.ggml.scores` is the same for \"aa\" and \"▁a\""),
        "{}",
        tied.error()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn merges_of_sentence_piece_follow_its_rule(
        pieces in prop::collection::btree_set("▁?[ab]{2,4}|▁{2,4}", 1..12).prop_shuffle_scores(),
        text in "[ab ]{1,24}",
    ) {
        let (tokens, scores) = pieces;
        let tokenizer = tokenizer(&sentence_piece(&tokens, &scores).parse().unwrap());
        prop_assert_eq!(ids(&tokenizer, &text), sentence_piece_ids(&tokens, &scores, &text));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), start in 0..TINY.len()) {
        let _ = parse(&bytes, Path::new("x"));
        let _ = parse(&[&TINY[..start.min(3000)], &bytes].concat(), Path::new("x"));
    }

    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((0..9000_usize, prop_oneof![any::<u8>(), Just(0), Just(255)]), 1..6),
        cut in prop_oneof![Just(usize::MAX), 0..TINY.len()],
    ) {
        let mut bytes = TINY[..cut.min(TINY.len())].to_vec();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok(contents) = parse(&bytes, Path::new("x")) {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            std::io::Write::write_all(&mut file, &bytes).unwrap();
            let source = Source { file: MappedFile::open(file.path()).unwrap(), tensors: contents.tensors };
            for name in source.names() {
                let tensor = source.get(name).unwrap().unwrap();
                prop_assert_eq!(tensor.to_f32().len(), tensor.len());
            }
        }
    }
}

/// Adds the letters that every piece is made of, and a different score for each, in random order.
trait ShuffleScores {
    fn prop_shuffle_scores(self) -> BoxedStrategy<(Vec<String>, Vec<f32>)>;
}

impl<S: Strategy<Value = std::collections::BTreeSet<String>> + 'static> ShuffleScores for S {
    fn prop_shuffle_scores(self) -> BoxedStrategy<(Vec<String>, Vec<f32>)> {
        self.prop_flat_map(|pieces| {
            let letters = ["<unk>", "▁", "a", "b"].map(String::from);
            let tokens: Vec<String> = letters.into_iter().chain(pieces).collect();
            let scores: Vec<f32> = (0..tokens.len()).map(|i| -(i as f32)).collect();
            (Just(tokens), Just(scores).prop_shuffle())
        })
        .boxed()
    }
}
