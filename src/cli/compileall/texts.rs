//! What compileall tells, in its words and its order: `Compiling`, and why something failed. Errors of sources are told by the interpreter
//! itself; those of the system as Python shows them.

use std::os::unix::fs::MetadataExt;

use super::walk::{File, as_path};
use crate::base::source::Source;
use crate::model::Cause;
use crate::python::words::Words;

/// The largest source that is read once more for its error.
const LARGEST: u64 = 1 << 30;

/// How things are told.
pub(super) struct Texts<'a> {
    pub(super) quiet: u32,
    pub(super) words: &'a Words<'a>,
}

/// What came of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is up to date, and nothing is told.
    Current,
    /// It was compiled.
    Compiled,
    /// It was tried, and failed.
    Failed(Trouble),
}

/// Why nothing came of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Something stands in its artifact's place that compileall leaves alone: the artifact, and what it is.
    InTheWay(Vec<u8>, &'static str),
    /// A level that no interpreter knows.
    Level(i64),
    /// What the pipeline says, at a level, with the path of the artifact.
    Cause(i64, Cause, Vec<u8>),
}

impl Texts<'_> {
    /// Python's `repr` of a path.
    pub(super) fn repr(&self, path: &[u8]) -> String {
        if let Some(shown) = plain_repr(path) {
            return shown;
        }
        self.words.repr(path).unwrap_or_else(|why| {
            tracing::debug!(cause = why, "a name is shown in our own way");
            format!("'{}'", super::super::text::name(path))
        })
    }

    /// All that is told of a source; empty where nothing is.
    pub(super) fn of(&self, file: &File, outcome: &Outcome) -> String {
        let mut text = String::new();
        if self.quiet == 0 && *outcome != Outcome::Current {
            text.extend([format!("Compiling {}...\n", self.repr(&file.path))]);
        }
        if let Outcome::Failed(trouble) = outcome
            && self.quiet < 2
        {
            if self.quiet > 0 {
                text.extend([format!("*** Error compiling {}...\n", self.repr(&file.path))]);
            } else {
                text.push_str("*** ");
            }
            text.push_str(&self.why(file, trouble));
            text.push('\n');
        }
        text
    }

    fn why(&self, file: &File, trouble: &Trouble) -> String {
        match trouble {
            Trouble::InTheWay(artifact, what) => {
                let shown = String::from_utf8_lossy(artifact);
                format!("FileExistsError: {shown} is a {what} file if import writes a byte-compiled file to it")
            }
            Trouble::Level(level) => {
                self.error(file, *level).unwrap_or_else(|| "Sorry: ValueError: compile(): invalid optimize value".to_owned())
            }
            Trouble::Cause(level, cause, artifact) => {
                let own = if cause.code == "source" { self.error(file, *level) } else { self.system(file, cause, artifact) };
                own.unwrap_or_else(|| format!("bytekeep: {}", cause.text))
            }
        }
    }

    /// The error of a source, told by the interpreter. `None`: it finds none (the source changed meanwhile), or cannot be asked.
    fn error(&self, file: &File, level: i64) -> Option<String> {
        let seen = as_path(&file.path).metadata().ok()?;
        // As the pipeline opens it: what became a link meanwhile is not quoted from.
        let source = Source::read(&*file.open_dir().ok()?, &file.name, LARGEST).ok()?;
        let named = as_path(&file.code_name).metadata();
        let is_own = named.is_ok_and(|named| (named.dev(), named.ino()) == (seen.dev(), seen.ino()));
        self.words.error(level, &file.code_name, is_own, &source.bytes).unwrap_or_else(|why| {
            tracing::debug!(cause = why, "an error is told in our own words");
            None
        })
    }

    /// An error of the system, as Python shows it.
    fn system(&self, file: &File, cause: &Cause, artifact: &[u8]) -> Option<String> {
        let (class, number, words) = match cause.code {
            "permission" => ("PermissionError", 13, "Permission denied"),
            "read-only" => ("OSError", 30, "Read-only file system"),
            "disk-full" => ("OSError", 28, "No space left on device"),
            "quota" => ("OSError", 122, "Disk quota exceeded"),
            "file-size-limit" => ("OSError", 27, "File too large"),
            "name-too-long" => ("OSError", 36, "File name too long"),
            "not-a-directory" => ("NotADirectoryError", 20, "Not a directory"),
            "gone" => ("FileNotFoundError", 2, "No such file or directory"),
            _ => return None,
        };
        let is_source = cause.path.as_ref().is_some_and(|path| path.file_name() == as_path(&file.path).file_name());
        let above = as_path(artifact).parent().filter(|above| !above.as_os_str().is_empty() && !above.exists());
        let path = match above {
            _ if is_source => file.path.as_slice(),
            Some(above) => above.as_os_str().as_encoded_bytes(),
            None => artifact,
        };
        Some(format!("{class}: [Errno {number}] {words}: {}", self.repr(path)))
    }
}

/// `repr` of a text of printable ASCII; `None` where it needs to be known what is printable.
fn plain_repr(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| (b' '..=b'~').contains(&byte)))?;
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut shown = String::from(quote);
    for letter in text.chars() {
        if letter == '\\' || letter == quote {
            shown.push('\\');
        }
        shown.push(letter);
    }
    shown.push(quote);
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_shown_as_python_shows_them() {
        for (text, shown) in
            [("a.py", "'a.py'"), ("it's", "\"it's\""), ("\"", "'\"'"), ("'\"", "'\\'\"'"), ("a\\b", "'a\\\\b'"), ("", "''")]
        {
            assert_eq!(plain_repr(text.as_bytes()).as_deref(), Some(shown));
        }
        assert_eq!((plain_repr("é".as_bytes()), plain_repr(b"a\n"), plain_repr(b"\xff")), (None, None, None));
    }
}
