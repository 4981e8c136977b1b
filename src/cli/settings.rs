//! What people set once: each value with where it comes from. Option over variable over the user's file over the system's over what is
//! built in. Files are found and read in [`config_file`](super::config_file); every key and variable stands in `man/bytekeep.toml.5`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::args_common::{DurabilityArg, Global, LinkModeArg, parse_size};
use super::config_file::{self, File, Reach};
use super::failure::Failure;
use super::text;
use crate::base::sys;

/// What can be set, and the variable that stands for it. The first part of a name with a dot is a table of the file.
pub(crate) const KEYS: [(&str, Option<&str>); 7] = [
    ("durability", Some("BYTEKEEP_DURABILITY")),
    ("jobs", Some("BYTEKEEP_JOBS")),
    ("link-mode", Some("BYTEKEEP_LINK_MODE")),
    ("store.dir", Some("BYTEKEEP_STORE")),
    ("store.enabled", Some(NO_STORE)),
    ("store.max-size", Some("BYTEKEEP_STORE_MAX_SIZE")),
    ("store.system-dir", None),
];

/// The one variable that says the opposite of its key: it stands for an option `--no-store`.
const NO_STORE: &str = "BYTEKEEP_NO_STORE";
const CONFIG: &str = "BYTEKEEP_CONFIG";
const NO_CONFIG: &str = "BYTEKEEP_NO_CONFIG";

/// Is this variable read here? Then the command line does not read it a second time.
pub(crate) fn reads(variable: &str) -> bool {
    [CONFIG, NO_CONFIG].contains(&variable) || KEYS.iter().any(|(_, own)| *own == Some(variable))
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of a file, counted from 1.
    File(PathBuf, usize),
    /// A variable.
    Variable(&'static str),
    /// An option of the command line.
    Option(&'static str),
}

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting<T> {
    /// The value.
    pub(crate) value: T,
    /// Who said so.
    pub(crate) origin: Origin,
}

impl<T> Setting<T> {
    fn default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }
}

/// What the options of the command line say; they come last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// `--durability`
    pub(crate) durability: Option<DurabilityArg>,
    /// `--jobs`
    pub(crate) jobs: Option<u16>,
    /// `--link-mode`
    pub(crate) link_mode: Option<LinkModeArg>,
    /// `--store`
    pub(crate) store_dir: Option<PathBuf>,
    /// `--no-store` says `false`, and else `--store` says `true`.
    pub(crate) store_enabled: Option<bool>,
    /// `--store-max-size`
    pub(crate) store_max_size: Option<u64>,
    /// `--system-store`
    pub(crate) store_system_dir: Option<PathBuf>,
}

impl Given {
    fn has(&self, key: &str) -> bool {
        match key {
            "durability" => self.durability.is_some(),
            "jobs" => self.jobs.is_some(),
            "link-mode" => self.link_mode.is_some(),
            "store.dir" => self.store_dir.is_some(),
            "store.enabled" => self.store_enabled.is_some(),
            "store.max-size" => self.store_max_size.is_some(),
            "store.system-dir" => self.store_system_dir.is_some(),
            _ => false,
        }
    }
}

/// A value as somebody wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// A text in a file.
    Text(String),
    /// A whole number in a file.
    Number(i64),
    /// `true` or `false` in a file.
    Switch(bool),
    /// Anything else in a file, by the name of its type.
    Other(&'static str),
    /// What a variable holds.
    Variable(OsString),
}

impl Raw {
    /// For messages.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Text(word) => format!("the text `{}`", text::short_name(word.as_bytes())),
            Self::Number(number) => format!("the number {number}"),
            Self::Switch(switch) => format!("`{switch}`"),
            Self::Other(kind) => format!("of the type {kind}"),
            Self::Variable(value) => format!("`{}`", text::short_name(value.as_bytes())),
        }
    }

    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(word) => Some(word),
            Self::Variable(value) => value.to_str(),
            _ => None,
        }
    }

    fn word<T: ValueEnum>(&self) -> Option<T> {
        T::from_str(self.as_text()?, false).ok()
    }

    fn number(&self) -> Option<u16> {
        match self {
            Self::Number(number) => u16::try_from(*number).ok(),
            Self::Variable(value) => value.to_str()?.parse().ok(),
            _ => None,
        }
    }

    /// Nothing is no size: `store.enabled` turns the store off.
    fn size(&self) -> Option<u64> {
        let size = match self {
            Self::Number(number) => u64::try_from(*number).ok()?,
            _ => parse_size(self.as_text()?).ok()?.0,
        };
        (size > 0).then_some(size)
    }

    fn switch(&self) -> Option<bool> {
        match self {
            Self::Switch(switch) => Some(*switch),
            // As every variable that stands for an option without a value is read.
            Self::Variable(value) => Some(!is_truthy(value)),
            _ => None,
        }
    }

    /// A file is read wherever somebody works, so what it says must not depend on that; a variable is like an option.
    fn dir(&self) -> Option<PathBuf> {
        match self {
            Self::Text(path) => Some(PathBuf::from(path)).filter(|path| path.is_absolute() && !path.as_os_str().as_bytes().contains(&0)),
            Self::Variable(path) => std::path::absolute(path).ok(),
            _ => None,
        }
    }
}

fn is_truthy(value: &OsStr) -> bool {
    let falsey = ["n", "no", "f", "false", "off", "0"];
    !value.to_str().is_some_and(|word| falsey.contains(&word.to_lowercase().as_str()))
}

/// The word of a value.
pub(crate) fn word_of<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What is understood, for messages.
pub(crate) fn allowed(key: &str) -> String {
    fn words<T: ValueEnum>() -> String {
        let mut words: Vec<String> = T::value_variants().iter().map(|value| format!("`{}`", word_of(value))).collect();
        let last = words.pop().unwrap_or_default();
        format!("{} or {last}", words.join(", "))
    }
    match key {
        "durability" => words::<DurabilityArg>(),
        "link-mode" => words::<LinkModeArg>(),
        "jobs" => "a whole number from 0 to 65535; 0 is as much as there are processor cores".to_owned(),
        "store.enabled" => "`true` or `false`".to_owned(),
        "store.max-size" => "a size of at least one byte: a whole number, or a text with K, M or G behind the number (\"2GiB\")".to_owned(),
        _ => "an absolute path, as a text".to_owned(),
    }
}

/// All settings, and the files that were looked for.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How safe from a power cut.
    pub(crate) durability: Setting<DurabilityArg>,
    /// How much is done at one time; 0 is as much as there are processor cores. See [`Settings::width`].
    pub(crate) jobs: Setting<u16>,
    /// How an artifact of the store comes into a tree.
    pub(crate) link_mode: Setting<LinkModeArg>,
    /// Where this user's store is; nowhere where no home is known.
    pub(crate) store_dir: Setting<Option<PathBuf>>,
    /// Is there a store at all?
    pub(crate) store_enabled: Setting<bool>,
    /// How large the store may become, bytes; never 0.
    pub(crate) store_max_size: Setting<u64>,
    /// The administrator's store. Of the files only the system's says where.
    pub(crate) store_system_dir: Setting<PathBuf>,
    /// The files that were looked for, the one that counts least first.
    pub(crate) files: Vec<File>,
}

/// Where the store is, and what hooks remember, where nobody says it. Root's is no user's: it must not depend on the `HOME` that `sudo` handed on. A unit of systemd
/// says itself where its caches are.
pub(crate) fn default_dir() -> Option<PathBuf> {
    let is_root = sys::effective_user() == 0 && variable("CACHE_DIRECTORY").is_none();
    if is_root { Some(PathBuf::from("/var/cache/bytekeep")) } else { super::setup::cache_dir() }
}

/// What a variable of this process holds. Empty ones count as not set.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

impl Settings {
    /// Those of this process. `reach` says whose files count; root's is never more than the system's.
    pub(crate) fn of_process(global: &Global, given: Given, reach: Reach) -> Result<Self, Failure> {
        let reach = if sys::effective_user() == 0 { Reach::System } else { reach };
        let places = if without_files(global) {
            Vec::new()
        } else {
            let named = global.config.clone().or_else(|| variable(CONFIG).map(PathBuf::from));
            config_file::places(Path::new(config_file::SYSTEM), reach, named, &variable)
        };
        Self::load(places, given, &variable)
    }

    /// Those of the system and of the options, for what runs on somebody else's behalf: no variable counts, and no home.
    pub(crate) fn of_system(global: &Global, given: Given) -> Result<Self, Failure> {
        let nothing = |_: &str| None;
        let places = || config_file::places(Path::new(config_file::SYSTEM), Reach::System, global.config.clone(), &nothing);
        Self::load(if global.no_config { Vec::new() } else { places() }, given, &nothing)
    }

    /// By files, variables and options, which win in this order. Whatever is said is checked, also where it does not win; only a variable
    /// is not read where the option stands for it.
    pub(crate) fn load(mut files: Vec<File>, given: Given, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, Failure> {
        let mut settings = Self::built_in();
        for file in &mut files {
            for entry in file.read()? {
                let origin = Origin::File(file.path.clone(), entry.line);
                settings.set(entry.key, &entry.value, origin);
            }
        }
        settings.files = files;
        let unread = KEYS.iter().filter(|(key, _)| !given.has(key));
        for (key, name) in unread.filter_map(|(key, name)| Some((*key, (*name)?))) {
            let Some(value) = variable(name) else { continue };
            let raw = Raw::Variable(value);
            if !settings.set(key, &raw, Origin::Variable(name)) {
                return Err(Failure::new(format!("{name} is {}, and takes {}", raw.shown(), allowed(key)))
                    .hint("bytekeep.toml(5) tells what can be set, and by which variables"));
            }
        }
        settings.obey(given);
        Ok(settings)
    }

    fn built_in() -> Self {
        Self {
            durability: Setting::default(DurabilityArg::Batch),
            jobs: Setting::default(0),
            link_mode: Setting::default(LinkModeArg::Copy),
            store_dir: Setting::default(default_dir()),
            store_enabled: Setting::default(true),
            store_max_size: Setting::default(2 << 30),
            store_system_dir: Setting::default(PathBuf::from("/usr/lib/bytekeep/store")),
            files: Vec::new(),
        }
    }

    /// Sets one value. `false`: it is none that this key takes, and nothing is set.
    fn set(&mut self, key: &str, raw: &Raw, origin: Origin) -> bool {
        fn put<T>(setting: &mut Setting<T>, value: Option<T>, origin: Origin) -> bool {
            let fits = value.is_some();
            if let Some(value) = value {
                *setting = Setting { value, origin };
            }
            fits
        }
        match key {
            "durability" => put(&mut self.durability, raw.word(), origin),
            "jobs" => put(&mut self.jobs, raw.number(), origin),
            "link-mode" => put(&mut self.link_mode, raw.word(), origin),
            "store.dir" => put(&mut self.store_dir, raw.dir().map(Some), origin),
            "store.enabled" => put(&mut self.store_enabled, raw.switch(), origin),
            "store.max-size" => put(&mut self.store_max_size, raw.size(), origin),
            "store.system-dir" => put(&mut self.store_system_dir, raw.dir(), origin),
            _ => false,
        }
    }

    fn obey(&mut self, given: Given) {
        fn put<T>(setting: &mut Setting<T>, value: Option<T>, option: &'static str) {
            if let Some(value) = value {
                *setting = Setting { value, origin: Origin::Option(option) };
            }
        }
        put(&mut self.durability, given.durability, "--durability");
        put(&mut self.jobs, given.jobs, "--jobs");
        put(&mut self.link_mode, given.link_mode, "--link-mode");
        put(&mut self.store_dir, given.store_dir.map(Some), "--store");
        put(&mut self.store_enabled, given.store_enabled, if given.store_enabled == Some(true) { "--store" } else { "--no-store" });
        put(&mut self.store_max_size, given.store_max_size, "--store-max-size");
        put(&mut self.store_system_dir, given.store_system_dir, "--system-store");
    }

    /// The number of threads or workers.
    pub(crate) fn width(&self) -> usize {
        match self.jobs.value {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            jobs => usize::from(jobs),
        }
    }
}

/// Would this key take this value?
pub(crate) fn takes(key: &str, raw: &Raw) -> bool {
    Settings::built_in().set(key, raw, Origin::Default)
}

/// An option stands over every variable, whichever of the two it is.
fn without_files(global: &Global) -> bool {
    global.no_config || (global.config.is_none() && variable(NO_CONFIG).is_some_and(|value| is_truthy(&value)))
}

#[cfg(test)]
mod tests {
    use super::super::config_file::Whose;
    use super::*;

    fn file(dir: &Path, name: &str, whose: Whose, content: &str) -> File {
        let path = dir.join(name);
        #[allow(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&path, content).unwrap();
        File { whose, path, there: false }
    }

    #[test]
    fn who_comes_later_wins() {
        let top = tempfile::tempdir().unwrap();
        let system = file(top.path(), "system", Whose::System, "jobs = 1\n\n[store]\nmax-size = 7\nsystem-dir = \"/s\"\n");
        let user = file(top.path(), "user", Whose::User, "# mine\njobs = 2\n");
        let variable = |name: &str| (name == "BYTEKEEP_JOBS").then(|| OsString::from("3"));
        let given = Given { jobs: Some(4), ..Given::default() };
        let (system_path, user_path) = (system.path.clone(), user.path.clone());
        let jobs = |files: &[&File], variable: &dyn Fn(&str) -> Option<OsString>, given: &Given| {
            let files = files.iter().map(|file| (*file).clone()).collect();
            Settings::load(files, given.clone(), variable).unwrap().jobs
        };
        let none = |_: &str| None;
        let setting = |value, origin| Setting { value, origin };
        assert_eq!(jobs(&[], &none, &Given::default()), setting(0, Origin::Default));
        assert_eq!(jobs(&[&system], &none, &Given::default()), setting(1, Origin::File(system_path.clone(), 1)));
        assert_eq!(jobs(&[&system, &user], &none, &Given::default()), setting(2, Origin::File(user_path, 2)));
        assert_eq!(jobs(&[&system, &user], &variable, &Given::default()), setting(3, Origin::Variable("BYTEKEEP_JOBS")));
        assert_eq!(jobs(&[&system, &user], &variable, &given), setting(4, Origin::Option("--jobs")));
        let all = Settings::load(vec![system, user], Given::default(), &none).unwrap();
        assert_eq!(all.store_max_size, Setting { value: 7, origin: Origin::File(system_path.clone(), 4) });
        assert_eq!(all.store_system_dir, Setting { value: PathBuf::from("/s"), origin: Origin::File(system_path, 5) });
        assert!(all.files.iter().all(|file| file.there));
    }

    #[test]
    fn every_option_has_its_say() {
        let given = Given {
            durability: Some(DurabilityArg::Full),
            jobs: Some(9),
            link_mode: Some(LinkModeArg::Clone),
            store_dir: Some("/d".into()),
            store_enabled: Some(false),
            ..Given::default()
        };
        let all = Settings::load(Vec::new(), given, &|_| Some("nonsense".into())).unwrap_err();
        // Of all the variables, which are nonsense, only the one without an option is read.
        assert!(format!("{all:?}").contains("BYTEKEEP_STORE_MAX_SIZE is `nonsense`"), "{all:?}");
        let given =
            Given { link_mode: Some(LinkModeArg::Hardlink), store_dir: Some("/d".into()), store_enabled: Some(false), ..Given::default() };
        let all = Settings::load(Vec::new(), given, &|_| None).unwrap();
        assert_eq!((all.link_mode.value, all.store_dir.value, all.store_enabled.value), (LinkModeArg::Hardlink, Some("/d".into()), false));
        assert_eq!((all.link_mode.origin, all.store_enabled.origin), (Origin::Option("--link-mode"), Origin::Option("--no-store")));
    }

    #[test]
    fn what_each_key_takes() {
        let text = |word: &str| Raw::Text(word.to_owned());
        let variable = |word: &str| Raw::Variable(word.into());
        for (key, good, bad) in [
            (
                "durability",
                vec![text("none"), text("full"), variable("batch")],
                vec![text("Batch"), text(""), Raw::Number(0), Raw::Switch(false)],
            ),
            (
                "jobs",
                vec![Raw::Number(0), Raw::Number(65535), variable("2")],
                vec![Raw::Number(-1), Raw::Number(65536), text("2"), variable("-1"), variable("2.5"), Raw::Other("float")],
            ),
            ("link-mode", vec![text("copy"), text("clone"), variable("hardlink")], vec![text("symlink"), Raw::Other("array")]),
            (
                "store.dir",
                vec![text("/a"), variable("/a"), variable("a")],
                vec![text("a"), text("~/a"), text(""), text("/a\0"), Raw::Switch(true)],
            ),
            ("store.enabled", vec![Raw::Switch(true), variable("1"), variable("whatever")], vec![text("true"), Raw::Number(1)]),
            (
                "store.max-size",
                vec![Raw::Number(1), text("2GiB"), text("500M"), variable("7")],
                vec![Raw::Number(0), text("0"), Raw::Number(-1), text("2TB"), text("much"), text("99999999999G")],
            ),
            ("store.system-dir", vec![text("/usr/lib/x")], vec![text("x"), Raw::Number(1)]),
        ] {
            assert!(KEYS.iter().any(|(name, _)| *name == key));
            for (raw, fits) in good.iter().map(|raw| (raw, true)).chain(bad.iter().map(|raw| (raw, false))) {
                assert_eq!(takes(key, raw), fits, "{key} {raw:?}");
            }
            assert!(!takes(key, &Raw::Other("table")) && !allowed(key).is_empty(), "{key}");
        }
        assert_eq!(KEYS.len(), 7, "and that is all of them");
        assert_eq!(allowed("durability"), "`none`, `batch` or `full`");
        assert!(variable("1").switch() == Some(false) && variable("off").switch() == Some(true), "`no-store`, said or taken back");
    }

    /// The parts of a page that stand as they are typed.
    fn literal_blocks(page: &str) -> Vec<String> {
        let blocks = page.split(".Bd -literal").skip(1).filter_map(|rest| rest.split_once('\n')?.1.split(".Ed").next());
        blocks.map(str::to_owned).collect()
    }

    #[test]
    fn the_manual_names_every_key_and_its_examples_are_understood() {
        let page = include_str!("../../man/bytekeep.toml.5");
        let (_, keys) = page.split_once(".Ss Keys\n").unwrap();
        let (keys, _) = keys.split_once(".Ss ").unwrap();
        let named: Vec<&str> = keys.lines().filter_map(|line| line.strip_prefix(".It Ic ")).collect();
        assert_eq!(named, KEYS.map(|(key, _)| key));
        let built_in = Settings::built_in();
        let about = |key: &str| keys.split_once(&format!(".It Ic {key}\n")).unwrap().1.split(".It Ic").next().unwrap().to_owned();
        for (key, name) in KEYS {
            let variables: Vec<String> = about(key)
                .lines()
                .filter_map(|line| line.strip_prefix(".Ev "))
                .map(|word| word.trim_end_matches([' ', ',', '.']).to_owned())
                .collect();
            assert_eq!(variables, name.into_iter().collect::<Vec<_>>(), "{key}");
        }
        for (key, words) in [("durability", words_of::<DurabilityArg>()), ("link-mode", words_of::<LinkModeArg>())] {
            for word in words {
                assert!([" ,", "\n"].iter().any(|end| about(key).contains(&format!(".Cm {word}{end}"))), "{key} {word}");
            }
        }
        let default = |key: &str| about(key).split_once("Default").unwrap().1.trim_start().lines().next().unwrap().to_owned();
        for (key, text) in [
            ("durability", format!(".Cm {} .", word_of(&built_in.durability.value))),
            ("jobs", format!("{}.", built_in.jobs.value)),
            ("link-mode", format!(".Cm {} .", word_of(&built_in.link_mode.value))),
            ("store.enabled", format!(".Cm {} .", built_in.store_enabled.value)),
            ("store.max-size", format!(".Ql {}GiB .", built_in.store_max_size.value >> 30)),
            ("store.system-dir", format!(".Pa {} .", built_in.store_system_dir.value.display())),
        ] {
            assert_eq!(default(key), text, "{key}");
        }
        for name in [CONFIG, NO_CONFIG] {
            assert!(page.contains(&format!(".It Ev {name}\n")), "{name}");
        }
        assert!(page.contains(&format!(".It Pa {}\n", config_file::SYSTEM)) && page.contains("at most 64 KiB"));
        let readme = include_str!("../../README.md");
        let in_readme = readme
            .split("```toml\n")
            .skip(1)
            .filter_map(|block| block.split("```").next())
            .filter(|block| !block.contains("[dependencies]"));
        let examples: Vec<String> =
            literal_blocks(page).into_iter().filter(|block| !block.starts_with("$ ")).chain(in_readme.map(str::to_owned)).collect();
        assert_eq!(examples.len(), 3);
        let top = tempfile::tempdir().unwrap();
        for example in examples {
            let settings = Settings::load(vec![file(top.path(), "f", Whose::System, &example)], Given::default(), &|_| None).unwrap();
            assert_ne!(settings.durability.origin, Origin::Default, "{example}");
        }
    }

    fn words_of<T: ValueEnum>() -> Vec<String> {
        T::value_variants().iter().map(|value| word_of(value)).collect()
    }
}
