//! `hook print`, `install`, `uninstall` and `status`: what stands in a system, an image or a repository afterwards.

#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a test works on files of its own")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

#[path = "support/pages.rs"]
mod pages;

fn bytekeep(args: &[&str], at: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bytekeep"));
    command.args(args).current_dir(at).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").output().unwrap()
}

/// What it says on stderr, with the exit status that is expected.
fn said(args: &[&str], at: &Path, code: i32) -> String {
    let done = bytekeep(args, at);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(code), "{args:?}: {said}");
    said
}

fn printed(args: &[&str], at: &Path) -> String {
    let done = bytekeep(args, at);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// `(path, state)` of each line that `hook status KIND` has below a root.
fn states(kind: &str, root: &Path) -> Vec<(String, String)> {
    let done = bytekeep(&["hook", "status", kind, "--root", ".", "--format", "json"], root);
    let objects = String::from_utf8(done.stdout).unwrap();
    let objects = objects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text = |value: &Value| value.as_str().unwrap_or("-").trim_start_matches("./").to_owned();
    objects.map(|object| (text(&object["path"]), text(&object["state"]))).collect()
}

/// Every file below a directory, with its permission bits.
fn files(top: &Path) -> Vec<(String, u32)> {
    let mut all = Vec::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            } else {
                let mode = path.symlink_metadata().unwrap().permissions().mode() & 0o777;
                all.push((path.strip_prefix(top).unwrap().to_str().unwrap().to_owned(), mode));
            }
        }
    }
    all.sort();
    all
}

const SYSTEM: &[(&str, &[&str], u32)] = &[
    ("dpkg", &["etc/dpkg/dpkg.cfg.d/bytekeep"], 0o644),
    ("pacman", &["etc/pacman.d/hooks/bytekeep-compile.hook", "etc/pacman.d/hooks/bytekeep-remove.hook"], 0o644),
    ("apk", &["etc/apk/commit_hooks.d/bytekeep"], 0o755),
];

#[test]
fn what_is_printed_is_installed_and_goes_again() {
    for (kind, places, mode) in SYSTEM {
        let top = tempfile::tempdir().unwrap();
        let root = top.path();
        assert!(states(kind, root).iter().all(|(_, state)| state == "absent"), "{kind}");
        said(&["hook", "install", kind, "--root", "."], root, 0);
        assert_eq!(files(root), places.iter().map(|place| ((*place).to_owned(), *mode)).collect::<Vec<_>>(), "{kind}");
        let printed = printed(&["hook", "print", kind], root);
        for place in *places {
            let there = std::fs::read_to_string(root.join(place)).unwrap();
            assert!(printed.contains(&there), "{kind}: {printed}");
            assert!(there.contains(env!("CARGO_PKG_VERSION")) && there.contains(&format!("/{place}")), "{there}");
        }
        assert_eq!(states(kind, root), places.iter().map(|place| ((*place).to_owned(), "current".to_owned())).collect::<Vec<_>>());

        // Once more changes nothing.
        let stamps = || places.iter().map(|place| std::fs::metadata(root.join(place)).unwrap().modified().unwrap()).collect::<Vec<_>>();
        let before = stamps();
        assert!(said(&["hook", "install", kind, "--root", "."], root, 0).contains("Current already"));
        assert_eq!(stamps(), before);

        said(&["hook", "uninstall", kind, "--root", "."], root, 0);
        assert_eq!(files(root), []);
        assert!(said(&["hook", "uninstall", kind, "--root", "."], root, 0).contains("No hook"));
    }
}

#[test]
fn what_was_edited_and_what_is_somebody_elses_stays() {
    for (kind, places, _) in SYSTEM {
        let top = tempfile::tempdir().unwrap();
        let (root, last) = (top.path(), top.path().join(places.last().unwrap()));
        said(&["hook", "install", kind, "--root", "."], root, 0);
        let ours = std::fs::read_to_string(&last).unwrap();
        let edited = format!("{ours}# mine\n");
        std::fs::write(&last, &edited).unwrap();
        assert_eq!(states(kind, root).last().unwrap().1, "edited");
        assert_eq!(bytekeep(&["hook", "status", kind, "--root", "."], root).status.code(), Some(1));
        let refused = said(&["hook", "install", kind, "--root", "."], root, 2);
        assert!(refused.contains("was edited") && refused.contains("--force") && refused.contains(places.last().unwrap()), "{refused}");
        assert_eq!(std::fs::read_to_string(&last).unwrap(), edited);
        // The others of its kind go, this one is told and stays.
        let left = said(&["hook", "uninstall", kind, "--root", "."], root, 1);
        assert!(left.contains(&format!("left: {}", places.last().unwrap())) && left.contains("edited"), "{left}");
        assert_eq!(files(root).len(), 1);
        said(&["hook", "install", kind, "--root", ".", "--force"], root, 0);
        assert_eq!(std::fs::read_to_string(&last).unwrap(), ours);

        std::fs::write(&last, "theirs\n").unwrap();
        assert_eq!(states(kind, root).last().unwrap().1, "foreign");
        assert!(said(&["hook", "install", kind, "--root", "."], root, 2).contains("not bytekeep's"));
        said(&["hook", "uninstall", kind, "--root", ".", "--force"], root, 0);
        assert_eq!(std::fs::read_to_string(&last).unwrap(), "theirs\n", "it never was ours");
        // Nothing was half done: none of the others was put back before the refusal.
        assert_eq!(files(root).len(), 1);
        assert!(said(&["hook", "install", kind, "--root", "."], root, 2).contains("not bytekeep's"));
        assert_eq!(files(root).len(), 1);
        said(&["hook", "install", kind, "--root", ".", "--force"], root, 0);
        assert_eq!(std::fs::read_to_string(&last).unwrap(), ours);
    }
}

#[test]
fn a_link_leads_nowhere() {
    let top = tempfile::tempdir().unwrap();
    let root = top.path().join("root");
    std::fs::create_dir_all(root.join("etc/pacman.d")).unwrap();
    std::fs::create_dir(top.path().join("outside")).unwrap();
    symlink(top.path().join("outside"), root.join("etc/pacman.d/hooks")).unwrap();
    said(&["hook", "install", "pacman", "--root", "."], &root, 2);
    assert_eq!(files(&top.path().join("outside")), []);
    // That one place cannot be looked at is told, and the others are told too.
    let done = bytekeep(&["hook", "status", "--root", "."], &root);
    let (table, told) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
    assert!(done.status.code() == Some(1) && told.contains("pacman.d/hooks") && table.contains("dpkg      absent"), "{told}{table}");
    // pacman's own way to disable a hook.
    std::fs::remove_file(root.join("etc/pacman.d/hooks")).unwrap();
    std::fs::create_dir(root.join("etc/pacman.d/hooks")).unwrap();
    symlink("/dev/null", root.join("etc/pacman.d/hooks/bytekeep-remove.hook")).unwrap();
    let told = said(&["hook", "install", "pacman", "--root", ".", "--force"], &root, 2);
    assert!(told.contains("is disabled") && told.contains("a link to /dev/null"), "{told}");
    let table = printed(&["hook", "status", "pacman", "--root", "."], &root);
    assert!(table.contains("pacman    disabled     etc/pacman.d/hooks/bytekeep-remove.hook"), "{table}");
    let told = said(&["hook", "uninstall", "pacman", "--root", "."], &root, 0);
    assert!(told.contains("a link to /dev/null"), "{told}");
    assert_eq!(files(&root).len(), 1);
    assert!(root.join("etc/pacman.d/hooks/bytekeep-remove.hook").is_symlink());
}

/// A system whose files cannot be written: told, with what to do, and no trace of it.
#[test]
fn where_nothing_can_be_written_it_is_said() {
    let top = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs tmpfs . && mkdir -p etc/apk && mount -o remount,ro . && cd . && "$0" hook install apk --root ."#;
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--map-root-user", "sh", "-c", script, env!("CARGO_BIN_EXE_bytekeep")]).current_dir(top.path());
    let Ok(done) = shell.output() else { return aloud("SKIP: `unshare` is not installed") };
    let said = String::from_utf8(done.stderr).unwrap();
    if !said.contains("error: ") {
        return aloud(&format!("SKIP: no read-only place can be made: {}", said.trim()));
    }
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("Read-only file system") && said.contains("`bytekeep hook install apk --root DIR`"), "{said}");
}

#[test]
fn an_older_versions_file_is_outdated_and_is_renewed() {
    let top = tempfile::tempdir().unwrap();
    let root = top.path();
    said(&["hook", "install", "dpkg", "--root", "."], root, 0);
    let path = root.join("etc/dpkg/dpkg.cfg.d/bytekeep");
    let now = std::fs::read_to_string(&path).unwrap();
    // As another version would sign another text: the digest is over all but itself.
    let (line, rest) = now.split_once('\n').unwrap();
    let told = line.split_once(", ").unwrap().1.split(';').next().unwrap();
    let (line, rest) = (line.replace(told, "").replace(env!("CARGO_PKG_VERSION"), "0.0.7"), rest.replace("--nice ", ""));
    let unsigned = format!("{line}\n{rest}");
    let digest = blake3::hash(unsigned.as_bytes()).to_hex();
    std::fs::write(&path, unsigned.replacen(", ;", &format!(", {};", &digest[..16]), 1)).unwrap();
    assert_eq!(states("dpkg", root)[0].1, "outdated");
    let table = bytekeep(&["hook", "status", "--root", "."], root);
    assert_eq!(table.status.code(), Some(1));
    assert!(String::from_utf8(table.stdout).unwrap().contains("(of bytekeep 0.0.7)"));
    said(&["hook", "install", "dpkg", "--root", "."], root, 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), now);
}

#[test]
fn a_package_that_has_it_is_enough() {
    let top = tempfile::tempdir().unwrap();
    let root = top.path();
    std::fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    std::fs::write(root.join("var/lib/dpkg/info/bytekeep.triggers"), "interest-noawait /x\n").unwrap();
    assert!(said(&["hook", "install", "dpkg", "--root", "."], root, 0).contains("package"));
    assert!(!root.join("etc").exists());
    let states = states("dpkg", root);
    assert_eq!(states.iter().map(|(_, state)| state.as_str()).collect::<Vec<_>>(), ["absent", "packaged"]);
    said(&["hook", "install", "dpkg", "--root", ".", "--force"], root, 0);
    assert!(root.join("etc/dpkg/dpkg.cfg.d/bytekeep").exists());
}

#[test]
fn managers_without_hooks_say_what_to_do_instead() {
    let top = tempfile::tempdir().unwrap();
    for (kind, says) in
        [("pip", "pip install --no-compile"), ("uv", "uv sync &&"), ("conda", "post-link.sh"), ("rpm", "%transfiletriggerin")]
    {
        assert!(printed(&["hook", "print", kind], top.path()).contains(says), "{kind}");
        for command in ["install", "uninstall"] {
            let refused = said(&["hook", command, kind], top.path(), 2);
            assert!(refused.contains(&format!("`bytekeep hook print {kind}`")), "{refused}");
        }
        assert_eq!(states(kind, top.path()), [("-".to_owned(), "unsupported".to_owned())]);
    }
}

/// Scripts of a shell are such to the shell, and what a spec gets is understood by rpm.
#[test]
fn what_is_printed_can_be_read_by_those_it_is_for() {
    let top = tempfile::tempdir().unwrap();
    for (kind, place) in [("apk", "etc/apk/commit_hooks.d/bytekeep"), ("conda", "")] {
        let path = top.path().join("script");
        if place.is_empty() {
            std::fs::write(&path, printed(&["hook", "print", kind], top.path())).unwrap();
        } else {
            said(&["hook", "install", kind, "--root", "."], top.path(), 0);
            std::fs::copy(top.path().join(place), &path).unwrap();
        }
        let done = Command::new("sh").arg("-n").arg(&path).output().unwrap();
        assert!(done.status.success(), "{kind}: {}", String::from_utf8_lossy(&done.stderr));
    }
    // What apk's does, with another place for modules and a stand-in for the command.
    let (called, lib) = (top.path().join("called"), top.path().join("lib"));
    std::fs::create_dir_all(lib.join("python3.12/site-packages")).unwrap();
    let stand_in = top.path().join("bytekeep");
    std::fs::write(&stand_in, format!("#!/bin/sh\necho \"$*\" >>{}\nexit 3\n", called.display())).unwrap();
    std::fs::set_permissions(&stand_in, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = std::fs::read_to_string(top.path().join("etc/apk/commit_hooks.d/bytekeep")).unwrap();
    let text = text.replace("/usr/lib/", &format!("{}/", lib.display())).replace("/usr/bin/bytekeep", stand_in.to_str().unwrap());
    for moment in ["pre-commit", "post-commit"] {
        assert!(Command::new("sh").args(["-c", &text, "bytekeep", moment]).status().unwrap().success(), "{moment}");
    }
    let site = lib.join("python3.12/site-packages");
    assert_eq!(std::fs::read_to_string(&called).unwrap(), format!("hook run apk --nice -- {}\n", site.display()));
    if pages::have(&["rpmspec"]) {
        let spec = "Name: x\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\n%description\nx\n%files\n\n";
        let path = top.path().join("x.spec");
        std::fs::write(&path, spec.to_owned() + &printed(&["hook", "print", "rpm"], top.path())).unwrap();
        let done = Command::new("rpmspec").arg("--parse").arg(&path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    if pages::have(&["dpkg"]) {
        // dpkg reads the file at each start: one that it does not understand would end all of them.
        said(&["hook", "install", "dpkg", "--root", "."], top.path(), 0);
        let admin = top.path().join("admin");
        std::fs::create_dir_all(admin.join("updates")).unwrap();
        std::fs::write(admin.join("status"), "").unwrap();
        let text = std::fs::read_to_string(top.path().join("etc/dpkg/dpkg.cfg.d/bytekeep")).unwrap();
        let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
        let ran = top.path().join("ran");
        let stand_in =
            line.replace("/usr/bin/bytekeep hook run", &format!("touch {}; true", ran.display())).replace("/usr/bin/bytekeep", "/bin/sh");
        let home = top.path().join("home");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join(".dpkg.cfg"), stand_in + "\n").unwrap();
        let mut dpkg = Command::new("dpkg");
        dpkg.env("HOME", &home).arg("--force-not-root").arg("--admindir").arg(&admin).args(["--configure", "--pending"]);
        let done = dpkg.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(ran.exists(), "dpkg runs what it was given");
    }
}

/// Past the test harness, which keeps the output of tests that pass to itself.
fn aloud(text: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{text}"));
}

fn git(at: &Path, args: &[&str]) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(at).args(["-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main"]).args(args);
    let done = git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").output().unwrap();
    assert!(done.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

const HOOKS: [&str; 3] = ["post-checkout", "post-merge", "post-rewrite"];

fn executable(dir: &Path) -> Vec<String> {
    let all = files(dir).into_iter().filter(|(name, mode)| mode & 0o111 == 0o111 && !name.ends_with(".sample"));
    all.map(|(name, _)| name).collect()
}

#[test]
fn git_gets_its_hooks_where_it_looks_for_them() {
    if !pages::have(&["git"]) {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    let repository: PathBuf = top.path().join("a repository");
    std::fs::create_dir(&repository).unwrap();
    git(&repository, &["init", "-q"]);
    git(&repository, &["commit", "-q", "--allow-empty", "-m", "first"]);
    git(&repository, &["worktree", "add", "-q", "../linked"]);
    std::fs::create_dir(repository.join("below")).unwrap();

    said(&["hook", "install", "git"], &repository.join("below"), 0);
    assert_eq!(executable(&repository.join(".git/hooks")), HOOKS);
    // A linked work tree has those of the main one.
    assert!(states("git", &top.path().join("linked")).iter().all(|(_, state)| state == "current"));
    // Whatever the hook does, git goes on: its exit status would be git's.
    git(&repository, &["checkout", "-q", "-b", "other"]);

    // And it does its work: a module that a branch does not have leaves nothing behind that could be imported.
    if pages::have(&["python3"]) {
        std::fs::write(repository.join("gone.py"), "x = 1\n").unwrap();
        git(&repository, &["add", "gone.py"]);
        git(&repository, &["commit", "-q", "-m", "second"]);
        let done = Command::new("python3").args(["-m", "py_compile", "gone.py"]).current_dir(&repository).status().unwrap();
        assert!(done.success());
        let cache = repository.join("__pycache__");
        assert_eq!(files(&cache).len(), 1);
        git(&repository, &["checkout", "-q", "main"]);
        assert!(!cache.exists(), "{:?}", files(&cache));
    }

    // A hook of somebody else: told, with the line to add; and nothing is touched.
    said(&["hook", "uninstall", "git"], &repository, 0);
    assert_eq!(executable(&repository.join(".git/hooks")), Vec::<String>::new());
    std::fs::write(repository.join(".git/hooks/post-merge"), "#!/bin/sh\nexit 0\n").unwrap();
    let refused = said(&["hook", "install", "git"], &repository, 2);
    assert!(refused.contains("post-merge") && refused.contains("`bytekeep hook run git -- post-merge \"$@\""), "{refused}");
    assert!(!repository.join(".git/hooks/post-checkout").exists());

    // core.hooksPath counts, below the top of the work tree.
    git(&repository, &["config", "core.hooksPath", "our-hooks"]);
    said(&["hook", "install", "git", "--root", "."], &repository, 0);
    assert_eq!(executable(&repository.join("our-hooks")), HOOKS);
    let out = said(&["hook", "install", "git"], &repository.join("below"), 0);
    assert!(out.contains("Current already"), "one place, from wherever in the tree it is asked: {out}");
    assert_eq!(files(&repository.join("below")), []);

    let bare = top.path().join("bare");
    git(top.path(), &["init", "-q", "--bare", "bare"]);
    assert!(said(&["hook", "install", "git"], &bare, 2).contains("bare"));
    said(&["hook", "install", "git", "--root", "."], top.path(), 2);
    assert!(!printed(&["hook", "status", "--root", "."], top.path()).contains("git "), "no repository, no line");
}
