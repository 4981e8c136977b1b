//! What wakes a manager. While it has a worker it listens to pipes, and this is one of them; without one it holds no descriptor.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::children;

const TRIES: u32 = 3;

/// Rung by anybody, heard by one manager.
#[derive(Debug, Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    pipe: Option<PipeWriter>,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the manager look what there is to do.
    pub(super) fn ring(&self) {
        let mut state = self.state();
        // Rung and not yet heard: it will look anyway.
        if std::mem::replace(&mut state.rung, true) {
            return;
        }
        match &mut state.pipe {
            Some(pipe) => write_to(pipe),
            None => self.changed.notify_one(),
        }
    }

    /// Waits until it rings.
    pub(super) fn wait(&self) {
        let mut state = self.state();
        while !state.rung {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.rung = false;
    }

    /// Hears it by a pipe from now on.
    pub(super) fn listen(self: &Arc<Self>) -> std::io::Result<Ear> {
        let (reader, mut writer) = std::io::pipe()?;
        children::set_nonblocking(&reader)?;
        children::set_nonblocking(&writer)?;
        let mut state = self.state();
        if state.rung {
            write_to(&mut writer);
        }
        state.pipe = Some(writer);
        Ok(Ear { bell: Arc::clone(self), reader })
    }
}

/// Who is not woken waits for ever, so one error is not the last word. A full pipe is no error: it wakes too.
fn write_to(pipe: &mut PipeWriter) {
    for _ in 0..TRIES {
        match pipe.write_all(&[1]) {
            Err(cause) if cause.kind() != ErrorKind::WouldBlock => tracing::debug!(%cause, "a manager is not woken; once more"),
            _ => return,
        }
    }
}

/// The end of a bell's pipe that can be waited for.
#[derive(Debug)]
pub(super) struct Ear {
    bell: Arc<Bell>,
    reader: PipeReader,
}

impl Ear {
    /// It was heard, and rings anew from now on.
    pub(super) fn heard(&mut self) {
        let mut state = self.bell.state();
        let mut small = [0; 64];
        while matches!(self.reader.read(&mut small), Ok(got) if got == small.len()) {}
        state.rung = false;
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.bell.state().pipe = None;
    }
}
