//! A small study for tests: the embedded model, a variant of it with other weights, and a few problems.

use super::{Cells, StudyFile, Subject, open};
use crate::{
    Result,
    checkpoint::{Checkpoint, WriteOptions},
    hub::HubOptions,
    progress::{Progress, Silent},
    rng,
    study::sweep::Means,
};
use midblock_kernels::Cpu;
use rand::RngExt;
use std::{fs, path::Path};
use tempfile::TempDir;

/// Where a study's models, data and cells are.
pub(crate) struct Fixture {
    dir: TempDir,
    text: String,
}

pub(crate) fn hub() -> HubOptions {
    HubOptions {
        offline: true,
        ..HubOptions::from_env()
    }
}

impl Fixture {
    /// 12 problems to train on, 6 to measure on, and as variant `sft` the base with every weight of the blocks and the final norm
    /// moved by up to 10 %, more in higher blocks.
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../midblock-cli/assets/quickstart");
        let rows = fs::read_to_string(assets.join("data.jsonl")).unwrap();
        let rows: Vec<&str> = rows.lines().collect();
        fs::write(dir.path().join("train.jsonl"), rows[..12].join("\n")).unwrap();
        fs::write(dir.path().join("test.jsonl"), rows[12..18].join("\n")).unwrap();
        let base = assets.join("base").display().to_string();
        let checkpoint = Checkpoint::open(&base, &hub(), &|_| {}).unwrap();
        let variant = dir.path().join("variant");
        let mut number = 0;
        let moved = |tensor: &crate::checkpoint::Tensor| {
            let mut values = tensor.to_f32();
            number += 1;
            if !tensor.name.contains("embed") {
                let mut random = rng::stream(1, "a variant for tests", &[number]);
                let most = 0.1 * (number as f32 / 60.0).min(1.0);
                values
                    .iter_mut()
                    .for_each(|value| *value *= 1.0 + random.random_range(-most..most));
            }
            Ok(values)
        };
        checkpoint
            .write(&variant, &WriteOptions::default(), &Silent, moved)
            .unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let text = format!(
            "[model]\nbase = \"{base}\"\n[data]\ntrain = \"p={}\"\neval = \"q={}\"\n[adapt]\nrank = 2\n\
             [train]\nsteps = 3\nbatch = 2\naccumulation = 1\nlr = 2e-3\n[output]\ntensorboard = false\n\
             [study]\nvariants = [\"sft={}\"]\nsamples = 6\nresamples = 40\n",
            path("train.jsonl"),
            path("test.jsonl"),
            variant.display(),
        );
        Self { dir, text }
    }

    /// The folder of the study.
    pub fn out(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    /// The study's file with overrides such as `study.samples=3`.
    pub fn file(&self, sets: &[&str]) -> StudyFile {
        let overrides: Vec<_> = sets.iter().map(|set| set.parse().unwrap()).collect();
        StudyFile::parse("study.toml", &self.text, &overrides).unwrap()
    }

    /// Opens the study and hands it over, with the cells of its folder.
    pub fn with<T>(&self, sets: &[&str], then: impl FnOnce(&Subject<'_, Cpu>, &Cells) -> Result<T>) -> Result<T> {
        self.with_progress(sets, &Silent, then)
    }

    /// The same, telling `progress`, which may ask to stop.
    pub fn with_progress<T>(
        &self,
        sets: &[&str],
        progress: &dyn Progress,
        then: impl FnOnce(&Subject<'_, Cpu>, &Cells) -> Result<T>,
    ) -> Result<T> {
        let means = Means {
            backend: &Cpu::new(),
            examiner: None,
            hub: &hub(),
            on_transfer: &|_| {},
            progress,
        };
        let cells = Cells::of(&self.out());
        open(&means, &self.file(sets), &cells, |subject| then(subject, &cells))
    }
}

#[test]
fn a_study_goes_on_only_with_what_it_has_begun_with() {
    let fixture = Fixture::new();
    let names = fixture.with(&[], |subject, _| {
        assert_eq!((subject.samples.len(), subject.measured(4).len()), (6, 4));
        assert!(subject.samples.iter().all(|sample| sample.trained_tokens() > 0));
        Ok(subject.names())
    });
    assert_eq!(names.unwrap(), ["base", "sft"]);
    let other = fixture.with(&["study.samples=5"], |_, _| Ok(()));
    let message = other.unwrap_err().to_string();
    assert!(message.contains("content of the samples"), "{message}");
}

#[test]
fn an_analysis_is_made_once() {
    let fixture = Fixture::new();
    let run = fixture
        .with(&[], |subject, cells| super::analysis(subject, cells, 42))
        .unwrap();
    assert!(run.records.iter().any(|record| record.metric == "weight_change"));
    let start = std::time::SystemTime::now();
    let again = fixture
        .with(&[], |subject, cells| super::analysis(subject, cells, 42))
        .unwrap();
    assert_eq!(run, again);
    let written = fs::metadata(fixture.out().join("cells/analysis-42/DONE"))
        .unwrap()
        .modified()
        .unwrap();
    assert!(written < start);
    let short = ["study.metrics_length=9"];
    let stale = fixture.with(&short, |subject, cells| super::analysis(subject, cells, 42));
    let message = stale.unwrap_err().to_string();
    assert!(message.contains("`max_length`") && message.contains("128"), "{message}");
    let other = fixture
        .with(&[], |subject, cells| super::analysis(subject, cells, 43))
        .unwrap();
    assert!(other.records.iter().all(|record| record.metric != "weight_change"));
}
