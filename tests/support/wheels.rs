//! Real installers of Python packages, and wheels made by hand for them.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::support::Python;
use crate::whole::{Tree, all_below, all_pythons, aloud};

/// Who installs.
#[derive(Debug, Clone)]
pub enum Installer {
    /// The `pip` of this interpreter.
    Pip(&'static Python),
    /// `uv`, with this link mode.
    Uv(&'static Path, &'static str),
}

/// The newest CPython and the oldest whose `pip` can install into another environment.
pub fn pythons_with_pip() -> &'static [&'static Python] {
    static FOUND: OnceLock<Vec<&'static Python>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let works = |python: &&&Python| {
            let mut command = python.command();
            command.args(["-m", "pip", "--python"]).arg(&python.path).arg("--version").stdin(Stdio::null());
            command.output().is_ok_and(|done| done.status.success())
        };
        let mut sorted: Vec<&'static Python> = all_pythons().iter().filter(|python| !python.pypy && python.version >= (3, 7)).collect();
        sorted.sort_by_key(|python| python.version);
        let newest = sorted.iter().rev().find(works).copied();
        let oldest = sorted.iter().find(works).copied().filter(|oldest| Some(oldest.version) != newest.map(|newest| newest.version));
        let found: Vec<&Python> = newest.into_iter().chain(oldest).collect();
        match found.as_slice() {
            [] => aloud("SKIP: no interpreter has a pip that knows `--python`"),
            some => some.iter().for_each(|python| aloud(&format!("pip of {} ({})", python.tag, python.path.display()))),
        }
        found
    })
}

/// `uv`: the one on PATH, else the one that `pip` can get, from wherever this machine's pip gets packages.
pub fn uv() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<(PathBuf, Option<tempfile::TempDir>)>> = OnceLock::new();
    let answers = |path: &Path| Command::new(path).arg("--version").output().ok().filter(|done| done.status.success());
    let find = || {
        let dirs: Vec<PathBuf> = std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
        if let Some(there) = dirs.iter().map(|dir| dir.join("uv")).find(|path| path.is_file() && answers(path).is_some()) {
            return Some((there, None));
        }
        let python = pythons_with_pip().first()?;
        let top = tempfile::tempdir().unwrap();
        let mut command = python.command();
        command.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--only-binary", ":all:"]);
        command.args(["--retries", "1", "--timeout", "20", "--target"]).arg(top.path()).arg("uv").stdin(Stdio::null());
        let done = command.output().unwrap();
        if !done.status.success() {
            aloud(&format!("SKIP: uv is not to be had: {}", String::from_utf8_lossy(&done.stderr).lines().last().unwrap_or_default()));
            return None;
        }
        Some((top.path().join("bin/uv"), Some(top)))
    };
    let found = FOUND.get_or_init(|| {
        let found = find()?;
        let version = answers(&found.0)?;
        aloud(&format!("{} ({})", String::from_utf8_lossy(&version.stdout).trim(), found.0.display()));
        Some(found)
    });
    found.as_ref().map(|(path, _)| path.as_path())
}

/// Every installer that is here, each with an interpreter to install for.
pub fn installers() -> Vec<(Installer, &'static Python)> {
    let pythons = pythons_with_pip();
    let mut all: Vec<(Installer, &'static Python)> = pythons.iter().map(|python| (Installer::Pip(python), *python)).collect();
    if let (Some(uv), Some(python)) = (uv(), pythons.first()) {
        all.extend(["copy", "hardlink"].map(|mode| (Installer::Uv(uv, mode), *python)));
    }
    all
}

/// `pip` and `uv`, each once.
pub fn one_of_each() -> Vec<(Installer, &'static Python)> {
    let newest = pythons_with_pip().first().copied();
    let mut all = installers();
    all.retain(|(installer, python)| {
        matches!(installer, Installer::Pip(_) | Installer::Uv(_, "copy")) && Some(python.version) == newest.map(|newest| newest.version)
    });
    all
}

/// The virtual environment `env` of a tree, without any distribution.
pub fn environment(tree: &Tree, python: &Python) -> PathBuf {
    let env = tree.path("env");
    let mut command = Command::new(&python.path);
    tree.dress(&mut command);
    let done = command.args(["-m", "venv", "--without-pip"]).arg(&env).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    env
}

/// Where the packages of an environment are.
pub fn site(env: &Path, python: &Python) -> PathBuf {
    env.join(format!("lib/python{}.{}/site-packages", python.version.0, python.version.1))
}

const MAKE: &str = r#"
import base64, hashlib, json, sys, zipfile
path, name, version, files = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
info = "%s-%s.dist-info/" % (name, version)
files[info + "METADATA"] = "Metadata-Version: 2.1\nName: %s\nVersion: %s\n" % (name, version)
files[info + "WHEEL"] = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
rows = []
with zipfile.ZipFile(path, "w") as wheel:
    for file, text in sorted(files.items()):
        data = text.encode()
        wheel.writestr(file, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append("%s,sha256=%s,%d\n" % (file, digest, len(data)))
    wheel.writestr(info + "RECORD", "".join(rows) + info + "RECORD,,\n")
"#;

/// Makes a wheel of these files.
pub fn wheel(tree: &Tree, python: &Python, name: &str, version: &str, files: &[(&str, &str)]) -> PathBuf {
    let path = tree.outside(&format!("{name}-{version}-py3-none-any.whl"));
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let mut command = Command::new(&python.path);
    tree.dress(&mut command);
    command.args(["-c", MAKE]).arg(&path).args([name, version]).arg(serde_json::to_string(&files).unwrap());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    path
}

impl Installer {
    /// The command that does this to the environment `env` of a tree.
    pub fn command(&self, tree: &Tree, verb: &str, words: &[&str]) -> Command {
        let python = tree.path("env/bin/python");
        let mut command = match self {
            Self::Pip(own) => {
                let mut command = Command::new(&own.path);
                command.args(["-m", "pip", "--python"]).arg(python).args([verb, "--disable-pip-version-check", "-q"]);
                command
            }
            Self::Uv(uv, mode) => {
                let mut command = Command::new(uv);
                command.args(["--no-config", "--offline", "pip", verb, "-q", "--python"]).arg(python);
                if verb == "install" {
                    command.args(["--link-mode", mode]);
                }
                command
            }
        };
        match (self, verb) {
            (_, "install") => drop(command.args(["--no-index", "--no-deps"])),
            (Self::Pip(_), _) => drop(command.arg("-y")),
            (Self::Uv(..), _) => {}
        }
        command.args(words);
        tree.dress(&mut command);
        command.env("UV_CACHE_DIR", tree.outside("uv")).env("UV_PYTHON_DOWNLOADS", "never");
        command
    }

    /// Installs wheels, and leaves compiling to others.
    #[track_caller]
    pub fn install(&self, tree: &Tree, wheels: &[&Path]) {
        let mut words: Vec<&str> = wheels.iter().map(|wheel| wheel.to_str().unwrap()).collect();
        if matches!(self, Self::Pip(_)) {
            words.push("--no-compile");
        }
        self.must(tree, "install", &words);
    }

    /// Uninstalls distributions.
    #[track_caller]
    pub fn uninstall(&self, tree: &Tree, names: &[&str]) {
        self.must(tree, "uninstall", names);
    }

    /// Does what must succeed.
    #[track_caller]
    pub fn must(&self, tree: &Tree, verb: &str, words: &[&str]) {
        let done: Output = self.command(tree, verb, words).output().unwrap();
        assert!(done.status.success(), "{self:?} {verb} {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// The records below a directory, with what is in them.
pub fn records(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let records = all_below(dir).into_iter().filter(|path| path.ends_with("RECORD"));
    records.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// The artifacts below a directory.
pub fn artifacts(dir: &Path) -> Vec<PathBuf> {
    let mut all = all_below(dir);
    all.retain(|path| path.extension().is_some_and(|end| end == "pyc"));
    all.sort();
    all
}

/// The artifacts below a directory whose source is not there.
pub fn orphans(dir: &Path) -> Vec<PathBuf> {
    let mut all = artifacts(dir);
    all.retain(|path| {
        let stem = path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap();
        !path.parent().unwrap().with_file_name(format!("{stem}.py")).exists()
    });
    all
}
