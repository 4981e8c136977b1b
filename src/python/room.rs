//! Room for workers. Descriptors are the process's, so all its pools share them: where there are few, workers wait for one another, and one
//! that has nothing to do gives way to one that has.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::pool::Shared;
use crate::base::sys;

/// So many descriptors are counted for a worker: it takes five, three more while it starts, and whoever uses it wants some too.
const EACH: u64 = 16;

/// Who may start a worker.
#[derive(Debug, Default)]
pub(super) struct Room {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Workers that run or are being started.
    seats: usize,
    /// Those that run.
    running: usize,
    /// Managers that would start one.
    waiting: usize,
    /// So many idle workers are asked to go.
    asked: usize,
    /// Somebody has waited in vain, and no worker was started since: nobody else waits as long.
    starved: bool,
    pools: Vec<Weak<Shared>>,
}

static ROOM: Room = Room {
    state: Mutex::new(State { seats: 0, running: 0, waiting: 0, asked: 0, starved: false, pools: Vec::new() }),
    freed: Condvar::new(),
};

/// The room of this process.
pub(super) fn room() -> &'static Room {
    &ROOM
}

/// How many workers there may be at one time.
pub(super) fn seats() -> usize {
    usize::try_from(sys::raise_open_file_limit() / EACH).unwrap_or(usize::MAX).max(1)
}

impl Room {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a pool, whose idle workers give way from now on.
    pub(super) fn admit(&self, pool: &Arc<Shared>) {
        let mut state = self.state();
        state.pools.retain(|pool| pool.strong_count() > 0);
        state.pools.push(Arc::downgrade(pool));
    }

    /// A seat for one worker. `None`: all are taken.
    pub(super) fn take(&'static self) -> Option<Seat> {
        let most = seats();
        let mut state = self.state();
        (state.seats < most).then(|| {
            state.seats += 1;
            Seat { room: self, runs: false }
        })
    }

    /// From now on, until this is dropped, a manager wants room.
    pub(super) fn want(&'static self) -> Want {
        self.state().waiting += 1;
        Want { room: self, since: Instant::now() }
    }

    /// Shall this idle worker go? Each `true` is one that goes.
    pub(super) fn is_asked_for(&self) -> bool {
        let mut state = self.state();
        let asked = state.asked > 0;
        state.asked = state.asked.saturating_sub(1);
        asked
    }
}

/// The right to run one worker.
#[derive(Debug)]
pub(super) struct Seat {
    room: &'static Room,
    runs: bool,
}

impl Seat {
    /// Its worker runs.
    pub(super) fn settle(&mut self) {
        if !self.runs {
            self.runs = true;
            let mut state = self.room.state();
            state.running += 1;
            state.starved = false;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.seats -= 1;
        state.running -= usize::from(self.runs);
        drop(state);
        self.room.freed.notify_all();
    }
}

/// A manager that waits for room.
#[derive(Debug)]
pub(super) struct Want {
    room: &'static Room,
    since: Instant,
}

impl Want {
    /// Asks idle workers to go, and waits until one went or so long.
    pub(super) fn wait(&self, limit: Duration) {
        let mut state = self.room.state();
        state.asked = state.waiting;
        let pools: Vec<Arc<Shared>> = state.pools.iter().filter_map(Weak::upgrade).collect();
        let seats = state.seats;
        drop(state);
        for pool in &pools {
            pool.wake_all();
        }
        drop(pools);
        let state = self.room.state();
        if state.seats >= seats {
            drop(self.room.freed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Is there hope? As long as workers run, they will be done some day and go; who only waits is no hope for others who do.
    pub(super) fn has_hope(&self, patience: Duration) -> bool {
        let mut state = self.room.state();
        let hope = state.running > 0 || (!state.starved && self.since.elapsed() < patience);
        state.starved |= !hope;
        hope
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.waiting -= 1;
        state.asked = state.asked.min(state.waiting);
    }
}
