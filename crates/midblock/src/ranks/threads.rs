//! Ranks that are threads of one process: for tests, and for programs that want no MPI.

use super::{Communicator, Received};
use crate::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A rank that is a thread.
pub struct Thread {
    rank: usize,
    size: usize,
    table: Arc<Table>,
}

#[derive(Default)]
struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

/// What lies on the table between two exchanges.
#[derive(Default)]
struct State {
    /// Number of the exchange.
    round: u64,
    /// Ranks that have put their parts down.
    given: usize,
    /// Ranks that have yet to take theirs.
    waiting: usize,
    /// By receiver and giver.
    parts: Vec<Vec<Received>>,
    /// A rank that ended without closing.
    gone: Option<usize>,
}

/// As many ranks, each to be taken to a thread.
pub fn threads(size: usize) -> Vec<Thread> {
    let table = Arc::new(Table::default());
    (0..size)
        .map(|rank| Thread {
            rank,
            size,
            table: table.clone(),
        })
        .collect()
}

impl Thread {
    /// Waits until `ready`.
    fn wait(&self, ready: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>> {
        let mut state = self.table.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !ready(&state) {
            if let Some(rank) = state.gone {
                let problem = "it ended without a word".to_owned();
                return Err(Error::Rank { rank, problem });
            }
            state = self.table.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(state)
    }
}

impl Communicator for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, parts: &[&[u8]], failed: bool) -> Result<Vec<Received>> {
        let mut state = self.wait(|state| state.waiting == 0)?; // the exchange before is over
        if state.given == 0 {
            state.parts = vec![vec![Received::default(); self.size]; self.size];
        }
        for (to, part) in parts.iter().enumerate() {
            let bytes = part.to_vec();
            state.parts[to][self.rank] = Received { failed, bytes };
        }
        state.given += 1;
        let round = state.round;
        if state.given == self.size {
            (state.given, state.waiting, state.round) = (0, self.size, round + 1);
            self.table.changed.notify_all();
        }
        drop(state);
        let mut state = self.wait(|state| state.round > round)?;
        let received = std::mem::take(&mut state.parts[self.rank]);
        state.waiting -= 1;
        self.table.changed.notify_all();
        Ok(received)
    }
}

impl Drop for Thread {
    /// Whoever still waits for this one waits in vain.
    fn drop(&mut self) {
        let mut state = self.table.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.gone.get_or_insert(self.rank);
        self.table.changed.notify_all();
    }
}
