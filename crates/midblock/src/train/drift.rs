//! How far training has turned what it trains, measured while it runs: every trained matrix against the start model's, and the
//! states of a few sequences against those of the start.
//!
//! Nothing of it enters the run: no chance is drawn and nothing moves, so a run with it gives the numbers of one without.
//! The start model's singular blocks come from the cache; those of the moment are found anew each time (all matrices of
//! SmolLM2-135M: half a minute on two cores), and states take one pass over the sequences, without dropout.

use super::{Experiment, Item, Stepper};
use crate::{
    Result,
    adapt::{Entry, Move},
    drift::{DriftSummary, MatrixDrift, block_drift},
    metrics::{Change, WeightPair, debiased_cka},
    model::{Kind, ParameterId},
    progress::Progress,
    singular::SingularCache,
};
use serde::{Deserialize, Serialize};

/// A finished measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftMetrics {
    /// Steps done.
    pub step: u64,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    /// Every trained matrix, in the order of the model.
    pub matrices: Vec<MatrixDrift>,
    /// Debiased CKA of the mean-pooled states with the start model's, of L + 1 layers from the embedding; none where it is not
    /// defined.
    pub cka: Vec<Option<f64>>,
    /// Wall-clock time.
    pub seconds: f64,
}

impl DriftMetrics {
    /// All matrices together; none if no matrix is trained.
    pub fn summary(&self) -> Option<DriftSummary> {
        DriftSummary::of(self.matrices.iter())
    }

    /// Mean CKA over the blocks in which it is defined.
    pub fn mean_cka(&self) -> Option<f64> {
        let defined: Vec<f64> = self.cka.iter().skip(1).copied().flatten().collect();
        (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64)
    }
}

/// What a measurement finds: matrices, and CKA by layer.
pub type Drifted = (Vec<MatrixDrift>, Vec<Option<f64>>);

/// Measures a run against its start.
pub struct DriftMeter<'a> {
    experiment: &'a Experiment,
    cache: SingularCache,
    items: Vec<Item<'a>>,
    /// Of the start model, (L + 1)·(N, D).
    start: Vec<Vec<f64>>,
    progress: &'a dyn Progress,
}

impl<'a> DriftMeter<'a> {
    /// `stepper` is at its start: nothing was trained or restored yet. Sequences are the first of the evaluation's, or else of the
    /// training's. `progress` is asked whether to stop.
    pub fn new(
        experiment: &'a Experiment,
        stepper: &mut dyn Stepper,
        cache: SingularCache,
        progress: &'a dyn Progress,
    ) -> Self {
        let sequences = match experiment.eval.is_empty() {
            true => &experiment.train,
            false => &experiment.eval,
        };
        let items = (0..).zip(sequences).map(|(key, sample)| Item { key, sample });
        let items: Vec<Item<'a>> = items.take(experiment.config.train.drift.samples).collect();
        Self {
            start: stepper.pooled_states(&items),
            experiment,
            cache,
            items,
            progress,
        }
    }

    /// Measures `stepper` as it is.
    ///
    /// # Errors
    /// Those of reading the base; [`crate::Error::NotConverged`]; [`crate::Error::Interrupted`].
    pub fn measure(&self, stepper: &mut dyn Stepper) -> Result<Drifted> {
        let hidden = self.experiment.architecture.hidden;
        let entries = self.experiment.plan.entries.iter();
        let matrices = entries.filter_map(|entry| match *entry.shape.as_slice() {
            [out, inp] => Some(self.matrix(entry, [out, inp], stepper)),
            _ => None,
        });
        let matrices = matrices.collect::<Result<_>>()?;
        let states = stepper.pooled_states(&self.items);
        let cka = self
            .start
            .iter()
            .zip(&states)
            .map(|(start, now)| debiased_cka(start, now, hidden));
        Ok((matrices, cka.collect()))
    }

    fn matrix(&self, entry: &Entry, shape: [usize; 2], stepper: &mut dyn Stepper) -> Result<MatrixDrift> {
        let Experiment {
            checkpoint,
            architecture,
            config,
            ..
        } = self.experiment;
        let name = entry.id.name(architecture);
        let before = checkpoint.tensor(&name)?.to_f32();
        let mut read = |id: ParameterId| stepper.read(&id.name(architecture));
        let (after, a, b); // what the change borrows
        let change = match (entry.how, entry.id) {
            (Move::Lora { scale, .. }, ParameterId::Block { block, part, .. }) => {
                let of = |kind| ParameterId::Block { block, part, kind };
                (a, b) = (read(of(Kind::LoraA)), read(of(Kind::LoraB)));
                Change::LowRank { b: &b, a: &a, scale }
            }
            (_, id) => {
                after = read(id);
                Change::Dense { after: &after }
            }
        };
        let directions = config.train.drift.directions;
        let block = self.cache.block(&name, &before, shape, directions, self.progress)?;
        let pair = WeightPair {
            name: &name,
            shape,
            before: &before,
            change,
        };
        block_drift(&pair, &block, self.progress)
    }
}
