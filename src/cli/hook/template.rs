//! The files that make a package manager call us: what stands in them, where each goes, and whether what stands there is one.
//!
//! Their text stands in `templates/`, and packages take theirs from `hook print` and `hook install` as they are built: what is printed,
//! installed and packaged is one text.
//!
//! Each says in a line who made it, with a digest of all the rest. So whether it was edited is known without a record of what was
//! installed, for files of other versions too.

use super::super::args_hook::Kind;

/// Where a command of ours stands unless something else is known.
pub(super) const COMMAND: &str = "/usr/bin/bytekeep";

/// A file for a manager.
#[derive(Debug)]
pub(super) struct Template {
    /// Whose.
    pub(super) kind: Kind,
    /// Its place below the root of a system; for git its name in the directory of hooks.
    pub(super) place: &'static str,
    /// Where a package has the same, or what tells that one has it.
    pub(super) packaged: Option<&'static str>,
    /// Permission bits.
    pub(super) mode: u32,
    text: &'static str,
}

/// All that can be installed.
pub(super) const FILES: &[Template] = &[
    Template {
        kind: Kind::Dpkg,
        place: "etc/dpkg/dpkg.cfg.d/bytekeep",
        packaged: Some("var/lib/dpkg/info/bytekeep.triggers"),
        mode: 0o644,
        text: include_str!("templates/dpkg"),
    },
    Template {
        kind: Kind::Pacman,
        place: "etc/pacman.d/hooks/bytekeep-compile.hook",
        packaged: Some("usr/share/libalpm/hooks/bytekeep-compile.hook"),
        mode: 0o644,
        text: include_str!("templates/pacman-compile.hook"),
    },
    Template {
        kind: Kind::Pacman,
        place: "etc/pacman.d/hooks/bytekeep-remove.hook",
        packaged: Some("usr/share/libalpm/hooks/bytekeep-remove.hook"),
        mode: 0o644,
        text: include_str!("templates/pacman-remove.hook"),
    },
    Template {
        kind: Kind::Apk,
        place: "etc/apk/commit_hooks.d/bytekeep",
        packaged: None,
        mode: 0o755,
        text: include_str!("templates/apk"),
    },
    Template { kind: Kind::Git, place: "post-checkout", packaged: None, mode: 0o755, text: include_str!("templates/git") },
    Template { kind: Kind::Git, place: "post-merge", packaged: None, mode: 0o755, text: include_str!("templates/git") },
    Template { kind: Kind::Git, place: "post-rewrite", packaged: None, mode: 0o755, text: include_str!("templates/git") },
];

/// What is printed for those that take no file, and why there is none.
pub(super) const WORDS: &[(Kind, &str, &str)] = &[
    (Kind::Rpm, include_str!("templates/rpm.spec"), "rpm knows file triggers only, and these belong to packages"),
    (Kind::Conda, include_str!("templates/conda"), "conda has no hooks for all packages: a script belongs to one of them"),
    (Kind::Pip, include_str!("templates/pip"), "pip has no hooks"),
    (Kind::Uv, include_str!("templates/uv"), "uv has no hooks"),
];

/// The files of one manager.
pub(super) fn files_of(kind: Kind) -> impl Iterator<Item = &'static Template> {
    FILES.iter().filter(move |template| template.kind == kind)
}

impl Template {
    /// Its name without the directory.
    pub(super) fn name(&self) -> &'static str {
        self.place.rsplit('/').next().unwrap_or(self.place)
    }

    /// The directory of its place.
    pub(super) fn dir(&self) -> &'static str {
        self.place.rsplit_once('/').map_or("", |(dir, _)| dir)
    }

    /// The file as this version writes it, for a command at this path.
    pub(super) fn render(&self, command: &str) -> String {
        signed(self.text, self.kind, self.name(), command)
    }
}

/// What is printed for a manager that takes no file.
pub(super) fn words(kind: Kind) -> Option<(String, &'static str)> {
    let (_, text, why) = WORDS.iter().find(|(of, ..)| *of == kind)?;
    Some((signed(text, kind, kind.word(), COMMAND), why))
}

const MADE: &str = "# Made by bytekeep ";
const DIGITS: usize = 16;

fn signed(text: &str, kind: Kind, name: &str, command: &str) -> String {
    let text = text.replace("@name@", name).replace("@command@", command);
    let line = |digest: &str| format!("{MADE}{} for {}, {digest}; see bytekeep-hook(1)", env!("CARGO_PKG_VERSION"), kind.word());
    let unsigned = text.replace("# @made@", &line(""));
    text.replace("# @made@", &line(&digest(&unsigned)))
}

fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().as_str().get(..DIGITS).unwrap_or_default().to_owned()
}

/// Whose a file is, by its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Author {
    /// It is as a `bytekeep` of this version made it.
    Ours(String),
    /// It was made by a `bytekeep` of this version and edited since.
    Edited(String),
    /// Somebody else's.
    Foreign,
}

/// Tells whose a file is.
pub(super) fn author(bytes: &[u8]) -> Author {
    let Ok(text) = std::str::from_utf8(bytes) else { return Author::Foreign };
    let signature = text.lines().take(3).find_map(|line| {
        let (version, rest) = line.strip_prefix(MADE)?.split_once(" for ")?;
        let digest = rest.split_once(", ")?.1.split(';').next()?;
        Some((line, version, digest))
    });
    let Some((line, version, told)) = signature else { return Author::Foreign };
    let version = version.to_owned();
    let unsigned = if told.len() == DIGITS { text.replacen(line, &line.replacen(told, "", 1), 1) } else { String::new() };
    if digest(&unsigned) == told { Author::Ours(version) } else { Author::Edited(version) }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_kind_has_files_or_words_and_every_file_says_where_it_goes() {
        for kind in Kind::value_variants() {
            assert!(files_of(*kind).count() > 0 || words(*kind).is_some(), "{kind:?}");
        }
        for template in FILES {
            let text = template.render(COMMAND);
            assert!(!text.contains('@') || template.kind == Kind::Git || template.kind == Kind::Apk, "{text}");
            assert!(!text.contains("@made@") && !text.contains("@command@") && !text.contains("@name@"), "{text}");
            let place = if template.kind == Kind::Git { template.place.to_owned() } else { format!("/{}", template.place) };
            assert!(text.contains(&format!("# Place: {place}")), "{text}");
            assert!(text.contains(&format!("{COMMAND} hook run {}", template.kind.word())), "{text}");
            assert!(text.starts_with("#!/bin/sh\n") == (template.mode & 0o111 != 0), "{text}");
            assert!(text.lines().all(|line| line.len() <= 140), "{text}");
        }
    }

    #[test]
    fn an_edit_is_seen_and_a_stranger_is_one() {
        for template in FILES {
            let text = template.render("/opt/b/bytekeep");
            let version = env!("CARGO_PKG_VERSION").to_owned();
            assert_eq!(author(text.as_bytes()), Author::Ours(version.clone()), "{text}");
            for edited in [text.clone() + "\n", text.replace("/opt/", "/srv/"), text.replacen(", ", ", 0", 1)] {
                assert_eq!(author(edited.as_bytes()), Author::Edited(version.clone()), "{edited}");
            }
            // What another version made is as good: its own digest says so.
            let other = signed(&template.text.replace("# @made@\n", "# @made@\n# and more\n"), template.kind, template.name(), COMMAND);
            assert_eq!(author(other.as_bytes()), Author::Ours(version.clone()));
        }
        for foreign in [&b"#!/bin/sh\nexit 0\n"[..], b"", b"\xff", b"# Made by bytekeep", b"# Made by bytekeep 1 for x\n"] {
            assert_eq!(author(foreign), Author::Foreign);
        }
        assert_eq!(author(b"# Made by bytekeep 1 for x, \n"), Author::Edited("1".to_owned()));
    }
}
