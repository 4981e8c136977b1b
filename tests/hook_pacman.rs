//! pacman's own transactions on a throw-away root, with our hook files in it.
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
use transactions::Manager;
use whole::{must, root_or_skip, tool_or_skip};

/// The hook files, by name, as `hook install pacman` puts them there and our package has them.
fn hooks() -> [(&'static str, String); 2] {
    let compile = include_str!("../src/cli/hook/templates/pacman-compile.hook");
    let remove = include_str!("../src/cli/hook/templates/pacman-remove.hook");
    [("bytekeep-compile.hook", compile), ("bytekeep-remove.hook", remove)]
        .map(|(name, text)| (name, text.replace("@command@", "/usr/bin/bytekeep")))
}

/// Makes a package of a directory as `makepkg` does: `.PKGINFO`, `.MTREE`, files.
const PACK: &str = r"
import gzip, hashlib, os, sys, tarfile
image, out, name, version = sys.argv[1:5]
paths = sorted(os.path.relpath(os.path.join(at, one), image) for at, dirs, files in os.walk(image) for one in dirs + files)
info = 'pkgname = %s\npkgbase = %s\npkgver = %s-1\npkgdesc = x\narch = any\nsize = 1\n' % (name, name, version)
with open(os.path.join(image, '.PKGINFO'), 'w') as file:
    file.write(info)
tree = ['#mtree', '/set type=file uid=0 gid=0 mode=644']
for path in ['.PKGINFO'] + paths:
    whole = os.path.join(image, path)
    seen, quoted = os.lstat(whole), path.replace(' ', '\\040')
    if os.path.isdir(whole):
        tree.append('./%s time=%d.0 mode=755 type=dir' % (quoted, seen.st_mtime))
    else:
        data = open(whole, 'rb').read()
        tree.append('./%s time=%d.0 size=%d md5digest=%s sha256digest=%s' % (
            quoted, seen.st_mtime, len(data), hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest()))
with gzip.open(os.path.join(image, '.MTREE'), 'wb') as file:
    file.write(('\n'.join(tree) + '\n').encode())
with tarfile.open(out, 'w', format=tarfile.PAX_FORMAT) as tar:
    for path in ['.PKGINFO', '.MTREE'] + paths:
        entry = tar.gettarinfo(os.path.join(image, path), path)
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = 'root'
        entry.mode = 0o755 if entry.isdir() else 0o644
        tar.addfile(entry, open(os.path.join(image, path), 'rb') if entry.isfile() else None)
";

/// A root with pacman's database and our hooks.
struct Pacman {
    system: System,
    work: TempDir,
}

fn pacman() -> Option<Pacman> {
    (root_or_skip("a pacman root") && tool_or_skip("pacman")).then(Pacman::new)
}

impl Pacman {
    fn new() -> Self {
        let pacman = Self { system: System::new(), work: tempfile::tempdir().unwrap() };
        for dir in ["var/lib/pacman", "var/cache/pacman/pkg", "var/log", "etc/pacman.d/hooks"] {
            std::fs::create_dir_all(pacman.system.path(dir)).unwrap();
        }
        for (name, text) in hooks() {
            std::fs::write(pacman.system.path("etc/pacman.d/hooks").join(name), text).unwrap();
        }
        std::fs::write(
            pacman.work.path().join("pacman.conf"),
            "[options]\nSigLevel = Never\nLocalFileSigLevel = Never\nArchitecture = auto\n",
        )
        .unwrap();
        std::fs::write(pacman.work.path().join("pack.py"), PACK).unwrap();
        pacman
    }

    fn command(&self, words: &[&str], hooks: &str) -> Command {
        let mut command = Command::new("pacman");
        command.args(words);
        for (option, path) in [
            ("--root", ""),
            ("--dbpath", "var/lib/pacman"),
            ("--cachedir", "var/cache/pacman/pkg"),
            ("--hookdir", hooks),
            ("--logfile", "var/log/pacman.log"),
        ] {
            command.arg(option).arg(self.system.path(path));
        }
        command.arg("--config").arg(self.work.path().join("pacman.conf")).stdin(Stdio::null());
        command
    }
}

impl Manager for Pacman {
    fn system(&self) -> &System {
        &self.system
    }

    fn work(&self) -> &TempDir {
        &self.work
    }

    fn pack(&self, name: &str, version: &str, image: &Path) -> PathBuf {
        let out = self.work.path().join(format!("{name}-{version}-1-any.pkg.tar"));
        let script = self.work.path().join("pack.py");
        let words = [script.as_os_str(), image.as_os_str(), out.as_os_str(), name.as_ref(), version.as_ref()];
        must(self.python().path.to_str().unwrap(), &words);
        out
    }

    fn install(&self, packages: &[&Path]) -> Command {
        let mut command = self.command(&["-U", "--noconfirm"], "etc/pacman.d/hooks");
        command.args(packages);
        command
    }

    fn install_alone(&self, packages: &[&Path]) -> Command {
        let mut command = self.command(&["-U", "--noconfirm"], "var/log");
        command.args(packages);
        command
    }

    fn remove(&self, names: &[&str]) -> Command {
        let mut command = self.command(&["-R", "--noconfirm"], "etc/pacman.d/hooks");
        command.args(names);
        command
    }

    fn changed(&self, name: &str) -> String {
        String::from_utf8(self.command(&["-Qkkq", name], "var/log").output().unwrap().stdout).unwrap()
    }

    fn hook(&self, files: &[String]) -> (Command, String) {
        let list = files.join("\n") + "\n";
        (self.system.command(&["/usr/bin/bytekeep", "hook", "run", "pacman", "--nice"]), list)
    }
}

#[test]
fn what_is_installed_upgraded_and_removed_is_followed() {
    pacman().inspect(transactions::install_upgrade_remove);
}

#[test]
fn a_package_with_a_broken_source_is_installed() {
    pacman().inspect(transactions::a_broken_source);
}

#[test]
fn caches_that_came_in_a_package_stay_byte_for_byte() {
    pacman().inspect(transactions::packaged_caches);
}

#[test]
fn a_person_at_work_during_a_transaction() {
    pacman().inspect(transactions::with_a_person_at_once);
}

#[test]
fn the_next_transaction_heals_what_a_killed_hook_left() {
    pacman().inspect(transactions::a_killed_hook);
}

#[test]
fn a_full_disk_is_no_harm_to_a_transaction() {
    pacman().inspect(transactions::a_full_disk);
}

#[test]
fn two_hooks_at_once() {
    pacman().inspect(transactions::two_hooks_at_once);
}
