//! Several models, block by block, over the same sequences; or several [`Route`]s through their blocks.
//!
//! Routes share their states as long as they do the same: equal weights count as the same, whichever model they are of. At a
//! block each of the mixes that some route needs is made once, one at a time, and goes away before the next.

use super::{
    Mix, Route,
    check::{check_ids, check_route, check_same_shape},
};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    model::{
        Architecture, Batch, Block, BlockTensors, Ends, EndsTensors, Interior, Keep, Pass, Scratch, blend_tensors,
    },
    progress::Progress,
};
use midblock_kernels::{Backend, RopeTable};
use std::sync::Arc;

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

/// Routes whose hidden states are identical up to the current layer.
pub struct Track<B: Backend> {
    /// Indices of the routes (with [`Lockstep::new`], of the participants), ascending; never empty.
    pub members: Vec<usize>,
    /// Hidden states of each batch, (rows, D).
    pub states: Vec<B::Buffer>,
}

/// The state of a lockstep run at one layer.
pub struct Lockstep<'a, B: Backend> {
    backend: &'a B,
    participants: &'a [Participant<'a>],
    routes: Vec<Route>,
    batches: Vec<Batch>,
    ropes: Vec<RopeTable>,
    tracks: Vec<Track<B>>,
    interior: Interior<B>,
    scratch: Scratch<B>,
    layer: usize,
    tokens_computed: u64,
}

/// What a route does at a block.
#[derive(Clone, PartialEq)]
struct Step {
    mix: Mix,
    added: Option<Arc<[f32]>>,
}

impl<'a, B: Backend> Lockstep<'a, B> {
    /// Embeds all sequences: the run is at layer 0. There is one route for each participant, all its own.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the participants do not have the same blocks, hidden size or vocabulary;
    /// [`Error::Argument`] if a token id is outside of the vocabulary; [`Error::MissingTensor`] or [`Error::TensorShape`] for
    /// any block that is incomplete; whatever reading weights may raise.
    ///
    /// # Panics
    /// If there is no participant.
    pub fn new(backend: &'a B, participants: &'a [Participant<'a>], sequences: &[Vec<u32>]) -> Result<Self> {
        let own = |(index, p): (usize, &Participant<'_>)| Route::of(p.name.clone(), index, p.architecture.blocks);
        let routes = participants.iter().enumerate().map(own).collect();
        Self::along(backend, participants, routes, sequences)
    }

    /// The same along the given routes.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Mismatch`] if a route blends models whose architectures differ in anything.
    ///
    /// # Panics
    /// If there is no participant, or if a route does not have the participants' blocks, names a participant that is not
    /// there, or adds a vector of another length than the hidden size.
    pub fn along(
        backend: &'a B,
        participants: &'a [Participant<'a>],
        routes: Vec<Route>,
        sequences: &[Vec<u32>],
    ) -> Result<Self> {
        for other in &participants[1..] {
            check_same_shape(&participants[0], other)?;
        }
        for participant in participants {
            BlockTensors::check_all(participant.checkpoint, &participant.architecture)?;
        }
        routes.iter().try_for_each(|route| check_route(route, participants))?;
        check_ids(&participants[0], sequences)?;
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        let rope = |p: &Participant<'_>| p.architecture.rope.table(p.architecture.head_dim, longest);
        let plan = Batch::plan(sequences.iter().map(Vec::len), BATCH_ROWS);
        let mut lockstep = Self {
            backend,
            participants,
            routes,
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

    /// The routes.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Groups of routes with identical states so far.
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
        let first = self.first_alike(|a, b| tensors[a].same_values(&tensors[b]));
        let step = |route: &Route| Step {
            mix: route.blocks[self.layer].canonical(&first),
            added: route.added.get(self.layer).cloned().flatten(),
        };
        let steps: Vec<Step> = self.routes.iter().map(step).collect();
        self.split(|a, b| steps[a] == steps[b]);
        let mut mixes: Vec<Mix> = Vec::new();
        for track in &self.tracks {
            let mix = steps[track.members[0]].mix;
            if !mixes.contains(&mix) {
                mixes.push(mix);
            }
        }
        for mix in mixes {
            self.run_block(mix, &steps, tensors, progress)?;
        }
        for (participant, block) in self.participants.iter().zip(tensors) {
            block
                .tensors()
                .for_each(|tensor| participant.checkpoint.tensors().release(&tensor.name));
        }
        self.layer += 1;
        Ok(())
    }

    /// Runs one mix of the block on every track whose step it is.
    fn run_block(
        &mut self,
        mix: Mix,
        steps: &[Step],
        tensors: &[BlockTensors<'_>],
        progress: &dyn Progress,
    ) -> Result<()> {
        let backend = self.backend;
        for source in sources(mix) {
            tensors[source].check_finite(self.participants[source].checkpoint.path())?;
        }
        let host = mix.participant().unwrap_or(0);
        let architecture = &self.participants[host].architecture;
        let block = match mix.participant() {
            Some(own) => Block::new(backend, architecture, &tensors[own]),
            None => Block::new(
                backend,
                architecture,
                &tensors[0].blend(&tensors[mix.variant], mix.alpha),
            ),
        };
        for track in &mut self.tracks {
            let step = &steps[track.members[0]];
            if step.mix != mix {
                continue;
            }
            let added = step.added.as_ref().map(|vector| backend.upload(vector));
            for (batch, hidden) in self.batches.iter().zip(&mut track.states) {
                if progress.cancelled() {
                    return Err(Error::Interrupted);
                }
                let pass = Pass::inference(backend, batch, &self.ropes[host]);
                block.forward(&pass, Keep::Nothing, hidden, &mut self.interior, &mut self.scratch);
                if let Some(vector) = &added {
                    backend.add_bias(hidden, vector);
                }
                self.tokens_computed += batch.rows() as u64;
                progress.advance((batch.rows() * track.members.len()) as u64);
            }
        }
        Ok(())
    }

    /// `h[0]` of every route, shared where the embedding matrices are equal.
    fn embed(&mut self) -> Result<()> {
        let ends = self.ends_tensors()?;
        let first = self.first_alike(|a, b| ends[a].embedding.same_values(&ends[b].embedding));
        let mixes: Vec<Mix> = self.routes.iter().map(|r| r.embedding.canonical(&first)).collect();
        let everyone: Vec<usize> = (0..self.routes.len()).collect();
        for members in partition(&everyone, |a, b| mixes[a] == mixes[b]) {
            let mix = mixes[members[0]];
            for source in sources(mix) {
                let path = self.participants[source].checkpoint.path();
                ends[source].embedding.check_finite(path)?;
            }
            let table = match mix.participant() {
                Some(own) => ends[own].embedding.clone(),
                None => blend_tensors(&ends[0].embedding, &ends[mix.variant].embedding, mix.alpha),
            };
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
        for (participant, ends) in self.participants.iter().zip(&ends) {
            participant.checkpoint.tensors().release(&ends.embedding.name);
        }
        Ok(())
    }

    /// What final norm and head each route has: routes with equal mixes read states alike.
    ///
    /// # Errors
    /// Those of reading weights.
    pub fn ends_mixes(&self) -> Result<Vec<Mix>> {
        let ends = self.ends_tensors()?;
        let first = self.first_alike(|a, b| ends[a].same_head(&ends[b]));
        Ok(self.routes.iter().map(|r| r.ends.canonical(&first)).collect())
    }

    /// Final norm and head of a mix, with the embedding of the same mix.
    ///
    /// # Errors
    /// Those of reading weights.
    pub fn ends(&self, mix: Mix) -> Result<Ends<B>> {
        let read = |index: usize| {
            let Participant {
                checkpoint,
                architecture,
                ..
            } = &self.participants[index];
            EndsTensors::read(checkpoint, architecture)
        };
        let host = mix.participant().unwrap_or(0);
        let tensors = match mix.participant() {
            Some(own) => read(own)?,
            None => read(0)?.blend(&read(mix.variant)?, mix.alpha),
        };
        Ok(Ends::new(self.backend, &self.participants[host].architecture, &tensors))
    }

    fn ends_tensors(&self) -> Result<Vec<EndsTensors>> {
        let read = |p: &Participant<'_>| EndsTensors::read(p.checkpoint, &p.architecture);
        self.participants.iter().map(read).collect()
    }

    /// For each participant the first one of the same architecture and, by `same`, the same weights.
    fn first_alike(&self, same: impl Fn(usize, usize) -> bool) -> Vec<usize> {
        let architecture = |p: usize| &self.participants[p].architecture;
        let alike = |a: usize, b: usize| architecture(a) == architecture(b) && same(a, b);
        let everyone: Vec<usize> = (0..self.participants.len()).collect();
        let mut first = everyone.clone();
        for group in partition(&everyone, alike) {
            group.iter().for_each(|&member| first[member] = group[0]);
        }
        first
    }

    /// Divides tracks between routes that are not the same from here on.
    fn split(&mut self, same: impl Fn(usize, usize) -> bool) {
        for Track { members, states } in std::mem::take(&mut self.tracks) {
            let mut groups = partition(&members, &same);
            let last = groups.pop().expect("invariant: a track has members");
            for members in groups {
                let states = states.iter().map(|state| self.copy(state)).collect();
                self.tracks.push(Track { members, states });
            }
            self.tracks.push(Track { members: last, states });
        }
        self.tracks.sort_by_key(|track| track.members[0]);
    }

    fn copy(&self, state: &B::Buffer) -> B::Buffer {
        let mut copy = self.backend.zeros(self.backend.len(state));
        self.backend.copy(state, &mut copy);
        copy
    }
}

/// The participants whose weights a mix is made of.
fn sources(mix: Mix) -> Vec<usize> {
    mix.participant().map_or_else(|| vec![0, mix.variant], |own| vec![own])
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
