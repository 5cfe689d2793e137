//! Ranks that are MPI's processes, as mpirun or srun starts them.
//!
//! Only the thread that initialised MPI calls it, between its computations (`MPI_THREAD_FUNNELED`), so that the pool of threads that
//! computes does not concern MPI. If a process is killed the launcher ends the others; if a call fails, MPI's own handler names the rank and
//! ends the job.

use super::{Communicator, Launch, Received};
use crate::{Error, Result};
use ::mpi::{
    Threading,
    collective::SystemOperation,
    datatype::{Partition, PartitionMut},
    environment::Universe,
    initialize_with_threading,
    topology::Communicator as _,
    traits::CommunicatorCollectives,
};

/// Most bytes that a rank gives to all in one call: MPI counts in 32 bits.
const CALL: usize = 256 << 20;

/// A rank that is an MPI process.
pub struct Mpi {
    universe: Universe,
}

impl Mpi {
    /// Joins the job that a launcher has started.
    ///
    /// # Errors
    /// [`Error::Argument`] if MPI does not see the processes that the launcher says there are, or cannot be used beside threads.
    pub fn join(launch: &Launch) -> Result<Self> {
        let refuse = |problem: String, help: &str| Error::Argument {
            what: "started by".into(),
            value: launch.by.into(),
            problem,
            help: help.into(),
        };
        let initialised = initialize_with_threading(Threading::Funneled);
        let (universe, threading) =
            initialised.ok_or_else(|| refuse("MPI is initialised already".into(), "join once"))?;
        if threading < Threading::Funneled {
            return Err(refuse(
                format!("MPI grants no threads beside it ({threading:?})"),
                "use an MPI library that was built with threads",
            ));
        }
        let size = universe.world().size() as usize;
        if size != launch.size {
            return Err(refuse(
                format!("it has started {} processes, but MPI sees {size}", launch.size),
                "use the mpirun of the MPI that midblock was built with; under Slurm, srun --mpi=pmix or --mpi=pmi2",
            ));
        }
        Ok(Self { universe })
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.universe.world().rank() as usize
    }

    fn size(&self) -> usize {
        self.universe.world().size() as usize
    }

    /// Sizes first, with the mark of failure in their lowest bit; then the bytes, in as many calls as the largest part needs.
    fn exchange(&self, parts: &[&[u8]], failed: bool) -> Result<Vec<Received>> {
        let world = self.universe.world();
        let piece = CALL / self.size();
        let given: Vec<u64> = parts
            .iter()
            .map(|part| 2 * part.len() as u64 + u64::from(failed))
            .collect();
        let mut sizes = vec![0u64; parts.len()];
        world.all_to_all_into(&given, &mut sizes);
        let calls = parts.iter().map(|part| part.len().div_ceil(piece)).max().unwrap_or(0) as u64;
        let mut most = 0u64;
        world.all_reduce_into(&calls, &mut most, SystemOperation::max());
        let mut received: Vec<Received> = sizes
            .iter()
            .map(|size| Received {
                failed: size & 1 == 1,
                bytes: Vec::with_capacity((size >> 1) as usize),
            })
            .collect();
        for call in 0..most as usize {
            let from = |len: usize| (call * piece).min(len)..((call + 1) * piece).min(len);
            let out: Vec<&[u8]> = parts.iter().map(|part| &part[from(part.len())]).collect();
            let lengths: Vec<usize> = sizes.iter().map(|size| from((size >> 1) as usize).len()).collect();
            // one byte more than needed: Rust's empty buffers are at address 1, which is Open MPI's MPI_IN_PLACE
            let mut bytes = vec![0u8; lengths.iter().sum::<usize>() + 1];
            let [given, taken] = [out.iter().map(|part| part.len()).collect(), lengths.clone()].map(places);
            let mut sent = out.concat();
            sent.push(0);
            let out = Partition::new(&sent[..], given.0, given.1);
            let mut into = PartitionMut::new(&mut bytes[..], taken.0, taken.1);
            world.all_to_all_varcount_into(&out, &mut into);
            let mut rest = bytes.as_slice();
            for (received, len) in received.iter_mut().zip(lengths) {
                let (own, others) = rest.split_at(len);
                received.bytes.extend_from_slice(own);
                rest = others;
            }
        }
        Ok(received)
    }
}

/// Lengths and beginnings, as MPI counts.
fn places(lengths: Vec<usize>) -> (Vec<i32>, Vec<i32>) {
    let mut end = 0;
    let begin = |length: &usize| {
        end += length;
        (end - length) as i32
    };
    let begins = lengths.iter().map(begin).collect();
    (lengths.iter().map(|length| *length as i32).collect(), begins)
}

impl Drop for Mpi {
    /// A panic ends the job: the other ranks would wait for this one for ever.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("rank {} panicked; the job ends", self.rank());
            self.universe.world().abort(1);
        }
    }
}
