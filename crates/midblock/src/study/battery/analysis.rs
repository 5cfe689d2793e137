//! The representation metrics of a study: ordinary analyses of base and variants, kept as run folders.

use super::{Cells, Subject};
use crate::{
    Result,
    metrics::{Needs, Options, Selection, registry},
    probe::Pooling,
    report,
    run::{DONE, Run, RunWriter},
    study::{AnalyzeConfig, Layers, analyze},
};
use midblock_kernels::Backend;

/// The metrics of all layers on texts drawn with `seed`, from `cells/analysis-SEED` if they are there. Metrics of weights, which no
/// draw changes, are in the one of the study's own seed alone.
///
/// # Errors
/// Those of [`analyze`]; of the run folder.
pub fn analysis<B: Backend>(subject: &Subject<'_, B>, cells: &Cells, seed: u64) -> Result<Run> {
    let dir = cells.folder(&format!("analysis-{seed}"));
    if dir.join(DONE).is_file() {
        return Run::open(&dir);
    }
    let (config, study) = (&subject.file.config, &subject.file.config.study);
    let selected = match seed == study.seed {
        true => Selection::parse("all")?,
        false => {
            let of_states = registry().iter().filter(|metric| metric.needs != Needs::Weights);
            Selection::parse(&of_states.map(|metric| metric.name).collect::<Vec<_>>().join(","))?
        }
    };
    let config = AnalyzeConfig {
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
    };
    let run = analyze(
        subject.backend,
        &config,
        subject.hub,
        subject.progress,
        subject.on_transfer,
    )?;
    RunWriter::create(&dir, true)?.finish(&run, &report::html::render(&run))?;
    Run::open(&dir) // what was written, so that a study that goes on has the same digits
}
