//! N samples of a data set, chosen by seed, and their ids.
//!
//! Every usable row draws a random 64-bit key from the stream `(seed, "select")`, and the N rows with the smallest keys are
//! kept, in file order. That is sampling without replacement in one pass and O(N) memory; a larger N with the same seed
//! keeps the samples of the smaller. Fewer usable rows than N: all of them. Fewer than [`MIN_SAMPLES`]: an error.

use std::{
    collections::{BTreeMap, BinaryHeap},
    path::PathBuf,
    sync::Arc,
};

use rand_chacha::rand_core::Rng;

use super::{
    Format, SkipReason, Tokenizer,
    data::{DataFile, DataSpec, read_rows},
    format::recognise,
};
use crate::{Error, Result, rng};

/// Metrics over samples and their intervals mean nothing below this number.
pub const MIN_SAMPLES: usize = 4;

/// A row that is not among the samples, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{row}: {reason}")]
pub struct Skipped {
    /// The file's short name.
    pub file: Arc<str>,
    /// Line or record in the file, from 1: see [`super::data`].
    pub row: usize,
    /// Why.
    pub reason: SkipReason,
}

/// One text of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The file's short name.
    pub file: Arc<str>,
    /// Line or record in the file, from 1: see [`super::data`].
    pub row: usize,
    /// What goes to the tokenizer.
    pub text: String,
}

impl Sample {
    /// `file:row`.
    pub fn id(&self) -> String {
        format!("{}:{}", self.file, self.row)
    }
}

/// The chosen samples of a data set and what became of its other rows.
#[derive(Clone, Debug)]
pub struct SampleSet {
    /// The name given with `--data`.
    pub name: String,
    /// How rows became text.
    pub format: Format,
    /// File, folder or hub id, as typed.
    pub path: String,
    /// The files read.
    pub files: Vec<PathBuf>,
    /// Rows read.
    pub total_rows: usize,
    /// Rows that cannot be samples. `total_rows − skipped` rows were there to choose from.
    pub skipped: Vec<Skipped>,
    /// The chosen samples, in file order.
    pub samples: Vec<Sample>,
}

/// A fair choice of `n` of the samples, in their order; all of them if there are no more.
pub fn select(samples: impl IntoIterator<Item = Sample>, n: usize, seed: u64) -> Vec<Sample> {
    let mut selection = Selection::new(n, seed);
    samples.into_iter().for_each(|sample| selection.offer(sample));
    selection.finish()
}

/// The `n` samples with the smallest keys so far.
pub(crate) struct Selection<T> {
    n: usize,
    offered: usize,
    rng: rand_chacha::ChaCha8Rng,
    /// Keys (with the position, so that they are unique), largest on top.
    keys: BinaryHeap<(u64, usize)>,
    /// By position.
    kept: BTreeMap<usize, T>,
}

impl<T> Selection<T> {
    pub(crate) fn new(n: usize, seed: u64) -> Self {
        let rng = rng::stream(seed, "select", &[]);
        Self {
            n,
            offered: 0,
            rng,
            keys: BinaryHeap::new(),
            kept: BTreeMap::new(),
        }
    }

    pub(crate) fn offer(&mut self, sample: T) {
        let position = self.offered;
        self.offered += 1;
        let key = (self.rng.next_u64(), position);
        let full = self.keys.len() >= self.n;
        if full && self.keys.peek().is_none_or(|largest| *largest < key) {
            return;
        }
        if full && let Some((_, dropped)) = self.keys.pop() {
            self.kept.remove(&dropped);
        }
        self.keys.push(key);
        self.kept.insert(position, sample);
    }

    pub(crate) fn finish(self) -> Vec<T> {
        self.kept.into_values().collect()
    }
}

impl SampleSet {
    /// Reads the `files` of a data set ([`resolve`](super::data::resolve)) and chooses `n` samples. The first row decides
    /// the format if none is given.
    ///
    /// # Errors
    /// If a file cannot be read, the format is not clear, or fewer than [`MIN_SAMPLES`] samples come out.
    pub fn load(spec: &DataSpec, files: &[DataFile], format: Option<Format>, n: usize, seed: u64) -> Result<Self> {
        let mut format = format;
        let mut total_rows = 0;
        let mut skipped = Vec::new();
        let mut selection = Selection::new(n, seed);
        for DataFile { label, path } in files {
            read_rows(path, &mut |row, fields| {
                total_rows += 1;
                let format = match format {
                    Some(format) => format,
                    None => *format.insert(recognise(&spec.name, &fields)?),
                };
                let file = label.clone();
                match format.render(&fields) {
                    Ok(text) => selection.offer(Sample { file, row, text }),
                    Err(reason) => skipped.push(Skipped { file, row, reason }),
                }
                Ok(())
            })?;
        }
        let samples = selection.finish();
        check_enough(spec, samples.len(), n, total_rows, &skipped)?;
        Ok(Self {
            name: spec.name.clone(),
            format: format.expect("invariant: the first row decided the format"),
            path: spec.source.clone(),
            files: files.iter().map(|file| file.path.clone()).collect(),
            total_rows,
            skipped,
            samples,
        })
    }

    /// Rows that could be chosen from.
    pub fn available(&self) -> usize {
        self.total_rows - self.skipped.len()
    }

    /// Hash of the chosen texts, in order.
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for sample in &self.samples {
            hasher.update(&(sample.text.len() as u64).to_le_bytes());
            hasher.update(sample.text.as_bytes());
        }
        hasher.finalize()
    }

    /// Ids of the samples, cut at `max_length` tokens. A sample without tokens is skipped.
    ///
    /// # Errors
    /// If the tokenizer refuses a text, or fewer than [`MIN_SAMPLES`] samples have tokens.
    pub fn tokenize(&self, tokenizer: &Tokenizer, max_length: Option<usize>) -> Result<TokenizedSet> {
        let texts: Vec<&str> = self.samples.iter().map(|sample| sample.text.as_str()).collect();
        let mut set = TokenizedSet {
            name: self.name.clone(),
            sample_ids: Vec::new(),
            ids: Vec::new(),
            truncated: 0,
            skipped: Vec::new(),
        };
        for (sample, encoded) in self.samples.iter().zip(tokenizer.encode_batch(&texts, max_length)?) {
            if encoded.ids.is_empty() {
                set.skipped.push(Skipped {
                    file: sample.file.clone(),
                    row: sample.row,
                    reason: SkipReason::NoTokens,
                });
                continue;
            }
            set.truncated += usize::from(encoded.truncated);
            set.sample_ids.push(sample.id());
            set.ids.push(encoded.ids);
        }
        let spec = DataSpec {
            name: self.name.clone(),
            source: self.path.clone(),
        };
        let rows = self.samples.len();
        check_enough(&spec, set.ids.len(), rows, rows, &set.skipped)?;
        Ok(set)
    }
}

/// The ids that every model gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedSet {
    /// Name of the data set.
    pub name: String,
    /// `file:row` of each sample.
    pub sample_ids: Vec<String>,
    /// Token ids of each sample, (N, T_n); never empty.
    pub ids: Vec<Vec<u32>>,
    /// Samples cut at the maximal length.
    pub truncated: usize,
    /// Samples without tokens.
    pub skipped: Vec<Skipped>,
}

impl TokenizedSet {
    /// Σ T_n.
    pub fn total_tokens(&self) -> usize {
        self.ids.iter().map(Vec::len).sum()
    }
}

/// Whether enough samples are left; `wanted` of `rows` were to be chosen.
fn check_enough(spec: &DataSpec, usable: usize, wanted: usize, rows: usize, skipped: &[Skipped]) -> Result<()> {
    if usable >= MIN_SAMPLES {
        return Ok(());
    }
    let problem = match skipped.first() {
        _ if rows == 0 => "it has no rows".into(),
        _ if usable == wanted => format!("{wanted} samples were asked for, at least {MIN_SAMPLES} are needed"),
        None => format!("it has {rows} rows, at least {MIN_SAMPLES} are needed"),
        Some(first) => {
            let count = skipped.len();
            format!(
                "{usable} of {rows} rows can be used, at least {MIN_SAMPLES} are needed; {count} skipped, first {first}"
            )
        }
    };
    Err(Error::Argument {
        what: "--data".into(),
        value: format!("{}={}", spec.name, spec.source),
        problem,
        help: "intervals and neighbour distances mean nothing for so few; --format chooses how rows become text".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tokenizer::tests::small, *};
    use crate::{hub::HubOptions, tokens::data::resolve};
    use proptest::prelude::*;
    use std::path::Path;

    fn sample(row: usize) -> Sample {
        Sample {
            file: "x.jsonl".into(),
            row,
            text: format!("text {row}"),
        }
    }

    fn spec(name: &str, path: &Path) -> DataSpec {
        DataSpec {
            name: name.into(),
            source: path.display().to_string(),
        }
    }

    fn write(folder: &Path, name: &str, content: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    const GSM8K: &str = "{\"question\": \"1+1?\", \"answer\": \"2\"}\n";

    fn load(spec: &DataSpec, format: Option<Format>, n: usize, seed: u64) -> Result<SampleSet> {
        let files = resolve(&spec.source, &HubOptions::from_env(), &|_| {})?;
        SampleSet::load(spec, &files, format, n, seed)
    }

    #[test]
    fn rows_are_formatted_counted_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let bad = "\n{\"question\": \"\", \"answer\": \"2\"}\n{\"answer\": \"2\"}\n";
        let path = write(folder.path(), "a.jsonl", &(GSM8K.repeat(3) + bad + &GSM8K.repeat(2)));
        let set = load(&spec("math", &path), None, 10, 1).unwrap();
        assert_eq!((set.format, set.total_rows, set.available()), (Format::Gsm8k, 7, 5));
        let skipped: Vec<_> = set.skipped.iter().map(ToString::to_string).collect();
        assert_eq!(
            skipped,
            [
                "a.jsonl:5: field `question` is empty",
                "a.jsonl:6: field `question` is missing"
            ]
        );
        let ids: Vec<_> = set.samples.iter().map(Sample::id).collect();
        assert_eq!(ids, ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "a.jsonl:7", "a.jsonl:8"]);
        assert!(
            set.samples
                .iter()
                .all(|sample| sample.text == "Question: 1+1?\nAnswer: 2")
        );
    }

    #[test]
    fn a_folder_is_one_data_set() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "b.csv", "question,answer\n1+1?,2\n1+1?,2\n");
        write(folder.path(), "a.jsonl", &GSM8K.repeat(2));
        let set = load(&spec("math", folder.path()), None, 10, 1).unwrap();
        let ids: Vec<_> = set.samples.iter().map(Sample::id).collect();
        assert_eq!(ids, ["a.jsonl:1", "a.jsonl:2", "b.csv:1", "b.csv:2"]);
    }

    #[test]
    fn too_few_samples_are_an_error_that_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let problem = |content: &str, format, n| {
            let path = write(folder.path(), "a.jsonl", content);
            load(&spec("math", &path), format, n, 1).unwrap_err().to_string()
        };
        assert!(problem("", None, 9).contains("a.jsonl`: it has no rows"));
        assert!(problem(&GSM8K.repeat(3), None, 9).contains("it has 3 rows, at least 4 are needed"));
        assert!(problem(&GSM8K.repeat(9), None, 3).contains("3 samples were asked for, at least 4 are needed"));
        let none = problem(&GSM8K.repeat(9), Some(Format::Text), 9);
        let expected =
            "0 of 9 rows can be used, at least 4 are needed; 9 skipped, first a.jsonl:1: field `text` is missing";
        assert!(none.contains(expected), "{none}");
        let unknown = problem("{\"a\": 1, \"b\": 2}", None, 9);
        assert!(
            unknown.contains("fields of its first row: a, b") && unknown.contains("--format: mmlu"),
            "{unknown}"
        );
        let cut = problem("{\"question\": \"", None, 9);
        assert!(cut.contains("line 1, column 14"), "{cut}");
    }

    #[test]
    fn tokenising_counts_what_it_cuts() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "a.txt", "hello\nhell\nhellhell\nhe\n");
        let set = load(&spec("words", &path), None, 10, 1).unwrap();
        let tokens = set.tokenize(&small(), Some(3)).unwrap();
        let [hell, he] = [vec![259, 258, 260], vec![259, 256, 260]];
        let expected = TokenizedSet {
            name: "words".into(),
            sample_ids: ["a.txt:1", "a.txt:2", "a.txt:3", "a.txt:4"].map(Into::into).into(),
            ids: vec![hell.clone(), hell.clone(), hell, he],
            truncated: 2,
            skipped: vec![],
        };
        assert_eq!((tokens.total_tokens(), tokens), (12, expected));
    }

    #[test]
    fn samples_without_tokens_are_skipped() {
        let mut json = super::super::tokenizer::tests::small_json();
        json["post_processor"] = serde_json::Value::Null;
        json["normalizer"] = serde_json::json!({"type": "Replace", "pattern": {"String": "x"}, "content": ""});
        let tokenizer = super::super::tokenizer::tests::from_json(&json);
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "a.txt", "he\nxx\nhe\nhe\nhe\n");
        let set = load(&spec("words", &path), None, 10, 1).unwrap();
        let tokens = set.tokenize(&tokenizer, None).unwrap();
        assert_eq!(tokens.ids, vec![vec![256]; 4]);
        assert_eq!(tokens.sample_ids, ["a.txt:1", "a.txt:3", "a.txt:4", "a.txt:5"]);
        assert_eq!(tokens.skipped[0].to_string(), "a.txt:2: no tokens");
        let path = write(folder.path(), "a.txt", "he\nxx\nxx\nhe\nhe\n");
        let set = load(&spec("words", &path), None, 10, 1).unwrap();
        let error = set.tokenize(&tokenizer, None).unwrap_err().to_string();
        assert!(
            error.contains("3 of 5 rows can be used") && error.contains("first a.txt:2: no tokens"),
            "{error}"
        );
    }

    #[test]
    fn the_hash_is_of_the_texts_in_order() {
        let set = |texts: &[&str]| SampleSet {
            name: "x".into(),
            format: Format::Text,
            path: "x".into(),
            files: Vec::new(),
            total_rows: texts.len(),
            skipped: vec![],
            samples: (texts.iter())
                .map(|text| Sample {
                    text: (*text).into(),
                    ..sample(1)
                })
                .collect(),
        };
        let hashes = [set(&["ab", "c"]), set(&["a", "bc"]), set(&["c", "ab"]), set(&["ab"])].map(|set| set.hash());
        assert_eq!(set(&["ab", "c"]).hash(), hashes[0]);
        assert!((1..4).all(|i| !hashes[..i].contains(&hashes[i])));
    }

    #[test]
    fn every_sample_is_equally_likely() {
        let mut counts = [0usize; 10];
        for seed in 0..2000 {
            for sample in select((1..=10).map(sample), 3, seed) {
                counts[sample.row - 1] += 1;
            }
        }
        // 600 expected, standard deviation √(2000 · 0.3 · 0.7) = 20.5
        assert!(counts.iter().all(|&count| count.abs_diff(600) < 100), "{counts:?}");
    }

    /// Reports of a seed must stay comparable between versions.
    #[test]
    fn the_choice_of_seed_42_is_pinned() {
        let rows: Vec<_> = select((1..=20).map(sample), 5, 42)
            .iter()
            .map(|sample| sample.row)
            .collect();
        assert_eq!(rows, [3, 10, 16, 17, 19]);
    }

    proptest! {
        #[test]
        fn a_choice_is_in_order_and_grows_with_n(total in 0usize..60, n in 0usize..70, seed: u64) {
            let rows = |n| select((1..=total).map(sample), n, seed).iter().map(|sample| sample.row).collect::<Vec<_>>();
            let (chosen, more) = (rows(n), rows(n + 1));
            prop_assert_eq!(chosen.len(), n.min(total));
            prop_assert!(chosen.is_sorted_by(|a, b| a < b));
            prop_assert!(chosen.iter().all(|row| more.contains(row)));
        }
    }
}
