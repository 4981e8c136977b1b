//! Fresh places to measure in: a new ext4 on a loop device, always unmounted again; else a directory name never used before.
//!
//! ext4 steps over inodes deleted in the last minutes one by one when it makes new ones, so measuring where something was removed
//! measures the removal.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Whether a file system can be made and mounted here. What stands in the way of the mount itself shows when it is tried.
pub(crate) fn possible() -> bool {
    cfg!(target_os = "linux") && rustix::process::geteuid().is_root() && on_path("mkfs.ext4") && on_path("mount")
}

pub(crate) fn on_path(program: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).chain(["/sbin".into(), "/usr/sbin".into()]).any(|dir| dir.join(program).is_file())
}

/// A place that nobody has written in. Dropped: gone.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    image: Option<PathBuf>,
}

impl Place {
    pub(crate) fn fresh(scratch: &Path) -> Result<Self> {
        if !possible() {
            let dir = scratch.join(new_name());
            std::fs::create_dir_all(&dir)?;
            return Ok(Self { dir, image: None });
        }
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        // small files: the default would have too few inodes for a hundred thousand sources and their artifacts
        let mkfs = ["mkfs.ext4", "-q", "-i", "8192", "-E", options];
        Self::made(scratch, scratch, 8 << 30, &mkfs, "loop")
    }

    /// A new file system in an image in `images`, mounted below `scratch`.
    pub(crate) fn made(scratch: &Path, images: &Path, size: u64, mkfs: &[&str], options: &str) -> Result<Self> {
        let name = new_name();
        let image = images.join(format!("{name}.img"));
        let place = Self { dir: scratch.join(&name), image: Some(image.clone()) };
        std::fs::create_dir_all(&place.dir)?;
        std::fs::File::create(&image)?.set_len(size)?;
        check(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image))?;
        check(Command::new("mount").args(["-o", options]).arg(&image).arg(&place.dir))?;
        Ok(place)
    }

    /// Whatever `mount` makes of these words; what is in it goes with it.
    pub(crate) fn mounted(scratch: &Path, words: &[&str]) -> Result<Self> {
        let place = Self { dir: scratch.join(new_name()), image: None };
        std::fs::create_dir_all(&place.dir)?;
        check(Command::new("mount").args(words).arg(&place.dir))?;
        Ok(place)
    }

    /// Mounts the image anew, as after a failure that only that ends.
    pub(crate) fn anew(&self) -> Result<()> {
        let image = self.image.as_ref().context("this place has no image")?;
        check(Command::new("umount").arg(&self.dir))?;
        check(Command::new("mount").args(["-o", "loop"]).arg(image).arg(&self.dir)).map(drop)
    }

    /// The power goes: a copy of the image at one point in time, which `FICLONE` is and a plain copy is not. The place itself is gone
    /// then, as two file systems of one name cannot be mounted at once; what the copy has is what a disk would have.
    pub(crate) fn cut(self, scratch: &Path, options: &str) -> Result<Self> {
        let image = self.image.clone().context("this place has no image")?;
        let name = new_name();
        let copy = image.with_file_name(format!("{name}.img"));
        let place = Self { dir: scratch.join(&name), image: Some(copy.clone()) };
        std::fs::create_dir_all(&place.dir)?;
        check(Command::new("cp").arg("--reflink=always").arg(&image).arg(&copy))?;
        drop(self);
        check(Command::new("mount").args(["-o", options]).arg(&copy).arg(&place.dir))?;
        Ok(place)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.dir, self.image.as_deref()) {
            println!("{} could not be taken away: {error:#}", self.dir.display());
        }
    }
}

/// Something mounted on a directory of somebody else's, which stays when this is dropped.
#[derive(Debug)]
pub(crate) struct Over(PathBuf);

impl Over {
    pub(crate) fn mount(words: &[&std::ffi::OsStr], dir: &Path) -> Result<Self> {
        check(Command::new("mount").args(words).arg(dir))?;
        Ok(Self(dir.to_owned()))
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let still = mounted(&self.0).unwrap_or(true);
        let gone = || check(Command::new("umount").arg(&self.0)).or_else(|_| check(Command::new("umount").arg("-l").arg(&self.0)));
        if still && let Err(error) = gone() {
            println!("{} could not be unmounted: {error:#}", self.0.display());
        }
    }
}

fn new_name() -> String {
    format!("place-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn remove(dir: &Path, image: Option<&Path>) -> Result<()> {
    if mounted(dir)? {
        check(Command::new("umount").arg(dir)).or_else(|_| check(Command::new("umount").arg("-l").arg(dir)))?;
    }
    if let Some(image) = image {
        std::fs::remove_dir(dir)?;
        if image.exists() {
            std::fs::remove_file(image)?;
        }
        return Ok(());
    }
    Ok(std::fs::remove_dir_all(dir)?)
}

fn mounted(dir: &Path) -> Result<bool> {
    let dir = dir.to_str().context("the scratch directory's name is no UTF-8")?;
    Ok(std::fs::read_to_string("/proc/self/mounts")?.lines().any(|line| line.split(' ').nth(1) == Some(dir)))
}

/// Takes away what a killed run of ours left in the scratch directory.
pub(crate) fn sweep(scratch: &Path) -> Result<()> {
    let number = |path: &Path| {
        let (pid, number) = path.file_name()?.to_str()?.strip_prefix("place-")?.split_once('-')?;
        Some((number.parse::<u64>().ok()?, pid.parse::<u32>().ok()?))
    };
    let mut all: Vec<PathBuf> = std::fs::read_dir(scratch)?.flatten().map(|entry| entry.path()).collect();
    // the image of a later one may lie in an earlier one
    all.sort_by_key(|path| std::cmp::Reverse(number(path)));
    for path in all {
        let Some((_, pid)) = number(&path) else { continue };
        if path.is_dir() && !Path::new(&format!("/proc/{pid}")).exists() {
            let image = path.with_extension("img");
            remove(&path, image.exists().then_some(image.as_path()))?;
        }
    }
    Ok(())
}

/// Runs to exit 0 or says what it said.
pub(crate) fn check(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("{} does not start", command.get_program().display()))?;
    if !out.status.success() {
        let said = [out.stdout, out.stderr].concat();
        bail!("{command:?}: {}: {}", out.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Everything written so far reaches the disk, so that one run does not pay for the one before.
pub(crate) fn settle() -> Result<()> {
    check(&mut Command::new("sync")).map(drop)
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    check(Command::new("cp").arg("-a").arg(from).arg(to)).map(drop)
}
