//! A disk that forgets: the calls of a log, replayed into what programs see and what a power cut is sure to leave.
//!
//! The rules are stricter than those of any file system. `fsync` of a file makes its data durable and not its name; `fsync` of a
//! directory makes the names in it durable and nothing else, not even its own name in its parent; `sync_file_range` and `close` make
//! nothing durable. Whatever the model does not know is an error, never passed over.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::strace_log::{Call, Log};

pub(crate) type Ino = usize;
/// A name in a directory, whether anything stands there or not.
pub(crate) type Slot = usize;
/// One of the byte strings that a file had or may have.
pub(crate) type Content = usize;
pub(crate) type Names = Vec<Option<Ino>>;

/// What a file that was written and not flushed may have after a power cut.
pub(crate) const VARIANTS: [&str; 5] = ["all written", "as last flushed", "all zeros", "its first half", "half, then zeros"];
pub(crate) const WRITTEN: usize = 0;
pub(crate) const FLUSHED: usize = 1;

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) is_dir: bool,
    /// Where a directory stands: none is ever moved.
    pub(crate) home: Slot,
    pub(crate) dirty: bool,
    /// As in [`VARIANTS`].
    pub(crate) variants: [Content; 5],
    data: Vec<u8>,
    changed: usize,
}

#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) dir: Ino,
    /// Below the tree.
    pub(crate) path: PathBuf,
}

/// A directory operation.
#[derive(Debug, Clone, Copy)]
enum Change {
    Set(Slot, Ino),
    Clear(Slot),
    Move(Slot, Slot, Ino),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    change: Change,
    at: usize,
}

impl Pending {
    pub(crate) fn apply(self, names: &mut Names) {
        match self.change {
            Change::Set(slot, ino) => names[slot] = Some(ino),
            Change::Clear(slot) => names[slot] = None,
            // also where the temp file's own creation was lost: a rename brings its inode along
            Change::Move(from, to, ino) => {
                if names[from] == Some(ino) {
                    names[from] = None;
                }
                names[to] = Some(ino);
            }
        }
    }

    fn slot(self) -> Slot {
        match self.change {
            Change::Set(slot, _) | Change::Clear(slot) | Change::Move(_, slot, _) => slot,
        }
    }
}

/// An open file, which duplicates of its descriptor share.
#[derive(Debug, Clone, Copy)]
struct Open {
    ino: Ino,
    offset: usize,
    append: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    root: PathBuf,
    pub(crate) inodes: Vec<Inode>,
    pub(crate) places: Vec<Place>,
    slots: HashMap<(Ino, Vec<u8>), Slot>,
    now: Names,
    pub(crate) durable: Names,
    pub(crate) pending: Vec<Pending>,
    pub(crate) contents: Vec<Vec<u8>>,
    known: HashMap<Vec<u8>, Content>,
    open: Vec<Open>,
    tables: Vec<HashMap<usize, usize>>,
    table_of: HashMap<u32, usize>,
}

impl Disk {
    /// The tree as it is, all of it durable.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let mut disk = Self { root: root.to_owned(), ..Self::default() };
        disk.new_inode(true, 0);
        for entry in walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name() {
            let entry = entry?;
            let path = entry.path().as_os_str().as_bytes();
            let (dir, name) = disk.resolve(None, path)?.context("outside of the tree")?;
            let slot = disk.slot(dir, &name);
            let ino = disk.new_inode(entry.file_type().is_dir(), slot);
            if entry.file_type().is_file() {
                disk.inodes[ino].data = std::fs::read(entry.path())?;
                disk.changed(ino, 0);
                disk.flush(ino);
            }
            disk.now[slot] = Some(ino);
            disk.durable[slot] = Some(ino);
        }
        Ok(disk)
    }

    pub(crate) fn find(&self, path: &Path) -> Option<Slot> {
        self.places.iter().position(|place| place.path == path)
    }

    /// What programs see under a path.
    pub(crate) fn bytes(&self, path: &Path) -> Option<&[u8]> {
        let ino = self.now[self.find(path)?]?;
        Some(&self.inodes[ino].data)
    }

    /// How many files programs see.
    pub(crate) fn files(&self) -> usize {
        self.now.iter().flatten().filter(|ino| !self.inodes[**ino].is_dir).count()
    }

    fn new_inode(&mut self, is_dir: bool, home: Slot) -> Ino {
        let empty = self.content(&[]);
        let variants = [empty; 5];
        self.inodes.push(Inode { is_dir, home, dirty: false, variants, data: Vec::new(), changed: 0 });
        self.inodes.len() - 1
    }

    fn content(&mut self, bytes: &[u8]) -> Content {
        if let Some(found) = self.known.get(bytes) {
            return *found;
        }
        self.contents.push(bytes.to_owned());
        self.known.insert(bytes.to_owned(), self.contents.len() - 1);
        self.contents.len() - 1
    }

    fn changed(&mut self, ino: Ino, at: usize) {
        let data = std::mem::take(&mut self.inodes[ino].data);
        let half = data.len() / 2;
        let mut torn = data[..half].to_vec();
        let first_half = self.content(&torn);
        torn.resize(data.len(), 0);
        let (written, zeros, half_zeros) = (self.content(&data), self.content(&vec![0; data.len()]), self.content(&torn));
        let inode = &mut self.inodes[ino];
        inode.variants = [written, inode.variants[FLUSHED], zeros, first_half, half_zeros];
        (inode.data, inode.dirty, inode.changed) = (data, true, at);
    }

    fn flush(&mut self, ino: Ino) {
        let inode = &mut self.inodes[ino];
        inode.variants = [inode.variants[WRITTEN]; 5];
        inode.dirty = false;
    }

    fn slot(&mut self, dir: Ino, name: &[u8]) -> Slot {
        if let Some(found) = self.slots.get(&(dir, name.to_owned())) {
            return *found;
        }
        let above = if dir == 0 { PathBuf::new() } else { self.places[self.inodes[dir].home].path.clone() };
        self.places.push(Place { dir, path: above.join(std::ffi::OsStr::from_bytes(name)) });
        self.now.push(None);
        self.durable.push(None);
        self.slots.insert((dir, name.to_owned()), self.places.len() - 1);
        self.places.len() - 1
    }

    /// The directory that a name is in, and the name; empty for the directory itself. `None`: it lies outside of the tree.
    fn resolve(&self, start: Option<Ino>, path: &[u8]) -> Result<Option<(Ino, Vec<u8>)>> {
        let (mut dir, rest) = if path.starts_with(b"/") {
            let inside = path.strip_prefix(self.root.as_os_str().as_bytes()).filter(|rest| rest.is_empty() || rest[0] == b'/');
            let Some(rest) = inside else { return Ok(None) };
            (0, rest)
        } else {
            let Some(dir) = start else { return Ok(None) };
            (dir, path)
        };
        let mut parts: Vec<&[u8]> = rest.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&b"..".as_slice()) {
            bail!("the model does not know {}", String::from_utf8_lossy(path));
        }
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let slot = self.slots.get(&(dir, part.to_owned()));
            let found = slot.and_then(|slot| self.now[*slot]).filter(|ino| self.inodes[*ino].is_dir);
            dir = found.with_context(|| format!("the model has no directory {}", String::from_utf8_lossy(path)))?;
        }
        Ok(Some((dir, last.to_owned())))
    }

    /// Descriptors of threads are one table; a forked process gets a copy.
    fn table(&mut self, pid: u32, log: &Log) -> usize {
        if let Some(found) = self.table_of.get(&pid) {
            return *found;
        }
        let table = match log.births.get(&pid) {
            Some(birth) => {
                let parents = self.table(birth.parent, log);
                if birth.shares { parents } else { self.add_table(self.tables[parents].clone()) }
            }
            None => self.add_table(HashMap::new()),
        };
        self.table_of.insert(pid, table);
        table
    }

    fn add_table(&mut self, table: HashMap<usize, usize>) -> usize {
        self.tables.push(table);
        self.tables.len() - 1
    }

    /// One call. Says whether the disk is another than before.
    pub(crate) fn replay(&mut self, call: &Call, log: &Log) -> Result<bool> {
        self.step(call, log).with_context(|| format!("line {} of the log: {}", call.ended, call.name))
    }

    fn step(&mut self, call: &Call, log: &Log) -> Result<bool> {
        let table = self.table(call.pid, log);
        let value = usize::try_from(call.value)?;
        let at = call.ended;
        let open =
            |disk: &Self, number: usize| -> Option<usize> { disk.tables[table].get(&call.text(number).parse::<usize>().ok()?).copied() };
        let target =
            |disk: &Self, dir: usize, path: usize| disk.resolve(open(disk, dir).map(|open| disk.open[open].ino), &call.bytes(path)?);
        match call.name.as_str() {
            "openat" | "openat2" => {
                // the number may be that of a descriptor whose end is not in the log
                self.tables[table].remove(&value);
                let Some((dir, name)) = target(self, 0, 1)? else { return Ok(false) };
                let (ino, new) = self.opened(dir, &name, call.text(2), at)?;
                self.open.push(Open { ino, offset: 0, append: call.text(2).contains("O_APPEND") });
                self.tables[table].insert(value, self.open.len() - 1);
                return Ok(new);
            }
            "close" => {
                self.tables[table].remove(&call.number(0)?);
            }
            "dup" | "dup2" | "dup3" => self.duplicate(table, open(self, 0), value),
            "fcntl" if call.text(1).starts_with("F_DUPFD") => self.duplicate(table, open(self, 0), value),
            "write" | "pwrite64" | "writev" => {
                let Some(open) = open(self, 0) else { return Ok(false) };
                let mut bytes = call.bytes(1)?;
                bytes.truncate(value);
                let place = if call.name == "pwrite64" { Some(call.number(3)?) } else { None };
                self.write(open, &bytes, place, at);
                return Ok(true);
            }
            "lseek" => {
                if let Some(open) = open(self, 0) {
                    self.open[open].offset = value;
                }
            }
            "ftruncate" => {
                let Some(open) = open(self, 0) else { return Ok(false) };
                let ino = self.open[open].ino;
                self.inodes[ino].data.resize(call.number(1)?, 0);
                self.changed(ino, at);
                return Ok(true);
            }
            "fsync" | "fdatasync" => {
                let Some(open) = open(self, 0) else { return Ok(false) };
                self.sync(self.open[open].ino, call.began);
                return Ok(true);
            }
            "syncfs" | "sync" => {
                for ino in 0..self.inodes.len() {
                    self.sync(ino, call.began);
                }
                return Ok(true);
            }
            "mkdirat" | "mkdir" => {
                let found = if call.name == "mkdir" { self.resolve(None, &call.bytes(0)?)? } else { target(self, 0, 1)? };
                let Some((dir, name)) = found else { return Ok(false) };
                let slot = self.slot(dir, &name);
                let ino = self.new_inode(true, slot);
                self.change(Change::Set(slot, ino), at);
                return Ok(true);
            }
            "unlinkat" | "unlink" | "rmdir" => {
                let found = if call.name == "unlinkat" { target(self, 0, 1)? } else { self.resolve(None, &call.bytes(0)?)? };
                let Some((dir, name)) = found else { return Ok(false) };
                let slot = self.slot(dir, &name);
                self.change(Change::Clear(slot), at);
                return Ok(true);
            }
            "renameat" | "renameat2" | "rename" | "linkat" => {
                let plain = call.name == "rename";
                let (from, to) = if plain {
                    (self.resolve(None, &call.bytes(0)?)?, self.resolve(None, &call.bytes(1)?)?)
                } else {
                    (target(self, 0, 1)?, target(self, 2, 3)?)
                };
                let ((from_dir, from), (dir, to)) = match (from, to) {
                    (Some(from), Some(to)) => (from, to),
                    (None, None) => return Ok(false),
                    _ => bail!("the model knows no move across the tree's border"),
                };
                let (from, to) = (self.slot(from_dir, &from), self.slot(dir, &to));
                let ino = self.now[from].context("what is renamed is not there")?;
                if self.inodes[ino].is_dir || call.text(4).contains("RENAME_EXCHANGE") {
                    bail!("the model knows no renamed directories and no exchange");
                }
                self.change(if call.name == "linkat" { Change::Set(to, ino) } else { Change::Move(from, to, ino) }, at);
                return Ok(true);
            }
            // of pipes and terminals, or about what is no content
            "fcntl" | "sync_file_range" => {}
            "ioctl" if !call.text(1).contains("CLONE") => {}
            name => {
                let tracked = (0..3).any(|number| open(self, number).is_some());
                let named = call.bytes(0).is_ok_and(|path| path.starts_with(self.root.as_os_str().as_bytes()));
                if tracked || named {
                    bail!("the model does not know {name} on a file of the tree");
                }
            }
        }
        Ok(false)
    }

    fn opened(&mut self, dir: Ino, name: &[u8], flags: &str, at: usize) -> Result<(Ino, bool)> {
        if flags.contains("O_TMPFILE") {
            bail!("the model knows no unnamed files");
        }
        if name.is_empty() {
            return Ok((dir, false));
        }
        let slot = self.slot(dir, name);
        match self.now[slot] {
            Some(ino) if flags.contains("O_TRUNC") => {
                self.inodes[ino].data.clear();
                self.changed(ino, at);
                Ok((ino, true))
            }
            Some(ino) => Ok((ino, false)),
            None if flags.contains("O_CREAT") => {
                let ino = self.new_inode(false, slot);
                self.change(Change::Set(slot, ino), at);
                Ok((ino, true))
            }
            None => bail!("{} was opened, and the model does not have it", self.places[slot].path.display()),
        }
    }

    fn duplicate(&mut self, table: usize, open: Option<usize>, to: usize) {
        match open {
            Some(open) => self.tables[table].insert(to, open),
            None => self.tables[table].remove(&to),
        };
    }

    /// Reads move no offset here: nobody reads through the descriptor that he writes by.
    fn write(&mut self, open: usize, bytes: &[u8], place: Option<usize>, at: usize) {
        let Open { ino, offset, append } = self.open[open];
        let data = &mut self.inodes[ino].data;
        let from = place.unwrap_or(if append { data.len() } else { offset });
        let end = from + bytes.len();
        data.resize(data.len().max(end), 0);
        data[from..end].copy_from_slice(bytes);
        if place.is_none() {
            self.open[open].offset = end;
        }
        self.changed(ino, at);
    }

    fn change(&mut self, change: Change, at: usize) {
        let pending = Pending { change, at };
        pending.apply(&mut self.now);
        self.pending.push(pending);
    }

    /// What was done before the flush began is durable after it; what another thread did meanwhile may not be.
    fn sync(&mut self, ino: Ino, began: usize) {
        if !self.inodes[ino].is_dir {
            if self.inodes[ino].changed < began {
                self.flush(ino);
            }
            return;
        }
        let mut left = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            if pending.at < began && self.places[pending.slot()].dir == ino {
                pending.apply(&mut self.durable);
            } else {
                left.push(pending);
            }
        }
        self.pending = left;
    }
}
