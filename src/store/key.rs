//! What compiled code depends on, and so what a value of the store is found by.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::base::seal::Digest;
use crate::base::sys::Name;

/// Changed whenever the same parts give other code: another placeholder for the file name, other flags for the workers.
const FORMAT: &str = "bytekeep store 1";

/// Everything that code depends on; what is not here must not change it.
///
/// Not the path of the source: code is compiled under a placeholder, and gets its name when it is used. Not its time or size: those are
/// the header's, made anew for each tree. Not the flags and the environment of the caller: a worker always has the same
/// (no site, hash seed 0, UTF-8, no `PYTHON*` variable but `PYTHONHOME`), and nothing is inherited from `__future__`. What a wrapper adds
/// to those (`-X no_debug_ranges`) shows in how it compiles a sample, which is a part of the build.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The source: every byte of it.
    pub source: &'a Digest,
    /// The cache tag, and with it the implementation: `PyPy` and `CPython` have other code for one source.
    pub tag: &'a str,
    /// The magic number: the version of the bytecode.
    pub magic: [u8; 4],
    /// Free-threaded and debug builds: they dump other references, and share other constants.
    pub variant: &'a str,
    /// The optimisation level: assertions and docstrings.
    pub level: u8,
    /// The rest, see [`Compiler::build`](crate::model::Compiler::build). Interpreters with one magic number do differ: mended compilers
    /// (line numbers, constants that are folded), a distribution's patches, 2.7 with narrow `unicode`, word size (integers that are
    /// `long`), the order of frozen sets by another hash.
    pub build: &'a str,
}

impl Parts<'_> {
    /// The key.
    pub fn key(&self) -> Key {
        let mut hasher = blake3::Hasher::new();
        let parts: [&[u8]; 7] = [
            FORMAT.as_bytes(),
            &self.source.0,
            self.tag.as_bytes(),
            &self.magic,
            self.variant.as_bytes(),
            &[self.level],
            self.build.as_bytes(),
        ];
        for part in parts {
            // With its length, so that no two lists of parts are one text.
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Key::new(Digest(*hasher.finalize().as_bytes()))
    }
}

impl fmt::Display for Parts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, tag, magic, variant, level, build } = self;
        let magic = u32::from_le_bytes(*magic) & 0xFFFF;
        write!(f, "source {}, tag {tag}, magic {magic}, variant `{variant}`, level {level}, build {build:?}, {FORMAT}", source.hex())
    }
}

/// What a value is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    digest: Digest,
    hex: String,
}

impl Key {
    pub(super) fn new(digest: Digest) -> Self {
        Self { digest, hex: digest.hex() }
    }

    /// The key of a value's file name. `None`: it is none.
    pub fn of_name(name: &Name) -> Option<Self> {
        let text = std::str::from_utf8(name.as_bytes()).ok()?;
        let digest = Digest(*blake3::Hash::from_hex(text).ok()?.as_bytes());
        Some(Self::new(digest)).filter(|key| key.hex == text)
    }

    /// As 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// What stands in the seal of its value, so that one in another's place is found.
    pub fn label(&self) -> [u8; 8] {
        let mut label = [0; 8];
        label.copy_from_slice(&self.digest.0[..8]);
        label
    }

    /// A number that other keys do not have, but for one in 2^64.
    pub(super) fn beginning(&self) -> u64 {
        u64::from_le_bytes(self.label())
    }

    /// The directory that its value lies in: keys are spread over 256 of them.
    pub fn shard(&self) -> &str {
        &self.hex[..2]
    }

    /// The name of its value there.
    #[allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "hexadecimal digits")]
    pub fn name(&self) -> Name {
        Name::new(&self.hex).unwrap()
    }

    /// Both.
    pub fn relative(&self) -> PathBuf {
        Path::new(self.shard()).join(&self.hex)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let parts = Parts { source: &one, tag: "cpython-313", magic: [1, 2, 3, 4], variant: "", level: 0, build: "b" };
        let others = [
            Parts { source: &two, ..parts },
            Parts { tag: "cpython-31", ..parts },
            Parts { magic: [1, 2, 3, 5], ..parts },
            Parts { variant: "t", ..parts },
            Parts { level: 1, ..parts },
            Parts { build: "c", ..parts },
            // What goes from one part to the next is no less another list.
            Parts { tag: "cpython-3", build: "13b", ..parts },
        ];
        let mut keys: Vec<_> = others.iter().chain([&parts]).map(Parts::key).collect();
        assert_eq!(Key::of_name(&keys[0].name()).as_ref(), Some(&keys[0]));
        keys.sort_by(|a, b| a.hex().cmp(b.hex()));
        keys.dedup();
        assert_eq!(keys.len(), 8);
    }

    #[test]
    fn only_a_values_name_is_a_key() {
        for bad in ["x", "AB", &"A".repeat(64), &"g".repeat(64), &"a".repeat(63)] {
            assert_eq!(Key::of_name(&Name::new(bad).unwrap()), None);
        }
    }
}
