//! Artifacts that several trees share: one file for all of them, or one file's blocks.

#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "tests write files of their own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::Python;
use whole::{Outcome, Tree, all_below, all_pythons, aloud, may, must, python, root_or_skip, set_mtime, tool_or_skip, two_pythons};

/// Says where its own code says it is from.
const SOURCE: &str = "import sys\nVALUE = (lambda: sys._getframe().f_code.co_filename)()\n";
const OLD: i64 = 1_500_000_000;

fn tree() -> Tree {
    let tree = Tree::new();
    tree.old_file("m.py", SOURCE.as_bytes());
    tree.old_file("pkg/__init__.py", b"VALUE = 7\n");
    set_mtime(&tree.path("good.py"), OLD);
    tree
}

/// Their names, and the number of them.
const SOURCES: [&str; 3] = ["good.py", "m.py", "pkg/__init__.py"];

/// A store beside trees, and how they use it.
struct Place {
    top: tempfile::TempDir,
    how: &'static str,
}

impl Place {
    fn new(how: &'static str) -> Self {
        Self { top: tempfile::tempdir().unwrap(), how }
    }

    fn store(&self) -> PathBuf {
        self.top.path().join("store")
    }

    fn run(&self, tree: &Tree, python: &Python, command: &str, args: &[&str]) -> whole::Run {
        let words = [command, "--format", "json", "-v", "--link-mode", self.how].into_iter().chain(args.iter().copied());
        tree.bytekeep(Some(python), words).env("BYTEKEEP_STORE", self.store())
    }

    fn compile(&self, tree: &Tree, python: &Python, args: &[&str]) -> Outcome {
        self.run(tree, python, "compile", args).arg(".").run().exits(0)
    }

    /// A tree that is compiled.
    fn compiled(&self, python: &Python) -> Tree {
        let tree = tree();
        self.compile(&tree, python, &[]);
        tree
    }

    /// The shared artifacts.
    fn links(&self) -> Vec<PathBuf> {
        all_below(&self.store().join("store-1/links")).into_iter().filter(|path| path.file_name().unwrap().len() == 64).collect()
    }
}

fn linked(outcome: &Outcome) -> u64 {
    outcome.summary()["store"]["linked"].as_u64().unwrap()
}

fn stat(tree: &Tree, source: &str, python: &Python) -> Metadata {
    std::fs::symlink_metadata(tree.artifact(source, python)).unwrap()
}

fn is_shared(one: &Tree, other: &Tree, source: &str, python: &Python) -> bool {
    stat(one, source, python).ino() == stat(other, source, python).ino()
}

/// All that is to be seen of an artifact, but how many names it has.
fn seen(tree: &Tree, source: &str, python: &Python) -> (Vec<u8>, u64, i64, i64, u32) {
    let stat = stat(tree, source, python);
    (std::fs::read(tree.artifact(source, python)).unwrap(), stat.ino(), stat.mtime(), stat.mtime_nsec(), stat.mode())
}

#[test]
fn each_tree_has_the_same_files_and_each_interpreter_imports_them() {
    for python in all_pythons() {
        for durability in ["none", "batch", "full"] {
            let place = Place::new("hardlink");
            let trees = [tree(), tree(), tree()];
            for (number, tree) in trees.iter().enumerate() {
                let outcome = place.compile(tree, python, &["--durability", durability]);
                assert_eq!(linked(&outcome), if number == 0 || python.version.0 == 2 { 0 } else { 3 }, "{}", outcome.shown());
                assert_eq!(outcome.stderr.contains("copied"), python.version.0 == 2, "{}", outcome.shown());
            }
            for (number, tree) in trees.iter().enumerate() {
                for source in SOURCES {
                    let before = seen(tree, source, python);
                    let module = source.trim_end_matches("/__init__.py").trim_end_matches(".py");
                    let value = if source.starts_with("pkg") { String::new() } else { tree.import(python, module) };
                    assert!(source != "m.py" || value.ends_with("/m.py") || value == "./m.py", "its code says it is from {value}");
                    assert_eq!(seen(tree, source, python), before, "importing changed it");
                    // 2.7's own tools would write into all of them.
                    assert_eq!(is_shared(&trees[0], tree, source, python), python.version.0 == 3 || number == 0);
                    let names = stat(tree, source, python).nlink();
                    assert_eq!(names, if python.version.0 == 2 { 1 } else { 4 }, "one in each tree and one in the store");
                }
                tree.verify().exits(0);
                tree.bytekeep(Some(python), ["compile", "--format", "json", "."]).run().exits(0);
                assert!(is_shared(&trees[0], tree, "m.py", python) || python.version.0 == 2, "the quick look found something to do");
                assert_eq!(tree.litter(), Vec::<PathBuf>::new());
            }
        }
    }
}

/// What the placeholder is good for: who runs the file by its path sees the module's name, and no line of a file of that name.
#[test]
fn who_runs_an_artifact_by_its_path_sees_the_name_of_its_module() {
    for python in two_pythons() {
        let place = Place::new("hardlink");
        let tree = tree();
        tree.old_file("bad.py", b"def f():\n    raise ValueError('seen')\nf()\n");
        place.compile(&tree, python, &[]);
        let mut command = Command::new(&python.path);
        command.arg(tree.artifact("bad.py", python));
        tree.dress(&mut command);
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(said.contains("File \"<bad.py>\", line 2, in f") && said.contains("ValueError: seen"), "{said}");
        // Imported, it says where its source is.
        let mut command = Command::new(&python.path);
        command.args(["-B", "-c", "import bad"]);
        tree.dress(&mut command);
        let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
        assert!(said.contains("bad.py\", line 2, in f") && said.contains("raise ValueError") && !said.contains("<bad"), "{said}");
    }
}

#[test]
fn only_the_very_same_is_shared() {
    let python = python();
    let place = Place::new("hardlink");
    let first = place.compiled(python);
    // Another time stands in the header, other permission bits belong to the file.
    let other = tree();
    set_mtime(&other.path("m.py"), OLD + 1);
    std::fs::set_permissions(other.path("good.py"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(linked(&place.compile(&other, python, &[])), 1);
    assert!(!is_shared(&first, &other, "m.py", python) && !is_shared(&first, &other, "good.py", python));
    assert_eq!(stat(&other, "good.py", python).mode() & 0o777, 0o600);
    // A header with a hash is the same whatever the time.
    let hashed = [tree(), tree()];
    set_mtime(&hashed[1].path("m.py"), OLD + 1);
    let mode = ["--invalidation-mode", "unchecked-hash"];
    assert_eq!(hashed.iter().map(|tree| linked(&place.compile(tree, python, &mode))).collect::<Vec<_>>(), [0, 3]);
    assert!(is_shared(&hashed[0], &hashed[1], "m.py", python));
    // Each level is another artifact.
    let level = tree();
    assert_eq!(linked(&place.compile(&level, python, &["-O", "0,2"])), 3);
    for tree in [&first, &other, &hashed[0], &hashed[1], &level] {
        tree.verify().exits(0);
    }
}

#[test]
fn what_nobody_flushed_is_not_linked_by_who_promises_it() {
    let python = python();
    let place = Place::new("hardlink");
    let trees = [tree(), tree(), tree(), tree()];
    let durabilities = ["none", "batch", "full", "none"];
    let linked: Vec<u64> =
        trees.iter().zip(durabilities).map(|(tree, how)| linked(&place.compile(tree, python, &["--durability", how]))).collect();
    assert_eq!(linked, [0, 0, 3, 3]);
    assert!(is_shared(&trees[1], &trees[2], "m.py", python) && is_shared(&trees[1], &trees[3], "m.py", python));
    assert!(!is_shared(&trees[0], &trees[1], "m.py", python));
}

#[test]
fn another_umask_never_gets_what_is_too_open() {
    let python = python();
    let place = Place::new("hardlink");
    for (umask, mode) in [("022", 0o644), ("077", 0o600), ("002", 0o644)] {
        let trees = [tree(), tree()];
        for tree in &trees {
            place.run(tree, python, "compile", &["."]).by_shell(&format!("umask {umask}; exec \"$@\"")).run().exits(0);
            assert_eq!(stat(tree, "m.py", python).mode() & 0o777, mode, "umask {umask}");
        }
        assert!(is_shared(&trees[0], &trees[1], "m.py", python), "umask {umask}");
    }
}

/// What one tree's artifacts suffer in place, all suffer; it is found in all, and each is mended without the others.
#[test]
fn damage_is_found_in_each_tree_and_mended_in_each() {
    let python = python();
    let place = Place::new("hardlink");
    let trees = [place.compiled(python), place.compiled(python), place.compiled(python)];
    let path = trees[0].artifact("m.py", python);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let damaged = seen(&trees[0], "m.py", python);
    let fresh = trees.each_ref().map(|tree| {
        assert_eq!(seen(tree, "m.py", python), damaged);
        tree.verify().exits(1).is("m.py", "corrupt", "none");
        place.run(tree, python, "repair", &["."]).run().exits(0).is("m.py", "corrupt", "built");
        tree.verify().exits(0);
        for later in trees.iter().skip_while(|other| !std::ptr::eq(*other, tree)).skip(1) {
            assert_eq!(seen(later, "m.py", python), damaged, "repairing one tree changed another");
        }
        seen(tree, "m.py", python)
    });
    assert!(fresh.iter().all(|one| *one == fresh[0] && one.1 != damaged.1), "what was mended is shared again");
    // What is bad in the store goes nowhere.
    let all = place.links();
    assert_eq!(all.len(), 3);
    for path in &all {
        let whole = std::fs::read(path).unwrap();
        // As another file: the trees keep theirs.
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, &whole[..whole.len() - 1]).unwrap();
    }
    let tree = tree();
    let outcome = place.compile(&tree, python, &[]);
    assert_eq!(linked(&outcome), 0);
    assert!(all.iter().all(|path| outcome.stderr.contains(path.to_str().unwrap())), "{}", outcome.shown());
    tree.verify().exits(0);
    assert_eq!(linked(&place.compile(&self::tree(), python, &[])), 3);
}

/// What rots on the disk keeps its size and times, so the memory of what was proved knows nothing of it.
#[test]
fn what_rotted_is_not_mended_with_itself() {
    let python = python();
    let place = Place::new("hardlink");
    let trees = [place.compiled(python), place.compiled(python)];
    let path = trees[0].artifact("m.py", python);
    // Proved so long ago that it is remembered.
    let made = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    std::fs::File::options().append(true).open(&path).unwrap().set_modified(made).unwrap();
    for tree in &trees {
        tree.verify().exits(1).is("m.py", "corrupt", "none");
        place.run(tree, python, "repair", &["."]).run().exits(0).is("m.py", "corrupt", "built");
        tree.verify().exits(0);
    }
    assert!(is_shared(&trees[0], &trees[1], "m.py", python), "what was mended is shared again");
    place.compiled(python).verify().exits(0);
}

/// What trees share is in the store's books too.
#[test]
fn the_store_tells_of_what_trees_share_and_proves_it() {
    let python = python();
    let place = Place::new("hardlink");
    let trees = [place.compiled(python), place.compiled(python)];
    let store = |words: &[&str]| {
        let words = ["store"].into_iter().chain(words.iter().copied()).chain(["--format", "json"]);
        trees[0].bytekeep(None, words).env("BYTEKEEP_STORE", place.store()).run()
    };
    let stats = store(&["stats"]).exits(0);
    let line = stats.lines.last().unwrap();
    let bytes: u64 = place.links().iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!((line["shared"].as_u64(), line["shared_bytes"].as_u64()), (Some(3), Some(bytes)), "{line}");
    assert_eq!((line["used"]["hits"].as_u64(), line["used"]["linked"].as_u64()), (Some(3), Some(3)), "{line}");
    assert!(line["used"]["saved_seconds"].as_f64().unwrap() > 0.0, "{line}");
    assert_eq!(store(&["verify"]).exits(0).lines.last().unwrap()["shared"], 3);
    let path = trees[1].artifact("m.py", python);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let outcome = store(&["verify"]).exits(1);
    let bad = outcome.lines.iter().find(|line| line["kind"] == "value").unwrap();
    assert!(bad["cause"]["text"].as_str().unwrap().contains("each tree that has it"), "{bad}");
    assert_eq!(store(&["verify", "--remove-bad"]).exits(0).lines.last().unwrap()["removed"], 1);
    assert_eq!((place.links().len(), std::fs::read(&path).unwrap()), (2, bytes), "trees keep what they have");
    let human = trees[0].bytekeep(None, ["store", "verify"]).env("BYTEKEEP_STORE", place.store()).run().exits(0);
    assert!(human.stderr.contains("3 values and 2 artifacts that trees share"), "{}", human.shown());
}

/// Whoever changes an artifact of one tree gives that tree another file.
#[test]
fn what_is_done_in_one_tree_no_other_sees() {
    type Deed = fn(&Place, &Tree, &Python);
    let deeds: [(&str, Deed); 8] = [
        ("clean", |_, tree, _| drop(tree.bytekeep(None, ["clean", "."]).run().exits(0))),
        ("restamp", |place, tree, python| {
            set_mtime(&tree.path("m.py"), OLD + 5);
            assert_eq!(place.compile(tree, python, &[]).actions("restamped"), 1);
        }),
        ("another mode", |place, tree, python| {
            assert_eq!(place.compile(tree, python, &["--invalidation-mode", "checked-hash"]).actions("restamped"), 3);
        }),
        ("an edit", |place, tree, python| {
            tree.file("m.py", SOURCE.replace("sys", "SYS").replace("import SYS", "import sys as SYS").as_bytes());
            assert_eq!(place.compile(tree, python, &[]).actions("built"), 1);
        }),
        ("force", |place, tree, python| drop(place.compile(tree, python, &["--force"]))),
        ("force without a store", |_, tree, python| {
            tree.bytekeep(Some(python), ["compile", "--force", "--no-store", "."]).run().exits(0);
        }),
        ("repair", |place, tree, python| {
            let path = tree.artifact("m.py", python);
            let whole = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, &whole[..40]).unwrap();
            place.run(tree, python, "repair", &["."]).run().exits(0);
        }),
        ("the interpreter", |_, tree, python| {
            tree.file("m.py", b"VALUE = 1\n");
            let mut command = Command::new(&python.path);
            command.args(["-c", "import m"]);
            tree.dress(&mut command);
            assert!(command.status().unwrap().success());
        }),
    ];
    for python in two_pythons() {
        for (name, deed) in deeds {
            if name == "another mode" && python.version < (3, 7) {
                continue;
            }
            let place = Place::new("hardlink");
            let (one, other) = (place.compiled(python), place.compiled(python));
            let before = SOURCES.map(|source| seen(&other, source, python));
            assert!(is_shared(&one, &other, "m.py", python));
            deed(&place, &one, python);
            assert_eq!(SOURCES.map(|source| seen(&other, source, python)), before, "{name}");
            other.verify().exits(0);
            assert_eq!(one.litter(), Vec::<PathBuf>::new(), "{name}");
        }
    }
}

/// An edit that neither second nor size of the header shows is found by the artifact's own time, which all trees share.
#[test]
fn an_edit_in_the_racy_seconds_shows_in_the_tree_where_it_was_made() {
    let python = python();
    let place = Place::new("hardlink");
    let trees = [tree(), tree()];
    // Later than any artifact that is made now.
    let time = 4_000_000_000;
    for tree in &trees {
        set_mtime(&tree.path("good.py"), time);
        place.compile(tree, python, &[]);
    }
    assert!(is_shared(&trees[0], &trees[1], "good.py", python));
    trees[1].file("good.py", b"VALUE = 43\n");
    set_mtime(&trees[1].path("good.py"), time);
    let before = seen(&trees[0], "good.py", python);
    assert_eq!(place.compile(&trees[1], python, &[]).actions("built"), 1);
    assert_eq!(trees[1].import(python, "good"), "43");
    assert_eq!((seen(&trees[0], "good.py", python), trees[0].import(python, "good")), (before, "42".to_owned()));
}

#[test]
fn an_artifact_from_a_later_time_is_not_linked_and_one_from_the_racy_seconds_is_made_anew_once() {
    let python = python();
    for own in [4_000_000_000, OLD + 1, OLD - 100] {
        let place = Place::new("hardlink");
        let first = place.compiled(python);
        // In all its places.
        set_mtime(&first.artifact("m.py", python), own);
        let outcome = place.compile(&tree(), python, &[]);
        assert_eq!(linked(&outcome), 2, "{own}: {}", outcome.shown());
        let third = tree();
        assert_eq!(linked(&place.compile(&third, python, &[])), 3, "{own}");
        assert!(!is_shared(&first, &third, "m.py", python));
        assert_eq!(stat(&first, "m.py", python).mtime(), own, "what others have is not touched");
        assert!(stat(&third, "m.py", python).mtime() > OLD + 100);
    }
}

#[test]
fn what_cannot_be_shared_is_copied_with_its_own_name_and_that_is_said_once() {
    let python = python();
    let copied = |outcome: &Outcome, tree: &Tree, why: &str| {
        assert_eq!(linked(outcome), 0, "{}", outcome.shown());
        assert_eq!(outcome.stderr.matches("are not shared but copied").count(), 1, "{}", outcome.shown());
        assert!(outcome.stderr.contains(why), "{why}: {}", outcome.shown());
        assert_eq!(stat(tree, "m.py", python).nlink(), 1);
        let bytes = std::fs::read(tree.artifact("m.py", python)).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"<m.py>"), "{why}");
        tree.verify().exits(0);
    };
    let place = Place::new("hardlink");
    place.compiled(python);
    let stripped = tree();
    copied(&place.compile(&stripped, python, &["--prepend-dir", "/usr"]), &stripped, "--prepend-dir");
    let of_a_group = tree();
    std::fs::set_permissions(of_a_group.root(), PermissionsExt::from_mode(0o2775)).unwrap();
    let outcome = place.run(&of_a_group, python, "compile", &["good.py", "m.py"]).run().exits(0);
    copied(&outcome, &of_a_group, "owner or group");
    let without = tree();
    let outcome = place.run(&without, python, "compile", &["--no-store", "."]).run().exits(0);
    assert!(outcome.stderr.contains("there is no store"), "{}", outcome.shown());
    assert_eq!(stat(&without, "m.py", python).nlink(), 1);
    // Another file system, and none that can share blocks.
    let shm = tempfile::tempdir_in("/dev/shm")
        .ok()
        .filter(|dir| std::fs::metadata(dir.path()).unwrap().dev() != std::fs::metadata(place.top.path()).unwrap().dev());
    let Some(shm) = shm else { return aloud("SKIP a store on another file system: /dev/shm is none") };
    for how in ["hardlink", "clone"] {
        let tree = tree();
        let run = tree.bytekeep(Some(python), ["compile", "-v", "--format", "json", "--link-mode", how, "."]);
        copied(&run.env("BYTEKEEP_STORE", shm.path().join("store")).run().exits(0), &tree, "--store");
    }
}

/// Root's own artifacts in another user's tree would be root's.
#[test]
fn root_gives_no_links_to_others() {
    if !root_or_skip("links into another user's tree") {
        return;
    }
    let python = python();
    let place = Place::new("hardlink");
    place.compiled(python);
    let theirs = tree();
    must("chown", &["-R", "65534:65534", theirs.root().to_str().unwrap()]);
    let outcome = place.compile(&theirs, python, &[]);
    assert!(linked(&outcome) == 0 && outcome.stderr.contains("another owner"), "{}", outcome.shown());
    assert_eq!((stat(&theirs, "m.py", python).uid(), stat(&theirs, "m.py", python).nlink()), (65534, 1));
}

/// So many lines that make a source of some size.
fn words(number: usize, text: &str) -> String {
    let lines: Vec<String> = (0..number).map(|word| format!("W{word} = '{text} {word}'\n")).collect();
    lines.concat()
}

fn usage(paths: &[PathBuf]) -> u64 {
    let done = Command::new("du").arg("-sck").args(paths).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Environments as `uv` and `cp -al` make them: the sources are hard links of each other.
#[test]
fn ten_trees_cost_the_disk_of_one() {
    let python = python();
    let place = Place::new("hardlink");
    let trees = Tree::new();
    for number in 0..40 {
        let words = words(3000, &format!("number {number}"));
        trees.old_file(format!("one/p{}/m{number}.py", number % 4), words.as_bytes());
    }
    for copy in 1..10 {
        must("cp", &["-al", trees.path("one").to_str().unwrap(), trees.path(format!("copy{copy}")).to_str().unwrap()]);
    }
    assert_eq!(linked(&place.run(&trees, python, "compile", &["one"]).run().exits(0)), 0);
    let one = usage(&[trees.path("one")]);
    let outcome = place.compile(&trees, python, &[]);
    assert_eq!((linked(&outcome), outcome.verdicts("ok")), (9 * 40, 40), "{}", outcome.shown());
    let all = usage(&[trees.root()]);
    assert!(all * 10 <= one * 11, "one has {one} KiB, ten have {all}");
    trees.verify().exits(0);
    // And the store beside them costs no more than the values in it.
    assert_eq!(place.links().iter().filter(|path| std::fs::metadata(path).unwrap().nlink() == 11).count(), 40);
}

const WHEEL: &str = "
import sys, zipfile
info = 'words-1.0.dist-info/'
files = {'words/__init__.py': 'VALUE = 1\\n', 'words/more.py': 'VALUE = [%s]\\n' % ', '.join(map(str, range(4000)))}
meta = {info + 'METADATA': 'Metadata-Version: 2.1\\nName: words\\nVersion: 1.0\\n',
    info + 'WHEEL': 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'}
record = ''.join('%s,,\\n' % name for name in list(files) + list(meta) + [info + 'RECORD'])
with zipfile.ZipFile(sys.argv[1], 'w') as wheel:
    for name, text in dict(files, **dict(meta, **{info + 'RECORD': record})).items():
        wheel.writestr(name, text)
";

/// The layout that uv itself makes: files in its cache, hard-linked into each environment.
#[test]
fn environments_of_uv_share_their_artifacts() {
    if !tool_or_skip("uv") {
        return;
    }
    let python = python();
    let place = Place::new("hardlink");
    let tree = Tree::new();
    let wheel = tree.outside("words-1.0-py3-none-any.whl");
    assert!(python.command().args(["-c", WHEEL]).arg(&wheel).status().unwrap().success());
    let uv = |args: &[&str]| {
        let mut command = Command::new("uv");
        command.args(args);
        tree.dress(&mut command);
        command.env("UV_CACHE_DIR", place.top.path().join("uv")).env("UV_OFFLINE", "1");
        let done = command.output().unwrap();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let artifacts = ["a", "b"].map(|name| {
        uv(&["venv", "-q", "--python", python.path.to_str().unwrap(), name]);
        let own = tree.path(name).join("bin/python");
        let to = ["--python", own.to_str().unwrap(), wheel.to_str().unwrap()];
        uv(&[&["pip", "install", "-q", "--link-mode", "hardlink"], &to[..]].concat());
        let outcome = tree.bytekeep(None, ["compile", "--format", "json", name]).env("BYTEKEEP_STORE", place.store());
        let outcome = outcome.env("BYTEKEEP_LINK_MODE", "hardlink").run().exits(0);
        let more = tree.path(name).join(format!("lib/python{}.{}/site-packages/words", python.version.0, python.version.1));
        assert!(std::fs::metadata(more.join("more.py")).unwrap().nlink() > 1, "uv made no links");
        assert!(linked(&outcome) >= if name == "a" { 0 } else { 2 }, "{}", outcome.shown());
        tree.bytekeep(None, ["verify", name]).run().exits(0);
        std::fs::metadata(more.join(format!("__pycache__/more.{}.pyc", python.tag))).unwrap().ino()
    });
    assert_eq!(artifacts[0], artifacts[1]);
}

/// Several processes make the same at one time.
#[test]
fn many_at_once_share_what_is_whole() {
    let python = python();
    for how in ["hardlink", "clone"] {
        let place = Place::new(how);
        let trees: Vec<Tree> = (0..6).map(|_| tree()).collect();
        let running: Vec<_> = trees.iter().map(|tree| place.run(tree, python, "compile", &["."]).start()).collect();
        for run in running {
            run.wait().exits(0);
        }
        // All wanted the same file, and each made or found it: at most a few met another's that was begun later.
        let own = trees.iter().filter(|tree| stat(tree, "m.py", python).nlink() == 1).count();
        assert!(how == "clone" || own < trees.len() - 1, "{own} of {} have a file of their own", trees.len());
        for tree in &trees {
            tree.verify().exits(0);
            assert_eq!(tree.import(python, "good"), "42");
            assert_eq!(tree.litter(), Vec::<PathBuf>::new());
        }
        let left = all_below(&place.store()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "tmp"));
        assert_eq!(left.collect::<Vec<_>>(), Vec::<PathBuf>::new());
    }
}

/// A file system in a file, for as long as the test needs it.
struct Mounted {
    top: tempfile::TempDir,
}

impl Mounted {
    fn new(mkfs: &[&str], options: &str) -> Option<Self> {
        if !root_or_skip(mkfs[0]) || !tool_or_skip(mkfs[0]) {
            return None;
        }
        let mounted = Self { top: tempfile::tempdir().unwrap() };
        let image = mounted.top.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        must(mkfs[0], &[&mkfs[1..], &[image.to_str().unwrap()]].concat());
        std::fs::create_dir(mounted.path()).unwrap();
        may("mount", &["-o", options, image.to_str().unwrap(), mounted.path().to_str().unwrap()]).then_some(mounted)
    }

    fn path(&self) -> PathBuf {
        self.top.path().join("mounted")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(self.path()).output());
    }
}

/// Does a file share blocks with another one?
fn shares_blocks(path: &Path) -> bool {
    let done = Command::new("filefrag").args(["-v", path.to_str().unwrap()]).output().unwrap();
    String::from_utf8(done.stdout).unwrap().contains("shared")
}

#[test]
fn clones_share_their_blocks_and_nothing_else() {
    for (mkfs, options) in [(&["mkfs.btrfs", "-q"][..], "loop"), (&["mkfs.xfs", "-q", "-m", "reflink=1"], "loop,nouuid")] {
        let Some(mounted) = Mounted::new(mkfs, options) else { continue };
        for (python, hashed) in all_pythons().iter().flat_map(|python| [(python, false), (python, true)]) {
            if hashed && (python.version < (3, 7) || !std::ptr::eq(python, self::python())) {
                continue;
            }
            let top = tempfile::tempdir_in(mounted.path()).unwrap();
            let runner = Tree::new();
            let words = words(4000, "words");
            let trees = ["a", "b", "c"].map(|name| top.path().join(name));
            let artifact = |tree: &Path| match python.version.0 {
                2 => tree.join("m.pyc"),
                _ => tree.join(format!("__pycache__/m.{}.pyc", python.tag)),
            };
            for (number, tree) in trees.iter().enumerate() {
                std::fs::create_dir(tree).unwrap();
                std::fs::write(tree.join("m.py"), &words).unwrap();
                set_mtime(&tree.join("m.py"), if hashed { OLD + i64::try_from(number).unwrap() } else { OLD });
                let mode = if hashed { "checked-hash" } else { "timestamp" };
                let args = ["compile", "-v", "--format", "json", "--link-mode", "clone", "--invalidation-mode", mode];
                let run = runner.bytekeep(Some(python), args).env("BYTEKEEP_STORE", top.path().join("store"));
                let outcome = run.arg(tree).run().exits(0);
                assert_eq!(linked(&outcome), u64::from(number > 0), "{} {}", python.tag, outcome.shown());
                assert_eq!(std::fs::metadata(artifact(tree)).unwrap().nlink(), 1);
                assert!(shares_blocks(&artifact(tree)), "{} on {}: {}", python.tag, mkfs[0], outcome.shown());
                let mut command = python.command();
                command.args(["-v", "-B", "-S", "-c", "import m; assert m.W3999 == 'words 3999'"]).current_dir(tree);
                let said = command.output().unwrap();
                let text = String::from_utf8_lossy(&said.stderr);
                assert!(said.status.success() && text.contains("m.") && text.contains(".pyc"), "{} {text}", python.tag);
            }
            // Who writes in place into one changes that one alone.
            let good = std::fs::read(artifact(&trees[1])).unwrap();
            std::fs::write(artifact(&trees[0]), b"torn").unwrap();
            assert_eq!(std::fs::read(artifact(&trees[1])).unwrap(), good);
            let verify = |tree: &Path| runner.bytekeep(None, ["verify", tree.to_str().unwrap()]).run();
            verify(&trees[0]).exits(1);
            verify(&trees[1]).exits(0);
        }
        aloud(&format!("clones on {}", mkfs[0]));
    }
}

/// A file has so many names and no more: on ext4 65,000.
#[test]
fn a_file_with_all_the_names_that_it_can_have_is_followed_by_another() {
    let Some(mounted) = Mounted::new(&["mkfs.ext4", "-q", "-N", "20000"], "loop") else { return };
    let python = python();
    let runner = Tree::new();
    let compile = |name: &str| {
        let tree = mounted.path().join(name);
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("m.py"), SOURCE).unwrap();
        set_mtime(&tree.join("m.py"), OLD);
        let run = runner.bytekeep(Some(python), ["compile", "-v", "--format", "json", "--link-mode", "hardlink"]);
        let outcome = run.env("BYTEKEEP_STORE", mounted.path().join("store")).arg(&tree).run().exits(0);
        (linked(&outcome), tree.join(format!("__pycache__/m.{}.pyc", python.tag)))
    };
    let (_, first) = compile("first");
    let names = mounted.path().join("names");
    std::fs::create_dir(&names).unwrap();
    let mut number = 0;
    while std::fs::hard_link(&first, names.join(number.to_string())).is_ok() {
        number += 1;
    }
    assert!(number > 1000, "no link could be made");
    let (linked, second) = compile("second");
    assert_eq!(linked, 0);
    let (linked, third) = compile("third");
    assert_eq!((linked, std::fs::metadata(third).unwrap().ino()), (1, std::fs::metadata(second).unwrap().ino()));
}

/// Killed before one of its system calls, or with one of them failing, a run leaves each tree whole, and the next one mends the rest. Every
/// thirteenth call is tried: `faults` tries all of what this is built of.
#[cfg(feature = "fault")]
#[test]
fn a_run_that_dies_or_fails_at_any_call_leaves_all_trees_whole() {
    let python = python();
    for is_warm in [false, true] {
        let mut calls = 0;
        for fault in ["kill:N", "fail:N:5", "fail:N:18"] {
            let place = Place::new("hardlink");
            let first = place.compiled(python);
            let before = SOURCES.map(|source| seen(&first, source, python));
            for number in (0..).step_by(13) {
                let like = |content: &str| {
                    let tree = tree();
                    tree.old_file("m.py", content.as_bytes());
                    tree
                };
                let content = if is_warm { SOURCE.to_owned() } else { format!("{SOURCE}# {number}\n") };
                let (tree, then, last) = (like(&content), like(&content), like(&content));
                let run = place.run(&tree, python, "compile", &["-j", "1", "."]);
                let outcome = run.env("BYTEKEEP_FAULT", fault.replace('N', &number.to_string())).run();
                assert_eq!(SOURCES.map(|source| seen(&first, source, python)), before, "{fault} {number}");
                tree.verify().exits(0);
                for (turn, tree) in [&tree, &then, &last].into_iter().enumerate() {
                    let again = place.compile(tree, python, &[]);
                    assert!(turn < 2 || linked(&again) == 3, "{fault} {number}: {}", again.shown());
                    tree.verify().exits(0);
                }
                assert_eq!(tree.litter(), Vec::<PathBuf>::new(), "{fault} {number}: {}", outcome.shown());
                if fault.starts_with("kill") && outcome.code == Some(0) {
                    calls = number;
                }
                if number >= calls && calls > 0 {
                    break;
                }
            }
            aloud(&format!("{fault}, warm: {is_warm}: {calls} calls"));
        }
    }
}
