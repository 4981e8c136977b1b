//! Whole-command tests: a tree of real files, the real command on it, and what came of that.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Python, interpreter_at, interpreters};

/// The command that is tested.
pub const BYTEKEEP: &str = env!("CARGO_BIN_EXE_bytekeep");
/// A run that takes longer hangs. Far more than any needs, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// All interpreters of this machine, found once.
pub fn all_pythons() -> &'static [Python] {
    static FOUND: OnceLock<Vec<Python>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let found = interpreters();
        let names: Vec<String> = found.iter().map(|python| format!("{} ({})", python.tag, python.path.display())).collect();
        aloud(&format!("interpreters: {}", names.join(", ")));
        found
    })
}

/// The newest CPython: what most cases run with.
pub fn python() -> &'static Python {
    let all = all_pythons();
    all.iter().filter(|python| !python.pypy).max_by_key(|python| python.version).unwrap_or(&all[0])
}

/// The newest and, where there is one, an old one whose artifacts have another layout or header.
pub fn two_pythons() -> Vec<&'static Python> {
    let newest = python();
    let oldest = all_pythons().iter().filter(|python| !python.pypy && python.version.0 == 3).min_by_key(|python| python.version);
    let mut two = vec![newest];
    two.extend(oldest.filter(|python| python.version != newest.version));
    two
}

/// An interpreter that any user can start: those in a home directory are often closed to others.
pub fn python_for_all() -> Option<&'static Python> {
    static FOUND: OnceLock<Option<Python>> = OnceLock::new();
    let open = |python: &Python| {
        let mut command = Command::new("setpriv");
        // By a shell: what `setpriv` itself starts, it starts with root's powers.
        command.args(NOBODY).args(["sh", "-c", "exec \"$0\" -S -c 'import marshal'"]).arg(&python.path);
        command.current_dir("/").output().is_ok_and(|done| done.status.success())
    };
    let find = || {
        let dirs: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
        let others = dirs.iter().filter_map(|dir| interpreter_at(&dir.join("python3")));
        let found = all_pythons().iter().cloned().chain(others).find(open);
        match &found {
            Some(python) => aloud(&format!("interpreter for other users: {} ({})", python.tag, python.path.display())),
            None => aloud("SKIP: no interpreter that another user can start, or no setpriv"),
        }
        found
    };
    FOUND.get_or_init(find).as_ref()
}

/// `setpriv`'s words for a user who is nobody.
const NOBODY: [&str; 5] = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// Past the test harness, which keeps the output of tests that pass to itself.
pub fn aloud(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Are we root? Says so where not: what is skipped is skipped aloud.
pub fn root_or_skip(what: &str) -> bool {
    let root = is_root();
    if !root {
        aloud(&format!("SKIP: {what}: only root can set it up"));
    }
    root
}

/// Are we root?
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Is this tool here? Says so where not.
pub fn tool_or_skip(tool: &str) -> bool {
    let dirs: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
    let there = dirs.iter().any(|dir| dir.join(tool).is_file());
    if !there {
        aloud(&format!("SKIP: `{tool}` is not installed"));
    }
    there
}

/// Runs a helper program that must succeed.
pub fn must<S: AsRef<OsStr>>(program: &str, args: &[S]) {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The same, where a refusal of the machine is an answer: `false`, told aloud.
pub fn may<S: AsRef<OsStr>>(program: &str, args: &[S]) -> bool {
    match Command::new(program).args(args).stdin(Stdio::null()).output() {
        Ok(done) if done.status.success() => true,
        Ok(done) => {
            aloud(&format!("SKIP: {program}: {}", String::from_utf8_lossy(&done.stderr).trim()));
            false
        }
        Err(error) => {
            aloud(&format!("SKIP: {program}: {error}"));
            false
        }
    }
}

/// A directory of a test, with a tree in it and a home beside it.
pub struct Tree {
    top: TempDir,
}

impl Tree {
    /// A tree with one good source, `good.py`.
    pub fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let tree = Self { top };
        for dir in ["tree", "home", "outside"] {
            std::fs::create_dir(tree.top.path().join(dir)).unwrap();
        }
        tree.file("good.py", b"VALUE = 42\n");
        tree
    }

    /// Lets other users in.
    pub fn open_to_all(&self) {
        for dir in [self.top.path().to_path_buf(), self.root(), self.home(), self.outside("")] {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// The tree.
    pub fn root(&self) -> PathBuf {
        self.top.path().join("tree")
    }

    /// The home directory of the user who runs the command.
    pub fn home(&self) -> PathBuf {
        self.top.path().join("home")
    }

    /// The store, where a test names no other.
    pub fn store(&self) -> PathBuf {
        self.top.path().join("store")
    }

    /// A program beside the tree.
    pub fn script(&self, name: &str, text: &str) -> String {
        let path = self.outside(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.into_os_string().into_string().unwrap()
    }

    /// A path in a directory beside the tree.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.top.path().join("outside").join(name)
    }

    /// A path in the tree.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// Writes a file, with the directories above it.
    pub fn file(&self, name: impl AsRef<Path>, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a source and gives it a time well before now, so that no edit hides behind it.
    pub fn old_file(&self, name: impl AsRef<Path>, content: &[u8]) -> PathBuf {
        let path = self.file(name, content);
        set_mtime(&path, 1_500_000_000);
        path
    }

    /// The command, for an interpreter.
    pub fn bytekeep<'a>(&self, python: Option<&Python>, args: impl IntoIterator<Item = &'a str>) -> Run {
        let mut args: Vec<std::ffi::OsString> = args.into_iter().map(Into::into).collect();
        if let Some(python) = python {
            args.push("--python".into());
            args.push(python.path.clone().into());
        }
        let mut command = Command::new(BYTEKEEP);
        command.args(args);
        self.dress(&mut command);
        Run { command }
    }

    /// The environment and the directory that every command here runs with: nothing of the caller's.
    pub fn dress(&self, command: &mut Command) {
        command.current_dir(self.root()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.home()).env("LC_ALL", "C.UTF-8");
        // Root's own is one for the whole machine.
        command.env("BYTEKEEP_STORE", self.store());
        // What this machine's administrator has set is no part of a test.
        command.env("BYTEKEEP_NO_CONFIG", "1");
        // Nor are the records of its package manager, which is perhaps at work just now.
        command.env("BYTEKEEP_IGNORE_RECORDS", "1");
        // pyenv's own wrappers look for this.
        if let Some(root) = std::env::var_os("PYENV_ROOT") {
            command.env("PYENV_ROOT", root);
        }
    }

    /// `compile --format json` of the tree.
    pub fn compile(&self, python: &Python) -> Outcome {
        self.bytekeep(Some(python), ["compile", "--format", "json", "."]).run()
    }

    /// `verify --format json` of the tree.
    pub fn verify(&self) -> Outcome {
        self.bytekeep(None, ["verify", "--format", "json", "."]).run()
    }

    /// Where an interpreter keeps the artifact of a source in the tree.
    pub fn artifact(&self, source: impl AsRef<Path>, python: &Python) -> PathBuf {
        let source = self.path(source);
        let stem = source.file_stem().unwrap();
        let mut name = stem.to_os_string();
        if python.version.0 == 2 {
            name.push(".pyc");
            return source.with_file_name(name);
        }
        name.push(format!(".{}.pyc", python.tag));
        source.with_file_name("__pycache__").join(name)
    }

    /// Imports a module of the tree by the interpreter, asserts that it came from the cache, and answers what `VALUE` is in it.
    pub fn import(&self, python: &Python, module: &str) -> String {
        let (cached, value) = self.import_anyhow(python, module);
        assert!(cached, "{module} was not taken from the cache by {}", python.tag);
        value
    }

    /// Imports a module of the tree by the interpreter: was it taken from the cache, and what is `VALUE` in it?
    pub fn import_anyhow(&self, python: &Python, module: &str) -> (bool, String) {
        let mut command = Command::new(&python.path);
        let program = format!("import sys; sys.path.insert(0, '.'); import {module} as it; sys.stdout.write(str(it.VALUE))");
        command.args(["-v", "-B", "-S", "-c", &program]);
        self.dress(&mut command);
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "import {module}: {said}");
        let last = module.rsplit('.').next().unwrap();
        let cached = said.lines().any(|line| {
            let ours = line.contains(&format!("{last}.")) && line.contains(".pyc");
            ours && (line.contains("code object from") || line.contains("precompiled from"))
        });
        (cached, String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// Asserts that the good neighbour is compiled and can be imported from its artifact.
    pub fn assert_good(&self, python: &Python) {
        assert!(self.artifact("good.py", python).is_file(), "the neighbour has no artifact of {}", python.tag);
        assert_eq!(self.import(python, "good"), "42");
    }

    /// Every name below the tree that only bytekeep gives: none may stay.
    pub fn litter(&self) -> Vec<PathBuf> {
        all_below(&self.root())
            .into_iter()
            .filter(|path| path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".bytekeep")))
            .collect()
    }
}

/// Every path below a directory, links not followed.
pub fn all_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(all_below(&entry.path()));
        }
        all.push(entry.path());
    }
    all
}

/// Sets a file's modification time, in seconds since 1970; negative ones are before that.
pub fn set_mtime(path: &Path, seconds: i64) {
    let since = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { std::time::UNIX_EPOCH - since } else { std::time::UNIX_EPOCH + since };
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// The command, about to run.
pub struct Run {
    pub command: Command,
}

impl Run {
    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Unsets one.
    pub fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// The same command, started by another program, which is the first of `wrapper`.
    pub fn by(self, wrapper: &[&str]) -> Self {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(self.command.get_program()).args(self.command.get_args()).stdin(Stdio::null());
        command.env_clear();
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        if let Some(dir) = self.command.get_current_dir() {
            command.current_dir(dir);
        }
        Self { command }
    }

    /// The same command, by a shell line in which `"$@"` stands for it.
    pub fn by_shell(self, line: &str) -> Self {
        self.by(&["bash", "-c", line, "bash"])
    }

    /// The same command as a user who is nobody (root only).
    pub fn by_nobody(self) -> Self {
        let own = self.without("BYTEKEEP_STORE"); // theirs is in their home
        own.by(&["setpriv"].into_iter().chain(NOBODY).collect::<Vec<_>>())
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let mut child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Running { child, stdout: reader(stdout), stderr: reader(stderr), started: Instant::now() }
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.start().wait()
    }
}

type Reader = std::thread::JoinHandle<Vec<u8>>;

fn reader(mut from: impl Read + Send + 'static) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(from.read_to_end(&mut bytes));
        bytes
    })
}

/// The command, running.
pub struct Running {
    pub child: Child,
    stdout: Reader,
    stderr: Reader,
    started: Instant,
}

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        must("kill", &[format!("-{name}"), self.child.id().to_string()]);
    }

    /// Waits for its end; a run that hangs is killed and fails the test.
    pub fn wait(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > PATIENCE {
                drop(self.child.kill());
                let stderr = self.stderr.join().unwrap();
                panic!("it hangs: {}", String::from_utf8_lossy(&stderr));
            }
            std::thread::sleep(Duration::from_millis(4));
        };
        let text = |reader: Reader| String::from_utf8(reader.join().unwrap()).expect("what is told is text");
        let (stdout, stderr) = (text(self.stdout), text(self.stderr));
        assert!(!stderr.contains("panicked") && !stdout.contains("panicked"), "{stderr}");
        assert!(!matches!(status.signal(), Some(4 | 6 | 7 | 8 | 11)), "{status}: {stderr}");
        let lines = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Outcome { code: status.code(), signal: status.signal(), stdout, stderr, lines }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// The lines of JSON.
    pub lines: Vec<Value>,
}

impl Outcome {
    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.shown());
        self
    }

    /// How many errors people are told of.
    pub fn errors(&self) -> usize {
        self.stderr.lines().filter(|line| line.starts_with("error:")).count()
    }

    /// All that was said, cut to what a person reads.
    pub fn shown(&self) -> String {
        format!("{:.6000}\n{:.6000}", self.stdout, self.stderr)
    }

    /// The lines of entries.
    pub fn entries(&self) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(|line| line["kind"] == "entry")
    }

    /// The entry of a source, or the artifact itself, by the file's name (or the end of its path).
    #[track_caller]
    pub fn entry(&self, name: &str) -> &Value {
        let ends = |path: &Value| path.as_str().is_some_and(|path| path == name || path.ends_with(&format!("/{name}")));
        self.entries()
            .find(|line| ends(&line["source"]) || ends(&line["path"]))
            .unwrap_or_else(|| panic!("nothing is said of {name}: {}", self.shown()))
    }

    /// Asserts that an entry failed with this code, and that its text says all of this.
    #[track_caller]
    pub fn fails(&self, name: &str, code: &str, texts: &[&str]) -> &Self {
        let entry = self.entry(name);
        assert_eq!(entry["wrong"], true, "{name}: {entry:.2000}");
        assert_eq!(entry["cause"]["code"], code, "{name}: {entry:.2000}");
        let text = entry["cause"]["text"].as_str().unwrap();
        for part in texts {
            assert!(text.contains(part), "{name}: no `{part}` in {text:.2000}");
        }
        self
    }

    /// Asserts an entry's verdict and action.
    #[track_caller]
    pub fn is(&self, name: &str, verdict: &str, action: &str) -> &Self {
        let entry = self.entry(name);
        assert_eq!((&entry["verdict"], &entry["action"]), (&verdict.into(), &action.into()), "{name}: {entry:.2000}");
        self
    }

    /// The last line.
    #[track_caller]
    pub fn summary(&self) -> &Value {
        let last = self.lines.last().unwrap_or_else(|| panic!("nothing was said: {}", self.shown()));
        assert_eq!(last["kind"], "summary", "{}", self.shown());
        last
    }

    /// How many entries had this verdict.
    #[track_caller]
    pub fn verdicts(&self, verdict: &str) -> u64 {
        self.summary()["verdicts"][verdict].as_u64().unwrap_or(0)
    }

    /// How many entries met this end.
    #[track_caller]
    pub fn actions(&self, action: &str) -> u64 {
        self.summary()["actions"][action].as_u64().unwrap_or(0)
    }

    /// How many entries are wrong.
    #[track_caller]
    pub fn wrong(&self) -> u64 {
        self.summary()["wrong"].as_u64().unwrap()
    }
}
