//! Writes a random checkpoint of any shape, to measure what working on such a model takes.
//!
//! ```text
//! cargo run --release --example random_checkpoint -- --hidden 4096 --ffn 11008 --heads 32 --vocab 32000 --blocks 4 DIR
//! cargo run --release --example random_checkpoint -- --hidden 5120 --ffn 27648 --heads 40 --kv-heads 8 --vocab 152064 --blocks 2 DIR
//! ```

mod writer;

use clap::Parser;
use std::path::PathBuf;

/// Write a Llama-shaped checkpoint of random bf16 weights.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    shape: writer::Shape,
    /// A tokenizer.json to put beside the weights; its ids must be below --vocab
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// Folder to write
    dir: PathBuf,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    args.shape.write(&args.dir)?;
    if let Some(tokenizer) = args.tokenizer {
        std::fs::copy(tokenizer, args.dir.join("tokenizer.json"))?;
    }
    Ok(())
}
