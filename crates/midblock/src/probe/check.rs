//! Whether models can walk in lockstep, and routes be led through them.

use super::{Participant, Route};
use crate::{Error, Result};
use rayon::prelude::*;

/// Models walk in lockstep if states and weights have the same shapes.
pub(super) fn check_same_shape(base: &Participant<'_>, variant: &Participant<'_>) -> Result<()> {
    let (a, b) = (&base.architecture, &variant.architecture);
    let sizes = [
        ("num_hidden_layers", a.blocks, b.blocks),
        ("hidden_size", a.hidden, b.hidden),
        ("vocab_size", a.vocab, b.vocab),
        ("intermediate_size", a.ffn, b.ffn),
        ("num_attention_heads", a.heads, b.heads),
        ("num_key_value_heads", a.kv_heads, b.kv_heads),
        ("head_dim", a.head_dim, b.head_dim),
    ];
    let mismatch = |what: &str, left: String, right: String| Error::Mismatch {
        left: format!("{} ({})", base.name, base.checkpoint.label()),
        right: format!("{} ({})", variant.name, variant.checkpoint.label()),
        what: what.to_owned(),
        left_value: left,
        right_value: right,
        help: "base and variants must be the same architecture with other weights".to_owned(),
    };
    if a.model_type != b.model_type {
        return Err(mismatch("model_type", a.model_type.clone(), b.model_type.clone()));
    }
    match sizes.iter().find(|(_, a, b)| a != b) {
        Some((key, a, b)) => Err(mismatch(key, a.to_string(), b.to_string())),
        None => Ok(()),
    }
}

/// Refuses to blend what cannot be blended.
pub(super) fn check_route(route: &Route, participants: &[Participant<'_>]) -> Result<()> {
    let base = &participants[0];
    assert_eq!(route.blocks.len(), base.architecture.blocks, "blocks of {}", route.name);
    for vector in route.added.iter().flatten() {
        assert_eq!(vector.len(), base.architecture.hidden, "what {} adds", route.name);
    }
    let blends = route.mixes().filter(|mix| mix.participant().is_none());
    blends
        .map(|mix| &participants[mix.variant])
        .try_for_each(|variant| check_same_architecture(base, variant))
}

/// Weights can be blended if whatever else makes the function is the same.
pub(crate) fn check_same_architecture(base: &Participant<'_>, variant: &Participant<'_>) -> Result<()> {
    check_same_shape(base, variant)?;
    let (left, right) = (&base.architecture, &variant.architecture);
    if left == right {
        return Ok(());
    }
    Err(Error::Mismatch {
        left: format!("{} ({})", base.name, base.checkpoint.label()),
        right: format!("{} ({})", variant.name, variant.checkpoint.label()),
        what: "the architecture".to_owned(),
        left_value: format!("{left:?}"),
        right_value: format!("{right:?}"),
        help: "weights of models that compute differently cannot be blended: compare their config.json".to_owned(),
    })
}

/// Refuses tokens that the model has no row for.
pub(super) fn check_ids(participant: &Participant<'_>, sequences: &[Vec<u32>]) -> Result<()> {
    let vocab = participant.architecture.vocab;
    match sequences.par_iter().flatten().max() {
        Some(&id) if id as usize >= vocab => Err(Error::Mismatch {
            left: format!("the tokenizer of {}", participant.name),
            right: "its embedding".to_owned(),
            what: "largest token id against rows".to_owned(),
            left_value: id.to_string(),
            right_value: vocab.to_string(),
            help: "the tokenizer belongs to another checkpoint".to_owned(),
        }),
        _ => Ok(()),
    }
}
