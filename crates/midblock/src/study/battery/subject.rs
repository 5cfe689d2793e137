//! What is studied, opened: base and variants, their tokenizer, and the sequences they are measured on.

use super::{Cells, StudyFile};
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, FileHash},
    hub::{HubOptions, OnTransfer},
    model::Architecture,
    probe::Participant,
    progress::Progress,
    study::{
        BASE,
        analyze::common_tokenizer,
        samples::{Draw, training_samples},
        sweep::{Examiner, Means},
    },
    tokens::{Tokenizer, TrainingSample},
};
use midblock_kernels::Backend;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Base and variants with what is measured of them.
pub struct Subject<'a, B: Backend> {
    /// Computes.
    pub backend: &'a B,
    /// What was asked for.
    pub file: &'a StudyFile,
    /// The base first, then the variants in the order given.
    pub models: &'a [Participant<'a>],
    /// The tokenizer of all of them.
    pub tokenizer: &'a Tokenizer,
    /// The measured sequences: rows of `data.eval`, or else of `data.train`, in the form in which they would be trained on.
    pub samples: &'a [TrainingSample],
    /// What the user should know before trusting the numbers.
    pub warnings: &'a [String],
    /// Judges by tasks, if there are any.
    pub examiner: Option<&'a dyn Examiner>,
    /// Hub settings.
    pub hub: &'a HubOptions,
    /// Is told of downloads.
    pub on_transfer: OnTransfer<'a>,
    /// Is told of what is done, and asked whether to stop.
    pub progress: &'a dyn Progress,
    /// The time that chat templates see: the start of the study.
    pub now: SystemTime,
}

impl<B: Backend> Subject<'_, B> {
    /// The first `n` measured sequences; all if there are fewer.
    pub fn measured(&self, n: usize) -> &[TrainingSample] {
        &self.samples[..n.min(self.samples.len())]
    }

    /// The measured sequences of a data set.
    pub(in crate::study) fn of_set<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s TrainingSample> {
        self.samples
            .iter()
            .filter(move |sample| sample.id.split('/').next() == Some(name))
    }

    /// L.
    pub fn blocks(&self) -> usize {
        self.models[0].architecture.blocks
    }

    /// Names of the models, the base first.
    pub fn names(&self) -> Vec<String> {
        self.models.iter().map(|model| model.name.clone()).collect()
    }

    /// # Errors
    /// [`Error::Interrupted`] if the work is to stop.
    pub fn stop_if_asked(&self) -> Result<()> {
        if self.progress.cancelled() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }
}

/// Opens what a file names and hands it to `then`. What it is, is a cell: a study goes on only with the models and samples it has
/// begun with.
///
/// # Errors
/// Whatever is wrong with models or data; [`Error::Mismatch`] if the study has begun with others; those of `then`.
pub fn open<B: Backend, T>(
    means: &Means<'_, B>,
    file: &StudyFile,
    cells: &Cells,
    then: impl FnOnce(&Subject<'_, B>) -> Result<T>,
) -> Result<T> {
    let &Means {
        backend,
        examiner,
        hub,
        on_transfer,
        progress,
    } = means;
    let base = (BASE.to_owned(), file.config.model.base.clone());
    let variants = file
        .variants()?
        .into_iter()
        .map(|variant| (variant.name, variant.checkpoint));
    let checkpoints: Vec<(String, Checkpoint)> = std::iter::once(base)
        .chain(variants)
        .map(|(name, spec)| Ok((name, Checkpoint::open(&spec, hub, on_transfer)?)))
        .collect::<Result<_>>()?;
    let models: Vec<Participant<'_>> = checkpoints
        .iter()
        .map(|(name, checkpoint)| {
            let architecture = Architecture::resolve(checkpoint.config())?;
            Ok(Participant {
                name: name.clone(),
                checkpoint,
                architecture,
            })
        })
        .collect::<Result<_>>()?;
    let mut warnings = Vec::new();
    let tokenizer = common_tokenizer(&models, &mut warnings)?;
    let started = cells.cell("started", &(), || {
        Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |s| s.as_secs()))
    })?;
    let now = UNIX_EPOCH + Duration::from_secs(started);
    let config = &file.config;
    let draw = Draw {
        sources: file.measured(),
        samples: Some(config.study.samples),
        seed: config.study.seed,
    };
    let samples = training_samples(&checkpoints[0].1, &config.data, &draw, hub, on_transfer, now)?;
    let asked = config.study.samples * file.measured().len();
    if samples.len() < asked {
        warnings.push(format!(
            "{} samples are measured where {asked} were asked for",
            samples.len()
        ));
    }
    cells.cell("inputs", &identity(&models, &samples)?, || Ok(()))?;
    then(&Subject {
        backend,
        file,
        models: &models,
        tokenizer: &tokenizer,
        samples: &samples,
        warnings: &warnings,
        examiner,
        hub,
        on_transfer,
        progress,
        now,
    })
}

/// Hashes of the models' files and of the measured sequences.
fn identity(models: &[Participant<'_>], samples: &[TrainingSample]) -> Result<serde_json::Value> {
    let of = |model: &Participant<'_>| {
        let files: Vec<FileHash> = model.checkpoint.fingerprint()?;
        let hashes: Vec<String> = files.into_iter().map(|file| file.blake3).collect();
        Ok((model.name.clone(), serde_json::Value::from(hashes.join(" "))))
    };
    let mut hash = blake3::Hasher::new();
    for TrainingSample { id, ids, trained } in samples {
        hash.update(id.as_bytes()).update(&(ids.len() as u64).to_le_bytes());
        for (id, trained) in ids.iter().zip(trained) {
            hash.update(&id.to_le_bytes()).update(&[u8::from(*trained)]);
        }
    }
    let models: serde_json::Map<String, serde_json::Value> = models.iter().map(of).collect::<Result<_>>()?;
    Ok(serde_json::json!({"content of the model": models, "content of the samples": hash.finalize().to_hex().as_str()}))
}
