//! `midblock perplexity`: mean next-token loss on text.

use crate::{analyze, args, checkpoint, progress::Terminal};
use anyhow::Result;
use midblock::{
    probe::next_token_loss,
    tokens::{SampleSet, Tokenizer, data::resolve},
};
use midblock_kernels::Cpu;
use serde_json::json;

/// Prints one line (or JSON object) per data set.
pub fn run(args: &args::Perplexity, common: &args::Common) -> Result<()> {
    anyhow::ensure!(
        args.texts.max_length > 1,
        "--max-length {}: the first token of a text is not predicted\n  help: give at least 2",
        args.texts.max_length
    );
    let checkpoint = checkpoint::open(&args.checkpoint, common)?;
    let tokenizer = Tokenizer::load(checkpoint.tokenizer())?;
    let terminal = Terminal::new(common.quiet);
    for spec in analyze::data(&args.texts)? {
        let files = resolve(&spec.source, &checkpoint::hub(common), &|transfer| {
            terminal.transfer(&transfer)
        })?;
        let samples = SampleSet::load(&spec, &files, args.texts.format, args.texts.samples, args.texts.seed)?;
        let tokens = samples.tokenize(&tokenizer, Some(args.texts.max_length))?;
        let loss = next_token_loss(&Cpu::new(), &checkpoint, &tokens.ids, &terminal)?;
        if args.json {
            let value = json!({
                "checkpoint": checkpoint.label(), "dataset": spec.name, "samples": tokens.ids.len(),
                "samples_truncated": tokens.truncated, "rows_skipped": samples.skipped.len() + tokens.skipped.len(),
                "predicted_tokens": loss.predicted, "mean_loss_nats": loss.mean(), "perplexity": loss.mean().exp(),
            });
            println!("{value}");
        } else {
            println!(
                "{}: perplexity {:.4}, loss {:.6} nats, over {} predicted tokens of {} samples",
                spec.name,
                loss.mean().exp(),
                loss.mean(),
                loss.predicted,
                tokens.ids.len()
            );
        }
    }
    Ok(())
}
