//! Environments of conda, linked by rattler, which pixi and others link with. It is no part of a system: `BYTEKEEP_TEST_RATTLER` names an
//! interpreter that can import it (`pip install py-rattler`). conda itself is neither there nor in Debian.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test's own files")]

#[path = "support/mod.rs"]
mod support;
#[path = "support/whole.rs"]
mod whole;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytekeep::base::seal::Artifact;
use tempfile::TempDir;
use whole::{BYTEKEEP, all_below, aloud, must, python, set_mtime};

/// `pack IMAGE PACKAGE NAME VERSION`, `link PREFIX CACHE PACKAGE…`: after the second the environment holds these packages and no others.
const RATTLER: &str = r"
import asyncio, hashlib, json, os, sys, tarfile
from rattler import PackageRecord, RepoDataRecord, install

def pack(image, out, name, version):
    whole = [os.path.join(at, one) for at, _, files in os.walk(image) for one in files]
    paths = [{'_path': os.path.relpath(one, image), 'path_type': 'hardlink', 'size_in_bytes': os.path.getsize(one),
              'sha256': hashlib.sha256(open(one, 'rb').read()).hexdigest()} for one in sorted(whole)]
    info = os.path.join(image, 'info')
    os.mkdir(info)
    index = {'name': name, 'version': version, 'build': '0', 'build_number': 0, 'depends': [], 'subdir': 'linux-64'}
    for file, value in [('index.json', index), ('paths.json', {'paths': paths, 'paths_version': 1})]:
        with open(os.path.join(info, file), 'w') as out_file:
            json.dump(value, out_file)
    with open(os.path.join(info, 'files'), 'w') as out_file:
        out_file.write(''.join(path['_path'] + '\n' for path in paths))
    with tarfile.open(out, 'w:bz2') as tar:
        for one in sorted(os.listdir(image)):
            tar.add(os.path.join(image, one), one)

def record(path):
    with tarfile.open(path) as tar, open(path + '.json', 'wb') as own:
        own.write(tar.extractfile('info/index.json').read())
    data = open(path, 'rb').read()
    digests = {'sha256': hashlib.sha256(data).hexdigest(), 'md5': hashlib.md5(data).hexdigest()}
    package = PackageRecord.from_index_json(path + '.json', size=len(data), **digests)
    return RepoDataRecord(package, os.path.basename(path), 'file://' + path, 'file:///local')

async def link(prefix, cache, packages):
    await install([record(path) for path in packages], prefix, cache_dir=cache, show_progress=False)

if sys.argv[1] == 'pack':
    pack(*sys.argv[2:6])
else:
    asyncio.run(link(sys.argv[2], sys.argv[3], sys.argv[4:]))
# It crashes while the interpreter ends, when all is done.
os._exit(0)
";

struct Conda {
    rattler: PathBuf,
    work: TempDir,
}

fn conda() -> Option<Conda> {
    let named = std::env::var_os("BYTEKEEP_TEST_RATTLER").map(PathBuf::from);
    let can = |path: &PathBuf| Command::new(path).args(["-c", "import rattler"]).output().is_ok_and(|done| done.status.success());
    let Some(rattler) = named.or_else(|| Some("python3".into())).filter(can) else {
        aloud("SKIP: no interpreter with rattler (BYTEKEEP_TEST_RATTLER): environments of conda");
        return None;
    };
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("rattler.py"), RATTLER.replace("from rattler", "sys.path.pop(0)\nfrom rattler")).unwrap();
    // The interpreter of the environment; what brings it is no matter here.
    let bin = work.path().join("env/bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(&python().path, bin.join(name())).unwrap();
    Some(Conda { rattler, work })
}

/// `python3.13`.
fn name() -> String {
    format!("python{}.{}", python().version.0, python().version.1)
}

impl Conda {
    fn env(&self) -> PathBuf {
        self.work.path().join("env")
    }

    fn rattler(&self, words: &[&OsStr]) {
        let script = self.work.path().join("rattler.py");
        let words: Vec<&OsStr> = [script.as_os_str()].into_iter().chain(words.iter().copied()).collect();
        must(self.rattler.to_str().unwrap(), &words);
    }

    /// Builds a package of modules, with their caches where that is said.
    fn build(&self, name: &str, version: &str, modules: &[(&str, &str)], with_caches: bool) -> PathBuf {
        let image = self.work.path().join(format!("{name}-{version}"));
        for (module, text) in modules {
            let path = image.join(site()).join(name).join(module).with_extension("py");
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            set_mtime(&path, 1_600_000_000 + version.parse::<i64>().unwrap());
        }
        if with_caches {
            must(python().path.to_str().unwrap(), &["-m".as_ref(), "compileall".as_ref(), "-q".as_ref(), image.as_os_str()]);
        }
        let package = self.work.path().join(format!("{name}-{version}-0.tar.bz2"));
        self.rattler(&["pack".as_ref(), image.as_os_str(), package.as_os_str(), name.as_ref(), version.as_ref()]);
        package
    }

    /// A transaction, and our hook behind it; what that said.
    fn link(&self, packages: &[&Path]) -> String {
        let (env, cache) = (self.env(), self.work.path().join("cache"));
        let words = ["link".as_ref(), env.as_os_str(), cache.as_os_str()].into_iter();
        self.rattler(&words.chain(packages.iter().map(|path| path.as_os_str())).collect::<Vec<_>>());
        let mut hook = Command::new(BYTEKEEP);
        hook.args(["hook", "run", "conda", "--no-store"]).env("PREFIX", &env).env("HOME", self.work.path());
        let done = hook.output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.success() && !said.contains("failed"), "{said}");
        said
    }

    fn artifact(&self, module: &str) -> PathBuf {
        let source = self.env().join(site()).join(module);
        let name = format!("{}.{}.pyc", source.file_name().unwrap().to_str().unwrap(), python().tag);
        source.with_file_name("__pycache__").join(name)
    }

    fn caches(&self) -> Vec<PathBuf> {
        let is_ours = |path: &PathBuf| path.to_str().is_some_and(|path| path.contains("__pycache__") || path.contains(".bytekeep"));
        all_below(&self.env().join("lib")).into_iter().filter(is_ours).collect()
    }
}

fn site() -> PathBuf {
    Path::new("lib").join(name()).join("site-packages")
}

fn is_sealed(path: &Path) -> bool {
    Artifact::split(&std::fs::read(path).unwrap()).unwrap().seal.is_some()
}

#[test]
fn what_is_linked_upgraded_and_unlinked_is_followed() {
    let Some(conda) = conda() else { return };
    let first = conda.build("one", "1", &[("__init__", ""), ("changes", "VALUE = 1\n"), ("goes", "")], false);
    let two = conda.build("two", "1", &[("__init__", "")], false);
    conda.link(&[&first, &two]);
    for module in ["one/__init__", "one/changes", "one/goes", "two/__init__"] {
        assert!(is_sealed(&conda.artifact(module)), "{module}");
    }
    let second = conda.build("one", "2", &[("__init__", ""), ("changes", "VALUE = 'two'\n")], false);
    let before = std::fs::read(conda.artifact("one/changes")).unwrap();
    conda.link(&[&second, &two]);
    assert!(is_sealed(&conda.artifact("one/changes")) && std::fs::read(conda.artifact("one/changes")).unwrap() != before);
    assert!(!conda.artifact("one/goes").exists());
    conda.link(&[&two]);
    assert!(!conda.env().join(site()).join("one").exists(), "{:?}", conda.caches());
    conda.link(&[]);
    assert_eq!(conda.caches(), [""; 0].map(PathBuf::from));
}

#[test]
fn caches_that_came_in_a_package_stay_byte_for_byte() {
    let Some(conda) = conda() else { return };
    let package = conda.build("one", "1", &[("__init__", ""), ("mod", "VALUE = 1\n")], true);
    let came = std::fs::read(
        conda.work.path().join("one-1").join(site()).join("one/__pycache__").join(conda.artifact("one/mod").file_name().unwrap()),
    )
    .unwrap();
    // As pip leaves it in the same environment.
    let foreign = conda.env().join(site()).join("foreign/mod.py");
    std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    std::fs::write(&foreign, "VALUE = 1\n").unwrap();
    must(python().path.to_str().unwrap(), &["-m".as_ref(), "compileall".as_ref(), "-q".as_ref(), foreign.as_os_str()]);
    conda.link(&[&package]);
    assert!(std::fs::read(conda.artifact("one/mod")).unwrap() == came, "it is listed with its digest");
    assert!(is_sealed(&conda.artifact("foreign/mod")), "nobody lists it");
    // A post-link script runs before the package is recorded: then nothing tells what came in it.
    std::fs::write(&foreign, "VALUE = 2\n").unwrap();
    must(python().path.to_str().unwrap(), &["-m".as_ref(), "compileall".as_ref(), "-q".as_ref(), foreign.as_os_str()]);
    let mut hook = Command::new(BYTEKEEP);
    hook.args(["hook", "run", "conda", "--no-store"]).env("PREFIX", conda.env()).env("PKG_NAME", "one").env("HOME", conda.work.path());
    assert!(hook.output().unwrap().status.success());
    assert!(!is_sealed(&conda.artifact("foreign/mod")));
    assert!(std::fs::read(conda.artifact("one/mod")).unwrap() == came);
}
