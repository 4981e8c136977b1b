//! What `places` stands on: file systems that are full, read-only, layered or divided, what happens to them in the middle of a run, and
//! what some of them lack.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::fs::{FallocateFlags, fallocate};

use crate::bench::{Bench, Op};
use crate::mount::{Over, Place, check, on_path};
use crate::whole::files;

/// A small file system, and how much is left in it.
pub(crate) struct Full {
    pub(crate) name: &'static str,
    /// `mkfs` with its options; a tmpfs has none
    mkfs: &'static [&'static str],
    /// of the image, or `mount`'s options for a tmpfs
    size: u64,
    options: &'static str,
    /// KiB that are left, or inodes
    pub(crate) left: &'static [u64],
    inodes: bool,
    /// slow to make: fewer cases
    pub(crate) large: bool,
}

const MIB: u64 = 1 << 20;
const NO_JOURNAL: &[&str] = &["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal"];
const FEW_INODES: &[&str] = &["mkfs.ext4", "-q", "-b", "4096", "-N", "128", "-O", "^has_journal"];
const JOURNAL: &[&str] = &["mkfs.ext4", "-q", "-b", "1024", "-J", "size=1"];

/// Without the inodes that xfs makes as they are wanted.
pub(crate) const FULL: [Full; 8] = [
    Full { name: "tmpfs", mkfs: &[], size: MIB, options: "size=1m", left: &[0, 4, 12, 40], inodes: false, large: false },
    // what is there has just room; 9999: nothing else is put there
    Full { name: "tmpfs-tiny", mkfs: &[], size: 0, options: "size=200k", left: &[9999], inodes: false, large: false },
    Full { name: "tmpfs-inodes", mkfs: &[], size: 0, options: "size=4m,nr_inodes=200", left: &[0, 1, 2, 7], inodes: true, large: false },
    Full { name: "ext4", mkfs: NO_JOURNAL, size: 2 * MIB, options: "loop", left: &[0, 8, 40], inodes: false, large: false },
    Full { name: "ext4-journal", mkfs: JOURNAL, size: 6 * MIB, options: "loop", left: &[0, 12, 40], inodes: false, large: false },
    Full { name: "ext4-inodes", mkfs: FEW_INODES, size: 4 * MIB, options: "loop", left: &[0, 1, 2, 7], inodes: true, large: false },
    Full { name: "xfs", mkfs: &["mkfs.xfs", "-q"], size: 300 * MIB, options: "loop,nouuid", left: &[0, 40], inodes: false, large: true },
    Full { name: "btrfs", mkfs: &["mkfs.btrfs", "-q"], size: 120 * MIB, options: "loop", left: &[0, 40], inodes: false, large: true },
];

impl Full {
    pub(crate) fn missing(&self) -> Option<String> {
        self.mkfs.first().filter(|mkfs| !on_path(mkfs)).map(|mkfs| format!("there is no {mkfs}"))
    }

    fn make(&self, scratch: &Path) -> Result<Place> {
        if self.mkfs.is_empty() {
            return Place::mounted(scratch, &["-t", "tmpfs", "-o", self.options, "none"]);
        }
        Place::made(scratch, scratch, self.size, self.mkfs, self.options)
    }
}

/// What happens when some call has been made so many times.
pub(crate) struct Event {
    pub(crate) name: &'static str,
    /// After this call; each command makes it.
    call: &'static str,
    /// The file system fails for good.
    fatal: bool,
}

pub(crate) const EVENTS: [Event; 4] = [
    // an ioctl takes the device away from the file system
    Event { name: "shutdown", call: "openat", fatal: true },
    // an error of the device, after which ext4 is read-only
    Event { name: "ext4-error", call: "openat", fatal: true },
    Event { name: "vanish", call: "openat", fatal: false },
    Event { name: "fills", call: "openat", fatal: false },
];

impl Event {
    pub(crate) fn missing(&self) -> Option<String> {
        (self.fatal && !on_path("mkfs.ext4")).then(|| "there is no mkfs.ext4".to_owned())
    }

    /// Nothing can be removed after it.
    pub(crate) fn breaks(&self) -> bool {
        self.fatal
    }
}

/// Errors that some file systems have where others have none, injected by strace; `N` is the number of the case.
pub(crate) struct Lack {
    pub(crate) name: &'static str,
    inject: &'static str,
    pub(crate) when: &'static [u64],
    words: &'static str,
    /// It can be done without.
    harmless: bool,
}

pub(crate) const LACKS: [Lack; 11] = [
    Lack { name: "vfat-owner", inject: "fchown,fchmod:error=EPERM", when: &[0], words: "", harmless: true },
    Lack { name: "vfat-times", inject: "utimensat:error=EPERM", when: &[0], words: "Operation not permitted", harmless: false },
    Lack { name: "nfs-no-locks", inject: "flock:error=ENOLCK", when: &[0], words: "", harmless: true },
    Lack { name: "nfs-no-flock", inject: "flock:error=EOPNOTSUPP", when: &[0], words: "", harmless: true },
    Lack { name: "nfs-stale-open", inject: "openat:error=ESTALE:when=N", when: &[1, 2, 4, 8, 16, 32], words: STALE, harmless: false },
    Lack { name: "nfs-stale-stat", inject: "newfstatat:error=ESTALE:when=N", when: &[1, 2, 4, 8, 16, 32], words: STALE, harmless: false },
    Lack { name: "nfs-stale-rename", inject: "renameat:error=ESTALE:when=N", when: &[1, 2, 4], words: STALE, harmless: false },
    Lack { name: "nfs-late-errors", inject: "fsync:error=EIO", when: &[0], words: "Input/output error", harmless: false },
    Lack { name: "quota-rename", inject: "renameat,mkdirat:error=EDQUOT:when=N+", when: &[1, 2, 5], words: QUOTA, harmless: false },
    Lack { name: "quota-flush", inject: "fsync:error=EDQUOT:when=N+", when: &[1, 3], words: QUOTA, harmless: false },
    Lack { name: "no-hints", inject: "openat2,sync_file_range,fadvise64:error=ENOSYS", when: &[0], words: "", harmless: true },
];

const STALE: &str = "Stale file handle";
const QUOTA: &str = "Disk quota exceeded";

/// What a message must say, one of these.
pub(crate) fn words(ground: &str) -> Vec<&'static str> {
    match ground {
        "readonly" | "bind-readonly" => vec!["Read-only file system"],
        "fsize" => vec!["File too large"],
        "nofile" => vec!["Too many open files"],
        "nproc" => vec!["Resource temporarily unavailable"],
        "shutdown" => vec!["Input/output error"],
        "ext4-error" => vec!["Read-only file system", "Input/output error"],
        "vanish" => vec!["vanished", "removed", "moved", "No such file"],
        // a lost handle looks as if what it was of had been removed
        "nfs-stale-open" | "nfs-stale-stat" | "nfs-stale-rename" => vec![STALE, "vanished", "removed"],
        _ => vec![LACKS.iter().find(|lack| lack.name == ground).map_or("No space left on device", |lack| lack.words)],
    }
}

/// Nothing there is in the way of the whole work.
pub(crate) fn must_do(ground: &str) -> bool {
    matches!(ground, "noexec" | "overlay" | "across") || LACKS.iter().any(|lack| lack.name == ground && lack.harmless)
}

/// The cause is the file system's and told once.
pub(crate) fn is_shared(ground: &str) -> bool {
    matches!(ground, "readonly" | "bind-readonly" | "overlay-full" | "across-full" | "fills") || FULL.iter().any(|full| full.name == ground)
}

/// What is mounted for one case, on the bench's tree. Unmounted in this order.
pub(crate) struct Ground {
    name: String,
    inner: Option<Over>,
    tree: Option<Over>,
    place: Option<Place>,
    /// The layer below, and that of a whole file system.
    lower: Option<PathBuf>,
}

impl Ground {
    pub(crate) fn lay(bench: &Bench<'_>, name: &str, op: Op, left: u64) -> Result<Self> {
        let scratch = &bench.setting.scratch;
        let tmpfs = |options: &str| Place::mounted(scratch, &["-t", "tmpfs", "-o", options, "none"]);
        let full = FULL.iter().find(|full| full.name == name);
        let place = match (full, name) {
            (Some(full), _) => full.make(scratch)?,
            (None, "noexec") => tmpfs("size=8m,noexec,nosuid")?,
            (None, "shutdown" | "ext4-error") => Place::made(scratch, scratch, 16 * MIB, &["mkfs.ext4", "-q"], "loop,errors=remount-ro")?,
            _ => tmpfs("size=2m")?,
        };
        let mut ground = Self { name: name.to_owned(), inner: None, tree: None, place: Some(place), lower: None };
        let template = bench.template(op);
        let dir = ground.dir()?.to_owned();
        for sub in ["tree", "upper", "work", "tmp", "fill"] {
            std::fs::create_dir(dir.join(sub))?;
        }
        if name.starts_with("overlay") {
            let layers =
                format!("lowerdir={},upperdir={},workdir={}", template.display(), dir.join("upper").display(), dir.join("work").display());
            let words = ["-t", "overlay", "-o", &layers, "none"].map(OsStr::new);
            ground.tree = Some(Over::mount(&words, &bench.tree)?);
            ground.lower = Some(template);
        } else {
            ground.bind(&bench.tree)?;
            check(Command::new("cp").arg("-a").arg(template.join(".")).arg(&bench.tree))?;
        }
        match name {
            "readonly" => remount(&dir, "remount,ro")?,
            "bind-readonly" => remount(&bench.tree, "remount,bind,ro")?,
            "across" | "across-full" => {
                let inner = bench.tree.join("pkg/__pycache__");
                std::fs::create_dir_all(&inner)?;
                let aside = dir.join("aside");
                check(Command::new("cp").arg("-a").arg(&inner).arg(&aside))?;
                let words = ["-t", "tmpfs", "-o", "size=200k,mode=755", "none"].map(OsStr::new);
                ground.inner = Some(Over::mount(&words, &inner)?);
                check(Command::new("cp").arg("-a").arg(aside.join(".")).arg(&inner))?;
                std::fs::remove_dir_all(aside)?;
                if name == "across-full" {
                    // the harness's name, which no command takes for its own
                    fill(&inner.join(BALLAST), left)?;
                }
            }
            "overlay-full" => fill(&dir.join("fill").join(BALLAST), left)?,
            "vfat-owner" => check(Command::new("chown").arg("-R").arg("65534:65534").arg(&bench.tree)).map(drop)?,
            _ => {}
        }
        if EVENTS.iter().any(|event| event.name == name) {
            // or what was laid out would be what is lost
            check(Command::new("sync").arg("-f").arg(&dir))?;
        }
        match full {
            Some(full) if full.inodes => fill_inodes(&dir.join("fill"), left)?,
            Some(_) if left < 9999 => fill(&dir.join("fill").join(BALLAST), left)?,
            _ => {}
        }
        Ok(ground)
    }

    fn dir(&self) -> Result<&Path> {
        self.place.as_ref().map(Place::dir).context("there is no place")
    }

    fn bind(&mut self, tree: &Path) -> Result<()> {
        let from = self.dir()?.join("tree");
        self.tree = Some(Over::mount(&[OsStr::new("--bind"), from.as_os_str()], tree)?);
        Ok(())
    }

    /// Where the run has its temp directory.
    pub(crate) fn temp(&self, bench: &Bench<'_>) -> PathBuf {
        match &self.place {
            Some(place) if self.name == "noexec" => place.dir().join("tmp"),
            _ => bench.room.join("tmp"),
        }
    }

    /// Every file of the lower layer.
    pub(crate) fn lower(&self) -> Result<BTreeMap<PathBuf, (i64, Vec<u8>)>> {
        let all = self.lower.iter().flat_map(|lower| files(lower));
        all.map(|path| Ok((path.clone(), (path.metadata()?.mtime_nsec(), std::fs::read(&path)?)))).collect()
    }

    /// strace, where it is what this ground consists of.
    pub(crate) fn strace(&self, bench: &Bench<'_>, number: u64) -> Option<Command> {
        let inject = if let Some(event) = EVENTS.iter().find(|event| event.name == self.name) {
            format!("{}:signal=SIGSTOP:when={number}", event.call)
        } else {
            LACKS.iter().find(|lack| lack.name == self.name)?.inject.replace("when=N", &format!("when={number}"))
        };
        let calls = inject.split(':').next().unwrap_or_default();
        let mut command = Command::new("strace");
        command.args(["-f", "-b", "execve", "-qq", "-y", "-o"]).arg(bench.room.join("log"));
        // Calls on files of the tree alone: the dynamic loader and the wake-ups of threads are no file system's.
        for dir in std::iter::once(bench.tree.clone()).chain(["pkg", "pkg/sub", "other"].map(|dir| bench.tree.join(dir))) {
            command.arg("-P").arg(&dir).arg("-P").arg(dir.join("__pycache__"));
        }
        if self.by_descriptor() {
            command = Command::new("strace");
            command.args(["-f", "-b", "execve", "-qq", "-y", "-o"]).arg(bench.room.join("log"));
        }
        command.arg("-e").arg(format!("trace={calls}")).arg("-e").arg(format!("inject={inject}"));
        Some(command)
    }

    /// These are made on temp and lock files, whose names nobody knows before, and on nothing else.
    fn by_descriptor(&self) -> bool {
        ["vfat-owner", "vfat-times", "nfs-no-locks", "nfs-no-flock", "nfs-late-errors", "quota-flush", "no-hints"].contains(&&*self.name)
    }

    /// Whether it could be made to happen.
    pub(crate) fn happen(&self, bench: &Bench<'_>, event: &Event) -> bool {
        let done = self.dir().and_then(|dir| match event.name {
            "shutdown" => check(Command::new(&bench.setting.python.path).args(["-c", SHUTDOWN]).arg(dir)).map(drop),
            "ext4-error" => {
                let device = check(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(dir))?;
                let device = Path::new(device.trim()).file_name().context("no device")?.to_owned();
                Ok(std::fs::write(Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error"), "1")?)
            }
            "vanish" => check(Command::new("umount").arg("-l").arg(&bench.tree)).map(drop),
            "fills" => fill(&dir.join("fill").join(BALLAST), 0),
            other => bail!("nothing is called {other}"),
        });
        if let Err(error) = &done {
            println!("places: {} could not be made to happen: {error:#}", event.name);
        }
        done.is_ok()
    }

    /// After the run: what was taken away or is broken is mounted anew.
    pub(crate) fn after(mut self, bench: &Bench<'_>, event: Option<&Event>) -> Result<Self> {
        if event.is_some_and(|event| event.fatal || event.name == "vanish") {
            self.tree = None;
            if event.is_some_and(|event| event.fatal) {
                self.place.as_ref().context("there is no place")?.anew()?;
            }
            self.bind(&bench.tree)?;
        }
        if self.name == "across-full" {
            std::fs::remove_file(bench.tree.join("pkg/__pycache__").join(BALLAST))?;
        }
        Ok(self)
    }

    /// There is room again, and it can be written.
    pub(crate) fn relieve(&self, bench: &Bench<'_>) -> Result<()> {
        let dir = self.dir()?;
        match &*self.name {
            "readonly" => remount(dir, "remount,rw")?,
            "bind-readonly" => remount(&bench.tree, "remount,bind,rw")?,
            "tmpfs-tiny" => remount(dir, "remount,size=4m")?,
            _ => {}
        }
        Ok(std::fs::remove_dir_all(dir.join("fill"))?)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.inner = None;
        self.tree = None;
        self.place = None;
    }
}

const BALLAST: &str = "ballast";

/// `FS_IOC_SHUTDOWN`, what is in the journal written first.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 1))";

fn remount(dir: &Path, how: &str) -> Result<()> {
    check(Command::new("mount").args(["-o", how]).arg(dir)).map(drop)
}

/// Leaves so many KiB.
fn fill(path: &Path, left: u64) -> Result<()> {
    let file = std::fs::File::create(path)?;
    let (mut len, mut step) = (0, 256 * MIB);
    while step >= 4096 {
        if fallocate(&file, FallocateFlags::empty(), len, step).is_ok() {
            len += step;
        } else {
            step /= 2;
        }
    }
    file.set_len(len.saturating_sub(left << 10))?;
    Ok(file.sync_all()?)
}

/// Leaves so many inodes.
fn fill_inodes(dir: &Path, left: u64) -> Result<()> {
    let mut made = 0_u64;
    while std::fs::File::create(dir.join(made.to_string())).is_ok() {
        made += 1;
        if made > 10_000 {
            bail!("{} has no end of inodes", dir.display());
        }
    }
    (made.saturating_sub(left)..made).try_for_each(|number| Ok(std::fs::remove_file(dir.join(number.to_string()))?))
}
