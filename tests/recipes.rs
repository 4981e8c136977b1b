//! bytekeep-recipes(7) says what can be taken as it stands: its command lines are ours, its shell is shell, its units are units, and its
//! hook does in a real checkout what it says.
#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test works on files of its own")]

#[path = "support/pages.rs"]
mod pages;
#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::process::Command;

use pages::{have, text, typed_lines};
use whole::{BYTEKEEP, Tree, all_below, python};

/// The files of the page, each with its path: what stands in a literal block under a line with a path.
fn files() -> Vec<(String, String)> {
    let page = text("man/bytekeep-recipes.7");
    let (mut files, mut named, mut block) = (Vec::new(), None, None::<String>);
    for line in page.lines() {
        match (&mut block, line) {
            (None, ".Bd -literal") => block = Some(String::new()),
            (Some(text), ".Ed") => {
                let text = text.replace("\\e", "\\");
                if let Some(name) = named.take() {
                    files.push((name, text));
                }
                block = None;
            }
            (Some(text), line) => text.extend([line, "\n"]),
            (None, ".Pp") => {}
            (None, line) => named = line.strip_prefix(".Pa ").map(str::to_owned),
        }
    }
    files
}

fn file(end: &str) -> String {
    files().into_iter().find(|(name, _)| name.ends_with(end)).unwrap_or_else(|| panic!("no {end}")).1
}

/// The words of every `bytekeep …` in lines of shell, of a build file, of YAML or of a unit.
fn our_lines(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let mut lines = Vec::new();
    for part in joined.lines().flat_map(|line| line.split(['&', '|', ';'])) {
        let words: Vec<&str> = part.split_whitespace().map(|word| word.trim_matches('"')).collect();
        let Some(at) = words.iter().position(|word| *word == "bytekeep" || word.ends_with("/bytekeep")) else { continue };
        // A name in running text is no command; nor is one of a cache or a package.
        let begins = words[..at].iter().all(|word| matches!(*word, "-" | "run:" | "entry:" | "exec" | "RUN" | "$"));
        if begins || words[at].starts_with("ExecStart=") {
            lines.push(std::iter::once("bytekeep").chain(words[at + 1..].iter().copied()).map(str::to_owned).collect());
        }
    }
    lines
}

#[test]
fn every_command_line_is_one_of_ours() {
    let mut texts: Vec<(String, String)> = files();
    let page = text("man/bytekeep-recipes.7");
    texts.push(("typed".into(), typed_lines(&page).into_iter().map(|(line, _)| line + "\n").collect()));
    let mut count = 0;
    for (name, text) in &texts {
        for words in our_lines(text) {
            count += 1;
            let parsed = bytekeep::cli::command().try_get_matches_from(&words);
            assert!(parsed.is_ok(), "{name}: {}: {}", words.join(" "), parsed.unwrap_err());
        }
    }
    let told = page.matches("bytekeep compile").count() + page.matches("bytekeep verify").count();
    assert!(count >= 16 && told > 10, "{count} command lines were found");
    // The test can fail.
    let bad = our_lines("RUN true \\\n && bytekeep compile --envy x\n");
    assert!(bytekeep::cli::command().try_get_matches_from(&bad[0]).is_err());
}

#[test]
fn what_is_shell_is_shell() {
    if !have(&["bash"]) {
        return;
    }
    let page = text("man/bytekeep-recipes.7");
    let mut scripts: Vec<String> = typed_lines(&page).into_iter().map(|(line, _)| line).collect();
    scripts.push(file("post-checkout"));
    let is_run = |line: &&str| line.starts_with("RUN ");
    for (_, build) in files().iter().filter(|(name, _)| name == "Dockerfile") {
        let joined = build.replace("\\\n", " ");
        let runs = joined.lines().filter(is_run).map(|line| {
            line["RUN ".len()..].split_whitespace().skip_while(|word| word.starts_with("--mount=")).collect::<Vec<_>>().join(" ")
        });
        scripts.extend(runs);
    }
    assert!(scripts.len() > 8);
    for script in scripts {
        let done = Command::new("bash").args(["-n", "-c", &script]).output().unwrap();
        assert!(done.status.success(), "{script}\n{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn the_units_are_units() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let units: Vec<(String, String)> = files().into_iter().filter(|(name, _)| name.contains("/systemd/system/")).collect();
    assert_eq!(units.len(), 3);
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no"]);
    for (name, text) in &units {
        let path = dir.path().join(name.rsplit('/').next().unwrap());
        // It wants the program to be there.
        std::fs::write(&path, text.replace("/usr/bin/bytekeep", BYTEKEEP)).unwrap();
        command.arg(path);
    }
    let done = command.output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    let against: Vec<&str> = told.lines().filter(|line| line.contains("bytekeep")).collect();
    assert!(done.status.success() && against.is_empty(), "{told}");
    // The test can fail.
    let path = dir.path().join("bytekeep-bad.service");
    std::fs::write(&path, "[Service]\nType=never\nExecStart=bytekeep\n").unwrap();
    let done = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().unwrap();
    assert!(String::from_utf8_lossy(&done.stderr).contains("bytekeep-bad"));
}

/// Two branches, one with a module less and one with another of the same time and size.
#[test]
fn the_hook_of_git_keeps_a_checkout_in_order() {
    if !have(&["git"]) {
        return;
    }
    let tree = Tree::new();
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=n", "-c", "user.email=n@localhost", "-c", "init.defaultBranch=main"]).args(words);
        tree.dress(&mut command);
        let bin = std::path::Path::new(BYTEKEEP).parent().unwrap();
        let python = python().path.parent().unwrap();
        let path = std::env::join_paths(
            [bin, python].into_iter().map(Into::into).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let done = command.env("PATH", path.unwrap()).env("GIT_CONFIG_NOSYSTEM", "1").output().unwrap();
        assert!(done.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    tree.file(".gitignore", b"__pycache__\n");
    tree.file("pkg/gone.py", b"VALUE = 1\n");
    tree.file("pkg/edited.py", b"VALUE = 1\n");
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-qm", "one"]);
    git(&["checkout", "-qb", "other"]);
    git(&["rm", "-q", "pkg/gone.py"]);
    tree.file("pkg/edited.py", b"VALUE = 2\n");
    git(&["commit", "-qam", "two"]);
    let hook = tree.file(".git/hooks/post-checkout", file("post-checkout").as_bytes());
    whole::must("chmod", &["755".as_ref(), hook.as_os_str()]);
    for (branch, value, count) in [("main", "1", 3), ("other", "2", 2), ("main", "1", 3)] {
        git(&["checkout", "-q", branch]);
        let artifacts = all_below(&tree.root()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "pyc"));
        assert_eq!(artifacts.count(), count, "{branch}");
        assert_eq!(tree.import(python(), "pkg.edited"), value, "{branch}");
        tree.verify().exits(0);
    }
}
