//! Several models, block by block, over the same sequences.

use crate::{
    Error, Result,
    checkpoint::{Checkpoint, Tensor},
    model::{Architecture, Batch, Block, BlockTensors, Ends, Interior, Keep, Pass, Scratch},
    progress::Progress,
};
use midblock_kernels::{Backend, RopeTable};
use rayon::prelude::*;

/// Rows of a batch: large enough that reading a quantised weight costs little, small enough that activations stay small.
const BATCH_ROWS: usize = 1024;

/// A model that takes part.
pub struct Participant<'a> {
    /// Name in records and errors: "base", "sft", …
    pub name: String,
    /// Its weights.
    pub checkpoint: &'a Checkpoint,
    /// Its architecture.
    pub architecture: Architecture,
}

/// Models whose hidden states are identical up to the current layer.
pub struct Track<B: Backend> {
    /// Indices of the participants, ascending; never empty.
    pub members: Vec<usize>,
    /// Hidden states of each batch, (rows, D).
    pub states: Vec<B::Buffer>,
}

/// The state of a lockstep run at one layer.
pub struct Lockstep<'a, B: Backend> {
    backend: &'a B,
    participants: &'a [Participant<'a>],
    batches: Vec<Batch>,
    ropes: Vec<RopeTable>,
    tracks: Vec<Track<B>>,
    interior: Interior<B>,
    scratch: Scratch<B>,
    layer: usize,
    tokens_computed: u64,
}

impl<'a, B: Backend> Lockstep<'a, B> {
    /// Embeds all sequences: the run is at layer 0.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the participants do not have the same blocks, hidden size or vocabulary;
    /// [`Error::Argument`] if a token id is outside of the vocabulary; [`Error::MissingTensor`] or [`Error::TensorShape`] for
    /// any block that is incomplete; whatever reading weights may raise.
    ///
    /// # Panics
    /// If there is no participant.
    pub fn new(backend: &'a B, participants: &'a [Participant<'a>], sequences: &[Vec<u32>]) -> Result<Self> {
        for other in &participants[1..] {
            check_same_shape(&participants[0], other)?;
        }
        for participant in participants {
            BlockTensors::check_all(participant.checkpoint, &participant.architecture)?;
        }
        check_ids(&participants[0], sequences)?;
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let rope = |p: &Participant<'_>| p.architecture.rope.table(p.architecture.head_dim, longest);
        let plan = Batch::plan(sequences.iter().map(Vec::len), BATCH_ROWS);
        let mut lockstep = Self {
            backend,
            participants,
            batches: plan.into_iter().map(|range| Batch::new(&sequences[range])).collect(),
            ropes: participants.iter().map(rope).collect(),
            tracks: Vec::new(),
            interior: Interior::new(backend),
            scratch: Scratch::new(backend),
            layer: 0,
            tokens_computed: 0,
        };
        lockstep.embed()?;
        Ok(lockstep)
    }

    /// Current layer: 0 after the embedding, `l` after block `l` (counted from 1).
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// L.
    pub fn blocks(&self) -> usize {
        self.participants[0].architecture.blocks
    }

    /// The batches, all sequences in order.
    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    /// Groups of participants with identical states so far.
    pub fn tracks(&self) -> &[Track<B>] {
        &self.tracks
    }

    /// Tokens that went through a block, summed over blocks: less than models × blocks × tokens where models share.
    pub fn tokens_computed(&self) -> u64 {
        self.tokens_computed
    }

    /// The tensors of the next block of every participant, or `None` after the last.
    pub fn next_block(&self) -> Result<Option<Vec<BlockTensors<'a>>>> {
        if self.layer == self.blocks() {
            return Ok(None);
        }
        let read = |p: &'a Participant<'a>| BlockTensors::read(p.checkpoint, &p.architecture, self.layer);
        self.participants.iter().map(read).collect::<Result<Vec<_>>>().map(Some)
    }

    /// Runs the block that `tensors` ([`next_block`](Self::next_block)) describe.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a NaN or infinite weight; [`Error::Interrupted`].
    pub fn advance(&mut self, tensors: &[BlockTensors<'_>], progress: &dyn Progress) -> Result<()> {
        for track in std::mem::take(&mut self.tracks) {
            let Track { members, states } = track;
            let same = |a: usize, b: usize| {
                let [a_arch, b_arch] = [a, b].map(|m| &self.participants[m].architecture);
                a_arch == b_arch && tensors[a].same_values(&tensors[b])
            };
            let groups = partition(&members, same);
            let last = groups.len() - 1;
            let mut states = Some(states);
            for (i, members) in groups.into_iter().enumerate() {
                let states = match i == last {
                    true => states.take(),
                    false => states.as_ref().map(|states| self.copy(states)),
                };
                let mut states = states.expect("invariant: taken by the last group only");
                self.run_block(&tensors[members[0]], members[0], &mut states, members.len(), progress)?;
                self.tracks.push(Track { members, states });
            }
        }
        self.tracks.sort_by_key(|track| track.members[0]);
        for (participant, block) in self.participants.iter().zip(tensors) {
            block
                .tensors()
                .for_each(|tensor| participant.checkpoint.tensors().release(&tensor.name));
        }
        self.layer += 1;
        Ok(())
    }

    fn run_block(
        &mut self,
        tensors: &BlockTensors<'_>,
        member: usize,
        states: &mut [B::Buffer],
        shared_by: usize,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Participant {
            checkpoint,
            architecture,
            ..
        } = &self.participants[member];
        tensors
            .tensors()
            .try_for_each(|tensor| tensor.check_finite(checkpoint.path()))?;
        let block = Block::new(self.backend, architecture, tensors);
        for (batch, hidden) in self.batches.iter().zip(states) {
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            let pass = Pass::inference(self.backend, batch, &self.ropes[member]);
            block.forward(&pass, Keep::Nothing, hidden, &mut self.interior, &mut self.scratch);
            self.tokens_computed += batch.rows() as u64;
            progress.advance((batch.rows() * shared_by) as u64);
        }
        Ok(())
    }

    /// `h[0]` of every participant, shared where the embedding matrices are equal.
    fn embed(&mut self) -> Result<()> {
        let tables: Vec<Tensor> = self
            .participants
            .iter()
            .map(|p| {
                Ok(Ends::<B>::tensors(p.checkpoint, &p.architecture)?
                    .into_iter()
                    .next()
                    .expect("invariant: two"))
            })
            .collect::<Result<_>>()?;
        let everyone: Vec<usize> = (0..self.participants.len()).collect();
        for members in partition(&everyone, |a, b| tables[a].same_values(&tables[b])) {
            let table = &tables[members[0]];
            table.check_finite(self.participants[members[0]].checkpoint.path())?;
            let matrix = self.backend.matrix(table.matrix());
            let embed = |batch: &Batch| {
                let mut hidden = self
                    .backend
                    .zeros(batch.rows() * self.participants[0].architecture.hidden);
                self.backend.embed(&matrix, batch.ids(), &mut hidden);
                hidden
            };
            let states = self.batches.iter().map(embed).collect();
            self.tracks.push(Track { members, states });
        }
        Ok(())
    }

    fn copy(&self, states: &[B::Buffer]) -> Vec<B::Buffer> {
        let copy = |state: &B::Buffer| {
            let mut copy = self.backend.zeros(self.backend.len(state));
            self.backend.add(&mut copy, state);
            copy
        };
        states.iter().map(copy).collect()
    }
}

/// Groups `members` by `same`, keeping order; each group starts with its smallest member.
fn partition(members: &[usize], same: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &member in members {
        match groups.iter_mut().find(|group| same(group[0], member)) {
            Some(group) => group.push(member),
            None => groups.push(vec![member]),
        }
    }
    groups
}

fn check_same_shape(base: &Participant<'_>, variant: &Participant<'_>) -> Result<()> {
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

fn check_ids(participant: &Participant<'_>, sequences: &[Vec<u32>]) -> Result<()> {
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
