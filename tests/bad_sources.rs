//! Bad sources: the whole command on real trees by real interpreters. One bad source never stops the rest, and each is named with its cause.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::Python;
use whole::{Tree, all_pythons, aloud, is_root, may, must, python, python_for_all, root_or_skip, two_pythons};

#[test]
fn each_bad_source_is_named_with_its_cause_and_the_rest_is_compiled() {
    let tree = Tree::new();
    tree.file("syntax.py", b"fine = 1\nx = = 2\n");
    tree.file("outside.py", b"\n\nreturn 1\n");
    tree.file("indent.py", b"if 1:\n    x = 1\n   y = 2\n");
    tree.file("nul.py", b"x = 1\0\n");
    tree.file("codec.py", b"# -*- coding: no-such-codec -*-\nx = 1\n");
    tree.file("bom_codec.py", b"\xef\xbb\xbf# coding: latin-1\nx = 1\n");
    tree.file("bytes.py", b"x = '\xe9'\n");
    tree.file("bom.py", "\u{feff}VALUE = u'\u{e9}' == u'\\xe9'\n".as_bytes());
    tree.file("latin.py", b"# coding: latin-1\nVALUE = u'\xe9' == u'\\xe9'\n");
    tree.file("cp1252.py", b"# vim: set fileencoding=cp1252 :\nVALUE = u'\x80' == u'\\u20ac'\n");
    tree.file("empty.py", b"");
    tree.file("crlf.py", b"VALUE = 1\r\n\r\nclass A:\r\n\tx = 2\r\n");
    tree.file("dir.py/inside.py", b"VALUE = 3\n");
    let big = std::fs::File::create(tree.path("big.py")).unwrap();
    big.set_len(200 << 20).unwrap();
    must("mkfifo", &[tree.path("fifo.py")]);
    drop(std::os::unix::net::UnixListener::bind(tree.path("socket.py")).unwrap());
    let device = is_root() && may("mknod", &[tree.path("device.py").as_os_str(), "c".as_ref(), "1".as_ref(), "5".as_ref()]);
    if !device {
        aloud("SKIP: a device as a source: only root can make one");
    }
    for python in all_pythons() {
        let outcome = tree.compile(python).exits(1);
        outcome.fails("syntax.py", "source", &["syntax.py\", line 2", "x = = 2", "SyntaxError: "]);
        outcome.fails("outside.py", "source", &["outside.py\", line 3", "return 1", "SyntaxError: ", "outside function"]);
        outcome.fails("indent.py", "source", &["indent.py\", line 3", "IndentationError: unindent does not match"]);
        outcome.fails("nul.py", "source", &["nul.py", "null bytes"]);
        outcome.fails("codec.py", "source", &["codec.py", "SyntaxError: ", "no-such-codec"]);
        outcome.fails("bom_codec.py", "source", &["bom_codec.py", "SyntaxError: "]);
        outcome.fails("big.py", "too-large", &["big.py", "209715200 bytes", "limit of 16777216"]);
        outcome.fails("fifo.py", "not-a-file", &["fifo.py", "FIFO"]);
        outcome.fails("socket.py", "not-a-file", &["socket.py", "socket"]);
        let mut bad = 9;
        if python.version.0 == 3 {
            outcome.fails("bytes.py", "source", &["bytes.py", "SyntaxError: "]);
            bad += 1;
        }
        if device {
            outcome.fails("device.py", "not-a-file", &["device.py", "device"]);
            bad += 1;
        }
        assert_eq!(outcome.wrong(), bad, "{}", outcome.shown());
        for good in ["bom.py", "latin.py", "cp1252.py", "empty.py", "crlf.py", "inside.py", "good.py"] {
            assert_eq!(outcome.entry(good)["wrong"], false, "{good} by {}", python.tag);
            assert!(tree.artifact(if good == "inside.py" { "dir.py/inside.py" } else { good }, python).is_file(), "{good}");
        }
        for module in ["bom", "latin", "cp1252"] {
            assert_eq!(tree.import(python, module), "True", "{module} by {}", python.tag);
        }
        tree.assert_good(python);
        assert_eq!(tree.litter(), [] as [std::path::PathBuf; 0]);
    }
    // What was compiled stands; what cannot be compiled has no artifact, and that is no problem of the cache.
    tree.verify().exits(0);
}

/// What the interpreter itself shows of a source: line, column of the caret, class and message.
fn shown_by(python: &Python, tree: &Tree, name: &str) -> (String, Option<String>, String) {
    let mut command = Command::new(&python.path);
    command.args(["-S", tree.path(name).to_str().unwrap()]);
    tree.dress(&mut command);
    let said = String::from_utf8_lossy(&command.output().unwrap().stderr).into_owned();
    pieces(&said)
}

/// Line number, caret with what stands above it, and the last line of a message.
fn pieces(text: &str) -> (String, Option<String>, String) {
    let lines: Vec<&str> = text.lines().collect();
    let place = lines.iter().find(|line| line.trim_start().starts_with("File \"")).unwrap_or(&"");
    let number = place.rsplit("line ").next().unwrap().to_owned();
    let caret = lines.windows(2).find(|pair| !pair[1].trim().is_empty() && pair[1].trim().bytes().all(|byte| byte == b'^'));
    let marked = caret.map(|pair| {
        // The text from the caret on: so that indentation does not count.
        let at = pair[1].chars().take_while(|c| *c == ' ').count();
        pair[0].chars().skip(at).collect()
    });
    (number, marked, lines.last().unwrap_or(&"").trim().to_owned())
}

#[test]
fn a_syntax_error_stands_where_python_shows_it() {
    let tree = Tree::new();
    let sources: &[(&str, &[u8])] = &[
        ("equals.py", b"fine = 1\nx = = 2\n"),
        ("indented.py", b"def f():\n    if 1:\n        x = (1, = 3)\n"),
        ("paren.py", b"x = (1 + 2\ny = 3\n"),
        ("colon.py", b"if True\n    pass\n"),
        ("string.py", b"x = 'abc\ny = 1\n"),
        ("wide.py", "# coding: utf-8\ns = '\u{e9}\u{e9}' ) 2\n".as_bytes()),
        ("tab.py", b"if 1:\n\tx = 1 1\n"),
        ("assign.py", b"def f():\n    1 = x\n"),
    ];
    for (name, content) in sources {
        tree.file(name, content);
    }
    for python in all_pythons() {
        let outcome = tree.compile(python).exits(1);
        for (name, _) in sources {
            outcome.fails(name, "source", &[name]);
            let told = pieces(outcome.entry(name)["cause"]["text"].as_str().unwrap());
            let shown = shown_by(python, &tree, name);
            assert_eq!((&told.0, &told.2), (&shown.0, &shown.2), "{name} by {}", python.tag);
            // 2.7 counts bytes and shows characters, and some versions keep the tab that they show: their carets stand beside the place.
            if (*name == "wide.py" && python.version.0 == 2) || *name == "tab.py" {
                continue;
            }
            // Old versions draw a caret behind the end of the line below its last character.
            let at_end = told.1.as_deref() == Some("") && python.version < (3, 9);
            if let (Some(ours), Some(theirs), false) = (&told.1, &shown.1, at_end) {
                assert_eq!(ours, theirs, "the caret of {name} by {}", python.tag);
            }
            if python.version >= (3, 8) {
                assert!(told.1.is_some() || shown.1.is_none(), "{name} by {} has no caret", python.tag);
            }
        }
        tree.assert_good(python);
    }
}

#[test]
fn what_is_too_deep_costs_only_itself_and_is_told_shortly() {
    let tree = Tree::new();
    let deep = 50_000;
    tree.file("parens.py", format!("x = {}1{}\n", "(".repeat(deep), ")".repeat(deep)).as_bytes());
    tree.file("minus.py", format!("x = {}1\n", "-".repeat(deep)).as_bytes());
    tree.file("plus.py", format!("x = {}1\n", "1 + ".repeat(deep)).as_bytes());
    tree.file("dots.py", format!("x = a{}\n", ".b".repeat(deep)).as_bytes());
    tree.file("lists.py", format!("x = {}{}\n", "[".repeat(deep), "]".repeat(deep)).as_bytes());
    for python in all_pythons() {
        let outcome = tree.bytekeep(Some(python), ["compile", "--format", "json", "--timeout", "30", "."]).run();
        for name in ["parens.py", "minus.py", "plus.py", "dots.py", "lists.py"] {
            let entry = outcome.entry(name);
            // Some versions manage one or the other. What they do not is told, and is not the source's whole text over again.
            if entry["wrong"] == true {
                assert!(["source", "compiler-died"].contains(&entry["cause"]["code"].as_str().unwrap()), "{name}: {entry:.2000}");
                let text = entry["cause"]["text"].as_str().unwrap();
                assert!(text.len() < 2000, "{name} by {}: {} bytes", python.tag, text.len());
            }
        }
        outcome.fails("parens.py", if python.pypy { "source" } else { outcome.entry("parens.py")["cause"]["code"].as_str().unwrap() }, &[]);
        outcome.exits(1);
        tree.assert_good(python);
    }
}

#[test]
fn the_limit_on_size_can_be_raised_and_lowered() {
    let tree = Tree::new();
    tree.file("long.py", format!("VALUE = 1\n{}", "# filler\n".repeat(4000)).as_bytes());
    let outcome = tree.bytekeep(Some(python()), ["compile", "--max-source", "4K", "."]).run().exits(1);
    assert!(outcome.stderr.contains("long.py") && outcome.stderr.contains("more than the limit of 4096"), "{}", outcome.shown());
    assert!(outcome.stderr.contains("--max-source"), "what to do next: {}", outcome.shown());
    tree.assert_good(python());
    tree.bytekeep(Some(python()), ["compile", "--max-source", "1M", "."]).run().exits(0);
    assert_eq!(tree.import(python(), "long"), "1");
}

#[test]
fn an_unreadable_source_is_named() {
    let tree = Tree::new();
    let secret = tree.file("secret.py", b"VALUE = 'secret'\n");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o000)).unwrap();
    let run = |format: &'static str| {
        if !is_root() {
            return Some(tree.bytekeep(Some(python()), ["compile", "--format", format, "."]));
        }
        tree.open_to_all();
        must("chown", &["-R".as_ref(), "65534:65534".as_ref(), tree.root().as_os_str(), tree.home().as_os_str()]);
        must("chown", &["0:0".as_ref(), secret.as_os_str()]);
        let python = python_for_all()?;
        Some(tree.bytekeep(Some(python), ["compile", "--format", format, "."]).by_nobody())
    };
    let Some(human) = run("human") else { return };
    let outcome = human.run().exits(1);
    assert!(outcome.stderr.contains("secret.py") && outcome.stderr.contains("Permission denied"), "{}", outcome.shown());
    let outcome = run("json").unwrap().run().exits(1);
    outcome.fails("secret.py", "permission", &["secret.py", "Permission denied"]);
    let python = if is_root() { python_for_all().unwrap() } else { python() };
    tree.assert_good(python);
}

#[test]
fn links_that_lead_nowhere_or_round_or_to_a_secret() {
    let tree = Tree::new();
    symlink("nowhere", tree.path("dangling.py")).unwrap();
    symlink("round.py", tree.path("round.py")).unwrap();
    symlink(tree.path("."), tree.path("around")).unwrap();
    symlink("/dev/null", tree.path("null.py")).unwrap();
    let outcome = tree.compile(python()).exits(1);
    // Told, and no failure: editors leave such links as their locks.
    assert!(outcome.stdout.contains("\"code\":\"dangling\""), "{}", outcome.shown());
    assert_eq!(outcome.wrong(), 2, "{}", outcome.shown());
    outcome.fails("round.py", "link", &["round.py", "symbolic links"]);
    outcome.fails("null.py", "not-a-file", &["null.py"]);
    assert_eq!(outcome.summary()["entries"], 4, "{}", outcome.shown());
    tree.assert_good(python());
    if root_or_skip("a link of another user") {
        std::fs::write(tree.outside("secret"), "TOP = 'secret' = 1\n").unwrap();
        symlink(tree.outside("secret"), tree.path("foreign.py")).unwrap();
        must("chown", &["-h".as_ref(), "65534".as_ref(), tree.path("foreign.py").as_os_str()]);
        let outcome = tree.compile(python()).exits(1);
        outcome.fails("foreign.py", "foreign-link", &["foreign.py", "another user"]);
        assert!(!outcome.stdout.contains("TOP"), "{}", outcome.shown());
    }
}

#[test]
fn a_list_may_name_what_is_gone_and_what_is_no_source() {
    let tree = Tree::new();
    tree.file("data.txt", b"no source");
    std::fs::write(tree.outside("list"), b"gone.py\ngood.py\ndata.txt\ngone/too.py\n\ngone.txt\n").unwrap();
    let list = tree.outside("list").into_os_string().into_string().unwrap();
    let outcome = tree.bytekeep(Some(python()), ["compile", "--format", "json", "--files-from", &list]).run().exits(1);
    outcome.fails("gone.py", "gone", &["listed"]).fails("gone/too.py", "gone", &["listed"]);
    assert_eq!(outcome.wrong(), 2, "{}", outcome.shown());
    tree.assert_good(python());
    let outcome = tree.bytekeep(Some(python()), ["compile", "--files-from", "no-such-list"]).run().exits(2);
    assert!(outcome.stderr.contains("no-such-list"), "{}", outcome.shown());
}

/// Does something again and again in a thread of its own, while `run` runs.
fn meanwhile<T>(mut again: impl FnMut(u64) + Send, run: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::SeqCst) {
                again(round);
                round += 1;
            }
        });
        let answer = run();
        stop.store(true, Ordering::SeqCst);
        answer
    })
}

#[test]
fn sources_that_vanish_while_we_work_are_their_own_affair() {
    let tree = Tree::new();
    let names: Vec<String> = (0..40).map(|number| format!("fleeting{number}.py")).collect();
    for name in &names {
        tree.file(name, b"VALUE = 1\n");
    }
    let again = |round: u64| {
        let name = &names[usize::try_from(round).unwrap() % names.len()];
        drop(std::fs::remove_file(tree.path(name)));
        std::fs::write(tree.path(name), b"VALUE = 1\n").unwrap();
    };
    meanwhile(again, || {
        for _ in 0..6 {
            let outcome = tree.bytekeep(Some(python()), ["compile", "--force", "--format", "json", "."]).run();
            assert!(matches!(outcome.code, Some(0 | 1)), "{}", outcome.shown());
            for entry in outcome.entries().filter(|entry| entry["wrong"] == true) {
                let code = entry["cause"]["code"].as_str().unwrap();
                assert!(["vanished", "changing"].contains(&code), "{entry:.2000}");
            }
            outcome.is("good.py", outcome.entry("good.py")["verdict"].as_str().unwrap(), "built");
        }
    });
    tree.compile(python()).exits(0);
    tree.verify().exits(0);
    assert_eq!(tree.litter(), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_source_that_is_edited_while_it_is_compiled_is_never_silently_stale() {
    for python in two_pythons() {
        for in_place in [true, false] {
            let tree = Tree::new();
            // Always the same size, and mostly within one second of the last edit: nothing but the bytes tells them apart.
            let body = |round: u64| format!("VALUE = {:09}\nMORE = [{}]\n", round + 100_000_000, "1, ".repeat(3000));
            tree.file("edited.py", body(0).as_bytes());
            let last = std::sync::atomic::AtomicU64::new(0);
            let again = |round: u64| {
                if in_place {
                    std::fs::write(tree.path("edited.py"), body(round)).unwrap();
                } else {
                    std::fs::write(tree.outside("new.py"), body(round)).unwrap();
                    std::fs::rename(tree.outside("new.py"), tree.path("edited.py")).unwrap();
                }
                last.store(round, Ordering::SeqCst);
                std::thread::sleep(Duration::from_micros(500));
            };
            meanwhile(again, || {
                let began = Instant::now();
                for _ in 0..12 {
                    let outcome = tree.compile(python);
                    assert!(matches!(outcome.code, Some(0 | 1)), "{}", outcome.shown());
                    if outcome.code == Some(1) {
                        // Half-written text is no Python; a file that never rests is told as such.
                        let code = outcome.entry("edited.py")["cause"]["code"].as_str().unwrap();
                        assert!(["changing", "source", "vanished"].contains(&code), "{}", outcome.shown());
                    }
                    if began.elapsed() > Duration::from_secs(4) {
                        break;
                    }
                }
            });
            // At rest: one run sees whatever the last one could not.
            tree.compile(python).exits(0);
            let outcome = tree.verify().exits(0);
            assert_eq!(outcome.verdicts("silently-stale"), 0, "{}", outcome.shown());
            let value = (last.load(Ordering::SeqCst) + 100_000_000).to_string();
            assert_eq!(tree.import(python, "edited"), value, "{} in place: {in_place}", python.tag);
            tree.assert_good(python);
        }
    }
}
