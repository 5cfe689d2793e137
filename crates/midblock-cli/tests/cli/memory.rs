//! Private memory is one block's worth, however many blocks a model has.

use crate::{
    models::{asset, midblock, problems},
    random_checkpoint::Shape,
};
use midblock::run::{Run, private_rss_bytes};
use std::{fs, path::Path};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Writes a random model of `blocks` blocks into `dir`.
pub fn write_random(dir: &Path, blocks: usize, nudged: bool) -> String {
    let shape = Shape {
        hidden: 512,
        ffn: 1376,
        heads: 8,
        kv_heads: Some(4),
        vocab: 1000,
        blocks,
        shards: 2,
        nudged,
    };
    let folder = dir.join(if nudged { "variant" } else { "base" });
    shape.write(&folder).unwrap();
    fs::copy(
        asset("assets/quickstart/base/tokenizer.json"),
        folder.join("tokenizer.json"),
    )
    .unwrap();
    folder.display().to_string()
}

/// Peak private bytes of an analysis of two models of `blocks` blocks.
fn peak_private_bytes(blocks: usize, metrics: &str) -> u64 {
    let dir = TempDir::new().unwrap();
    let [base, variant] = [false, true].map(|nudged| write_random(dir.path(), blocks, nudged));
    let out = dir.path().join("out");
    let mut command = midblock();
    command.args(["analyze", "--base", &base, "--data", &problems("p")]);
    command.args([format!("--variant=v={variant}"), format!("--metrics={metrics}")]);
    command.args(["--samples=8", "--token-samples=4", "--max-length=24", "--resamples=20"]);
    command.arg("--out").arg(&out).assert().success();
    Run::open(&out).unwrap().info.peak_private_bytes.unwrap()
}

#[test]
fn private_memory_does_not_grow_with_the_number_of_blocks() {
    if private_rss_bytes().is_none() {
        return; // the system does not tell; the field is empty then
    }
    let grows_at_most = |metrics: &str, slack: u64| {
        let [few, many] = [2, 10].map(|blocks| peak_private_bytes(blocks, metrics));
        assert!(few > MIB, "{few} bytes cannot be all");
        let [few_mib, many_mib] = [few, many].map(|bytes| bytes / MIB);
        assert!(
            many <= few + few / 20 + slack,
            "{metrics}: {few_mib} MiB for 2 blocks, {many_mib} MiB for 10"
        );
    };
    grows_at_most("information,geometry,magnitude,spectrum,alignment", 8 * MIB);
    // Spectra of matrices come and go on two threads, and the allocator keeps between 45 and 80 MiB of what they needed,
    // at 40 blocks as at 10. Holding on to the 8 more blocks would take 100 MiB in bf16, 200 MiB in f32.
    grows_at_most("weights", 48 * MIB);
}
