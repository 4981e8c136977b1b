//! Is an artifact whole? Written from the format's description alone: it shares no code with what it judges.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use crate::run::Python;

pub(crate) type Digest = [u8; 32];

const SEAL: usize = 96;
/// The shortest there is, Python 2.7's.
const HEADER: usize = 8;

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

/// What the bytes of an artifact say of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    Unsealed,
    Sealed { source: Digest, adopted: bool },
    Torn(String),
}

/// 0 length · 8 source · 40 proof · 72 version · 74 flags · 76 key · 80 label · 88 magic
pub(crate) fn look(bytes: &[u8]) -> Look {
    let torn = |why: &str| Look::Torn(format!("{why} ({} bytes)", bytes.len()));
    if bytes.len() < HEADER + 1 {
        return torn("shorter than a header");
    }
    let (payload, seal) = bytes.split_at(bytes.len().saturating_sub(SEAL));
    if seal.len() != SEAL || seal[88..] != *b"\x8BBKSEAL\n" {
        return Look::Unsealed;
    }
    if seal[..8] != u64::try_from(payload.len()).unwrap_or(0).to_le_bytes() {
        return torn("the seal says another length");
    }
    if seal[72..74] != [1, 0] || seal[75] != 0 || seal[74] & !2 != 0 || seal[76..80] != [0; 4] {
        return torn("no plain seal of version 1");
    }
    let mut hasher = blake3::Hasher::new();
    for part in [payload, &seal[..40], &seal[72..]] {
        hasher.update(part);
    }
    if hasher.finalize().as_bytes()[..] != seal[40..72] {
        return torn("the proof fails");
    }
    Look::Sealed { source: seal[8..40].try_into().unwrap(), adopted: seal[74] & 2 != 0 }
}

/// The seal anew over a payload that somebody changed, who can write the file: an unkeyed one proves no origin.
pub(crate) fn forged(mut sealed: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let end = sealed.len().saturating_sub(SEAL);
    let (payload, seal) = sealed.split_at_mut(end);
    change(payload);
    let mut hasher = blake3::Hasher::new();
    for part in [&*payload, &seal[..40], &seal[72..]] {
        hasher.update(part);
    }
    seal[40..72].copy_from_slice(hasher.finalize().as_bytes());
    sealed
}

/// Asks an interpreter whether it can load what it has not seen yet: one process for many artifacts.
#[derive(Debug)]
pub(crate) struct Loader {
    child: Child,
    header: usize,
    into: ChildStdin,
    from: BufReader<ChildStdout>,
    seen: HashSet<Digest>,
}

const LOADS: &str = "
import sys, marshal, struct
read, out = getattr(sys.stdin, 'buffer', sys.stdin).read, sys.stdout
while True:
    size = read(8)
    if len(size) < 8:
        break
    try:
        found = type(marshal.loads(read(struct.unpack('<Q', size)[0]))).__name__
    except Exception as e:
        found = repr(e).encode('ascii', 'backslashreplace').decode('ascii')
    out.write(found + '\\n')
    out.flush()
";

impl Loader {
    pub(crate) fn start(python: &Python) -> Result<Self> {
        Self::with(&python.path, python.header)
    }

    /// For an interpreter whose artifacts have a header of so many bytes.
    pub(crate) fn with(python: &Path, header: usize) -> Result<Self> {
        // a length that lies would else take gigabytes, and a minute to fill them
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 2000000; exec \"$@\"", "sh"]).arg(python);
        command.args(["-E", "-s", "-S", "-c", LOADS]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let into = child.stdin.take().context("no pipe")?;
        let from = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, header, into, from, seen: HashSet::new() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `Some(why)` where `marshal.loads` refuses it or gives no code object.
    pub(crate) fn refuses(&mut self, artifact: &[u8]) -> Result<Option<String>> {
        let name = digest(artifact);
        if self.seen.contains(&name) {
            return Ok(None);
        }
        let code = artifact.get(self.header..).unwrap_or_default();
        self.into.write_all(&u64::try_from(code.len())?.to_le_bytes())?;
        self.into.write_all(code)?;
        self.into.flush()?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        if answer.trim() != "code" {
            return Ok(Some(format!("marshal.loads says: {}", answer.trim())));
        }
        self.seen.insert(name);
        Ok(None)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            println!("the loading interpreter did not end: {error}");
        }
    }
}

/// Every file below a directory, with its path. Links are not followed; what vanishes meanwhile is left out.
pub(crate) fn files(tree: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(tree).sort_by_file_name().into_iter().flatten();
    all.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

pub(crate) fn is_leftover(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".bytekeep"))
}

/// Names with the product's prefix, directories too.
pub(crate) fn leftovers(tree: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(tree).into_iter().flatten().map(walkdir::DirEntry::into_path);
    all.filter(|path| is_leftover(path)).collect()
}

pub(crate) fn is_artifact(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix == "pyc")
}
