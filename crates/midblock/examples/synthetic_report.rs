//! Writes a run folder with made-up numbers, to look at the report: `cargo run --example synthetic_report -- DIR`.

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

use midblock::{report, run};

fn main() -> midblock::Result<()> {
    let dir = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target/synthetic-report".into());
    let run = synthetic::run(&["sft", "dpo"], &["gsm8k", "wikitext"]);
    let page = report::html::render(&run);
    run::write(&dir, &run, &page, true)
}
