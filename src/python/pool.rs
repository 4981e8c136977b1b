//! The workers of one interpreter, as a [`Compiler`].
//!
//! - **K1** Whatever a worker does, it costs one source at most: the oldest request in flight is blamed and tried again alone, the others
//!   are sent again whole, from their first byte, on a fresh worker.
//! - **K2** No worker outlives the pool, nor the process, however that ends.
//! - **K3** The same source, name and level give the same bytes, whatever was compiled before and in whatever order.
//!   *Limits*: `PyPy` is not stable by itself (what is interned depends on its garbage collector), and an early 3.15 shares frozen sets
//!   between modules now and then; there the code is equal by value only.
//! - **K4** A worker can open nothing while it compiles.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bell::Bell;
use super::interpreter::Interpreter;
use super::message::{self, Answer};
use super::room::{self, room};
use super::{quote, slot};
use crate::base::seam::without;
use crate::model::{CompileError, Compiler, Made, Request, Target};

/// How much a pool may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Workers that run at one time. (2.7 has a set of so many for each level asked for, since the level is a flag there.)
    pub jobs: usize,
    /// Requests that one worker holds: it must never wait for us.
    pub in_flight: usize,
    /// How long one source may take, from when the worker begins with it. `None`: for ever.
    pub timeout: Option<Duration>,
    /// How often a source over which a worker died or hung is tried again.
    pub retries: u32,
    /// Address space of one worker, bytes. Not set for 32-bit interpreters, which cannot have more anyway.
    pub address_space: Option<u64>,
    /// Is `PYTHONHOME` handed to the interpreter?
    pub keep_pythonhome: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            jobs: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            in_flight: 3,
            timeout: Some(Duration::from_secs(60)),
            retries: 1,
            address_space: Some(4 << 30),
            keep_pythonhome: false,
        }
    }
}

/// The workers of one interpreter. None is started before the first request.
#[derive(Debug)]
pub struct WorkerPool {
    shared: Arc<Shared>,
}

/// Which workers serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// The level, where it is a flag of the interpreter; else 0.
    pub(super) level: u8,
    /// Does each request get a fresh worker of its own?
    pub(super) alone: bool,
}

/// One request on its way.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) id: u32,
    pub(super) kind: Kind,
    /// The whole frame: what is sent again is sent from its first byte.
    pub(super) frame: Vec<u8>,
    /// How much of it the present worker has got.
    pub(super) sent: usize,
    /// The codec that its cookie names, where the worker must load one.
    pub(super) codec: Option<String>,
    /// How many workers were lost over it.
    pub(super) tries: u32,
    reply: SyncSender<Result<Answer, CompileError>>,
}

impl Task {
    /// The next worker gets it from its first byte, whatever the last one got of it.
    pub(super) fn rewind(&mut self) {
        if !without("retry-from-start") {
            self.sent = 0;
        }
    }

    /// Hands the answer to whoever waits for it.
    pub(super) fn answer(self, answer: Result<Answer, CompileError>) {
        // Only a caller that panicked does not wait any more.
        crate::ignored!(self.reply.send(answer), "nobody waits for an answer");
    }
}

#[derive(Debug)]
struct Slot {
    inbox: VecDeque<Task>,
    load: usize,
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Group {
    slots: Vec<Slot>,
    overflow: VecDeque<Task>,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<Kind, Group>,
    threads: Vec<JoinHandle<()>>,
    closing: bool,
    unusable: Option<String>,
}

/// What managers and callers have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) interpreter: Interpreter,
    pub(super) limits: Limits,
    state: Mutex<State>,
    next_id: AtomicU32,
    stopped: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is all at an end?
    pub(super) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Makes every manager look what there is to do.
    pub(super) fn wake_all(&self) {
        for slot in self.lock().groups.values().flat_map(|group| &group.slots) {
            slot.bell.ring();
        }
    }

    fn capacity(&self, kind: Kind) -> usize {
        if kind.alone { 1 } else { self.limits.in_flight.max(1) }
    }

    /// Gives a request to the slot with the least to do, starting one where all have something to do and there may be more.
    pub(super) fn submit(self: &Arc<Self>, task: Task) {
        let capacity = self.capacity(task.kind);
        let mut state = self.lock();
        if state.closing || self.stopped() {
            return task.answer(Err(CompileError::Stopped));
        }
        if let Some(reason) = &state.unusable {
            let reason = reason.clone();
            return task.answer(Err(CompileError::Unusable(reason)));
        }
        let kind = task.kind;
        let group = state.groups.entry(kind).or_default();
        let least = group.slots.iter().map(|slot| slot.load).min();
        if group.slots.len() < self.limits.jobs.max(1) && least != Some(0) {
            let index = group.slots.len();
            let (shared, bell) = (Arc::clone(self), Arc::new(Bell::default()));
            let heard = Arc::clone(&bell);
            let named = std::thread::Builder::new().name("bytekeep-worker".to_owned());
            match named.spawn(move || slot::Manager::new(shared, kind, index, heard).run()) {
                Ok(thread) => {
                    // Its manager looks into its inbox first of all.
                    group.slots.push(Slot { inbox: VecDeque::from([task]), load: 1, bell });
                    state.threads.push(thread);
                    return;
                }
                // The slots that there are do it.
                Err(cause) if least.is_some() => tracing::debug!(%cause, "no further worker can be managed"),
                Err(cause) => return task.answer(Err(CompileError::Unusable(format!("no worker can be managed: {cause}")))),
            }
        }
        match group.slots.iter_mut().enumerate().filter(|(_, slot)| slot.load < capacity).min_by_key(|(_, slot)| slot.load) {
            Some((index, slot)) => {
                // A worker that has its next request already is not waited for: its manager looks here after the next answer.
                let runs_dry = slot.load < 2;
                slot.load += 1;
                slot.inbox.push_back(task);
                if runs_dry {
                    // The lock is let go first: who is woken wants it at once.
                    let bell = Arc::clone(&group.slots[index].bell);
                    drop(state);
                    bell.ring();
                }
            }
            None => group.overflow.push_back(task),
        }
    }

    /// What a slot shall do next, after it is done with so many. `None`: the pool is closing.
    pub(super) fn take(&self, kind: Kind, index: usize, done: usize, into: &mut VecDeque<Task>) -> Option<()> {
        let capacity = self.capacity(kind);
        let mut state = self.lock();
        let closing = state.closing;
        let group = state.groups.get_mut(&kind)?;
        let slot = group.slots.get_mut(index)?;
        slot.load = slot.load.saturating_sub(done);
        into.extend(slot.inbox.drain(..));
        while slot.load < capacity || closing {
            let Some(task) = group.overflow.pop_front() else { break };
            slot.load += 1;
            into.push_back(task);
        }
        (!closing).then_some(())
    }

    /// Why the interpreter cannot be used, where that was found out.
    pub(super) fn unusable(&self) -> Option<String> {
        self.lock().unusable.clone()
    }

    /// No further request has a chance.
    pub(super) fn give_up(&self, reason: &str) {
        let text = format!("the interpreter `{}` cannot be used: {reason}", self.interpreter.executable.display());
        self.lock().unusable.get_or_insert(text);
    }
}

/// EMFILE or ENFILE: we, or all processes together, have too many files open. The same numbers everywhere.
pub(super) fn is_out_of_descriptors(cause: &std::io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(23 | 24))
}

impl WorkerPool {
    /// The workers of an interpreter; none runs yet.
    pub fn new(interpreter: &Interpreter, mut limits: Limits) -> Self {
        limits.jobs = limits.jobs.min(room::seats()).max(1);
        let shared = Arc::new(Shared {
            interpreter: interpreter.clone(),
            limits,
            state: Mutex::default(),
            next_id: AtomicU32::new(1),
            stopped: AtomicBool::new(false),
        });
        room().admit(&shared);
        Self { shared }
    }

    /// The interpreter.
    pub fn interpreter(&self) -> &Interpreter {
        &self.shared.interpreter
    }
}

impl Compiler for WorkerPool {
    fn target(&self) -> &Target {
        &self.shared.interpreter.target
    }

    fn width(&self) -> usize {
        self.shared.limits.jobs.max(1) * self.shared.limits.in_flight.max(1)
    }

    fn build(&self) -> Option<&str> {
        Some(&self.shared.interpreter.build)
    }

    fn prepare(&self, level: u8) {
        let nothing = Request { source: b"", filename: b"", level };
        if let Err(error) = self.compile(&nothing) {
            // It will be told when there is something to compile.
            tracing::debug!(cause = %error, "no worker could be started beforehand");
        }
    }

    fn compile(&self, request: &Request<'_>) -> Result<Made, CompileError> {
        let shared = &self.shared;
        if shared.stopped() {
            return Err(CompileError::Stopped);
        }
        let codec = quote::codec(request.source);
        let level = if shared.interpreter.level_is_a_flag() { request.level } else { 0 };
        let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
        let Some(frame) = message::request(id, request.level, request.filename, request.source) else {
            return Err(quote::too_long(request.source.len()));
        };
        let (reply, answer) = sync_channel(1);
        let kind = Kind { level, alone: codec.is_some() };
        shared.submit(Task { id, kind, frame, sent: 0, codec, tries: 0, reply });
        // Every task is answered; a manager that panicked drops it.
        let answer = answer.recv().unwrap_or_else(|_| Err(CompileError::Unusable("the manager of a worker failed".to_owned())))?;
        match answer {
            Answer::Made(made) => Ok(made),
            Answer::Syntax(fault) => Err(quote::syntax_fault(&shared.interpreter, request.source, fault)),
            Answer::Other { kind, text } => Err(quote::other_fault(kind, text)),
        }
    }

    fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.wake_all();
    }

    fn is_stopped(&self) -> bool {
        self.shared.stopped()
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        let threads = {
            self.shared.lock().closing = true;
            self.shared.wake_all();
            let mut state = self.shared.lock();
            // None is added any more.
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            if thread.join().is_err() {
                tracing::debug!("the manager of a worker had panicked");
            }
        }
    }
}
