//! A tuned model's change in training, as far as masks let it through: `W = B + m ⊙ (T − B)`, m = m_row ⊗ m_col, for the seven matrices of
//! every chosen block.
//!
//! B stays in its storage format; T is a copy in f32 with AdamW's moments, or, where it is not trained, stays as it is stored; W is what the
//! decoder multiplies with. Of a step's dW first the masks' gradients are made (channels that matrices share add up), then θ moves, and then
//! T moves along `dW ⊙ m` with the masks the step was made with while W is formed anew with the new ones: two passes over a block's
//! matrices, as soon as its dW are complete.
//!
//! θ moves by SGD on `σ'(θ) (∂loss/∂m + λ w)`: straight through the threshold, as if m were σ(θ), and with the pressure on Σ σ(θ).

mod origin;
mod state;

pub(super) use origin::check_origin;

use super::{
    CarrierMetrics, Ending, Gradients,
    objective::{Dual, Lcdd},
    optimizer::{Moments, values_mut},
};
use crate::{
    Result,
    adapt::{BlockThetas, MaskGroup, MaskOptions, Plan, column_channels},
    checkpoint::Checkpoint,
    model::{BlockTensors, Decoder, Kind, Parameter, ParameterId, Part},
};
use midblock_kernels::{AdamW, Backend, TunedState};
use std::{collections::BTreeMap, mem};

/// The masked matrices of a model in training.
pub(super) struct Masked<B: Backend> {
    options: MaskOptions,
    pub dual: Dual,
    blocks: BTreeMap<usize, MaskedBlock<B>>,
    /// The channel of the group value at each column of o.
    spread: Vec<usize>,
}

/// One block's.
struct MaskedBlock<B: Backend> {
    /// θ of each group.
    thetas: [B::Buffer; 8],
    /// Momentum of θ; none without.
    velocities: Option<[B::Buffer; 8]>,
    masks: OfGroups<B>,
    /// The masks after the step.
    next: OfGroups<B>,
    /// ∂loss/∂m.
    gradients: OfGroups<B>,
    /// In the order of [`Part::LINEARS`].
    matrices: Vec<MaskedMatrix<B>>,
    /// Open masks of each group.
    active: [u64; 8],
}

/// B and T.
struct MaskedMatrix<B: Backend> {
    base: B::Matrix,
    tuned: B::Matrix,
}

/// A number for each channel of each group, and those of value once more, one for each column of o.
struct OfGroups<B: Backend> {
    groups: [B::Buffer; 8],
    spread: B::Buffer,
}

impl<B: Backend> OfGroups<B> {
    fn zeros(backend: &B, channels: [usize; 8], columns: usize) -> Self {
        Self {
            groups: channels.map(|len| backend.zeros(len)),
            spread: backend.zeros(columns),
        }
    }

    /// Over a matrix's rows and columns.
    fn of(&self, part: Part) -> [&B::Buffer; 2] {
        let [rows, columns] = MaskGroup::of(part).map(|group| &self.groups[group as usize]);
        [rows, if part == Part::O { &self.spread } else { columns }]
    }

    fn of_mut(&mut self, part: Part) -> [&mut B::Buffer; 2] {
        let [rows, columns] = MaskGroup::of(part).map(|group| group as usize);
        if part == Part::O {
            return [&mut self.groups[rows], &mut self.spread];
        }
        let both = self.groups.get_disjoint_mut([rows, columns]);
        both.expect("invariant: rows and columns are other groups")
    }
}

impl<B: Backend> MaskedBlock<B> {
    /// Masks of all groups.
    fn channels(&self, backend: &B) -> usize {
        self.thetas.iter().map(|theta| backend.len(theta)).sum()
    }
}

/// σ(θ) and σ'(θ).
fn sigmoid(theta: f64) -> [f64; 2] {
    let open = 1.0 / (1.0 + (-theta).exp());
    [open, open * (1.0 - open)]
}

fn to_host<B: Backend>(backend: &B, buffer: &B::Buffer) -> Vec<f64> {
    let mut values = vec![0.0; backend.len(buffer)];
    backend.read(buffer, 0, &mut values);
    values
}

fn weight(block: usize, part: Part) -> ParameterId {
    let kind = Kind::Weight;
    ParameterId::Block { block, part, kind }
}

impl<B: Backend> Masked<B> {
    /// Of a decoder of the base, whose matrices in the plan become those that masks let through, and whose norms and biases in these blocks
    /// become the tuned model's.
    pub fn new(
        backend: &B,
        tuned: &Checkpoint,
        decoder: &mut Decoder<B>,
        plan: &Plan,
        (options, lcdd): (MaskOptions, Lcdd),
        seed: u64,
    ) -> Result<Self> {
        let architecture = decoder.architecture().clone();
        BlockTensors::check_all(tuned, &architecture)?;
        let mut masked = Self {
            options,
            dual: Dual::new(lcdd),
            blocks: BTreeMap::new(),
            spread: column_channels(Part::O, &architecture),
        };
        let channels = MaskGroup::ALL.map(|group| group.channels(&architecture));
        let zeros = || channels.map(|len| backend.zeros(len));
        let of_groups = || OfGroups::zeros(backend, channels, column_channels(Part::O, &architecture).len());
        for block in plan.trained_blocks() {
            take_vectors(backend, tuned, decoder, block)?;
            let take = |part| take_matrix(backend, tuned, decoder, weight(block, part), options.weights);
            let own = MaskedBlock {
                thetas: zeros(),
                velocities: (options.momentum > 0.0).then(zeros),
                masks: of_groups(),
                next: of_groups(),
                gradients: of_groups(),
                matrices: Part::LINEARS.into_iter().map(take).collect::<Result<_>>()?,
                active: [0; 8],
            };
            masked.blocks.insert(block, own);
            for (group, channels) in MaskGroup::ALL.into_iter().zip(channels) {
                masked.set_theta(backend, block, group, &options.initial(seed, block, group, channels));
            }
            masked.form(backend, decoder, block);
        }
        Ok(masked)
    }

    /// The masked blocks, ascending.
    pub fn blocks(&self) -> Vec<usize> {
        self.blocks.keys().copied().collect()
    }

    /// Makes ∂loss/∂m of a block from the gradients of its matrices, and returns Σ g² of what moves along the loss: of the tuned matrices, or
    /// of θ where these are not trained.
    pub fn contract(&mut self, backend: &B, gradients: &Gradients<B>, block: usize) -> f64 {
        let Some(own) = self.blocks.get_mut(&block) else {
            return 0.0;
        };
        let OfGroups { groups, spread } = &mut own.gradients;
        groups.iter_mut().chain([spread]).for_each(|sum| backend.clear(sum));
        let mut square = 0.0;
        for (part, matrix) in Part::LINEARS.into_iter().zip(&own.matrices) {
            let Some(gradient) = gradients.get(weight(block, part)) else {
                continue;
            };
            let (masks, sums) = (own.masks.of(part), own.gradients.of_mut(part));
            square += backend.masked_backward(&matrix.base, &matrix.tuned, masks, gradient, sums);
        }
        if self.options.weights {
            return square;
        }
        let own = &self.blocks[&block];
        let squares = MaskGroup::ALL.map(|group| {
            let thetas = to_host(backend, &own.thetas[group as usize]);
            let each = thetas.iter().zip(self.mask_gradient(backend, own, group));
            each.map(|(theta, gradient)| (sigmoid(*theta)[1] * gradient).powi(2))
                .sum::<f64>()
        });
        squares.iter().sum()
    }

    /// Moves θ along what [`contract`](Self::contract) found and the pressure, then the tuned matrices of a block, and forms it anew. Returns
    /// Σ σ(θ) as it was.
    #[allow(clippy::too_many_arguments)]
    pub fn advance(
        &mut self,
        backend: &B,
        decoder: &mut Decoder<B>,
        gradients: &mut Gradients<B>,
        moments: &mut BTreeMap<ParameterId, Moments<B>>,
        block: usize,
        adamw: &AdamW,
        pressure: f64,
    ) -> f64 {
        let Some(mut own) = self.blocks.remove(&block) else {
            return 0.0;
        };
        let (mut open, mut changed) = (0.0, [false; 8]);
        for group in MaskGroup::ALL {
            open += self.move_thetas(backend, &mut own, group, pressure);
            changed[group as usize] = self.gate(backend, &mut own, group);
        }
        for (part, matrix) in Part::LINEARS.into_iter().zip(&mut own.matrices) {
            let id = weight(block, part);
            let masks = [own.masks.of(part), own.next.of(part)];
            let out = values_mut(backend, decoder, id).expect("invariant: a masked matrix can change");
            let gradient = gradients.take(id);
            match (backend.values_mut(&mut matrix.tuned), gradient, moments.get_mut(&id)) {
                (Some(weights), Some(gradient), Some(Moments { first, second, .. })) => {
                    let tuned = TunedState { weights, first, second };
                    backend.adamw_masked(adamw, gradient, &matrix.base, masks, tuned, out);
                }
                _ if MaskGroup::of(part).iter().any(|group| changed[*group as usize]) => {
                    backend.masked(&matrix.base, &matrix.tuned, masks[1], out);
                }
                _ => {}
            }
        }
        mem::swap(&mut own.masks, &mut own.next);
        self.blocks.insert(block, own);
        open
    }

    /// One step of SGD of a group's θ. Returns Σ σ(θ) as it was.
    fn move_thetas(&self, backend: &B, own: &mut MaskedBlock<B>, group: MaskGroup, pressure: f64) -> f64 {
        let MaskOptions { lr, momentum, .. } = self.options;
        let gradient = self.mask_gradient(backend, own, group);
        let thetas = &mut own.thetas[group as usize];
        let mut values = to_host(backend, thetas);
        let mut open = 0.0;
        let mut steps: Vec<f64> = (values.iter().zip(gradient))
            .map(|(theta, gradient)| {
                let [sigma, slope] = sigmoid(*theta);
                open += sigma;
                slope * (gradient + pressure)
            })
            .collect();
        if let Some(velocities) = &mut own.velocities {
            let velocity = &mut velocities[group as usize];
            for (step, before) in steps.iter_mut().zip(to_host(backend, velocity)) {
                *step += momentum * before;
            }
            backend.write(velocity, 0, &steps);
        }
        for (theta, step) in values.iter_mut().zip(steps) {
            *theta -= lr * step;
        }
        backend.write(thetas, 0, &values);
        open
    }

    /// ∂loss/∂m of a group's channels, those of o's columns added to those of v's rows.
    fn mask_gradient(&self, backend: &B, own: &MaskedBlock<B>, group: MaskGroup) -> Vec<f64> {
        let mut gradient = to_host(backend, &own.gradients.groups[group as usize]);
        if group == MaskGroup::Value {
            for (channel, of_column) in self.spread.iter().zip(to_host(backend, &own.gradients.spread)) {
                gradient[*channel] += of_column;
            }
        }
        gradient
    }

    /// Sets the next masks of a group to 1[θ > 0]. Says whether any differs from before.
    fn gate(&self, backend: &B, own: &mut MaskedBlock<B>, group: MaskGroup) -> bool {
        let thetas = to_host(backend, &own.thetas[group as usize]);
        let masks: Vec<f64> = thetas.iter().map(|theta| f64::from(u8::from(*theta > 0.0))).collect();
        backend.write(&mut own.next.groups[group as usize], 0, &masks);
        if group == MaskGroup::Value {
            let spread: Vec<f64> = self.spread.iter().map(|channel| masks[*channel]).collect();
            backend.write(&mut own.next.spread, 0, &spread);
        }
        own.active[group as usize] = masks.iter().filter(|mask| **mask > 0.0).count() as u64;
        masks != to_host(backend, &own.masks.groups[group as usize])
    }

    /// Sets θ of a group and its masks; the matrices are to be [formed](Self::form) then.
    fn set_theta(&mut self, backend: &B, block: usize, group: MaskGroup, values: &[f32]) {
        let Some(mut own) = self.blocks.remove(&block) else {
            return;
        };
        backend.write(&mut own.thetas[group as usize], 0, values);
        self.gate(backend, &mut own, group);
        backend.copy(&own.next.groups[group as usize], &mut own.masks.groups[group as usize]);
        if group == MaskGroup::Value {
            backend.copy(&own.next.spread, &mut own.masks.spread);
        }
        self.blocks.insert(block, own);
    }

    /// Forms the matrices of a block.
    fn form(&self, backend: &B, decoder: &mut Decoder<B>, block: usize) {
        let own = &self.blocks[&block];
        for (part, matrix) in Part::LINEARS.into_iter().zip(&own.matrices) {
            let out = values_mut(backend, decoder, weight(block, part)).expect("invariant: a masked matrix can change");
            backend.masked(&matrix.base, &matrix.tuned, own.masks.of(part), out);
        }
    }

    /// Ends a step with this mean loss.
    pub fn end_step(&mut self, backend: &B, step: u64, loss: f64) -> (CarrierMetrics, Option<Ending>) {
        let active = self.blocks.values().flat_map(|own| own.active).sum();
        let masks: usize = self.blocks.values().map(|own| own.channels(backend)).sum();
        self.dual.end_step(step, loss, [active, masks as u64])
    }

    /// θ of each of `blocks` blocks; none where it has no masks.
    pub fn thetas(&self, backend: &B, blocks: usize) -> Vec<Option<BlockThetas>> {
        let read = |block: usize| {
            let own = self.blocks.get(&block)?;
            Some(own.thetas.each_ref().map(|buffer| {
                let mut values = vec![0f32; backend.len(buffer)];
                backend.read(buffer, 0, &mut values);
                values
            }))
        };
        (0..blocks).map(read).collect()
    }
}

/// Norms and biases of a block become the tuned model's.
fn take_vectors<B: Backend>(backend: &B, tuned: &Checkpoint, decoder: &mut Decoder<B>, block: usize) -> Result<()> {
    let architecture = decoder.architecture().clone();
    for (id, _) in ParameterId::of_block(&architecture, block) {
        if let Some(Parameter::Vector(vector)) = decoder.parameter_mut(id) {
            backend.write(vector, 0, &tuned.tensor(&id.name(&architecture))?.to_f32());
        }
    }
    Ok(())
}

/// Takes the base's matrix out of a decoder, which gets room for what masks let through in its place.
fn take_matrix<B: Backend>(
    backend: &B,
    tuned: &Checkpoint,
    decoder: &mut Decoder<B>,
    id: ParameterId,
    trained: bool,
) -> Result<MaskedMatrix<B>> {
    let name = id.name(decoder.architecture());
    let tensor = tuned.tensor(&name)?;
    let Some(Parameter::Matrix(matrix)) = decoder.parameter_mut(id) else {
        panic!("invariant: {name} is a matrix of the model")
    };
    let shape = backend.shape(matrix);
    let room = backend.trained(shape, backend.zeros(shape.iter().product()));
    let base = mem::replace(matrix, room);
    let tuned_matrix = match trained {
        true => backend.trained(shape, backend.upload(&tensor.to_f32())),
        false => backend.matrix(tensor.matrix()),
    };
    tuned.tensors().release(&name);
    Ok(MaskedMatrix {
        base,
        tuned: tuned_matrix,
    })
}

#[cfg(test)]
mod tests;
