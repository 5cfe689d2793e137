//! Hidden states, final norm, logits and losses of every family, whole tensors.

use crate::{
    difference::Difference,
    fixture::{self, Fixture, Run},
    outputs::{Outputs, compare},
};
use midblock_kernels::{Backend, Cpu, Reference};

/// f32 against f32: both sides round. Measured: 9.1e-6; transformers alone is up to 1.0e-5 from its f64 run (MANIFEST.json).
pub const SINGLE: f64 = 2e-5;
/// f32 against transformers in f64: our own rounding. Measured: 7.8e-6.
const OWN_ROUNDING: f64 = 2e-5;
/// f64 against f64: what is left is that angles are rounded to f32 here, as transformers does when it is not made to use
/// f64. Measured: 1.3e-6.
const DOUBLE: f64 = 5e-6;

/// Panics with every comparison that is out of tolerance.
fn check<B: Backend>(backend: &B, name: &'static str, run: Run, tolerance: f64) {
    let differences = compare(backend, &Fixture::open(name), run);
    let bad: Vec<_> = differences
        .iter()
        .filter(|d| d.max > tolerance)
        .map(|d| d.to_string())
        .collect();
    assert!(
        bad.is_empty(),
        "{} of {} over {tolerance:e}:\n{}",
        bad.len(),
        differences.len(),
        bad.join("\n")
    );
    println!(
        "{} comparisons, {}",
        differences.len(),
        Difference::worst_of(differences)
    );
}

macro_rules! families {
    ($($test:ident = $folder:literal),* $(,)?) => {
        /// Every fixture.
        pub const FAMILIES: &[&str] = &[$($folder),*];

        mod cpu_against_transformers { $(#[test] fn $test() { super::check(&super::Cpu::new(), $folder, super::Run::Single, super::SINGLE) })* }
        mod cpu_against_f64 { $(#[test] fn $test() { super::check(&super::Cpu::new(), $folder, super::Run::Double, super::OWN_ROUNDING) })* }
        mod reference_against_f64 { $(#[test] fn $test() { super::check(&super::Reference, $folder, super::Run::Double, super::DOUBLE) })* }
        mod batching { $(#[test] fn $test() { super::a_batch_equals_its_sequences($folder) })* }
        mod final_norm { $(#[test] fn $test() { super::last_hidden_state_of_transformers_is_normed($folder) })* }
    };
}

families! {
    llama_tied = "llama-tied",
    llama_rope_llama3 = "llama-rope-llama3",
    llama_rope_linear = "llama-rope-linear",
    llama_rope_yarn = "llama-rope-yarn",
    llama_bias = "llama-bias",
    mistral = "mistral",
    qwen2 = "qwen2",
    qwen3 = "qwen3",
    qwen3_layer_types = "qwen3-layer-types",
    olmo2 = "olmo2",
}

/// A row's values are the same bits alone and among others.
fn a_batch_equals_its_sequences(name: &'static str) {
    let fixture = Fixture::open(name);
    let rows = fixture.rows();
    let sequences: Vec<_> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let together = Outputs::computed(&Cpu::new(), &fixture, &sequences);
    for (sequence, in_batch) in sequences.iter().zip(together) {
        let alone = Outputs::computed(&Cpu::new(), &fixture, &[sequence]);
        assert_eq!(alone, [in_batch], "{name}: {} tokens", sequence.len());
    }
}

/// The one place where layers have other names there: the last entry of `hidden_states` is not h[L].
fn last_hidden_state_of_transformers_is_normed(name: &'static str) {
    let fixture = Fixture::open(name);
    let rows = fixture.rows();
    let sequences: Vec<_> = rows.iter().map(|row| row.ids.as_slice()).collect();
    for (row, got) in rows.iter().zip(Outputs::computed(&Cpu::new(), &fixture, &sequences)) {
        let theirs = fixture.states(row, Run::Single, "hf_hidden_last", 0);
        let normed = Difference::between("final norm", &got.final_norm, &theirs);
        assert!(normed.max <= SINGLE, "{normed}");
        let last = got.hidden.last().expect("an embedding at least");
        let raw = Difference::between("h[L]", last, &theirs);
        assert!(raw.max > 0.1, "h[L] must not look like the normed state: {raw}");
    }
}

#[test]
fn every_folder_with_expected_values_is_tested() {
    let folders = std::fs::read_dir(fixture::folder()).expect("fixtures exist");
    let mut found: Vec<_> = folders
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.join("expected.safetensors").exists())
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort_unstable();
    let mut listed = FAMILIES.to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}
