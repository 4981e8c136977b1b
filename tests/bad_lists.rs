//! Bad lists and records: what they name leads out of the tree, is not there, or cannot be read. The whole command, with real interpreters.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use whole::{Outcome, Tree, all_below, may, must, python, python_for_all, root_or_skip};

const SITE: &str = "env/lib/python3.13/site-packages";

/// A distribution of the environment `env` with these sources, all of them there.
fn distribution(tree: &Tree, name: &str, sources: &[&str]) {
    for source in sources {
        tree.file(format!("{SITE}/{source}"), b"VALUE = 1\n");
    }
    record(tree, name, format!("{},,\n", sources.join(",,\n")).as_bytes());
}

fn record(tree: &Tree, name: &str, rows: &[u8]) -> PathBuf {
    tree.file(format!("{SITE}/{name}.dist-info/RECORD"), rows)
}

/// An interpreter that does something before it starts, which is after lists and records were read.
fn meanwhile(tree: &Tree, script: &str) -> String {
    let exec = format!("#!/bin/sh\ncd '{}'\n{script}\nexec '{}' \"$@\"\n", tree.root().display(), python().path.display());
    tree.script("meanwhile", &exec)
}

fn compile<'a>(tree: &Tree, words: impl IntoIterator<Item = &'a str>) -> Outcome {
    tree.bytekeep(Some(python()), ["compile", "--format", "json"].into_iter().chain(words)).run()
}

fn notes(outcome: &Outcome) -> Vec<&str> {
    outcome.lines.iter().filter(|line| line["kind"] == "note").filter_map(|line| line["text"].as_str()).collect()
}

// ---- links

/// Records and lists were read once, and what they name was then opened by its path, whoever had laid a link there meanwhile.
#[test]
fn a_link_that_is_laid_meanwhile_leads_nowhere() {
    for (words, swapped) in [
        (&["--env", "env"][..], "pkg"),
        (&["--env", "env"], "above"),
        (&["--files-from", "list", "--root", "env"], "pkg"),
        (&["--files-from", "list", "--root", "env"], "above"),
        (&["--files-from", "list", "--root", "."], "pkg"),
    ] {
        let tree = Tree::new();
        distribution(&tree, "one", &["pkg/m.py", "above/pkg/m.py", "other/m.py"]);
        let below = if words.ends_with(&["."]) { SITE } else { &SITE[4..] };
        tree.file("list", ["pkg", "above/pkg", "other"].map(|dir| format!("{below}/{dir}/m.py\n")).concat().as_bytes());
        for dir in ["m.py", "pkg/m.py"] {
            let path = tree.outside("place").join(dir);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"VALUE = 2\n").unwrap();
        }
        let swap = format!(
            "[ -e {SITE}/away ] || {{ mv {SITE}/{swapped} {SITE}/away; ln -s '{}' {SITE}/{swapped}; }}",
            tree.outside("place").display()
        );
        let python = meanwhile(&tree, &swap);
        let words = ["compile", "--format", "json", "--python", &python].into_iter().chain(words.iter().copied());
        let outcome = tree.bytekeep(None, words).run().exits(1);
        assert_eq!(all_below(&tree.outside("place")).iter().filter(|path| path.ends_with("__pycache__")).count(), 0, "{}", outcome.shown());
        let failed = if swapped == "pkg" { "pkg" } else { "above/pkg" };
        let code = if swapped == "pkg" { "not-a-directory" } else { "link" };
        let outcome = outcome.fails(&format!("site-packages/{failed}"), code, &["cannot open"]);
        assert_eq!((outcome.actions("built"), outcome.wrong()), (2, 1), "{}", outcome.shown());
        assert!(tree.artifact(format!("{SITE}/other/m.py"), whole::python()).is_file());
    }
}

#[test]
fn a_list_stays_in_the_directory_that_was_named() {
    let tree = Tree::new();
    std::fs::create_dir(tree.outside("place")).unwrap();
    std::fs::write(tree.outside("place/m.py"), b"VALUE = 2\n").unwrap();
    std::fs::create_dir(tree.path("sub")).unwrap();
    tree.file("sub/real/m.py", b"VALUE = 1\n");
    symlink(tree.outside("place"), tree.path("sub/out")).unwrap();
    symlink("real", tree.path("sub/in")).unwrap();
    tree.file("list", format!("out/m.py\nin/m.py\nout\n../good.py\n{}\n", tree.path("sub/real/m.py").display()).as_bytes());
    let outcome = compile(&tree, ["--files-from", "list", "--root", "sub"]).exits(1);
    outcome.fails("out/m.py", "link", &["leads out of `sub`"]).fails("sub/out", "link", &["leads out of `sub`"]);
    assert_eq!((outcome.actions("built"), outcome.wrong()), (2, 2), "what it says itself is believed: {}", outcome.shown());
    assert_eq!(std::fs::read_dir(tree.outside("place")).unwrap().count(), 1);
    tree.assert_good(python());
    // Without a directory each path is one that was named, and the hint says how to go on.
    tree.file("list", b"sub/out/m.py\n");
    compile(&tree, ["--files-from", "list"]).exits(0);
    assert!(tree.outside("place/__pycache__").is_dir());
    let outcome = tree.bytekeep(Some(python()), ["compile", "--files-from", "list", "--root", "nowhere"]).run().exits(2);
    assert!(outcome.stderr.contains("`nowhere`") && outcome.stderr.contains("--root"), "{}", outcome.shown());
}

// ---- records

/// Each ended the whole run, with nothing done.
#[test]
fn a_record_that_cannot_be_read_is_one_entry() {
    let tree = Tree::new();
    distribution(&tree, "good", &["pkg/a.py", "pkg/b.py"]);
    std::fs::create_dir_all(tree.path(format!("{SITE}/dir.dist-info/RECORD"))).unwrap();
    for name in ["fifo", "circle", "dangling", "absent"] {
        std::fs::create_dir(tree.path(format!("{SITE}/{name}.dist-info"))).unwrap();
    }
    must("mkfifo", &[tree.path(format!("{SITE}/fifo.dist-info/RECORD"))]);
    symlink("RECORD", tree.path(format!("{SITE}/circle.dist-info/RECORD"))).unwrap();
    symlink("nowhere", tree.path(format!("{SITE}/dangling.dist-info/RECORD"))).unwrap();
    tree.file(format!("{SITE}/file.dist-info"), b"");
    // More than any record has, and nothing is read of it.
    let large = record(&tree, "large", b"");
    std::fs::OpenOptions::new().write(true).open(large).unwrap().set_len(3 << 30).unwrap();
    let outcome = compile(&tree, ["--env", "env"]).exits(1);
    outcome.fails("dir.dist-info/RECORD", "record", &["a directory"]).fails("fifo.dist-info/RECORD", "record", &["FIFO"]);
    outcome.fails("dangling.dist-info/RECORD", "record", &["not there"]).fails("large.dist-info/RECORD", "record", &["bytes"]);
    outcome.fails("circle.dist-info/RECORD", "link", &["symbolic links"]);
    assert_eq!((outcome.actions("built"), outcome.wrong()), (2, 5), "{}", outcome.shown());
    let outcome = tree.bytekeep(Some(python()), ["compile", "--env", "env"]).run().exits(1);
    assert!(outcome.stderr.contains("install the distribution again"), "{}", outcome.shown());
    // What is left out is no failure either.
    compile(&tree, ["--env", "env", "--exclude", "*.dist-info"]).exits(0);
}

#[test]
fn what_an_environment_keeps_closed_is_told() {
    if !root_or_skip("a directory of somebody else's") {
        return;
    }
    let Some(python) = python_for_all() else { return };
    let tree = Tree::new();
    distribution(&tree, "good", &["mine/a.py", "closed/b.py", "closed/sub/c.py"]);
    distribution(&tree, "shut", &["mine/d.py"]);
    tree.open_to_all();
    must("chown", &["-R".as_ref(), "65534:65534".as_ref(), tree.path("env").as_os_str()]);
    for dir in ["closed", "shut.dist-info"] {
        std::fs::set_permissions(tree.path(format!("{SITE}/{dir}")), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let outcome = tree.bytekeep(Some(python), ["compile", "--format", "json", "--env", "env"]).by_nobody().run().exits(1);
    outcome.is("mine/a.py", "missing", "built");
    outcome.fails("site-packages/closed", "permission", &["Permission denied"]);
    outcome.fails("shut.dist-info", "permission", &["Permission denied"]);
    assert_eq!((outcome.actions("built"), outcome.wrong()), (1, 2), "{}", outcome.shown());
}

/// Each row was kept, whatever it named: 80 bytes for 9.
#[test]
fn a_record_takes_no_more_memory_than_its_sources() {
    let tree = Tree::new();
    tree.file(format!("{SITE}/p/m.py"), b"VALUE = 1\n");
    let rows =
        [&b"p/m.py,,\n".repeat(1 << 20)[..], &b"p/gone.py,,\n".repeat(1 << 12), &b"x".repeat(1 << 20), b".py,,\np/./m.py,,\n"].concat();
    record(&tree, "one", &rows);
    let run = tree.bytekeep(Some(python()), ["compile", "--format", "json", "--jobs", "1", "--env", "env"]);
    // A million rows that were kept would take more.
    let outcome = run.by_shell("ulimit -d 160000; exec \"$@\"").run().exits(0);
    assert_eq!(outcome.actions("built"), 1, "{}", outcome.shown());
    assert!(notes(&outcome).contains(&"4096 recorded paths passed over, which are not there"), "{}", outcome.shown());
}

// ---- lists

/// Nothing was done, and nothing was said.
#[test]
fn a_list_that_is_ended_in_another_way_is_no_success() {
    let tree = Tree::new();
    tree.file("two.py", b"VALUE = 1\n");
    tree.file("list", b"good.py\0two.py\0");
    let outcome = tree.bytekeep(Some(python()), ["compile", "--files-from", "list"]).run().exits(2);
    assert!(outcome.stderr.contains("give `-0`") && outcome.errors() == 1, "{}", outcome.shown());
    assert_eq!(compile(&tree, ["--files-from", "list", "-0"]).exits(0).actions("built"), 2);
    tree.file("list", b"good.py\ntwo.py\n");
    let outcome = tree.bytekeep(Some(python()), ["compile", "--files-from", "list", "-0"]).run().exits(2);
    assert!(outcome.stderr.contains("leave `-0` away") && outcome.errors() == 1, "{}", outcome.shown());
    tree.file("list", b"good.py\r\n\r\ntwo.py\r\n");
    assert_eq!(compile(&tree, ["--force", "--files-from", "list"]).exits(0).actions("built"), 2);
    assert_eq!(compile(&tree, ["--force", "--files-from", "list", "--root", "."]).exits(0).actions("built"), 2);
}

#[test]
fn how_much_of_a_list_was_passed_over_is_told() {
    let tree = Tree::new();
    let long = "x".repeat(300);
    tree.file("list", format!("good.py\ndata.txt\nno/directory\ngood.py/x\nlist\n{long}\n").as_bytes());
    let outcome = compile(&tree, ["--files-from", "list"]).exits(1);
    outcome.fails(&long, "name-too-long", &[]);
    let expected = "4 listed paths passed over, which are not there, or neither a directory nor a source nor an artifact";
    assert_eq!(notes(&outcome), [expected]);
    tree.file("list", b"good.py\n");
    assert!(notes(&compile(&tree, ["--files-from", "list"]).exits(0)).is_empty());
    distribution(&tree, "one", &["a.py"]);
    std::fs::remove_file(tree.path(format!("{SITE}/a.py"))).unwrap();
    let outcome = tree.bytekeep(Some(python()), ["compile", "--env", "env"]).run().exits(0);
    assert!(outcome.stderr.contains("1 recorded path passed over"), "{}", outcome.shown());
}

#[test]
fn a_listed_directory_below_a_closed_one_is_told() {
    if !root_or_skip("a directory of somebody else's") {
        return;
    }
    let Some(python) = python_for_all() else { return };
    let tree = Tree::new();
    tree.file("closed/sub/m.py", b"VALUE = 1\n");
    tree.file("list", b"closed/sub\n");
    tree.open_to_all();
    std::fs::set_permissions(tree.path("closed"), std::fs::Permissions::from_mode(0o700)).unwrap();
    for words in [&["--files-from", "list"][..], &["--files-from", "list", "--root", "."], &["closed/sub"]] {
        let words = ["verify", "--format", "json"].into_iter().chain(words.iter().copied());
        let outcome = tree.bytekeep(None, words).by_nobody().run().exits(1);
        outcome.fails("closed/sub", "permission", &["Permission denied"]);
    }
    let _: &support::Python = python;
}

/// The time of the whole run began when the list was read to its end, and this one has none.
#[test]
fn a_list_without_end_is_within_the_time_of_the_run() {
    let tree = Tree::new();
    must("mkfifo", &[tree.outside("list")]);
    let run = tree.bytekeep(Some(python()), ["compile", "--format", "json", "--max-time", "0.3"]).arg("--files-from");
    let outcome = run.arg(tree.outside("list")).run().exits(1);
    assert_eq!(outcome.summary()["out_of_time"], true, "{}", outcome.shown());
}

// ---- what goes away before it is begun

/// One of several roots that went away between the look at the arguments and the start ended all of it.
#[test]
fn a_root_that_goes_away_is_one_entry() {
    for words in [&["a", "b", "c"][..], &["--files-from", "list"], &["--files-from", "list", "--root", "."], &["--env", "env"]] {
        let tree = Tree::new();
        tree.file("list", b"a\nb/m.py\nc/m.py\n");
        distribution(&tree, "one", &["a/m.py", "b/m.py", "c/m.py"]);
        for dir in ["a", "b", "c"] {
            tree.file(format!("{dir}/m.py"), b"VALUE = 1\n");
        }
        let python = meanwhile(&tree, &format!("rm -rf b {SITE}/b"));
        let words = ["compile", "--format", "json", "--python", &python].into_iter().chain(words.iter().copied());
        let outcome = tree.bytekeep(None, words).run().exits(1);
        assert_eq!((outcome.actions("built"), outcome.wrong()), (2, 1), "{}", outcome.shown());
        outcome.fails("b", "gone", &["cannot open"]);
    }
}

// ---- what others hold

/// The hint was to look for errors of the device.
#[test]
fn what_something_else_holds_is_not_a_broken_device() {
    let tree = Tree::new();
    compile(&tree, ["."]).exits(0);
    let artifact = tree.artifact("good.py", python());
    let lease = "import fcntl, os, signal, sys; signal.signal(signal.SIGIO, signal.SIG_IGN); f = os.open(sys.argv[1], os.O_RDWR); \
                 fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK); print('held', flush=True); sys.stdin.read()";
    let mut holder =
        Command::new(&python().path).args(["-c", lease]).arg(&artifact).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said.trim() == "held" {
        tree.verify().exits(1).fails("good.py", "busy", &[]);
        let outcome = tree.bytekeep(Some(python()), ["compile", "."]).run().exits(1);
        assert!(outcome.stderr.contains("something else holds it") && !outcome.stderr.contains("device"), "{}", outcome.shown());
    } else {
        whole::aloud("SKIP: this file system knows no leases");
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
    if !root_or_skip("a mount") || !may("mount", &["--bind".as_ref(), artifact.as_os_str(), artifact.as_os_str()]) {
        return;
    }
    let outcome = tree.bytekeep(Some(python()), ["compile", "--force", "."]).run();
    must("umount", &[&artifact]);
    let outcome = outcome.exits(1);
    assert!(outcome.stderr.contains("something else holds it") && !outcome.stderr.contains("device"), "{}", outcome.shown());
}
