//! The manager of one worker: the thread that starts it, feeds it, hears it, watches the time, and buries it.
//!
//! One thread does all of it with pipes that never block, so a worker that does not read while it writes cannot deadlock with us, and the
//! worker dies with this thread, which lives as long as the pool.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bell::Bell;
use super::message::{self, Answer};
use super::pool::{self, Kind, Shared, Task};
use super::room::{Want, room};
use super::worker::{Heard, Start, Strange, Worker};
use crate::base::children;
use crate::base::seam::without;
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
    bell: Arc<Bell>,
    worker: Option<Worker>,
    flight: VecDeque<Task>,
    /// Tasks answered or given away since the pool was told.
    done: usize,
    /// When the worker was started, or began with the oldest request.
    since: Instant,
    /// Workers lost in a row before they did anything.
    barren: u32,
    /// There is no room for a worker.
    want: Option<Want>,
    buffer: Vec<u8>,
}

/// How a worker was lost.
enum Loss {
    Died(String),
    TimedOut(Duration),
}

impl Manager {
    pub(super) fn new(shared: Arc<Shared>, kind: Kind, index: usize, bell: Arc<Bell>) -> Self {
        Self {
            shared,
            kind,
            index,
            bell,
            worker: None,
            flight: VecDeque::new(),
            done: 0,
            since: Instant::now(),
            barren: 0,
            want: None,
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
        self.want = None;
        if self.shared.stopped() || (self.worker.is_some() && room().is_asked_for()) {
            self.worker = None;
        }
        let Some(worker) = &mut self.worker else { return self.bell.wait() };
        match children::wait_any(&worker.readers(), None, None) {
            Ok(ready) => {
                worker.woken();
                if let Some((_, spoke)) = ready.split_first()
                    && spoke.contains(&true)
                {
                    self.hear_idle(spoke);
                }
            }
            Err(cause) => {
                tracing::debug!(%cause, "waiting failed");
                std::thread::sleep(TICK);
            }
        }
    }

    fn hear_idle(&mut self, ready: &[bool]) {
        let Some(worker) = &mut self.worker else { return };
        worker.listen(&mut self.buffer, ready);
        if !matches!(worker.next(), Heard::Nothing) {
            tracing::debug!("a worker without a request ended or spoke; it is replaced");
            self.worker = None;
        }
    }

    fn start(&mut self) {
        let Some(seat) = room().take() else { return self.wait_for_room() };
        let codec = self.flight.front().and_then(|task| task.codec.as_deref());
        let limits = &self.shared.limits;
        let start = Start {
            interpreter: &self.shared.interpreter,
            keep_home: limits.keep_pythonhome,
            address_space: limits.address_space.filter(|_| self.shared.interpreter.wide),
            level: self.kind.level,
            codec,
            bell: &self.bell,
        };
        match Worker::start(start, seat) {
            Ok(worker) => {
                self.want = None;
                self.worker = Some(worker);
                self.since = Instant::now();
                self.flight.iter_mut().for_each(Task::rewind);
            }
            // What others have open says nothing of the interpreter.
            Err(cause) if pool::is_out_of_descriptors(&cause) => {
                if self.want.get_or_insert_with(|| room().want()).has_hope(SCARCE) {
                    self.wait_for_room();
                } else {
                    self.answer_all(&CompileError::Start { how: cause.to_string() });
                }
            }
            Err(cause) => self.barren_start(&format!("it cannot be started: {cause}")),
        }
    }

    fn wait_for_room(&mut self) {
        self.want.get_or_insert_with(|| room().want()).wait(TICK);
    }

    /// A worker was lost before it did anything: twice in a row, and no worker will.
    fn barren_start(&mut self, reason: &str) {
        self.barren += 1;
        tracing::debug!(cause = reason, "a worker does not start");
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
        let ready = { children::wait_any(&worker.readers(), unsent.then(|| worker.writer()), Some(patience)) };
        let ready = match ready {
            Ok(ready) => ready,
            Err(cause) => return self.lost(&Loss::Died(format!("waiting for it failed: {cause}"))),
        };
        if ready.first() == Some(&true) {
            worker.woken();
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
                    Err(Strange::Garbage(how)) => self.lost(&Loss::Died(how)),
                    Err(Strange::Another) => {
                        self.worker = None;
                        self.shared.give_up("it is another one now than it was at the beginning");
                    }
                }
                self.since = Instant::now();
                continue;
            }
            let fits = |task: &Task| (task.id == frame.id || without("request-id")) && task.sent == task.frame.len();
            let expected = self.flight.front().is_some_and(fits);
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
        task.rewind();
        tracing::debug!(cause = text, tries = task.tries, "a worker was lost over a source");
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
