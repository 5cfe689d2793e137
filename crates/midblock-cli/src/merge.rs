//! `midblock merge`: an adapter into its base, a variant by segments, or any checkpoint into a Hugging Face folder.

use crate::{args, checkpoint, progress::Terminal};
use anyhow::Result;
use midblock::{
    checkpoint::{Checkpoint, TokenizerSource, WriteOptions, Written, check_new},
    study::{Blend, logit_difference, merge},
};
use midblock_kernels::Cpu;

/// Writes the folder, opens it again and says how far it is from what it was made of.
pub fn run(args: &args::Merge, common: &args::Common) -> Result<()> {
    check_new(&args.out)?;
    let source = checkpoint::open(&args.checkpoint, common)?;
    match &args.variant {
        Some(variant) => by_segments(args, &source, &checkpoint::open(variant, common)?, common),
        None => as_it_is(args, &source, common),
    }
}

/// The checkpoint with its adapter, if it has one.
fn as_it_is(args: &args::Merge, source: &Checkpoint, common: &args::Common) -> Result<()> {
    let adapted = source.adapter().map_or(0, |adapter| adapter.pairs.len());
    anyhow::ensure!(
        adapted > 0 || changes_anything(args, source),
        "{} has no adapter and is a Hugging Face folder already\n  help: give BASE+ADAPTER, or a --dtype to convert to",
        source.label()
    );
    let (backend, terminal) = (Cpu::new(), Terminal::new(common.quiet));
    let written = merge(&backend, source, &args.out, &options(args), &terminal)?;
    println!("{}, {adapted} matrices merged", in_words(args, &written));
    if args.check > 0 {
        let merged = checkpoint::open(&args.out.display().to_string(), common)?;
        let difference = logit_difference(&backend, [source, &merged], args.check, &terminal)?;
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

/// Base and variant with one α for each segment.
fn by_segments(args: &args::Merge, base: &Checkpoint, variant: &Checkpoint, common: &args::Common) -> Result<()> {
    let blend = Blend::new(base, variant, &args.alphas)?;
    let (backend, terminal) = (Cpu::new(), Terminal::new(common.quiet));
    let written = blend.write(&backend, &args.out, &options(args), &terminal)?;
    println!("{}", in_words(args, &written));
    let route = blend.route();
    let mut start = 0;
    for blocks in route.blocks.chunk_by(|a, b| a == b) {
        println!("blocks {}-{}: α {}", start + 1, start + blocks.len(), blocks[0].alpha);
        start += blocks.len();
    }
    let tied = if blend.tied() { ", it is the head" } else { "" };
    println!(
        "final norm and head: α {}; embedding: α {}{tied}",
        route.ends.alpha, route.embedding.alpha
    );
    if args.check > 0 {
        let merged = checkpoint::open(&args.out.display().to_string(), common)?;
        let difference = blend.difference(&backend, &merged, args.check, &terminal)?;
        println!(
            "losses against {} and {} blended: largest difference {:.3e} nats, mean {:.3e}, same most likely token at {} of {} positions",
            base.label(),
            variant.label(),
            difference.largest,
            difference.mean,
            difference.same_top,
            difference.positions
        );
    }
    Ok(())
}

fn options(args: &args::Merge) -> WriteOptions {
    WriteOptions {
        dtype: args.dtype.dtype(),
        max_shard_bytes: args.max_shard_size.0,
    }
}

/// "DIR: 272 tensors, 134515008 parameters, 269030016 bytes in 1 file".
fn in_words(args: &args::Merge, written: &Written) -> String {
    format!(
        "{}: {} tensors, {} parameters, {} bytes in {} file{}",
        args.out.display(),
        written.tensors,
        written.parameters,
        written.bytes,
        written.shards,
        if written.shards == 1 { "" } else { "s" },
    )
}

/// Whether writing a checkpoint without adapter makes something else of it.
fn changes_anything(args: &args::Merge, source: &Checkpoint) -> bool {
    let from_gguf = matches!(source.tokenizer(), TokenizerSource::Embedded { .. }) || source.path().is_file();
    from_gguf || args.dtype != args::WeightFormat::Same || args.max_shard_size != args::ByteSize::default()
}
