//! A stand-in interpreter: this very program, started by the name `python` from a directory where a file `behaviour` lies. It answers the
//! product's probe as the real interpreter does, and as a worker it runs the real one and spoils what that says on its way.
//!
//! A file, since the product gives interpreters an environment of their own.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::workers::readers::{self, HEAD};

/// What it does at a byte of its answers; whether the product then waits for more that does not come.
pub(crate) const AT_BYTES: [(&str, bool); 9] = [
    ("exit0", false),
    ("exit1", false),
    ("killed", false),
    ("prints", false),
    ("flips", false),
    ("pauses", false),
    ("stalls", true),
    ("forks", true),
    ("shuts", true),
];
/// What it does with a frame of its answers, checksum right.
pub(crate) const AT_FRAMES: [(&str, bool); 8] = [
    ("id", false),
    ("huge", false),
    ("zero", false),
    ("short", false),
    ("long", false),
    ("kind", false),
    ("twice", false),
    ("swaps", true),
];
/// What must harm nobody.
pub(crate) const HARMLESS: [&str; 3] = ["pauses", "slow", "chatters"];
/// What is only done at a few bytes: who leaves a process behind that is not in its group.
pub(crate) const RARE: [&str; 1] = ["leaves"];

/// How long what it leaves behind lives.
pub(crate) const LEFT_SECONDS: u64 = 8;
/// By this name in their environment the processes of one slot are known.
pub(crate) const MARK: &str = "STRESS_SLOT";
const PRINTED: &[u8] = b"Traceback (most recent call last):\n";
const PAUSE: Duration = Duration::from_millis(20);

/// Which of the worker processes of one run misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum When {
    Never,
    /// The first alone: the product must get over it.
    Once,
    Always,
}

/// A misbehaviour, as the file says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Behaviour {
    pub(crate) kind: &'static str,
    /// The byte or the frame.
    pub(crate) at: usize,
    pub(crate) when: When,
}

pub(crate) const GOOD: Behaviour = Behaviour { kind: "none", at: 0, when: When::Never };
/// Keeps what the worker says in a file `record`.
pub(crate) const RECORD: Behaviour = Behaviour { kind: "records", at: 0, when: When::Always };

impl Behaviour {
    pub(crate) fn name(&self) -> String {
        let when = match self.when {
            When::Never => "never",
            When::Once => "once",
            When::Always => "always",
        };
        format!("{}:{}:{when}", self.kind, self.at)
    }

    /// Tells it to the stand-ins in this directory, and forgets what earlier ones did.
    pub(crate) fn tell(&self, dir: &Path, real: &Path) -> Result<()> {
        for name in std::iter::once("hit".to_owned()).chain((0..100).map(|number| format!("start-{number}"))) {
            match std::fs::remove_file(dir.join(name)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(std::fs::write(dir.join("behaviour"), format!("{}\n{}", self.name(), real.display()))?)
    }
}

/// How many workers were started, and whether one misbehaved.
pub(crate) fn starts(dir: &Path) -> (usize, bool) {
    ((0..100).take_while(|number| dir.join(format!("start-{number}")).exists()).count(), dir.join("hit").exists())
}

/// Whether this process was started to be one; then it has done its work.
pub(crate) fn asked() -> Option<Result<ExitCode>> {
    let path = PathBuf::from(std::env::args_os().next()?);
    let dir = path.parent()?;
    let text = (path.file_name()? == "python").then(|| std::fs::read_to_string(dir.join("behaviour")).ok())??;
    Some(answer(dir, &text))
}

fn answer(dir: &Path, text: &str) -> Result<ExitCode> {
    let (what, real) = text.split_once('\n').context("no behaviour")?;
    let [kind, at, when] = what.split(':').collect::<Vec<_>>()[..] else { bail!("no behaviour: {what}") };
    let mut command = Command::new(real);
    command.args(std::env::args_os().skip(1)).env(MARK, dir);
    // the worker's program knows how frames begin, the probe does not
    let is_worker = std::env::args_os().any(|word| word.to_str().is_some_and(|word| word.contains("BKf")));
    if !is_worker {
        return Err(command.exec().into());
    }
    let number = (0..100).find(|number| std::fs::File::create_new(dir.join(format!("start-{number}"))).is_ok());
    if when == "never" || (when == "once" && number != Some(0)) {
        return Err(command.exec().into());
    }
    let child = command.stdin(Stdio::inherit()).stdout(Stdio::piped()).spawn().context("the real interpreter does not start")?;
    let mut proxy = Proxy { dir, kind, at: at.parse()?, child, done: 0, held: Vec::new(), frames: 0 };
    proxy.run().map(ExitCode::from)
}

struct Proxy<'a> {
    dir: &'a Path,
    kind: &'a str,
    at: usize,
    child: Child,
    /// Bytes that came from the real worker.
    done: usize,
    /// Bytes of frames that are not whole yet, and frames that are held back.
    held: Vec<u8>,
    frames: usize,
}

impl Proxy<'_> {
    fn run(&mut self) -> Result<u8> {
        let mut from = self.child.stdout.take().context("no pipe")?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let got = from.read(&mut buffer)?;
            if got == 0 {
                return Ok(0);
            }
            let bytes = &buffer[..got];
            if AT_FRAMES.iter().any(|(kind, _)| *kind == self.kind) {
                self.by_frames(bytes)?;
            } else if let Some(code) = self.by_bytes(bytes)? {
                return Ok(code);
            }
        }
    }

    fn hit(&self) -> Result<()> {
        Ok(std::fs::write(self.dir.join("hit"), "")?)
    }

    /// `Some`: it ends with this code.
    fn by_bytes(&mut self, bytes: &[u8]) -> Result<Option<u8>> {
        let start = self.done;
        self.done += bytes.len();
        match self.kind {
            "records" => {
                let mut record = std::fs::File::options().create(true).append(true).open(self.dir.join("record"))?;
                record.write_all(bytes)?;
                return say(bytes).map(|()| None);
            }
            "chatters" => {
                self.hit()?;
                (0..2000).try_for_each(|_| std::io::stderr().write_all(&[b'c'; 99]))?;
                return say(bytes).map(|()| None);
            }
            "slow" => {
                self.hit()?;
                for byte in bytes {
                    say(&[*byte])?;
                    std::thread::sleep(Duration::from_micros(50));
                }
                return Ok(None);
            }
            _ => {}
        }
        // behind the last of these bytes too, so that there is a case behind the very last
        let Some(before) = self.at.checked_sub(start).filter(|before| *before <= bytes.len()) else { return say(bytes).map(|()| None) };
        let (before, behind) = bytes.split_at(before);
        if self.kind == "flips" {
            let Some((byte, behind)) = behind.split_first() else { return say(before).map(|()| None) };
            self.hit()?;
            return say(&[before, &[byte ^ (1 << (self.at % 8))], behind].concat()).map(|()| None);
        }
        say(before)?;
        self.hit()?;
        let sleeper = |seconds: u64| {
            let mut command = Command::new("sleep");
            command.arg(seconds.to_string()).env(MARK, self.dir).stdin(Stdio::null());
            command
        };
        match self.kind {
            "exit0" => return Ok(Some(0)),
            "exit1" => return Ok(Some(1)),
            "killed" => {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
            }
            "prints" => say(PRINTED)?,
            "pauses" => std::thread::sleep(PAUSE),
            // its end would be seen; so it sleeps
            "stalls" => std::thread::sleep(Duration::from_secs(600)),
            "forks" => {
                sleeper(600).spawn()?;
                return Ok(Some(0));
            }
            "leaves" => {
                sleeper(LEFT_SECONDS).process_group(0).spawn()?;
                return Ok(Some(0));
            }
            "shuts" => {
                self.child.kill()?;
                self.child.wait()?;
                return Err(sleeper(600).exec().into());
            }
            other => bail!("no behaviour is called {other}"),
        }
        // behind what was done at the end of these bytes nothing is done again
        self.at = usize::MAX;
        say(behind).map(|()| None)
    }

    fn by_frames(&mut self, bytes: &[u8]) -> Result<()> {
        self.held.extend_from_slice(bytes);
        while let Some(len) = readers::whole(&self.held) {
            if self.kind == "swaps" && self.frames == self.at {
                // held back until the next one is whole, and then that goes first
                let Some(next) = readers::whole(&self.held[len..]) else { return Ok(()) };
                self.hit()?;
                let second = self.held[len..len + next].to_vec();
                say(&second)?;
                say(&self.held[..len])?;
                self.held.drain(..len + next);
                self.frames += 2;
                continue;
            }
            let mut frame: Vec<u8> = self.held.drain(..len).collect();
            if self.frames == self.at {
                self.hit()?;
                lie(self.kind, &mut frame);
            }
            self.frames += 1;
            say(&frame)?;
        }
        Ok(())
    }
}

fn lie(kind: &str, frame: &mut Vec<u8>) {
    let len = u32::try_from(frame.len() - HEAD).unwrap_or(0);
    let told = match kind {
        "huge" => u32::MAX,
        "zero" => {
            frame.truncate(HEAD);
            0
        }
        "short" => {
            frame.pop();
            len - 1
        }
        "long" => {
            frame.push(0);
            len + 1
        }
        _ => len,
    };
    match kind {
        "id" => frame[9] ^= 4,
        "kind" => frame[HEAD] = b'?',
        "twice" => frame.extend_from_within(..),
        _ => {}
    }
    if kind != "twice" {
        frame[4..8].copy_from_slice(&told.to_le_bytes());
        let sum = readers::checksum(frame);
        frame[12..HEAD].copy_from_slice(&sum.to_le_bytes());
    }
}

/// Not by std's writer, which divides bytes at the ends of lines.
fn say(mut bytes: &[u8]) -> Result<()> {
    let out = std::io::stdout().lock();
    while !bytes.is_empty() {
        match rustix::io::write(&out, bytes) {
            Ok(done) => bytes = &bytes[done..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("nobody listens: {error}"),
        }
    }
    Ok(())
}
