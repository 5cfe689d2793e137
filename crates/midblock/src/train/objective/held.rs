//! The penalty of rotation-preserving fine-tuning: each matrix may change, but not inside of its leading singular block.
//!
//! `λ Σ_W ‖U_kᵀ W V_k − S_ref‖²_F` with U_k, V_k the k leading singular vectors of the start W₀ and S_ref = U_kᵀ W₀ V_k (Rotation-Preserving
//! Supervised Fine-Tuning, arXiv 2605.10973); ‖W − W₀‖²_F where k ≥ min(out, in). Zero at the start. With E = U_kᵀ W V_k − S_ref:
//!
//! - a matrix that is trained itself: dW = 2λ U_k E V_kᵀ, two thin products each way; S_ref is made by the same products in the same
//!   arithmetic, so that E is 0 to the bit at the start;
//! - a LoRA pair: E = s (U_kᵀ B)(A V_k), dB = 2λs U_k E (A V_k)ᵀ, dA = 2λs (U_kᵀ B)ᵀ E V_kᵀ; where it is held as a whole,
//!   ‖sBA‖²_F = s² tr (BᵀB)(AAᵀ), dB = 2λs² B (AAᵀ), dA = 2λs² (BᵀB) A. ΔW is never formed.
//!
//! `normalised` divides each matrix's term by ‖S_ref‖²_F, or ‖W₀‖²_F where it is held as a whole; a matrix of zeros is not divided.

use super::Rotation;
use crate::{
    Result,
    adapt::{Move, Plan},
    checkpoint::Checkpoint,
    model::{Decoder, Kind, Parameter, ParameterId, Sink},
    train::gradients::Gradients,
};
use midblock_kernels::{Accumulate, Backend, StoredMatrix};

/// The held matrices of a model in training.
pub(in crate::train) struct Held<B: Backend> {
    terms: Vec<Term<B>>,
}

/// One matrix.
struct Term<B: Backend> {
    /// Its own id, also where a pair moves it.
    id: ParameterId,
    /// λ, divided by a norm or not.
    lambda: f64,
    how: How<B>,
}

enum How<B: Backend> {
    Block {
        /// U_kᵀ, (k, out).
        left: B::Buffer,
        /// V_kᵀ, (k, in).
        right: B::Matrix,
        moves: Moves<B>,
    },
    Whole(Moves<B>),
}

enum Moves<B: Backend> {
    /// Itself; −S_ref, (k, k), or −W₀, (out, in).
    Itself(B::Buffer),
    /// A pair of this scale.
    Pair(f32),
}

impl<B: Backend> Held<B> {
    /// Of a model whose parameters are those it starts from.
    ///
    /// # Panics
    /// If the block of a matrix is missing.
    pub fn new(
        backend: &B,
        checkpoint: &Checkpoint,
        decoder: &mut Decoder<B>,
        plan: &Plan,
        mut rotation: Rotation,
    ) -> Result<Self> {
        let mut terms = Vec::new();
        let matrices: Vec<_> = rotation.held(plan).collect();
        for (entry, shape) in matrices {
            let name = entry.id.name(decoder.architecture());
            let block = rotation.blocks.remove(&entry.id);
            let square = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            let norm = match (&block, rotation.normalised) {
                (_, false) => 1.0,
                (Some(block), true) => square(&block.sigma),
                (None, true) => square(&checkpoint.tensor(&name)?.to_f32()),
            };
            let how = match (rotation.holds_block(shape), entry.how) {
                (true, how) => {
                    let block = block.unwrap_or_else(|| panic!("invariant: the singular block of {name} was given"));
                    let k = block.directions();
                    let left = backend.upload(&block.left);
                    let right = backend.matrix(StoredMatrix::from_f32([k, shape[1]], &block.right));
                    let moves = match how {
                        Move::Full | Move::Masked { .. } => Moves::Itself(negated(
                            backend,
                            inside(backend, &left, matrix(decoder, entry.id), &right, k),
                        )),
                        Move::Lora { scale, .. } => Moves::Pair(scale),
                    };
                    How::Block { left, right, moves }
                }
                (false, Move::Full | Move::Masked { .. }) => {
                    let start = backend.upload(&checkpoint.tensor(&name)?.to_f32());
                    How::Whole(Moves::Itself(negated(backend, start)))
                }
                (false, Move::Lora { scale, .. }) => How::Whole(Moves::Pair(scale)),
            };
            terms.push(Term {
                id: entry.id,
                lambda: rotation.lambda / if norm > 0.0 { norm } else { 1.0 },
                how,
            });
        }
        Ok(Self { terms })
    }

    /// Adds the penalty's gradient of the matrices that are `wanted` to that of the loss, and returns the penalty itself.
    pub fn add(
        &self,
        backend: &B,
        decoder: &mut Decoder<B>,
        gradients: &mut Gradients<B>,
        wanted: impl Fn(ParameterId) -> bool,
    ) -> f64 {
        let terms = self.terms.iter().filter(|term| wanted(term.id));
        terms.map(|term| term.add(backend, decoder, gradients)).sum()
    }
}

impl<B: Backend> Term<B> {
    fn add(&self, backend: &B, decoder: &mut Decoder<B>, gradients: &mut Gradients<B>) -> f64 {
        let factor = (2.0 * self.lambda) as f32;
        let square = match &self.how {
            How::Block {
                left,
                right,
                moves: Moves::Itself(start),
            } => {
                let [k, inp] = backend.shape(right);
                let mut error = inside(backend, left, matrix(decoder, self.id), right, k);
                backend.add(&mut error, start);
                let mut thin = backend.zeros(k * inp); // 2λ E V_kᵀ
                backend.linear_dx(&error, right, k, Accumulate::Write, &mut thin);
                backend.scale(&mut thin, factor);
                backend.linear_dw(left, &thin, k, Accumulate::Add, gradients.sum(backend, self.id));
                backend.sum_of_squares(&error)
            }
            How::Block {
                left,
                right,
                moves: Moves::Pair(scale),
            } => self.add_pair(backend, decoder, gradients, left, right, *scale),
            How::Whole(Moves::Itself(start)) => {
                let values = trained(backend, matrix(decoder, self.id));
                let mut error = backend.zeros(backend.len(values));
                backend.copy(values, &mut error);
                backend.add(&mut error, start);
                let square = backend.sum_of_squares(&error);
                backend.scale(&mut error, factor);
                backend.add(gradients.sum(backend, self.id), &error);
                square
            }
            How::Whole(Moves::Pair(scale)) => self.add_whole_pair(backend, decoder, gradients, *scale),
        };
        self.lambda * square
    }

    /// `‖s (U_kᵀ B)(A V_k)‖²`
    fn add_pair(
        &self,
        backend: &B,
        decoder: &mut Decoder<B>,
        gradients: &mut Gradients<B>,
        left: &B::Buffer,
        right: &B::Matrix,
        scale: f32,
    ) -> f64 {
        let [a, b] = self.pair();
        let [k, inp] = backend.shape(right);
        let outer = matrix(decoder, b);
        let rank = backend.shape(outer)[1];
        let mut ub = backend.zeros(k * rank); // s U_kᵀ B
        backend.linear_dx(left, outer, k, Accumulate::Write, &mut ub);
        backend.scale(&mut ub, scale);
        let inner = trained(backend, matrix(decoder, a));
        let mut av = backend.zeros(rank * k); // A V_k
        backend.linear(inner, right, rank, Accumulate::Write, &mut av);
        let av = backend.trained([rank, k], av);
        let mut error = backend.zeros(k * k);
        backend.linear_dx(&ub, &av, k, Accumulate::Write, &mut error);
        let square = backend.sum_of_squares(&error);
        let factor = (2.0 * self.lambda) as f32;
        let mut thin = backend.zeros(k * rank); // 2λs E (A V_k)ᵀ
        backend.linear(&error, &av, k, Accumulate::Write, &mut thin);
        backend.scale(&mut thin, factor * scale);
        backend.linear_dw(left, &thin, k, Accumulate::Add, gradients.sum(backend, b));
        let mut thin = backend.zeros(rank * k); // 2λs (U_kᵀ B)ᵀ E
        backend.linear_dw(&ub, &error, k, Accumulate::Write, &mut thin);
        backend.scale(&mut thin, factor);
        let sum = gradients.sum(backend, a);
        debug_assert_eq!(backend.len(sum), rank * inp);
        backend.linear_dx(&thin, right, rank, Accumulate::Add, sum);
        square
    }

    /// `‖s B A‖² = s² tr (BᵀB)(AAᵀ)`
    fn add_whole_pair(&self, backend: &B, decoder: &mut Decoder<B>, gradients: &mut Gradients<B>, scale: f32) -> f64 {
        let [a, b] = self.pair();
        let factor = (2.0 * self.lambda) as f32 * scale * scale;
        let inner = matrix(decoder, a);
        let rank = backend.shape(inner)[0];
        let mut aa = backend.zeros(rank * rank);
        backend.linear(trained(backend, inner), inner, rank, Accumulate::Write, &mut aa);
        let outer = trained(backend, matrix(decoder, b));
        let out = backend.len(outer) / rank;
        let mut bb = backend.zeros(rank * rank);
        backend.linear_dw(outer, outer, out, Accumulate::Write, &mut bb);
        let [host_a, host_b] = [&aa, &bb].map(|gram| {
            let mut values = vec![0f64; rank * rank];
            backend.read(gram, 0, &mut values);
            values
        });
        let trace: f64 = host_a.iter().zip(&host_b).map(|(a, b)| a * b).sum();
        backend.scale(&mut aa, factor);
        let aa = backend.trained([rank, rank], aa);
        let outer = trained(backend, matrix(decoder, b));
        backend.linear(outer, &aa, out, Accumulate::Add, gradients.sum(backend, b));
        backend.scale(&mut bb, factor);
        let inner = matrix(decoder, a);
        backend.linear_dx(&bb, inner, rank, Accumulate::Add, gradients.sum(backend, a));
        f64::from(scale).powi(2) * trace
    }

    /// A and B of the pair that moves this matrix.
    fn pair(&self) -> [ParameterId; 2] {
        let ParameterId::Block { block, part, .. } = self.id else {
            panic!("invariant: a pair is in a block")
        };
        [Kind::LoraA, Kind::LoraB].map(|kind| ParameterId::Block { block, part, kind })
    }
}

/// `U_kᵀ W V_k`, (k, k).
fn inside<B: Backend>(backend: &B, left: &B::Buffer, w: &B::Matrix, right: &B::Matrix, k: usize) -> B::Buffer {
    let [_, inp] = backend.shape(w);
    let mut thin = backend.zeros(k * inp);
    backend.linear_dx(left, w, k, Accumulate::Write, &mut thin);
    let mut inside = backend.zeros(k * k);
    backend.linear(&thin, right, k, Accumulate::Write, &mut inside);
    inside
}

fn negated<B: Backend>(backend: &B, mut values: B::Buffer) -> B::Buffer {
    backend.scale(&mut values, -1.0);
    values
}

fn trained<'m, B: Backend>(backend: &B, matrix: &'m B::Matrix) -> &'m B::Buffer {
    backend
        .values(matrix)
        .expect("invariant: a held matrix or its pair is trained")
}

fn matrix<B: Backend>(decoder: &mut Decoder<B>, id: ParameterId) -> &B::Matrix {
    match decoder.parameter_mut(id) {
        Some(Parameter::Matrix(matrix)) => matrix,
        _ => panic!("invariant: what is held is a matrix of the model"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapt::{Kind as Adaptation, LoraOptions, Recipe, Scaling},
        hub::HubOptions,
        model::Part,
        rng,
        select::Layers,
        singular::SingularBlock,
        train::optimizer::{prepare, trained as parameters, values_mut},
    };
    use midblock_kernels::Reference;
    use rand::RngExt;
    use std::collections::BTreeMap;

    const MATRICES: &str = "q_proj,k_proj,down_proj";

    struct Case {
        decoder: Decoder<Reference>,
        held: Held<Reference>,
        parameters: Vec<(ParameterId, usize)>,
    }

    fn random(stream: u64, len: usize) -> Vec<f64> {
        let mut random = rng::stream(stream, "rotation", &[]);
        (0..len).map(|_| random.random_range(-0.3..0.3)).collect()
    }

    /// q and down, (48, 48) and (48, 76), have more than 20 directions, k, (16, 48), has not.
    fn case(kind: Adaptation, normalised: bool) -> Case {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/llama-tied");
        let checkpoint = Checkpoint::open(path, &HubOptions::from_env(), &|_| {}).unwrap();
        let backend = Reference;
        let mut decoder = Decoder::load(&backend, &checkpoint).unwrap();
        let extra = match kind {
            Adaptation::Full => vec!["model.embed_tokens.weight".to_owned()],
            _ => Vec::new(),
        };
        let recipe = Recipe {
            kind,
            layers: Layers::List(vec![1]),
            modules: Some(MATRICES.parse().unwrap()),
            extra,
            seed: 0,
        };
        let plan = Plan::resolve(decoder.architecture(), &recipe, None).unwrap();
        for entry in &plan.entries {
            prepare(&backend, &mut decoder, &checkpoint, entry, 3).unwrap();
        }
        let mut rotation = Rotation {
            lambda: 0.7,
            directions: 20,
            normalised,
            ends: true,
            blocks: BTreeMap::new(),
        };
        let blocks: BTreeMap<_, _> = (rotation.held(&plan))
            .filter(|(_, shape)| rotation.holds_block(*shape))
            .map(|(entry, shape)| {
                let stream = entry.id.block().map_or(99, |_| shape[1] as u64);
                let vectors = |stream, len| random(stream, len).iter().map(|v| *v as f32).collect();
                let block = SingularBlock {
                    shape,
                    sigma: vec![0.5; 20],
                    left: vectors(2 * stream, 20 * shape[0]),
                    right: vectors(2 * stream + 1, 20 * shape[1]),
                };
                (entry.id, block)
            })
            .collect();
        assert_eq!(blocks.len(), if plan.entries.len() == 4 { 3 } else { 2 });
        rotation.blocks = blocks;
        let held = Held::new(&backend, &checkpoint, &mut decoder, &plan, rotation).unwrap();
        let parameters: Vec<_> = (parameters(&plan).into_iter())
            .map(|(id, shape)| (id, shape.iter().product()))
            .collect();
        Case {
            decoder,
            held,
            parameters,
        }
    }

    fn lora() -> Adaptation {
        Adaptation::Lora(LoraOptions {
            rank: 2,
            alpha: Some(6.0),
            dropout: 0.0,
            scaling: Scaling::FixedAlpha,
        })
    }

    impl Case {
        fn penalty(&mut self, gradients: &mut Gradients<Reference>) -> f64 {
            self.held.add(&Reference, &mut self.decoder, gradients, |_| true)
        }

        fn values(&mut self, id: ParameterId) -> &mut Vec<f64> {
            values_mut(&Reference, &mut self.decoder, id).unwrap()
        }
    }

    #[test]
    fn nothing_is_charged_at_the_start() {
        for kind in [Adaptation::Full, lora()] {
            let mut case = case(kind, false);
            let mut gradients = Gradients::new(&Reference, &case.parameters, false);
            assert_eq!(case.penalty(&mut gradients), 0.0);
            for (id, _) in &case.parameters {
                let gradient = gradients.get(*id).expect("everything is held");
                assert!(gradient.iter().all(|g| *g == 0.0), "{id:?}");
            }
        }
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        const EPSILON: f64 = 1e-5;
        for (kind, normalised) in [
            (Adaptation::Full, false),
            (Adaptation::Full, true),
            (lora(), false),
            (lora(), true),
        ] {
            let mut case = case(kind, normalised);
            for (stream, (id, len)) in case.parameters.clone().into_iter().enumerate() {
                let noise = random(100 + stream as u64, len);
                case.values(id).iter_mut().zip(noise).for_each(|(v, noise)| *v += noise);
            }
            let mut gradients = Gradients::new(&Reference, &case.parameters, false);
            assert!(case.penalty(&mut gradients) > 0.0);
            for (stream, (id, len)) in case.parameters.clone().into_iter().enumerate() {
                let direction = random(200 + stream as u64, len);
                let start = case.values(id).clone();
                let mut moved = |by: f64| {
                    let there = start.iter().zip(&direction).map(|(v, d)| v + by * d).collect();
                    *case.values(id) = there;
                    let mut unused = Gradients::new(&Reference, &case.parameters, false);
                    case.penalty(&mut unused)
                };
                let numeric = (moved(EPSILON) - moved(-EPSILON)) / (2.0 * EPSILON);
                moved(0.0);
                let gradient = gradients.get(id).expect("everything is held");
                let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let scale = analytic.abs().max(1e-3);
                assert!(
                    (numeric - analytic).abs() < 1e-6 * scale,
                    "{id:?}: {numeric} and {analytic}"
                );
            }
        }
    }

    #[test]
    fn a_pair_is_charged_for_what_it_would_change() {
        // the same change once as a pair and once in the matrix itself
        let mut pair = case(lora(), false);
        let mut itself = case(Adaptation::Full, false);
        for part in [Part::Q, Part::K, Part::Down] {
            let id = |kind| ParameterId::Block { block: 1, part, kind };
            let (rank, scale) = (6, 1.0); // the budget of three blocks in one: α 6 over rank 6
            let [a, b] = [Kind::LoraA, Kind::LoraB].map(|kind| {
                let len = pair.values(id(kind)).len();
                *pair.values(id(kind)) = random(part as u64 + 7 * kind as u64, len);
                pair.values(id(kind)).clone()
            });
            let inp = a.len() / rank;
            for (row, b) in itself.values(id(Kind::Weight)).chunks_mut(inp).zip(b.chunks(rank)) {
                for (a, b) in a.chunks(inp).zip(b) {
                    row.iter_mut().zip(a).for_each(|(w, a)| *w += scale * b * a);
                }
            }
        }
        let mut unused = Gradients::new(&Reference, &pair.parameters, false);
        let charged = pair.penalty(&mut unused);
        let mut unused = Gradients::new(&Reference, &itself.parameters, false);
        let expected = itself.penalty(&mut unused);
        assert!((charged / expected - 1.0).abs() < 1e-9, "{charged} and {expected}");
    }
}
