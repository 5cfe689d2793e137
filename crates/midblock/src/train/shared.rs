//! What ranks say of the batches they have done: the sums of each, so that all add them up in the order of the batches.
//!
//! A byte says whether the rank was asked to stop before it was done; then, for each batch, its number, Σ nats, Σ objective and tokens.

use super::LossSum;

/// Bytes of a batch.
const RECORD: usize = 32;

impl LossSum {
    /// The sums of some batches, by number.
    pub(super) fn to_bytes(stopped: bool, sums: &[(usize, Self)]) -> Vec<u8> {
        let mut bytes = vec![u8::from(stopped)];
        for (batch, sum) in sums {
            bytes.extend((*batch as u64).to_le_bytes());
            bytes.extend(sum.nats.to_le_bytes());
            bytes.extend(sum.objective.to_le_bytes());
            bytes.extend((sum.tokens as u64).to_le_bytes());
        }
        bytes
    }

    /// The sum of all ranks' batches, in their order; `None` if a rank was asked to stop.
    pub(super) fn of_all(ranks: &[Vec<u8>]) -> Option<Self> {
        let mut sums = Vec::new();
        for bytes in ranks {
            let (stopped, records) = bytes.split_first()?;
            if *stopped != 0 {
                return None;
            }
            for record in records.chunks_exact(RECORD) {
                let word = |place: usize| {
                    let bytes = record[8 * place..][..8].try_into();
                    u64::from_le_bytes(bytes.expect("invariant: eight bytes"))
                };
                let sum = Self {
                    nats: f64::from_bits(word(1)),
                    objective: f64::from_bits(word(2)),
                    tokens: word(3) as usize,
                };
                sums.push((word(0), sum));
            }
        }
        sums.sort_by_key(|(batch, _)| *batch);
        let mut all = Self::default();
        sums.into_iter().for_each(|(_, sum)| all += sum);
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(nats: f64, tokens: usize) -> LossSum {
        let objective = 2.0 * nats;
        LossSum {
            nats,
            objective,
            tokens,
        }
    }

    #[test]
    fn batches_add_up_in_their_order_whoever_did_them() {
        let batches = [sum(0.1, 1), sum(1e16, 2), sum(-1e16, 3), sum(0.7, 4)];
        let mut alone = LossSum::default();
        batches.iter().for_each(|batch| alone += *batch);
        let own = |numbers: &[usize]| {
            let sums: Vec<_> = numbers.iter().map(|&number| (number, batches[number])).collect();
            LossSum::to_bytes(false, &sums)
        };
        for shares in [vec![own(&[0, 1, 2, 3])], vec![own(&[1, 3]), own(&[]), own(&[0, 2])]] {
            assert_eq!(LossSum::of_all(&shares), Some(alone)); // another order gives another sum
        }
        assert_eq!(LossSum::of_all(&[own(&[0]), LossSum::to_bytes(true, &[])]), None);
    }
}
