//! What work on a model costs, from its shape alone: floating-point operations, bytes of weights read, bytes sent between
//! ranks; and from these and a machine's rates, time.
//!
//! Counted are the products with weights, 2·out·in FLOP a token. A training step goes forward through all blocks, and
//! through the head for trained tokens; makes the gradient of the input of every block from the first trained one, and of
//! the head; computes those blocks again whose interiors are not kept; and makes dW where a matrix is trained itself
//! (2·out·in), or 6·R·(in + out) for a pair. Attention's own products, norms and the optimiser are not counted: steps took
//! 1/[`SHARE`] of their products' time in measurements.
//!
//! Every pass reads every weight from memory, in its storage format, once for each [`ROWS`] tokens of a micro-batch (the head:
//! for each 256). Reading and multiplying go on at the same time, so that a step takes as long as the longer of both.
//!
//! Data-parallel ranks each make a step of their own samples, then sum the gradients of what is trained, f32. Each of n ranks sums a part
//! and gives it to all ([`Ranks::sum`](crate::ranks::Ranks::sum)), which sends 2·(n − 1)/n of the gradients' bytes from each, in
//! 2·(2(n − 1) + ⌈log₂ n⌉) messages one after another for each 2 MiB.

use crate::{
    adapt::{Move, Plan},
    checkpoint::Checkpoint,
    model::{Architecture, HEAD_ROWS, ParameterId},
    ranks::PIECE,
};

/// Products' part of the time of a step, or of a forward pass.
pub const SHARE: f64 = 0.85;

/// Tokens that are multiplied with a weight each time it is read.
pub const ROWS: usize = 1024;

/// The rates of one rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// FLOP/s of products with weights, all cores.
    pub flop_per_s: f64,
    /// Bytes/s from memory, or from disk for what memory does not hold.
    pub read_bytes_per_s: f64,
    /// Bytes/s to another rank.
    pub sent_bytes_per_s: f64,
    /// Time of an empty message.
    pub latency_s: f64,
}

/// What one rank does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// FLOP of products with weights.
    pub flop: f64,
    /// Bytes of weights that are read.
    pub read_bytes: f64,
    /// Bytes that are sent to other ranks.
    pub sent_bytes: f64,
    /// Messages that are sent one after another.
    pub messages: f64,
}

impl Costs {
    /// Time of computing, reading beside it.
    pub fn computing_s(&self, rates: &Rates) -> f64 {
        (self.flop / rates.flop_per_s / SHARE).max(self.read_bytes / rates.read_bytes_per_s)
    }

    /// Time of summing gradients, in which nothing is computed.
    pub fn sending_s(&self, rates: &Rates) -> f64 {
        if self.messages == 0.0 {
            return 0.0;
        }
        self.sent_bytes / rates.sent_bytes_per_s + self.messages * rates.latency_s
    }

    /// All of it.
    pub fn seconds(&self, rates: &Rates) -> f64 {
        self.computing_s(rates) + self.sending_s(rates)
    }
}

/// Bytes of weights as they are stored, or [quantised](Checkpoint::quantize).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WeightBytes {
    /// Of all blocks.
    pub blocks: usize,
    /// Of the matrix that makes logits.
    pub head: usize,
    /// Of the embedding, where it is not the head.
    pub embedding: usize,
}

impl WeightBytes {
    /// Of a checkpoint. What it lacks counts nothing.
    pub fn of(checkpoint: &Checkpoint, architecture: &Architecture) -> Self {
        let mut bytes = Self::default();
        for (id, shape) in ParameterId::all(architecture) {
            let stored = checkpoint.describe(&id.name(architecture));
            let size = stored.and_then(|(dtype, _)| dtype.bytes_for(shape.iter().product()));
            let place = match id {
                ParameterId::Head => &mut bytes.head,
                ParameterId::Embedding if architecture.tied_head => &mut bytes.head,
                ParameterId::Embedding => &mut bytes.embedding,
                ParameterId::Block { .. } | ParameterId::FinalNorm => &mut bytes.blocks,
            };
            *place += size.unwrap_or(0);
        }
        bytes
    }

    /// Of the whole model.
    pub fn all(&self) -> usize {
        self.blocks + self.head + self.embedding
    }
}

/// An optimiser step, as one rank makes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSize {
    /// Tokens of all its micro-batches.
    pub tokens: f64,
    /// Those that are to be predicted.
    pub labelled: f64,
    /// Micro-batches.
    pub micro_batches: usize,
    /// Blocks whose interiors are not kept and computed again.
    pub again: usize,
    /// Whether the output of the frozen blocks below the first trained one comes from the cache.
    pub cached: bool,
    /// Ranks that each make such a step.
    pub ranks: usize,
}

/// FLOP of a step.
pub fn step_flop(architecture: &Architecture, plan: &Plan, size: &StepSize) -> f64 {
    let passes = Passes::of(architecture, plan, size);
    let own: f64 = plan.entries.iter().map(|entry| own_flop(&entry.shape, entry.how)).sum();
    let head_trained = plan.entries.iter().any(|entry| match entry.id {
        ParameterId::Head => true,
        ParameterId::Embedding => architecture.tied_head,
        _ => false,
    });
    let head_passes = if head_trained { 3.0 } else { 2.0 };
    let head = 2.0 * (architecture.vocab * architecture.hidden) as f64;
    let block = architecture.block_flops_per_token() as f64;
    size.tokens * (block * passes.blocks + own) + size.labelled * head * head_passes
}

/// Costs of a step.
pub fn step(architecture: &Architecture, plan: &Plan, weights: &WeightBytes, size: &StepSize) -> Costs {
    let passes = Passes::of(architecture, plan, size);
    let micro = size.micro_batches.max(1) as f64;
    let times = |tokens: f64, rows: usize| micro * (tokens / micro / rows as f64).ceil();
    let block = weights.blocks as f64 / architecture.blocks as f64;
    let sent = sent(4.0 * plan.parameters() as f64, size.ranks);
    Costs {
        flop: step_flop(architecture, plan, size),
        read_bytes: times(size.tokens, ROWS) * passes.blocks * block
            + 2.0 * times(size.labelled, HEAD_ROWS) * weights.head as f64,
        ..sent
    }
}

/// Costs of running `models` on texts of so many tokens, one block after the other: what an analysis takes before its metrics.
pub fn analysis(architecture: &Architecture, weights: &WeightBytes, models: usize, tokens: f64) -> Costs {
    let models = models as f64;
    Costs {
        flop: models * tokens * (architecture.blocks * architecture.block_flops_per_token()) as f64,
        read_bytes: models * ((tokens / ROWS as f64).ceil() * weights.blocks as f64 + weights.embedding as f64),
        ..Costs::default()
    }
}

/// What each of `ranks` ranks sends to sum so many bytes of gradients, as [`Ranks::sum`](crate::ranks::Ranks::sum) does: for each piece an
/// exchange of parts and one of their sums, each of which asks for sizes, agrees on the number of calls, and then sends to every other rank.
fn sent(bytes: f64, ranks: usize) -> Costs {
    let n = ranks.max(1) as f64;
    let exchanges = 2.0 * (bytes / PIECE as f64).ceil();
    Costs {
        sent_bytes: 2.0 * (n - 1.0) / n * bytes,
        messages: exchanges * (2.0 * (n - 1.0) + n.log2().ceil()),
        ..Costs::default()
    }
}

/// Passes of every token through blocks, forward and backward.
struct Passes {
    blocks: f64,
}

impl Passes {
    fn of(architecture: &Architecture, plan: &Plan, size: &StepSize) -> Self {
        let walked = architecture.blocks - plan.first_block();
        let below = if size.cached { 0 } else { plan.first_block() };
        Self {
            blocks: (below + 2 * walked + size.again) as f64,
        }
    }
}

/// FLOP a token that training a parameter adds.
fn own_flop(shape: &[usize], how: Move) -> f64 {
    match (how, shape) {
        (Move::Full | Move::Masked { .. }, [out, inp]) => 2.0 * (out * inp) as f64,
        (Move::Full | Move::Masked { .. }, _) => 0.0,
        (Move::Lora { rank, .. }, shape) => 6.0 * (rank * shape.iter().sum::<usize>()) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        adapt::{Kind, LoraOptions, Recipe, Scaling},
        checkpoint::{ConfigJson, TokenizerSource},
        select::Layers,
    };
    use midblock_kernels::Dtype;
    use serde_json::json;

    /// Five blocks of D 64, F 96, V 100, and Mid-Block LoRA of uniform rank 3 on q, k, v, o.
    fn tiny() -> (Architecture, Plan, Checkpoint) {
        let value = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 5, "vocab_size": 100, "max_position_embeddings": 16,
            "tie_word_embeddings": false,
        });
        let config = ConfigJson {
            path: "config.json".into(),
            value: value.as_object().unwrap().clone(),
        };
        let tokenizer = TokenizerSource::Missing { path: "here".into() };
        let checkpoint = Checkpoint::noise("tiny", config, tokenizer, [Dtype::Q8_0, Dtype::BF16], 0).unwrap();
        let architecture = Architecture::resolve(checkpoint.config()).unwrap();
        let recipe = Recipe {
            kind: Kind::Lora(LoraOptions {
                rank: 3,
                alpha: None,
                dropout: 0.0,
                scaling: Scaling::FixedAlpha,
            }),
            layers: Layers::Mid,
            modules: None,
            extra: Vec::new(),
            seed: 0,
        };
        let plan = Plan::resolve(&architecture, &recipe, None).unwrap();
        (architecture, plan, checkpoint)
    }

    const SIZE: StepSize = StepSize {
        tokens: 200.0,
        labelled: 50.0,
        micro_batches: 2,
        again: 0,
        cached: false,
        ranks: 1,
    };

    #[test]
    fn a_step_is_what_counting_by_hand_gives() {
        let (architecture, plan, checkpoint) = tiny();
        let block = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64; // numbers in the matrices of a block
        let pair = 5 * (2 * (64 + 64) + 2 * (32 + 64)); // rank 3 · 5/3 on q, o, k, v
        assert_eq!(plan.parameters(), 3 * pair);
        let weights = WeightBytes::of(&checkpoint, &architecture);
        let stored = 5 * (block / 32 * 34 + 2 * 64 * 4) + 64 * 4;
        let expected = WeightBytes {
            blocks: stored,
            head: 2 * 100 * 64,
            embedding: 2 * 100 * 64,
        };
        assert_eq!(weights, expected);
        // forward through 5 blocks, gradients through the 4 from the first trained one, twice through the head
        let costs = step(&architecture, &plan, &weights, &SIZE);
        let flop = 200 * (9 * 2 * block + 6 * 3 * pair) + 50 * 2 * 2 * 100 * 64;
        assert_eq!(costs.flop, flop as f64);
        let read = 2.0 * 9.0 * stored as f64 / 5.0 + 2.0 * 2.0 * weights.head as f64; // two micro-batches
        assert!((costs.read_bytes / read - 1.0).abs() < 1e-12, "{costs:?} {read}");
        assert_eq!((costs.sent_bytes, costs.messages), (0.0, 0.0));
        let later = StepSize {
            cached: true,
            again: 1,
            ..SIZE
        };
        let saved = step_flop(&architecture, &plan, &SIZE) - step_flop(&architecture, &plan, &later);
        assert_eq!(saved, 0.0); // the block below the first trained one, against one that is computed again
    }

    #[test]
    fn ranks_send_less_than_twice_the_gradients() {
        let (architecture, plan, checkpoint) = tiny();
        let weights = WeightBytes::of(&checkpoint, &architecture);
        let of = |ranks| step(&architecture, &plan, &weights, &StepSize { ranks, ..SIZE });
        let gradients = 4.0 * plan.parameters() as f64;
        assert_eq!((of(2).sent_bytes, of(2).messages), (gradients, 6.0));
        assert_eq!(
            (of(64).sent_bytes, of(64).messages),
            (2.0 * 63.0 / 64.0 * gradients, 2.0 * (126.0 + 6.0))
        );
        assert_eq!(of(5).messages, 2.0 * (8.0 + 3.0));
        assert_eq!(sent(3.5 * PIECE as f64, 2).messages, 4.0 * of(2).messages);
        assert_eq!(of(64).flop, of(1).flop);
    }

    #[test]
    fn the_slower_of_multiplying_and_reading_sets_the_time() {
        let rates = Rates {
            flop_per_s: 1e9,
            read_bytes_per_s: 1e6,
            sent_bytes_per_s: 1e3,
            latency_s: 0.5,
        };
        let costs = Costs {
            flop: SHARE * 3e9,
            read_bytes: 2e6,
            ..Costs::default()
        };
        assert_eq!(costs.seconds(&rates), 3.0);
        let reads = Costs {
            read_bytes: 4e6,
            sent_bytes: 1e3,
            messages: 2.0,
            ..costs
        };
        assert_eq!((reads.computing_s(&rates), reads.sending_s(&rates)), (4.0, 2.0));
        assert_eq!(reads.seconds(&rates), 6.0);
    }

    #[test]
    fn an_analysis_goes_once_through_every_model() {
        let (architecture, _, checkpoint) = tiny();
        let weights = WeightBytes::of(&checkpoint, &architecture);
        let costs = analysis(&architecture, &weights, 2, 3000.0);
        assert_eq!(
            costs.flop,
            2.0 * 3000.0 * 5.0 * architecture.block_flops_per_token() as f64
        );
        assert_eq!(
            costs.read_bytes,
            2.0 * (3.0 * weights.blocks as f64 + weights.embedding as f64)
        );
    }
}
