//! A checkpoint's `tokenizer.json`: text → ids with special tokens, cut on the right, never padded.
//!
//! Equal to Hugging Face's `tokenizer(text, truncation=True, max_length=…)`: the text is cut so that what the
//! post-processor adds (BOS, EOS) still fits and is kept. Truncation and padding stored in the file are dropped, and so is
//! BPE dropout: the same text gives the same ids every time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde_json::Value;
use tokenizers::{Encoding, PostProcessor, TruncationDirection};

use super::special::{self, SpecialToken};
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, TokenizerSource},
};

/// The parts of a `tokenizer.json` that decide ids, in the order in which differences are reported.
const SECTIONS: [&str; 5] = ["normalizer", "pre_tokenizer", "model", "added_tokens", "post_processor"];

/// Ids of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// Whether text was cut off to fit `max_length`.
    pub truncated: bool,
}

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The bytes of the text that it stands for; of a character in several tokens, each has all of it. Empty for what the
    /// post-processor adds.
    pub bytes: Range<usize>,
}

/// A loaded tokenizer.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// The sections that decide ids, as the library writes them, so that versions of the file format do not matter.
    sections: BTreeMap<&'static str, Value>,
    bos: Option<SpecialToken>,
    eos: Option<SpecialToken>,
}

impl Tokenizer {
    /// Loads the tokenizer of a checkpoint, and which of its tokens begin and end a text.
    ///
    /// # Errors
    /// Those of [`load`](Self::load), or if the checkpoint names tokens that the tokenizer does not have.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let mut tokenizer = Self::load(checkpoint.tokenizer())?;
        tokenizer.bos = special::find(checkpoint, &tokenizer, "bos")?;
        tokenizer.eos = special::find(checkpoint, &tokenizer, "eos")?;
        Ok(tokenizer)
    }

    /// Loads a tokenizer alone: [`bos`](Self::bos) and [`eos`](Self::eos) are not known.
    ///
    /// # Errors
    /// If there is none, or it is not a `tokenizer.json` that the `tokenizers` library understands.
    pub fn load(source: &TokenizerSource) -> Result<Self> {
        match source {
            TokenizerSource::File(path) => {
                let json = std::fs::read(path).map_err(Error::io("read", path))?;
                Self::parse(path.clone(), &json)
            }
            TokenizerSource::Embedded { path, json } => Self::parse(path.clone(), json.as_bytes()),
            TokenizerSource::Missing { path } => Err(Error::Argument {
                what: "checkpoint".into(),
                value: path.display().to_string(),
                problem: "there is no tokenizer.json next to the weights".into(),
                help: "put the model's tokenizer.json there; transformers writes one with \
                       `AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(DIR)`"
                    .into(),
            }),
        }
    }

    fn parse(path: PathBuf, json: &[u8]) -> Result<Self> {
        let malformed = |problem: String| Error::malformed(&path, "tokenizer.json", problem);
        let mut value: Value = serde_json::from_slice(json).map_err(|e| malformed(e.to_string()))?;
        let object = value
            .as_object_mut()
            .ok_or_else(|| malformed("not a JSON object".into()))?;
        object.insert("truncation".into(), Value::Null);
        object.insert("padding".into(), Value::Null);
        if let Some(dropout) = object.get_mut("model").and_then(|model| model.get_mut("dropout")) {
            *dropout = Value::Null;
        }
        if let Some(processor) = object.get_mut("post_processor") {
            keep_white_space(processor);
        }
        let inner = tokenizers::Tokenizer::from_bytes(value.to_string()).map_err(|e| malformed(e.to_string()))?;
        let sections = sections(&inner, &value).map_err(|e| malformed(e.to_string()))?;
        Ok(Self {
            path,
            inner,
            sections,
            bos: None,
            eos: None,
        })
    }

    /// Ids of `text`, at most `max_length` of them, special tokens included.
    ///
    /// # Errors
    /// If `max_length` leaves no room for text beside the special tokens, or the tokenizer has no token for a character
    /// and no unknown token either.
    pub fn encode(&self, text: &str, max_length: Option<usize>) -> Result<Vec<u32>> {
        Ok(self.encode_one(text, max_length)?.ids)
    }

    /// [`Tokenizer::encode`] for many texts at once, in their order.
    ///
    /// # Errors
    /// Those of the first text that has one.
    pub fn encode_batch<S: AsRef<str> + Sync>(&self, texts: &[S], max_length: Option<usize>) -> Result<Vec<Encoded>> {
        texts
            .par_iter()
            .map(|text| self.encode_one(text.as_ref(), max_length))
            .collect()
    }

    fn encode_one(&self, text: &str, max_length: Option<usize>) -> Result<Encoded> {
        let failed = |e: tokenizers::Error| self.cannot_encode(&e);
        let mut encoding: Encoding = self.inner.encode_fast(text, false).map_err(failed)?;
        let mut truncated = false;
        if let Some(max_length) = max_length {
            let room = self.room(max_length)?;
            truncated = encoding.len() > room;
            encoding.truncate(room, 0, TruncationDirection::Right);
            encoding.take_overflowing();
        }
        let encoding = self.inner.post_process(encoding, None, true).map_err(failed)?;
        Ok(Encoded {
            ids: encoding.get_ids().to_vec(),
            truncated,
        })
    }

    /// The tokens of `text` and where in it they are, with what the post-processor adds if `special`.
    ///
    /// # Errors
    /// If the tokenizer has no token for a character and no unknown token either.
    pub fn tokens(&self, text: &str, special: bool) -> Result<Vec<Token>> {
        let encoding = self.inner.encode(text, special).map_err(|e| self.cannot_encode(&e))?;
        let mut end = 0;
        let tokens = encoding
            .get_ids()
            .iter()
            .zip(encoding.get_offsets())
            .zip(encoding.get_special_tokens_mask());
        Ok(tokens
            .map(|((&id, &(from, to)), &added)| {
                let bytes = if added == 1 { end..end } else { from..to };
                end = bytes.end;
                Token { id, bytes }
            })
            .collect())
    }

    /// The token that begins a text, if the checkpoint names one.
    pub fn bos(&self) -> Option<&SpecialToken> {
        self.bos.as_ref()
    }

    /// The token that ends a text, if the checkpoint names one.
    pub fn eos(&self) -> Option<&SpecialToken> {
        self.eos.as_ref()
    }

    /// The file that the tokenizer comes from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id of a token.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// How the token `id` is written in the vocabulary.
    pub fn text_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether `id` is a token that marks something, such as the end of a turn, rather than text.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special) || self.eos.as_ref().is_some_and(|eos| eos.id == id)
    }

    fn cannot_encode(&self, error: &tokenizers::Error) -> Error {
        Error::malformed(&self.path, "tokenizer.json", format!("cannot encode: {error}"))
    }

    /// Tokens of text that fit beside the special tokens.
    fn room(&self, max_length: usize) -> Result<usize> {
        let added = self
            .inner
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(false));
        match max_length.checked_sub(added) {
            Some(room) if room > 0 => Ok(room),
            _ => Err(Error::Argument {
                what: "--max-length".into(),
                value: max_length.to_string(),
                problem: format!("the tokenizer adds {added} special tokens, no room is left for text"),
                help: format!("give at least {}", added + 1),
            }),
        }
    }

    /// Text of `ids`, special tokens included.
    ///
    /// # Errors
    /// If the decoder fails. Ids outside of the vocabulary are left out, as Hugging Face does.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, false)
            .map_err(|e| Error::malformed(&self.path, "tokenizer.json", format!("cannot decode: {e}")))
    }

    /// Text of `ids` without special tokens: of what a model wrote, what it said.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn text(&self, ids: &[u32]) -> Result<String> {
        self.inner
            .decode(ids, true)
            .map_err(|e| Error::malformed(&self.path, "tokenizer.json", format!("cannot decode: {e}")))
    }

    /// Number of tokens, added ones included. Ids may have gaps: see [`Tokenizer::max_id`].
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Largest id that can come out of [`Tokenizer::encode`]; a model needs more embedding rows than this.
    pub fn max_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// Hash of all that decides ids: normaliser, pre-tokenizer, vocabulary, merges, added tokens, post-processor. Key order,
    /// white space, file format version, decoder, truncation and padding do not enter.
    pub fn fingerprint(&self) -> blake3::Hash {
        let mut text = String::new();
        for section in self.sections.values() {
            write_canonical(section, &mut text);
            text.push('\n');
        }
        blake3::hash(text.as_bytes())
    }

    /// The first thing that makes `other` give other ids: the lowest token id that differs, else the first section.
    pub fn first_difference(&self, other: &Self) -> Option<Difference> {
        if self.fingerprint() == other.fingerprint() {
            return None;
        }
        let ids = [self, other].map(|tokenizer| tokenizer.inner.get_vocab(true).into_values());
        for id in ids.into_iter().flatten().collect::<BTreeSet<u32>>() {
            let (left, right) = (self.inner.id_to_token(id), other.inner.id_to_token(id));
            if left != right {
                let name = |token: Option<String>| token.map_or("absent".into(), |token| format!("{token:?}"));
                return Some(Difference {
                    what: format!("token {id}"),
                    left: name(left),
                    right: name(right),
                });
            }
        }
        let texts = |name: &str| [self, other].map(|tokenizer| canonical(&tokenizer.sections[name]));
        SECTIONS.iter().find_map(|name| {
            let [left, right] = texts(name);
            let what = format!("the `{name}` section of tokenizer.json");
            (left != right).then(|| Difference {
                what,
                left: excerpt(&left),
                right: excerpt(&right),
            })
        })
    }
}

/// Turns off what makes a post-processor leave white space out of the places it reports; ids do not depend on it.
fn keep_white_space(processor: &mut Value) {
    if let Some(trim) = processor.get_mut("trim_offsets") {
        *trim = Value::Bool(false);
    }
    let parts = processor.get_mut("processors").and_then(Value::as_array_mut);
    parts.into_iter().flatten().for_each(keep_white_space);
}

/// The parts that decide ids, spelled in one way whatever wrote the file: as the library writes them, except for the model,
/// which it would print warnings about (a vocabulary with gaps is common and harmless).
fn sections(inner: &tokenizers::Tokenizer, file: &Value) -> serde_json::Result<BTreeMap<&'static str, Value>> {
    let mut model = file["model"].clone();
    if let Some(model) = model.as_object_mut() {
        // what is off, and the type, are left out of older files
        let is_off = |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || value == "";
        model.retain(|key, value| key != "type" && !is_off(value));
    }
    for merge in model
        .get_mut("merges")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some((left, right)) = merge.as_str().and_then(|merge| merge.split_once(' ')) {
            *merge = Value::from(vec![left, right]); // the older spelling
        }
    }
    let parts = [
        serde_json::to_value(inner.get_normalizer())?,
        serde_json::to_value(inner.get_pre_tokenizer())?,
        model,
        serde_json::to_value(inner.get_added_vocabulary())?,
        serde_json::to_value(inner.get_post_processor())?,
    ];
    Ok(SECTIONS.into_iter().zip(parts).collect())
}

/// What sets two tokenizers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// A token or a section.
    pub what: String,
    /// Its value in the first.
    pub left: String,
    /// Its value in the second.
    pub right: String,
}

/// The beginning of a text that may be long.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 120;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

/// JSON without white space and with sorted keys.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push('{');
            for (key, value) in sorted {
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                write_canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                write_canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// Byte-level BPE over all 256 bytes (ids 0..256) with the merges `he`, `ll`, `hell` (256..259), `<s>` (259) put in front
    /// and `</s>` (260) behind.
    pub(crate) fn small_json() -> Value {
        let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .collect();
        alphabet.sort_unstable();
        let mut vocab: serde_json::Map<String, Value> = alphabet
            .iter()
            .enumerate()
            .map(|(id, c)| (c.to_string(), json!(id)))
            .collect();
        for (id, token) in [(256, "he"), (257, "ll"), (258, "hell")] {
            vocab.insert(token.into(), json!(id));
        }
        let added = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        };
        json!({
            "version": "1.0",
            "truncation": {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
            "added_tokens": [added(259, "<s>"), added(260, "</s>")],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]},
                                   "</s>": {"id": "</s>", "ids": [260], "tokens": ["</s>"]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": 0.5, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "vocab": vocab, "merges": [["h", "e"], ["l", "l"], ["he", "ll"]]}
        })
    }

    pub(crate) fn from_json(json: &Value) -> Tokenizer {
        let source = TokenizerSource::Embedded {
            path: "model.gguf".into(),
            json: json.to_string().into(),
        };
        Tokenizer::load(&source).unwrap()
    }

    pub(crate) fn small() -> Tokenizer {
        from_json(&small_json())
    }

    /// [`small`] with `<|im_end|>` (261) as a further special token, of a checkpoint that names `<s>` and `</s>`.
    pub(crate) fn small_chat() -> Tokenizer {
        chat_from_json(small_json())
    }

    /// [`small_chat`] that adds nothing to texts.
    pub(crate) fn small_chat_without_ends() -> Tokenizer {
        let mut json = small_json();
        json["post_processor"] = Value::Null;
        chat_from_json(json)
    }

    fn chat_from_json(mut json: Value) -> Tokenizer {
        let mut token = json["added_tokens"][1].clone();
        token["id"] = json!(261);
        token["content"] = json!("<|im_end|>");
        json["added_tokens"].as_array_mut().unwrap().push(token);
        let mut tokenizer = from_json(&json);
        let special = |id, text: &str| {
            let text = text.into();
            Some(SpecialToken { id, text })
        };
        tokenizer.bos = special(259, "<s>");
        tokenizer.eos = special(260, "</s>");
        tokenizer
    }

    fn id(tokenizer: &Tokenizer, token: &str) -> u32 {
        tokenizer.inner.token_to_id(token).unwrap()
    }

    #[test]
    fn stored_truncation_padding_and_dropout_are_off() {
        let tokenizer = small();
        let o = id(&tokenizer, "o");
        for _ in 0..20 {
            assert_eq!(tokenizer.encode("hello", None).unwrap(), [259, 258, o, 260]);
        }
        assert_eq!(tokenizer.encode("", None).unwrap(), [259, 260]);
    }

    #[test]
    fn cutting_keeps_the_special_tokens() {
        let tokenizer = small();
        let [h, l, o] = ["h", "l", "o"].map(|t| id(&tokenizer, t));
        let all = tokenizer.encode("hellohlo", None).unwrap();
        assert_eq!(all, [259, 258, o, h, l, o, 260]);
        for max_length in 3..=8 {
            let expected: Vec<u32> = if max_length >= all.len() {
                all.clone()
            } else {
                all[..max_length - 1].iter().copied().chain([260]).collect()
            };
            assert_eq!(
                tokenizer.encode("hellohlo", Some(max_length)).unwrap(),
                expected,
                "max_length {max_length}"
            );
        }
        let batch = tokenizer.encode_batch(&["hellohlo", "hell", "hello"], Some(3)).unwrap();
        let encoded = |truncated| Encoded {
            ids: vec![259, 258, 260],
            truncated,
        };
        assert_eq!(batch, [encoded(true), encoded(false), encoded(true)]);
    }

    #[test]
    fn no_room_for_text_is_an_error() {
        for max_length in 0..3 {
            let error = small().encode("hello", Some(max_length)).unwrap_err().to_string();
            assert!(
                error.contains("adds 2 special tokens") && error.contains("at least 3"),
                "{error}"
            );
        }
    }

    #[test]
    fn decoding_returns_the_text() {
        let tokenizer = small();
        let ids = tokenizer.encode("hello, wörld \u{1f600}", None).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), "<s>hello, wörld \u{1f600}</s>");
        assert_eq!((tokenizer.vocab_size(), tokenizer.max_id()), (261, Some(260)));
    }

    #[test]
    fn tokens_know_their_places_white_space_included() {
        let mut json = small_json();
        json["post_processor"] = json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            json["post_processor"],
        ]});
        let tokenizer = from_json(&json);
        let places = |special| {
            let tokens = tokenizer.tokens("hell he é</s>", special).unwrap();
            tokens
                .into_iter()
                .map(|token| (token.id, token.bytes))
                .collect::<Vec<_>>()
        };
        let [space, e1, e2] = ["Ġ", "Ã", "©"].map(|token| id(&tokenizer, token));
        let plain = [
            (258, 0..4),
            (space, 4..5),
            (256, 5..7),
            (space, 7..8),
            (e1, 8..10),
            (e2, 8..10),
            (260, 10..14),
        ];
        assert_eq!(places(false), plain);
        let special: Vec<_> = [(259, 0..0)].into_iter().chain(plain).chain([(260, 14..14)]).collect();
        assert_eq!(places(true), special);
        assert!(tokenizer.is_special(260) && !tokenizer.is_special(258));
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        let missing = Tokenizer::load(&TokenizerSource::Missing {
            path: "some/model".into(),
        });
        let error = missing.err().unwrap().to_string();
        assert!(
            error.contains("some/model") && error.contains("save_pretrained"),
            "{error}"
        );
        for json in [
            "",
            "[]",
            "{\"model\": 3}",
            "{\"model\": {\"type\": \"BPE\", \"vocab\": 1}}",
            "\u{0}\u{1}",
        ] {
            let source = TokenizerSource::Embedded {
                path: "m.gguf".into(),
                json: json.into(),
            };
            let error = Tokenizer::load(&source).err().unwrap().to_string();
            assert!(error.starts_with("m.gguf: not a valid tokenizer.json file"), "{error}");
        }
        let absent = Tokenizer::load(&TokenizerSource::File("/nonexistent/tokenizer.json".into()));
        assert!(
            absent
                .err()
                .unwrap()
                .to_string()
                .contains("/nonexistent/tokenizer.json")
        );
    }

    #[test]
    fn the_fingerprint_ignores_what_does_not_change_ids() {
        let mut other = small_json();
        for key in ["truncation", "padding", "decoder"] {
            other[key] = Value::Null;
        }
        other["model"]["merges"] = json!(["h e", "l l", "he ll"]); // the older way to write merges
        other["model"].as_object_mut().unwrap().remove("dropout");
        let reversed: serde_json::Map<_, _> = other.as_object().unwrap().clone().into_iter().rev().collect();
        let other = from_json(&Value::Object(reversed));
        assert_eq!(small().fingerprint(), other.fingerprint());
        assert_eq!(small().first_difference(&other), None);
    }

    #[test]
    fn the_first_difference_is_named() {
        let difference = |change: &dyn Fn(&mut Value)| {
            let mut other = small_json();
            change(&mut other);
            let other = from_json(&other);
            assert_ne!(small().fingerprint(), other.fingerprint());
            let Difference { what, left, right } = small().first_difference(&other).unwrap();
            (what, left, right)
        };
        let named = |what: &str, left: &str, right: &str| (what.to_owned(), left.to_owned(), right.to_owned());
        let renamed = difference(&|json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            vocab.remove("ll");
            vocab.insert("lo".into(), json!(257));
            json["model"]["merges"] = json!([["h", "e"], ["l", "o"]]);
        });
        assert_eq!(renamed, named("token 257", "\"ll\"", "\"lo\""));
        let extra = difference(&|json| {
            let mut token = json["added_tokens"][1].clone();
            token["id"] = json!(261);
            token["content"] = json!("<pad>");
            json["added_tokens"].as_array_mut().unwrap().push(token);
        });
        assert_eq!(extra, named("token 261", "absent", "\"<pad>\""));
        let template = difference(&|json| json["post_processor"] = Value::Null);
        assert_eq!(template.0, "the `post_processor` section of tokenizer.json");
        assert_eq!(template.2, "null");
        let merges = difference(&|json| json["model"]["merges"] = json!([["h", "e"], ["l", "l"]]));
        assert_eq!(merges.0, "the `model` section of tokenizer.json");
        assert!(merges.1.len() < 400 && merges.1.ends_with('…'), "{}", merges.1);
    }
}
