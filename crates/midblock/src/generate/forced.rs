//! What a model would say at each place of given sequences, and how far two models are from each other there.
//!
//! Kept of a place is its normed state, (D), from which the whole distribution is one product with the head: D numbers instead of V.

use super::{
    engine::Engine,
    passes::{Extension, Phase, Wanted},
};
use crate::{Error, Result};
use midblock_kernels::Backend;

/// A sequence whose next-token distributions are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forced<'a> {
    /// Token ids, at least one.
    pub ids: &'a [u32],
    /// Wanted are the distributions after this token, 0-based, and after each that follows.
    pub from: usize,
}

impl<B: Backend> Engine<'_, B> {
    /// Normed states of the wanted places of each sequence, (`ids.len() − from`, D) row-major, with the trigger in front of it if there
    /// is one. A sequence's are the same bits whatever it is with.
    ///
    /// # Errors
    /// [`Error::Argument`] if a sequence is empty, too long or of another vocabulary; [`Error::StateNotFinite`];
    /// [`Error::Interrupted`].
    ///
    /// # Panics
    /// If `from` is not below the number of ids.
    pub fn forced_states(&mut self, sequences: &[Forced<'_>]) -> Result<Vec<Vec<f32>>> {
        for (index, Forced { ids, from }) in sequences.iter().enumerate() {
            self.check(&format!("sequence {}", index + 1), ids, 0)?;
            assert!(*from < ids.len(), "place {from} of {}", ids.len());
        }
        self.begin();
        let mut states = vec![Vec::new(); sequences.len()];
        let slots = self.cache.slots();
        for (group, sequences) in sequences.chunks(slots).enumerate() {
            let extensions: Vec<Extension<'_>> = (0..)
                .zip(sequences)
                .map(|(slot, Forced { ids, from })| Extension { slot, ids, from: *from })
                .collect();
            let own = &mut states[group * slots..][..sequences.len()];
            let mut look = |engine: &mut Self, wanted: &[Wanted]| engine.take_states(wanted, group * slots, own);
            let looked = self.passes(&extensions, Phase::Score, &mut look);
            (0..sequences.len()).for_each(|slot| self.forget(slot, 0));
            looked?;
        }
        Ok(states)
    }

    /// Adds the normed states of wanted rows to those of their sequences; these are the `before`-th and following.
    fn take_states(&mut self, wanted: &[Wanted], before: usize, states: &mut [Vec<f32>]) -> Result<()> {
        let architecture = self.decoder.architecture();
        let rows: Vec<usize> = wanted.iter().map(|(row, ..)| *row).collect();
        let normed = self.decoder.ends().normed_rows(self.backend, &self.hidden, &rows);
        let mut values = vec![0f32; self.backend.len(&normed)];
        self.backend.read(&normed, 0, &mut values);
        for ((_, which, _), state) in wanted.iter().zip(values.chunks_exact(architecture.hidden)) {
            if state.iter().any(|value| !value.is_finite()) {
                return Err(Error::StateNotFinite {
                    model: self.label.clone(),
                    layer: architecture.blocks,
                    sample: format!("sequence {}", before + which + 1),
                });
            }
            states[*which].extend_from_slice(state); // a sequence's parts come in their order
        }
        Ok(())
    }

    /// KL(p ‖ q) in nats at each place, where p is what this model makes of `states` and q what `other` makes of `others`: normed states
    /// of the same places, (n, D) of each model, as [`forced_states`](Self::forced_states) gives them.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the models have other vocabularies.
    ///
    /// # Panics
    /// If there are not as many states of the one as of the other.
    pub fn divergences(&self, states: &[f32], other: &Engine<'_, B>, others: &[f32]) -> Result<Vec<f64>> {
        let [mine, theirs] = [&self.decoder, &other.decoder].map(|decoder| decoder.architecture());
        if mine.vocab != theirs.vocab {
            return Err(Error::Mismatch {
                left: self.label.clone(),
                right: other.label.clone(),
                what: "vocabulary".into(),
                left_value: mine.vocab.to_string(),
                right_value: theirs.vocab.to_string(),
                help: "models with the same tokens can be compared".into(),
            });
        }
        let places = states.len() / mine.hidden;
        assert_eq!(
            [states.len(), others.len()],
            [places * mine.hidden, places * theirs.hidden],
            "states of both models"
        );
        let [states, others] = [states, others].map(|states| self.backend.upload(states));
        let (own, other) = (self.decoder.ends(), other.decoder.ends());
        Ok(own.divergences(self.backend, &states, other, &others))
    }
}
