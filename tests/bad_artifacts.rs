//! Bad artifacts: each is found, named and mended, or left alone and named, by the whole command with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::Python;
use whole::{Outcome, Tree, all_pythons, is_root, must, python, python_for_all, root_or_skip, two_pythons};

const SEAL: usize = 96;

/// How an artifact is damaged, what `verify` calls it, and what the quick look of `compile` does about it.
struct Row {
    name: &'static str,
    damage: fn(&Path, &Tree),
    verdict: &'static str,
    compile: &'static str,
    /// Is it whatever stands there that is bad, and not the bytes of a file? Then nobody touches it.
    stays: bool,
}

const fn row(name: &'static str, damage: fn(&Path, &Tree), verdict: &'static str, compile: &'static str) -> Row {
    Row { name, damage, verdict, compile, stays: false }
}

const fn stays(name: &'static str, damage: fn(&Path, &Tree), verdict: &'static str) -> Row {
    Row { name, damage, verdict, compile: "none", stays: true }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let (mut bytes, stat) = (std::fs::read(path).unwrap(), std::fs::metadata(path).unwrap());
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
    // As bits rot: without a trace in the file's times.
    whole::set_mtime(path, stat.mtime());
}

fn instead(path: &Path) -> &Path {
    std::fs::remove_file(path).unwrap();
    path
}

const PRECIOUS: &[u8] = b"what somebody else's file has in it\n";

const ROWS: &[Row] = &[
    stays("fifo", |path, _| must("mkfifo", &[instead(path)]), "unsafe"),
    stays("socket", |path, _| drop(std::os::unix::net::UnixListener::bind(instead(path)).unwrap()), "unsafe"),
    stays("directory", |path, _| std::fs::create_dir(instead(path)).unwrap(), "unsafe"),
    stays("dangling", |path, _| symlink("nowhere", instead(path)).unwrap(), "unsafe"),
    stays("round", |path, _| symlink(path.file_name().unwrap(), instead(path)).unwrap(), "unsafe"),
    stays("outside", |path, tree| symlink(tree.outside("precious"), instead(path)).unwrap(), "unsafe"),
    row("empty", |path, _| edit(path, Vec::clear), "truncated", "built"),
    row("magic_only", |path, _| edit(path, |bytes| bytes.truncate(4)), "truncated", "built"),
    row("header_only", |path, _| edit(path, |bytes| bytes.truncate(16)), "truncated", "built"),
    row("cut_by_one", |path, _| edit(path, |bytes| bytes.truncate(bytes.len() - 1)), "truncated", "built"),
    row("cut_in_seal", |path, _| edit(path, |bytes| bytes.truncate(bytes.len() - 50)), "truncated", "built"),
    row("cut_in_two", |path, _| edit(path, |bytes| bytes.truncate(bytes.len() / 2)), "truncated", "built"),
    row("at_a_page", |path, _| edit(path, |bytes| bytes.truncate(4096)), "truncated", "built"),
    row("flipped", |path, _| edit(path, |bytes| bytes[6000] ^= 4), "corrupt", "none"),
    row("zeroed", |path, _| edit(path, |bytes| bytes[4096..8192].fill(0)), "corrupt", "none"),
    row("all_zero", |path, _| edit(path, |bytes| bytes.fill(0)), "bad-magic", "built"),
    row("wrong_magic", |path, _| edit(path, |bytes| bytes[..2].copy_from_slice(b"\x01\x02")), "bad-magic", "built"),
    row("other_module", |path, tree| other_module(path, tree, "donor"), "stale", "built"),
    row("twin_module", |path, tree| other_module(path, tree, "twin"), "silently-stale", "none"),
    row("sparse", |path, _| std::fs::File::create(path).unwrap().set_len(4 << 30).unwrap(), "corrupt", "built"),
    row("hard_link", |path, tree| std::fs::hard_link(tree.outside("precious"), instead(path)).unwrap(), "bad-magic", "built"),
    stays("newer_seal", |path, _| edit(path, |bytes| set_seal(bytes, 72, 2)), "unknown"),
    stays("newer_flag", |path, _| edit(path, |bytes| set_seal(bytes, 75, 0x80)), "unknown"),
    row("level", |path, _| assert!(std::fs::copy(level_two(path), path).unwrap() > 0), "corrupt", "built"),
];

fn set_seal(bytes: &mut [u8], at: usize, value: u8) {
    let seal = bytes.len() - SEAL;
    bytes[seal + at] = value;
}

/// The artifact of another source in this one's place.
fn other_module(path: &Path, tree: &Tree, donor: &str) {
    let text = path.file_name().unwrap().to_str().unwrap();
    let own = text.split('.').next().unwrap();
    let from = path.with_file_name(text.replacen(own, donor, 1));
    assert!(from.is_file() && tree.root().is_dir());
    let bytes = std::fs::read(from).unwrap();
    edit(path, |own| *own = bytes);
}

fn level_two(path: &Path) -> PathBuf {
    path.with_extension("opt-2.pyc")
}

/// A source whose artifact has more than two pages. The donor has another size, the twin the same.
fn source(value: usize, long: bool) -> String {
    let mut text = format!("VALUE = {value}\nTEXT = [\n");
    for number in 0..900 {
        text.extend(["    'text number ", &format!("{number:05}"), "',\n"]);
    }
    text.push_str(if long { "]\nMORE = 1\n" } else { "]\n" });
    text
}

impl Row {
    /// 2.7 is another matter: its header has no size, so that only the full look tells two sources of one time apart, and its names say
    /// no tag, so that only who compiles for it knows which magic number belongs there.
    fn expected(&self, python: &Python) -> (&'static str, &'static str) {
        match (self.name, python.version.0) {
            ("other_module", 2) => ("silently-stale", "none"),
            ("wrong_magic", 2) => ("unknown", "built"),
            _ => (self.verdict, self.compile),
        }
    }
}

struct Damaged {
    tree: Tree,
    rows: Vec<&'static Row>,
}

impl Damaged {
    /// A tree of one source a row (2.7 has no second level in the plain one's place, and a directory beside a source is the tree's), with `donor` and `twin` beside them.
    fn new(python: &Python) -> Self {
        let rows: Vec<&Row> = ROWS.iter().filter(|row| python.version.0 == 3 || !["level", "directory"].contains(&row.name)).collect();
        let tree = Tree::new();
        std::fs::write(tree.outside("precious"), PRECIOUS).unwrap();
        for (value, row) in rows.iter().enumerate() {
            tree.old_file(format!("{}.py", row.name), source(value + 100, false).as_bytes());
        }
        tree.old_file("donor.py", source(998, true).as_bytes());
        tree.old_file("twin.py", source(999, false).as_bytes());
        Self { tree, rows }
    }

    fn damage(&self, python: &Python, which: impl Fn(&Row) -> bool) {
        for row in self.rows.iter().filter(|row| which(row)) {
            (row.damage)(&self.tree.artifact(format!("{}.py", row.name), python), &self.tree);
        }
    }

    /// The entry of a row's plain artifact.
    fn plain<'o>(&self, outcome: &'o Outcome, python: &Python, row: &Row) -> &'o serde_json::Value {
        let artifact = self.tree.artifact(format!("{}.py", row.name), python);
        outcome.entry(artifact.file_name().unwrap().to_str().unwrap())
    }
}

#[test]
fn each_damage_is_named_and_mended_and_what_is_not_ours_stays() {
    let mut pythons = two_pythons();
    pythons.extend(all_pythons().iter().find(|python| python.version.0 == 2));
    for python in pythons {
        let damaged = Damaged::new(python);
        let (tree, rows) = (&damaged.tree, &damaged.rows);
        let levels = if python.version.0 == 3 { "0,2" } else { "0" };
        let compile = |more: &[&'static str]| {
            let words = ["compile", "--format", "json", "--optimize", levels, "."];
            tree.bytekeep(Some(python), words.into_iter().chain(more.iter().copied())).run()
        };
        compile(&[]).exits(0);
        damaged.damage(python, |_| true);
        let before = whole::all_below(&tree.root());

        let verified = tree.verify().exits(1);
        for row in rows {
            let entry = damaged.plain(&verified, python, row);
            assert_eq!(entry["verdict"], row.expected(python).0, "{} by {}: {entry}", row.name, python.tag);
            assert!(entry["cause"]["text"].as_str().is_some_and(|text| text.len() > 10), "{}: {entry}", row.name);
            assert_eq!(entry["wrong"], !["unsafe", "unknown"].contains(&row.expected(python).0), "{}: {entry}", row.name);
        }
        assert_eq!(verified.entry("good.py")["verdict"], "ok");
        assert_eq!(whole::all_below(&tree.root()), before, "verify writes nothing");
        // For people: each is named on a line of its own.
        let told = tree.bytekeep(None, ["verify", "."]).run().exits(1);
        for row in rows {
            let named = |line: &str| line.starts_with(row.expected(python).0) && line.contains(&format!("{}.", row.name));
            assert!(told.stdout.lines().any(named), "{}: {}", row.name, told.shown());
        }
        tree.bytekeep(None, ["status", "."]).run().exits(1);

        // The quick look finds all that a name, a length and a header can show.
        let compiled = compile(&[]).exits(1);
        for row in rows {
            let entry = damaged.plain(&compiled, python, row);
            assert_eq!(entry["action"], row.expected(python).1, "{} by {}: {entry}", row.name, python.tag);
            assert_eq!(entry["wrong"], row.verdict == "unsafe", "{} by {}: {entry}", row.name, python.tag);
        }
        tree.assert_good(python);
        // The full look finds the rest.
        let repaired = tree.bytekeep(Some(python), ["repair", "--format", "json", "."]).run().exits(1);
        for row in rows.iter().filter(|row| !row.stays) {
            let expected = if row.expected(python).1 == "none" { "built" } else { "none" };
            let entry = damaged.plain(&repaired, python, row);
            assert_eq!(entry["action"], expected, "{} by {}: {entry}", row.name, python.tag);
        }
        let verified = tree.verify().exits(0);
        for (value, row) in rows.iter().enumerate() {
            if row.stays {
                assert_eq!(damaged.plain(&verified, python, row)["verdict"], row.verdict, "{}", row.name);
            } else {
                assert_eq!(damaged.plain(&verified, python, row)["verdict"], "ok", "{}", row.name);
                assert_eq!(tree.import(python, row.name), (value + 100).to_string(), "{}", row.name);
            }
        }
        // What is not a file of ours is exactly what it was; what a link leads to was never written.
        assert!(std::fs::symlink_metadata(tree.artifact("fifo.py", python)).unwrap().file_type().is_fifo());
        assert!(python.version.0 == 2 || tree.artifact("directory.py", python).is_dir());
        assert_eq!(std::fs::read(tree.outside("precious")).unwrap(), PRECIOUS);
        // `clean` takes what is ours and leaves the same.
        tree.bytekeep(None, ["clean", "."]).run();
        for row in rows {
            let there = tree.artifact(format!("{}.py", row.name), python).symlink_metadata().is_ok();
            assert_eq!(there, row.stays, "{} after clean by {}", row.name, python.tag);
        }
        assert_eq!(tree.litter(), [] as [PathBuf; 0]);
    }
}

#[test]
fn without_a_seal_the_quick_look_finds_every_torn_artifact() {
    for python in two_pythons() {
        let damaged = Damaged::new(python);
        let tree = &damaged.tree;
        let mut command = Command::new(&python.path);
        command.args(["-m", "compileall", "-q", "."]);
        tree.dress(&mut command);
        assert!(command.status().unwrap().success());
        let torn =
            ["empty", "magic_only", "header_only", "cut_by_one", "cut_in_seal", "cut_in_two", "at_a_page", "all_zero", "wrong_magic"];
        let more = ["other_module", "sparse", "hard_link", "zeroed"];
        damaged.damage(python, |row| torn.contains(&row.name) || more.contains(&row.name));
        let verified = tree.verify().exits(1);
        let compiled = tree.compile(python).exits(0);
        for row in damaged.rows.iter().filter(|row| torn.contains(&row.name) || more.contains(&row.name)) {
            let verdict = damaged.plain(&verified, python, row)["verdict"].as_str().unwrap();
            assert!(["truncated", "corrupt", "bad-magic", "stale"].contains(&verdict), "{} by {}: {verdict}", row.name, python.tag);
            let entry = damaged.plain(&compiled, python, row);
            assert_eq!(entry["action"], "built", "{} by {}: {entry}", row.name, python.tag);
            tree.import(python, row.name);
        }
        assert_eq!(compiled.entry("flipped.py")["verdict"], "unsealed", "sound ones are left as they are");
        assert_eq!(std::fs::read(tree.outside("precious")).unwrap(), PRECIOUS);
        tree.verify().exits(0);
    }
}

#[test]
fn inspect_neither_hangs_nor_panics_on_any_of_them() {
    let python = python();
    let damaged = Damaged::new(python);
    let tree = &damaged.tree;
    tree.bytekeep(Some(python), ["compile", "--optimize", "0,2", "."]).run().exits(0);
    damaged.damage(python, |_| true);
    for row in &damaged.rows {
        let artifact = tree.artifact(format!("{}.py", row.name), python);
        let outcome = tree.bytekeep(None, ["inspect"]).arg(&artifact).run();
        assert!(matches!(outcome.code, Some(1 | 2)), "{}: {}", row.name, outcome.shown());
        assert!(format!("{}{}", outcome.stdout, outcome.stderr).contains(row.name), "{}: {}", row.name, outcome.shown());
        tree.bytekeep(None, ["inspect", "--format", "json"]).arg(&artifact).run();
    }
}

#[test]
fn an_unknown_seal_is_replaced_only_when_that_is_asked_for() {
    let tree = Tree::new();
    tree.compile(python()).exits(0);
    let artifact = tree.artifact("good.py", python());
    edit(&artifact, |bytes| set_seal(bytes, 72, 2));
    let before = std::fs::read(&artifact).unwrap();
    for _ in 0..2 {
        let outcome = tree.compile(python()).exits(0);
        outcome.is("good.py", "unknown", "none");
        assert_eq!(outcome.entry("good.py")["cause"]["code"], "newer-seal");
    }
    tree.bytekeep(Some(python()), ["repair", "."]).run().exits(0);
    assert_eq!(std::fs::read(&artifact).unwrap(), before);
    tree.bytekeep(Some(python()), ["compile", "--force", "."]).run().exits(0);
    assert_eq!(tree.verify().exits(0).verdicts("ok"), 1);
}

#[test]
fn an_artifact_that_may_not_be_read_is_named() {
    let tree = Tree::new();
    tree.file("closed.py", b"VALUE = 1\n");
    let python = if is_root() { python_for_all() } else { Some(python()) };
    let Some(python) = python else { return };
    let run = |words: &[&'static str], interpreter: bool| {
        let run = tree.bytekeep(interpreter.then_some(python), words.iter().copied());
        if is_root() { run.by_nobody().run() } else { run.run() }
    };
    tree.open_to_all();
    if is_root() {
        must("chown", &["-R".as_ref(), "65534:65534".as_ref(), tree.root().as_os_str(), tree.home().as_os_str()]);
    }
    run(&["compile", "."], true).exits(0);
    std::fs::remove_file(tree.artifact("good.py", python)).unwrap();
    let artifact = tree.artifact("closed.py", python);
    std::fs::set_permissions(&artifact, std::fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = run(&["compile", "--format", "json", "."], true).exits(1);
    outcome.is("good.py", "missing", "built").is("closed.py", "unreadable", "none");
    outcome.fails("closed.py", "permission", &["closed", "Permission denied"]);
    tree.assert_good(python);
    let outcome = run(&["verify", "--format", "json", "."], false).exits(1);
    outcome.is("closed.py", "unreadable", "none");
    let outcome = run(&["compile", "."], true).exits(1);
    assert!(outcome.stderr.contains("closed") && outcome.stderr.contains("Permission denied"), "{}", outcome.shown());
    // Root reads it all the same, and so may mend it.
    if root_or_skip("an artifact that only root can read") {
        tree.verify().exits(0);
        std::fs::write(&artifact, b"").unwrap();
        tree.bytekeep(Some(python), ["repair", "."]).run().exits(0);
        assert_eq!(std::fs::metadata(&artifact).unwrap().uid(), 65534, "root writes for another");
        run(&["verify", "."], false).exits(0);
    }
}

/// What is too large to be held as a whole is judged as everything else.
#[test]
fn large_artifacts_are_judged_by_every_byte_too() {
    type Change<'c> = &'c dyn Fn(&mut Vec<u8>);
    let tree = Tree::new();
    tree.old_file("large.py", format!("VALUE = '{}'\n", "x".repeat(6 << 20)).as_bytes());
    tree.compile(python()).exits(0);
    let artifact = tree.artifact("large.py", python());
    let whole = std::fs::read(&artifact).unwrap();
    assert!(whole.len() > 6 << 20);
    let end = whole.len();
    let rows: [(&str, Change<'_>); 8] = [
        ("ok", &|_| {}),
        ("corrupt", &|bytes| bytes[3 << 20] ^= 1),
        ("corrupt", &|bytes| bytes[end - SEAL - 1] ^= 1),
        ("truncated", &|bytes| bytes.truncate(5 << 20)),
        ("truncated", &|bytes| bytes.truncate(end - 1)),
        ("unsealed", &|bytes| bytes.truncate(end - SEAL)),
        ("bad-magic", &|bytes| bytes[..SEAL].fill(0)),
        ("unknown", &|bytes| set_seal(bytes, 72, 2)),
    ];
    for (verdict, change) in rows {
        std::fs::write(&artifact, &whole).unwrap();
        edit(&artifact, change);
        let outcome = tree.verify();
        outcome.is("large.py", verdict, "none");
    }
}

/// Python 2.7 fills an artifact in place and writes its magic number last: where that was cut short nothing says whose artifact it is but
/// its name, and `repair` removed what it was told how to make.
#[test]
fn what_an_old_writer_left_half_is_rebuilt_by_the_interpreter_that_is_named() {
    for python in all_pythons().iter().filter(|python| python.version.0 == 2 && !python.pypy) {
        let tree = Tree::new();
        tree.compile(python).exits(0);
        let whole = std::fs::read(tree.path("good.pyc")).unwrap();
        for half in [Vec::new(), [&[0; 4], &whole[4..whole.len() / 2]].concat()] {
            tree.file("good.pyc", &half);
            tree.verify().exits(1);
            let outcome = tree.bytekeep(Some(python), ["repair", "--format", "json", "."]).run().exits(0);
            assert_eq!((outcome.actions("built"), outcome.actions("removed")), (1, 0), "{}", outcome.shown());
            assert_eq!(tree.verify().exits(0).verdicts("ok"), 1);
        }
    }
}
