//! A carrier on disk: which channels of each block carry a behaviour, beside the merged model that a run leaves (Crafting Reversible SFT
//! Behaviors, arXiv 2605.06632).
//!
//! | file | holds |
//! |---|---|
//! | `masks.safetensors` | for each masked block i and group: θ as `model.layers.{i}.{group}`, f32, and `model.layers.{i}.{group}.mask`, bool: θ > 0 |
//! | `carrier.json` | what it was made from and how, the active channels of each group, what share is off |
//!
//! Blocks without masks are the base's: no channel of theirs is active.

use super::{MaskGroup, Masks};
use crate::{
    Error, Result,
    checkpoint::{FileHash, create_folder},
    model::Architecture,
    run::write_bytes,
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Version of the layout. A reader refuses a higher one.
const SCHEMA: u32 = 1;
const DESCRIPTION: &str = "carrier.json";
const TENSORS: &str = "masks.safetensors";

/// θ of the groups of a block, in the order of [`MaskGroup::ALL`].
pub type BlockThetas = [Vec<f32>; 8];

/// The masks of a carrier and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Carrier {
    origin: CarrierOrigin,
    /// Of each block; none where the block is the base's.
    thetas: Vec<Option<BlockThetas>>,
    masks: Masks,
}

/// What a carrier was made from, and where its run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CarrierOrigin {
    /// The model that masked channels fall back to.
    pub base: CarrierModel,
    /// The model whose change is masked, as it was before the first step.
    pub tuned: CarrierModel,
    /// The options of the run: its `[adapt]` and `[objective]`.
    pub options: serde_json::Value,
    /// Steps done.
    pub step: u64,
    /// λ at the end.
    pub lambda: f64,
    /// What the loss was to stay under, in nats; none if the warm-up did not end.
    pub limit: Option<f64>,
    /// Moving average of the loss at the end, in nats.
    pub loss: Option<f64>,
}

/// A model that a carrier was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CarrierModel {
    /// What the user typed.
    pub label: String,
    /// Every file that decides its behaviour.
    pub files: Vec<FileHash>,
}

/// `carrier.json`.
#[derive(Serialize, Deserialize)]
struct Description {
    midblock_carrier_schema: u32,
    midblock_version: String,
    #[serde(flatten)]
    origin: CarrierOrigin,
    /// L, masked or not.
    blocks: usize,
    /// Channels of each group of a block.
    channels: BTreeMap<String, usize>,
    /// Share of the masked blocks' channels that is off: of each group, and of all.
    sparsity: Sparsity,
    /// The masked blocks, ascending.
    masked: Vec<Active>,
}

#[derive(Serialize, Deserialize)]
struct Sparsity {
    groups: BTreeMap<String, f64>,
    all: f64,
}

/// The active channels of a block.
#[derive(Serialize, Deserialize)]
struct Active {
    block: usize,
    active: BTreeMap<String, Vec<usize>>,
}

impl Carrier {
    /// Of θ of each block; none where the block has no masks.
    ///
    /// # Panics
    /// If no block has masks, or a group has different numbers of channels.
    pub fn new(thetas: Vec<Option<BlockThetas>>, origin: CarrierOrigin) -> Self {
        let masked = thetas.iter().flatten().next().expect("a block with masks");
        let lengths: [usize; 8] = std::array::from_fn(|group| masked[group].len());
        let of_block = |theta: &Option<BlockThetas>| match theta {
            Some(groups) => std::array::from_fn(|group| {
                assert_eq!(
                    groups[group].len(),
                    lengths[group],
                    "channels of {}",
                    MaskGroup::ALL[group]
                );
                groups[group].iter().map(|theta| *theta > 0.0).collect()
            }),
            None => lengths.map(|len| vec![false; len]),
        };
        let masks = Masks {
            blocks: thetas.iter().map(of_block).collect(),
        };
        Self { origin, thetas, masks }
    }

    /// The active channels of every block.
    pub fn masks(&self) -> &Masks {
        &self.masks
    }

    /// What it was made from.
    pub fn origin(&self) -> &CarrierOrigin {
        &self.origin
    }

    /// The blocks that have masks, ascending, 0-based; all others are the base's.
    pub fn masked_blocks(&self) -> Vec<usize> {
        let blocks = 0..self.thetas.len();
        blocks.filter(|block| self.thetas[*block].is_some()).collect()
    }

    /// θ of each channel of a group; none if the block has no masks.
    pub fn theta(&self, block: usize, group: MaskGroup) -> Option<&[f32]> {
        let groups = self.thetas[block].as_ref()?;
        Some(&groups[group as usize])
    }

    /// Share of the masked blocks' channels of a group that is off.
    pub fn sparsity(&self, group: MaskGroup) -> f64 {
        self.off(&[group])
    }

    /// Share of the masked blocks' channels of all groups that is off.
    pub fn sparsity_of_all(&self) -> f64 {
        self.off(&MaskGroup::ALL)
    }

    fn off(&self, groups: &[MaskGroup]) -> f64 {
        let (mut active, mut all) = (0, 0);
        for block in self.masked_blocks() {
            for group in groups {
                active += self.masks.active(block, *group);
                all += self.masks.group(block, *group).len();
            }
        }
        1.0 - active as f64 / all as f64
    }

    /// Checks that the masks are those of a model of this architecture; `model` is its name in the error.
    ///
    /// # Errors
    /// [`Error::Mismatch`].
    pub fn check(&self, architecture: &Architecture, model: &str) -> Result<()> {
        let mismatch = |what: String, own: usize, its: usize| Error::Mismatch {
            left: "the carrier".into(),
            right: model.to_owned(),
            what,
            left_value: own.to_string(),
            right_value: its.to_string(),
            help: "the carrier was made from another model".into(),
        };
        if self.masks.blocks() != architecture.blocks {
            return Err(mismatch(
                "number of blocks".into(),
                self.masks.blocks(),
                architecture.blocks,
            ));
        }
        for group in MaskGroup::ALL {
            let (own, its) = (self.masks.group(0, group).len(), group.channels(architecture));
            if own != its {
                return Err(mismatch(format!("channels of {group}"), own, its));
            }
        }
        Ok(())
    }

    /// Writes the folder `dir`, which appears as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is there and not empty; [`Error::Io`].
    pub fn write(&self, dir: &Path) -> Result<()> {
        create_folder(dir, |folder| {
            write_bytes(&folder.join(TENSORS), &self.tensors())?;
            let json = folder.join(DESCRIPTION);
            let text =
                serde_json::to_vec(&self.description()).map_err(|error| Error::io("write", &json)(error.into()))?;
            write_bytes(&json, &text)
        })
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] naming file and tensor or key, if a file is not whole, of a newer version, or both contradict
    /// each other.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(DESCRIPTION);
        let description = read_description(&path)?;
        let malformed = |problem: String| Error::malformed(&path, "carrier", problem);
        let mut thetas = vec![None; description.blocks];
        let tensors = Tensors::read(dir.join(TENSORS), &description)?;
        for Active { block, active } in &description.masked {
            let slot = thetas.get_mut(*block).filter(|slot| slot.is_none());
            let slot = slot.ok_or_else(|| malformed(format!("there is no block {block}, or it is there twice")))?;
            let groups = tensors.block(*block)?;
            for (group, theta) in MaskGroup::ALL.into_iter().zip(&groups) {
                if active.get(group.name()) != Some(&active_channels(theta)) {
                    let problem = format!("the active channels of block {block}, {group} are not those of {TENSORS}");
                    return Err(malformed(problem));
                }
            }
            *slot = Some(groups);
        }
        if thetas.iter().all(Option::is_none) {
            return Err(malformed("no block has masks".into()));
        }
        Ok(Self::new(thetas, description.origin))
    }

    fn description(&self) -> Description {
        let active = |block: usize, groups: &BlockThetas| {
            let of_group = |group: MaskGroup| (group.name().to_owned(), active_channels(&groups[group as usize]));
            Active {
                block,
                active: MaskGroup::ALL.into_iter().map(of_group).collect(),
            }
        };
        let blocks = (0..).zip(&self.thetas);
        let of_groups = MaskGroup::ALL.into_iter();
        Description {
            midblock_carrier_schema: SCHEMA,
            midblock_version: env!("CARGO_PKG_VERSION").into(),
            origin: self.origin.clone(),
            blocks: self.thetas.len(),
            channels: (of_groups.clone())
                .map(|group| (group.name().to_owned(), self.masks.group(0, group).len()))
                .collect(),
            sparsity: Sparsity {
                groups: of_groups
                    .map(|group| (group.name().to_owned(), self.sparsity(group)))
                    .collect(),
                all: self.sparsity_of_all(),
            },
            masked: blocks
                .filter_map(|(block, groups)| Some(active(block, groups.as_ref()?)))
                .collect(),
        }
    }

    fn tensors(&self) -> Vec<u8> {
        let mut values: Vec<(String, Dtype, usize, Vec<u8>)> = Vec::new();
        for (block, groups) in self.thetas.iter().enumerate() {
            for (group, theta) in MaskGroup::ALL.into_iter().zip(groups.iter().flatten()) {
                let bytes = theta.iter().flat_map(|theta| theta.to_le_bytes()).collect();
                let mask = theta.iter().map(|theta| u8::from(*theta > 0.0)).collect();
                values.push((name(block, group), Dtype::F32, theta.len(), bytes));
                values.push((mask_name(block, group), Dtype::BOOL, theta.len(), mask));
            }
        }
        let views = values.iter().map(|(name, dtype, len, bytes)| {
            let view = TensorView::new(*dtype, vec![*len], bytes).expect("invariant: bytes follow from the length");
            (name.as_str(), view)
        });
        // one entry: those of a map would be written in any order, and the same masks are to be the same bytes
        let metadata = [("format".to_owned(), "midblock carrier; mask = theta > 0".to_owned())];
        safetensors::serialize(views, Some(metadata.into())).expect("invariant: names are unique, sizes are right")
    }
}

fn active_channels(theta: &[f32]) -> Vec<usize> {
    (0..theta.len()).filter(|channel| theta[*channel] > 0.0).collect()
}

fn name(block: usize, group: MaskGroup) -> String {
    format!("model.layers.{block}.{group}")
}

fn mask_name(block: usize, group: MaskGroup) -> String {
    format!("{}.mask", name(block, group))
}

fn read_description(path: &Path) -> Result<Description> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    let malformed = |problem: String| Error::malformed(path, "carrier", problem);
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    let schema = value.get("midblock_carrier_schema").and_then(serde_json::Value::as_u64);
    match schema {
        None => return Err(malformed("`midblock_carrier_schema` is missing".into())),
        Some(schema) if schema > u64::from(SCHEMA) => {
            let problem = format!("its schema {schema} is newer than {SCHEMA}; update midblock");
            return Err(malformed(problem));
        }
        Some(_) => {}
    }
    serde_json::from_value(value).map_err(|error| malformed(error.to_string()))
}

/// `masks.safetensors`, read whole.
struct Tensors<'a> {
    path: PathBuf,
    bytes: Vec<u8>,
    description: &'a Description,
}

impl<'a> Tensors<'a> {
    /// Checks the header, and that there is nothing else than the masks.
    fn read(path: PathBuf, description: &'a Description) -> Result<Self> {
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let tensors = Self {
            path,
            bytes,
            description,
        };
        let expected = 2 * MaskGroup::ALL.len() * description.masked.len();
        let found = tensors.parsed()?.len();
        if found != expected {
            let blocks = description.masked.len();
            return Err(tensors.malformed(format!(
                "it has {found} tensors, expected {expected} for {blocks} blocks"
            )));
        }
        Ok(tensors)
    }

    fn malformed(&self, problem: String) -> Error {
        Error::malformed(&self.path, "carrier's safetensors", problem)
    }

    fn parsed(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|error| self.malformed(error.to_string()))
    }

    /// θ of a block's groups.
    fn block(&self, block: usize) -> Result<BlockThetas> {
        let parsed = self.parsed()?;
        let mut groups: BlockThetas = Default::default();
        for (group, theta) in MaskGroup::ALL.into_iter().zip(&mut groups) {
            let channels = self.description.channels.get(group.name()).copied();
            let channels = channels.ok_or_else(|| {
                let path = self.path.with_file_name(DESCRIPTION);
                Error::malformed(path, "carrier", format!("`channels.{group}` is missing"))
            })?;
            let bytes = self.tensor(&parsed, &name(block, group), Dtype::F32, channels)?;
            let mask = self.tensor(&parsed, &mask_name(block, group), Dtype::BOOL, channels)?;
            let (values, _) = bytes.as_chunks::<4>();
            *theta = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if let Some(channel) = theta.iter().position(|theta| !theta.is_finite()) {
                let problem = format!("`{}` is {} at {channel}", name(block, group), theta[channel]);
                return Err(self.malformed(problem));
            }
            if theta
                .iter()
                .zip(mask)
                .any(|(theta, mask)| (*theta > 0.0) != (*mask != 0))
            {
                let problem = format!(
                    "`{}` is not where `{}` is above 0",
                    mask_name(block, group),
                    name(block, group)
                );
                return Err(self.malformed(problem));
            }
        }
        Ok(groups)
    }

    fn tensor<'b>(&self, parsed: &SafeTensors<'b>, name: &str, dtype: Dtype, channels: usize) -> Result<&'b [u8]> {
        let view = parsed
            .tensor(name)
            .map_err(|_| self.malformed(format!("tensor `{name}` is missing")))?;
        if (view.dtype(), view.shape()) != (dtype, &[channels]) {
            let (found, shape) = (view.dtype(), view.shape());
            let problem = format!("tensor `{name}` is {found:?} {shape:?}, expected {dtype:?} [{channels}]");
            return Err(self.malformed(problem));
        }
        Ok(view.data())
    }
}

#[cfg(test)]
mod tests;
