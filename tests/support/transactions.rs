//! What must hold after transactions of a package manager whose hooks call the command, whichever manager it is.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::Python;
use crate::system::{Mounted, System, is_sealed, name_of, said};
use crate::whole::{aloud, must, set_mtime};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// A package manager with a root of its own, in which our hooks are installed.
pub trait Manager: Sync {
    /// The root.
    fn system(&self) -> &System;
    /// A directory beside it.
    fn work(&self) -> &TempDir;
    /// Makes a package of a directory.
    fn pack(&self, name: &str, version: &str, image: &Path) -> PathBuf;
    /// Installs or upgrades.
    fn install(&self, packages: &[&Path]) -> Command;
    /// The same, and nobody calls our hook.
    fn install_alone(&self, packages: &[&Path]) -> Command;
    /// Removes.
    fn remove(&self, names: &[&str]) -> Command;
    /// What the manager finds changed of a package; empty where nothing is.
    fn changed(&self, name: &str) -> String;
    /// Our hook as the manager calls it, with the list for its standard input: paths below the root.
    fn hook(&self, files: &[String]) -> (Command, String);

    /// The interpreter that most cases run with.
    fn python(&self) -> &Python {
        &self.system().pythons[0]
    }

    /// Builds a package of these files; each path is below the root.
    fn build(&self, name: &str, version: &str, files: &[(String, String)]) -> PathBuf {
        let image = self.image(name, version, files);
        self.pack(name, version, &image)
    }

    /// What will be in a package.
    fn image(&self, name: &str, version: &str, files: &[(String, String)]) -> PathBuf {
        let image = self.work().path().join(format!("{name}-{version}"));
        for (path, text) in files {
            let at = image.join(path);
            std::fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::fs::write(&at, text).unwrap();
            set_mtime(&at, 1_600_000_000 + version.parse::<i64>().unwrap());
        }
        image
    }
}

/// Runs a transaction that must do what it is asked for; what it said.
#[track_caller]
pub fn must_do(mut command: Command) -> String {
    let done = command.output().unwrap();
    let said = said(&done);
    assert!(done.status.success(), "{command:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// The modules of a package, and what is in each.
fn modules(name: &str, python: &Python, modules: &[(&str, &str)]) -> Vec<(String, String)> {
    let site = System::site(python);
    modules.iter().map(|(module, text)| (format!("{site}/{name}/{module}.py"), (*text).to_owned())).collect()
}

#[track_caller]
fn assert_all_compiled(manager: &impl Manager, files: &[(String, String)], python: &Python) {
    for (source, _) in files {
        manager.system().assert_compiled(source, python);
    }
}

/// Two packages, each for another interpreter, are installed, upgraded (a module goes, one changes) and removed.
pub fn install_upgrade_remove(manager: &impl Manager) {
    let system = manager.system();
    let [one, two] = [system.pythons.first().unwrap(), system.pythons.last().unwrap()];
    let first =
        |python| modules("pkg", python, &[("__init__", ""), ("stays", "VALUE = 1\n"), ("changes", "VALUE = 1\n"), ("sub/goes", "")]);
    let second = |python| modules("pkg", python, &[("__init__", ""), ("stays", "VALUE = 1\n"), ("changes", "VALUE = 'two'\n")]);
    let names = ["one", "two"];
    let packages = [manager.build("one", "1", &first(one)), manager.build("two", "1", &first(two))];
    must_do(manager.install(&[&packages[0], &packages[1]]));
    for (name, python) in names.iter().zip([one, two]) {
        assert_all_compiled(manager, &first(python), python);
        assert_eq!(manager.changed(name), "");
    }
    let before = std::fs::read(system.artifact(&second(one)[1].0, one)).unwrap();
    let packages = [manager.build("one", "2", &second(one)), manager.build("two", "2", &second(two))];
    must_do(manager.install(&[&packages[0], &packages[1]]));
    for (name, python) in names.iter().zip([one, two]) {
        assert_all_compiled(manager, &second(python), python);
        assert_eq!(manager.changed(name), "");
        let gone = system.path(&first(python)[3].0);
        assert!(!gone.parent().unwrap().exists(), "what is left keeps {}", gone.display());
    }
    assert_eq!(before.len(), std::fs::read(system.artifact(&second(one)[1].0, one)).unwrap().len());
    let said = must_do(manager.remove(&names));
    assert!(!said.to_lowercase().contains("warning"), "{said}");
    for python in [one, two] {
        let site = System::site(python);
        assert_eq!(system.caches(&site), [""; 0], "{said}");
        assert!(!system.path(format!("{site}/pkg")).exists(), "the package's directory is still there");
    }
}

/// A package with a source that no interpreter compiles is installed as any other, and the rest of it is compiled.
pub fn a_broken_source(manager: &impl Manager) {
    let (system, python) = (manager.system(), manager.python());
    let files = modules("pkg", python, &[("__init__", ""), ("broken", "def f(:\n"), ("good", "VALUE = 1\n")]);
    let said = must_do(manager.install(&[&manager.build("one", "1", &files)]));
    assert_all_compiled(manager, &[files[0].clone(), files[2].clone()], python);
    assert!(!system.artifact(&files[1].0, python).exists());
    assert!(said.contains("broken.py"), "it is told: {said}");
    must_do(manager.remove(&["one"]));
    assert_eq!(system.caches(&System::site(python)), [""; 0]);
}

/// Caches that come in a package stay as they came; those that nobody lists are sealed where they stand.
pub fn packaged_caches(manager: &impl Manager) {
    let (system, python) = (manager.system(), manager.python());
    let files = modules("pkg", python, &[("__init__", ""), ("mod", "VALUE = 1\n")]);
    let image = manager.image("one", "1", &files);
    let compile = |dir: &Path| {
        let words: [&std::ffi::OsStr; 4] = ["-m".as_ref(), "compileall".as_ref(), "-q".as_ref(), dir.as_os_str()];
        must(python.path.to_str().unwrap(), &words);
    };
    compile(&image);
    let package = manager.pack("one", "1", &image);
    let listed = system.artifact(&files[1].0, python);
    must_do(manager.install(&[&package]));
    let as_it_came = std::fs::read(&listed).unwrap();
    let assert_as_it_came = |after: &str| {
        assert!(std::fs::read(&listed).unwrap() == as_it_came && !is_sealed(&as_it_came), "{after} wrote {}", listed.display());
        assert_eq!(manager.changed("one"), "", "{after}");
    };
    assert_as_it_came("its own transaction");
    // Somebody else's, in a directory that the next transaction touches.
    let beside = format!("{}/other/beside.py", System::site(python));
    std::fs::create_dir_all(system.path(&beside).parent().unwrap()).unwrap();
    std::fs::write(system.path(&beside), "VALUE = 1\n").unwrap();
    compile(system.path(&beside).parent().unwrap());
    let other = modules("other", python, &[("__init__", "")]);
    must_do(manager.install(&[&manager.build("two", "1", &other)]));
    assert_all_compiled(manager, &other, python);
    assert!(
        is_sealed(&std::fs::read(system.artifact(&beside, python)).unwrap()),
        "nobody lists it: the records were asked during the transaction"
    );
    assert_as_it_came("another transaction");
    // As pip leaves it: compiled by its interpreter, and in no record of this manager.
    let foreign = format!("{}/foreign.py", System::site(python));
    std::fs::write(system.path(&foreign), "VALUE = 1\n").unwrap();
    compile(&system.path(System::site(python)));
    let (site, executable) = (format!("/{}", System::site(python)), format!("/usr/bin/{}", name_of(python)));
    for words in
        [&["repair", "--python", &executable][..], &["compile", "--adopt", "--python", &executable], &["seal"], &["clean", "--sealed"]]
    {
        let words: Vec<&str> = ["/usr/bin/bytekeep"].iter().chain(words).copied().chain([site.as_str()]).collect();
        let said = system.run(&words);
        assert_as_it_came(&words.join(" "));
        let adopted = std::fs::read(system.artifact(&foreign, python)).map(|bytes| is_sealed(&bytes)).ok();
        let expected = match words[1] {
            "repair" => Some(false),
            "clean" => None,
            _ => Some(true),
        };
        assert_eq!(adopted, expected, "{words:?}: {said}");
    }
    // From outside of the root its records are found above what is named.
    let mut outside = Command::new(crate::whole::BYTEKEEP);
    outside.arg("seal").arg(system.path(System::site(python))).env("BYTEKEEP_NO_CONFIG", "1");
    must_do(outside);
    assert_as_it_came("a command of another root");
    std::fs::write(&listed, &as_it_came[..as_it_came.len() - 3]).unwrap();
    system.run(&["/usr/bin/bytekeep", "repair", "--python", &executable, &site]);
    system.assert_compiled(&files[1].0, python);
    assert_ne!(manager.changed("one"), "", "what was bad is ours now, and the manager says so");
    must_do(manager.remove(&["one"]));
    assert!(!system.path(format!("{}/pkg", System::site(python))).exists());
}

/// Sources enough that a hook is at work for a while.
fn many(python: &Python) -> Vec<(String, String)> {
    let site = System::site(python);
    let text = |number: usize| format!("VALUE = {number}\n{}", "def f(x):\n    return [y for y in range(x) if y % 2]\n".repeat(20));
    (0..160).map(|number| (format!("{site}/pkg/sub{}/mod{number}.py", number % 8), text(number))).collect()
}

/// A person repairs and compiles the tree again and again while the manager works on it.
pub fn with_a_person_at_once(manager: &impl Manager) {
    let (system, python) = (manager.system(), manager.python());
    let files = many(python);
    let half = &files[..files.len() / 2];
    must_do(manager.install(&[&manager.build("one", "1", half)]));
    let second = manager.build("one", "2", &files);
    let (site, executable) = (format!("/{}", System::site(python)), format!("/usr/bin/{}", name_of(python)));
    let mut transaction = manager.install(&[&second]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut runs, started) = (0, Instant::now());
    while transaction.try_wait().unwrap().is_none() {
        for command in ["repair", "compile"] {
            // A source may go between the two looks at it: that is an entry's own matter.
            let done = system.command(&["/usr/bin/bytekeep", command, "--python", &executable, &site]).output().unwrap();
            assert!(matches!(done.status.code(), Some(0 | 1)), "{}", said(&done));
            runs += 1;
        }
        assert!(started.elapsed() < PATIENCE, "the transaction hangs");
    }
    aloud(&format!("{runs} runs of a person during one transaction"));
    assert!(transaction.wait().unwrap().success());
    assert_all_compiled(manager, &[files[0].clone(), files[files.len() - 1].clone()], python);
    assert_whole(manager, &files, python);
}

/// Every source has a sealed artifact, and there is nothing else of ours.
#[track_caller]
fn assert_whole(manager: &impl Manager, files: &[(String, String)], python: &Python) {
    let system = manager.system();
    for (source, _) in files {
        assert!(std::fs::read(system.artifact(source, python)).is_ok_and(|bytes| is_sealed(&bytes)), "{source} has no sealed artifact");
    }
    let caches = system.caches(&System::site(python));
    assert!(caches.iter().all(|path| !path.contains(".bytekeep")), "{caches:?}");
    assert_eq!(caches.iter().filter(|path| path.ends_with(".pyc")).count(), files.len());
}

/// A hook is killed at work, and the next transaction ends with everything compiled and nothing left over.
pub fn a_killed_hook(manager: &impl Manager) {
    let (system, python) = (manager.system(), manager.python());
    let files = many(python);
    let package = manager.build("one", "1", &files);
    must_do(manager.install_alone(&[&package]));
    let site = System::site(python);
    assert_eq!(system.caches(&site), [""; 0]);
    // As soon as a folder is taken, and as soon as an artifact is in place.
    for end in ["", ".pyc"] {
        let (mut hook, list) = manager.hook(&files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>());
        let mut hook = hook.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        hook.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
        let started = Instant::now();
        let is_there = || system.caches(&site).iter().any(|path| path.ends_with(end) && (path.contains(".bytekeep") || !end.is_empty()));
        while !is_there() && hook.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "the hook does nothing");
        }
        hook.kill().unwrap();
        hook.wait().unwrap();
        let done = system.caches(&site).iter().filter(|path| path.ends_with(".pyc")).count();
        aloud(&format!("killed with {done} of {} artifacts in place", files.len()));
    }
    must_do(manager.install(&[&package]));
    assert_whole(manager, &files, python);
}

/// Two hooks work on the same files at one time. (The managers themselves let no two transactions run at once: the second is refused.)
pub fn two_hooks_at_once(manager: &impl Manager) {
    let (system, python) = (manager.system(), manager.python());
    let files = many(python);
    must_do(manager.install_alone(&[&manager.build("one", "1", &files)]));
    let hook = || {
        let (mut hook, list) = manager.hook(&files.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>());
        let mut hook = hook.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        hook.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
        hook
    };
    for hook in [hook(), hook()] {
        let done = hook.wait_with_output().unwrap();
        assert!(done.status.success() && !said(&done).contains("failed"), "{}", said(&done));
    }
    assert_whole(manager, &files, python);
    must_do(manager.remove(&["one"]));
    assert_eq!(system.caches(&System::site(python)), [""; 0]);
}

/// The disk fills up under a hook: the transaction is none the worse, and the next one finds room.
pub fn a_full_disk(manager: &impl Manager) {
    let (system, python) = (manager.system(), manager.python());
    let site = System::site(python);
    let Some(disk) = Mounted::tmpfs(&system.path(&site), "700k") else { return };
    let text = |number: usize| format!("VALUE = {number}\nTEXT = '{}'\n", "x".repeat(8000));
    let files: Vec<_> = (0..40).map(|number| (format!("{site}/pkg/mod{number}.py"), text(number))).collect();
    let package = manager.build("one", "1", &files);
    must_do(manager.install(&[&package]));
    for (source, _) in &files {
        let artifact = std::fs::read(system.artifact(source, python));
        assert!(artifact.map_or(true, |bytes| is_sealed(&bytes)), "{source}: whole or absent");
    }
    let there = system.caches(&site);
    assert!(there.iter().filter(|path| path.ends_with(".pyc")).count() < files.len(), "the disk was too large for this test");
    assert!(there.iter().all(|path| !path.contains(".bytekeep")), "{there:?}");
    disk.resize("8m");
    must_do(manager.install(&[&package]));
    assert_whole(manager, &files, python);
    must_do(manager.remove(&["one"]));
    assert_eq!(system.caches(&site), [""; 0]);
}
