//! An adapter merged into its base, `W' = W + s·B·A` in the backend's arithmetic, as an ordinary Hugging Face folder; and
//! how far the logits of two checkpoints are apart.

use crate::{
    Error, Result,
    checkpoint::{Checkpoint, LowRank, Tensor, WriteOptions, Written},
    model::{Architecture, Batch, Decoder, Scratch},
    progress::{Progress, Unit},
    rng,
};
use midblock_kernels::{Accumulate, Backend, StoredMatrix};
use rand::RngExt;
use std::path::Path;

/// T of the sequences that logits are compared on.
const CHECK_TOKENS: usize = 32;

/// Writes `checkpoint` with its adapter merged as the new folder `out`; without an adapter, as it is. One matrix is in
/// memory at a time.
///
/// # Errors
/// As [`Checkpoint::write`].
pub fn merge<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    out: &Path,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<Written> {
    checkpoint.write(out, options, progress, |tensor| {
        let pair = checkpoint.adapter_for(&tensor.name);
        Ok(pair.map_or_else(|| tensor.to_f32(), |pair| merged(backend, tensor, pair)))
    })
}

/// W + s·B·A, (out, in).
pub(super) fn merged<B: Backend>(backend: &B, tensor: &Tensor, pair: &LowRank) -> Vec<f32> {
    let &[out, inp] = tensor.shape.as_slice() else {
        panic!(
            "invariant: an adapter changes matrices, `{}` has shape {:?}",
            tensor.name, tensor.shape
        )
    };
    let mut weight = tensor.to_f32();
    let scaled_b: Vec<f32> = pair.b.iter().map(|value| pair.scale * value).collect(); // (out, R)
    let transposed_a: Vec<f32> = (0..inp)
        .flat_map(|column| pair.a.iter().skip(column).step_by(inp).copied())
        .collect(); // (in, R)
    let a = backend.matrix(StoredMatrix::from_f32([inp, pair.rank], &transposed_a));
    let mut sum = backend.upload(&weight);
    backend.linear(&backend.upload(&scaled_b), &a, out, Accumulate::Add, &mut sum);
    backend.read(&sum, 0, &mut weight);
    weight
}

/// Sequences of 32 token ids each, or as long as the model takes, drawn at random but always the same.
pub(super) fn random_sequences(architecture: &Architecture, count: usize) -> Vec<Vec<u32>> {
    let tokens = CHECK_TOKENS.min(architecture.max_positions);
    let draw = |sequence| {
        let mut random = rng::stream(0, "merge check", &[sequence]);
        let id = |_| random.random_range(0..architecture.vocab as u32);
        (0..tokens).map(id).collect()
    };
    (0..count as u64).map(draw).collect()
}

/// How far apart two models' logits are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitDifference {
    /// Largest |difference|.
    pub largest: f64,
    /// Mean |difference|.
    pub mean: f64,
    /// Positions at which both find the same token most likely.
    pub same_top: usize,
    /// Positions compared, V logits each.
    pub positions: usize,
}

/// Compares the logits of two checkpoints of one architecture on `sequences` sequences of 32 token ids each, drawn at
/// random but always the same.
///
/// # Errors
/// If a checkpoint cannot be loaded, [`Error::Mismatch`] if the vocabularies differ, [`Error::Interrupted`].
pub fn logit_difference<B: Backend>(
    backend: &B,
    checkpoints: [&Checkpoint; 2],
    sequences: usize,
    progress: &dyn Progress,
) -> Result<LogitDifference> {
    let decoders = [
        Decoder::load(backend, checkpoints[0])?,
        Decoder::load(backend, checkpoints[1])?,
    ];
    let [left, right] = decoders.each_ref().map(|decoder| decoder.architecture());
    if left.vocab != right.vocab {
        return Err(Error::Mismatch {
            left: checkpoints[0].label().to_owned(),
            right: checkpoints[1].label().to_owned(),
            what: "the vocabulary".to_owned(),
            left_value: left.vocab.to_string(),
            right_value: right.vocab.to_string(),
            help: String::new(),
        });
    }
    let (vocab, blocks) = (left.vocab, left.blocks as u64);
    let sequences = random_sequences(left, sequences);
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    progress.begin("compare", 2 * blocks * tokens as u64, Unit::BlockTokens { blocks });
    let mut difference = LogitDifference {
        largest: 0.0,
        mean: 0.0,
        same_top: 0,
        positions: 0,
    };
    for ids in sequences {
        let [a, b] = decoders.each_ref().map(|decoder| logits(backend, decoder, &ids));
        for (a, b) in a.chunks(vocab).zip(b.chunks(vocab)) {
            difference.add(a, b);
        }
        progress.advance(2 * blocks * ids.len() as u64);
        if progress.cancelled() {
            return Err(Error::Interrupted);
        }
    }
    difference.mean /= (difference.positions * vocab) as f64;
    Ok(difference)
}

impl LogitDifference {
    /// One position's logits of both models.
    fn add(&mut self, a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            let apart = f64::from((a - b).abs());
            self.mean += apart; // a sum until all is seen
            // not `max`, which would pass over NaN
            if apart.is_nan() || apart > self.largest {
                self.largest = apart;
            }
        }
        self.same_top += usize::from(top(a) == top(b));
        self.positions += 1;
    }
}

fn top(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
}

/// Logits of one sequence, (T, V).
fn logits<B: Backend>(backend: &B, decoder: &Decoder<B>, ids: &[u32]) -> Vec<f32> {
    let batch = Batch::new(&[ids]);
    let mut scratch = Scratch::new(backend);
    let hidden = decoder.forward(backend, &batch, &decoder.rope(ids.len()), &mut scratch, |_, _| {});
    let logits = decoder
        .ends()
        .logits(backend, &decoder.ends().final_norm(backend, &hidden));
    let mut values = vec![0f32; backend.len(&logits)];
    backend.read(&logits, 0, &mut values);
    values
}
