//! The arguments of `python -m compileall`, read as its `argparse` reads them: options differ by version, one letter may follow another,
//! long names may be cut short, and what looks like a negative number is no option. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::model::Mode;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    /// `-h`
    pub(crate) help: bool,
    /// `-l`
    pub(crate) flat: bool,
    /// `-r`
    pub(crate) recursion: Option<i64>,
    /// `-f`
    pub(crate) force: bool,
    /// How many `-q`.
    pub(crate) quiet: u32,
    /// `-b`
    pub(crate) legacy: bool,
    /// `-d`
    pub(crate) ddir: Option<OsString>,
    /// `-s`
    pub(crate) stripdir: Option<OsString>,
    /// `-p`
    pub(crate) prependdir: Option<OsString>,
    /// `-x`, where it is not empty.
    pub(crate) pattern: Option<OsString>,
    /// `-i`, where it is not empty.
    pub(crate) list: Option<OsString>,
    /// `-j`
    pub(crate) workers: Option<i64>,
    /// `--invalidation-mode`
    pub(crate) mode: Option<Mode>,
    /// `-o`, ascending, each once; empty where none is given.
    pub(crate) levels: Vec<i64>,
    /// `-e`, where it is not empty.
    pub(crate) limit_links: Option<OsString>,
    /// `--hardlink-dupes`
    pub(crate) hardlink_dupes: bool,
    /// What to compile.
    pub(crate) dests: Vec<OsString>,
}

/// Which options a version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// `--invalidation-mode`: 3.7 and later.
    pub(crate) modes: bool,
    /// `-s -p -o -e --hardlink-dupes`: 3.9 and later.
    pub(crate) levels: bool,
    /// Usage says `[FILE|DIR ...]` once: 3.9 and later.
    pub(crate) short_usage: bool,
}

impl Dialect {
    /// Of a version of Python.
    pub(crate) fn of(version: (u8, u8, u8)) -> Self {
        let minor = if version.0 == 3 { version.1 } else { u8::MAX };
        Self { modes: minor >= 7, levels: minor >= 9, short_usage: minor >= 9 }
    }

    fn options(self) -> impl Iterator<Item = &'static Opt> {
        OPTIONS.iter().filter(move |option| match option.since {
            Since::Ever => true,
            Since::Modes => self.modes,
            Since::Levels => self.levels,
        })
    }

    /// What is written to standard error before an error.
    pub(crate) fn usage(self) -> String {
        let mut lines = String::from("usage: compileall.py [-h] [-l] [-r RECURSION] [-f] [-q] [-b] [-d DESTDIR]\n");
        let rest = if self.short_usage { "[FILE|DIR ...]" } else { "[FILE|DIR [FILE|DIR ...]]" };
        let pad = " ".repeat("usage: compileall.py ".len());
        if self.levels {
            lines.extend([format!("{pad}[-s STRIPDIR] [-p PREPENDDIR] [-x REGEXP] [-i FILE]\n{pad}[-j WORKERS]\n")]);
        } else {
            lines.extend([format!("{pad}[-x REGEXP] [-i FILE] [-j WORKERS]\n")]);
        }
        if self.modes {
            lines.extend([format!("{pad}[--invalidation-mode {{checked-hash,timestamp,unchecked-hash}}]\n")]);
        }
        if self.levels {
            lines.extend([format!("{pad}[-o OPT_LEVELS] [-e DIR] [--hardlink-dupes]\n")]);
        }
        lines.extend([format!("{pad}{rest}\n")]);
        lines
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Ever,
    Modes,
    Levels,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Help,
    Flat,
    Recursion,
    Force,
    Quiet,
    Legacy,
    Ddir,
    Stripdir,
    Prependdir,
    Pattern,
    List,
    Workers,
    Mode,
    Level,
    LimitLinks,
    HardlinkDupes,
}

impl Key {
    fn takes_value(self) -> bool {
        !matches!(self, Self::Help | Self::Flat | Self::Force | Self::Quiet | Self::Legacy | Self::HardlinkDupes)
    }
}

#[derive(Debug)]
struct Opt {
    key: Key,
    names: &'static [&'static str],
    since: Since,
}

const OPTIONS: &[Opt] = &[
    Opt { key: Key::Help, names: &["-h", "--help"], since: Since::Ever },
    Opt { key: Key::Flat, names: &["-l"], since: Since::Ever },
    Opt { key: Key::Recursion, names: &["-r"], since: Since::Ever },
    Opt { key: Key::Force, names: &["-f"], since: Since::Ever },
    Opt { key: Key::Quiet, names: &["-q"], since: Since::Ever },
    Opt { key: Key::Legacy, names: &["-b"], since: Since::Ever },
    Opt { key: Key::Ddir, names: &["-d"], since: Since::Ever },
    Opt { key: Key::Stripdir, names: &["-s"], since: Since::Levels },
    Opt { key: Key::Prependdir, names: &["-p"], since: Since::Levels },
    Opt { key: Key::Pattern, names: &["-x"], since: Since::Ever },
    Opt { key: Key::List, names: &["-i"], since: Since::Ever },
    Opt { key: Key::Workers, names: &["-j", "--workers"], since: Since::Ever },
    Opt { key: Key::Mode, names: &["--invalidation-mode"], since: Since::Modes },
    Opt { key: Key::Level, names: &["-o"], since: Since::Levels },
    Opt { key: Key::LimitLinks, names: &["-e"], since: Since::Levels },
    Opt { key: Key::HardlinkDupes, names: &["--hardlink-dupes"], since: Since::Levels },
];

/// An argument as it is seen before it is known what stands around it.
enum Word<'a> {
    /// Not an option, or the value of one.
    Plain(&'a OsStr),
    /// `--`: all behind it are no options.
    Dashes,
    /// An option, as it was written, with what is glued to it.
    Option(&'static Opt, String, Option<OsString>),
    /// It looks like an option, and none has such a name.
    Unknown(&'a OsStr),
}

/// Reads the arguments. An error is what stands behind `compileall.py: error: `.
pub(crate) fn parse(arguments: &[OsString], dialect: Dialect) -> Result<Asked, String> {
    let mut words = Vec::with_capacity(arguments.len());
    let mut plain = false;
    for argument in arguments {
        words.push(if plain { Word::Plain(argument) } else { word(argument, dialect)? });
        plain |= matches!(words.last(), Some(Word::Dashes));
    }
    let mut asked = Asked::default();
    let mut extras: Vec<String> = Vec::new();
    // `nargs='*'` takes the first run of plain words; a later one is left over.
    let mut runs = 0;
    let mut in_run = false;
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        match word {
            Word::Plain(text) => {
                runs += usize::from(!in_run);
                in_run = true;
                if runs == 1 { asked.dests.push(text.to_owned()) } else { extras.push(text.to_string_lossy().into_owned()) }
            }
            // It belongs to the run around it.
            Word::Dashes => {
                runs += usize::from(!in_run);
                in_run = true;
            }
            Word::Unknown(text) => {
                in_run = false;
                extras.push(text.to_string_lossy().into_owned());
            }
            Word::Option(option, name, glued) => {
                in_run = false;
                take(&mut asked, option, &name, glued, dialect, || {
                    loop {
                        match words.peek() {
                            Some(Word::Plain(text)) => {
                                let text = text.to_os_string();
                                words.next();
                                return Some(text);
                            }
                            // As in argparse a value may stand behind the dashes.
                            Some(Word::Dashes) => drop(words.next()),
                            _ => return None,
                        }
                    }
                })?;
                if asked.help {
                    return Ok(asked);
                }
            }
        }
    }
    if !extras.is_empty() {
        return Err(format!("unrecognized arguments: {}", extras.join(" ")));
    }
    check(&mut asked)?;
    Ok(asked)
}

fn check(asked: &mut Asked) -> Result<(), String> {
    if asked.levels.len() < 2 && asked.hardlink_dupes {
        return Err("Hardlinking of duplicated bytecode makes sense only for more than one optimization level.".to_owned());
    }
    if asked.ddir.is_some() && (asked.stripdir.is_some() || asked.prependdir.is_some()) {
        return Err("-d cannot be used in combination with -s or -p".to_owned());
    }
    asked.levels.sort_unstable();
    asked.levels.dedup();
    Ok(())
}

fn word(argument: &OsStr, dialect: Dialect) -> Result<Word<'_>, String> {
    let bytes = argument.as_bytes();
    if bytes == b"--" {
        return Ok(Word::Dashes);
    }
    if bytes.first() != Some(&b'-') || bytes.len() == 1 {
        return Ok(Word::Plain(argument));
    }
    let exact = |name: &[u8]| dialect.options().find(|option| option.names.iter().any(|own| own.as_bytes() == name));
    let named = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(option) = exact(bytes) {
        return Ok(Word::Option(option, named(bytes), None));
    }
    let (name, glued) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (bytes.get(..at).unwrap_or_default(), Some(OsString::from_vec(bytes.get(at + 1..).unwrap_or_default().to_vec()))),
        None => (bytes, None),
    };
    if glued.is_some()
        && let Some(option) = exact(name)
    {
        return Ok(Word::Option(option, named(name), glued));
    }
    let mut matches: Vec<(&'static Opt, &'static str)> = Vec::new();
    if bytes.starts_with(b"--") {
        matches.extend(
            dialect
                .options()
                .flat_map(|option| option.names.iter().filter(|own| own.as_bytes().starts_with(name)).map(move |own| (option, *own))),
        );
    } else if let Some(short) = bytes.get(..2) {
        // What follows a letter is its value, or more letters.
        if let Some(option) = exact(short) {
            let rest = bytes.get(2..).unwrap_or_default();
            return Ok(Word::Option(option, named(short), Some(OsString::from_vec(rest.to_vec()))));
        }
    }
    match matches.as_slice() {
        [(option, own)] => return Ok(Word::Option(option, (*own).to_owned(), glued)),
        [] => {}
        several => {
            let names: Vec<&str> = several.iter().map(|(_, own)| *own).collect();
            return Err(format!("ambiguous option: {} could match {}", named(bytes), names.join(", ")));
        }
    }
    if is_negative_number(bytes) || bytes.contains(&b' ') {
        return Ok(Word::Plain(argument));
    }
    Ok(Word::Unknown(argument))
}

/// `-1`, `-.5`: plain words, since no option looks so.
fn is_negative_number(bytes: &[u8]) -> bool {
    let digits = bytes.get(1..).unwrap_or_default();
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(at) => (digits.get(..at).unwrap_or_default(), digits.get(at + 1..).unwrap_or_default()),
        None => (&[][..], digits),
    };
    !fraction.is_empty() && whole.iter().chain(fraction).all(u8::is_ascii_digit)
}

/// Takes an option with its value, or with the letters behind it.
fn take(
    asked: &mut Asked,
    option: &'static Opt,
    name: &str,
    glued: Option<OsString>,
    dialect: Dialect,
    mut next: impl FnMut() -> Option<OsString>,
) -> Result<(), String> {
    let (mut option, mut name, mut glued) = (option, name.to_owned(), glued);
    loop {
        if option.key.takes_value() {
            let value = match glued {
                Some(value) => value,
                None => next().ok_or_else(|| format!("argument {}: expected one argument", shown(option)))?,
            };
            return set(asked, option, &value);
        }
        switch(asked, option.key);
        let Some(rest) = glued else { return Ok(()) };
        let unwanted = || format!("argument {}: ignored explicit argument {}", shown(option), quoted(&rest));
        let bytes = rest.as_bytes();
        let letter = bytes.first().filter(|_| !name.starts_with("--")).map(|letter| format!("-{}", char::from(*letter)));
        let follower = letter.as_ref().and_then(|letter| dialect.options().find(|option| option.names.contains(&letter.as_str())));
        let Some((letter, follower)) = letter.zip(follower) else { return Err(unwanted()) };
        let behind = bytes.get(1..).unwrap_or_default();
        glued = (!behind.is_empty()).then(|| OsString::from_vec(behind.to_vec()));
        (option, name) = (follower, letter);
    }
}

fn shown(option: &Opt) -> String {
    option.names.join("/")
}

fn quoted(value: &OsStr) -> String {
    format!("'{}'", value.to_string_lossy())
}

fn switch(asked: &mut Asked, key: Key) {
    match key {
        Key::Help => asked.help = true,
        Key::Flat => asked.flat = true,
        Key::Force => asked.force = true,
        Key::Quiet => asked.quiet = asked.quiet.saturating_add(1),
        Key::Legacy => asked.legacy = true,
        Key::HardlinkDupes => asked.hardlink_dupes = true,
        _ => {}
    }
}

fn set(asked: &mut Asked, option: &Opt, value: &OsStr) -> Result<(), String> {
    let number = || integer(value).ok_or_else(|| format!("argument {}: invalid int value: {}", shown(option), quoted(value)));
    let text = || Some(value.to_owned());
    let filled = || text().filter(|value| !value.is_empty());
    match option.key {
        Key::Recursion => asked.recursion = Some(number()?),
        Key::Workers => asked.workers = Some(number()?),
        Key::Level => asked.levels.push(number()?),
        Key::Ddir => asked.ddir = text(),
        Key::Stripdir => asked.stripdir = text(),
        Key::Prependdir => asked.prependdir = text(),
        Key::Pattern => asked.pattern = filled(),
        Key::List => asked.list = filled(),
        Key::LimitLinks => asked.limit_links = filled(),
        Key::Mode => {
            let modes = [Mode::CheckedHash, Mode::Timestamp, Mode::UncheckedHash];
            let found = modes.into_iter().find(|mode| value == mode.word());
            asked.mode = Some(found.ok_or_else(|| {
                let words: Vec<String> = modes.iter().map(|mode| format!("'{}'", mode.word())).collect();
                format!("argument {}: invalid choice: {} (choose from {})", shown(option), quoted(value), words.join(", "))
            })?);
        }
        key => switch(asked, key),
    }
    Ok(())
}

/// As Python's `int()` reads a text: blanks around it, a sign, and single underscores between digits. One too large counts as the largest.
fn integer(value: &OsStr) -> Option<i64> {
    let text = value.to_str()?.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || digits.split('_').any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let number = digits
        .bytes()
        .filter(u8::is_ascii_digit)
        .fold(0i64, |number, digit| number.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, minor: u8) -> Result<Asked, String> {
        let words: Vec<OsString> = line.split_whitespace().map(|word| OsString::from(word.replace('~', " "))).collect();
        parse(&words, Dialect::of((3, minor, 0)))
    }

    fn dests(line: &str) -> Vec<String> {
        read(line, 13).unwrap().dests.into_iter().map(|dest| dest.into_string().unwrap()).collect()
    }

    #[test]
    fn letters_and_values_as_argparse_reads_them() {
        let asked = read("-qqfl -j4 -r~5 -xba[^/]*$ -o 1 -o0 -o1 --hardl -e dir d", 13).unwrap();
        assert_eq!((asked.quiet, asked.force, asked.flat, asked.workers, asked.recursion), (2, true, true, Some(4), Some(5)));
        assert_eq!((asked.levels, asked.hardlink_dupes, asked.pattern), (vec![0, 1], true, Some("ba[^/]*$".into())));
        assert_eq!(read("-j -1", 13).unwrap().workers, Some(-1));
        assert_eq!(
            read("-x=a -fd=z", 13).unwrap(),
            Asked { pattern: Some("a".into()), force: true, ddir: Some("=z".into()), ..Asked::default() }
        );
        assert_eq!(read("--work=3 --inv checked-hash", 8).unwrap().mode, Some(Mode::CheckedHash));
        assert_eq!(read("-i= -x= -e=", 13).unwrap(), Asked::default());
        assert_eq!(
            (integer("1_0".as_ref()), integer(" +7 ".as_ref()), integer("1__0".as_ref()), integer("".as_ref())),
            (Some(10), Some(7), None, None)
        );
    }

    #[test]
    fn what_is_to_be_compiled_stands_in_one_run() {
        assert_eq!(dests("-q a b -f"), ["a", "b"]);
        assert_eq!(dests("a -- -f"), ["a", "-f"]);
        assert_eq!(dests("-q -- -f"), ["-f"]);
        assert_eq!(dests("-5 - -~x"), ["-5", "-", "- x"]);
        assert_eq!(read("a -q b", 13).unwrap_err(), "unrecognized arguments: b");
        assert_eq!(read("--bogus a -z", 13).unwrap_err(), "unrecognized arguments: --bogus -z");
    }

    #[test]
    fn options_differ_by_version() {
        assert!(read("--invalidation-mode timestamp", 7).is_ok() && read("--invalidation-mode timestamp", 6).is_err());
        for line in ["-s a", "-p a", "-o 1", "-e a", "-o1 -o2 --hardlink-dupes"] {
            assert!(read(line, 9).is_ok() && read(line, 8).is_err(), "{line}");
        }
    }

    #[test]
    fn wrong_usage() {
        for (line, error) in [
            ("-r x", "argument -r: invalid int value: 'x'"),
            ("-j", "argument -j/--workers: expected one argument"),
            ("-d -q", "argument -d: expected one argument"),
            ("-fz", "argument -f: ignored explicit argument 'z'"),
            ("--hardlink-dupes=1", "argument --hardlink-dupes: ignored explicit argument '1'"),
            ("--hardlink-dupes -o1", "Hardlinking of duplicated bytecode makes sense only for more than one optimization level."),
            ("-d a -s b", "-d cannot be used in combination with -s or -p"),
        ] {
            assert_eq!(read(line, 13).unwrap_err(), error, "{line}");
        }
        assert!(read("--invalidation-mode x", 13).unwrap_err().contains("choose from 'checked-hash', 'timestamp', 'unchecked-hash'"));
        assert!(read("-h --bogus", 13).unwrap().help);
    }
}
