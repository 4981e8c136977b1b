//! What a program did to files, from a log of `strace -f -xx`: every call that returned, in the order of their returns.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::mount::on_path;

/// Everything that makes, fills, flushes, names or removes a file, or that passes a descriptor on. A `?`: not every architecture has it.
const CALLS: &str = "clone,?clone3,?fork,?vfork,openat,?openat2,?open,?creat,write,pwrite64,writev,pwritev,?pwritev2,lseek,ftruncate,truncate,\
    fallocate,sendfile,copy_file_range,ioctl,fsync,fdatasync,syncfs,sync,?sync_file_range,close,?close_range,dup,?dup2,dup3,fcntl,\
    ?rename,?renameat,renameat2,?link,linkat,?unlink,unlinkat,?rmdir,?mkdir,mkdirat,?symlink,symlinkat";

/// Whether anything can be traced here.
pub(crate) fn possible() -> Result<(), String> {
    if !on_path("strace") {
        return Err("there is no strace".to_owned());
    }
    let tried = Command::new("strace").args(["-f", "-b", "execve", "-qq", "-o", "/dev/null", "true"]).output();
    match tried {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!("strace cannot trace here: {}", String::from_utf8_lossy(&out.stderr).trim())),
        Err(error) => Err(format!("strace does not start: {error}")),
    }
}

/// Not through `execve`: a worker is another process, which has the descriptors of its pipes alone.
pub(crate) fn strace(log: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-b", "execve", "-qq", "-xx", "-s", "100000000", "-e", "signal=none", "-o"]).arg(log);
    command.arg("-e").arg(format!("trace={CALLS}"));
    command
}

/// A call that succeeded.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) pid: u32,
    pub(crate) name: String,
    args: Vec<String>,
    pub(crate) value: i64,
    /// The line on which it began: what came after it is not flushed by it.
    pub(crate) began: usize,
    /// The line on which it was done.
    pub(crate) ended: usize,
}

impl Call {
    pub(crate) fn text(&self, number: usize) -> &str {
        self.args.get(number).map_or("", String::as_str)
    }

    pub(crate) fn number(&self, number: usize) -> Result<usize> {
        self.text(number).parse().with_context(|| format!("{}: argument {number} is {}", self.name, self.text(number)))
    }

    /// What stands between quotes: a path, or what is written.
    pub(crate) fn bytes(&self, number: usize) -> Result<Vec<u8>> {
        let text = self.text(number);
        let mut all = Vec::new();
        for quoted in text.split('"').skip(1).step_by(2) {
            for pair in quoted.split("\\x").skip(1) {
                all.push(u8::from_str_radix(pair, 16).with_context(|| format!("{pair} is no byte in hexadecimals"))?);
            }
        }
        if text.contains("\"...") {
            bail!("{}: strace cut an argument", self.name);
        }
        Ok(all)
    }
}

/// How a process came to be: whose child it is, and whether they share descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Birth {
    pub(crate) parent: u32,
    pub(crate) shares: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) calls: Vec<Call>,
    pub(crate) births: HashMap<u32, Birth>,
}

impl Log {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut log = Self::default();
        let mut begun: HashMap<u32, (usize, String)> = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let line_number = number + 1;
            let (pid, rest) = line.split_once(' ').with_context(|| format!("line {line_number} has no pid"))?;
            let (pid, rest) = (pid.parse()?, rest.trim_start());
            if let Some(head) = rest.strip_suffix(" <unfinished ...>") {
                // a descriptor is free from the beginning of its close on: another thread may get its number before the return is logged
                if head.starts_with("close(") {
                    log.call(pid, &format!("{head}) = 0"), line_number, line_number)?;
                } else {
                    begun.insert(pid, (line_number, head.to_owned()));
                }
            } else if let Some(resumed) = rest.strip_prefix("<... ") {
                let Some((began, head)) = begun.remove(&pid) else { continue };
                let (_, tail) = resumed.split_once(" resumed>").with_context(|| format!("line {line_number}: {line}"))?;
                log.call(pid, &format!("{head}{tail}"), began, line_number)?;
            } else {
                log.call(pid, rest, line_number, line_number)?;
            }
        }
        Ok(log)
    }

    fn call(&mut self, pid: u32, text: &str, began: usize, ended: usize) -> Result<()> {
        // in strings every byte is a hexadecimal, so nothing in them looks like syntax
        let Some((head, value)) = text.rsplit_once(" = ") else { return Ok(()) };
        let Some((name, args)) = head.trim_end().strip_suffix(')').and_then(|head| head.split_once('(')) else { return Ok(()) };
        let value = value.split(' ').next().unwrap_or("");
        let parsed = value.strip_prefix("0x").map_or_else(|| value.parse().ok(), |hex| i64::from_str_radix(hex, 16).ok());
        let Some(value) = parsed.filter(|value| *value >= 0) else { return Ok(()) };
        if matches!(name, "clone" | "clone3" | "fork" | "vfork") {
            let birth = Birth { parent: pid, shares: args.contains("CLONE_FILES") };
            self.births.insert(u32::try_from(value)?, birth);
            return Ok(());
        }
        self.calls.push(Call { pid, name: name.to_owned(), args: split(args), value, began, ended });
        Ok(())
    }
}

/// At the commas that stand in no bracket.
fn split(args: &str) -> Vec<String> {
    let (mut all, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, byte) in args.bytes().enumerate() {
        match byte {
            b'[' | b'{' | b'(' => depth += 1,
            b']' | b'}' | b')' => depth -= 1,
            b',' if depth == 0 => {
                all.push(args[from..at].trim().to_owned());
                from = at + 1;
            }
            _ => {}
        }
    }
    all.push(args[from..].trim().to_owned());
    all
}

/// A call that strace made fail.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) call: String,
    /// Every path in it: of its descriptors, and of names relative to them.
    pub(crate) paths: Vec<PathBuf>,
}

/// A call that failed, made to or not.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) call: String,
    pub(crate) paths: Vec<PathBuf>,
    /// `ENOENT`
    pub(crate) errno: String,
    /// `No such file or directory`
    pub(crate) words: String,
    injected: bool,
}

/// What failed, from a log with `-y`.
pub(crate) fn failures(log: &Path) -> Result<Vec<Failure>> {
    let text = String::from_utf8_lossy(&std::fs::read(log).with_context(|| log.display().to_string())?).into_owned();
    let mut begun: HashMap<&str, &str> = HashMap::new();
    let mut all = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(head) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(pid, head);
        } else if let Some((_, why)) = rest.rsplit_once(" = -1 ") {
            let whole = if rest.starts_with("<... ") { begun.get(pid).copied().unwrap_or(rest) } else { rest };
            let (call, args) = whole.split_once('(').unwrap_or((whole, ""));
            let (errno, words) = why.split_once(" (").unwrap_or((why, ""));
            let words = words.split(')').next().unwrap_or("").to_owned();
            let injected = rest.ends_with("(INJECTED)");
            all.push(Failure { call: call.to_owned(), paths: paths(args), errno: errno.to_owned(), words, injected });
        }
    }
    Ok(all)
}

/// What was made to fail, from a log with `-y`.
pub(crate) fn hits(log: &Path) -> Result<Vec<Hit>> {
    let hit = |failure: Failure| failure.injected.then_some(Hit { call: failure.call, paths: failure.paths });
    Ok(failures(log)?.into_iter().filter_map(hit).collect())
}

/// `3</tree/pkg>, "m1.py"` is `/tree/pkg` and `/tree/pkg/m1.py`. The working directory, which stands for nothing, is left out.
fn paths(args: &str) -> Vec<PathBuf> {
    let (mut all, mut base, mut rest) = (Vec::new(), PathBuf::new(), args);
    while let Some(at) = rest.find(['<', '"']) {
        let (before, from) = (&rest[..at], &rest[at + 1..]);
        let quoted = rest[at..].starts_with('"');
        let end = from.find(if quoted { '"' } else { '>' }).unwrap_or(from.len());
        if quoted {
            all.push(base.join(&from[..end]));
        } else {
            base = PathBuf::from(&from[..end]);
            if !before.ends_with("AT_FDCWD") {
                all.push(base.clone());
            }
        }
        rest = from.get(end + 1..).unwrap_or("");
    }
    all
}
