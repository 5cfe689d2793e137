//! Drift: how far the variants' weights and states have turned away from the base's.
//!
//! Of every matrix of the blocks, the embedding and the head where they are their own: angles of the k leading singular
//! directions, singular values, and the share of the change inside of the leading block ([`crate::drift`]). Of every layer the
//! debiased CKA of the mean-pooled states with the base's on the measured texts, with its 95 % interval over samples.
//!
//! Weights are no sample: angles and shares have no interval.

use super::{
    BASE, Estimate,
    battery::{Cells, StudyRecord, Subject, analysis_config, analysis_in},
    weights::{Parameter, matrices, with_pair},
};
use crate::{
    Error, Result,
    checkpoint::Tensor,
    drift::{DriftSummary, MatrixDrift, block_drift},
    metrics::{Change, Selection, WeightPair},
    model::{BlockTensors, EndsTensors},
    probe::Participant,
    progress::Unit,
    run::Record,
    singular::SingularBlock,
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};

const CKA: &str = "cka_debiased";

/// `[study.drift]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriftOptions {
    /// k, the leading singular directions that are followed; 32 by default. Matrices with fewer are followed in all.
    pub directions: usize,
}

impl Default for DriftOptions {
    fn default() -> Self {
        Self { directions: 32 }
    }
}

/// How far every variant has turned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// k.
    pub directions: usize,
    /// The variants, in the order given.
    pub variants: Vec<VariantDrift>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VariantDrift {
    /// Its name.
    pub name: String,
    /// Every matrix: the embedding, those of the blocks in their order, the head if it is not the embedding.
    pub matrices: Vec<MatrixDrift>,
    /// Of each data set.
    pub similarity: Vec<Similarity>,
}

/// How alike the states are to the base's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Similarity {
    /// Data set.
    pub dataset: String,
    /// Debiased CKA of L + 1 layers, the embedding first; none where it is not defined.
    pub layers: Vec<Option<Estimate>>,
}

/// Measures weights and states of all variants against the base's.
///
/// # Errors
/// [`Error::Argument`] for no directions; [`Error::Mismatch`] for models of other shapes; those of reading weights and data;
/// [`Error::Interrupted`].
pub fn drift<B: Backend>(subject: &Subject<'_, B>, options: &DriftOptions, cells: &Cells) -> Result<Drift> {
    if options.directions == 0 {
        return Err(Error::Argument {
            what: "`study.drift.directions`".into(),
            value: "0".into(),
            problem: "there would be nothing to follow".into(),
            help: "32 is the default".into(),
        });
    }
    // first, because it refuses models that cannot be compared
    let states = analysis_config(subject, subject.file.config.study.seed, Selection::parse(CKA)?)?;
    let states = analysis_in(subject, &cells.folder("drift-states"), &states)?;
    let weights = all_matrices(subject, options, cells)?;
    let variants = subject.models[1..].iter().zip(weights);
    let variant = |(model, matrices): (&Participant<'_>, _)| VariantDrift {
        name: model.name.clone(),
        matrices,
        similarity: similarity(&states.records, &model.name, subject.blocks()),
    };
    Ok(Drift {
        directions: options.directions,
        variants: variants.map(variant).collect(),
    })
}

/// The matrices of each variant. A block is a cell.
fn all_matrices<B: Backend>(
    subject: &Subject<'_, B>,
    options: &DriftOptions,
    cells: &Cells,
) -> Result<Vec<Vec<MatrixDrift>>> {
    let blocks = subject.blocks();
    let mut all = vec![Vec::new(); subject.models.len() - 1];
    let mut add = |found: Vec<Vec<MatrixDrift>>| all.iter_mut().zip(found).for_each(|(all, more)| all.extend(more));
    let ends: Vec<EndsTensors> = read_each(subject, |p| EndsTensors::read(p.checkpoint, &p.architecture))?;
    let end = |tensor: fn(&EndsTensors) -> Option<&Tensor>| {
        let own = |tensor| Parameter { tensor, delta: None };
        let models = ends.iter().map(|ends| tensor(ends).map(own).into_iter().collect());
        compare(subject, options, models.collect())
    };
    subject
        .progress
        .begin("singular blocks", blocks as u64 + 2, Unit::Items);
    add(cells.cell("drift-embedding", options, || end(|ends| Some(&ends.embedding)))?);
    subject.progress.advance(1);
    for block in 0..blocks {
        add(cells.cell(&format!("drift-block-{block}"), options, || {
            let tensors = read_each(subject, |p| BlockTensors::read(p.checkpoint, &p.architecture, block))?;
            compare(subject, options, tensors.iter().map(matrices).collect())
        })?);
        subject.progress.advance(1);
    }
    if ends.iter().all(|ends| ends.head.is_some()) {
        add(cells.cell("drift-head", options, || end(|ends| ends.head.as_ref()))?);
    }
    subject.progress.advance(1);
    Ok(all)
}

fn read_each<'a, B: Backend, T>(
    subject: &Subject<'a, B>,
    read: impl FnMut(&'a Participant<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    subject.models.iter().map(read).collect()
}

/// The matrices of each variant against those of the base, which come first. A base's block is made once, if any variant needs it.
fn compare<B: Backend>(
    subject: &Subject<'_, B>,
    options: &DriftOptions,
    models: Vec<Vec<Parameter<'_>>>,
) -> Result<Vec<Vec<MatrixDrift>>> {
    let (base, variants) = (&models[0], &models[1..]);
    let k = options.directions;
    let mut found = vec![Vec::new(); variants.len()];
    for (index, before) in base.iter().enumerate() {
        let mut block: Option<SingularBlock> = None;
        let mut measure = |pair: &WeightPair<'_>| {
            let &WeightPair {
                name, shape, before, ..
            } = pair;
            if let Change::None = pair.change {
                return Ok(MatrixDrift::untouched(name, shape, before, k));
            }
            let block = match &mut block {
                Some(block) => block,
                none => none.insert(SingularBlock::of(name, before, shape, k, subject.progress)?),
            };
            block_drift(pair, block, subject.progress)
        };
        for (found, variant) in found.iter_mut().zip(variants) {
            subject.stop_if_asked()?;
            found.push(with_pair(before, &variant[index], &mut measure)?);
        }
    }
    Ok(found)
}

/// What the records say of a variant, data set by data set.
fn similarity(records: &[Record], model: &str, blocks: usize) -> Vec<Similarity> {
    let mut found: Vec<Similarity> = Vec::new();
    for record in records
        .iter()
        .filter(|record| record.model == model && record.metric == CKA)
    {
        let known = found.iter().position(|similarity| similarity.dataset == record.dataset);
        let index = known.unwrap_or_else(|| {
            found.push(Similarity {
                dataset: record.dataset.clone(),
                layers: vec![None; blocks + 1],
            });
            found.len() - 1
        });
        found[index].layers[record.layer] = record.value.map(|value| Estimate {
            value,
            lo: record.lo.unwrap_or(value),
            hi: record.hi.unwrap_or(value),
        });
    }
    found
}

impl Drift {
    /// Every number of every matrix, `setting` being its part of the block; the summary of each block, without setting; CKA, with
    /// the data set as setting.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut records = Vec::new();
        for variant in &self.variants {
            let mut push = |setting: &str, layer: Option<usize>, metric: &str, value: Option<f64>| {
                records.push(StudyRecord {
                    model: variant.name.clone(),
                    reference: BASE.into(),
                    setting: setting.into(),
                    layer,
                    metric: metric.into(),
                    value,
                    lo: None,
                    hi: None,
                });
            };
            for matrix in &variant.matrices {
                for (metric, value) in numbers(matrix) {
                    push(matrix.part(), layer_of(matrix), metric, value);
                }
            }
            let blocks = variant
                .similarity
                .first()
                .map_or(0, |similarity| similarity.layers.len() - 1);
            for (block, summary) in DriftSummary::by_block(&variant.matrices, blocks).iter().enumerate() {
                let Some(summary) = summary else { continue };
                push("", Some(block + 1), "rotation", Some(summary.rotation));
                push("", Some(block + 1), "largest_angle_deg", Some(summary.largest_deg));
                push("", Some(block + 1), "relative_change", summary.relative_change);
                push("", Some(block + 1), "share_inside", summary.share_inside);
                push("", Some(block + 1), "random_share_inside", summary.random_share);
            }
            for similarity in &variant.similarity {
                for (layer, cka) in similarity.layers.iter().enumerate() {
                    records.push(StudyRecord {
                        model: variant.name.clone(),
                        reference: BASE.into(),
                        setting: similarity.dataset.clone(),
                        layer: Some(layer),
                        metric: CKA.into(),
                        value: cka.map(|cka| cka.value),
                        lo: cka.map(|cka| cka.lo),
                        hi: cka.map(|cka| cka.hi),
                    });
                }
            }
        }
        records
    }
}

/// 0 for the embedding, none for the head.
fn layer_of(matrix: &MatrixDrift) -> Option<usize> {
    match matrix.block() {
        Some(block) => Some(block + 1),
        None => (matrix.part() != "lm_head").then_some(0),
    }
}

/// The numbers of a matrix by name.
fn numbers(matrix: &MatrixDrift) -> [(&'static str, Option<f64>); 11] {
    [
        ("relative_change", matrix.relative_change()),
        ("left_rotation", Some(matrix.left.rotation)),
        ("left_largest_angle_deg", Some(matrix.left.largest_deg)),
        ("left_mean_angle_deg", Some(matrix.left.mean_deg)),
        ("right_rotation", Some(matrix.right.rotation)),
        ("right_largest_angle_deg", Some(matrix.right.largest_deg)),
        ("right_mean_angle_deg", Some(matrix.right.mean_deg)),
        ("sigma_change", matrix.sigma_change),
        ("sigma_change_largest", matrix.sigma_change_largest),
        ("share_inside", matrix.share_inside()),
        ("random_share_inside", Some(matrix.random_share())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checkpoint::Checkpoint, study::battery::fixture::Fixture};

    #[test]
    fn a_variant_has_turned_where_its_weights_moved() {
        let fixture = Fixture::new();
        let options = DriftOptions { directions: 4 };
        let (found, blocks) = fixture
            .with(&[], |subject, cells| {
                Ok((drift(subject, &options, cells)?, subject.blocks()))
            })
            .unwrap();
        let [variant] = found.variants.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!((variant.name.as_str(), variant.matrices.len()), ("sft", 1 + 7 * blocks));
        // the fixture moves everything but the embedding, and higher blocks more
        let embedding = &variant.matrices[0];
        assert_eq!(
            (embedding.part(), embedding.change, embedding.rotation()),
            ("model.embed_tokens", 0.0, 0.0)
        );
        assert!(
            variant.matrices[1..]
                .iter()
                .all(|m| m.change > 0.0 && m.rotation() > 0.0 && m.directions == 4)
        );
        let summary = DriftSummary::by_block(&variant.matrices, blocks);
        let first = summary[0].unwrap();
        let last = summary[blocks - 1].unwrap();
        assert!(first.rotation < last.rotation && first.relative_change < last.relative_change);
        // every element is multiplied by a random number of its own: it is inside no more often than by chance
        assert!(last.share_inside.unwrap() < 0.5);
        let [similarity] = variant.similarity.as_slice() else {
            panic!("{variant:?}")
        };
        assert_eq!(similarity.layers.len(), blocks + 1);
        assert!(
            (similarity.layers[0].unwrap().value - 1.0).abs() < 1e-12,
            "the embedding is the base's"
        );
        assert!(similarity.layers[blocks].unwrap().value < 1.0);
        let records = found.records();
        assert_eq!(records.len(), 11 * variant.matrices.len() + 5 * blocks + blocks + 1);
        let record = records
            .iter()
            .find(|r| r.setting == "mlp.up_proj" && r.layer == Some(2) && r.metric == "share_inside");
        let up = variant
            .matrices
            .iter()
            .find(|m| m.name == "model.layers.1.mlp.up_proj.weight");
        assert_eq!(record.unwrap().value, up.unwrap().share_inside());
    }

    /// Against the definition, with the weights read from the checkpoints.
    #[test]
    fn a_matrix_is_measured_against_its_own() {
        let fixture = Fixture::new();
        let options = DriftOptions { directions: 3 };
        let (found, values) = fixture
            .with(&[], |subject, cells| {
                let found = drift(subject, &options, cells)?;
                let name = &found.variants[0].matrices[5].name;
                let read = |checkpoint: &Checkpoint| checkpoint.tensor(name).map(|tensor| tensor.to_f32());
                let values = [read(subject.models[0].checkpoint)?, read(subject.models[1].checkpoint)?];
                Ok((found, values))
            })
            .unwrap();
        let matrix = &found.variants[0].matrices[5];
        let [before, after] = &values;
        let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let change = squares(&mut before.iter().zip(after).map(|(b, a)| f64::from(*a) - f64::from(*b)));
        assert!((matrix.change / change - 1.0).abs() < 1e-9);
        assert!((matrix.norm / squares(&mut before.iter().map(|b| f64::from(*b))) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn no_directions_are_refused() {
        let fixture = Fixture::new();
        let options = DriftOptions { directions: 0 };
        let refused = fixture.with(&[], |subject, cells| drift(subject, &options, cells));
        assert!(refused.unwrap_err().to_string().contains("study.drift.directions"));
    }
}
