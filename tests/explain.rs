//! What `explain` says of every module of prepared trees, against what real interpreters then do: each is started twice with `-v`, by the
//! user who was asked about, and tells for each module whether it took the artifact or compiled the source. What it compiles the second
//! time it compiles at every start.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a test works on files of its own")]

mod support;
#[path = "support/whole.rs"]
mod whole;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};

use support::Python;
use whole::{Outcome, Tree, all_pythons, aloud, is_root, may, must, root_or_skip, set_mtime};

/// The user who runs the interpreters where we are root.
const NOBODY: u32 = 65534;

/// Becomes another user after the start: interpreters in somebody's home directory are closed to others.
const IMPORT: &str = "
import sys, os
if sys.argv[1] != '-':
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
sys.path[:] = sys.argv[2].split(':')
for name in sys.argv[3:]:
    try:
        print('RESULT %s %s' % (name, __import__(name).VALUE))
    except Exception:
        print('RESULT %s error' % name)
";

/// Compiles what lines of mode and path name, and answers each: one interpreter for many modules.
const COMPILE: &str = "
import sys, py_compile
while True:
    line = sys.stdin.readline()
    if not line:
        break
    mode, name = line.rstrip().split(' ', 1)
    if mode == 'default':
        py_compile.compile(name, doraise=True)
    else:
        py_compile.compile(name, doraise=True, invalidation_mode=getattr(py_compile.PycInvalidationMode, mode))
    sys.stdout.write('done\\n')
    sys.stdout.flush()
";

/// The interpreter that runs it, at one level.
struct Compiler {
    level: u8,
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Drop for Compiler {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Modules in directories, for one interpreter.
struct Prepared<'p> {
    tree: Tree,
    python: &'p Python,
    level: u8,
    /// Name of the module, the directory, and the outcome that is expected.
    modules: Vec<(String, String, &'static str)>,
    environment: Vec<(&'static str, PathBuf)>,
    compiler: Option<Compiler>,
}

impl<'p> Prepared<'p> {
    fn new(python: &'p Python) -> Self {
        let tree = Tree::new();
        tree.open_to_all();
        std::fs::remove_file(tree.path("good.py")).unwrap();
        Self { tree, python, level: 0, modules: Vec::new(), environment: Vec::new(), compiler: None }
    }

    /// A module whose source is made now; what stands in its artifact's place is up to the caller.
    fn source(&mut self, dir: &str, name: &str, expected: &'static str) -> PathBuf {
        self.modules.push((name.to_owned(), dir.to_owned(), expected));
        let body = "def function(argument):\n    return argument + 1\n".repeat(40);
        self.tree.old_file(format!("{dir}/{name}.py"), format!("VALUE = 1\n{body}").as_bytes())
    }

    /// The same, compiled by the interpreter itself.
    fn compiled(&mut self, dir: &str, name: &str, mode: &str, expected: &'static str) -> PathBuf {
        let source = self.source(dir, name, expected);
        self.compile(&source, mode);
        assert!(self.artifact(dir, name).exists(), "{}", self.artifact(dir, name).display());
        source
    }

    fn compile(&mut self, source: &Path, mode: &str) {
        if self.compiler.as_ref().is_none_or(|compiler| compiler.level != self.level) {
            let mut command = self.python.command();
            command.args(self.flags()).args(["-S", "-c", COMPILE]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let answers = BufReader::new(child.stdout.take().unwrap());
            self.compiler = Some(Compiler { level: self.level, child, answers });
        }
        let compiler = self.compiler.as_mut().unwrap();
        writeln!(compiler.child.stdin.as_mut().unwrap(), "{mode} {}", source.display()).unwrap();
        let mut answer = String::new();
        compiler.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "done\n", "{} {}", self.python.tag, source.display());
    }

    fn flags(&self) -> &'static [&'static str] {
        match self.level {
            0 => &[],
            1 => &["-O"],
            _ => &["-OO"],
        }
    }

    fn artifact(&self, dir: &str, name: &str) -> PathBuf {
        let plain = self.tree.artifact(format!("{dir}/{name}.py"), self.python);
        match (self.level, self.python.version.0) {
            (0, _) => plain,
            (_, 2) => plain.with_extension("pyo"),
            (level, _) => plain.with_extension(format!("opt-{level}.pyc")),
        }
    }

    fn change(&self, dir: &str, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.artifact(dir, name);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    }

    /// Gives a directory and its directory of artifacts these permissions.
    fn mode(&self, dir: &str, mode: u32) {
        for path in [self.tree.path(dir).join("__pycache__"), self.tree.path(dir)] {
            if path.is_dir() {
                set_mode(&path, mode);
            }
        }
    }

    fn header(&self) -> usize {
        match self.python.version {
            (2, _) => 8,
            (3, 6) => 12,
            _ => 16,
        }
    }

    fn has_hashes(&self) -> bool {
        self.header() == 16
    }

    /// What `explain` says, by module: outcome, cause, obstacle.
    fn explained(&self) -> BTreeMap<String, (String, String, String)> {
        self.explain(&[])
            .lines
            .iter()
            .filter(|line| line["kind"] == "answer")
            .map(|line| {
                let path = line["source"].as_str().unwrap_or_else(|| line["path"].as_str().unwrap());
                let name = Path::new(path).file_stem().unwrap().to_str().unwrap().to_owned();
                let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
                (name, (text(&line["outcome"]), text(&line["cause"]["code"]), text(&line["obstacle"]["code"])))
            })
            .collect()
    }

    fn explain(&self, more: &[&str]) -> Outcome {
        let level = self.level.to_string();
        let mut args = vec!["explain", "."];
        if self.level > 0 {
            args.extend(["--optimize", &level]);
        }
        if more.is_empty() {
            args.extend(["--format", "json"]);
        }
        let uid = NOBODY.to_string();
        if is_root() {
            args.extend(["--user", &uid]);
        }
        args.extend(more);
        let mut run = self.tree.bytekeep(Some(self.python), args);
        for (name, value) in &self.environment {
            run = run.env(name, value);
        }
        run.run()
    }

    /// What the interpreter does, by module: `cached`, `compiled` or `fails`, and the value that the module has.
    fn imported(&self) -> BTreeMap<String, (&'static str, String)> {
        let mut dirs: Vec<String> = self.modules.iter().map(|(_, dir, _)| self.tree.path(dir).to_str().unwrap().to_owned()).collect();
        dirs.sort();
        dirs.dedup();
        let mut command = self.python.command();
        command.args(self.flags()).args(["-S", "-v", "-c", IMPORT]).arg(if is_root() { NOBODY.to_string() } else { "-".to_owned() });
        command.arg(dirs.join(":")).args(self.modules.iter().map(|(name, ..)| name)).current_dir("/");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let done = command.output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{stderr}");
        let result = |name: &str| {
            let start = format!("RESULT {name} ");
            let value = stdout.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("{name}: {stdout}{stderr}"));
            let said = |what: &[&str]| stderr.lines().any(|line| what.iter().all(|part| line.contains(part)));
            let cached = said(&["# code object from '", &format!("/{name}.")]) || said(&[&format!("import {name} # precompiled from ")]);
            let compiled = said(&["# code object from /", &format!("/{name}.py")]) || said(&[&format!("import {name} # from ")]);
            let what = match (value, cached, compiled) {
                ("error", ..) => "fails",
                (_, true, false) => "cached",
                (_, false, true) => "compiled",
                other => panic!("{name}: {other:?}\n{stderr}"),
            };
            (what, value.to_owned())
        };
        self.modules.iter().map(|(name, ..)| (name.clone(), result(name))).collect()
    }

    /// The proof: what is expected, what is said, and what the interpreter does twice in a row are the same.
    fn proved(&self) {
        let said = self.explained();
        let (first, second) = (self.imported(), self.imported());
        for (name, _, expected) in &self.modules {
            let tag = &self.python.tag;
            let said = said.get(name).unwrap_or_else(|| panic!("{tag}: nothing is said of {name}: {said:?}"));
            let (before, after) = (&first[name], &second[name]);
            let outcome = match (before.0, after.0) {
                ("cached", "cached") if before.1 == "1" => "cached",
                // The source says 1.
                ("cached", "cached") => "other-code",
                ("compiled", "cached") => "once",
                ("compiled", "compiled") => "every-start",
                ("fails", "fails") => "fails",
                other => panic!("{tag}: {name}: {other:?}"),
            };
            assert_eq!(said.0, outcome, "{tag}: {name}: {said:?}, and the interpreter: {before:?}, then {after:?}");
            assert_eq!(outcome, *expected, "{tag}: {name}");
        }
        assert_eq!(said.len(), self.modules.len(), "{said:?}");
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The same source once more, with another value: same length, so that only its time or hash tells.
fn edit(source: &Path, keep_time: bool) {
    let text = std::fs::read_to_string(source).unwrap();
    std::fs::write(source, text.replace("VALUE = 2", "VALUE = 1")).unwrap();
    if keep_time {
        set_mtime(source, 1_500_000_000);
    }
}

/// An artifact of a source that said something else.
fn stale_hash(prepared: &mut Prepared<'_>, dir: &str, name: &str, mode: &str, expected: &'static str) {
    let source = prepared.source(dir, name, expected);
    let text = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, text.replace("VALUE = 1", "VALUE = 2")).unwrap();
    prepared.compile(&source, mode);
    edit(&source, true);
}

fn two() -> [&'static str; 2] {
    ["once", "every-start"]
}

#[test]
fn artifacts_of_every_kind_where_they_can_be_written_and_where_not() {
    for python in all_pythons() {
        let mut prepared = Prepared::new(python);
        let is_2 = python.version.0 == 2;
        for (dir, compiled) in ["open", "closed"].into_iter().zip(two()) {
            let name = |what: &str| format!("{dir}_{what}");
            prepared.compiled(dir, &name("fresh"), "default", "cached");
            prepared.source(dir, &name("missing"), compiled);
            let source = prepared.compiled(dir, &name("stale"), "default", compiled);
            set_mtime(&source, 1_400_000_000);
            prepared.compiled(dir, &name("magic"), "default", compiled);
            prepared.change(dir, &name("magic"), |bytes| bytes[0] ^= 0x55);
            prepared.compiled(dir, &name("crlf"), "default", compiled);
            prepared.change(dir, &name("crlf"), |bytes| bytes[3] = b' ');
            prepared.compiled(dir, &name("zeros"), "default", compiled);
            prepared.change(dir, &name("zeros"), |bytes| bytes.fill(0));
            prepared.compiled(dir, &name("empty"), "default", compiled);
            prepared.change(dir, &name("empty"), Vec::clear);
            prepared.compiled(dir, &name("short"), "default", compiled);
            prepared.change(dir, &name("short"), |bytes| bytes.truncate(6));
            let header = prepared.header();
            prepared.compiled(dir, &name("header_only"), "default", "fails");
            prepared.change(dir, &name("header_only"), |bytes| bytes.truncate(header));
            prepared.compiled(dir, &name("truncated"), "default", "fails");
            prepared.change(dir, &name("truncated"), |bytes| bytes.truncate(bytes.len() / 2));
            prepared.compiled(dir, &name("zeroed"), "default", "fails");
            prepared.change(dir, &name("zeroed"), |bytes| bytes[header..].fill(0));
            prepared.compiled(dir, &name("no_code"), "default", "fails");
            prepared.change(dir, &name("no_code"), |bytes| {
                bytes.truncate(header);
                bytes.push(b'N');
            });
            // A truncated one that is stale is never loaded.
            let source = prepared.compiled(dir, &name("stale_truncated"), "default", compiled);
            prepared.change(dir, &name("stale_truncated"), |bytes| bytes.truncate(bytes.len() / 2));
            set_mtime(&source, 1_400_000_000);
            prepared.compiled(dir, &name("trailing"), "default", "cached");
            prepared.change(dir, &name("trailing"), |bytes| bytes.extend([7; 100]));
            prepared.compiled(dir, &name("in_the_way"), "default", "every-start");
            let artifact = prepared.artifact(dir, &name("in_the_way"));
            std::fs::remove_file(&artifact).unwrap();
            std::fs::create_dir(&artifact).unwrap();
            prepared.compiled(dir, &name("linked"), "default", "cached");
            let artifact = prepared.artifact(dir, &name("linked"));
            let real = prepared.tree.outside(&name("linked"));
            std::fs::rename(&artifact, &real).unwrap();
            symlink(&real, &artifact).unwrap();
            if !is_2 {
                prepared.compiled(dir, &name("others"), "default", compiled);
                let artifact = prepared.artifact(dir, &name("others"));
                std::fs::rename(&artifact, artifact.with_file_name(name("others.cpython-35.pyc"))).unwrap();
            }
            if prepared.has_hashes() {
                prepared.compiled(dir, &name("checked"), "CHECKED_HASH", "cached");
                prepared.compiled(dir, &name("unchecked"), "UNCHECKED_HASH", "cached");
                stale_hash(&mut prepared, dir, &name("checked_stale"), "CHECKED_HASH", compiled);
                stale_hash(&mut prepared, dir, &name("unchecked_stale"), "UNCHECKED_HASH", "other-code");
                let source = prepared.compiled(dir, &name("unchecked_touched"), "UNCHECKED_HASH", "cached");
                set_mtime(&source, 1_400_000_000);
                prepared.compiled(dir, &name("flags"), "default", compiled);
                prepared.change(dir, &name("flags"), |bytes| bytes[5] = 1);
            }
            // What this user cannot read.
            prepared.compiled(dir, &name("secret_artifact"), "default", compiled);
            set_mode(&prepared.artifact(dir, &name("secret_artifact")), 0);
            let source = prepared.compiled(dir, &name("secret_source"), "default", "cached");
            set_mode(&source, 0);
            let source = prepared.compiled(dir, &name("secret_stale"), "default", if is_2 { "cached" } else { "fails" });
            set_mtime(&source, 1_400_000_000);
            set_mode(&source, 0);
            if prepared.has_hashes() {
                let source = prepared.compiled(dir, &name("secret_checked"), "CHECKED_HASH", "fails");
                set_mode(&source, 0);
                let source = prepared.compiled(dir, &name("secret_unchecked"), "UNCHECKED_HASH", "cached");
                set_mode(&source, 0);
            }
            // Modules without a source.
            for (what, expected) in [("alone", "cached"), ("alone_magic", "fails"), ("alone_cut", "fails")] {
                let source = prepared.compiled(dir, &name(what), "default", expected);
                match what {
                    "alone_magic" => prepared.change(dir, &name(what), |bytes| bytes[0] ^= 0x55),
                    "alone_cut" => prepared.change(dir, &name(what), |bytes| bytes.truncate(bytes.len() / 2)),
                    _ => {}
                }
                std::fs::rename(prepared.artifact(dir, &name(what)), source.with_extension("pyc")).unwrap();
                std::fs::remove_file(source).unwrap();
            }
            if !is_2 {
                // Beside its source, where only 2.7 looks.
                let source = prepared.compiled(dir, &name("legacy"), "default", compiled);
                std::fs::rename(prepared.artifact(dir, &name("legacy")), source.with_extension("pyc")).unwrap();
            }
        }
        prepared.mode("open", 0o777);
        prepared.mode("closed", 0o555);
        prepared.proved();
    }
}

#[test]
fn directories_that_hide_or_keep_what_is_in_them() {
    if !root_or_skip("directories that hide from another user what is in them") {
        return;
    }
    for python in all_pythons().iter().filter(|python| python.version.0 == 3) {
        let mut prepared = Prepared::new(python);
        // Not to be listed, not to be reached, and one whose parent is not to be reached.
        prepared.compiled("unlisted", "unlisted", "default", "fails");
        prepared.compiled("unreached", "unreached", "default", "fails");
        prepared.compiled("above/below", "below", "default", "fails");
        // The directory of artifacts alone.
        prepared.compiled("shut", "shut", "default", "every-start");
        prepared.compiled("no_new", "no_new", "default", "cached");
        prepared.source("no_new", "no_new_missing", "every-start");
        prepared.source("no_cache", "no_cache", "every-start");
        prepared.source("group", "group", "once");
        prepared.source("file", "file", "every-start");
        std::fs::write(prepared.tree.path("file/__pycache__"), "").unwrap();
        prepared.source("dangling", "dangling", "every-start");
        symlink("nowhere", prepared.tree.path("dangling/__pycache__")).unwrap();
        for (dir, mode) in [
            ("unlisted", 0o711),
            ("unreached", 0o744),
            ("above", 0o744),
            ("shut/__pycache__", 0o700),
            ("no_new/__pycache__", 0o755),
            ("no_cache", 0o755),
            ("group", 0o775),
            ("file", 0o777),
            ("dangling", 0o777),
        ] {
            set_mode(&prepared.tree.path(dir), mode);
        }
        std::os::unix::fs::chown(prepared.tree.path("group"), None, Some(NOBODY)).unwrap();
        prepared.proved();
    }
}

#[test]
fn another_users_artifact_in_a_sticky_directory_stays() {
    if !root_or_skip("a sticky directory of another user") {
        return;
    }
    for python in all_pythons() {
        let mut prepared = Prepared::new(python);
        let source = prepared.compiled("sticky", "sticky_stale", "default", "every-start");
        set_mtime(&source, 1_400_000_000);
        let source = prepared.compiled("sticky", "sticky_own", "default", "once");
        set_mtime(&source, 1_400_000_000);
        std::os::unix::fs::chown(prepared.artifact("sticky", "sticky_own"), Some(NOBODY), Some(NOBODY)).unwrap();
        prepared.source("sticky", "sticky_missing", "once");
        prepared.mode("sticky", 0o1777);
        prepared.proved();
    }
}

/// A file system that is mounted read-only, until it is dropped.
struct ReadOnly(PathBuf);

impl Drop for ReadOnly {
    fn drop(&mut self) {
        must("umount", &["-l".as_ref(), self.0.as_os_str()]);
    }
}

#[test]
fn nothing_is_kept_on_a_read_only_file_system() {
    if !root_or_skip("a read-only file system") {
        return;
    }
    let mut prepared = Prepared::new(whole::python());
    let dir = prepared.tree.path("fixed");
    std::fs::create_dir(&dir).unwrap();
    if !may("mount", &["-t", "tmpfs", "-o", "size=2m,mode=777", "none", dir.to_str().unwrap()]) {
        return;
    }
    let _mounted = ReadOnly(dir.clone());
    prepared.compiled("fixed", "fresh", "default", "cached");
    let source = prepared.compiled("fixed", "stale", "default", "every-start");
    set_mtime(&source, 1_400_000_000);
    prepared.mode("fixed", 0o777);
    must("mount", &["-o".as_ref(), "remount,ro".as_ref(), dir.as_os_str()]);
    prepared.proved();
    let stale = &prepared.explained()["stale"];
    assert_eq!((&*stale.1, &*stale.2), ("stale", "read-only"));
}

#[test]
fn the_environment_and_the_level_count() {
    for python in all_pythons() {
        let mut prepared = Prepared::new(python);
        prepared.compiled("d", "fresh", "default", "cached");
        prepared.source("d", "missing", "every-start");
        prepared.mode("d", 0o777);
        prepared.environment.push(("PYTHONDONTWRITEBYTECODE", "1".into()));
        prepared.proved();
        let missing = &prepared.explained()["missing"];
        assert_eq!((&*missing.1, &*missing.2), ("missing", "dont-write"));

        let mut prepared = Prepared::new(python);
        prepared.compiled("d", "plain", "default", "once");
        prepared.level = 1;
        prepared.compiled("d", "optimized", "default", "cached");
        prepared.mode("d", 0o777);
        prepared.proved();

        // Known from 3.8 on; a variable that means nothing to an interpreter is none in the way.
        let knows = python.version >= (3, 8);
        for (dir, expected) in [("writable", "once"), ("closed", "every-start")] {
            let mut prepared = Prepared::new(python);
            let prefix = prepared.tree.outside(dir);
            std::fs::create_dir(&prefix).unwrap();
            set_mode(&prefix, if dir == "writable" { 0o777 } else { 0o555 });
            if dir == "writable" {
                // What the interpreter writes there before it becomes another user shall not shut that user out.
                let mut mirror = prefix.clone();
                for part in prepared.tree.root().strip_prefix("/").unwrap() {
                    mirror.push(part);
                    std::fs::create_dir(&mirror).unwrap();
                    set_mode(&mirror, 0o777);
                }
            }
            prepared.compiled("d", "beside", "default", if knows { expected } else { "cached" });
            prepared.environment.push(("PYTHONPYCACHEPREFIX", prefix.clone()));
            let before = prepared.explained()["beside"].clone();
            prepared.proved();
            assert_eq!(before.1, if knows { "prefix" } else { "" }, "{}", python.tag);
            if knows && dir == "writable" {
                let after = prepared.explained()["beside"].clone();
                assert_eq!(after.0, "cached", "{}", python.tag);
            }
        }
    }
}

/// `0` turns a variable off from CPython 3.7 on; before, and to PyPy, it is set, and that is all that counts.
#[test]
fn variables_are_read_as_the_interpreter_reads_them() {
    for python in all_pythons() {
        for value in ["0", "yes"] {
            let is_on = value != "0" || python.pypy || python.version < (3, 7);
            let mut prepared = Prepared::new(python);
            prepared.compiled("d", "fresh", "default", "cached");
            prepared.source("d", "missing", if is_on { "every-start" } else { "once" });
            prepared.mode("d", 0o777);
            prepared.environment.push(("PYTHONDONTWRITEBYTECODE", value.into()));
            prepared.proved();

            let mut prepared = Prepared::new(python);
            prepared.compiled("d", "plain", "default", if is_on { "once" } else { "cached" });
            prepared.mode("d", 0o777);
            prepared.environment.push(("PYTHONOPTIMIZE", value.into()));
            prepared.proved();
        }
        // The option says more than the variable; and a level that nobody makes artifacts for is none that can be told about.
        let mut prepared = Prepared::new(python);
        prepared.compiled("d", "plain", "default", "cached");
        prepared.environment.push(("PYTHONOPTIMIZE", "3".into()));
        assert_eq!(prepared.explain(&["--optimize", "0"]).exits(0).stderr, "");
        if python.version.0 == 3 {
            let told = prepared.explain(&[]).exits(2);
            assert!(told.stderr.contains("PYTHONOPTIMIZE") && told.stderr.contains("--optimize"), "{}", told.shown());
        } else {
            prepared.explain(&[]).exits(1);
        }
    }
}

#[test]
fn times_that_a_header_cannot_keep() {
    for python in all_pythons() {
        let mut prepared = Prepared::new(python);
        // 2.7 compares as signed, 3.6 without a mask, later ones modulo 2^32.
        let (late, never) = match python.version {
            (2, _) => (3_000_000_000, "every-start"),
            (3, 6) => (5_000_000_000, "every-start"),
            _ => (5_000_000_000, "once"),
        };
        let source = prepared.source("d", "late", never);
        set_mtime(&source, late);
        if source.metadata().unwrap().mtime() != late {
            aloud("SKIP: this file system keeps no times after 2106");
            return;
        }
        prepared.mode("d", 0o777);
        // As `explain` sees it before there is any artifact, and once the interpreter has written one.
        let first = prepared.imported();
        assert_eq!(first["late"].0, "compiled");
        prepared.modules[0].2 = if never == "once" { "cached" } else { never };
        prepared.proved();
    }
}

#[test]
fn before_and_after_compile() {
    for python in all_pythons() {
        let mut prepared = Prepared::new(python);
        for name in ["one", "two", "three"] {
            prepared.source("d", name, "every-start");
        }
        prepared.mode("d", 0o755);
        if !is_root() {
            prepared.mode("d", 0o555);
        }
        prepared.proved();
        assert_eq!(prepared.explain(&[]).code, Some(1));
        prepared.mode("d", 0o755);
        let compiled = |prepared: &mut Prepared<'_>| {
            prepared.tree.compile(prepared.python).exits(0);
            prepared.modules.iter_mut().for_each(|(.., expected)| *expected = "cached");
            assert_eq!(prepared.explain(&[]).exits(0).summary()["outcomes"]["cached"], 3);
            prepared.proved();
        };
        compiled(&mut prepared);
        // Other times for the same bytes: a copy, a layer of an image.
        for name in ["one", "two", "three"] {
            set_mtime(&prepared.tree.path(format!("d/{name}.py")), 1_400_000_000);
        }
        if !is_root() {
            prepared.mode("d", 0o555);
        }
        let told = prepared.explain(&[]).exits(1);
        assert_eq!((&told.summary()["header_only"], &told.summary()["causes"]["stale"]), (&3.into(), &3.into()));
        prepared.modules.iter_mut().for_each(|(.., expected)| *expected = "every-start");
        prepared.proved();
        prepared.mode("d", 0o755);
        compiled(&mut prepared);
    }
}

/// A copy of an interpreter's own library, and a program that uses much of it: of every module of the copy that the program imports, what
/// `explain` says is what the interpreter does, as it was compiled, with other times, and after `compile`.
#[test]
fn a_real_program_before_and_after() {
    if !root_or_skip("a library that belongs to another user") {
        return;
    }
    for python in whole::two_pythons() {
        let prepared = Prepared::new(python);
        let asked = python.command().args(["-c", "import os; print(os.path.dirname(os.__file__))"]).output().unwrap();
        let library = PathBuf::from(String::from_utf8(asked.stdout).unwrap().trim_end());
        let copy = prepared.tree.path("lib");
        std::fs::create_dir(&copy).unwrap();
        let names = std::fs::read_dir(&library).unwrap().map(|entry| entry.unwrap().path());
        let wanted = |path: &PathBuf| {
            let name = path.file_name().unwrap();
            !["__pycache__", "site-packages", "dist-packages", "test", "lib2to3", "idlelib", "ensurepip"].iter().any(|left| name == *left)
        };
        // A distribution may have links to what it did not install.
        let names: Vec<PathBuf> = names.filter(wanted).filter(|path| path.exists()).collect();
        must("cp", &["-rH", "-t", copy.to_str().unwrap()].map(PathBuf::from).into_iter().chain(names).collect::<Vec<_>>());
        must("find", &[copy.to_str().unwrap(), "-name", "__pycache__", "-prune", "-exec", "rm", "-r", "{}", "+"]);
        must("chmod", &["-R", "a+rX,go-w", copy.to_str().unwrap()]);
        let dynload = copy.join("lib-dynload");
        let program = format!(
            "
import sys, os
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
sys.path[:] = [{copy:?}, {dynload:?}]
import argparse, asyncio, decimal, email.mime.text, http.client, json, logging.config, unittest, xml.etree.ElementTree, zipfile
"
        );
        // By the source's path: was it compiled?
        let imported = || {
            let done = python.command().args(["-S", "-v", "-c", &program]).current_dir("/").output().unwrap();
            let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{stderr}");
            let start = copy.to_str().unwrap();
            let mut found = BTreeMap::new();
            for line in stderr.lines() {
                if let Some(source) = line.strip_prefix("# code object from ").filter(|path| path.starts_with(start)) {
                    found.insert(source.to_owned(), "every-start");
                } else if let Some((_, source)) = line.split_once(" matches ").filter(|(_, path)| path.starts_with(start)) {
                    found.insert(source.to_owned(), "cached");
                }
            }
            found
        };
        let explained = || -> BTreeMap<String, String> {
            let run =
                prepared.tree.bytekeep(Some(python), ["explain", "--format", "json", "--user", "65534", copy.to_str().unwrap()]).run();
            let answers = run.lines.iter().filter(|line| line["kind"] == "answer");
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            answers.map(|line| (text(&line["source"]), text(&line["outcome"]))).collect()
        };
        let agree = |state: &str, wanted: &str| {
            let (said, does) = (explained(), imported());
            assert!(does.len() > 80, "{} modules", does.len());
            for (source, does) in &does {
                assert_eq!(said[source], *does, "{} {state}: {source}", python.tag);
                assert_eq!(*does, wanted, "{} {state}: {source}", python.tag);
            }
            aloud(&format!("{}, {state}: {} modules of {} imported, all {wanted}", python.tag, does.len(), said.len()));
        };
        agree("never compiled", "every-start");
        let done = python.command().args(["-m", "compileall", "-q"]).arg(&copy).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        agree("compiled by compileall", "cached");
        must("find", &[copy.to_str().unwrap(), "-name", "*.py", "-exec", "touch", "-d", "1980-01-01", "{}", "+"]);
        agree("other times", "every-start");
        prepared.tree.bytekeep(Some(python), ["compile", copy.to_str().unwrap()]).run().exits(0);
        agree("compiled by bytekeep", "cached");
    }
}

#[test]
fn people_are_told_in_a_sentence_a_table_and_next_steps() {
    let python = whole::python();
    let mut prepared = Prepared::new(python);
    prepared.compiled("d", "fresh", "default", "cached");
    let source = prepared.compiled("d", "stale", "default", "every-start");
    set_mtime(&source, 1_400_000_000);
    prepared.mode("d", 0o555);
    let told = prepared.explain(&["--color", "never"]).exits(1);
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert!(lines[0].starts_with(&format!("1 of 2 modules is compiled anew at every start by {} as user ", python.tag)), "{}", told.stdout);
    assert!(lines[2].trim_start().starts_with("1  every-start  its header says another time or size"), "{}", told.stdout);
    assert!(told.stdout.contains("and nothing is kept: ") && told.stdout.contains("such as d/stale.py\n"), "{}", told.stdout);
    assert!(told.stdout.contains("next: `bytekeep compile --python "), "{}", told.stdout);
    // The command that is told is one that can be typed.
    let line = told.stdout.lines().find_map(|line| line.strip_prefix("next: `")).unwrap().split('`').next().unwrap();
    prepared.mode("d", 0o755);
    let typed = line.replacen("bytekeep", whole::BYTEKEEP, 1);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &typed]);
    prepared.tree.dress(&mut command);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{typed}: {}", String::from_utf8_lossy(&done.stderr));
    let told = prepared.explain(&["--color", "never", "-v"]).exits(0);
    let mut lines: Vec<&str> = told.stdout.lines().collect();
    lines.sort_unstable();
    assert!(lines[0].starts_with("all 2 modules come from the cache for "), "{}", told.stdout);
    assert_eq!(lines[1..], ["cached d/fresh.py", "cached d/stale.py"]);
}

#[test]
fn whom_and_what_it_does_not_know() {
    let tree = Tree::new();
    let python = whole::python();
    let run = |args: &[&str]| tree.bytekeep(Some(python), args.iter().copied()).run();
    let told = run(&["explain", ".", "--user", "nobody-of-this-name"]).exits(2);
    assert!(told.stderr.contains("there is no user `nobody-of-this-name`") && told.stderr.contains("hint: "), "{}", told.stderr);
    run(&["explain"]).exits(2);
    run(&["explain", "nowhere"]).exits(2);
    // One source alone, and the artifact that it has.
    run(&["explain", "good.py"]).exits(1);
    tree.compile(python).exits(0);
    assert!(run(&["explain", "good.py"]).exits(0).stdout.starts_with("the only module comes from the cache"));
    let artifact = tree.artifact("good.py", python);
    run(&["explain", artifact.to_str().unwrap()]).exits(0);
    run(&["explain", "__pycache__"]).exits(0);
    run(&["explain", ".", "--exclude", "good.py"]).exits(0);
    // What nobody looks through: no source is that large.
    std::fs::OpenOptions::new().write(true).open(&artifact).unwrap().set_len(5 << 30).unwrap();
    let told = run(&["explain", "-v", "good.py"]).exits(1).stdout;
    assert!(told.starts_with("unclear good.py: it has an artifact of 5368709120 bytes") && !told.contains("the source"), "{told}");
    // What an import would wait at for ever.
    std::fs::remove_file(&artifact).unwrap();
    must("mkfifo", &[&artifact]);
    assert!(run(&["explain", "-v", "good.py"]).exits(1).stdout.starts_with("fails good.py: a FIFO"));
}
