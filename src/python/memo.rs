//! What probes learned, remembered: so that a run with nothing to do starts no interpreter.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::interpreter::{Answer, InterpreterError, unhex};
use super::process;
use crate::base::children::{self, ChildLimits};
use crate::base::memo::{own_dir, read, replace};
use crate::base::sys::Name;

/// What an interpreter is asked at first.
const PROBE: &str = concat!(include_str!("build.py"), include_str!("probe.py"));
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether the asking shall stop.
const TICK: Duration = Duration::from_millis(40);
/// How much it may say.
const LONGEST: usize = 64 << 10;
const FILE: &str = "interpreters-4.json";
/// How much of a memo is believed to be one, bytes and entries.
const MEMO_BYTES: u64 = 1 << 20;
const MEMO_ENTRIES: usize = 200;

/// The memory of probes, in a directory that only this user writes.
#[derive(Debug, Clone, Default)]
pub struct Probes {
    dir: Option<PathBuf>,
    keep_home: bool,
    stop: Option<Arc<AtomicBool>>,
    end: Option<Instant>,
}

/// What tells one state of a file from another. `None`: not there.
type Guard = Option<(u64, i64, i64, u64, u64)>;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Memory {
    real: Guard,
    library: Guard,
    config: Guard,
    answer: Answer,
}

type Memories = BTreeMap<String, Memory>;

fn guard(path: &Path) -> Guard {
    let seen = std::fs::metadata(path).ok()?;
    Some((seen.size(), seen.mtime(), seen.mtime_nsec(), seen.ino(), seen.dev()))
}

impl Probes {
    /// A memory in `cache_dir`, or none. It need not exist yet.
    pub fn open(cache_dir: Option<PathBuf>) -> Self {
        Self { dir: cache_dir, ..Self::default() }
    }

    /// The same, for runs that keep `PYTHONHOME` (hooks must not).
    #[must_use]
    pub fn keeping_pythonhome(mut self) -> Self {
        self.keep_home = true;
        self
    }

    /// The same, for who may want no answer any more: when it is set, an interpreter that is being asked is ended.
    #[must_use]
    pub fn until(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// The same, for who has no more than this time, counted from now, for all that is asked. `None`: no limit.
    #[must_use]
    pub fn within(mut self, time: Option<Duration>) -> Self {
        self.end = time.and_then(|time| Instant::now().checked_add(time));
        self
    }

    /// How long the next one may take to answer.
    fn patience(&self) -> Duration {
        self.end.map_or(PATIENCE, |end| end.saturating_duration_since(Instant::now()).min(PATIENCE))
    }

    fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::SeqCst))
    }

    /// What `path` said when it was what it is now.
    pub(super) fn recall(&self, path: &Path, real: &Path) -> Option<Answer> {
        let memory = self.load()?.remove(&self.key(path))?;
        let fresh = Self::look(path, real, memory.answer.clone())?;
        let same = (fresh.real, fresh.library, fresh.config) == (memory.real, memory.library, memory.config);
        (same && memory.real.is_some()).then_some(memory.answer)
    }

    /// Keeps an answer. That it cannot is no error: the next run asks again.
    pub(super) fn remember(&self, path: &Path, real: &Path, answer: &Answer) {
        // A version manager's shim may start another interpreter tomorrow without having changed itself.
        let runs = unhex(&answer.executable).unwrap_or_default();
        let is_shim = !runs.is_empty() && runs != real.as_os_str().as_bytes();
        if self.dir.is_none() || is_shim || is_script(real) {
            return;
        }
        let Some(memory) = Self::look(path, real, answer.clone()) else { return };
        let mut all = self.load().unwrap_or_default();
        if all.len() >= MEMO_ENTRIES {
            all.clear();
        }
        all.insert(self.key(path), memory);
        crate::ignored!(self.store(&all), "what interpreters are is not remembered");
    }

    fn look(path: &Path, real: &Path, answer: Answer) -> Option<Memory> {
        let library = std::ffi::OsString::from(std::ffi::OsStr::from_bytes(&unhex(&answer.library)?));
        let config = path.parent()?.parent()?.join("pyvenv.cfg");
        let library = if library.is_empty() { None } else { guard(Path::new(&library)) };
        Some(Memory { real: guard(real), library, config: guard(&config), answer })
    }

    /// The path as found, and the settings that may change which library it runs with.
    fn key(&self, path: &Path) -> String {
        let mut parts = vec![path.as_os_str().to_owned(), std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()];
        if self.keep_home {
            parts.push(std::env::var_os("PYTHONHOME").unwrap_or_default());
        }
        // Escaped, so that two paths that are no UTF-8 never share a key.
        parts.iter().map(|part| part.as_bytes().escape_ascii().to_string()).collect::<Vec<_>>().join("\n")
    }

    /// All of it, where it can be believed.
    fn load(&self) -> Option<Memories> {
        let dir = self.dir.as_deref()?;
        let text = match own_dir(dir, false).and_then(|dir| read(&dir, &file(), MEMO_BYTES)) {
            Ok(text) => text,
            Err(error) => {
                if !error.is_gone() {
                    tracing::debug!(cause = %error.sentence(), "nothing is remembered of interpreters");
                }
                return None;
            }
        };
        match serde_json::from_slice(&text) {
            Ok(all) => Some(all),
            Err(cause) => {
                tracing::debug!(%cause, dir = %dir.display(), "the memory of interpreters is damaged and starts anew");
                None
            }
        }
    }

    fn store(&self, all: &Memories) -> crate::base::Result<()> {
        let Some(dir) = self.dir.as_deref() else { return Ok(()) };
        let text = serde_json::to_vec(all).map_err(|cause| crate::base::Error::new("write down", dir, cause))?;
        replace(&*own_dir(dir, true)?, &file(), &text)
    }
}

#[allow(clippy::unwrap_used, reason = "a constant that is one component")]
fn file() -> Name {
    Name::new(FILE).unwrap()
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"#!"
}

/// Starts an interpreter and asks it what it is.
pub(super) fn ask(path: &Path, probes: &Probes) -> Result<Answer, InterpreterError> {
    if probes.stopped() {
        return Err(InterpreterError::Stopped);
    }
    let patience = probes.patience();
    let late =
        || InterpreterError::TimedOut { path: path.to_owned(), seconds: patience.as_secs() + u64::from(patience.subsec_nanos() > 0) };
    if patience.is_zero() {
        return Err(late());
    }
    let broken = |how: String| InterpreterError::Broken { path: path.to_owned(), how };
    let cwd = process::empty_dir().map_err(|cause| InterpreterError::NoDirectory(cause.to_string()))?;
    let limits = ChildLimits { address_space: None };
    let mut command = process::command(path, &[], PROBE, cwd.path(), probes.keep_home, limits);
    command.stdin(std::process::Stdio::null());
    let mut child = command.spawn().map_err(|cause| broken(cause.to_string()))?;
    let heard = listen(&mut child, probes, patience);
    // Before it is reaped: until then the number is the child's.
    let ending = process::ending(child.id(), if heard.is_ok() { Duration::from_secs(1) } else { Duration::ZERO });
    children::kill_group(child.id());
    crate::ignored!(child.wait(), "a probe cannot be waited for");
    if probes.stopped() {
        return Err(InterpreterError::Stopped);
    }
    let (out, err) = heard.map_err(|cause| broken(cause.to_string()))?.ok_or_else(late)?;
    let line = out.split(|byte| *byte == b'\n').rfind(|line| line.first() == Some(&b'{'));
    match (ending.as_deref(), line.map(serde_json::from_slice)) {
        (Some("exit status 0") | None, Some(Ok(answer))) => Ok(answer),
        (Some("exit status 0") | None, _) => {
            Err(broken(process::last_line(&err).unwrap_or_else(|| "it does not answer as Python does".to_owned())))
        }
        (Some(ending), _) => Err(broken(match process::last_line(&err) {
            Some(line) => format!("{ending} ({line})"),
            None => ending.to_owned(),
        })),
    }
}

/// What a child writes to standard output, until it closes that, and to standard error. `None`: not in time, or without end, or nobody
/// wants it any more.
fn listen(child: &mut std::process::Child, probes: &Probes, patience: Duration) -> std::io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    };
    children::set_nonblocking(&stdout)?;
    children::set_nonblocking(&stderr)?;
    let until = Instant::now() + patience;
    let (mut out, mut err, mut err_open) = (Vec::new(), Vec::new(), true);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || probes.stopped() || out.len() + err.len() > LONGEST {
            return Ok(None);
        }
        let both = [stdout.as_fd(), stderr.as_fd()];
        children::wait_any(if err_open { &both } else { &both[..1] }, None, Some(left.min(TICK)))?;
        err_open = err_open && take(&mut stderr, &mut err)?;
        if !take(&mut stdout, &mut out)? {
            // What it says on standard error as it ends is already there, or comes with its end.
            let end = process::ending(child.id(), Duration::from_secs(1));
            tracing::trace!(?end, "a probe closed its answer");
            if err_open {
                take(&mut stderr, &mut err)?;
            }
            return Ok(Some((out, err)));
        }
    }
}

/// Takes what is there; `false` at the end.
fn take(from: &mut impl Read, to: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut buffer = [0; 8192];
    match from.read(&mut buffer) {
        Ok(got) => {
            to.extend_from_slice(&buffer[..got]);
            Ok(got > 0)
        }
        Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(true),
        Err(cause) => Err(cause),
    }
}
