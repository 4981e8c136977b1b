//! rpm's own transactions on a throw-away root, with our file triggers in a package.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/system.rs"]
mod system;
#[path = "support/transactions.rs"]
mod transactions;
#[path = "support/whole.rs"]
mod whole;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use system::System;
use tempfile::TempDir;
use transactions::{Manager, must_do};
use whole::{all_below, must, root_or_skip, tool_or_skip};

/// The triggers as `hook print rpm` gives them and our package has them.
fn triggers() -> String {
    include_str!("../src/cli/hook/templates/rpm.spec").replace("@command@", "/usr/bin/bytekeep")
}

/// A root with rpm in it and our triggers installed.
struct Rpm {
    system: System,
    work: TempDir,
}

fn rpm() -> Option<Rpm> {
    (root_or_skip("an rpm root") && tool_or_skip("rpm") && tool_or_skip("rpmbuild")).then(Rpm::new)
}

impl Rpm {
    fn new() -> Self {
        let rpm = Self { system: System::new(), work: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(rpm.system.path("var/lib/rpm")).unwrap();
        // The hook asks it about the records.
        rpm.system.add_program(Path::new("/usr/bin/rpm"), "usr/bin/rpm");
        must("cp", &["-a".as_ref(), "/usr/lib/rpm".as_ref(), rpm.system.path("usr/lib").as_os_str()]);
        let image = rpm.image("bytekeep-triggers", "1", &[]);
        must_do(rpm.install(&[&rpm.pack_with("bytekeep-triggers", "1", &image, &triggers())]));
        rpm
    }

    fn pack_with(&self, name: &str, version: &str, image: &Path, more: &str) -> PathBuf {
        std::fs::create_dir_all(image).unwrap();
        // Of directories only those below the interpreters' own are the package's.
        let is_own =
            |path: &PathBuf| !path.is_dir() || path.components().any(|part| part.as_os_str() == "pkg" || part.as_os_str() == "other");
        let own: Vec<PathBuf> = all_below(image).into_iter().filter(is_own).collect();
        let line = |path: &PathBuf| {
            let kind = if path.is_dir() { "%dir " } else { "" };
            format!("{kind}\"/{}\"\n", path.strip_prefix(image).unwrap().display())
        };
        let files: Vec<String> = own.iter().map(line).collect();
        let files = files.concat();
        let head = format!("Name: {name}\nVersion: {version}\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\nAutoReqProv: no\n");
        let body = format!("%description\nx\n%install\ncp -a {}/. %{{buildroot}}\n%files\n{files}\n{more}", image.display());
        let (work, spec) = (self.work.path().display(), self.work.path().join(format!("{name}.spec")));
        std::fs::write(&spec, head + &body).unwrap();
        let top = format!("_topdir {work}/build");
        must("rpmbuild", &["-bb", "--quiet", "--define", &top, "--define", "__os_install_post %nil", spec.to_str().unwrap()]);
        self.work.path().join(format!("build/RPMS/noarch/{name}-{version}-1.noarch.rpm"))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("rpm");
        command.arg("--root").arg(self.system.root()).args(["--dbpath", "/var/lib/rpm"]).args(words).stdin(Stdio::null());
        command
    }
}

impl Manager for Rpm {
    fn system(&self) -> &System {
        &self.system
    }

    fn work(&self) -> &TempDir {
        &self.work
    }

    fn pack(&self, name: &str, version: &str, image: &Path) -> PathBuf {
        self.pack_with(name, version, image, "")
    }

    fn install(&self, packages: &[&Path]) -> Command {
        let mut command = self.command(&["-U", "--nodeps", "--replacepkgs"]);
        command.args(packages);
        command
    }

    fn install_alone(&self, packages: &[&Path]) -> Command {
        let mut command = self.command(&["-U", "--nodeps", "--notriggers"]);
        command.args(packages);
        command
    }

    fn remove(&self, names: &[&str]) -> Command {
        let mut command = self.command(&["-e", "--nodeps"]);
        command.args(names);
        command
    }

    fn changed(&self, name: &str) -> String {
        String::from_utf8(self.command(&["-V", "--nodeps", name]).output().unwrap().stdout).unwrap()
    }

    fn hook(&self, files: &[String]) -> (Command, String) {
        let list = format!("/{}\n", files.join("\n/"));
        (self.system.command(&["/usr/bin/bytekeep", "hook", "run", "rpm", "--nice"]), list)
    }
}

#[test]
fn what_is_installed_upgraded_and_removed_is_followed() {
    rpm().inspect(transactions::install_upgrade_remove);
}

#[test]
fn a_package_with_a_broken_source_is_installed() {
    rpm().inspect(transactions::a_broken_source);
}

#[test]
fn caches_that_came_in_a_package_stay_byte_for_byte() {
    rpm().inspect(transactions::packaged_caches);
}

#[test]
fn a_person_at_work_during_a_transaction() {
    rpm().inspect(transactions::with_a_person_at_once);
}

#[test]
fn the_next_transaction_heals_what_a_killed_hook_left() {
    rpm().inspect(transactions::a_killed_hook);
}

#[test]
fn a_database_that_cannot_be_asked_lists_everything() {
    let Some(rpm) = rpm() else { return };
    let (site, python) = (format!("/{}", System::site(rpm.python())), rpm.python());
    let source = rpm.system.path(&site[1..]).join("foreign.py");
    std::fs::write(&source, "VALUE = 1\n").unwrap();
    must(python.path.to_str().unwrap(), &["-m".as_ref(), "py_compile".as_ref(), source.as_os_str()]);
    let artifact = rpm.system.artifact(&source, python);
    let (before, tool, db) =
        (std::fs::read(&artifact).unwrap(), rpm.system.path("usr/bin/rpm"), rpm.system.path("var/lib/rpm/rpmdb.sqlite"));
    let assert_told = |words: &[&str]| {
        let said = rpm.system.run(&["/usr/bin/bytekeep", "seal", &site]);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(std::fs::read(&artifact).unwrap() == before, "{said}");
    };
    std::fs::rename(&tool, rpm.system.path("tmp/rpm")).unwrap();
    assert_told(&["cannot be told", "`/var/lib/rpm`", "`rpm` is not installed here"]);
    std::fs::rename(rpm.system.path("tmp/rpm"), &tool).unwrap();
    let whole = std::fs::read(&db).unwrap();
    std::fs::write(&db, b"no database").unwrap();
    assert_told(&["cannot be told", "exit status: 1"]);
    std::fs::write(&db, whole).unwrap();
    rpm.system.run(&["/usr/bin/bytekeep", "seal", &site]);
    assert!(system::is_sealed(&std::fs::read(&artifact).unwrap()), "nobody lists it");
}

#[test]
fn two_hooks_at_once() {
    rpm().inspect(transactions::two_hooks_at_once);
}

#[test]
fn a_full_disk_is_no_harm_to_a_transaction() {
    rpm().inspect(transactions::a_full_disk);
}
