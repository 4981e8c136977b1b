//! Which artifacts the records of package managers list with a size or a digest.
//!
//! Records are looked for above each artifact, up to `/`: so an image that is mounted somewhere, the root of a container and an environment
//! of conda below a home are asked about by their own, and nobody need say where the root is. Each database is read once, and not before
//! somebody asks. What cannot be read counts as listing everything below it: an artifact that is left as it is costs nobody anything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::reading::{Files, Reading};
use super::{alpm, apk, conda, dpkg, rpm};
use crate::base::sys;

/// How long reading one manager's records may take: it is a second for the largest that are known.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manager {
    Alpm,
    Apk,
    Conda,
    Dpkg,
    Rpm,
}

impl Manager {
    const ALL: [Self; 5] = [Self::Alpm, Self::Apk, Self::Conda, Self::Dpkg, Self::Rpm];

    fn word(self) -> &'static str {
        match self {
            Self::Alpm => "pacman",
            Self::Apk => "apk",
            Self::Conda => "conda",
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
        }
    }

    fn places(self) -> &'static [&'static str] {
        match self {
            Self::Alpm => &alpm::PLACES,
            Self::Apk => &apk::PLACES,
            Self::Conda => &conda::PLACES,
            Self::Dpkg => &dpkg::PLACES,
            Self::Rpm => &rpm::PLACES,
        }
    }
}

/// What the records of one manager come to.
enum Answer {
    Files(Files),
    /// Why they cannot be read.
    Unanswerable(String),
}

/// Records of one manager, in one place.
struct Records {
    manager: Manager,
    place: PathBuf,
    answer: Answer,
}

/// What records say of artifacts. It can be asked from several threads; who asks first reads, and the others wait for that.
pub struct Listed {
    ends: &'static [&'static str],
    stop: Arc<AtomicBool>,
    /// When everything is to be done.
    deadline: Option<Instant>,
    /// By directories that may hold a root or an environment, resolved.
    known: Mutex<HashMap<PathBuf, Arc<Vec<Records>>>>,
}

impl Listed {
    /// Nothing is read yet. Only files whose names have one of these `ends` will be asked about. Setting `stop` ends the reading, and so
    /// does the end of `left`; then everything counts as listed.
    pub fn new(ends: &'static [&'static str], stop: Arc<AtomicBool>, left: Option<Duration>) -> Self {
        Self { ends, stop, deadline: left.and_then(|left| Instant::now().checked_add(left)), known: Mutex::default() }
    }

    /// Who lists this file, or why that cannot be told; nothing where it is nobody's. An absolute path.
    pub fn why(&self, file: &Path) -> Option<String> {
        let (dir, name) = (file.parent()?, file.file_name()?);
        // Records are above the place where it stands, and not above a link that leads there. A place that went away lists nothing.
        let dir = dir.canonicalize().ok()?;
        let id = sys::look_up(&dir).ok()?.id();
        let key = (id, std::os::unix::ffi::OsStrExt::as_bytes(name).to_vec());
        dir.ancestors().find_map(|root| self.above(root).iter().find_map(|records| records.why(&key)))
    }

    fn above(&self, root: &Path) -> Arc<Vec<Records>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(root) {
            return Arc::clone(known);
        }
        let mut all: Vec<Records> = Vec::new();
        for manager in Manager::ALL {
            for place in manager.places().iter().map(|place| root.join(place)) {
                // Most are not there, and resolving a path looks at each of its steps: too dear for each directory above something deep.
                if sys::look_up(&place).is_err_and(|error| error.is_absent()) {
                    continue;
                }
                // One directory by two names, as on Fedora, is one database.
                let place = place.canonicalize().unwrap_or(place);
                if is_trusted(manager, &place) && all.iter().all(|records| records.place != place) {
                    all.push(self.read(manager, root, place));
                }
            }
        }
        let all = Arc::new(all);
        known.insert(root.to_path_buf(), Arc::clone(&all));
        all
    }

    fn read(&self, manager: Manager, root: &Path, place: PathBuf) -> Records {
        let now = Instant::now();
        let until = now.checked_add(PATIENCE).unwrap_or(now);
        let until = self.deadline.map_or(until, |deadline| deadline.min(until));
        let read = || {
            let mut reading = Reading::new(root, self.ends, &self.stop, until);
            let read = match manager {
                Manager::Alpm => alpm::read(&mut reading, &place),
                Manager::Apk => apk::read(&mut reading, &place),
                Manager::Conda => conda::read(&mut reading, &place),
                Manager::Dpkg => dpkg::read(&mut reading, &place),
                Manager::Rpm => rpm::read(&mut reading, &place, &self.stop),
            };
            read.and_then(|()| reading.check()).map(|()| reading.files)
        };
        // The manager may be at work, and a record go while it is read: then it is another at the next look.
        let answer = match read().or_else(|_| read()).or_else(|_| read()) {
            Ok(files) => Answer::Files(files),
            Err(cause) => {
                tracing::debug!(%cause, place = %place.display(), "records of a package manager cannot be read");
                Answer::Unanswerable(cause)
            }
        };
        Records { manager, place, answer }
    }
}

impl Records {
    fn why(&self, key: &((u64, u64), Vec<u8>)) -> Option<String> {
        let word = self.manager.word();
        match &self.answer {
            Answer::Files(files) if files.contains(key) => Some(format!("{word} lists it with its size or digest")),
            Answer::Files(_) => None,
            Answer::Unanswerable(cause) => {
                let place = self.place.display();
                Some(format!("whether {word} lists it with its size or digest cannot be told from `{place}` ({cause})"))
            }
        }
    }
}

/// Is this a database that counts? That of a system counts for root alone, since nobody else can change what it lists; and only where it is
/// root's own, since a tree of somebody else must not choose what root's tools read.
fn is_trusted(manager: Manager, place: &Path) -> bool {
    let Ok(stat) = sys::look_up(place) else { return false };
    match manager {
        Manager::Conda => true,
        Manager::Rpm if !rpm::is_there(place) => false,
        _ => sys::effective_user() == 0 && stat.uid == 0 && stat.mode & 0o022 == 0,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::super::reading::tests::put;
    use super::*;

    fn listed() -> Listed {
        Listed::new(&[".pyc"], Arc::default(), None)
    }

    #[test]
    fn an_environment_of_conda_is_asked_by_its_own_records() {
        let top = tempfile::tempdir().unwrap();
        let record = br#"{"paths_data": {"paths": [{"_path": "lib/a.pyc", "size_in_bytes": 3}]}}"#;
        put(top.path(), "one/conda-meta/a-1-0.json", record);
        put(top.path(), "one/lib/a.pyc", b"");
        put(top.path(), "one/envs/two/conda-meta/history", b"");
        put(top.path(), "one/envs/two/lib/a.pyc", b"");
        std::os::unix::fs::symlink("one/lib", top.path().join("link")).unwrap();
        let listed = listed();
        for (path, is_listed) in
            [("one/lib/a.pyc", true), ("one/lib/b.pyc", false), ("one/envs/two/lib/a.pyc", false), ("link/a.pyc", true)]
        {
            assert_eq!(listed.why(&top.path().join(path)).is_some_and(|why| why.contains("conda")), is_listed, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_read_lists_everything_below_it() {
        let top = tempfile::tempdir().unwrap();
        put(top.path(), "one/conda-meta/a-1-0.json", b"{");
        put(top.path(), "one/lib/a.pyc", b"");
        put(top.path(), "two/a.pyc", b"");
        let listed = listed();
        let why = listed.why(&top.path().join("one/lib/a.pyc")).unwrap();
        assert!(why.contains("cannot be told") && why.contains("a-1-0.json"), "{why}");
        assert!(listed.why(&top.path().join("two/a.pyc")).is_none_or(|why| !why.contains("conda")));
        let hasty = Listed::new(&[".pyc"], Arc::default(), Some(Duration::ZERO));
        put(top.path(), "one/conda-meta/a-1-0.json", b"{}");
        assert!(hasty.why(&top.path().join("one/lib/a.pyc")).unwrap().contains("too long"));
    }

    #[test]
    fn another_users_database_is_no_system() {
        let top = tempfile::tempdir().unwrap();
        put(top.path(), "var/lib/pacman/local/one-1-1/files", b"%FILES%\nlib/a.pyc\n");
        put(top.path(), "lib/a.pyc", b"");
        let local = top.path().join("var/lib/pacman/local");
        let is_root = sys::effective_user() == 0;
        let is_listed = |listed: &Listed| listed.why(&top.path().join("lib/a.pyc")).is_some_and(|why| why.contains("pacman"));
        assert_eq!(is_listed(&listed()), is_root);
        std::fs::set_permissions(&local, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(!is_listed(&listed()));
    }
}
