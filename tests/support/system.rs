//! A throw-away root with the command, interpreters and a shell in it, as a package manager works on one. Only root can set it up.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::Python;
use crate::whole::{BYTEKEEP, all_pythons, aloud, is_root, may, must};

/// What of an interpreter's library it needs to start and to compile.
const LIBRARY: [&str; 6] = ["encodings", "collections", "importlib", "lib-dynload", "re", "__pycache__"];

/// What of its compiled modules a worker loads.
const NATIVE: [&str; 4] = ["binascii.", "zlib.", "_struct.", "_opcode."];

/// A root. What is below it is that system's `/`.
pub struct System {
    top: TempDir,
    pub pythons: Vec<Python>,
}

impl System {
    /// One with the command, a shell and two interpreters of this machine, each at `/usr/bin/pythonX.Y`.
    pub fn new() -> Self {
        assert!(is_root());
        let top = tempfile::tempdir().unwrap();
        let mut newest: Vec<&Python> = all_pythons().iter().filter(|python| !python.pypy && python.version >= (3, 8)).collect();
        newest.sort_by_key(|python| std::cmp::Reverse(python.version));
        newest.dedup_by_key(|python| python.version);
        let pythons: Vec<Python> = newest.into_iter().take(2).cloned().collect();
        assert!(!pythons.is_empty(), "no interpreter is new enough for this test");
        std::fs::set_permissions(top.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let system = Self { top, pythons };
        for dir in ["usr/bin", "usr/lib", "etc", "tmp", "dev", "proc", "var/tmp", "root"] {
            std::fs::create_dir_all(system.path(dir)).unwrap();
        }
        for (link, to) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            symlink(to, system.path(link)).unwrap();
        }
        std::fs::create_dir_all(system.path("usr/lib64")).unwrap();
        if !may("mknod", &["-m", "666", system.path("dev/null").to_str().unwrap(), "c", "1", "3"]) {
            std::fs::write(system.path("dev/null"), b"").unwrap();
        }
        for (program, at) in [(BYTEKEEP, "usr/bin/bytekeep"), ("/bin/sh", "usr/bin/sh")] {
            system.add_program(Path::new(program), at);
        }
        for python in system.pythons.clone() {
            system.add_python(&python);
        }
        system
    }

    /// Where that system's root is.
    pub fn root(&self) -> &Path {
        self.top.path()
    }

    /// A path below it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(name)
    }

    /// `usr/lib/python3.12/site-packages`.
    pub fn site(python: &Python) -> String {
        format!("usr/lib/{}/site-packages", name_of(python))
    }

    /// Copies a program of this machine with the libraries that it needs.
    pub fn add_program(&self, program: &Path, at: &str) {
        Self::copy(&program.canonicalize().unwrap(), &self.path(at));
        self.add_libraries_of(program);
    }

    fn add_libraries_of(&self, program: &Path) {
        let asked = Command::new("ldd").arg(program).output().unwrap();
        for line in String::from_utf8_lossy(&asked.stdout).lines() {
            let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')).map(Path::new) else { continue };
            let at = self.path(path.strip_prefix("/").unwrap());
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            Self::copy(&path.canonicalize().unwrap(), &at);
        }
    }

    fn copy(from: &Path, to: &Path) {
        if std::fs::hard_link(from, to).is_err() && !to.exists() {
            std::fs::copy(from, to).unwrap();
        }
    }

    fn add_python(&self, python: &Python) {
        let name = name_of(python);
        self.add_program(&python.path, &format!("usr/bin/{name}"));
        let asked = python.command().args(["-S", "-c", "import os; print(os.path.dirname(os.__file__))"]).output().unwrap();
        let library = PathBuf::from(String::from_utf8(asked.stdout).unwrap().trim());
        let own = self.path(format!("usr/lib/{name}"));
        std::fs::create_dir_all(own.join("site-packages")).unwrap();
        for entry in std::fs::read_dir(&library).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            let is_wanted = name.as_encoded_bytes().ends_with(b".py") || LIBRARY.iter().any(|wanted| name == *wanted);
            if is_wanted {
                // Links, which nobody writes through: the command and interpreters replace files.
                let copied = |how: &str| Command::new("cp").arg(how).arg(entry.path()).arg(&own).output().unwrap().status.success();
                assert!(copied("-al") || copied("-a"), "{}", entry.path().display());
            }
        }
        for entry in std::fs::read_dir(library.join("lib-dynload")).unwrap().map(Result::unwrap) {
            if NATIVE.iter().any(|name| entry.file_name().as_encoded_bytes().starts_with(name.as_bytes())) {
                self.add_libraries_of(&entry.path());
            }
        }
    }

    /// A command that runs in that system, with nothing of the caller's environment.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.root()).args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command
    }

    /// Runs it; what it said on both streams.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let done = self.command(words).output().unwrap();
        let said = said(&done);
        assert!(done.status.success(), "{words:?}: {said}");
        said
    }

    /// The artifact of a source, by an interpreter of this system; both below the root.
    pub fn artifact(&self, source: impl AsRef<Path>, python: &Python) -> PathBuf {
        let source = self.path(source);
        let name = format!("{}.{}.pyc", source.file_stem().unwrap().to_str().unwrap(), python.tag);
        source.with_file_name("__pycache__").join(name)
    }

    /// Asserts that a source has a sealed artifact of one interpreter, which that interpreter uses, and of no other.
    #[track_caller]
    pub fn assert_compiled(&self, source: &str, python: &Python) {
        let path = self.artifact(source, python);
        let bytes = std::fs::read(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
        assert!(is_sealed(&bytes), "{} has no seal", path.display());
        assert_eq!(bytes[..4], python.magic, "{}", path.display());
        for other in self.pythons.iter().filter(|other| other.tag != python.tag) {
            assert!(!self.artifact(source, other).exists(), "{source} is nothing to {}", other.tag);
        }
        let program = "import sys, importlib.util as u; s = u.spec_from_file_location('m', sys.argv[1]); sys.stdout.write(s.cached); \
                       m = u.module_from_spec(s); s.loader.exec_module(m)";
        let executable = format!("/usr/bin/{}", name_of(python));
        let said = self.run(&[&executable, "-v", "-S", "-B", "-c", program, &format!("/{source}")]);
        let name = path.file_name().unwrap().to_str().unwrap();
        let used = said.lines().any(|line| line.contains("code object from") && line.contains(name));
        assert!(used, "{source} is compiled anew by {}: {said}", python.tag);
    }

    /// Artifacts and left-overs of ours below a directory, sorted, relative to the root.
    pub fn caches(&self, dir: &str) -> Vec<String> {
        let all = crate::whole::all_below(&self.path(dir));
        let ours = all.iter().filter(|path| {
            let name = path.file_name().unwrap().as_encoded_bytes();
            name.ends_with(b".pyc") || name.starts_with(b".bytekeep") || name == b"__pycache__"
        });
        let mut ours: Vec<String> = ours.map(|path| path.strip_prefix(self.root()).unwrap().to_str().unwrap().to_owned()).collect();
        ours.sort();
        ours
    }
}

/// `python3.12`.
pub fn name_of(python: &Python) -> String {
    format!("python{}.{}", python.version.0, python.version.1)
}

/// Does it carry a seal?
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytekeep::base::seal::Artifact::split(bytes).is_ok_and(|artifact| artifact.seal.is_some())
}

/// Both streams of a program that has ended.
pub fn said(done: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

/// A file system of its own in a directory, until this goes.
pub struct Mounted(PathBuf);

impl Mounted {
    /// One in memory, of a size. `None`: this machine does not let us.
    pub fn tmpfs(dir: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size}");
        let words: [&OsStr; 6] = ["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), options.as_ref(), "none".as_ref(), dir.as_os_str()];
        may("mount", &words).then(|| Self(dir.to_path_buf()))
    }

    /// Makes it larger.
    pub fn resize(&self, size: &str) {
        must("mount", &["-o".as_ref(), OsStr::new(&format!("remount,size={size}")), self.0.as_os_str()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !Command::new("umount").arg(&self.0).status().is_ok_and(|status| status.success()) {
            aloud(&format!("cannot unmount {}", self.0.display()));
        }
    }
}
