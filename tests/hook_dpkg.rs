//! The real dpkg, with maintainer scripts that really run, on a copy of this machine's own system that is thrown away: an overlay in which
//! every write goes to memory. Needs root, Debian's Python and an overlay; where one is not there it says so.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;
use whole::{BYTEKEEP, Tree, all_below, all_pythons, aloud, may, must, root_or_skip, tool_or_skip};

const DIST: &str = "/usr/lib/python3/dist-packages";

/// A system of its own: this machine's, with all that is written to it in memory.
struct System {
    top: TempDir,
}

impl System {
    /// `None`, told aloud, where the machine has not what it takes.
    fn new() -> Option<Self> {
        // One after the other: the kernel takes its time with mounts.
        static MOUNTING: Mutex<()> = Mutex::new(());
        let _one = MOUNTING.lock().unwrap();
        let tools = ["dpkg", "dpkg-deb", "chroot", "mount", "py3compile", "py3clean"];
        if !root_or_skip("a system of its own") || !tools.iter().all(|tool| tool_or_skip(tool)) {
            return None;
        }
        if !Path::new("/usr/share/python3/debian_defaults").is_file() {
            aloud("SKIP: this machine's Python is not Debian's");
            return None;
        }
        let top = tempfile::tempdir().unwrap();
        let path = &top.path().to_str().unwrap().to_owned();
        if !may("mount", &["-t", "tmpfs", "none", path]) {
            return None;
        }
        let system = Self { top };
        for dir in ["up", "work", "all", "packages"] {
            std::fs::create_dir(system.top.path().join(dir)).unwrap();
        }
        let options = format!("lowerdir=/,upperdir={path}/up,workdir={path}/work");
        let all = format!("{path}/all");
        if !may("mount", &["-t", "overlay", "overlay", "-o", &options, &all]) {
            return None;
        }
        must("mount", &["-t", "proc", "proc", &format!("{all}/proc")]);
        must("mount", &["--bind", "/dev", &format!("{all}/dev")]);
        std::fs::create_dir_all(system.path("/tmp")).unwrap();
        must("mount", &["-t", "tmpfs", "none", &format!("{all}/tmp")]);
        std::fs::copy(BYTEKEEP, system.path("/usr/bin/bytekeep")).unwrap();
        // What this machine has besides is no part of it.
        for own in ["/var/cache/bytekeep", "/usr/lib/bytekeep", "/usr/share/python3/bcep"] {
            drop(std::fs::remove_dir_all(system.path(own)));
        }
        drop(std::fs::remove_file(system.path("/etc/bytekeep.toml")));
        // Nor are its modules, but those of the interpreter itself: there may be thousands.
        system.must(&format!("find {DIST} -mindepth 1 -maxdepth 1 -exec rm -r {{}} +"));
        Some(system)
    }

    fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.top.path().join("all").join(inside.as_ref().strip_prefix("/").unwrap())
    }

    /// A line of shell in it.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.top.path().join("all")).args(["/bin/sh", "-c", line]).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("LC_ALL", "C.UTF-8");
        command.env("DEBIAN_FRONTEND", "noninteractive").env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// The same, run; its exit status is what it is.
    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// The same, where it must succeed; answers all that was said.
    #[track_caller]
    fn must(&self, line: &str) -> String {
        let done = self.run(line);
        let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{line}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// Builds a package; answers where it is, as the system calls it.
    fn package(&self, name: &str, version: &str, files: &[(&str, &str)], control: &[(&str, &str)]) -> String {
        let deb = format!("/tmp/{name}_{version}.deb");
        build(&self.top.path().join("packages"), &self.path(&deb), name, version, files, control);
        deb
    }

    /// The package whose trigger calls us.
    fn install_trigger(&self) {
        let postinst = format!(
            "#!/bin/sh\nset -e\nif [ -e /tmp/kill ]; then rm /tmp/kill\nbytekeep hook run dpkg -- \"$@\" & pid=$!\n\
             while kill -0 $pid 2>/dev/null && [ -z \"$(find {DIST}/one -name '*.pyc')\" ]; do :; done\n\
             kill -9 $pid || true; wait $pid || true; exit 0\nfi\nbytekeep hook run dpkg -- \"$@\"\n"
        );
        let trigger = format!("interest-noawait {DIST}\n");
        let deb = self.package("bytekeep-hook", "1.0", &[], &[("postinst", &postinst), ("triggers", &trigger)]);
        self.must(&format!("dpkg -i {deb}"));
    }

    /// Makes dpkg itself call us, as where no such package is.
    fn install_post_invoke(&self) {
        let text = "post-invoke=bytekeep hook run dpkg --post-invoke\n";
        std::fs::create_dir_all(self.path("/etc/dpkg/dpkg.cfg.d")).unwrap();
        // The first time it looks at all packages.
        let said = self.must("bytekeep hook run dpkg --post-invoke 2>&1");
        assert!(said.contains("bytekeep (dpkg): "), "{said}");
        std::fs::write(self.path("/etc/dpkg/dpkg.cfg.d/bytekeep"), text).unwrap();
    }

    /// The artifacts below a directory, and that all of them are whole, sealed, and those of the system's own interpreter.
    #[track_caller]
    fn artifacts(&self, dir: &str) -> Vec<String> {
        let below = all_below(&self.path(dir));
        assert!(!below.iter().any(|path| path.to_str().unwrap().contains(".bytekeep")), "{below:?}");
        let mut found: Vec<String> = Vec::new();
        for path in below.iter().filter(|path| path.extension().is_some_and(|end| end == "pyc")) {
            found.push(path.file_name().unwrap().to_str().unwrap().split('.').next().unwrap().to_owned());
        }
        if !found.is_empty() {
            self.must(&format!("bytekeep verify --require-seal --complete --python /usr/bin/python3 {dir}"));
        }
        found.sort();
        found
    }

    /// Does this interpreter import a module, and from its artifact?
    #[track_caller]
    fn assert_imports(&self, module: &str, value: &str) {
        let said = self.must(&format!("/usr/bin/python3 -v -c 'import {module} as m; print(\"VALUE\", m.VALUE)' 2>&1"));
        assert!(said.contains(&format!("VALUE {value}\n")), "{module}");
        let last = module.rsplit('.').next().unwrap();
        assert!(said.lines().any(|line| line.contains("code object from") && line.contains(&format!("{last}.cpython"))), "{module}");
    }

    /// No package is half installed.
    #[track_caller]
    fn assert_in_order(&self) {
        assert_eq!(self.must("dpkg --audit"), "");
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // With all that is mounted in it, and at once, whatever still runs there.
        let all = self.top.path().join("all");
        for mount in [all.join("tmp"), all.join("dev"), all.join("proc"), all, self.top.path().to_path_buf()] {
            drop(Command::new("umount").arg("-l").arg(mount).stderr(Stdio::null()).status());
        }
    }
}

/// Builds a package in a directory for that.
fn build(room: &Path, deb: &Path, name: &str, version: &str, files: &[(&str, &str)], control: &[(&str, &str)]) {
    let dir = room.join(format!("{name}-{version}"));
    let mut all = files.to_vec();
    let about = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: a package of a test\n"
    );
    let control: Vec<(String, &str)> = control.iter().map(|(name, text)| (format!("DEBIAN/{name}"), *text)).collect();
    all.push(("DEBIAN/control", &about));
    all.extend(control.iter().map(|(name, text)| (name.as_str(), *text)));
    for (name, text) in all {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        if ["DEBIAN/postinst", "DEBIAN/prerm"].contains(&name) {
            must("chmod", &["755", path.to_str().unwrap()]);
        }
    }
    must("chmod", &["-R", "u=rwX,go=rX", dir.to_str().unwrap()]);
    must("dpkg-deb", &["--root-owner-group", "-b", dir.to_str().unwrap(), deb.to_str().unwrap()]);
}

fn module(package: &str, name: &str) -> String {
    format!("{}/{package}/{name}", &DIST[1..])
}

/// Scripts as debhelper's Python writes them into each package.
fn dh_python(package: &str) -> [(&'static str, String); 2] {
    let head = "#!/bin/sh\nset -e\n";
    [
        ("postinst", format!("{head}if command -v py3compile >/dev/null 2>&1; then\n\tpy3compile -p {package}\nfi\n")),
        ("prerm", format!("{head}if command -v py3clean >/dev/null 2>&1; then\n\tpy3clean -p {package}\nelse\n\texit 1\nfi\n")),
    ]
}

/// Two versions of a package: in the second one a module went and one changed.
fn two_versions(system: &System, name: &str, scripts: &[(&str, &str)]) -> [String; 2] {
    let path = |file: &str| module(name, file);
    let (init, stays, goes, deep, new) = (path("__init__.py"), path("stays.py"), path("goes.py"), path("deep/mod.py"), path("new.py"));
    let first = [(&*init, "VALUE = 1\n"), (&stays, "VALUE = 1\n"), (&goes, "VALUE = 1\n"), (&deep, "VALUE = 1\n")];
    let second = [(&*init, "VALUE = 1\n"), (&stays, "VALUE = 222\n"), (&new, "VALUE = 1\n")];
    [system.package(name, "1.0", &first, scripts), system.package(name, "1.1", &second, scripts)]
}

/// Installs, upgrades, removes and purges.
fn whole_life(system: &System, name: &str, scripts: &[(&str, &str)]) {
    let dir = format!("{DIST}/{name}");
    let [first, second] = two_versions(system, name, scripts);
    system.must(&format!("dpkg -i {first}"));
    assert_eq!(system.artifacts(&dir), ["__init__", "goes", "mod", "stays"]);
    system.assert_imports(&format!("{name}.deep.mod"), "1");
    system.must(&format!("dpkg -i {second}"));
    assert_eq!(system.artifacts(&dir), ["__init__", "new", "stays"]);
    assert!(!system.path(&dir).join("deep").exists(), "what is empty could be imported");
    system.assert_imports(&format!("{name}.stays"), "222");
    system.assert_in_order();
    system.must(&format!("dpkg -r {name}"));
    assert!(!system.path(&dir).exists(), "{:?}", all_below(&system.path(&dir)));
    system.must(&format!("dpkg -i {first} && dpkg -P {name}"));
    assert!(!system.path(&dir).exists());
    system.assert_in_order();
}

fn borrowed<'s>(scripts: &'s [(&'static str, String)]) -> Vec<(&'s str, &'s str)> {
    scripts.iter().map(|(name, text)| (*name, text.as_str())).collect()
}

#[test]
fn a_trigger_serves_a_package_through_its_life() {
    let Some(system) = System::new() else { return };
    system.install_trigger();
    whole_life(&system, "one", &[]);
}

#[test]
fn a_trigger_works_on_the_root_that_dpkg_names_for_each_of_its_versions() {
    if !root_or_skip("dpkg on a root of its own") || !tool_or_skip("dpkg") || !tool_or_skip("dpkg-deb") {
        return;
    }
    let mut pythons: Vec<_> = all_pythons().iter().filter(|python| !python.pypy && python.version >= (3, 8)).collect();
    pythons.sort_by_key(|python| std::cmp::Reverse(python.version));
    pythons.dedup_by_key(|python| python.version);
    pythons.truncate(3);
    let tree = Tree::new();
    std::fs::remove_file(tree.path("good.py")).unwrap();
    let names: Vec<String> = pythons.iter().map(|python| format!("python{}.{}", python.version.0, python.version.1)).collect();
    tree.file("usr/share/python3/debian_defaults", format!("[DEFAULT]\nsupported-versions = {}\n", names.join(", ")).as_bytes());
    tree.file("var/lib/dpkg/status", b"");
    std::fs::create_dir_all(tree.path("var/lib/dpkg/info")).unwrap();
    std::fs::create_dir_all(tree.path("var/lib/dpkg/updates")).unwrap();
    // The script runs outside of that root; dpkg says in DPKG_ROOT which one it is.
    let by = pythons.iter().map(|python| format!(" --python '{}'", python.path.display())).collect::<Vec<_>>().concat();
    let postinst = format!("#!/bin/sh\nexec '{BYTEKEEP}' hook run dpkg{by} -- \"$@\"\n");
    let (room, dir) = (tree.outside("packages"), tree.path(&DIST[1..]).join("one"));
    std::fs::create_dir(&room).unwrap();
    let package = |name: &str, version: &str, files: &[(&str, &str)], control: &[(&str, &str)]| {
        let deb = room.join(format!("{name}_{version}.deb"));
        build(&room, &deb, name, version, files, control);
        deb.into_os_string().into_string().unwrap()
    };
    let (stays, goes) = (module("one", "stays.py"), module("one", "deep/goes.py"));
    let trigger = package("hook", "1", &[], &[("postinst", &postinst), ("triggers", &format!("interest-noawait {DIST}\n"))]);
    let first = package("one", "1", &[(&stays, "VALUE = 1\n"), (&goes, "VALUE = 1\n")], &[]);
    let second = package("one", "2", &[(&stays, "VALUE = 222\n")], &[]);
    let dpkg = |words: &[&str]| {
        let mut command = Command::new("dpkg");
        command.arg(format!("--root={}", tree.root().display())).arg("--force-script-chrootless").args(words);
        tree.dress(&mut command);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("CACHE_DIRECTORY", tree.outside("cache")).env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
        let done = command.output().unwrap();
        assert!(done.status.success(), "dpkg {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let artifacts = |sources: &[&str]| {
        let there = all_below(&tree.root()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "pyc")).count();
        assert_eq!(there, sources.len() * pythons.len(), "of {sources:?}");
        for python in &pythons {
            for source in sources {
                assert!(tree.artifact(source, python).is_file(), "{source} of {}", python.tag);
            }
        }
        tree.bytekeep(None, ["verify", "--require-seal", "."]).run().exits(0);
    };
    dpkg(&["-i", &trigger]);
    dpkg(&["-i", &first]);
    artifacts(&[&stays, &goes]);
    dpkg(&["-i", &second]);
    artifacts(&[&stays]);
    assert!(!dir.join("deep").exists());
    dpkg(&["-P", "one"]);
    assert!(!dir.exists());
    assert!(tree.litter().is_empty());
}

#[test]
fn dpkg_itself_calls_where_no_package_of_ours_is() {
    let Some(system) = System::new() else { return };
    system.install_post_invoke();
    whole_life(&system, "one", &[]);
    // A run that touched no Python says and does nothing.
    let deb = system.package("other", "1.0", &[("usr/share/other/file", "text\n")], &[]);
    let [first, _] = two_versions(&system, "one", &[]);
    system.must(&format!("dpkg -i {first}"));
    system.must(&format!("rm -r {DIST}/one/__pycache__"));
    let said = system.must(&format!("dpkg -i {deb}"));
    assert!(!said.contains("bytekeep"), "{said}");
    assert_eq!(system.artifacts(&format!("{DIST}/one/deep")), ["mod"]);
    assert!(!system.path(format!("{DIST}/one/__pycache__")).exists());
    // Nor does one on another system, with this one's configuration.
    system.must("mkdir -p /tmp/other/var/lib/dpkg/info /tmp/other/var/lib/dpkg/updates && touch /tmp/other/var/lib/dpkg/status");
    let said = system.must(&format!("dpkg --root=/tmp/other --force-script-chrootless -i {first}"));
    assert!(!said.contains("bytekeep") && system.path(format!("/tmp/other{DIST}/one/stays.py")).exists(), "{said}");
    assert_eq!(system.run("find /tmp/other -name '*.pyc'").stdout, b"");
}

#[test]
fn scripts_of_dh_python_and_we_do_not_fight() {
    for trigger in [true, false] {
        let Some(system) = System::new() else { return };
        if trigger {
            system.install_trigger();
        } else {
            system.install_post_invoke();
        }
        let scripts = dh_python("one");
        whole_life(&system, "one", &borrowed(&scripts));
        // theirs, again and by force, over ours; then ours over theirs
        let [first, second] = two_versions(&system, "one", &borrowed(&scripts));
        let scripts = dh_python("two");
        let [other, _] = two_versions(&system, "two", &borrowed(&scripts));
        let said = system.must(&format!("dpkg -i {first} {other}"));
        assert!(!said.contains("not empty"), "{said}");
        system.must("py3compile -f -p one");
        system.must(&format!("dpkg -i {second}"));
        assert_eq!(system.artifacts(&format!("{DIST}/one")), ["__init__", "new", "stays"]);
        assert_eq!(system.artifacts(&format!("{DIST}/two")).len(), 4);
        // py3clean takes ours too, and the directories.
        system.must("py3clean -p two");
        assert_eq!(system.artifacts(&format!("{DIST}/two")), [""; 0]);
        assert!(!system.path(format!("{DIST}/two/__pycache__")).exists());
        let said = system.must("dpkg -P one two");
        assert!(!said.contains("not empty"), "nothing of ours is in the way: {said}");
        assert!(!system.path(format!("{DIST}/one")).exists() && !system.path(format!("{DIST}/two")).exists());
        system.assert_in_order();
    }
}

#[test]
fn a_package_with_a_broken_source_is_installed() {
    for trigger in [true, false] {
        let Some(system) = System::new() else { return };
        if trigger {
            system.install_trigger();
        } else {
            system.install_post_invoke();
        }
        let (good, bad) = (module("broken", "good.py"), module("broken", "bad.py"));
        let deb = system.package("broken", "1.0", &[(&good, "VALUE = 1\n"), (&bad, "x = (\n")], &[]);
        let said = system.must(&format!("dpkg -i {deb} 2>&1"));
        assert!(said.contains("bad.py") && said.contains("SyntaxError"), "{said}");
        assert!(said.contains("1 compiled, 1 failed"), "{said}");
        system.assert_in_order();
        system.assert_imports("broken.good", "1");
        system.must("dpkg -P broken");
        assert!(!system.path(format!("{DIST}/broken")).exists());
    }
}

#[test]
fn transactions_and_a_repair_at_one_time() {
    let Some(system) = System::new() else { return };
    system.install_trigger();
    let [one, newer] = two_versions(&system, "one", &[]);
    let [two, _] = two_versions(&system, "two", &borrowed(&dh_python("two")));
    // dpkg lets one transaction in at a time, so each of them comes back until it had its turn.
    let turns = |line: &str| format!("n=0; while [ $n -lt 6 ]; do {line}; n=$((n+1)); done");
    let turn = |line: &str| format!("until {line} >/tmp/log.$$ 2>&1; do grep -q lock /tmp/log.$$ || {{ cat /tmp/log.$$; exit 1; }}; done");
    let first = turns(&format!("{}; {}; {}", turn(&format!("dpkg -i {one}")), turn(&format!("dpkg -i {newer}")), turn("dpkg -r one")));
    let second = turns(&format!("{}; {}", turn(&format!("dpkg -i {two}")), turn("dpkg -P two")));
    let person = format!(
        "while [ ! -e /tmp/end ]; do bytekeep repair --python /usr/bin/python3 {DIST} || exit 1; bytekeep compile --python /usr/bin/python3 {DIST}; done"
    );
    let start = |line: &str| system.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (first, second, person) = (start(&first), start(&second), start(&person));
    let mut said = String::new();
    let mut end = |name: &str, child: std::process::Child| {
        let done = child.wait_with_output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        writeln!(said, "{name}: {}\n{text:.3000}", done.status).unwrap();
        assert!(!text.contains("panicked"), "{text}");
        done.status.success()
    };
    let good = [end("first", first), end("second", second)];
    std::fs::write(system.path("/tmp/end"), "").unwrap();
    // A source that the manager takes away while it is looked at is no fault of the repair's.
    end("person", person);
    assert_eq!(good, [true, true], "{said}");
    system.assert_in_order();
    system.must(&format!("dpkg -i {one}; dpkg -i {two}"));
    for name in ["one", "two"] {
        assert_eq!(system.artifacts(&format!("{DIST}/{name}")), ["__init__", "goes", "mod", "stays"]);
    }
    system.must("dpkg -P one two");
    assert!(!system.path(format!("{DIST}/one")).exists() && !system.path(format!("{DIST}/two")).exists());
}

/// A package with so many modules that something can happen in between.
fn large(system: &System, name: &str) -> String {
    let text = "def f(x):\n    return [x + 1 for x in range(x)]\n".repeat(20);
    let names: Vec<String> = (0..200).map(|n| module(name, &format!("p{}/m{n}.py", n % 10))).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), text.as_str())).collect();
    system.package(name, "1.0", &files, &[])
}

#[test]
fn a_hook_that_was_killed_is_mended_by_the_next_transaction() {
    let Some(system) = System::new() else { return };
    system.install_trigger();
    let deb = large(&system, "one");
    std::fs::write(system.path("/tmp/kill"), "").unwrap();
    system.must(&format!("dpkg -i {deb}"));
    assert!(!system.path("/tmp/kill").exists(), "the trigger came");
    system.assert_in_order();
    let [other, _] = two_versions(&system, "two", &[]);
    system.must(&format!("dpkg -i {other}"));
    assert_eq!(system.artifacts(&format!("{DIST}/one")).len(), 200);
    system.must("dpkg -P one two");
    assert!(!system.path(format!("{DIST}/one")).exists());
}

#[test]
fn a_full_disk_fails_no_transaction() {
    let Some(system) = System::new() else { return };
    system.install_trigger();
    let deb = large(&system, "one");
    let dir = format!("{DIST}/one");
    system.must(&format!("mkdir {dir} && mount -t tmpfs -o size=2m none {dir} && dpkg --no-triggers -i {deb}"));
    system.run(&format!("dd if=/dev/zero of={dir}/filler bs=64k; dd if=/dev/zero of={dir}/filler2 bs=4k"));
    let said = system.must("dpkg --triggers-only -a 2>&1");
    let there = all_below(&system.path(&dir)).into_iter().filter(|path| path.extension().is_some_and(|end| end == "pyc")).count();
    let litter = system.run(&format!("find {dir} -name '.bytekeep*'")).stdout;
    let later = system.must(&format!(
        "rm {dir}/filler* && mount -o remount,size=64m {dir} && dpkg-trigger --by-package=one {DIST} && dpkg --triggers-only -a 2>&1"
    ));
    let healed = system.artifacts(&dir).len();
    system.must(&format!("umount {dir}"));
    assert!(said.contains("bytekeep (dpkg)") && said.contains("failed"), "{said}");
    assert!(there < 200, "there was room for all");
    assert_eq!(litter, b"");
    assert_eq!(healed, 200, "{later}");
    system.assert_in_order();
}
