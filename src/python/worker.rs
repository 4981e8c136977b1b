//! One worker as its manager sees it: a child with three pipes that never block us.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::Duration;

use super::bell::{Bell, Ear};
use super::frame::{self, Decoder, Frame};
use super::interpreter::Interpreter;
use super::process;
use super::room::Seat;
use crate::base::children::{self, ChildLimits};
use crate::base::seam::without;

/// What every worker runs.
const PROGRAM: &str = concat!(include_str!("build.py"), include_str!("worker.py"));
/// What of its standard error is kept.
const TAIL: usize = 4096;
/// What both ends must speak.
const PROTOCOL: &[u8] = b"3";

/// How a worker is started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start<'a> {
    pub(super) interpreter: &'a Interpreter,
    pub(super) keep_home: bool,
    pub(super) address_space: Option<u64>,
    /// Where the level is a flag of the interpreter.
    pub(super) level: u8,
    /// The codec to load before the worker can open nothing any more.
    pub(super) codec: Option<&'a str>,
    /// What wakes its manager.
    pub(super) bell: &'a Arc<Bell>,
}

/// What came of looking at a worker's answers.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing whole yet.
    Nothing,
    /// A frame.
    Frame(Frame),
    /// It ended or misbehaved: how.
    Lost(String),
}

/// Why a worker is not greeted.
#[derive(Debug)]
pub(super) enum Strange {
    /// It is none of ours, or torn: what it said.
    Garbage(String),
    /// It is another interpreter than the one that was asked what it is.
    Another,
}

/// What `worker.py` says in its hello.
fn identity(interpreter: &Interpreter) -> Vec<u8> {
    let target = &interpreter.target;
    [&target.magic[..], target.tag.as_bytes(), b"\0", target.variant.as_bytes(), b"\0", interpreter.build.as_bytes()].concat()
}

/// A running interpreter with our program in it. Killed and reaped when dropped.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    decoder: Decoder,
    tail: Vec<u8>,
    ended: bool,
    /// What its hello must say it is.
    identity: Vec<u8>,
    /// Has it said hello, and is it limited?
    pub(super) ready: bool,
    /// The working directory that it was started in, until it says hello. From then on it works in a removed directory: nothing can be
    /// put there for it to import, and a killed parent leaves no directory behind.
    cwd: Option<process::EmptyDir>,
    ear: Option<Ear>,
    /// Given back when all else of it is gone.
    seat: Seat,
}

impl Worker {
    /// Starts one. It dies with the calling thread.
    pub(super) fn start(start: Start<'_>, seat: Seat) -> std::io::Result<Self> {
        let limits = ChildLimits { address_space: start.address_space };
        let flags = start.interpreter.flags(start.level);
        let cwd = process::empty_dir()?;
        let mut command = process::command(&start.interpreter.executable, &flags, PROGRAM, cwd.path(), start.keep_home, limits);
        if let Some(codec) = start.codec {
            command.arg(codec);
        }
        let mut child = command.spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else { return Err(ErrorKind::BrokenPipe.into()) };
        let mut worker = Self {
            child,
            stdin,
            stdout,
            stderr: Some(stderr),
            decoder: Decoder::default(),
            tail: Vec::new(),
            ended: false,
            identity: identity(start.interpreter),
            ready: false,
            cwd: Some(cwd),
            ear: None,
            seat,
        };
        // Only now: starting takes more descriptors than running.
        worker.ear = Some(start.bell.listen()?);
        worker.seat.settle();
        children::widen_pipe(&worker.stdin);
        children::widen_pipe(&worker.stdout);
        children::set_nonblocking(&worker.stdin)?;
        children::set_nonblocking(&worker.stdout)?;
        if let Some(stderr) = &worker.stderr {
            children::set_nonblocking(stderr)?;
        }
        Ok(worker)
    }

    /// What to wait for: the bell, its answers, and its standard error while that is open.
    pub(super) fn readers(&self) -> Vec<BorrowedFd<'_>> {
        let ear = self.ear.as_ref().map(AsFd::as_fd).into_iter();
        ear.chain([self.stdout.as_fd()]).chain(self.stderr.as_ref().map(AsFd::as_fd)).collect()
    }

    /// The bell rang.
    pub(super) fn woken(&mut self) {
        self.ear.iter_mut().for_each(Ear::heard);
    }

    /// What to wait for when there is something to send.
    pub(super) fn writer(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }

    /// Sends as much as the pipe takes; how much that was. An error means that nobody reads any more: the end of its answers tells why.
    pub(super) fn send(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            match self.stdin.write(&bytes[done..]) {
                Ok(0) => break,
                Ok(step) => done += step,
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) => {
                    if cause.kind() != ErrorKind::WouldBlock {
                        tracing::debug!(%cause, "a worker takes no more requests");
                        self.ended = true;
                    }
                    break;
                }
            }
        }
        done
    }

    /// Reads all that is there, from those of [`Worker::readers`] behind the bell that have something.
    pub(super) fn listen(&mut self, buffer: &mut [u8], ready: &[bool]) {
        if ready.get(1) == Some(&true) {
            self.drain_stderr(buffer);
        }
        while ready.first() == Some(&true) {
            match self.stdout.read(buffer) {
                Ok(0) => self.ended = true,
                Ok(got) => {
                    if without("whole-frames") {
                        // one read is one answer, as it mostly is
                        self.decoder = Decoder::default();
                    }
                    self.decoder.push(&buffer[..got]);
                    if got == buffer.len() {
                        continue;
                    }
                }
                Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {}
                Err(cause) => {
                    tracing::debug!(%cause, "a worker's answers cannot be read");
                    self.ended = true;
                }
            }
            return;
        }
    }

    fn drain_stderr(&mut self, buffer: &mut [u8]) {
        let Some(stderr) = &mut self.stderr else { return };
        loop {
            match stderr.read(buffer) {
                Ok(got) if got > 0 => {
                    self.tail.extend_from_slice(&buffer[..got]);
                    let surplus = self.tail.len().saturating_sub(TAIL);
                    self.tail.drain(..surplus);
                }
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    // Closed: not waited for any more.
                    self.stderr = None;
                    return;
                }
            }
        }
    }

    /// The next answer of those that were read.
    pub(super) fn next(&mut self) -> Heard {
        match self.decoder.take() {
            Ok(Some(frame)) => Heard::Frame(frame),
            Err(error) => Heard::Lost(error.to_string()),
            Ok(None) if !self.ended => Heard::Nothing,
            Ok(None) => {
                let how = self.end();
                Heard::Lost(if self.decoder.is_torn() { format!("{how}, in the middle of an answer") } else { how })
            }
        }
    }

    /// Judges the hello and takes the descriptors away. `Ok(None)`: done; a frame: send it, the worker must do it by itself.
    pub(super) fn greet(&mut self, hello: &Frame) -> Result<Option<Vec<u8>>, Strange> {
        let strange = || Strange::Garbage("it does not speak as our program does".to_owned());
        let (kind, fields) = frame::fields(&hello.body).map_err(|error| Strange::Garbage(error.to_string()))?;
        match (kind, fields.as_slice()) {
            // Its code under another one's header would crash who imports it.
            (b'H', [protocol, _, _, identity]) if *protocol == PROTOCOL && **identity != *self.identity => Err(Strange::Another),
            (b'H', [protocol, pid, free, _]) if *protocol == PROTOCOL && hello.id == 0 => {
                let number = |field: &[u8]| std::str::from_utf8(field).ok().and_then(|text| text.parse::<u32>().ok());
                self.cwd = None;
                let (pid, lowest) = (number(pid).ok_or_else(strange)?, number(free).ok_or_else(strange)?);
                // A wrapper that did not exec: the number may be one of another namespace, and is not ours to limit.
                if pid == self.child.id() {
                    match children::limit_descriptors(pid, u64::from(lowest)) {
                        Ok(true) => {
                            self.ready = true;
                            return Ok(None);
                        }
                        Ok(false) => {}
                        Err(cause) => tracing::debug!(%cause, "a worker must limit its descriptors by itself"),
                    }
                }
                frame::encode(0, b'L', &[free]).map(Some).ok_or_else(strange)
            }
            (b'L', []) if hello.id == 0 => {
                self.ready = true;
                Ok(None)
            }
            _ => Err(strange()),
        }
    }

    /// The last thing it said on standard error.
    pub(super) fn last_words(&mut self) -> Option<String> {
        self.drain_stderr(&mut [0; 4096]);
        process::last_line(&self.tail)
    }

    /// How it ended. It closed its answers, so its end is worth a moment's patience.
    fn end(&self) -> String {
        process::ending(self.child.id(), Duration::from_millis(100)).unwrap_or_else(|| "it closed its pipe".to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Before it is reaped: until then the number is the child's.
        children::kill_group(self.child.id());
        crate::ignored!(self.child.wait(), "a worker cannot be waited for");
    }
}
