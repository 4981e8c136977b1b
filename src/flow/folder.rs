//! A folder: one directory of artifacts with its sources. It is the unit of locking; the unit of work is the entry.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::leftover::Leftover;
use crate::base::lock::DirLock;
use crate::base::sys::{self, Dir, Kind, Name, Stat};
use crate::base::{Error, Result, write};
use crate::ignored;
use crate::model::{Cause, Entry, Layout, Verdict};

use super::claimed::Claimed;
use super::job::What;

/// A root of the job.
pub(super) struct Tree {
    /// Its path as it was named.
    pub(super) path: PathBuf,
    pub(super) what: What,
    /// The root's absolute path, links in it unresolved: what compiled code calls its sources.
    pub(super) absolute: PathBuf,
    /// What the other roots of the same directory have in work already: each item is looked at once.
    pub(super) shared: Option<Arc<Shared>>,
    /// From where it is reached, and by which path; `None`: it was named itself, and may be so through links.
    within: Option<(Arc<Base>, PathBuf)>,
    dir: Mutex<Option<Arc<Dir>>>,
}

/// A directory that was named and that several roots are reached from. It is opened once in a run: what its path leads to later is not asked.
pub(super) struct Base {
    path: PathBuf,
    dir: Mutex<Option<Arc<Dir>>>,
}

impl Base {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, dir: Mutex::default() }
    }

    fn dir(&self) -> Result<Arc<Dir>> {
        once(&self.dir, || Ok(Arc::new(Dir::open_root(&self.path)?)))
    }
}

/// Items of one directory that was named in several ways, by their layouts.
pub(super) type Shared = Mutex<HashSet<(Layout, Name)>>;

impl Tree {
    pub(super) fn new(
        path: PathBuf,
        within: Option<(Arc<Base>, PathBuf)>,
        what: What,
        absolute: PathBuf,
        shared: Option<Arc<Shared>>,
    ) -> Self {
        Self { path, within, what, absolute, shared, dir: Mutex::default() }
    }

    /// The directory, opened when it is first needed: there may be more roots than descriptors.
    pub(super) fn dir(&self) -> Result<Arc<Dir>> {
        once(&self.dir, || match &self.within {
            Some((base, below)) => base.dir()?.open_beneath(below),
            None => Ok(Arc::new(Dir::open_root(&self.path)?)),
        })
    }

    /// Gives its descriptor back until it is needed again.
    pub(super) fn close(&self) {
        *self.dir.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn once(kept: &Mutex<Option<Arc<Dir>>>, open: impl FnOnce() -> Result<Arc<Dir>>) -> Result<Arc<Dir>> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    match &*kept {
        Some(dir) => Ok(Arc::clone(dir)),
        None => Ok(Arc::clone(kept.insert(open()?))),
    }
}

/// Something in a folder that is looked at.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// An entry.
    Entry(Entry),
    /// What may be a left-over of ours.
    Leftover(Name, Leftover),
    /// A temp file of the interpreter's own.
    ForeignTemp(Name),
}

impl Item {
    pub(super) fn name(&self) -> &Name {
        match self {
            Self::Entry(entry) => &entry.artifact,
            Self::Leftover(name, _) | Self::ForeignTemp(name) => name,
        }
    }

    /// Is a left-over of this name of such a kind? Anything else of the name is somebody else's, and stays.
    pub(super) fn may_be(&self, kind: Kind) -> bool {
        match self {
            Self::Leftover(_, Leftover::Aside) => kind == Kind::Dir,
            Self::Leftover(..) | Self::ForeignTemp(_) | Self::Entry(_) => kind == Kind::File,
        }
    }
}

/// Where the artifacts of a folder are.
#[derive(Debug, Clone)]
pub(super) enum Home {
    /// A directory of this name beside the sources.
    Below(Name),
    /// The sources' own directory.
    Beside,
    /// This path below a prefix.
    Prefix(Arc<Dir>, PathBuf),
}

/// See the module.
pub(super) struct Folder {
    pub(super) layout: Layout,
    pub(super) home: Home,
    /// The directory of the sources; `None` where a prefix mirrors one that is not there.
    pub(super) sources: Option<Arc<Dir>>,
    /// The absolute path of that directory.
    pub(super) absolute: PathBuf,
    /// The directory of artifacts, where it is there.
    pub(super) artifacts: Option<Arc<Dir>>,
    /// How its path is written.
    pub(super) path: PathBuf,
    /// Why nothing can be done here, where that is so.
    pub(super) trouble: Option<(Verdict, Cause)>,
    /// What the looks found to do, until the last of them is done.
    pub(super) todo: Mutex<Vec<Item>>,
    /// Looks that are not done yet.
    pub(super) looks: AtomicUsize,
    /// What lost its directory, until it is gathered and begun anew.
    pub(super) lost: Mutex<Lost>,
    /// What others are compiling.
    pub(super) claimed: Mutex<Claimed>,
    /// One of the folders that are open.
    _open: Counted,
}

/// Items whose directory of artifacts went away under them.
#[derive(Default)]
pub(super) struct Lost {
    pub(super) items: Vec<Item>,
    /// Is the folder on its way to a new lock for them?
    pub(super) queued: bool,
    /// The directory that went away last, and how many did.
    pub(super) last: Option<(u64, u64)>,
    pub(super) times: u32,
}

/// How many folders are open: each holds descriptors.
#[derive(Clone, Default)]
pub(super) struct Open(Arc<AtomicUsize>);

impl Open {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn one_more(&self) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted(self.clone())
    }
}

/// One of them.
struct Counted(Open);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Folder {
    /// Opens a folder's directory of artifacts, if it is there.
    ///
    /// An error is a lack of descriptors, which says nothing of the folder: it is to be tried again. Any other is the folder's trouble.
    pub(super) fn open(layout: Layout, home: Home, sources: Option<Arc<Dir>>, absolute: PathBuf, open: &Open) -> Result<Self> {
        let path = match (&home, &sources) {
            (Home::Below(name), Some(sources)) => sources.path_of(name),
            (Home::Prefix(prefix, relative), _) => prefix.path().join(relative),
            (Home::Beside | Home::Below(_), _) => sources.as_ref().map(|dir| dir.path().to_path_buf()).unwrap_or_default(),
        };
        let mut folder = Self {
            layout,
            home,
            sources,
            absolute,
            artifacts: None,
            path,
            trouble: None,
            todo: Mutex::default(),
            looks: AtomicUsize::new(0),
            lost: Mutex::default(),
            claimed: Mutex::default(),
            _open: open.one_more(),
        };
        match folder.open_artifacts() {
            Ok(artifacts) => folder.artifacts = artifacts,
            Err(error) if error.is_out_of_descriptors() => return Err(error),
            Err(error) => folder.trouble = Some(folder.name_trouble(&error)),
        }
        Ok(folder)
    }

    /// The absolute path of the directory of artifacts.
    pub(super) fn absolute_artifacts(&self) -> PathBuf {
        match &self.home {
            Home::Below(name) => self.absolute.join(name),
            Home::Beside => self.absolute.clone(),
            Home::Prefix(..) => std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone()),
        }
    }

    /// The directory of artifacts as it is now.
    pub(super) fn open_artifacts(&self) -> Result<Option<Arc<Dir>>> {
        let opened = match (&self.home, &self.sources) {
            (Home::Below(name), Some(sources)) => sources.open_in(name).map(Arc::new),
            (Home::Beside, Some(sources)) => Ok(Arc::clone(sources)),
            (Home::Prefix(prefix, relative), _) => open_placed(prefix, relative),
            (Home::Below(_) | Home::Beside, None) => return Ok(None),
        };
        match opened {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory of artifacts, made where it is not there; and whether we made it.
    pub(super) fn make_artifacts(&self) -> Result<(Arc<Dir>, bool)> {
        match (&self.home, &self.sources) {
            (Home::Below(name), Some(sources)) => {
                let made = make_dir(sources, name)?;
                Ok((Arc::new(sources.open_in(name)?), made))
            }
            (Home::Beside, Some(sources)) => Ok((Arc::clone(sources), false)),
            (Home::Prefix(prefix, relative), _) => {
                let mut dir = Arc::clone(prefix);
                let mut made = false;
                for name in names_of(relative) {
                    made = make_dir(&dir, &name)?;
                    if made {
                        dir.sync()?;
                    }
                    // Without its place, so that not all those above stay open.
                    dir = dir.open_beneath(name.as_ref())?;
                }
                Ok((open_placed(prefix, relative)?, made))
            }
            (Home::Below(_) | Home::Beside, None) => Err(Error::new("create", &self.path, std::io::ErrorKind::NotFound)),
        }
    }

    /// The directory that its own one is made in.
    pub(super) fn home_dir(&self) -> Option<&Arc<Dir>> {
        match &self.home {
            Home::Prefix(prefix, _) => Some(prefix),
            Home::Below(_) | Home::Beside => self.sources.as_ref(),
        }
    }

    /// Makes usable what somebody who died left between making the directory and giving it away: it is empty, and still theirs. `None`:
    /// it is none of these. Their owner could do as much by hand.
    pub(super) fn reclaim(&self, dir: &Arc<Dir>) -> Result<Option<(Arc<Dir>, bool)>> {
        let (Home::Below(name), Some(sources)) = (&self.home, &self.sources) else { return Ok(None) };
        let (own, above, me) = (dir.stat()?, sources.stat()?, sys::effective_user());
        let to_give = me == 0 && own.uid == 0 && above.uid != 0;
        let to_share = own.uid == me && above.mode & 0o2000 != 0 && above.mode & 0o2070 & !own.mode != 0;
        let to_take = me != 0 && own.uid == 0 && above.uid == me;
        if !(to_give || to_share || to_take) || !dir.names()?.is_empty() {
            return Ok(None);
        }
        if !to_take {
            follow(dir, &above)?;
            return Ok(Some((Arc::clone(dir), true)));
        }
        Ok(if sources.rmdir(name)? { Some(self.make_artifacts()?) } else { None })
    }

    /// Lets its directory of artifacts go with the lock, if nothing is in it then: never the sources' own. What a prefix has above it was
    /// made for it alone and goes too.
    pub(super) fn remove_when_empty(&self, lock: &DirLock) {
        match &self.home {
            Home::Beside => {}
            Home::Below(_) => lock.remove_when_empty(),
            Home::Prefix(prefix, relative) => lock.remove_when_empty_up_to(prefix, relative),
        }
    }

    /// What keeps us out of the directory of artifacts, in a person's words: a file or a link in its place is told as what it is.
    fn name_trouble(&self, error: &Error) -> (Verdict, Cause) {
        let stat = match (&self.home, &self.sources) {
            (Home::Below(name), Some(sources)) => sources.stat_of(name).ok(),
            _ => None,
        };
        match stat.map(|stat| stat.kind) {
            Some(kind) if kind != Kind::Dir => {
                let cause = Cause::new("not-a-directory", format!("`{}` is {}, not a directory", self.path.display(), kind.noun()));
                (Verdict::Unsafe, cause.at(&self.path))
            }
            _ => (Verdict::Unreadable, Cause::from(error)),
        }
    }
}

/// Makes one directory as CPython does; owner, group and the group's permissions follow the directory above as for artifacts.
fn make_dir(parent: &Arc<Dir>, name: &Name) -> Result<bool> {
    if !parent.make_dir(name, 0o777)? {
        return Ok(false);
    }
    let above = parent.stat()?;
    if write::heirs(&above).is_some() {
        let followed = parent.open_in(name).and_then(|dir| follow(&dir, &above));
        ignored!(followed, "a directory that was made keeps its owner and mode");
    }
    Ok(true)
}

fn follow(dir: &Dir, above: &Stat) -> Result<()> {
    let Some((uid, gid)) = write::heirs(above) else { return Ok(()) };
    dir.set_owner(uid, Some(gid))?;
    dir.set_mode(dir.stat()?.mode | (above.mode & 0o2070))
}

/// Opens a directory below a prefix so that it knows its place (its parent and name).
fn open_placed(prefix: &Arc<Dir>, relative: &Path) -> Result<Arc<Dir>> {
    match (relative.parent(), relative.file_name().and_then(Name::new)) {
        (Some(above), Some(name)) => Ok(Arc::new(prefix.open_beneath(above)?.open_in(&name)?)),
        _ => Ok(Arc::clone(prefix)),
    }
}

fn names_of(relative: &Path) -> impl Iterator<Item = Name> + '_ {
    relative.components().filter_map(|component| match component {
        Component::Normal(part) => Name::new(part),
        _ => None,
    })
}

/// A folder whose lock we hold. Shared by the entries in work and by what is staged: the lock is let go with the last of them.
pub(super) struct Guarded {
    pub(super) folder: Arc<Folder>,
    pub(super) dir: Arc<Dir>,
    pub(super) lock: Arc<DirLock>,
}

impl Guarded {
    /// The directory, as a number that is equal for equal directories.
    pub(super) fn dir_id(&self) -> (u64, u64) {
        self.lock.dir_stat().id()
    }

    /// See [`Folder::remove_when_empty`].
    pub(super) fn remove_when_empty(&self) {
        self.folder.remove_when_empty(&self.lock);
    }
}
