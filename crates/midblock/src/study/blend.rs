//! A merge of base and variant with one α for each segment, written as an ordinary Hugging Face folder.
//!
//! `W = (1 − α)·W₀ + α·W₁` in f32, adapters of either model merged; with α = 0 and α = 1 the model's own numbers. Which α a
//! parameter has is what [`Route::merged`] says, so the folder is what a study of α has measured. Tensors have the base's storage
//! formats unless another is asked for.

use super::{
    alphas::check_alphas,
    merge::{merged, random_sequences},
    segments::of_blocks,
};
use crate::{
    Result,
    checkpoint::{Checkpoint, LowRank, Tensor, WriteOptions, Written},
    model::{Architecture, ParameterId, blend_pairs, blend_tensors},
    probe::{Mix, Participant, Route, check_same_architecture, route_predictions},
    progress::Progress,
};
use midblock_kernels::{Backend, Prediction};
use std::path::Path;

/// Base and variant, and how they are to be merged.
pub struct Blend<'a> {
    models: [Participant<'a>; 2],
    route: Route,
}

/// How far the losses of two models are apart, next token by next token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossDifference {
    /// Largest |difference| in nats.
    pub largest: f64,
    /// Mean |difference| in nats.
    pub mean: f64,
    /// Positions at which both find the same token most likely.
    pub same_top: usize,
    /// Positions compared.
    pub positions: usize,
}

impl<'a> Blend<'a> {
    /// One α for each of as many segments.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for α that are no numbers, or none, or more than there are blocks;
    /// [`Error::Mismatch`](crate::Error::Mismatch) for models that cannot be blended.
    pub fn new(base: &'a Checkpoint, variant: &'a Checkpoint, alphas: &[f64]) -> Result<Self> {
        let participant = |name: &str, checkpoint: &'a Checkpoint| -> Result<Participant<'a>> {
            Ok(Participant {
                name: name.to_owned(),
                checkpoint,
                architecture: Architecture::resolve(checkpoint.config())?,
            })
        };
        let models = [participant("the base", base)?, participant("the variant", variant)?];
        check_same_architecture(&models[0], &models[1])?;
        let architecture = &models[0].architecture;
        check_alphas("--alphas", alphas, architecture.blocks)?;
        let each = of_blocks(alphas, architecture.blocks);
        let route = Route::merged("the merge", 1, &each, architecture);
        Ok(Self { models, route })
    }

    /// What each part is taken from.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Whether the embedding is the head as well.
    pub fn tied(&self) -> bool {
        self.models[0].architecture.tied_head
    }

    /// Writes it as the new folder `out`, one matrix at a time.
    ///
    /// # Errors
    /// As [`Checkpoint::write`], and if the variant lacks a tensor.
    pub fn write<B: Backend>(
        &self,
        backend: &B,
        out: &Path,
        options: &WriteOptions,
        progress: &dyn Progress,
    ) -> Result<Written> {
        let [base, variant] = self.models.each_ref().map(|model| model.checkpoint);
        let dense = |tensor: &Tensor, pair: Option<&LowRank>| match pair {
            Some(pair) => merged(backend, tensor, pair),
            None => tensor.to_f32(),
        };
        base.write(out, options, progress, |tensor| {
            let name = &tensor.name;
            let id = ParameterId::parse(name, &self.models[0].architecture);
            let alpha = id.map_or(Mix::BASE, |id| self.route.mix_of(id)).alpha;
            let pairs = [base, variant].map(|model| model.adapter_for(name));
            if alpha == 0.0 {
                return Ok(dense(tensor, pairs[0]));
            }
            let other = variant.tensor_of(name, &tensor.shape, "the base's shape")?;
            let values = match alpha {
                1.0 => dense(&other, pairs[1]),
                _ => dense(
                    &blend_tensors(tensor, &other, alpha),
                    blend_pairs(pairs[0], pairs[1], alpha).as_ref(),
                ),
            };
            variant.tensors().release(name);
            Ok(values)
        })
    }

    /// How far the losses of what was written are from those of base and variant blended on the way, on `sequences` sequences of
    /// 32 token ids each, drawn at random but always the same.
    ///
    /// # Errors
    /// As [`route_predictions`].
    pub fn difference<B: Backend>(
        &self,
        backend: &B,
        written: &Checkpoint,
        sequences: usize,
        progress: &dyn Progress,
    ) -> Result<LossDifference> {
        let ids = random_sequences(&self.models[0].architecture, sequences);
        let follow = |models: &[Participant<'_>], route: Route| -> Result<Vec<Prediction>> {
            let routes = route_predictions(backend, models, vec![route], &ids, &|_, _| true, progress)?;
            Ok(routes.into_iter().flatten().flatten().collect())
        };
        let architecture = Architecture::resolve(written.config())?;
        let whole = Route::of("what was written", 0, architecture.blocks);
        let written = [Participant {
            name: whole.name.clone(),
            checkpoint: written,
            architecture,
        }];
        let (expected, got) = (follow(&self.models, self.route.clone())?, follow(&written, whole)?);
        let apart: Vec<f64> = expected
            .iter()
            .zip(&got)
            .map(|(a, b)| (a.nats - b.nats).abs())
            .collect();
        Ok(LossDifference {
            largest: apart.iter().copied().fold(0.0, f64::max),
            mean: apart.iter().sum::<f64>() / apart.len() as f64,
            same_top: expected.iter().zip(&got).filter(|(a, b)| a.top == b.top).count(),
            positions: apart.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        progress::Silent,
        study::battery::{
            Cells, Subject,
            fixture::{Fixture, hub},
        },
    };
    use midblock_kernels::{Cpu, Dtype};

    #[test]
    fn what_is_written_is_what_the_route_measures() {
        let fixture = Fixture::new();
        let test = |subject: &Subject<'_, Cpu>, _: &Cells| {
            let [base, variant] = [0, 1].map(|model| subject.models[model].checkpoint);
            let exact = WriteOptions {
                dtype: Some(Dtype::F32),
                ..WriteOptions::default()
            };
            // own numbers are written as they are; blended ones lose what the base's format does not hold
            for (alphas, options, bound) in [
                (vec![0.0, 1.0, 0.0], WriteOptions::default(), 0.0),
                (vec![1.0], WriteOptions::default(), 0.0),
                (vec![0.0, 0.5, 1.0, 1.25, 0.25], exact, 1e-5),
            ] {
                let blend = Blend::new(base, variant, &alphas)?;
                let out = fixture.out().join(format!("merged-{}", alphas.len()));
                blend.write(subject.backend, &out, &options, &Silent)?;
                let written = Checkpoint::open(&out.display().to_string(), &hub(), &|_| {})?;
                let difference = blend.difference(subject.backend, &written, 2, &Silent)?;
                assert!(difference.largest <= bound, "{alphas:?}: {difference:?}");
                assert_eq!((difference.positions, difference.same_top), (62, 62));
                // and nothing else
                let other = Blend::new(base, variant, &[0.75])?;
                assert!(other.difference(subject.backend, &written, 2, &Silent)?.largest > 1e-3);
            }
            Ok(())
        };
        fixture.with(&[], test).unwrap();
    }
}
