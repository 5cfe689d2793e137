//! `midblock corpus`: the generated text of the embedded model, as JSONL.

use crate::args;
use anyhow::{Context, Result};
use midblock::corpus::{Corpus, Split};
use std::fs;

/// Writes the rows.
pub fn run(args: &args::Corpus) -> Result<()> {
    let corpus = Corpus {
        kind: args.kind,
        split: if args.held_out { Split::HeldOut } else { Split::Train },
        seed: args.seed,
    };
    fs::write(&args.out, corpus.jsonl(args.rows)).with_context(|| format!("writing {}", args.out.display()))
}
