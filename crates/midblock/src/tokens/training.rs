//! Data to train on: for each sequence its ids, and which of them the model is to learn to predict.

use std::{fmt, mem, path::PathBuf, str::FromStr, sync::Arc};

use rayon::prelude::*;

use super::{
    ChatTemplate, Conversation, Format, Skipped, Tokenizer,
    data::{DataFile, DataSpec, read_rows},
    format::recognise,
    mask::Encoder,
    sample::Selection,
};
use crate::{Error, Result};

/// Which tokens are in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// What the assistant says, the token that ends its turn included; of a raw text, all.
    #[default]
    Answers,
    /// Every token but the first.
    All,
}

impl fmt::Display for LossOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answers => "answers",
            Self::All => "all",
        })
    }
}

impl FromStr for LossOn {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self> {
        match value {
            "answers" => Ok(Self::Answers),
            "all" => Ok(Self::All),
            _ => Err(Error::Argument {
                what: "--loss-on".into(),
                value: value.into(),
                problem: "no such choice".into(),
                help: "give `answers` or `all`".into(),
            }),
        }
    }
}

/// What happens to a text of more tokens than a sequence may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Long {
    /// The rest is left out.
    #[default]
    Cut,
    /// It goes on in further sequences, each beginning with the last token of the one before.
    Split,
}

/// How rows become sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingFormatOptions {
    /// The shape of the rows; `None` recognises it.
    pub format: Option<Format>,
    /// Which tokens are in the loss.
    pub loss_on: LossOn,
    /// Tokens after which a sequence is cut.
    pub max_length: usize,
    /// What becomes of the rest of a text.
    pub long: Long,
    /// How many rows to draw; `None` takes all.
    pub samples: Option<usize>,
    /// Seed of that draw.
    pub seed: u64,
}

/// One sequence to train on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingSample {
    /// `file:row`; `file:row/n` for part n of a text that is split, or answer n of a conversation that its template splits.
    pub id: String,
    /// Token ids, (T); at least 2.
    pub ids: Vec<u32>,
    /// Whether the model is to predict token `t` from those before it, (T); never token 0, always some token.
    pub trained: Vec<bool>,
}

impl TrainingSample {
    /// Tokens in the loss.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().filter(|trained| **trained).count()
    }
}

/// The sequences of a data set and what became of its other rows.
#[derive(Clone, Debug)]
pub struct TrainingSet {
    /// The name given with the data set.
    pub name: String,
    /// The shape of its rows.
    pub format: Format,
    /// File, folder or hub id, as typed.
    pub path: String,
    /// The files read.
    pub files: Vec<PathBuf>,
    /// Rows read.
    pub total_rows: usize,
    /// The sequences, in file order.
    pub samples: Vec<TrainingSample>,
    /// Rows that cannot be trained on.
    pub skipped: Vec<Skipped>,
    /// Sequences cut at the maximal length.
    pub truncated: usize,
}

/// A row that is to be tokenised.
struct Pending {
    file: Arc<str>,
    row: usize,
    conversation: Conversation,
}

impl TrainingSet {
    /// Reads the `files` of a data set ([`resolve`](super::data::resolve)). The first row decides the format if none is
    /// given; `template` is used for the formats that are conversations. Rows are streamed: what is kept is tokenised in
    /// parallel, a few thousand at a time.
    ///
    /// # Errors
    /// If a file cannot be read, the format is not clear, the tokenizer or the lack of a template stands in the way, or no
    /// row is left to train on.
    pub fn load(
        spec: &DataSpec,
        files: &[DataFile],
        options: &TrainingFormatOptions,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> Result<Self> {
        const TOGETHER: usize = 4096;
        let encoder = Encoder {
            tokenizer,
            template,
            loss_on: options.loss_on,
            max_length: options.max_length,
            long: options.long,
        };
        let mut format = options.format;
        let mut set = Self::empty(spec, files);
        let mut selection = options.samples.map(|n| Selection::new(n, options.seed));
        let mut pending = Vec::new();
        for DataFile { label, path } in files {
            read_rows(path, &mut |row, fields| {
                set.total_rows += 1;
                let format = match format {
                    Some(format) => format,
                    None => *format.insert(recognise(&spec.name, &fields)?),
                };
                let file = label.clone();
                match format.conversation(&fields, template.is_some()) {
                    Err(reason) => set.skipped.push(Skipped { file, row, reason }),
                    Ok(conversation) => {
                        let row = Pending {
                            file,
                            row,
                            conversation,
                        };
                        match &mut selection {
                            Some(selection) => selection.offer(row),
                            None => pending.push(row),
                        }
                    }
                }
                if pending.len() == TOGETHER {
                    set.add(&encoder, mem::take(&mut pending))?;
                }
                Ok(())
            })?;
        }
        pending.extend(selection.into_iter().flat_map(Selection::finish));
        set.add(&encoder, pending)?;
        set.format = format.unwrap_or(set.format);
        set.check(spec)?;
        Ok(set)
    }

    fn empty(spec: &DataSpec, files: &[DataFile]) -> Self {
        Self {
            name: spec.name.clone(),
            format: Format::Text,
            path: spec.source.clone(),
            files: files.iter().map(|file| file.path.clone()).collect(),
            total_rows: 0,
            samples: Vec::new(),
            skipped: Vec::new(),
            truncated: 0,
        }
    }

    /// Tokenises rows and keeps them in their order.
    fn add(&mut self, encoder: &Encoder<'_>, rows: Vec<Pending>) -> Result<()> {
        let encoded: Vec<_> = rows.par_iter().map(|row| encoder.encode(&row.conversation)).collect();
        for (Pending { file, row, .. }, encoded) in rows.into_iter().zip(encoded) {
            let sequences = match encoded? {
                Ok(sequences) => sequences,
                Err(reason) => {
                    self.skipped.push(Skipped { file, row, reason });
                    continue;
                }
            };
            let several = sequences.len() > 1;
            for (i, sequence) in sequences.into_iter().enumerate() {
                self.truncated += usize::from(sequence.truncated);
                self.samples.push(TrainingSample {
                    id: if several {
                        format!("{file}:{row}/{}", i + 1)
                    } else {
                        format!("{file}:{row}")
                    },
                    ids: sequence.ids,
                    trained: sequence.trained,
                });
            }
        }
        Ok(())
    }

    fn check(&self, spec: &DataSpec) -> Result<()> {
        if !self.samples.is_empty() {
            return Ok(());
        }
        let problem = match self.skipped.first() {
            Some(first) => format!(
                "none of its {} rows can be trained on; {} skipped, first {first}",
                self.total_rows,
                self.skipped.len()
            ),
            None if self.total_rows == 0 => "it has no rows".into(),
            None => "0 samples were asked for".into(),
        };
        Err(Error::Argument {
            what: "--data".into(),
            value: format!("{}={}", spec.name, spec.source),
            problem,
            help: format!("--format chooses what is prompt and what is answer: {}", Format::list()),
        })
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.ids.len()).sum()
    }

    /// Tokens in the loss.
    pub fn trained_tokens(&self) -> usize {
        self.samples.iter().map(TrainingSample::trained_tokens).sum()
    }

    /// Number of tokens of each sequence, for a [`BatchPlan`](super::BatchPlan).
    pub fn lengths(&self) -> Vec<usize> {
        self.samples.iter().map(|sample| sample.ids.len()).collect()
    }

    /// Hash of ids and masks, in order.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for sample in &self.samples {
            hasher.update(&(sample.ids.len() as u64).to_le_bytes());
            for (id, trained) in sample.ids.iter().zip(&sample.trained) {
                hasher.update(&id.to_le_bytes());
                hasher.update(&[u8::from(*trained)]);
            }
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tokenizer::tests::small_chat, *};
    use crate::{
        hub::HubOptions,
        tokens::{data::resolve, template::tests::from_fixture},
    };

    fn options() -> TrainingFormatOptions {
        TrainingFormatOptions {
            format: None,
            loss_on: LossOn::Answers,
            max_length: 1000,
            long: Long::Cut,
            samples: None,
            seed: 7,
        }
    }

    fn load(content: &str, options: &TrainingFormatOptions, template: Option<&str>) -> Result<TrainingSet> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, content).unwrap();
        let spec = DataSpec {
            name: "x".into(),
            source: path.display().to_string(),
        };
        let files = resolve(&spec.source, &HubOptions::from_env(), &|_| {}).unwrap();
        let template = template.map(from_fixture);
        TrainingSet::load(&spec, &files, options, &small_chat(), template.as_ref())
    }

    fn text(sample: &TrainingSample) -> String {
        small_chat().decode(&sample.ids).unwrap()
    }

    fn ids(set: &TrainingSet) -> Vec<&str> {
        set.samples.iter().map(|sample| sample.id.as_str()).collect()
    }

    const GSM8K: &str = "{\"question\": \"1+1?\", \"answer\": \"2\"}\n";

    #[test]
    fn rows_become_sequences_and_the_others_are_named() {
        let rows = format!("{GSM8K}{{\"question\": \"\", \"answer\": \"2\"}}\n{GSM8K}");
        let set = load(&rows, &options(), Some("inst.jinja")).unwrap();
        assert_eq!((set.name.as_str(), set.format, set.total_rows), ("x", Format::Gsm8k, 3));
        assert_eq!(ids(&set), ["a.jsonl:1", "a.jsonl:3"]);
        assert_eq!(text(&set.samples[0]), "<s>[INST] 1+1? [/INST] 2</s>");
        let trained: Vec<usize> = (0..set.samples[0].ids.len())
            .filter(|&t| set.samples[0].trained[t])
            .collect();
        let length = set.samples[0].ids.len();
        assert_eq!(trained, [length - 3, length - 2, length - 1]); // space, 2, </s>
        assert_eq!((set.tokens(), set.trained_tokens(), set.truncated), (2 * length, 6, 0));
        assert_eq!(set.lengths(), [length, length]);
        let skipped: Vec<_> = set.skipped.iter().map(ToString::to_string).collect();
        assert_eq!(skipped, ["a.jsonl:2: field `question` is empty"]);
        let plain = load(&rows, &options(), None).unwrap();
        assert_eq!(text(&plain.samples[0]), "<s>Question: 1+1?\nAnswer: 2</s>");
    }

    #[test]
    fn cut_sequences_are_counted_and_named() {
        let long = format!("{{\"question\": \"{}\", \"answer\": \"2\"}}\n", "x".repeat(50));
        let cut = TrainingFormatOptions {
            max_length: 22,
            ..options()
        };
        let set = load(&(GSM8K.to_owned() + &long), &cut, Some("inst.jinja")).unwrap();
        assert_eq!((set.truncated, set.samples[0].ids.len()), (1, 22));
        let skipped: Vec<_> = set.skipped.iter().map(ToString::to_string).collect();
        assert_eq!(skipped, ["a.jsonl:2: no token of its answer is among the first 22"]);
        let error = load(&long.repeat(2), &cut, Some("inst.jinja")).unwrap_err().to_string();
        assert!(
            error.contains("none of its 2 rows can be trained on; 2 skipped, first a.jsonl:1: no token of its answer"),
            "{error}"
        );
        assert!(load("", &cut, None).unwrap_err().to_string().contains("it has no rows"));
    }

    #[test]
    fn rows_keep_their_order_and_a_draw_is_that_of_analyses() {
        let row = |i: usize| format!("{{\"question\": \"{i}\", \"answer\": \"{i}\"}}\n");
        let rows: String = (1..=5000).map(row).collect();
        let all = load(&rows, &options(), None).unwrap();
        let expected: Vec<String> = (1..=5000).map(|i| format!("a.jsonl:{i}")).collect();
        assert_eq!(ids(&all), expected);
        let rows: String = (1..=20).map(row).collect();
        let five = TrainingFormatOptions {
            samples: Some(5),
            seed: 42,
            ..options()
        };
        let drawn = load(&rows, &five, None).unwrap();
        assert_eq!(ids(&drawn), [3, 10, 16, 17, 19].map(|i| format!("a.jsonl:{i}")));
    }

    #[test]
    fn a_conversation_in_several_sequences_numbers_them() {
        let turns = "[{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}, \
                     {\"role\": \"user\", \"content\": \"c\"}, {\"role\": \"assistant\", \"content\": \"d\"}]";
        let set = load(
            &format!("{{\"messages\": {turns}}}"),
            &options(),
            Some("thinking.jinja"),
        )
        .unwrap();
        assert_eq!(ids(&set), ["a.jsonl:1/1", "a.jsonl:1/2"]);
    }

    #[test]
    fn the_hash_is_of_ids_and_masks_in_order() {
        let set = |samples: &[(&[u32], &[bool])]| {
            let mut set = load(GSM8K, &options(), None).unwrap();
            set.samples = (samples.iter())
                .map(|(ids, trained)| TrainingSample {
                    id: "x".into(),
                    ids: ids.to_vec(),
                    trained: trained.to_vec(),
                })
                .collect();
            set.hash()
        };
        let hashes = [
            set(&[(&[1, 2], &[false, true]), (&[3, 4], &[false, true])]),
            set(&[(&[3, 4], &[false, true]), (&[1, 2], &[false, true])]),
            set(&[(&[1, 2, 3, 4], &[false, true, false, true])]),
            set(&[(&[1, 2], &[false, true]), (&[3, 4], &[true, true])]),
        ];
        assert_eq!(set(&[(&[1, 2], &[false, true]), (&[3, 4], &[false, true])]), hashes[0]);
        assert!((1..4).all(|i| !hashes[..i].contains(&hashes[i])));
    }

    #[test]
    fn loss_on_round_trips() {
        for loss_on in [LossOn::Answers, LossOn::All] {
            assert_eq!(loss_on.to_string().parse::<LossOn>().unwrap(), loss_on);
            assert_eq!(serde_json::to_value(loss_on).unwrap(), loss_on.to_string());
        }
        let error = "answer".parse::<LossOn>().unwrap_err().to_string();
        assert!(error.contains("`answers` or `all`"), "{error}");
    }
}
