//! Purpose-separated random streams: every use of chance draws from a ChaCha8 stream of its own.
//!
//! The 32-byte key of a stream is `blake3::derive_key("midblock rng v1", seed ‖ |purpose| ‖ purpose ‖ indices)`, integers as
//! 64-bit little endian. A stream depends on nothing else, neither on which other streams exist nor on how much was drawn
//! from them: leaving layer 3 out of a run does not change what layer 4 draws, and threads need no order.

use rand::{Rng, RngExt};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// The stream of `(seed, purpose, indices)`; `purpose` names the use ("bootstrap", "select"), `indices` say for which
/// layer, module, sample or resample. Changing the purposes or the derivation changes every result of a run.
///
/// ```
/// use rand_chacha::rand_core::Rng;
/// let mut a = midblock::rng::stream(42, "bootstrap", &[3]);
/// let mut b = midblock::rng::stream(42, "bootstrap", &[4]);
/// assert_ne!(a.next_u64(), b.next_u64());
/// ```
pub fn stream(seed: u64, purpose: &str, indices: &[u64]) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("midblock rng v1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes()); // so that ("ab", [..]) and ("a", [b'b', ..]) differ
    hasher.update(purpose.as_bytes());
    for index in indices {
        hasher.update(&index.to_le_bytes());
    }
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// A standard normal number (Box and Muller 1958).
pub fn normal(random: &mut impl Rng) -> f64 {
    let (radius, angle): (f64, f64) = (random.random_range(0.0..1.0), random.random_range(0.0..1.0));
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::Rng;
    use std::collections::BTreeSet;

    fn first(seed: u64, purpose: &str, indices: &[u64]) -> [u64; 4] {
        let mut rng = stream(seed, purpose, indices);
        std::array::from_fn(|_| rng.next_u64())
    }

    #[test]
    fn the_same_key_gives_the_same_stream() {
        assert_eq!(first(42, "select", &[1, 2]), first(42, "select", &[1, 2]));
    }

    /// Results of a seed must survive new versions: this pins the derivation.
    #[test]
    fn the_derivation_is_pinned() {
        assert_eq!(stream(42, "select", &[]).next_u64(), 17_901_455_352_519_912_276);
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let keys: [(u64, &str, &[u64]); 9] = [
            (42, "select", &[]),
            (43, "select", &[]),
            (42, "selecu", &[]),
            (42, "", &[]),
            (42, "select", &[0]),
            (42, "select", &[0, 0]),
            (42, "select", &[1]),
            (42, "select", &[0, 1]),
            (42, "select", &[1, 0]),
        ];
        let streams: BTreeSet<_> = keys.iter().map(|(s, p, i)| first(*s, p, i)).collect();
        assert_eq!(streams.len(), keys.len());
    }
}
