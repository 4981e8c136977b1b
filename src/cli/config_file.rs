//! `bytekeep.toml`: where it may stand, whether it is to be believed, and what it says. What the values mean is said in
//! [`settings`](super::settings).

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::failure::Failure;
use super::settings::{KEYS, Raw, allowed, takes};
use super::text;
use crate::base::sys::{self, Kind, Stat};

/// The system's file.
pub(crate) const SYSTEM: &str = "/etc/bytekeep.toml";

/// More than anybody writes by hand, bytes.
const LIMIT: u64 = 64 << 10;

/// More problems than this help nobody.
const MOST_PROBLEMS: usize = 10;

/// Whose files count where none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The system's alone: for root, who must not be told what to do by the files of somebody else's home.
    System,
    /// The system's and the user's.
    User,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The administrator's.
    System,
    /// The user's.
    User,
    /// Named by an option or a variable, in place of the user's.
    Named,
}

impl Whose {
    /// For programs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Named => "named",
        }
    }
}

/// A configuration file that is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    /// Whose it is.
    pub(crate) whose: Whose,
    /// Where it stands.
    pub(crate) path: PathBuf,
    /// Was it there?
    pub(crate) there: bool,
}

/// One key of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// One of [`KEYS`].
    pub(crate) key: &'static str,
    /// A value that it takes.
    pub(crate) value: Raw,
    /// The line of the value, counted from 1.
    pub(crate) line: usize,
}

/// The files to look for, the one that counts least first.
pub(crate) fn places(system: &Path, reach: Reach, named: Option<PathBuf>, variable: &dyn Fn(&str) -> Option<OsString>) -> Vec<File> {
    let file = |whose, path| File { whose, path, there: false };
    let mut files = vec![file(Whose::System, system.to_path_buf())];
    match (named, reach) {
        (Some(path), _) => files.push(file(Whose::Named, path)),
        (None, Reach::User) => files.extend(user_file(variable).map(|path| file(Whose::User, path))),
        (None, Reach::System) => {}
    }
    files
}

/// As the XDG specification has it, which ignores relative paths.
fn user_file(variable: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let dir = |name: &str| variable(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let configs = dir("XDG_CONFIG_HOME").or_else(|| Some(dir("HOME")?.join(".config")))?;
    Some(configs.join("bytekeep/bytekeep.toml"))
}

impl File {
    /// What it says, in the order of its lines; nothing where it is not there and nobody named it.
    pub(crate) fn read(&mut self) -> Result<Vec<Entry>, Failure> {
        let Some(bytes) = self.bytes()? else { return Ok(Vec::new()) };
        self.there = true;
        parse(&bytes, self.whose).map_err(|problems| {
            self.failure(problems.join("\n")).hint("bytekeep.toml(5) tells what can be set; `--no-config` reads no such file")
        })
    }

    fn failure(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure::of_path("cannot use the configuration", &self.path, io::Error::other(cause))
    }

    fn unreadable(&self, cause: io::Error) -> Failure {
        Failure::of_path("cannot read the configuration", &self.path, cause)
            .hint("name another with `--config`, or none with `--no-config`")
    }

    fn bytes(&self) -> Result<Option<Vec<u8>>, Failure> {
        let link = match std::fs::symlink_metadata(&self.path) {
            Ok(seen) => seen,
            Err(cause) if self.whose == Whose::Named => return Err(self.unreadable(cause)),
            Err(cause) => {
                return match cause.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
                    // A home that is closed to whoever runs this is not theirs: as good as none.
                    io::ErrorKind::PermissionDenied => {
                        tracing::debug!(%cause, path = %text::path(&self.path, None), "a configuration that cannot be reached is not read");
                        Ok(None)
                    }
                    _ => Err(self.unreadable(cause)),
                };
            }
        };
        // Whoever lays a link chooses which of root's files is read.
        if link.is_symlink() && !is_trusted_owner(link.uid()) {
            return Err(self.untrusted(&format!("it is a link of {}, who is neither root nor this user", owner(link.uid()))));
        }
        // Asked before the open: opening a device can have effects.
        self.check_kind(&sys::look_up(&self.path).map_err(|error| self.unreadable(error.cause))?)?;
        let file = sys::open_named(&self.path).map_err(|error| self.unreadable(error.cause))?;
        let stat = sys::stat(&file, &self.path).map_err(|error| self.unreadable(error.cause))?;
        // What was opened is what counts, whatever the path leads to by now.
        self.check_kind(&stat)?;
        self.check_trust(&stat)?;
        let bytes = sys::read_all(&file, stat.size, LIMIT, &self.path).map_err(|error| self.unreadable(error.cause))?;
        bytes.map(Some).ok_or_else(|| {
            self.failure(format!("it has more than {} KiB", LIMIT >> 10)).hint("is it the right file? `--no-config` reads none")
        })
    }

    fn check_kind(&self, stat: &Stat) -> Result<(), Failure> {
        match stat.kind {
            Kind::File => Ok(()),
            kind => Err(self.failure(format!("it is {}, not a regular file", kind.noun())).hint("`--no-config` reads no such file")),
        }
    }

    /// It says what is written where, so nobody but root and whoever runs this may have a say in it. The directories above are not
    /// asked: whoever can lead the way elsewhere leads it to a file that passes here.
    fn check_trust(&self, stat: &Stat) -> Result<(), Failure> {
        if !is_trusted_owner(stat.uid) {
            return Err(self.untrusted(&format!("it belongs to {}, who is neither root nor this user", owner(stat.uid))));
        }
        if stat.mode & 0o022 != 0 {
            return Err(self.untrusted(&format!("others than its owner can write it (mode {:o})", stat.mode & 0o7777)));
        }
        Ok(())
    }

    fn untrusted(&self, why: &str) -> Failure {
        Failure::of_path("do not trust the configuration", &self.path, io::Error::other(why.to_owned())).hint(
            "it must be root's or your own, and writable by nobody else: see to it with `chown` and `chmod go-w`, or leave it out with \
             `--no-config`",
        )
    }
}

fn is_trusted_owner(uid: u32) -> bool {
    uid == 0 || uid == sys::effective_user()
}

fn owner(uid: u32) -> String {
    format!("uid {uid}")
}

/// The keys of a file, or what is wrong with it, line by line.
fn parse(bytes: &[u8], whose: Whose) -> Result<Vec<Entry>, Vec<String>> {
    let line_of = |offset: usize| 1 + bytes.iter().take(offset).filter(|byte| **byte == b'\n').count();
    let content = match std::str::from_utf8(bytes) {
        Ok(content) => content,
        Err(error) => return Err(vec![format!("line {}: it is not UTF-8", line_of(error.valid_up_to()))]),
    };
    let table = DeTable::parse(content).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        vec![format!("line {line}: {}", error.message().lines().collect::<Vec<_>>().join(", "))]
    })?;
    let mut found = Vec::new();
    let mut problems = Vec::new();
    // Tables are entered only where a key of ours lies in them, so the depth is ours and not the file's.
    let mut tables = vec![(String::new(), table.get_ref())];
    while let Some((prefix, table)) = tables.pop() {
        for (name, value) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let line = line_of(value.span().start);
            // A key in quotes may hold a dot; none of ours does.
            let ours = KEYS.iter().find(|(key, _)| *key == full && !name.get_ref().contains('.'));
            match (ours, value.get_ref()) {
                (Some((key, _)), _) => match entry(key, value, whose) {
                    Ok(value) => found.push(Entry { key, value, line }),
                    Err(problem) => problems.push((line, problem)),
                },
                (None, DeValue::Table(inner)) if is_table(&full) => tables.push((full + ".", inner)),
                (None, _) if is_table(&full) => {
                    problems.push((line, format!("`{full}` is a table: its keys stand below a line `[{full}]`")));
                }
                (None, _) => problems.push((line_of(name.span().start), unknown(&prefix, name.get_ref()))),
            }
        }
    }
    if problems.is_empty() {
        found.sort_by_key(|entry| entry.line);
        return Ok(found);
    }
    problems.sort();
    let more = problems.len().saturating_sub(MOST_PROBLEMS);
    let mut lines: Vec<String> =
        problems.into_iter().take(MOST_PROBLEMS).map(|(line, problem)| format!("line {line}: {problem}")).collect();
    lines.extend((more > 0).then(|| format!("and {more} more")));
    Err(lines)
}

fn is_table(name: &str) -> bool {
    KEYS.iter().any(|(key, _)| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn entry(key: &'static str, value: &Spanned<DeValue<'_>>, whose: Whose) -> Result<Raw, String> {
    if key == "store.system-dir" && whose != Whose::System {
        return Err(format!("`{key}` is the administrator's to set, in {SYSTEM}"));
    }
    let raw = match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(switch) => Raw::Switch(*switch),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Raw::Number(number),
            Err(_) => Raw::Other("integer, too large"),
        },
        other => Raw::Other(other.type_str()),
    };
    if takes(key, &raw) { Ok(raw) } else { Err(format!("`{key}` is {}, and takes {}", raw.shown(), allowed(key))) }
}

fn unknown(prefix: &str, name: &str) -> String {
    let mark = if name.contains('.') { "\"" } else { "" };
    let shown = text::short_name(format!("{prefix}{mark}{name}{mark}").as_bytes());
    match nearest(name) {
        Some(key) => format!("there is no key `{shown}`; did you mean `{key}`?"),
        None => format!("there is no key `{shown}`; there are {}", KEYS.map(|(key, _)| format!("`{key}`")).join(", ")),
    }
}

/// The key that somebody who wrote this may have meant, one in another table too; or the table.
fn nearest(name: &str) -> Option<&'static str> {
    let last = |name: &'_ str| name.rsplit('.').next().unwrap_or_default().to_lowercase().replace('_', "-");
    let ours = last(name);
    // Nobody misses by more than a third; and a long name is not worth the time.
    let most = ours.chars().count().min(60) / 3;
    let tables = KEYS.iter().filter_map(|(key, _)| Some(key.split_once('.')?.0));
    let near = KEYS.iter().map(|(key, _)| *key).chain(tables).map(|name| (distance(&ours, &last(name)), name)).min();
    near.filter(|(away, _)| ours.len() < 60 && *away <= most.max(1)).map(|(_, key)| key)
}

/// How many characters must be put in, left out or replaced to make one word of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, c) in one.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        let mut next = vec![left];
        for (d, up) in other.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(c != *d)).min(*up + 1).min(left + 1);
            diagonal = *up;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(content: &str) -> Vec<(&'static str, usize)> {
        parse(content.as_bytes(), Whose::System).unwrap().into_iter().map(|entry| (entry.key, entry.line)).collect()
    }

    fn problem(content: &[u8]) -> String {
        parse(content, Whose::User).unwrap_err().join("\n")
    }

    #[test]
    fn keys_and_their_lines() {
        assert_eq!(keys(""), []);
        assert_eq!(keys("# nothing\n[store]\n"), []);
        assert_eq!(keys("jobs = 2\r\n\r\n[store]\r\ndir = '/a'\r\n"), [("jobs", 1), ("store.dir", 4)]);
        assert_eq!(keys("store.max-size = 0x10\ndurability = \"full\""), [("store.max-size", 1), ("durability", 2)]);
        assert_eq!(
            keys("store = { enabled = false,\n dir = \"/a\" }\nlink-mode = \"copy\""),
            [("store.enabled", 1), ("store.dir", 2), ("link-mode", 3)]
        );
        let entry = parse(b"jobs = 1_0", Whose::User).unwrap();
        assert_eq!(entry, [Entry { key: "jobs", value: Raw::Number(10), line: 1 }]);
    }

    #[test]
    fn problems_name_line_key_and_what_is_allowed() {
        for (content, expected) in [
            ("\n\ndurabilty = \"full\"", "line 3: there is no key `durabilty`; did you mean `durability`?"),
            ("max_size = 7", "line 1: there is no key `max_size`; did you mean `store.max-size`?"),
            ("[store]\njobs = 7", "line 2: there is no key `store.jobs`; did you mean `jobs`?"),
            ("[stor]\ndir = '/a'", "line 1: there is no key `stor`; did you mean `store`?"),
            ("'store.dir' = '/a'", "line 1: there is no key `\"store.dir\"`; did you mean `store.dir`?"),
            ("colour = 'blue'", "line 1: there is no key `colour`; there are `durability`, `jobs`, "),
            ("\"a\\u001bb\" = 1", "line 1: there is no key `a\\x1bb`; there are "),
            ("jobs = \"many\"", "line 1: `jobs` is the text `many`, and takes a whole number from 0 to 65535"),
            ("jobs = 99999999999999999999", "line 1: `jobs` is of the type integer, too large, and takes"),
            ("jobs = 1.5", "line 1: `jobs` is of the type float, and takes"),
            ("jobs.most = 1", "line 1: `jobs` is of the type table, and takes"),
            ("store = true", "line 1: `store` is a table: its keys stand below a line `[store]`"),
            ("[store]\n\nenabled = 'yes'", "line 3: `store.enabled` is the text `yes`, and takes `true` or `false`"),
            ("[store]\nsystem-dir = '/a'", "line 2: `store.system-dir` is the administrator's to set, in /etc/bytekeep.toml"),
            ("jobs = 1\njobs = 2", "line 2: duplicate key"),
            ("jobs 1", "line 1: "),
            ("\n[store", "line 2: "),
        ] {
            let told = problem(content.as_bytes());
            assert!(told.starts_with(expected), "{content:?}: {told}");
        }
        assert_eq!(problem(b"\n# \xff"), "line 2: it is not UTF-8");
        // All of them at once, in the order of the lines, but not without end.
        let told = problem(b"[store]\nenabled = 1\n[extra]\na = 1\n");
        assert_eq!(told.lines().map(|line| line.split(':').next().unwrap()).collect::<Vec<_>>(), ["line 2", "line 3"]);
        let many = (0..100).fold(String::new(), |many, number| format!("{many}key{number} = 1\n"));
        assert!(problem(many.as_bytes()).ends_with("and 90 more"));
        // Neither deep nor long ones cost anything.
        assert!(problem("[".repeat(60_000).as_bytes()).starts_with("line 1: "));
        assert!(problem(format!("jobs = {}", "[".repeat(60_000)).as_bytes()).starts_with("line 1: "));
        assert!(problem(format!("{} = 1", "a.".repeat(30_000) + "a").as_bytes()).len() < 1000);
        assert!(problem(format!("{} = 1", "a".repeat(60_000)).as_bytes()).len() < 1000);
    }

    #[test]
    fn how_far_words_are_apart() {
        for (one, other, away) in [("", "", 0), ("", "ab", 2), ("jobs", "jobs", 0), ("job", "jobs", 1), ("kitten", "sitting", 3)] {
            assert_eq!((distance(one, other), distance(other, one)), (away, away), "{one} {other}");
        }
    }

    #[test]
    fn where_files_are_looked_for() {
        let paths = |reach, named: Option<&str>, variables: &[(&str, &str)]| -> Vec<String> {
            let variable = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| value.into());
            let files = places(Path::new("/etc/b"), reach, named.map(PathBuf::from), &variable);
            files.into_iter().map(|file| format!("{} {}", file.whose.word(), file.path.display())).collect()
        };
        let both = [("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")];
        assert_eq!(paths(Reach::System, None, &both), ["system /etc/b"]);
        assert_eq!(paths(Reach::User, None, &both), ["system /etc/b", "user /x/bytekeep/bytekeep.toml"]);
        assert_eq!(paths(Reach::User, None, &both[..1]), ["system /etc/b", "user /h/.config/bytekeep/bytekeep.toml"]);
        let relative = [("HOME", "/h"), ("XDG_CONFIG_HOME", "x")];
        assert_eq!(paths(Reach::User, None, &relative), ["system /etc/b", "user /h/.config/bytekeep/bytekeep.toml"]);
        assert_eq!(paths(Reach::User, None, &[("HOME", ".")]), ["system /etc/b"]);
        assert_eq!(paths(Reach::User, None, &[]), ["system /etc/b"]);
        for reach in [Reach::System, Reach::User] {
            assert_eq!(paths(reach, Some("f"), &both), ["system /etc/b", "named f"]);
        }
    }
}
