//! `bytekeep.toml`, the variables beside it, and `bytekeep config`: the real command, as root and as somebody else, told what counts.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a test works on files of its own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use whole::{BYTEKEEP, Outcome, Run, Tree, may, must, python, root_or_skip, tool_or_skip};

/// Runs it in a mount namespace of its own, where the first word is what `/etc` is: so the system's file is the one of the test.
const WITH_ETC: &str = r#"mount --bind "$0" /etc && exec "$@""#;

/// A tree with places for configurations that nobody else's can come into.
struct Place {
    tree: Tree,
}

impl Place {
    fn new() -> Self {
        let tree = Tree::new();
        tree.open_to_all();
        Self { tree }
    }

    /// The command without anything set.
    fn run(&self, words: &[&str]) -> Run {
        self.tree.bytekeep(None, words.iter().copied()).without("BYTEKEEP_NO_CONFIG").without("BYTEKEEP_STORE")
    }

    /// `config --format json`.
    fn config(&self) -> Run {
        self.run(&["config", "--format", "json"])
    }

    /// Writes a file that everybody can read and only its owner can write.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        put(self.tree.outside(name), content)
    }

    /// The user's file where `HOME` says.
    fn at_home(&self, content: &str) -> PathBuf {
        put(self.tree.home().join(".config/bytekeep/bytekeep.toml"), content)
    }

    /// Another `/etc` with a system's file in it: the directory, for [`Run::by`].
    fn etc(&self, content: &str) -> String {
        let etc = self.tree.outside("etc");
        std::fs::create_dir_all(&etc).unwrap();
        for name in ["passwd", "group", "ld.so.cache"] {
            if let Ok(bytes) = std::fs::read(Path::new("/etc").join(name)) {
                put(etc.join(name), bytes);
            }
        }
        put(etc.join("bytekeep.toml"), content);
        etc.into_os_string().into_string().unwrap()
    }
}

fn put(path: PathBuf, content: impl AsRef<[u8]>) -> PathBuf {
    let above = path.parent().unwrap();
    std::fs::create_dir_all(above).unwrap();
    std::fs::write(&path, content).unwrap();
    for (path, mode) in [(above, 0o755), (above.parent().unwrap(), 0o755), (path.as_path(), 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    path
}

/// Can a namespace be had in which `/etc` is another? Says so where not.
fn may_mount(etc: &str) -> bool {
    root_or_skip("another /etc") && tool_or_skip("unshare") && may("unshare", &["-m", "sh", "-c", WITH_ETC, etc, "true"])
}

/// The command with another `/etc`.
fn with_etc(run: Run, etc: &str) -> Run {
    run.by(&["unshare", "-m", "sh", "-c", WITH_ETC, etc])
}

/// The same as nobody, where this is root: root has no user's file.
fn as_user(run: Run) -> Run {
    if whole::is_root() { run.by_nobody() } else { run }
}

/// The line of a key.
#[track_caller]
fn setting<'o>(outcome: &'o Outcome, key: &str) -> &'o Value {
    outcome.lines.iter().find(|line| line["kind"] == "setting" && line["key"] == key).unwrap_or_else(|| panic!("{}", outcome.shown()))
}

/// Asserts value and origin: `default`, a variable or an option by its name, or a file by `path:line`.
#[track_caller]
fn is(outcome: &Outcome, key: &str, value: impl Into<Value>, origin: &str) {
    let line = setting(outcome, key);
    let from = match line["origin"].as_str().unwrap() {
        "file" => format!("{}:{}", line["path"].as_str().unwrap(), line["line"]),
        "default" => "default".to_owned(),
        _ => line["name"].as_str().unwrap().to_owned(),
    };
    assert_eq!((&line["value"], from.as_str()), (&value.into(), origin), "{}", outcome.shown());
}

/// Asserts that it ends before anything is done, with one error that says all of this.
#[track_caller]
fn refuses(outcome: Outcome, texts: &[&str]) {
    let outcome = outcome.exits(2);
    assert_eq!((outcome.errors(), outcome.stdout.as_str()), (1, ""), "{}", outcome.shown());
    assert!(outcome.stderr.contains("hint: "), "{}", outcome.shown());
    for text in texts {
        assert!(outcome.stderr.contains(text), "no `{text}`: {}", outcome.shown());
    }
}

fn line(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}

#[test]
fn nothing_is_set() {
    let place = Place::new();
    // Not the machine's own file, if there is one.
    let outcome = as_user(place.config().arg("--no-config")).run().exits(0);
    let cache = place.tree.home().join(".cache/bytekeep");
    for (key, value) in [
        ("durability", Value::from("batch")),
        ("jobs", 0.into()),
        ("link-mode", "copy".into()),
        ("store.dir", cache.to_str().unwrap().into()),
        ("store.enabled", true.into()),
        ("store.max-size", (2_u64 << 30).into()),
        ("store.system-dir", "/usr/lib/bytekeep/store".into()),
    ] {
        is(&outcome, key, value, "default");
    }
    assert_eq!(outcome.lines.len(), 7, "{}", outcome.shown());
    if root_or_skip("root's own store") {
        is(&place.config().arg("--no-config").run().exits(0), "store.dir", "/var/cache/bytekeep", "default");
    }
}

#[test]
fn each_step_wins_over_the_one_below() {
    let place = Place::new();
    let etc = place.etc("jobs = 11\nlink-mode = \"clone\"\n\n[store]\ndir = \"/system\"\nsystem-dir = \"/admin\"\nmax-size = 11\n");
    if !may_mount(&etc) {
        return;
    }
    let home = place.at_home("# the user's\njobs = 22\n[store]\ndir = \"/user\"\n");
    let system = Path::new("/etc/bytekeep.toml");
    // Of all that is set at a step, what no later step sets stays.
    let outcome = with_etc(place.config().by_nobody(), &etc).run().exits(0);
    is(&outcome, "jobs", 22, &line(&home, 2));
    is(&outcome, "store.dir", "/user", &line(&home, 4));
    is(&outcome, "link-mode", "clone", &line(system, 2));
    is(&outcome, "store.max-size", 11, &line(system, 7));
    is(&outcome, "store.system-dir", "/admin", &line(system, 6));
    is(&outcome, "durability", "batch", "default");
    let files: Vec<(&Value, &Value)> =
        outcome.lines.iter().filter(|line| line["kind"] == "configuration").map(|line| (&line["whose"], &line["there"])).collect();
    assert_eq!(files, [(&"system".into(), &true.into()), (&"user".into(), &true.into())]);

    let variables = |run: Run| run.env("BYTEKEEP_JOBS", "33").env("BYTEKEEP_STORE", "/variable").env("BYTEKEEP_DURABILITY", "");
    let outcome = with_etc(variables(place.config().by_nobody()), &etc).run().exits(0);
    is(&outcome, "jobs", 33, "BYTEKEEP_JOBS");
    is(&outcome, "store.dir", "/variable", "BYTEKEEP_STORE");
    is(&outcome, "link-mode", "clone", &line(system, 2));
    is(&outcome, "durability", "batch", "default");

    // The one that is named stands for the user's, not for the system's; without any, variables and defaults are left.
    let named = place.write("named.toml", "durability = \"full\"\n");
    must("chown", &["65534", named.to_str().unwrap()]);
    let by_option = with_etc(place.config().arg("--config").arg(&named).by_nobody(), &etc).run().exits(0);
    let by_variable = with_etc(place.config().env("BYTEKEEP_CONFIG", &named).by_nobody(), &etc).run().exits(0);
    for outcome in [by_option, by_variable] {
        is(&outcome, "durability", "full", &line(&named, 1));
        is(&outcome, "jobs", 11, &line(system, 1));
    }
    let none = with_etc(place.config().arg("--no-config").env("BYTEKEEP_CONFIG", &named).by_nobody(), &etc).run().exits(0);
    is(&none, "durability", "batch", "default");
    is(&none, "jobs", 0, "default");
    let named_all_the_same = place.config().env("BYTEKEEP_NO_CONFIG", "1").arg("--config").arg(&named);
    is(&with_etc(named_all_the_same.by_nobody(), &etc).run().exits(0), "durability", "full", &line(&named, 1));

    // Root has the system's and what it names.
    let root = with_etc(place.config().env("XDG_CONFIG_HOME", place.tree.home().join(".config")), &etc).run().exits(0);
    is(&root, "jobs", 11, &line(system, 1));
    is(&root, "store.dir", "/system", &line(system, 5));
    assert!(!root.stdout.contains("\"user\""), "{}", root.shown());
    refuses(with_etc(place.config().arg("--config").arg(&named), &etc).run(), &["do not trust", "named.toml", "uid 65534"]);

    // A file of the system's that somebody else can write is nobody's.
    must("chmod", &["666", &format!("{etc}/bytekeep.toml")]);
    refuses(with_etc(place.config(), &etc).run(), &["/etc/bytekeep.toml", "mode 666"]);
    refuses(with_etc(place.config().by_nobody(), &etc).run(), &["/etc/bytekeep.toml", "mode 666"]);
    with_etc(place.config().arg("--no-config"), &etc).run().exits(0);
}

#[test]
fn every_variable_stands_for_its_key() {
    let place = Place::new();
    let variables = [
        ("BYTEKEEP_DURABILITY", "none", "durability", Value::from("none")),
        ("BYTEKEEP_JOBS", "7", "jobs", 7.into()),
        ("BYTEKEEP_LINK_MODE", "hardlink", "link-mode", "hardlink".into()),
        ("BYTEKEEP_STORE", "/s", "store.dir", "/s".into()),
        ("BYTEKEEP_STORE", "below", "store.dir", place.tree.path("below").to_str().unwrap().into()),
        ("BYTEKEEP_NO_STORE", "1", "store.enabled", false.into()),
        ("BYTEKEEP_NO_STORE", "off", "store.enabled", true.into()),
        ("BYTEKEEP_STORE_MAX_SIZE", "3GiB", "store.max-size", (3_u64 << 30).into()),
    ];
    for (name, value, key, expected) in variables {
        is(&place.config().arg("--no-config").env(name, value).run().exits(0), key, expected, name);
        is(&place.config().arg("--no-config").env(name, "").run().exits(0), key, setting_of(&place, key), "default");
    }
    for (name, value) in [("BYTEKEEP_JOBS", "-1"), ("BYTEKEEP_LINK_MODE", "symlink"), ("BYTEKEEP_STORE_MAX_SIZE", "0")] {
        refuses(place.config().arg("--no-config").env(name, value).run(), &[name, value, "takes"]);
    }
}

/// What a key is where nothing is set.
fn setting_of(place: &Place, key: &str) -> Value {
    setting(&place.config().arg("--no-config").run().exits(0), key)["value"].clone()
}

/// What is set is obeyed, and not only shown: one thread writes, and none is flushed.
#[test]
fn a_run_does_what_is_set() {
    let place = Place::new();
    let config = place.write("own.toml", "durability = \"none\"\njobs = 1\n");
    let compile = |words: &[&str]| {
        let run = place.tree.bytekeep(Some(python()), ["compile", "--force", "good.py"].iter().chain(words).copied());
        run.without("BYTEKEEP_NO_CONFIG").without("BYTEKEEP_STORE").arg("--config").arg(&config)
    };
    compile(&[]).run().exits(0);
    place.tree.assert_good(python());
    // A command that cannot know what it should do does nothing.
    let artifact = place.tree.artifact("good.py", python());
    std::fs::remove_file(&artifact).unwrap();
    put(config.clone(), "durabilty = \"none\"\n");
    refuses(compile(&[]).run(), &["own.toml", "line 1", "`durabilty`", "did you mean `durability`?"]);
    assert!(!artifact.exists());
    if !tool_or_skip("strace") || !may("strace", &["-f", "-o", "/dev/null", "true"]) {
        return;
    }
    // How many calls there are of which the line holds a word.
    let calls = |config_says: &str, words: &[&str], variable: (&str, &str), call: &str, word: &str| {
        put(config.clone(), config_says);
        let trace = place.tree.outside("trace");
        let run = compile(words).env(variable.0, variable.1);
        run.by(&["strace", "-f", "-e", call, "-o", trace.to_str().unwrap()]).run().exits(0);
        std::fs::read_to_string(trace).unwrap().lines().filter(|line| line.contains(word)).count()
    };
    let flushes = |config_says: &str, words: &[&str], variable: &str| {
        calls(config_says, words, ("BYTEKEEP_DURABILITY", variable), "trace=fsync,fdatasync", "fsync(")
    };
    assert!(flushes("", &[], "") > 0, "the default flushes");
    assert_eq!(flushes("durability = \"none\"", &[], ""), 0);
    assert!(flushes("durability = \"none\"", &[], "full") > 0);
    assert_eq!(flushes("durability = \"full\"", &["--durability", "none"], "full"), 0);
    assert!(flushes("durability = \"none\"", &["--durability", "batch"], "none") > 0);
    // One job is one interpreter, and there would be work for nine.
    let sources: Vec<String> = (0..40).map(|number| format!("source{number}.py")).collect();
    for source in &sources {
        place.tree.file(source, "value = [0, 1, 2]\n".repeat(500).as_bytes());
    }
    let more: Vec<&str> = sources.iter().map(String::as_str).collect();
    let starts = |config_says: &str, words: &[&str], variable: &str| {
        let words: Vec<&str> = more.iter().chain(words).copied().collect();
        let started = format!("execve(\"{}\"", python().path.display());
        calls(config_says, &words, ("BYTEKEEP_JOBS", variable), "trace=execve", &started)
    };
    assert_eq!(starts("jobs = 1", &[], ""), 1);
    assert_eq!(starts("jobs = 9", &[], "1"), 1);
    assert_eq!(starts("jobs = 9", &["-j1"], "9"), 1);
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_what_is_allowed() {
    let place = Place::new();
    for (content, texts) in [
        (&b"jobs = 2\n\nlinkmode = \"copy\"\n"[..], &["line 3: there is no key `linkmode`; did you mean `link-mode`?"][..]),
        (b"[store]\nmax_size = 7\n", &["line 2", "`store.max_size`", "did you mean `store.max-size`?"]),
        (b"max-size = 7\n", &["line 1", "did you mean `store.max-size`?"]),
        (b"colour = 7\n", &["line 1: there is no key `colour`", "`durability`, `jobs`, `link-mode`"]),
        (b"jobs = \"many\"\n", &["line 1: `jobs`", "the text `many`", "whole number from 0 to 65535"]),
        (b"jobs = -1\n", &["line 1: `jobs`", "-1", "whole number from 0 to 65535"]),
        (b"durability = true\n", &["line 1: `durability`", "`none`, `batch` or `full`"]),
        (b"link-mode = \"symlink\"\n", &["line 1: `link-mode`", "`symlink`", "`copy`, `clone` or `hardlink`"]),
        (b"[store]\ndir = \"cache\"\n", &["line 2: `store.dir`", "`cache`", "an absolute path"]),
        (b"[store]\nmax-size = \"2TB\"\n", &["line 2: `store.max-size`", "`2TB`", "2GiB"]),
        (b"[store]\nenabled = \"no\"\n", &["line 2: `store.enabled`", "`true` or `false`"]),
        (b"[store]\nsystem-dir = \"/a\"\n", &["line 2: `store.system-dir`", "/etc/bytekeep.toml"]),
        (b"store = 1\n", &["line 1: `store` is a table"]),
        (b"jobs = 1\njobs = 1\n", &["line 2"]),
        (b"jobs = \n", &["line 1"]),
        (b"jobs = 1\n# caf\xe9\n", &["line 2: it is not UTF-8"]),
        (b"\x7fELF\x02\x01\x01\0\0\0\0", &["line 1"]),
        // What is wrong is told also where something else wins, and all of it at once.
        (b"jobs = 0.5\ndurable = 1\n", &["line 1: `jobs`", "line 2: there is no key `durable`"]),
    ] {
        let file = place.write("it.toml", content);
        let shown = String::from_utf8_lossy(content);
        for words in [&["config"][..], &["verify", ".", "--jobs", "1"]] {
            let outcome = place.run(words).env("BYTEKEEP_DURABILITY", "none").arg("--config").arg(&file).run();
            assert_eq!(outcome.code, Some(2), "{shown}: {}", outcome.shown());
            refuses(outcome, texts);
        }
    }
    // What no setting concerns reads none.
    for words in [&["completions", "bash"][..], &["--version"]] {
        place.run(words).env("BYTEKEEP_CONFIG", "/no/such/file").env("BYTEKEEP_JOBS", "x").run().exits(0);
    }
}

#[test]
fn what_is_no_file_of_a_reasonable_size_is_refused() {
    let place = Place::new();
    let fifo = place.tree.outside("fifo");
    must("mkfifo", &[&fifo]);
    let large = place.write("large.toml", "jobs = 1\n");
    std::fs::OpenOptions::new().write(true).open(&large).unwrap().set_len(1 << 30).unwrap();
    let limit = place.write("limit.toml", "#".repeat(64 << 10));
    let more = place.write("more.toml", "#".repeat((64 << 10) + 1));
    let dangling = place.tree.outside("dangling.toml");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let good = place.write("good.toml", "jobs = 5\n");
    let linked = place.tree.outside("linked.toml");
    std::os::unix::fs::symlink(&good, &linked).unwrap();
    for (path, texts) in [
        (fifo.as_path(), &["fifo", "not a regular file"][..]),
        (Path::new("/dev/zero"), &["/dev/zero", "not a regular file"]),
        (&place.tree.root(), &["tree", "a directory, not a regular file"]),
        (&large, &["large.toml", "more than 64 KiB"]),
        (&more, &["more.toml", "more than 64 KiB"]),
        (&dangling, &["dangling.toml", "No such file"]),
        (&place.tree.outside("absent.toml"), &["absent.toml", "No such file"]),
        (&good.join("below"), &["good.toml/below", "Not a directory"]),
    ] {
        refuses(place.config().arg("--config").arg(path).run(), texts);
        refuses(place.config().env("BYTEKEEP_CONFIG", path).run(), texts);
    }
    place.config().arg("--config").arg(&limit).run().exits(0);
    is(&place.config().arg("--config").arg(&linked).run().exits(0), "jobs", 5, &line(&linked, 1));
    // The user's own, which nobody named: a FIFO in its place is no less an error.
    let home = place.at_home("");
    std::fs::remove_file(&home).unwrap();
    must("mkfifo", &[&home]);
    refuses(as_user(place.config()).run(), &["bytekeep/bytekeep.toml", "not a regular file"]);
    refuses(place.run(&["config", "--config", "a", "--no-config"]).run(), &["`--config <FILE>` cannot be used with `--no-config`"]);
}

#[test]
fn root_believes_nobody_else() {
    let place = Place::new();
    if !root_or_skip("files of other users") {
        return;
    }
    let file = place.write("it.toml", "jobs = 5\n");
    let path = file.to_str().unwrap();
    let run = || place.config().arg("--config").arg(&file);
    is(&run().run().exits(0), "jobs", 5, &line(&file, 1));
    must("chown", &["65534", path]);
    refuses(run().run(), &["do not trust the configuration", path, "uid 65534", "`--no-config`"]);
    refuses(place.run(&["compile", "."]).env("BYTEKEEP_CONFIG", &file).run(), &["do not trust the configuration", path]);
    is(&run().by_nobody().run().exits(0), "jobs", 5, &line(&file, 1));
    // Another user's is not believed by anybody, root's by all.
    must("chown", &["65533", path]);
    refuses(run().by_nobody().run(), &["uid 65533"]);
    must("chown", &["0", path]);
    is(&run().by_nobody().run().exits(0), "jobs", 5, &line(&file, 1));
    for mode in ["664", "646", "666"] {
        must("chmod", &[mode, path]);
        refuses(run().run(), &[path, mode]);
        refuses(run().by_nobody().run(), &[path, mode]);
    }
    must("chmod", &["644", path]);
    // Who lays a link says which of root's files is read.
    let link = place.tree.outside("link.toml");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    place.config().arg("--config").arg(&link).run().exits(0);
    must("chown", &["-h", "65534", link.to_str().unwrap()]);
    refuses(place.config().arg("--config").arg(&link).run(), &["link.toml", "a link of uid 65534"]);
    is(&place.config().arg("--config").arg(&link).by_nobody().run().exits(0), "jobs", 5, &line(&link, 1));
    // Whoever's home it is.
    let home = place.at_home("jobs = 6\n");
    for run in [place.config(), place.config().env("XDG_CONFIG_HOME", place.tree.home().join(".config"))] {
        let outcome = run.run().exits(0);
        assert!(setting(&outcome, "jobs")["path"] != home.to_str().unwrap() && !outcome.stdout.contains("\"user\""), "{}", outcome.shown());
    }
}

#[test]
fn where_the_user_s_file_is() {
    let place = Place::new();
    let home = place.at_home("jobs = 3\n");
    let xdg = put(place.tree.outside("xdg").join("bytekeep/bytekeep.toml"), "jobs = 4\n");
    let user = |run: Run| as_user(run).run().exits(0);
    is(&user(place.config()), "jobs", 3, &line(&home, 1));
    is(&user(place.config().env("XDG_CONFIG_HOME", "")), "jobs", 3, &line(&home, 1));
    is(&user(place.config().env("XDG_CONFIG_HOME", place.tree.outside("xdg"))), "jobs", 4, &line(&xdg, 1));
    is(&user(place.config().env("XDG_CONFIG_HOME", place.tree.outside("xdg")).without("HOME")), "jobs", 4, &line(&xdg, 1));
    // Relative ones are none.
    is(&user(place.config().env("XDG_CONFIG_HOME", "../outside/xdg")), "jobs", 3, &line(&home, 1));
    let nowhere = |outcome: Outcome| {
        let jobs = setting(&outcome, "jobs");
        assert!(jobs["origin"] == "default" || jobs["path"] == "/etc/bytekeep.toml", "{}", outcome.shown());
        outcome
    };
    nowhere(user(place.config().env("XDG_CONFIG_HOME", place.tree.outside("other"))));
    let without = nowhere(user(place.config().without("HOME")));
    assert_eq!(setting(&without, "store.dir")["value"], Value::Null, "{}", without.shown());
    let told = as_user(place.run(&["config"]).without("HOME")).run().exits(0);
    assert!(told.stdout.contains("nowhere"), "{}", told.shown());
    nowhere(user(place.config().env("HOME", ".")));
    // A home that is closed to whoever runs it is told of where somebody asks.
    if root_or_skip("a home that is closed") {
        std::fs::set_permissions(place.tree.home(), std::fs::Permissions::from_mode(0o700)).unwrap();
        nowhere(user(place.config()));
        let told = place.run(&["config", "-v"]).by_nobody().run().exits(0);
        assert!(told.stderr.contains("cannot be reached") && told.stderr.contains("Permission denied"), "{}", told.shown());
    }
}

#[test]
fn a_table_for_people() {
    let place = Place::new();
    let file = place.write("own.toml", "jobs = 5\n\n[store]\ndir = \"/a b\"\nmax-size = \"1536M\"\n");
    let mut command = std::process::Command::new(BYTEKEEP);
    place.tree.dress(&mut command);
    let outcome =
        Run { command }.without("BYTEKEEP_NO_CONFIG").without("BYTEKEEP_STORE").arg("config").arg("--config").arg(&file).run().exits(0);
    let rows: Vec<Vec<&str>> =
        outcome.stdout.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect();
    let shown = file.display();
    for row in [
        ["setting", "value", "from"],
        ["jobs", "5", &format!("{shown}:1")],
        ["store.dir", "/a b", &format!("{shown}:4")],
        ["store.max-size", "1536MiB", &format!("{shown}:5")],
    ] {
        assert!(rows.contains(&row.to_vec()), "{row:?}: {}", outcome.shown());
    }
    assert!(outcome.stdout.contains(&format!("the configuration that was named: {shown}, read\n")), "{}", outcome.shown());
    assert!(outcome.stderr.is_empty(), "{}", outcome.shown());
    let none = place.run(&["config", "--no-config"]).run().exits(0);
    assert!(none.stdout.ends_with("no configuration is read\n"), "{}", none.shown());
}
