//! What Debian's `python3-minimal` says of itself: which versions import from `/usr/lib/python3/dist-packages`, and what packages there
//! do not want compiled (`/usr/share/python3/bcep`).

use std::path::{Path, PathBuf};

use super::owner;
use crate::base::sys::{self, Kind};

/// The files are a few lines each; one that is larger is none of theirs.
const LIMIT: u64 = 64 << 10;

/// The executables of the supported versions, below this root. None where nothing is said of them.
pub(super) fn supported(root: &Path) -> Vec<String> {
    let Some(text) = small(&root.join("usr/share/python3/debian_defaults")) else { return Vec::new() };
    let value = text.lines().find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "supported-versions"));
    let names = value.map(|(_, names)| names).unwrap_or_default().split(',').map(|name| name.trim().to_owned());
    names.filter(|name| owner::version(name).is_some()).collect()
}

/// Whatever stands there: a FIFO that nobody writes to must not hold up a transaction.
fn small(path: &Path) -> Option<String> {
    let read = sys::open_named(path).and_then(|file| {
        let stat = sys::stat(&file, path)?;
        if stat.kind == Kind::File { sys::read_all(&file, stat.size, LIMIT, path) } else { Ok(None) }
    });
    match read {
        Ok(Some(bytes)) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(None) => {
            tracing::debug!(path = %path.display(), "it is no file, or too large to be one of Debian's");
            None
        }
        Err(error) => {
            tracing::debug!(cause = %error.sentence(), "nothing is known from it");
            None
        }
    }
}

/// What is not to be compiled.
#[derive(Debug, Default)]
pub(super) struct Unwanted {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    from: Option<(u8, u8)>,
    below: Option<(u8, u8)>,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    File(PathBuf),
    Dir(PathBuf),
    Pattern(PathBuf, Vec<Part>),
}

/// A piece of a pattern: the part of regular expressions that these files use.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    Any,
    Anything,
    End,
}

impl Unwanted {
    /// As the files below this root say.
    pub(super) fn below(root: &Path) -> Self {
        let mut unwanted = Self::default();
        let Ok(files) = std::fs::read_dir(root.join("usr/share/python3/bcep")) else { return unwanted };
        for path in files.flatten().map(|file| file.path()) {
            if path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            unwanted.rules.extend(small(&path).unwrap_or_default().lines().filter_map(rule));
        }
        unwanted
    }

    /// Is there nothing that is unwanted?
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Is a path, as its system calls it, unwanted for a version?
    pub(super) fn matches(&self, path: &Path, version: (u8, u8)) -> bool {
        self.rules.iter().any(|rule| rule.holds_for(version) && rule.what.matches(path))
    }
}

impl Rule {
    /// As `py3compile` reads a range: `3.2` is that one alone, and the upper end is left out of it.
    fn holds_for(&self, version: (u8, u8)) -> bool {
        match (self.from, self.below) {
            (Some(from), Some(below)) if from == below => version == from,
            (from, below) => from.is_none_or(|from| version >= from) && below.is_none_or(|below| version < below),
        }
    }
}

impl What {
    fn matches(&self, path: &Path) -> bool {
        match self {
            Self::File(file) => path == file,
            Self::Dir(dir) => path.starts_with(dir),
            Self::Pattern(dir, parts) => path.strip_prefix(dir).is_ok_and(|below| {
                let (whole, below) = (path.as_os_str().as_encoded_bytes(), below.as_os_str().as_encoded_bytes());
                fits(parts, whole) || (!below.is_empty() && fits(parts, below))
            }),
        }
    }
}

/// `type|range|path` with `|pattern` behind it for the type `re`.
fn rule(line: &str) -> Option<Rule> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = line.splitn(4, '|');
    let (kind, range, path) = (fields.next()?, fields.next()?.trim(), PathBuf::from(fields.next()?));
    let pattern = fields.next();
    if !path.is_absolute() {
        return None;
    }
    let (from, below) = match range.split_once('-') {
        None if range.is_empty() => (None, None),
        None => (Some(number(range)?), Some(number(range)?)),
        Some((from, below)) => (limit(from)?, limit(below)?),
    };
    let what = match kind {
        "file" => What::File(path),
        "dir" => What::Dir(path),
        // What is not understood leaves out all that it may mean: a module that is not compiled costs time, and one that must not be
        // compiled was left out for a reason.
        "re" => pattern.map_or(Some(Vec::new()), parts).map_or_else(|| What::Dir(path.clone()), |parts| What::Pattern(path.clone(), parts)),
        _ => return None,
    };
    Some(Rule { from, below, what })
}

/// `None`: no version. `Some(None)`: no limit.
#[allow(clippy::option_option, reason = "two answers")]
fn limit(text: &str) -> Option<Option<(u8, u8)>> {
    if text.is_empty() { Some(None) } else { number(text).map(Some) }
}

fn number(text: &str) -> Option<(u8, u8)> {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A pattern that is matched from the beginning, as Python's `re.match` does. `None`: it says more than is understood here.
fn parts(pattern: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut bytes = pattern.strip_prefix('^').unwrap_or(pattern).bytes().peekable();
    while let Some(byte) = bytes.next() {
        parts.push(match byte {
            b'.' if bytes.next_if_eq(&b'*').is_some() => Part::Anything,
            b'.' => Part::Any,
            b'\\' => Part::Byte(bytes.next().filter(u8::is_ascii_punctuation)?),
            b'$' if bytes.peek().is_none() => Part::End,
            b'*' | b'+' | b'?' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'|' | b'^' | b'$' => return None,
            byte => Part::Byte(byte),
        });
        // Only of `.` it is understood how often.
        if bytes.peek().is_some_and(|next| b"*+?{".contains(next)) {
            return None;
        }
    }
    Some(parts)
}

/// Does the text begin with what the pattern says? Each `.*` is tried from where it stands, the last one alone being taken back: what came
/// before it needs no more than its first place.
fn fits(parts: &[Part], text: &[u8]) -> bool {
    let (mut part, mut at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match parts.get(part) {
            None => return true,
            Some(Part::Anything) => {
                retry = Some((part + 1, at));
                part += 1;
                continue;
            }
            Some(Part::End) => at == text.len(),
            Some(Part::Any) => at < text.len(),
            Some(Part::Byte(byte)) => text.get(at) == Some(byte),
        };
        if step {
            at += usize::from(parts.get(part) != Some(&Part::End));
            part += 1;
            continue;
        }
        match retry {
            Some((after, from)) if from < text.len() => {
                retry = Some((after, from + 1));
                (part, at) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    #[test]
    fn the_versions_that_are_supported() {
        let top = tempfile::tempdir().unwrap();
        assert!(supported(top.path()).is_empty());
        std::fs::create_dir_all(top.path().join("usr/share/python3")).unwrap();
        let text =
            "[DEFAULT]\ndefault-version = python3.12\n# no\nsupported-versions = python3.12, python3.11, x\nold-versions = python3.1\n";
        std::fs::write(top.path().join("usr/share/python3/debian_defaults"), text).unwrap();
        assert_eq!(supported(top.path()), ["python3.12", "python3.11"]);
    }

    #[test]
    fn what_packages_do_not_want_compiled() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("usr/share/python3/bcep")).unwrap();
        let lines = "# type|range|path|pattern\n\
            dir|-3.12|/p/old\n\
            file|3.11|/p/one.py\n\
            re|3.6-|/p/jinja|.*async.*\n\
            re|-|/p/odd|x(y|z)+\\.py$\n\
            re||/p/end|t_.*\\.py$\n\
            dir|3|relative\nnonsense\nre|3.x|/p|.*\n";
        std::fs::write(top.path().join("usr/share/python3/bcep/some"), lines).unwrap();
        std::fs::write(top.path().join("usr/share/python3/bcep/.hidden"), "dir||/p\n").unwrap();
        let unwanted = Unwanted::below(top.path());
        for (path, version, expected) in [
            ("/p/old/a/b.py", (3, 11), true),
            ("/p/old/a/b.py", (3, 12), false),
            ("/p/older/b.py", (3, 11), false),
            ("/p/one.py", (3, 11), true),
            ("/p/one.py", (3, 10), false),
            ("/p/jinja/x/asyncio.py", (3, 11), true),
            ("/p/jinja/x/sync.py", (3, 11), false),
            ("/p/jinja/async.py", (3, 5), false),
            ("/p/odd/any.py", (3, 11), true),
            ("/p/end/t_1.py", (3, 11), true),
            ("/p/end/t_1.py.py", (3, 11), true),
            ("/p/end/a_t_1.py", (3, 11), false),
            ("/p/end/t_1.pyw", (3, 11), false),
        ] {
            assert_eq!(unwanted.matches(Path::new(path), version), expected, "{path} {version:?}");
        }
        assert!(Unwanted::below(Path::new("/nowhere")).is_empty());
    }
}
