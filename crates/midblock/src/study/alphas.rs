//! Layer-adaptive merging: how much of the variant to take, segment by segment.
//!
//! `θ = (1 − α_s)·base + α_s·variant` with one α for each segment s. Final norm and head follow the last segment's α; the
//! embedding stays the base's, unless it is the head as well. Loss and top-1 accuracy of the answers, teacher-forced, with the
//! differences from base and variant sample by sample. Merges are measured without being written; `midblock merge --alphas`
//! writes one.

use super::{
    Estimate,
    battery::{Cells, StudyRecord, Subject},
    scores::{Change, Quality, Scores},
    segments::of_blocks,
};
use crate::{Error, Result, probe::Route};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

/// `[study.alphas]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlphasOptions {
    /// Merges, each one α for each of as many segments as it has; the paper's by default: 0,1,1,1,0, 0,1,1,1,0.5 and
    /// 0.5,1,1,1,0.5.
    pub settings: Vec<Vec<f64>>,
    /// Merges of one α for all blocks; 0.2, 0.4, 0.6, 0.8 and 1.2 by default. 0 and 1 are base and variant.
    pub uniform: Vec<f64>,
    /// Segments that are merged alone, the others being the base's; 5 by default, and 0 leaves that out.
    pub segments: usize,
    /// What they are merged with; 0.5 and 1 by default.
    pub alone: Vec<f64>,
    /// Measured samples; 16 by default.
    pub samples: usize,
    /// Tokens of each answer that are scored, evenly spread from its first; 32 by default.
    pub tokens: usize,
}

impl Default for AlphasOptions {
    fn default() -> Self {
        Self {
            settings: vec![
                vec![0.0, 1.0, 1.0, 1.0, 0.0],
                vec![0.0, 1.0, 1.0, 1.0, 0.5],
                vec![0.5, 1.0, 1.0, 1.0, 0.5],
            ],
            uniform: vec![0.2, 0.4, 0.6, 0.8, 1.2],
            segments: 5,
            alone: vec![0.5, 1.0],
            samples: 16,
            tokens: 32,
        }
    }
}

/// What merging gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alphas {
    /// Name of the base.
    pub base: String,
    /// Samples read.
    pub samples: usize,
    /// Tokens read of all of them.
    pub tokens: usize,
    /// Each variant with the base.
    pub variants: Vec<MergedVariant>,
}

/// A variant and the base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergedVariant {
    /// The variant's name.
    pub name: String,
    /// The base as it is.
    pub base: Quality,
    /// The variant as it is.
    pub variant: Quality,
    /// The variant minus the base.
    pub change: Change,
    /// What was merged.
    pub merges: Vec<Merge>,
}

/// Why a merge is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeKind {
    /// It was asked for.
    Setting,
    /// One α for all blocks.
    Uniform,
    /// One segment alone.
    Alone,
}

/// A merge of base and variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    /// Why it is there.
    pub kind: MergeKind,
    /// One α for each segment.
    pub alphas: Vec<f64>,
    /// How well it predicts.
    pub quality: Quality,
    /// That minus the base.
    pub from_base: Change,
    /// That minus the variant.
    pub from_variant: Change,
}

/// Measures merges of the base with each variant.
///
/// # Errors
/// [`Error::Argument`] for an α that is no number and for options that merge or read nothing; [`Error::Mismatch`] for models that
/// cannot be blended; those of reading weights and of following routes; [`Error::Interrupted`].
pub fn alphas<B: Backend>(subject: &Subject<'_, B>, options: &AlphasOptions, cells: &Cells) -> Result<Alphas> {
    let plan = plan(options, subject.blocks())?;
    let seed = subject.file.config.study.seed;
    let mut found = Alphas {
        base: subject.models[0].name.clone(),
        samples: 0,
        tokens: 0,
        variants: Vec::new(),
    };
    for (variant, participant) in subject.models.iter().enumerate().skip(1) {
        let name = &participant.name;
        let scores = cells.cell(&format!("alphas-{name}"), options, || {
            let of = |participant: usize| Route::of(&subject.models[participant].name, participant, subject.blocks());
            let merged = |(_, alphas): &(MergeKind, Vec<f64>)| {
                let each = of_blocks(alphas, subject.blocks());
                Route::merged(in_words(alphas), variant, &each, &participant.architecture)
            };
            let routes = [of(0), of(variant)]
                .into_iter()
                .chain(plan.iter().map(merged))
                .collect();
            Scores::read(subject, routes, options.samples, options.tokens)
        })?;
        [found.samples, found.tokens] = scores.extent();
        let merge = |(i, (kind, alphas)): (usize, &(MergeKind, Vec<f64>))| Merge {
            kind: *kind,
            alphas: alphas.clone(),
            quality: scores.quality(i + 2, seed),
            from_base: scores.change(i + 2, 0, seed),
            from_variant: scores.change(i + 2, 1, seed),
        };
        found.variants.push(MergedVariant {
            name: name.clone(),
            base: scores.quality(0, seed),
            variant: scores.quality(1, seed),
            change: scores.change(1, 0, seed),
            merges: plan.iter().enumerate().map(merge).collect(),
        });
    }
    Ok(found)
}

/// Everything to be merged.
fn plan(options: &AlphasOptions, blocks: usize) -> Result<Vec<(MergeKind, Vec<f64>)>> {
    let settings = options
        .settings
        .iter()
        .cloned()
        .map(|alphas| (MergeKind::Setting, alphas));
    let uniform = options.uniform.iter().map(|&alpha| (MergeKind::Uniform, vec![alpha]));
    let alone = options.alone.iter().flat_map(|&alpha| {
        let with = move |segment| {
            let mut alphas = vec![0.0; options.segments];
            alphas[segment] = alpha;
            (MergeKind::Alone, alphas)
        };
        (0..options.segments).map(with)
    });
    let plan: Vec<_> = settings.chain(uniform).chain(alone).collect();
    plan.iter()
        .try_for_each(|(_, alphas)| check_alphas("[study.alphas]", alphas, blocks))?;
    match plan.is_empty() {
        true => Err(Error::Argument {
            what: "`settings`, `uniform` and `alone` of [study.alphas]".into(),
            value: "[]".into(),
            problem: "nothing would be merged".into(),
            help: "0,1,1,1,0.5 is one of the paper's settings".into(),
        }),
        false => Ok(plan),
    }
}

/// Refuses α that are no merge of a model of `blocks` blocks; `what` says where they were given.
pub(super) fn check_alphas(what: &str, alphas: &[f64], blocks: usize) -> Result<()> {
    let problem = if alphas.is_empty() {
        "there is none".to_owned()
    } else if alphas.len() > blocks {
        format!("there are {} for {blocks} blocks", alphas.len())
    } else if alphas.iter().any(|alpha| !alpha.is_finite()) {
        "not all are numbers".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Argument {
        what: format!("an α for each segment in {what}"),
        value: in_words(alphas),
        problem,
        help: "give at most as many as the model has blocks: 0 is the base, 1 the variant".into(),
    })
}

/// "0,1,1,1,0.5"
pub(crate) fn in_words(alphas: &[f64]) -> String {
    alphas.iter().map(f64::to_string).collect::<Vec<_>>().join(",")
}

impl MergedVariant {
    /// The merge of the lowest loss.
    ///
    /// # Panics
    /// If there is none.
    pub fn best(&self) -> &Merge {
        let by_loss = |a: &&Merge, b: &&Merge| a.quality.loss.value.total_cmp(&b.quality.loss.value);
        self.merges
            .iter()
            .min_by(by_loss)
            .expect("invariant: something was merged")
    }
}

impl Alphas {
    /// `loss`, `perplexity` and `top1_accuracy` of base, variants and each merge, and the differences of merges from both. The
    /// model of a merge is the variant, its setting the α.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut records = Vec::new();
        let mut push = |model: &str, reference: &str, setting: &str, metrics: &[(&'static str, Estimate)]| {
            records.extend(metrics.iter().map(|(metric, estimate)| StudyRecord {
                setting: setting.to_owned(),
                ..estimate.record(model, reference, None, metric)
            }));
        };
        for (i, merged) in self.variants.iter().enumerate() {
            let MergedVariant {
                name, base, variant, ..
            } = merged;
            if i == 0 {
                push(&self.base, "", "", &base.metrics());
            }
            push(name, "", "", &variant.metrics());
            push(name, &self.base, "", &merged.change.metrics());
            for merge in &merged.merges {
                let setting = format!("α {}", in_words(&merge.alphas));
                push(name, "", &setting, &merge.quality.metrics());
                push(name, &self.base, &setting, &merge.from_base.metrics());
                push(name, name, &setting, &merge.from_variant.metrics());
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::battery::fixture::Fixture;
    use midblock_kernels::Cpu;

    fn nothing() -> AlphasOptions {
        AlphasOptions {
            settings: Vec::new(),
            uniform: Vec::new(),
            alone: Vec::new(),
            tokens: 9,
            ..AlphasOptions::default()
        }
    }

    #[test]
    fn ends_of_the_scale_are_base_and_variant() {
        let test = |subject: &Subject<'_, Cpu>, cells: &Cells| {
            let options = AlphasOptions {
                settings: vec![vec![1.0, 1.0], vec![0.0, 0.0, 0.0], vec![0.0, 1.0, 0.0]],
                uniform: vec![0.5],
                segments: 3,
                alone: vec![1.0],
                ..nothing()
            };
            let got = alphas(subject, &options, cells)?;
            let sft = &got.variants[0];
            let [ones, zeros, middle, half, first, second, last] = sft.merges.as_slice() else {
                panic!("{:?}", sft.merges)
            };
            assert_eq!((ones.quality, zeros.quality), (sft.variant, sft.base));
            assert_eq!(
                (ones.from_base, zeros.from_variant.loss.value),
                (sft.change, -sft.change.loss.value)
            );
            assert_eq!((half.kind, &half.alphas), (MergeKind::Uniform, &vec![0.5]));
            assert!(half.quality.loss != sft.base.loss && half.quality.loss != sft.variant.loss);
            assert_eq!((middle.quality, middle.from_base), (second.quality, second.from_base));
            assert_eq!(
                (first.kind, &first.alphas, &last.alphas),
                (MergeKind::Alone, &vec![1.0, 0.0, 0.0], &vec![0.0, 0.0, 1.0])
            );
            let lowest = sft
                .merges
                .iter()
                .map(|merge| merge.quality.loss.value)
                .fold(f64::INFINITY, f64::min);
            assert_eq!(sft.best().quality.loss.value, lowest);
            let records = got.records();
            assert_eq!(records.len(), 2 * 3 + 2 + 7 * 7);
            assert!(
                records
                    .iter()
                    .any(|record| record.setting == "α 0,1,0" && record.reference == "sft")
            );
            Ok(())
        };
        Fixture::new().with(&[], test).unwrap();
    }

    #[test]
    fn what_is_no_merge_is_refused() {
        let message = |options: AlphasOptions| {
            let error = Fixture::new().with(&[], |subject, cells| alphas(subject, &options, cells));
            error.unwrap_err().to_string()
        };
        assert!(message(nothing()).contains("nothing would be merged"));
        for (alphas, problem) in [
            (vec![], "there is none"),
            (vec![1.0; 17], "there are 17 for 16 blocks"),
            (vec![1.0, f64::NAN], "not all are numbers"),
        ] {
            let options = AlphasOptions {
                settings: vec![alphas],
                ..nothing()
            };
            let message = message(options);
            assert!(message.contains(problem), "{message}");
        }
    }
}
