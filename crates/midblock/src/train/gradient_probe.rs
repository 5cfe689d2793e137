//! How hard the training data pulls on each block, before anything moves.
//!
//! The number of a block is the Euclidean norm of ∂loss/∂W over all its linear layers, of the mean loss over the trained
//! tokens of a few sequences. A few blocks at a time get room for their gradients, so that memory does not depend on the
//! model's depth. Source: Saket 2026, arXiv 2604.15351, which ranks blocks by it.

use super::{Item, Objective, StepInfo, StepOptions, Trainer};
use crate::{
    Result,
    adapt::{Kind, Plan, Recipe},
    checkpoint::Checkpoint,
    model::Architecture,
    rng,
    select::{Layers, Modules},
    tokens::{BatchPlan, Grouping, Order, TrainingSample},
};
use midblock_kernels::Backend;
use rand::seq::index::sample;

/// Sequences looked at.
const SEQUENCES: usize = 16;

/// Tokens of a micro-batch.
const TOKENS: usize = 512;

/// Bytes of values, gradients and moments of the blocks that are looked at together.
const BYTES: usize = 512 << 20;

/// The gradient norm of every block, over sequences drawn from the stream "gradient probe".
///
/// # Errors
/// Whatever reading weights may raise, and [`crate::Error::Diverged`].
pub fn gradient_norms<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    samples: &[TrainingSample],
    seed: u64,
) -> Result<Vec<f64>> {
    let mut random = rng::stream(seed, "gradient probe", &[]);
    let mut chosen = sample(&mut random, samples.len(), SEQUENCES.min(samples.len())).into_vec();
    chosen.sort_unstable();
    let items: Vec<Item<'_>> = chosen
        .iter()
        .map(|&index| Item {
            key: index as u64,
            sample: &samples[index],
        })
        .collect();
    let together = (BYTES / (16 * architecture.block_parameters())).clamp(1, architecture.blocks);
    let mut norms = Vec::new();
    while norms.len() < architecture.blocks {
        let end = architecture.blocks.min(norms.len() + together);
        let blocks = norms.len()..end;
        norms.extend(norms_of(backend, checkpoint, architecture, &items, blocks)?);
    }
    Ok(norms)
}

/// The norms of some blocks, as if they were trained fully; nothing is.
fn norms_of<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    items: &[Item<'_>],
    blocks: std::ops::Range<usize>,
) -> Result<Vec<f64>> {
    let recipe = Recipe {
        kind: Kind::Full,
        layers: Layers::Range(blocks.clone()),
        modules: Some(Modules::all_linear()),
        extra: Vec::new(),
        seed: 0,
    };
    let plan = Plan::resolve(architecture, &recipe, None)?;
    let lengths: Vec<usize> = items.iter().map(|item| item.sample.ids.len()).collect();
    let batches = BatchPlan::new(&lengths, Grouping::Tokens(TOKENS), Order::File, 0, 0).batches;
    let size = |of: fn(&TrainingSample) -> usize| {
        let sums = batches
            .iter()
            .map(|batch| batch.iter().map(|&i| of(items[i].sample)).sum());
        sums.max().unwrap_or(0)
    };
    let options = StepOptions {
        seed: 0,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.0,
        clip: Some(1.0), // gradients wait for a norm that is never asked for
        accumulation: batches.len(),
        memory_bytes: None,
        largest_batch: [size(|sample| sample.ids.len()), size(TrainingSample::trained_tokens)],
        prefix: None,
        objective: Objective::Sft,
        start: None,
    };
    let mut trainer = Trainer::new(backend, checkpoint, &plan, options)?;
    let mut info = StepInfo {
        step: 1,
        micro: 0,
        tokens: items.iter().map(|item| item.sample.trained_tokens()).sum(),
        lr: 0.0,
    };
    for batch in &batches {
        let items: Vec<Item<'_>> = batch.iter().map(|&index| items[index]).collect();
        trainer.accumulate(&items, &info)?;
        info.micro += 1;
    }
    let gradients = trainer.gradients();
    let square = |block: usize| -> f64 {
        let ids = gradients.ids().filter(|id| id.block() == Some(block));
        ids.filter_map(|id| gradients.get(id))
            .map(|g| backend.sum_of_squares(g))
            .sum()
    };
    Ok(blocks.map(|block| square(block).sqrt()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{ConfigJson, TokenizerSource},
        model::Architecture,
    };
    use midblock_kernels::{Cpu, Reference};
    use serde_json::json;

    /// Eight blocks, so large that some are looked at alone when [`BYTES`] is small; both backends agree, and groups do not
    /// change a number.
    #[test]
    fn a_blocks_norm_does_not_depend_on_its_company() {
        let value = json!({
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_hidden_layers": 4, "vocab_size": 20, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64, "tie_word_embeddings": true
        });
        let config = ConfigJson {
            path: "test".into(),
            value: value.as_object().unwrap().clone(),
        };
        let architecture = Architecture::resolve(&config).unwrap();
        let tokenizer = TokenizerSource::Missing { path: "test".into() };
        let checkpoint = Checkpoint::untrained("test", config, tokenizer, 3).unwrap();
        let samples: Vec<TrainingSample> = (0..5)
            .map(|row| TrainingSample {
                id: format!("x:{row}"),
                ids: (0..6 + row).map(|t| (row * 7 + t * 3) % 20).collect(),
                trained: (0..6 + row).map(|t| t > 1).collect(),
            })
            .collect();
        let norms = gradient_norms(&Cpu::new(), &checkpoint, &architecture, &samples, 7).unwrap();
        let exact = gradient_norms(&Reference, &checkpoint, &architecture, &samples, 7).unwrap();
        assert_eq!(norms.len(), 4);
        let items: Vec<Item<'_>> = (0..).zip(&samples).map(|(key, sample)| Item { key, sample }).collect();
        for block in 0..4 {
            assert!((norms[block] / exact[block] - 1.0).abs() < 1e-4, "{norms:?} {exact:?}");
            let alone = norms_of(&Cpu::new(), &checkpoint, &architecture, &items, block..block + 1).unwrap();
            assert!((alone[0] / norms[block] - 1.0).abs() < 1e-5, "{alone:?} {norms:?}");
        }
        assert!(norms.windows(2).all(|pair| pair[0] != pair[1]), "{norms:?}");
    }
}
