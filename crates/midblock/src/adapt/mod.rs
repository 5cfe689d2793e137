//! How parameters move: a [`Recipe`] (full fine-tuning, LoRA or masks, which blocks, which matrices) resolves to a [`Plan`], the
//! explicit, sorted list of what will be trained.
//!
//! | recipe | trains |
//! |---|---|
//! | full, every block | every parameter of the model |
//! | full, some blocks | all weights, biases and norms of these blocks, and what `extra` names |
//! | LoRA | a pair A (R, in), B (out, R) for each chosen matrix: `W + s·B·A`; the rank differs between blocks |
//! | masked | masks over the channels of the chosen blocks, and a tuned copy of their seven matrices: see [`MaskGroup`] |

mod carrier;
mod lora;
mod masks;
mod peft;
mod soft_prompt;

pub use carrier::{BlockThetas, Carrier, CarrierModel, CarrierOrigin};
pub use lora::{LoraOptions, Scaling, initial_a};
pub use masks::{MaskGroup, MaskOptions, Masks, column_channels};
pub use soft_prompt::{Origin, SoftPrompt, Source};

use crate::{
    Error, Result,
    model::{Architecture, Kind as ParameterKind, ParameterId, Part},
    select::{Layers, Modules},
};
use std::collections::BTreeSet;

/// How parameters move.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The parameters themselves.
    Full,
    /// A low-rank change of them.
    Lora(LoraOptions),
    /// An earlier change of them, where masks over channels let it through.
    Masked(MaskOptions),
}

/// What to train, as a user says it.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// How.
    pub kind: Kind,
    /// In which blocks.
    pub layers: Layers,
    /// Which linear layers of these blocks. `None`: q, k, v and o for LoRA; for full fine-tuning everything in a block,
    /// norms included. Masks are over all seven: `None`.
    pub modules: Option<Modules>,
    /// Full names of parameters to train besides, such as `model.norm.weight`; full fine-tuning only.
    pub extra: Vec<String>,
    /// Seed of a random choice of blocks.
    pub seed: u64,
}

/// What happens to one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Move {
    /// It is trained itself.
    Full,
    /// It gets a pair A (R, in), B (out, R) and becomes `W + s·B·A`.
    Lora {
        /// R.
        rank: usize,
        /// The numerator of s.
        alpha: f64,
        /// s.
        scale: f32,
        /// Probability that an element of the pair's input is dropped, in [0, 1).
        dropout: f32,
    },
    /// It becomes `W + (m_row ⊗ m_col) ⊙ (T − W)` with T of a tuned model.
    Masked {
        /// Whether T is trained beside the masks.
        weights: bool,
    },
}

/// One parameter that moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The weight; for full fine-tuning also a bias, a norm, the embedding or the head.
    pub id: ParameterId,
    /// Its shape: `[out, in]` or `[len]`.
    pub shape: Vec<usize>,
    /// How it moves.
    pub how: Move,
}

impl Entry {
    /// Numbers that are trained for it; masks, which matrices share, are in [`Plan::masks`].
    pub fn parameters(&self) -> usize {
        match self.how {
            Move::Full | Move::Masked { weights: true } => self.shape.iter().product(),
            Move::Masked { weights: false } => 0,
            Move::Lora { rank, .. } => rank * self.shape.iter().sum::<usize>(),
        }
    }
}

/// Everything that moves, explicitly.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// As the recipe said.
    pub kind: Kind,
    /// What moves, sorted by parameter; never empty.
    pub entries: Vec<Entry>,
    /// L: all blocks of the model, trained or not.
    pub blocks: usize,
}

impl Plan {
    /// Resolves a recipe for a model. `scores` holds a number for each block where
    /// [`Layers::needs_scores`] says so.
    ///
    /// # Errors
    /// [`Error::Argument`] if a choice matches nothing, names what is not there, or an option is out of range.
    pub fn resolve(architecture: &Architecture, recipe: &Recipe, scores: Option<&[f64]>) -> Result<Self> {
        let blocks = architecture.blocks;
        let mut entries = match &recipe.kind {
            Kind::Lora(options) => {
                if let Some(name) = recipe.extra.first() {
                    return Err(extra_error(
                        name,
                        "an adapter holds no parameters of the model itself",
                        "use full fine-tuning",
                    ));
                }
                options.check()?;
                let ranks = recipe.layers.ranks(blocks, options.rank, recipe.seed, scores)?;
                lora_entries(architecture, recipe.modules.as_ref(), options, &ranks)?
            }
            Kind::Full => {
                let active = recipe.layers.active(blocks, recipe.seed, scores)?;
                full_entries(architecture, recipe, &active)?
            }
            Kind::Masked(options) => {
                options.check()?;
                let active = recipe.layers.active(blocks, recipe.seed, scores)?;
                masked_entries(architecture, recipe, *options, &active)?
            }
        };
        entries.sort_by_key(|entry| entry.id);
        entries.dedup_by_key(|entry| entry.id);
        let kind = recipe.kind.clone();
        Ok(Self { kind, entries, blocks })
    }

    /// The lowest block whose input needs no gradient: backward stops here. L if only the final norm or the head moves.
    pub fn first_block(&self) -> usize {
        let first = |id: &ParameterId| match id {
            ParameterId::Embedding => 0,
            ParameterId::Block { block, .. } => *block,
            ParameterId::FinalNorm | ParameterId::Head => self.blocks,
        };
        self.entries
            .iter()
            .map(|entry| first(&entry.id))
            .min()
            .unwrap_or(self.blocks)
    }

    /// Whether the embedding moves (and with it a tied head), so that backward goes through all blocks to their input.
    pub fn trains_embedding(&self) -> bool {
        self.entry(ParameterId::Embedding).is_some()
    }

    /// The entry of a parameter, if it moves.
    pub fn entry(&self, id: ParameterId) -> Option<&Entry> {
        let found = self.entries.binary_search_by_key(&id, |entry| entry.id);
        found.ok().map(|index| &self.entries[index])
    }

    /// The parameters that are trained themselves, and not through a change beside them.
    pub fn moved_whole(&self) -> Vec<ParameterId> {
        let beside = |entry: &&Entry| matches!(entry.how, Move::Lora { .. });
        let whole = self.entries.iter().filter(|entry| !beside(entry));
        whole.map(|entry| entry.id).collect()
    }

    /// Numbers that are trained.
    pub fn parameters(&self) -> usize {
        let masks: usize = self.masks().map(|(.., channels)| channels).sum();
        self.entries.iter().map(Entry::parameters).sum::<usize>() + masks
    }

    /// Every group of masks: block, group, channels; none but for [`Kind::Masked`].
    pub fn masks(&self) -> impl Iterator<Item = (usize, MaskGroup, usize)> {
        let of = |entry: &Entry| match (entry.how, entry.id) {
            (Move::Masked { .. }, ParameterId::Block { block, part, .. }) => {
                let [rows, columns] = MaskGroup::of(part);
                let [out, inp] = [entry.shape[0], entry.shape[1]];
                // the columns of o are query heads', its group's channels kv heads'
                let columns = (part != Part::O).then_some((block, columns, inp));
                [Some((block, rows, out)), columns]
            }
            _ => [None, None],
        };
        let groups: BTreeSet<_> = self.entries.iter().flat_map(of).flatten().collect();
        groups.into_iter()
    }

    /// Numbers in f32 that are kept of each element of what is trained, besides its gradient: itself and AdamW's two moments; of a masked
    /// matrix what masks let through, and where it is trained the tuned one and its two moments.
    pub fn copies(&self) -> usize {
        match self.kind {
            Kind::Full | Kind::Lora(_) => 3,
            Kind::Masked(MaskOptions { weights: true, .. }) => 4,
            Kind::Masked(MaskOptions { weights: false, .. }) => 1,
        }
    }

    /// LoRA's rank in each block, 0 where there is none.
    pub fn ranks(&self) -> Vec<usize> {
        let mut ranks = vec![0; self.blocks];
        for entry in &self.entries {
            if let (Some(block), Move::Lora { rank, .. }) = (entry.id.block(), entry.how) {
                ranks[block] = rank;
            }
        }
        ranks
    }

    /// Blocks in which something moves, sorted.
    pub fn trained_blocks(&self) -> Vec<usize> {
        let mut blocks: Vec<usize> = self.entries.iter().filter_map(|entry| entry.id.block()).collect();
        blocks.dedup();
        blocks
    }
}

fn lora_entries(
    architecture: &Architecture,
    modules: Option<&Modules>,
    options: &LoraOptions,
    ranks: &[usize],
) -> Result<Vec<Entry>> {
    let active: Vec<usize> = (0..ranks.len()).filter(|&block| ranks[block] > 0).collect();
    let default = Modules::attention();
    let chosen = modules.unwrap_or(&default).resolve(architecture, &active)?;
    let shape = architecture.block_shape();
    let entry = |(block, part): (usize, Part)| Entry {
        id: ParameterId::Block {
            block,
            part,
            kind: ParameterKind::Weight,
        },
        shape: shape.linears[part as usize].1.to_vec(),
        how: options.of_rank(ranks[block]),
    };
    Ok(chosen.into_iter().map(entry).collect())
}

fn masked_entries(
    architecture: &Architecture,
    recipe: &Recipe,
    options: MaskOptions,
    active: &[usize],
) -> Result<Vec<Entry>> {
    if let Some(name) = recipe.extra.first() {
        return Err(extra_error(
            name,
            "only the matrices of blocks are masked",
            "use full fine-tuning",
        ));
    }
    if let Some(modules) = &recipe.modules {
        return Err(Error::Argument {
            what: "modules".into(),
            value: modules.to_string(),
            problem: "masks are over all seven matrices of a block".into(),
            help: "leave it out".into(),
        });
    }
    let shape = architecture.block_shape();
    let entry = |(&block, part): (&usize, Part)| Entry {
        id: ParameterId::Block {
            block,
            part,
            kind: ParameterKind::Weight,
        },
        shape: shape.linears[part as usize].1.to_vec(),
        how: Move::Masked {
            weights: options.weights,
        },
    };
    let all = active.iter().flat_map(|block| Part::LINEARS.map(|part| (block, part)));
    Ok(all.map(entry).collect())
}

fn full_entries(architecture: &Architecture, recipe: &Recipe, active: &[usize]) -> Result<Vec<Entry>> {
    let entry = |(id, shape)| Entry {
        id,
        shape,
        how: Move::Full,
    };
    let all = ParameterId::all(architecture);
    let extra: Vec<ParameterId> = recipe
        .extra
        .iter()
        .map(|name| extra_parameter(name, architecture))
        .collect::<Result<_>>()?;
    let modules = recipe
        .modules
        .as_ref()
        .map(|modules| modules.resolve(architecture, active))
        .transpose()?;
    let whole_model = recipe.layers == Layers::All && modules.is_none();
    let moves = |id: &ParameterId| match id {
        ParameterId::Block { block, part, .. } => match &modules {
            Some(chosen) => chosen.binary_search(&(*block, *part)).is_ok(),
            None => active.binary_search(block).is_ok(),
        },
        _ => whole_model,
    };
    Ok(all
        .into_iter()
        .filter(|(id, _)| moves(id) || extra.contains(id))
        .map(entry)
        .collect())
}

fn extra_parameter(name: &str, architecture: &Architecture) -> Result<ParameterId> {
    let id = ParameterId::parse(name, architecture);
    let stored = id.filter(|id| ParameterId::all(architecture).iter().any(|(other, _)| other == id));
    stored.ok_or_else(|| {
        let tied = architecture.tied_head && name.starts_with("lm_head");
        let help = if tied {
            "its head is the embedding: name model.embed_tokens.weight"
        } else {
            "give a full name, such as model.norm.weight"
        };
        extra_error(name, "the model has no such parameter", help)
    })
}

fn extra_error(name: &str, problem: &str, help: &str) -> Error {
    Error::Argument {
        what: "extra parameter".to_owned(),
        value: name.to_owned(),
        problem: problem.to_owned(),
        help: help.to_owned(),
    }
}

#[cfg(test)]
mod tests;
