//! The manager of one worker: the thread that starts it, feeds it, hears it, watches the time, and buries it.
//!
//! One thread does all of it with pipes that never block, so a worker that does not read while it writes cannot deadlock with us, and the
//! worker dies with this thread, which lives as long as the pool.

use std::collections::VecDeque;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::{self, Answer};
use super::pool::{self, Kind, Shared, Task};
use super::worker::{self, Heard, Start, Worker};
use crate::base::sys;
use crate::model::CompileError;

/// How long a worker may take until it says hello.
const START: Duration = Duration::from_secs(20);
/// How often it is looked whether all is stopped while something is in work.
const TICK: Duration = Duration::from_millis(40);
/// How many workers in a row may be lost before they did anything.
const BARREN: u32 = 2;
/// How long to wait for a free descriptor while nobody of ours is at work.
const SCARCE: Duration = Duration::from_secs(10);

pub(super) struct Manager {
    shared: Arc<Shared>,
    kind: Kind,
    index: usize,
    wake: PipeReader,
    worker: Option<Worker>,
    flight: VecDeque<Task>,
    /// Tasks answered or given away since the pool was told.
    done: usize,
    /// When the worker was started, or began with the oldest request.
    since: Instant,
    /// Workers lost in a row before they did anything.
    barren: u32,
    /// Since when there is no descriptor for a worker.
    scarce: Option<Instant>,
    buffer: Vec<u8>,
}

/// How a worker was lost.
enum Loss {
    Died(String),
    TimedOut(Duration),
}

impl Manager {
    pub(super) fn new(shared: Arc<Shared>, kind: Kind, index: usize, wake: PipeReader) -> Self {
        Self {
            shared,
            kind,
            index,
            wake,
            worker: None,
            flight: VecDeque::new(),
            done: 0,
            since: Instant::now(),
            barren: 0,
            scarce: None,
            buffer: vec![0; 64 << 10],
        }
    }

    /// Works until the pool closes.
    pub(super) fn run(mut self) {
        loop {
            let was_idle = self.flight.is_empty();
            let open = self.shared.take(self.kind, self.index, std::mem::take(&mut self.done), &mut self.flight).is_some();
            if was_idle && self.worker.as_ref().is_some_and(|worker| worker.ready) {
                self.since = Instant::now();
            }
            if !open {
                self.worker = None;
                self.answer_all(&CompileError::Stopped);
                return;
            }
            if self.flight.is_empty() {
                self.idle();
            } else if self.shared.stopped() {
                self.worker = None;
                self.answer_all(&CompileError::Stopped);
            } else if let Some(reason) = self.shared.unusable() {
                self.worker = None;
                self.answer_all(&CompileError::Unusable(reason));
            } else if self.worker.is_none() {
                self.start();
            } else {
                self.step();
            }
        }
    }

    fn answer_all(&mut self, error: &CompileError) {
        for task in self.flight.drain(..) {
            task.answer(Err(error.clone()));
            self.done += 1;
        }
    }

    /// Nothing to do: waits for a request. A worker that ends meanwhile is no request's fault.
    fn idle(&mut self) {
        if self.shared.scarce() || self.shared.stopped() {
            self.worker = None;
        }
        let mut readers = vec![self.wake.as_fd()];
        readers.extend(self.worker.iter().flat_map(Worker::readers));
        let ready = sys::wait_any(&readers, None, None);
        drop(readers);
        match ready {
            Ok(ready) => {
                if ready.iter().skip(1).any(|ready| *ready) {
                    self.hear_idle(&ready[1..]);
                }
            }
            Err(cause) => {
                tracing::debug!(%cause, "waiting failed");
                std::thread::sleep(TICK);
            }
        }
        self.drain_wake();
    }

    fn hear_idle(&mut self, ready: &[bool]) {
        let Some(worker) = &mut self.worker else { return };
        worker.listen(&mut self.buffer, ready);
        if !matches!(worker.next(), Heard::Nothing) {
            tracing::debug!("a worker without a request ended or spoke; it is replaced");
            self.worker = None;
        }
    }

    fn drain_wake(&mut self) {
        let mut small = [0; 64];
        while matches!(self.wake.read(&mut small), Ok(got) if got == small.len()) {}
    }

    fn start(&mut self) {
        let codec = self.flight.front().and_then(|task| task.codec.as_deref());
        let limits = &self.shared.limits;
        let started = Worker::start(Start {
            interpreter: &self.shared.interpreter,
            keep_home: limits.keep_pythonhome,
            address_space: limits.address_space.filter(|_| self.shared.interpreter.wide),
            level: self.kind.level,
            codec,
            alive: &self.shared.alive,
        });
        match started {
            Ok(worker) => {
                self.scarce = None;
                self.shared.has_room();
                self.shared.sweep.call_once(worker::sweep);
                self.worker = Some(worker);
                self.since = Instant::now();
                for task in &mut self.flight {
                    task.sent = 0;
                }
            }
            // What others have open says nothing of the interpreter.
            Err(cause) if pool::is_out_of_descriptors(&cause) => {
                if self.may_wait() {
                    std::thread::sleep(TICK);
                } else {
                    self.answer_all(&CompileError::Start { how: cause.to_string() });
                }
            }
            Err(cause) => self.barren_start(&format!("it cannot be started: {cause}")),
        }
    }

    /// Descriptors ran out. Is there hope that others give some back?
    fn may_wait(&mut self) -> bool {
        let since = *self.scarce.get_or_insert_with(Instant::now);
        self.shared.make_room() || since.elapsed() < SCARCE
    }

    /// A worker was lost before it did anything: twice in a row, and no worker will.
    fn barren_start(&mut self, reason: &str) {
        self.barren += 1;
        tracing::debug!(reason, "a worker does not start");
        if self.barren >= BARREN {
            self.shared.give_up(reason);
        }
    }

    /// Sends, waits, hears.
    fn step(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        let mut unsent = false;
        if worker.ready {
            for task in &mut self.flight {
                if task.sent < task.frame.len() {
                    task.sent += worker.send(&task.frame[task.sent..]);
                }
                if task.sent < task.frame.len() {
                    unsent = true;
                    break;
                }
            }
        }
        let limit = if worker.ready { self.shared.limits.timeout } else { Some(START) };
        let left = limit.map(|limit| limit.saturating_sub(self.since.elapsed()));
        let patience = left.unwrap_or(TICK).min(TICK);
        let ready = {
            let mut readers = vec![self.wake.as_fd()];
            readers.extend(worker.readers());
            sys::wait_any(&readers, unsent.then(|| worker.writer()), Some(patience))
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(cause) => return self.lost(&Loss::Died(format!("waiting for it failed: {cause}"))),
        };
        if ready.first() == Some(&true) {
            self.drain_wake();
        }
        let heard = self.hear(ready.get(1..).unwrap_or_default());
        // What was heard in this very moment counts; only then the clock.
        if let (false, Some(Duration::ZERO), Some(limit)) = (heard, left, limit) {
            self.lost(&Loss::TimedOut(limit));
        }
    }

    /// Takes all whole answers. `true`: there was one, or the worker is gone.
    fn hear(&mut self, ready: &[bool]) -> bool {
        let Some(worker) = &mut self.worker else { return true };
        worker.listen(&mut self.buffer, ready);
        let mut heard = false;
        while let Some(worker) = &mut self.worker {
            let frame = match worker.next() {
                Heard::Nothing => return heard,
                Heard::Frame(frame) => frame,
                Heard::Lost(how) => {
                    self.lost(&Loss::Died(how));
                    return true;
                }
            };
            heard = true;
            if !worker.ready {
                match worker.greet(&frame) {
                    Ok(None) => {}
                    Ok(Some(order)) if worker.send(&order) == order.len() => {}
                    Ok(Some(_)) => self.lost(&Loss::Died("it takes no orders".to_owned())),
                    Err(how) => self.lost(&Loss::Died(how)),
                }
                self.since = Instant::now();
                continue;
            }
            let expected = self.flight.front().is_some_and(|task| task.id == frame.id && task.sent == task.frame.len());
            match message::answer(&frame.body) {
                Ok(answer) if expected => self.accept(answer),
                Ok(_) => self.lost(&Loss::Died("answered a request that it does not have".to_owned())),
                Err(error) => self.lost(&Loss::Died(error.to_string())),
            }
        }
        heard
    }

    fn accept(&mut self, answer: Answer) {
        // A worker whose memory or stack ran out, or that met an exception nobody foresaw, may keep traces of it.
        let spent = self.kind.alone || matches!(answer, Answer::Other { .. });
        if let Some(task) = self.flight.pop_front() {
            task.answer(Ok(answer));
            self.done += 1;
        }
        self.since = Instant::now();
        self.barren = 0;
        if spent {
            self.worker = None;
        }
    }

    /// The worker is of no more use. The oldest request is blamed for it and tried again alone; the others start anew without blame.
    fn lost(&mut self, loss: &Loss) {
        let Some(mut worker) = self.worker.take() else { return };
        let words = match loss {
            Loss::Died(_) => worker.last_words(),
            Loss::TimedOut(_) => None,
        };
        let was_ready = worker.ready;
        drop(worker);
        let text = match (loss, words) {
            (Loss::Died(how), Some(words)) => format!("{how}: {words}"),
            (Loss::Died(how), None) => how.clone(),
            (Loss::TimedOut(limit), _) => format!("nothing was heard of it for {} s", limit.as_secs_f64()),
        };
        let begun = was_ready && self.flight.front().is_some_and(|task| task.sent > 0);
        // A codec that cannot be loaded is the request's own affair.
        let own = self.flight.front().is_some_and(|task| task.codec.is_some());
        if !(begun || own) {
            return self.barren_start(&if was_ready { text } else { format!("it ended before it was ready: {text}") });
        }
        let Some(mut task) = self.flight.pop_front() else { return };
        self.done += 1;
        task.tries += 1;
        task.sent = 0;
        tracing::debug!(how = text, tries = task.tries, "a worker was lost over a source");
        if task.tries > self.shared.limits.retries {
            let tries = task.tries;
            task.answer(Err(match loss {
                Loss::Died(_) => CompileError::Died { how: text, tries },
                Loss::TimedOut(limit) => CompileError::TimedOut { limit: *limit, tries },
            }));
        } else {
            task.kind.alone = true;
            self.shared.submit(task);
        }
    }
}
