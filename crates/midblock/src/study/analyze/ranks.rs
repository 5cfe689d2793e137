//! An analysis on several ranks: each runs the models on a shard, and the first one measures what all have seen, layer by layer.
//!
//! Nothing goes over a disk. A layer's message to the first rank is the length of what follows as JSON, the weight metrics of blocks
//! up to there, and the layer's states; so the numbers come in the order of one process.

use super::{Analysis, AnalyzeConfig, BlockWeights, LayerStates, Measuring, Shard, Sink};
use crate::{
    Error, Result,
    hub::{HubOptions, OnTransfer},
    progress::Progress,
    ranks::{Ranks, values},
    run::Run,
};
use midblock_kernels::Backend;
use std::path::Path;

/// Runs the analysis on all ranks; the first one gets the run, the same as one process would have made.
///
/// # Errors
/// As [`super::analyze`]; a rank has failed.
pub fn analyze_on<B: Backend>(
    backend: &B,
    config: &AnalyzeConfig,
    hub: &HubOptions,
    ranks: &Ranks,
    progress: &dyn Progress,
    on_transfer: OnTransfer<'_>,
) -> Result<Option<Run>> {
    const HELP: &str = "do all ranks see the same files?";
    let mut analysis = ranks.first(|| Analysis::open(config, hub, on_transfer))?;
    let texts: Vec<_> = analysis.texts.iter().map(|texts| texts.record()).collect();
    ranks.same("options and texts", format!("{config:?} {texts:?}").as_bytes(), HELP)?;
    let measuring =
        (ranks.is_first()).then(|| Measuring::new(analysis.outline(), config.metrics.clone(), config.resamples));
    let mut gathering = Gathering {
        ranks,
        measuring,
        weights: Vec::new(),
    };
    let shard = Shard::new(ranks.rank(), ranks.size());
    analysis.capture(backend, shard, progress, &mut gathering)?;
    gathering.gather(None)?; // blocks after the last layer that is measured
    let tokens = ranks.all(&analysis.block_tokens.to_le_bytes())?;
    analysis.block_tokens = tokens.iter().flat_map(|bytes| values::<u64>(bytes)).sum();
    let info = analysis.describe()?;
    let models: Vec<_> = info.models.iter().map(|model| &model.files).collect();
    let hashes: Vec<&str> = models.into_iter().flatten().map(|file| file.blake3.as_str()).collect();
    ranks.same("the models", hashes.concat().as_bytes(), HELP)?;
    Ok(gathering.measuring.map(|measuring| measuring.finish(info)))
}

/// Sends what a rank sees to the first one, which measures it.
struct Gathering<'a> {
    ranks: &'a Ranks,
    /// On the first rank.
    measuring: Option<Measuring>,
    /// Of this rank's blocks since the last layer.
    weights: Vec<BlockWeights>,
}

impl Gathering<'_> {
    fn gather(&mut self, states: Option<LayerStates>) -> Result<()> {
        let weights =
            serde_json::to_vec(&std::mem::take(&mut self.weights)).expect("invariant: records can be written as JSON");
        let mut message = (weights.len() as u64).to_le_bytes().to_vec();
        message.extend(weights);
        let has_states = states.is_some();
        message.extend(states.map(|states| states.encode()).unwrap_or_default());
        let messages = self.ranks.gather(&message)?;
        let Some(measuring) = &mut self.measuring else {
            return Ok(());
        };
        let (mut weights, mut shards) = (Vec::new(), Vec::new());
        for (rank, message) in messages.into_iter().enumerate() {
            let (own, states) = parts(&message).map_err(|problem| Error::Rank { rank, problem })?;
            weights.extend(own);
            if has_states {
                shards.push(LayerStates::decode(
                    Path::new(&format!("states of rank {rank}")),
                    states,
                )?);
            }
        }
        weights.sort_by_key(|block| block.block);
        weights.into_iter().try_for_each(|block| measuring.block(block))?;
        if has_states {
            measuring.layer(LayerStates::join(shards)?)
        } else {
            Ok(())
        }
    }
}

/// The weight metrics and the states in a message.
fn parts(message: &[u8]) -> Result<(Vec<BlockWeights>, &[u8]), String> {
    let cut = "its message is cut".to_owned();
    let (length, rest) = message.split_first_chunk::<8>().ok_or_else(|| cut.clone())?;
    let length = u64::from_le_bytes(*length) as usize;
    let (weights, states) = rest.split_at_checked(length).ok_or(cut)?;
    let weights = serde_json::from_slice(weights).map_err(|error| error.to_string())?;
    Ok((weights, states))
}

impl Sink for Gathering<'_> {
    fn phase(&self) -> &'static str {
        "metrics"
    }

    fn layer(&mut self, states: LayerStates) -> Result<()> {
        self.gather(Some(states))
    }

    fn block(&mut self, weights: BlockWeights) -> Result<()> {
        self.weights.push(weights);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::{Options, Protocol},
        probe::Pooling,
        progress::Silent,
        ranks::tests::on_ranks,
        study::{Layers, Variant},
    };
    use midblock_kernels::Cpu;
    use std::fs;
    use tempfile::TempDir;

    /// Two data sets of the embedded model and its variant, so few samples that some ranks have none of one.
    fn config(dir: &TempDir, samples: [usize; 2]) -> AnalyzeConfig {
        let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../midblock-cli/assets/quickstart");
        let rows = fs::read_to_string(assets.join("data.jsonl")).unwrap();
        let rows: Vec<&str> = rows.lines().collect();
        let data = |number: usize| {
            let path = dir.path().join(format!("{number}.jsonl"));
            fs::write(&path, rows[10 * number..][..samples[number]].join("\n")).unwrap();
            format!("d{number}={}", path.display()).parse().unwrap()
        };
        let path = |name: &str| assets.join(name).display().to_string();
        AnalyzeConfig {
            base: path("base"),
            variants: vec![Variant {
                name: "sft".into(),
                checkpoint: path("sft"),
            }],
            data: vec![data(0), data(1)],
            format: None,
            samples: 100,
            token_samples: 2,
            max_length: 24,
            layers: Layers::All,
            pooling: Pooling::Mean,
            resamples: 20,
            seed: 42,
            metrics: Options::default(),
        }
    }

    #[test]
    fn ranks_measure_what_one_process_measures() {
        let dir = TempDir::new().unwrap();
        let hub = HubOptions {
            offline: true,
            ..HubOptions::from_env()
        };
        for (samples, protocol, sizes) in [
            ([7, 4], Protocol::Default, &[2, 3][..]),
            ([4, 4], Protocol::Paper, &[6]),
        ] {
            let mut config = config(&dir, samples);
            config.metrics.protocol = protocol;
            config.layers = if protocol == Protocol::Paper {
                Layers::Key
            } else {
                Layers::All
            };
            let alone = super::super::analyze(&Cpu::new(), &config, &hub, &Silent, &|_| {}).unwrap();
            assert!(!alone.weights.is_empty());
            for &size in sizes {
                let on = |ranks: &Ranks| analyze_on(&Cpu::new(), &config, &hub, ranks, &Silent, &|_| {});
                let mut runs: Vec<_> = on_ranks(size, on).into_iter().map(Result::unwrap).collect();
                let run = runs.swap_remove(0).unwrap();
                assert!(runs.iter().all(Option::is_none));
                assert!(
                    run.records == alone.records && run.weights == alone.weights,
                    "{size} ranks"
                );
                assert_eq!(run.info.config, alone.info.config);
            }
        }
    }
}
