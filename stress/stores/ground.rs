//! Several trees with the same sources and one store, and what an artifact in any of them may be.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::judge::{Code, Judge};
use crate::corpus::module;
use crate::mount::check;
use crate::run::{Setting, without_options};
use crate::whole::{Digest, Look, digest, files, is_artifact, leftovers, look};

const PACKAGES: usize = 3;
/// Of each module. All are of one size, so that no header tells one from another.
pub(crate) const VERSIONS: usize = 3;
/// No source of ours is younger when a case begins, so that no artifact is racy, seconds.
const AGE: u64 = 1000;

#[derive(Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) room: PathBuf,
    pub(crate) trees: Vec<PathBuf>,
    /// Below a tree.
    pub(crate) modules: Vec<PathBuf>,
    /// What compileall, which knows no store, makes of each version of each module: by the digest of its source.
    reference: Vec<HashMap<Digest, String>>,
    judge: Mutex<Judge>,
    tag: String,
}

impl<'a> Ground<'a> {
    /// The second tree and every second one after it have the sources of the first by hard links, as uv lays them out.
    pub(crate) fn lay_out(setting: &'a Setting, room: &Path, trees: usize, modules: usize) -> Result<Self> {
        const SAY: &str = "import sys; print(sys.implementation.cache_tag)";
        let tag = check(Command::new(&setting.python.path).args(["-I", "-c", SAY]))?.trim().to_owned();
        let room = room.canonicalize()?;
        let modules: Vec<PathBuf> = (0..modules).map(|number| PathBuf::from(format!("pkg{}/m{number}.py", number % PACKAGES))).collect();
        let trees = (0..trees).map(|number| room.join(format!("env{number}"))).collect();
        let judge = Mutex::new(Judge::start(&setting.python)?);
        let mut ground = Self { setting, room, trees, modules, reference: Vec::new(), judge, tag };
        ground.reference = vec![HashMap::new(); ground.modules.len()];
        for version in 0..VERSIONS {
            let tree = ground.room.join(format!("reference{version}"));
            ground.write_sources(&tree, version)?;
            check(&mut setting.compileall(&tree, 1))?;
            for (number, name) in ground.modules.iter().enumerate() {
                let source = std::fs::read(tree.join(name))?;
                let artifact = std::fs::read(ground.artifact(&tree, name))?;
                let Code::Is(code, _) = ground.judge.lock().unwrap().code(&artifact)? else { bail!("compileall makes no code") };
                ground.reference[number].insert(digest(&source), code);
            }
        }
        for number in 0..ground.trees.len() {
            ground.plant(&ground.trees[number], number % 2 == 1)?;
        }
        Ok(ground)
    }

    pub(crate) fn judge_id(&self) -> u32 {
        self.judge.lock().unwrap().id()
    }

    pub(crate) fn text(number: usize, version: usize) -> String {
        module(number + 1000 * (version + 1), 4 + number % 9)
    }

    fn write_sources(&self, tree: &Path, version: usize) -> Result<()> {
        for (number, name) in self.modules.iter().enumerate() {
            let path = tree.join(name);
            std::fs::create_dir_all(path.parent().context("no directory")?)?;
            std::fs::write(&path, Self::text(number, version))?;
            let before = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - AGE);
            std::fs::File::options().write(true).open(&path)?.set_modified(before)?;
        }
        Ok(())
    }

    /// A tree of the first version, without artifacts; its sources are those of the first tree, or its own.
    pub(crate) fn plant(&self, tree: &Path, linked: bool) -> Result<()> {
        self.write_sources(tree, 0)?;
        for name in self.modules.iter().filter(|_| linked) {
            std::fs::remove_file(tree.join(name))?;
            std::fs::hard_link(self.trees[0].join(name), tree.join(name))?;
        }
        Ok(())
    }

    pub(crate) fn artifact(&self, tree: &Path, name: &Path) -> PathBuf {
        let (dir, stem) = (name.parent().unwrap_or(Path::new("")), name.file_stem().unwrap_or_default().to_string_lossy());
        tree.join(dir).join("__pycache__").join(format!("{stem}.{}.pyc", self.tag))
    }

    /// The command on a store.
    pub(crate) fn stored(&self, command: &mut Command, store: &Path) {
        without_options(command);
        command.env("XDG_CACHE_HOME", self.room.join("cache")).env_remove("BYTEKEEP_NO_STORE").env("BYTEKEEP_STORE", store);
        command.env("BYTEKEEP_SYSTEM_STORE", self.room.join("no-system"));
    }

    pub(crate) fn on_tree(&self, verb: &str, tree: &Path, jobs: usize, store: &Path) -> Command {
        let mut command = Command::new(&self.setting.bin);
        command.args(self.setting.arguments(verb, tree, jobs));
        self.stored(&mut command, store);
        command
    }

    pub(crate) fn on_store(&self, words: &[&str], store: &Path) -> Command {
        let mut command = Command::new(&self.setting.bin);
        command.arg("store").args(words);
        self.stored(&mut command, store);
        command
    }

    /// What is wrong with an artifact, whatever its source is now.
    pub(crate) fn flaw(&self, tree: &Path, number: usize, bytes: &[u8]) -> Result<Option<String>> {
        let (name, known) = (&self.modules[number], &self.reference[number]);
        let wanted = match look(bytes) {
            Look::Torn(why) => return Ok(Some(why)),
            Look::Sealed { source, .. } => match known.get(&source) {
                Some(code) => Some(code),
                None => return Ok(Some("it is sealed for a source that this module never had".to_owned())),
            },
            // compileall and imports make these
            Look::Unsealed => None,
        };
        let (code, names) = match self.judge.lock().unwrap().code(bytes)? {
            Code::Is(code, names) => (code, names),
            Code::Not(why) => return Ok(Some(format!("marshal.loads says: {why}"))),
        };
        if !wanted.map_or_else(|| known.values().any(|one| *one == code), |wanted| *wanted == code) {
            return Ok(Some("its code is not what its source gives without a store".to_owned()));
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let shared = format!("<{}>", name.file_name().unwrap_or_default().to_string_lossy());
        let right = [hex(tree.join(name).as_os_str().as_bytes()), hex(shared.as_bytes())];
        if names.len() != 1 || !right.contains(&names[0]) {
            return Ok(Some(format!("the file names in its code are {names:?}, and not {right:?}")));
        }
        Ok(None)
    }

    /// What is wrong in a tree when all is over: everything must be there, sealed for the source that is there, and nothing else.
    pub(crate) fn at_rest(&self, tree: &Path) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for (number, name) in self.modules.iter().enumerate() {
            let (path, source) = (self.artifact(tree, name), std::fs::read(tree.join(name))?);
            let bytes = match std::fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    all.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            let why = match (self.flaw(tree, number, &bytes)?, look(&bytes)) {
                (Some(why), _) => Some(why),
                (None, Look::Sealed { source: sealed, .. }) if sealed == digest(&source) => {
                    let meta = std::fs::metadata(tree.join(name))?;
                    let mtime = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
                    let fits = |at: usize, value: u64| bytes[at..at + 4] == u32::try_from(value).unwrap_or(0).to_le_bytes();
                    (!fits(8, mtime) || !fits(12, meta.len())).then(|| "its header is not its source's".to_owned())
                }
                (None, Look::Sealed { .. }) => Some("it is sealed for an earlier source".to_owned()),
                // what an import wrote last is sound, and up to date where `verify` says so
                (None, _) => None,
            };
            all.extend(why.map(|why| format!("{}: {why}", path.display())));
        }
        all.extend(leftovers(tree).iter().map(|path| format!("{} is left over", path.display())));
        let artifacts = files(tree).into_iter().filter(|path| is_artifact(path)).count();
        if artifacts > self.modules.len() {
            all.push(format!("{artifacts} artifacts of {} sources in {}", self.modules.len(), tree.display()));
        }
        Ok(all)
    }
}

/// The values in a store, and the artifacts that are shared: all that is known by a key.
pub(crate) fn keyed(store: &Path) -> Vec<PathBuf> {
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.len() == 64);
    if store.exists() { files(store).into_iter().filter(named).collect() } else { Vec::new() }
}
