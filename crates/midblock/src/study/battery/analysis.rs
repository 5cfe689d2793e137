//! The representation metrics of a study: ordinary analyses of base and variants, kept as run folders.

use super::{Cells, Subject, cells::check_options};
use crate::{
    Result,
    metrics::{Needs, Options, Selection, registry},
    probe::Pooling,
    report,
    run::{DONE, Run, RunWriter},
    study::{
        AnalyzeConfig, Layers, analyze,
        describe::{BLOCK_TOKENS, resolved},
    },
};
use midblock_kernels::Backend;
use serde_json::Value;
use std::path::Path;

/// The metrics of all layers on texts drawn with `seed`, from `cells/analysis-SEED` if they are there. Metrics of weights, which no
/// draw changes, are in the one of the study's own seed alone.
///
/// # Errors
/// Those of [`analyze`](fn@analyze); of the run folder.
pub fn analysis<B: Backend>(subject: &Subject<'_, B>, cells: &Cells, seed: u64) -> Result<Run> {
    let study = &subject.file.config.study;
    let selected = match seed == study.seed {
        true => Selection::parse("all")?,
        false => {
            let of_states = registry().iter().filter(|metric| metric.needs != Needs::Weights);
            Selection::parse(&of_states.map(|metric| metric.name).collect::<Vec<_>>().join(","))?
        }
    };
    let config = analysis_config(subject, seed, selected)?;
    analysis_in(subject, &cells.folder(&format!("analysis-{seed}")), &config)
}

/// The analysis of the study's models on its measured texts.
///
/// # Errors
/// Those of naming variants.
pub(in crate::study) fn analysis_config<B: Backend>(
    subject: &Subject<'_, B>,
    seed: u64,
    selected: Selection,
) -> Result<AnalyzeConfig> {
    let (config, study) = (&subject.file.config, &subject.file.config.study);
    Ok(AnalyzeConfig {
        base: config.model.base.clone(),
        variants: subject.file.variants()?,
        data: subject.file.measured().iter().map(|source| source.0.clone()).collect(),
        format: config.data.format,
        samples: study.samples,
        token_samples: study.token_samples,
        max_length: study.metrics_length,
        layers: Layers::All,
        pooling: Pooling::Mean,
        resamples: study.resamples,
        seed,
        metrics: Options {
            seed,
            selected,
            ..Options::default()
        },
    })
}

/// An analysis in a run folder, from it if it is there.
///
/// # Errors
/// As [`analysis`]; [`Error::Mismatch`](crate::Error::Mismatch) if the one that is there was made with other options.
pub(in crate::study) fn analysis_in<B: Backend>(
    subject: &Subject<'_, B>,
    dir: &Path,
    config: &AnalyzeConfig,
) -> Result<Run> {
    if dir.join(DONE).is_file() {
        let run = Run::open(dir)?;
        let options = |mut resolved: Value| {
            resolved.as_object_mut().map(|table| table.remove(BLOCK_TOKENS)); // what it took, not what was asked
            resolved
        };
        check_options(dir, &options(run.info.config.clone()), &options(resolved(config, 0)))?;
        return Ok(run);
    }
    let run = analyze(
        subject.backend,
        config,
        subject.hub,
        subject.progress,
        subject.on_transfer,
    )?;
    RunWriter::create(dir, true)?.finish(&run, &report::html::render(&run))?;
    Run::open(dir) // what was written, so that a study that goes on has the same digits
}
