//! `midblock merge`: an adapter into its base, or any checkpoint into a Hugging Face folder.

use crate::{args, checkpoint, progress::Terminal};
use anyhow::Result;
use midblock::{
    checkpoint::{Checkpoint, TokenizerSource, WriteOptions, check_new},
    study::{logit_difference, merge},
};
use midblock_kernels::Cpu;

/// Writes the folder, opens it again and says how far its logits are from those of the checkpoint as given.
pub fn run(args: &args::Merge, common: &args::Common) -> Result<()> {
    check_new(&args.out)?;
    let source = checkpoint::open(&args.checkpoint, common)?;
    let adapted = source.adapter().map_or(0, |adapter| adapter.pairs.len());
    anyhow::ensure!(
        adapted > 0 || changes_anything(args, &source),
        "{} has no adapter and is a Hugging Face folder already\n  help: give BASE+ADAPTER, or a --dtype to convert to",
        source.label()
    );
    let options = WriteOptions {
        dtype: args.dtype.dtype(),
        max_shard_bytes: args.max_shard_size.0,
    };
    let (backend, terminal) = (Cpu::new(), Terminal::new(common.quiet));
    let written = merge(&backend, &source, &args.out, &options, &terminal)?;
    println!(
        "{}: {} tensors, {} parameters, {} bytes in {} file{}, {adapted} matrices merged",
        args.out.display(),
        written.tensors,
        written.parameters,
        written.bytes,
        written.shards,
        if written.shards == 1 { "" } else { "s" },
    );
    if args.check > 0 {
        let merged = checkpoint::open(&args.out.display().to_string(), common)?;
        let difference = logit_difference(&backend, [&source, &merged], args.check, &terminal)?;
        println!(
            "logits against {}: largest difference {:.3e}, mean {:.3e}, same most likely token at {} of {} positions",
            source.label(),
            difference.largest,
            difference.mean,
            difference.same_top,
            difference.positions
        );
    }
    Ok(())
}

/// Whether writing a checkpoint without adapter makes something else of it.
fn changes_anything(args: &args::Merge, source: &Checkpoint) -> bool {
    let from_gguf = matches!(source.tokenizer(), TokenizerSource::Embedded { .. }) || source.path().is_file();
    from_gguf || args.dtype != args::WeightFormat::Same || args.max_shard_size != args::ByteSize::default()
}
