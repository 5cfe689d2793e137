//! The tokenizer inside of a GGUF file, as the text of a `tokenizer.json` (schema of the `tokenizers` crate).
//!
//! `tokenizer.ggml.model` is `gpt2` (byte-level BPE with a list of merges, its text split first by the rules that
//! `tokenizer.ggml.pre` names) or `llama` (SentencePiece BPE: pairs merge in the order of the score of what they make).
//! Splitting follows llama.cpp, except that a contraction matches in any case as in the models' own `tokenizer.json` and
//! that Qwen's text is first brought to NFC, as there.

use super::{header::FORMAT, metadata::Metadata};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Values of `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// SentencePiece's stand-in for a space.
const SPACE: &str = "\u{2581}";

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut before merging: each expression cuts out its matches from what the one before left.
struct Split {
    expressions: &'static [&'static str],
    /// A piece that is a token as a whole is not put together from merges.
    ignore_merges: bool,
    nfc: bool,
    /// Whether a sequence begins with the BOS token if `add_bos_token` does not say.
    add_bos: bool,
}

impl Split {
    fn named(pre: &str) -> Option<Self> {
        let plain = |expressions| Self {
            expressions,
            ignore_merges: false,
            nfc: false,
            add_bos: false,
        };
        Some(match pre {
            "smollm" => plain(&[r"\p{N}", GPT2]),
            "gpt-2" | "olmo" => plain(&[GPT2]),
            "dbrx" => plain(&[LLAMA3]),
            "llama-bpe" | "llama3" | "llama-v3" => Self {
                ignore_merges: true,
                add_bos: true,
                ..plain(&[LLAMA3])
            },
            "qwen2" | "deepseek-r1-qwen" => Self {
                nfc: true,
                ..plain(&[QWEN2])
            },
            "default" => plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"]),
            _ => return None,
        })
    }
}

/// The vocabulary: token `i` is `tokens[i]`.
struct Vocabulary<'m, 'a> {
    metadata: &'m Metadata<'a>,
    tokens: Vec<&'a str>,
    types: Vec<i64>,
    ids: HashMap<&'a str, usize>,
}

/// The JSON text, or `None` if the file has no tokenizer. `rows` is the number of embeddings.
pub(super) fn tokenizer_json(metadata: &Metadata<'_>, rows: usize) -> Result<Option<String>> {
    const KEY: &str = "tokenizer.ggml.model";
    let tokenizer = match metadata.text(KEY)? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("gpt2") => Vocabulary::read(metadata, rows)?.byte_level()?,
        Some("llama") => Vocabulary::read(metadata, rows)?.sentence_piece()?,
        Some(other) => return Err(metadata.unsupported(KEY, "gpt2 or llama", format!("{other:?}"), "")),
    };
    Ok(Some(tokenizer.to_string()))
}

impl<'m, 'a> Vocabulary<'m, 'a> {
    fn read(metadata: &'m Metadata<'a>, rows: usize) -> Result<Self> {
        let tokens = metadata.required(
            "tokenizer.ggml.tokens",
            "an array",
            metadata.texts("tokenizer.ggml.tokens")?,
        )?;
        let types = metadata
            .ints("tokenizer.ggml.token_type")?
            .unwrap_or_else(|| vec![NORMAL; tokens.len()]);
        let malformed = |problem: String| Error::malformed(metadata.path, FORMAT, problem);
        if types.len() != tokens.len() {
            return Err(malformed(format!("{} tokens have {} types", tokens.len(), types.len())));
        }
        if tokens.len() > rows {
            return Err(malformed(format!(
                "{} tokens share {rows} rows of `token_embd.weight`",
                tokens.len()
            )));
        }
        let mut ids = HashMap::new();
        for (id, token) in tokens.iter().enumerate() {
            if let Some(other) = ids.insert(*token, id) {
                return Err(malformed(format!("token {token:?} occurs twice, at {other} and {id}")));
            }
        }
        Ok(Self {
            metadata,
            tokens,
            types,
            ids,
        })
    }

    fn byte_level(&self) -> Result<Value> {
        const PRE: &str = "tokenizer.ggml.pre";
        const EXPECTED: &str = "smollm, gpt-2, olmo, dbrx, llama-bpe, qwen2 or default";
        let pre = self.metadata.required(PRE, EXPECTED, self.metadata.text(PRE)?)?;
        let split = Split::named(pre).ok_or_else(|| {
            let help = "its rules for splitting text are not known here";
            self.metadata.unsupported(PRE, EXPECTED, format!("{pre:?}"), help)
        })?;
        let byte_level =
            json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        let mut steps: Vec<Value> = split
            .expressions
            .iter()
            .map(|e| json!({ "type": "Split", "pattern": { "Regex": e }, "behavior": "Isolated", "invert": false }))
            .collect();
        steps.push(byte_level.clone());
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": split.ignore_merges,
            "vocab": self.vocab(), "merges": self.listed_merges()?,
        });
        let normalizer = if split.nfc {
            json!({ "type": "NFC" })
        } else {
            Value::Null
        };
        let pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": steps });
        Ok(self.tokenizer(
            normalizer,
            pre_tokenizer,
            self.template(split.add_bos)?,
            byte_level,
            model,
        ))
    }

    fn sentence_piece(&self) -> Result<Value> {
        let prefix = self.metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let mut normalizers = vec![json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE })];
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let unknown = self
            .types
            .iter()
            .position(|kind| *kind == UNKNOWN)
            .map(|id| self.tokens[id]);
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": self.vocab(), "merges": self.scored_merges()?,
        });
        let normalizer = json!({ "type": "Sequence", "normalizers": normalizers });
        let decoder = json!({ "type": "Sequence", "decoders": decoders });
        Ok(self.tokenizer(normalizer, Value::Null, self.template(true)?, decoder, model))
    }

    /// Puts the parts together. Control tokens become special, user-defined ones plain added tokens.
    fn tokenizer(&self, normalizer: Value, pre: Value, post: Value, decoder: Value, model: Value) -> Value {
        let added: Vec<Value> = (self.tokens.iter().zip(&self.types).enumerate())
            .filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED))
            .map(|(id, (token, kind))| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind != USER_DEFINED,
                })
            })
            .collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model,
        })
    }

    fn vocab(&self) -> Map<String, Value> {
        self.tokens
            .iter()
            .enumerate()
            .map(|(id, token)| ((*token).to_owned(), json!(id)))
            .collect()
    }

    /// The merges that a byte-level vocabulary lists, each "left right", in order of priority.
    fn listed_merges(&self) -> Result<Vec<[&'a str; 2]>> {
        const KEY: &str = "tokenizer.ggml.merges";
        let merges = self.metadata.required(KEY, "an array", self.metadata.texts(KEY)?)?;
        let known = |text: &str| self.ids.contains_key(text);
        let pair = |(rank, merge): (usize, &'a str)| {
            // The left side is not empty: a space in the first place is part of it.
            let separator = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let pair = separator.map(|at| [&merge[..at], &merge[at + 1..]]);
            pair.filter(|[left, right]| known(left) && known(right) && known(&format!("{left}{right}")))
                .ok_or_else(|| {
                    let problem = format!("merge {rank}, {merge:?}, is not of two tokens that make a third");
                    Error::malformed(self.metadata.path, FORMAT, problem)
                })
        };
        merges.into_iter().enumerate().map(pair).collect()
    }

    /// The merges that a SentencePiece vocabulary implies: every cut of a token into two others, best score first.
    ///
    /// SentencePiece merges the leftmost of the pairs with the best score, whichever cut it is; a list ranks every cut.
    /// The two agree if no two tokens share a score, which is therefore demanded.
    fn scored_merges(&self) -> Result<Vec<[&'a str; 2]>> {
        const KEY: &str = "tokenizer.ggml.scores";
        /// SentencePiece's own limit is 16 characters by default; the number of cuts grows with the square.
        const LONGEST: usize = 1024;
        let malformed = |problem: String| Error::malformed(self.metadata.path, FORMAT, problem);
        let scores = self.metadata.required(KEY, "an array", self.metadata.floats(KEY)?)?;
        if scores.len() != self.tokens.len() {
            return Err(malformed(format!(
                "{} tokens have {} scores",
                self.tokens.len(),
                scores.len()
            )));
        }
        let mut cuts = Vec::new();
        for (id, token) in self
            .tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| self.types[*id] == NORMAL)
        {
            if token.len() > LONGEST {
                return Err(malformed(format!(
                    "token {id} has {} bytes, expected at most {LONGEST}",
                    token.len()
                )));
            }
            let known = |at: &usize| self.ids.contains_key(&token[..*at]) && self.ids.contains_key(&token[*at..]);
            let places = token.char_indices().skip(1).map(|(at, _)| at).filter(known);
            cuts.extend(places.map(|at| (scores[id], id, at)));
        }
        cuts.sort_by(|(a, a_id, a_at), (b, b_id, b_at)| b.total_cmp(a).then(a_id.cmp(b_id)).then(b_at.cmp(a_at)));
        if let Some(tie) = cuts
            .windows(2)
            .find(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1)
        {
            let (a, b) = (self.tokens[tie[0].1], self.tokens[tie[1].1]);
            let got = format!("the same for {a:?} and {b:?}");
            let help = "the order of merges is not defined by the file; use the model's tokenizer.json instead";
            return Err(self
                .metadata
                .unsupported(KEY, "a different score for every token", got, help));
        }
        Ok(cuts
            .into_iter()
            .map(|(_, id, at)| self.tokens[id].split_at(at).into())
            .collect())
    }

    /// The post-processor that puts BOS and EOS tokens around a sequence; null if there is nothing to put.
    fn template(&self, add_bos: bool) -> Result<Value> {
        let wanted = |key: &str, default: bool| Ok::<_, Error>(self.metadata.bool(key)?.unwrap_or(default));
        let bos = wanted("tokenizer.ggml.add_bos_token", add_bos)?;
        let eos = wanted("tokenizer.ggml.add_eos_token", false)?;
        let bos = if bos {
            Some(self.special("tokenizer.ggml.bos_token_id")?)
        } else {
            None
        };
        let eos = if eos {
            Some(self.special("tokenizer.ggml.eos_token_id")?)
        } else {
            None
        };
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let piece = |token: Option<usize>, type_id: u8| {
            token.map(|id| json!({ "SpecialToken": { "id": self.tokens[id], "type_id": type_id } }))
        };
        let text = |name: &str, type_id: u8| {
            let text = json!({ "Sequence": { "id": name, "type_id": type_id } });
            [piece(bos, type_id), Some(text), piece(eos, type_id)]
                .into_iter()
                .flatten()
        };
        let special: Map<String, Value> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|id| {
                (
                    self.tokens[id].to_owned(),
                    json!({ "id": self.tokens[id], "ids": [id], "tokens": [self.tokens[id]] }),
                )
            })
            .collect();
        Ok(json!({
            "type": "TemplateProcessing", "single": text("A", 0).collect::<Vec<_>>(),
            "pair": text("A", 0).chain(text("B", 1)).collect::<Vec<_>>(), "special_tokens": special,
        }))
    }

    /// The token whose id is the value of `key`.
    fn special(&self, key: &str) -> Result<usize> {
        let expected = "the id of a token, since it is added to every sequence";
        let id = self.metadata.required(key, expected, self.metadata.uint(key)?)?;
        let known = usize::try_from(id).ok().filter(|id| *id < self.tokens.len());
        known.ok_or_else(|| self.metadata.unsupported(key, expected, id, ""))
    }
}
