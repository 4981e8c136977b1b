//! Interpreters that cannot be used, that nobody should start, or that are replaced while they are used.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/fakes.rs"]
mod fakes;
#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bytekeep::python::interpreter::Interpreter;
use bytekeep::python::memo::Probes;
use support::Python;
use whole::{Tree, all_below, all_pythons, aloud, is_root, must, python};

const NONE: [PathBuf; 0] = [];

/// Sources whose cookie needs a worker of its own each.
fn sources(tree: &Tree, count: usize) {
    for at in 0..count {
        tree.file(format!("mod{at}.py"), format!("# coding: cp1252\nVALUE = {at}\n").as_bytes());
    }
}

/// A script that is one interpreter for the first `starts`, and does `then` from there on.
fn turncoat(tree: &Tree, first: &Python, starts: usize, then: &str) -> String {
    let count = tree.outside("count");
    let text = format!(
        "#!/bin/sh\necho x >> {count}\nif [ $(wc -l < {count}) -gt {starts} ]; then\n{then}\nfi\nexec {first} \"$@\"\n",
        count = count.display(),
        first = first.path.display()
    );
    tree.script("turncoat", &text)
}

fn exec(python: &Python) -> String {
    format!("exec {} \"$@\"", python.path.display())
}

/// Another one that takes the same flags.
fn other() -> Option<&'static Python> {
    let found = all_pythons().iter().find(|other| other.tag != python().tag && !other.pypy && other.version >= (3, 11));
    if found.is_none() {
        aloud("SKIP: an interpreter that became another one: there is no other from 3.11 on");
    }
    found
}

/// Code of one interpreter under the header of another makes Python crash at import, and every seal would prove it.
#[test]
fn an_interpreter_that_became_another_one_compiles_nothing() {
    let Some(other) = other() else { return };
    let tree = Tree::new();
    sources(&tree, 6);
    // The probe is the first start.
    let script = turncoat(&tree, python(), 1, &exec(other));
    let outcome = tree.bytekeep(None, ["compile", "--jobs", "1", "--python", &script, "."]).run().exits(2);
    assert!(outcome.stderr.contains("another one now"), "{}", outcome.shown());
    assert!(!tree.path("__pycache__").exists(), "{}", outcome.shown());
}

#[test]
fn what_was_compiled_before_an_interpreter_was_replaced_or_went_is_told() {
    for then in other().map(exec).into_iter().chain(["exit 9".to_owned()]) {
        let tree = Tree::new();
        sources(&tree, 12);
        let script = turncoat(&tree, python(), 4, &then);
        let words = ["compile", "--format", "json", "--jobs", "1", "--python", &script, "."];
        let outcome = tree.bytekeep(None, words).run().exits(1);
        let built = outcome.actions("built");
        assert!(built > 0 && built + outcome.actions("failed") == 13, "{}", outcome.shown());
        for failed in outcome.entries().filter(|entry| entry["action"] == "failed") {
            // Where it dies it may be over a source's own codec, for all we know.
            let code = failed["cause"]["code"].as_str();
            assert!(code == Some("interpreter") || code == Some("compiler-died") && then == "exit 9", "{failed}");
        }
        // All that stands is sound, and made by the first.
        let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", "."]).run().exits(0);
        assert_eq!((outcome.verdicts("ok"), outcome.actions("built")), (built, 13 - built), "{}", outcome.shown());
        tree.assert_good(python());
        for at in 0..12 {
            assert_eq!(tree.import(python(), &format!("mod{at}")), at.to_string());
        }
    }
}

/// It answers in sound frames, and what stands in them is no code.
#[test]
fn what_is_no_code_is_not_sealed() {
    let tree = Tree::new();
    let model = Interpreter::find(&python().path, true, &Probes::open(None)).unwrap();
    // With the file name that it was asked to put into its code: that alone makes none.
    let fake =
        fakes::fake(&tree.outside(""), &model, "", "write(frame(ident, b'C' + fields(b'code of z' + bytes([43]) + body[10:53], b'0')))");
    let script = turncoat(&tree, python(), 1, &format!("exec {} \"$@\"", fake.executable.display()));
    let outcome = tree.bytekeep(None, ["compile", "--format", "json", "--python", &script, "."]).run().exits(1);
    outcome.fails("good.py", "compiler-wrong", &["no code"]);
    assert!(!tree.artifact("good.py", python()).exists());
    assert!(all_below(&tree.store()).iter().all(|path| path.file_name().unwrap().len() != 64), "nobody else shall get it");
}

// ---- interpreters

#[test]
fn an_interpreter_that_cannot_be_used_is_one_clear_error() {
    let tree = Tree::new();
    let real = python().path.display().to_string();
    let posing = |version: &str| {
        format!(
            "#!{real} -S\nimport sys\nsys.version_info = {version}\nat = sys.argv.index('-c')\nprogram = sys.argv[at + 1]\n\
             sys.argv = ['-c'] + sys.argv[at + 2:]\nexec(program, {{'__name__': '__main__'}})\n"
        )
    };
    std::fs::write(tree.outside("plain"), "no program\n").unwrap();
    std::fs::write(tree.outside("gone.txt"), "").unwrap();
    symlink("no-target", tree.outside("dangling")).unwrap();
    let outside = |name: &str| tree.outside(name).into_os_string().into_string().unwrap();
    let rows: Vec<(String, &str)> = vec![
        (outside("missing"), "there is no interpreter"),
        (outside("dangling"), "there is no interpreter"),
        ("no-such-python".into(), "there is no interpreter"),
        ("3.99".into(), "python3.99"),
        ("2.6".into(), "python2.6"),
        (outside("plain"), "plain"),
        (tree.root().into_os_string().into_string().unwrap(), "tree"),
        ("/dev/null".into(), "/dev/null"),
        ("/bin/true".into(), "/bin/true"),
        ("/bin/false".into(), "exit status 1"),
        (tree.script("silent", "#!/bin/sh\nexit 0\n"), "silent"),
        (tree.script("loud", "#!/bin/sh\necho it is broken >&2\nexit 3\n"), "it is broken"),
        (tree.script("liar", "#!/bin/sh\necho '{\"version\": 1}'\n"), "liar"),
        (tree.script("killed", "#!/bin/sh\nkill -SEGV $$\n"), "killed"),
        (tree.script("endless", "#!/bin/sh\nexec yes\n"), "endless"),
        (tree.script("nowhere", "#!/no/such/python\n"), "nowhere"),
        (tree.script("garbage", "\x7fELF garbage"), "garbage"),
        (tree.script("old", &posing("(3, 5, 10, 'final', 0)")), "3.5.10"),
        (tree.script("older", &posing("(3, 2, 6, 'final', 0)")), "3.2.6"),
    ];
    for (spec, told) in rows {
        let outcome = tree.bytekeep(None, ["compile", "--python", &spec, "."]).run().exits(2);
        assert_eq!(outcome.errors(), 1, "{}", outcome.shown());
        assert!(outcome.stderr.contains(told), "{spec}: {}", outcome.shown());
        assert!(outcome.stderr.lines().count() <= 6, "{spec}: {}", outcome.shown());
        assert!(!tree.path("__pycache__").exists(), "{spec}");
        // A good one beside it does not help: nothing is done.
        tree.bytekeep(Some(python()), ["compile", "--python", &spec, "."]).run().exits(2);
    }
    // One that answers as Python does and then does not work.
    let turncoat =
        format!("#!/bin/sh\nif [ -e '{0}' ]; then exit 7; fi\n'{real}' \"$@\"\nstatus=$?\n: >'{0}'\nexit $status\n", outside("asked"));
    let turncoat = tree.script("turncoat", &turncoat);
    let outcome = tree.bytekeep(None, ["compile", "--python", &turncoat, "."]).run().exits(2);
    assert!(outcome.stderr.contains("turncoat") && outcome.errors() == 1, "{}", outcome.shown());
    assert_eq!(tree.litter(), NONE);
    // No interpreter at all: whoever compiles needs one, whoever finds nothing to compile or only verifies does not.
    for path in ["", "/no/such/place"] {
        let outcome = tree.bytekeep(None, ["compile", "."]).env("PATH", path).run().exits(2);
        assert!(outcome.errors() == 1 && outcome.stderr.contains("--python"), "{}", outcome.shown());
    }
    tree.bytekeep(Some(python()), ["compile", "."]).run().exits(0);
    for path in ["", "/no/such/place"] {
        let outcome = tree.bytekeep(None, ["compile", "."]).env("PATH", path).run().exits(0);
        assert!(outcome.errors() == 0 && outcome.stderr.contains("nothing is compiled"), "{}", outcome.shown());
        for command in ["verify", "status", "clean", "seal"] {
            tree.bytekeep(None, [command, "--exclude", "good.py", "."]).env("PATH", path).run().exits(0);
        }
        tree.bytekeep(None, ["verify", "."]).env("PATH", path).run().exits(0);
    }
}

#[test]
fn an_old_python_that_is_supported_is_no_error() {
    let Some(old) = whole::all_pythons().iter().find(|python| python.version.0 == 2) else {
        aloud("SKIP: there is no Python 2.7");
        return;
    };
    let tree = Tree::new();
    tree.file("printed.py", b"print 'two'\nVALUE = 1\n");
    tree.compile(old).exits(0);
    assert!(tree.path("good.pyc").is_file() && !tree.path("__pycache__").exists());
    tree.assert_good(old);
    tree.compile(python()).exits(1).fails("printed.py", "source", &["printed.py\", line 1", "print 'two'"]);
    tree.assert_good(python());
    let outcome = tree.verify().exits(0);
    assert_eq!(outcome.verdicts("ok"), 3, "{}", outcome.shown());
}

#[test]
fn root_starts_no_interpreter_that_others_can_write() {
    if !is_root() {
        aloud("SKIP: root's rule on interpreters: only root has it");
        return;
    }
    let tree = Tree::new();
    tree.open_to_all();
    let mark = tree.outside("started");
    let text = format!("#!/bin/sh\n: >'{}'\nexec '{}' \"$@\"\n", mark.display(), python().path.display());
    tree.file("venv/pyvenv.cfg", b"home = /usr/bin\n");
    tree.file("venv/lib/mod.py", b"VALUE = 1\n");
    let executable = tree.file("venv/bin/python", text.as_bytes());
    std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755)).unwrap();
    let allow = |mode| std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(mode)).unwrap();
    let bin = tree.path("venv/bin");
    let chown = |who: &str, path: &Path| must("chown", &["-h".as_ref(), who.as_ref(), path.as_os_str()]);
    let refused = |what: &str| {
        let outcome = tree.bytekeep(None, ["compile", "venv"]).run().exits(2);
        assert_eq!(outcome.errors(), 1, "{what}: {}", outcome.shown());
        assert!(outcome.stderr.contains("--python") && outcome.stderr.contains("venv/bin/python"), "{what}: {}", outcome.shown());
        assert!(!mark.exists(), "{what}: it was started all the same");
    };
    allow(0o757);
    refused("a file that all can write");
    allow(0o775);
    refused("a file that its group can write");
    allow(0o755);
    chown("65534", &executable);
    refused("a file of somebody else");
    chown("0", &executable);
    chown("65534", &bin);
    refused("a directory of somebody else");
    chown("0", &bin);
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o777)).unwrap();
    refused("a directory that all can write");
    std::fs::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let away = bin.join("real");
    std::fs::rename(&executable, &away).unwrap();
    symlink("real", &executable).unwrap();
    chown("65534", &executable);
    refused("a link of somebody else");
    // By name it is the caller's own word.
    let outcome = tree.bytekeep(None, ["compile", "--python", "venv/bin/python", "venv"]).run().exits(0);
    assert!(mark.exists() && outcome.stderr.contains("Compiled 1 "), "{}", outcome.shown());
    std::fs::remove_file(&mark).unwrap();
    // And what nobody else can write needs no word.
    chown("0", &executable);
    tree.bytekeep(None, ["compile", "--force", "venv"]).run().exits(0);
    assert!(mark.exists());
}
