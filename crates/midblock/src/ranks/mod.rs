//! Several processes that work on one job: who is who, and what they tell each other.
//!
//! A *rank* is one of the processes, from 0; rank 0 is the one that writes and prints. All ranks call the same methods of [`Ranks`] in
//! the same order. Everything is made of one operation, [`Communicator::exchange`]: each rank gives each rank some bytes. With it
//! a rank that fails says so to whatever the others were about to exchange ([`Ranks::close`]), and all end with its error.
//!
//! Sums are made in the order of the ranks, in f64, each part of a buffer by one rank that gives it to all: they are the same bits on every
//! rank and in every run with as many ranks, whatever connects them. A sum of S bytes over n ranks makes each send
//! 2 S (n − 1) / n bytes, which is the least that a sum can take.

mod launch;
#[cfg(feature = "mpi")]
mod mpi;
mod shares;
mod threads;

pub use launch::{Launch, launch};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use shares::shares;
pub use threads::{Thread, threads};

use crate::{Error, Result, run};
use bytemuck::Pod;
use midblock_kernels::Real;
use serde::{Serialize, de::DeserializeOwned};
use std::{cell::Cell, ops::Range};

/// Bytes of a buffer that are summed at a time: with larger pieces the copies that an exchange makes are given back to the system and faulted
/// in again each time.
pub(crate) const PIECE: usize = 2 << 20;

/// What a rank got from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Whether the other has failed; the bytes then say why.
    pub failed: bool,
    /// What it gave.
    pub bytes: Vec<u8>,
}

/// Connects ranks.
pub trait Communicator {
    /// Number of this one, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Gives `parts[r]` to rank r, and returns what each rank gave to this one, by rank. Returns when all ranks have called it.
    ///
    /// # Errors
    /// [`Error::Rank`] if a rank is gone.
    fn exchange(&self, parts: &[&[u8]], failed: bool) -> Result<Vec<Received>>;
}

/// The processes of a job, seen by one of them.
#[derive(Default)]
pub struct Ranks {
    /// None: alone.
    communicator: Option<Box<dyn Communicator>>,
    /// Whether a rank has failed: nothing can be exchanged any more.
    over: Cell<bool>,
    sent: Cell<u64>,
}

impl Ranks {
    /// One process; nothing costs anything.
    pub fn alone() -> Self {
        Self::default()
    }

    /// The job that this process belongs to, as its launcher says in the environment. Without a launcher, or with one process, alone.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are several processes and this build has no MPI, or MPI cannot be used.
    pub fn join() -> Result<Self> {
        match launch(|name| std::env::var(name).ok()) {
            None => Ok(Self::alone()),
            #[cfg(feature = "mpi")]
            Some(launch) => Ok(Self::over(Mpi::join(&launch)?)),
            #[cfg(not(feature = "mpi"))]
            Some(launch) => launch.refuse(
                "this build of midblock works in one process",
                "build one that uses MPI: cargo build --release --features mpi",
            ),
        }
    }

    /// Those that a communicator connects.
    pub fn over(communicator: impl Communicator + 'static) -> Self {
        Self {
            communicator: Some(Box::new(communicator)),
            ..Self::default()
        }
    }

    /// Number of this one, from 0.
    pub fn rank(&self) -> usize {
        self.communicator.as_ref().map_or(0, |all| all.rank())
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.communicator.as_ref().map_or(1, |all| all.size())
    }

    /// Whether this is the one that writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Bytes that this rank has given to others.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.get()
    }

    /// Gives `parts[r]` to rank r, and returns what each rank gave to this one, by rank.
    ///
    /// # Errors
    /// [`Error::Rank`] if one has failed or is gone, [`Error::Interrupted`] if it was interrupted.
    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let Some(communicator) = &self.communicator else {
            return Ok(parts.iter().map(|part| part.to_vec()).collect());
        };
        let others = parts.iter().enumerate().filter(|(rank, _)| *rank != self.rank());
        let bytes: usize = others.map(|(_, part)| part.len()).sum();
        self.sent.set(self.sent.get() + bytes as u64);
        let received = communicator
            .exchange(parts, false)
            .inspect_err(|_| self.over.set(true))?;
        self.fail_with_others(&received)?;
        Ok(received.into_iter().map(|received| received.bytes).collect())
    }

    fn fail_with_others(&self, received: &[Received]) -> Result<()> {
        let Some((rank, failed)) = (0..).zip(received).find(|(_, received)| received.failed) else {
            return Ok(());
        };
        self.over.set(true);
        Err(match String::from_utf8_lossy(&failed.bytes).into_owned() {
            problem if problem.is_empty() => Error::Interrupted,
            problem => Error::Rank { rank, problem },
        })
    }

    /// Ends what the ranks do together: called by each, and last. A rank that failed says why, in words, or with an empty text if it was
    /// interrupted; the others, wherever they were, get that as their error.
    ///
    /// # Errors
    /// What another rank failed with.
    pub fn close(&self, problem: Option<&str>) -> Result<()> {
        let Some(communicator) = self.communicator.as_ref().filter(|_| !self.over.get()) else {
            return Ok(());
        };
        let parts = vec![problem.unwrap_or_default().as_bytes(); self.size()];
        self.over.set(true);
        let received = communicator.exchange(&parts, problem.is_some())?;
        match problem {
            Some(_) => Ok(()), // it has an error of its own
            None => self.fail_with_others(&received),
        }
    }

    /// Adds the other ranks' values to these, element by element; the result is the same bits on all ranks.
    ///
    /// # Errors
    /// As those of every exchange: a rank has failed.
    pub fn sum<R: Real + Pod>(&self, values: &mut [R]) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        let pieces = values.chunks_mut(PIECE / size_of::<R>());
        pieces.into_iter().try_for_each(|piece| self.sum_piece(piece))
    }

    fn sum_piece<R: Real + Pod>(&self, values: &mut [R]) -> Result<()> {
        let n = self.size();
        let cut = |rank: usize| -> Range<usize> { values_of(values.len(), rank, n) };
        let parts: Vec<&[u8]> = (0..n).map(|rank| bytemuck::cast_slice(&values[cut(rank)])).collect();
        let mut sums = vec![0.0; cut(self.rank()).len()];
        for bytes in self.exchange(&parts)? {
            sums.iter_mut()
                .zip(self::values::<R>(&bytes))
                .for_each(|(sum, value)| *sum += value.to_f64());
        }
        let own: Vec<R> = sums.into_iter().map(R::from_f64).collect();
        let all = self.exchange(&vec![bytemuck::cast_slice(&own); n])?;
        for (rank, bytes) in all.iter().enumerate() {
            let range = values_of(values.len(), rank, n);
            values[range]
                .iter_mut()
                .zip(self::values(bytes))
                .for_each(|(value, sum)| *value = sum);
        }
        Ok(())
    }

    /// What every rank gives, by rank, on all of them.
    ///
    /// # Errors
    /// A rank has failed.
    pub fn all(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange(&vec![bytes; self.size()])
    }

    /// What every rank gives, by rank, on rank 0; nothing elsewhere.
    ///
    /// # Errors
    /// A rank has failed.
    pub fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut parts = vec![&[][..]; self.size()];
        parts[0] = bytes;
        let all = self.exchange(&parts)?;
        Ok(if self.is_first() { all } else { Vec::new() })
    }

    /// What rank 0 gives, on all ranks; what others give is passed over.
    ///
    /// # Errors
    /// A rank has failed.
    pub fn broadcast(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let own = if self.is_first() { bytes } else { &[] };
        let mut all = self.exchange(&vec![own; self.size()])?;
        Ok(all.swap_remove(0))
    }

    /// What rank 0 makes, on all ranks.
    ///
    /// # Errors
    /// Those of making it; a rank has failed.
    pub fn share<T: Serialize + DeserializeOwned>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.size() == 1 {
            return make();
        }
        let made = if self.is_first() { Some(make()?) } else { None };
        let bytes = serde_json::to_vec(&made).expect("invariant: what is shared can be written as JSON");
        let shared: Option<T> =
            serde_json::from_slice(&self.broadcast(&bytes)?).expect("invariant: JSON of the same type");
        Ok(shared.expect("invariant: rank 0 has made it"))
    }

    /// Whether it is so on any rank.
    ///
    /// # Errors
    /// A rank has failed.
    pub fn any(&self, so: bool) -> Result<bool> {
        Ok(self.all(&[u8::from(so)])?.concat().contains(&1))
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// A rank has failed.
    pub fn barrier(&self) -> Result<()> {
        self.all(&[]).map(|_| ())
    }

    /// Does something on rank 0 and then on all others: files that it downloads or keeps are there by then.
    ///
    /// # Errors
    /// Those of the work; a rank has failed.
    pub fn first<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_first() {
            let done = work()?;
            self.barrier()?;
            Ok(done)
        } else {
            self.barrier()?;
            work()
        }
    }

    /// Threads for each rank: the cores it may use, shared with the ranks that may use the same, and no more than the other ranks have, so
    /// that all compute alike.
    ///
    /// # Errors
    /// A rank has failed.
    pub fn threads_each(&self) -> Result<usize> {
        let place = run::place();
        let sharing = self
            .all(place.as_bytes())?
            .iter()
            .filter(|other| **other == place.as_bytes())
            .count();
        let own = std::thread::available_parallelism().map_or(1, usize::from) / sharing;
        let all = self.all(&(own.max(1) as u64).to_le_bytes())?;
        let least = all.iter().flat_map(|bytes| values::<u64>(bytes)).min();
        Ok(least.unwrap_or(1) as usize)
    }

    /// Checks that all ranks have the same.
    ///
    /// # Errors
    /// [`Error::Mismatch`] naming the first that has something else; a rank has failed.
    pub fn same(&self, what: &str, bytes: &[u8], help: &str) -> Result<()> {
        let all = self.all(blake3::hash(bytes).as_bytes())?;
        let Some(other) = all.iter().position(|hash| hash != &all[0]) else {
            return Ok(());
        };
        let value = |rank: usize| all[rank].iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Err(Error::Mismatch {
            left: "rank 0".into(),
            right: format!("rank {other}"),
            what: format!("the hash of {what}"),
            left_value: value(0),
            right_value: value(other),
            help: help.into(),
        })
    }
}

/// The part of `len` values that a rank sums.
fn values_of(len: usize, rank: usize, size: usize) -> Range<usize> {
    len * rank / size..len * (rank + 1) / size
}

/// Values from bytes, wherever these are aligned.
pub(crate) fn values<R: Pod>(bytes: &[u8]) -> impl Iterator<Item = R> {
    bytes.chunks_exact(size_of::<R>()).map(bytemuck::pod_read_unaligned)
}

#[cfg(test)]
pub(crate) mod tests;
