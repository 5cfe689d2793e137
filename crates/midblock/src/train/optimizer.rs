//! The trained parameters of a model, and AdamW on them.

use super::{
    Gradients,
    step::{StepInfo, StepOptions},
};
use crate::{
    Result,
    adapt::{self, Move, Plan},
    checkpoint::{Checkpoint, LowRank},
    model::{Decoder, Kind, Parameter, ParameterId},
};
use midblock_kernels::{AdamW, Backend};

/// AdamW's state of one parameter.
pub(super) struct Moments<B: Backend> {
    pub shape: Vec<usize>,
    pub first: B::Buffer,
    pub second: B::Buffer,
}

/// Every parameter that is trained, with its shape; an adapter's pairs instead of the matrices they change.
pub fn trained(plan: &Plan) -> Vec<(ParameterId, Vec<usize>)> {
    let mut trained = Vec::new();
    for entry in &plan.entries {
        match (entry.how, entry.id) {
            (Move::Lora { rank, .. }, ParameterId::Block { block, part, .. }) => {
                let id = |kind| ParameterId::Block { block, part, kind };
                trained.push((id(Kind::LoraA), vec![rank, entry.shape[1]]));
                trained.push((id(Kind::LoraB), vec![entry.shape[0], rank]));
            }
            _ => trained.push((entry.id, entry.shape.clone())),
        }
    }
    trained
}

/// Makes what the entry names trainable.
pub(super) fn prepare<B: Backend>(
    backend: &B,
    decoder: &mut Decoder<B>,
    checkpoint: &Checkpoint,
    entry: &adapt::Entry,
    seed: u64,
) -> Result<()> {
    match (entry.how, entry.id) {
        (
            Move::Lora {
                rank, scale, dropout, ..
            },
            ParameterId::Block { block, part, .. },
        ) => {
            let &[out, inp] = entry.shape.as_slice() else {
                panic!("invariant: an adapted weight is a matrix, got {:?}", entry.shape)
            };
            let pair = LowRank {
                rank,
                scale,
                a: adapt::initial_a(seed, block, part, rank, inp),
                b: vec![0.0; out * rank],
            };
            decoder.adapt(backend, block, part, &pair, dropout);
        }
        _ => {
            decoder.train(backend, checkpoint, entry.id)?;
            checkpoint.tensors().release(&entry.id.name(decoder.architecture()));
        }
    }
    Ok(())
}

/// Lets AdamW use a parameter's gradient and returns its Σ g²; 0 if there is none.
pub(super) fn update<B: Backend>(
    backend: &B,
    decoder: &mut Decoder<B>,
    gradients: &mut Gradients<B>,
    id: ParameterId,
    moments: &mut Moments<B>,
    adamw: &AdamW,
) -> f64 {
    let Some(gradient) = gradients.take(id) else { return 0.0 };
    let decay = if moments.shape.len() > 1 { adamw.decay } else { 0.0 };
    let values = values_mut(backend, decoder, id).expect("invariant: what is trained is there and can change");
    let square = backend.sum_of_squares(gradient);
    let step = AdamW { decay, ..*adamw };
    backend.adamw(&step, gradient, values, &mut moments.first, &mut moments.second);
    square
}

/// The values of a parameter that is trained; `None` if there is no such.
pub(super) fn values_mut<'d, B: Backend>(
    backend: &B,
    decoder: &'d mut Decoder<B>,
    id: ParameterId,
) -> Option<&'d mut B::Buffer> {
    match decoder.parameter_mut(id)? {
        Parameter::Matrix(matrix) => backend.values_mut(matrix),
        Parameter::Vector(vector) => Some(vector),
    }
}

/// AdamW's step at this place of the run.
pub(super) fn adamw(options: &StepOptions, info: &StepInfo, gradient_scale: f64) -> AdamW {
    AdamW {
        lr: info.lr,
        betas: options.betas,
        eps: options.eps,
        decay: options.weight_decay,
        t: info.step,
        gradient_scale,
    }
}
