//! `--env`: what the distributions of an environment have recorded, as roots of a job, and what distributions that are gone have left.
//!
//! What is left is looked for where records name something, in the directories above that, and in those that hold nothing but directories
//! of artifacts. An artifact counts as left when no record names its source and its source is not there; it is judged again, under the
//! lock, before it goes. Records are never written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::failure::Failure;
use super::placed::passed_over;
use super::roots::Roots;
use super::until::Until;
use super::{setup, text};
use crate::base::leftover;
use crate::base::sys::{Dir, Name};
use crate::flow::roots::absolute;
use crate::flow::{Root, What};
use crate::ignored;
use crate::model::{Cause, Layout, Recognised};
use crate::packages::distinfo::{self, Recorded, Unusable};

/// The distribution of each source, by directory.
pub(crate) type Owners = BTreeMap<PathBuf, BTreeMap<Name, Arc<str>>>;

/// An environment with what its distributions have recorded.
pub(crate) struct Env {
    dir: PathBuf,
    recorded: Recorded,
}

/// What distributions left that are gone.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Artifacts without a source; in directories that hold nothing else left-overs of ours too.
    pub(crate) roots: Vec<Root>,
    /// Directories that hold nothing else, each below its environment, the innermost first.
    dirs: Vec<(PathBuf, PathBuf)>,
}

impl Env {
    /// Reads the records of an environment; where the time is over, those that were read by then.
    pub(crate) fn read(dir: &Path, until: Until<'_>) -> Result<Self, Failure> {
        // Whoever wants it to end is told below, where there is a way to say so.
        let over = || until.is_over().unwrap_or(true);
        let recorded = distinfo::read(dir, &over).map_err(|error| {
            let shown = text::path(dir, None);
            let failure = match error {
                distinfo::NoEnvironment::Closed(error) => {
                    Failure::from(error.cause).during(format!("cannot use the environment `{shown}`"))
                }
                empty @ distinfo::NoEnvironment::Empty => Failure::new(format!("`{shown}` is no environment: {empty}")),
            };
            failure.hint("name the directory of a virtual environment, or the tree itself without `--env`")
        })?;
        until.is_over()?;
        Ok(Self { dir: dir.to_path_buf(), recorded })
    }

    /// Adds its sources, and tells of records what is worth telling.
    pub(crate) fn add_to(&self, roots: &mut Roots<'_>, notes: &mut Vec<String>) {
        let recorded = &self.recorded;
        notes.extend(passed_over(recorded.gone, "recorded", "are not there"));
        notes.extend(passed_over(recorded.outside, "recorded", "lead out of the environment"));
        notes.extend(recorded.editable.iter().map(|(name, url)| {
            let place = if url.is_empty() { String::new() } else { format!(" (`{}`)", text::message(url)) };
            let name = text::message(name);
            format!("`{name}` is an editable installation: its sources stay where they are{place}, which is to be named by itself")
        }));
        roots.unusable.extend(recorded.unusable.iter().map(|(path, why)| (path.clone(), cause(path, why))));
        for (dir, names) in &recorded.sources {
            roots.add_recorded(&at(&self.dir, dir), names.keys().cloned().collect(), &self.dir);
        }
    }

    /// The distribution of each source, by directory.
    pub(crate) fn owners(&self) -> Owners {
        let names: Vec<Arc<str>> = self.recorded.distributions.iter().map(|name| Arc::from(name.as_str())).collect();
        let of = |sources: &BTreeMap<Name, usize>| {
            sources.iter().filter_map(|(source, number)| Some((source.clone(), Arc::clone(names.get(*number)?)))).collect()
        };
        self.recorded.sources.iter().map(|(dir, sources)| (at(&self.dir, dir), of(sources))).collect()
    }

    /// The artifacts that records prove by a digest or a size, by their absolute paths: whoever installed them may compare.
    pub(crate) fn proved(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let top = absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        self.recorded.proved.iter().flat_map(move |(dir, names)| {
            let dir = at(&top, dir);
            names.iter().map(move |name| dir.join(name))
        })
    }

    /// What distributions left that are gone.
    pub(crate) fn remains(&self, until: Until<'_>, notes: &mut Vec<String>) -> Result<Remains, Failure> {
        let shown = text::path(&self.dir, None);
        if let Some(stash) = &self.recorded.stash {
            let stash = text::path(stash, None);
            notes.push(format!("what has no source stays for now in `{shown}`: pip has moved `{stash}` aside, and may give it back"));
            return Ok(Remains::default());
        }
        if self.recorded.missing.is_none() {
            notes.push(format!("what has no source stays in `{shown}`: its records name too many sources that are not there"));
            return Ok(Remains::default());
        }
        let Ok(top) = Dir::open_root(&self.dir) else { return Ok(Remains::default()) };
        let mut walk = Walk { env: self, top: Arc::new(top), known: self.known_dirs(), places: Vec::new(), remains: Remains::default() };
        walk.run(until)?;
        Ok(walk.remains)
    }

    /// The directories that records name, and those above them that are below a directory of packages.
    fn known_dirs(&self) -> BTreeSet<PathBuf> {
        let cache = setup::format().cache_dir().as_os_str();
        let mut known = BTreeSet::new();
        for dir in &self.recorded.dirs {
            let dir = if dir.file_name() == Some(cache) { dir.parent().unwrap_or(dir) } else { dir };
            let is_inside = |above: &&Path| self.recorded.sites.iter().any(|site| above.starts_with(site));
            known.extend(dir.ancestors().take_while(is_inside).map(Path::to_path_buf));
            known.insert(dir.to_path_buf());
        }
        known
    }

    /// Does a record name this source?
    fn names(&self, dir: &Path, source: &Name) -> bool {
        let missing = self.recorded.missing.as_ref();
        self.recorded.sources.get(dir).is_some_and(|names| names.contains_key(source))
            || missing.is_none_or(|missing| missing.get(dir).is_some_and(|names| names.contains(source)))
    }
}

impl Remains {
    /// Is there nothing to do?
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.dirs.is_empty()
    }

    /// Takes in those of another environment.
    pub(crate) fn extend(&mut self, other: Self) {
        self.roots.extend(other.roots);
        self.dirs.extend(other.dirs);
    }

    /// Removes the directories that are empty now: as namespace packages they could be imported for ever. How many went.
    pub(crate) fn remove_emptied(&self) -> u64 {
        let mut tops: BTreeMap<&Path, Arc<Dir>> = BTreeMap::new();
        let mut count = 0;
        for (env, below) in &self.dirs {
            let Some((above, name)) = below.parent().zip(below.file_name().and_then(Name::new)) else { continue };
            let top = match tops.get(env.as_path()) {
                Some(top) => Arc::clone(top),
                None => match Dir::open_root(env) {
                    Ok(top) => Arc::clone(tops.entry(env).or_insert(Arc::new(top))),
                    Err(error) => {
                        tracing::debug!(cause = %error.sentence(), "emptied directories stay");
                        continue;
                    }
                },
            };
            let removed = top.open_beneath(above).and_then(|dir| dir.rmdir(&name));
            count += u64::from(matches!(removed, Ok(true)));
            ignored!(removed, "an emptied directory stays");
        }
        count
    }
}

/// A walk through the directories of packages.
struct Walk<'a> {
    env: &'a Env,
    top: Arc<Dir>,
    known: BTreeSet<PathBuf>,
    /// What was come to, each after the one above it.
    places: Vec<Place>,
    remains: Remains,
}

struct Place {
    dir: PathBuf,
    above: Option<usize>,
    /// Nothing but directories is in it, and all of those hold nothing but artifacts.
    is_bare: bool,
    /// There are artifacts in it or below it.
    has_cache: bool,
}

impl Walk<'_> {
    fn run(&mut self, until: Until<'_>) -> Result<(), Failure> {
        let sites = &self.env.recorded.sites;
        let apart = self.known.iter().filter(|dir| !sites.iter().any(|site| dir.starts_with(site)));
        for dir in apart.cloned().collect::<Vec<_>>() {
            if until.is_over()? {
                return Ok(());
            }
            if let Ok(opened) = self.top.open_beneath(&dir) {
                self.look(&dir, &opened);
            }
        }
        self.places = sites.iter().map(|site| Place { dir: site.clone(), above: None, is_bare: false, has_cache: false }).collect();
        let mut at = 0;
        while at < self.places.len() {
            if until.is_over()? {
                // What was not walked to its end says nothing.
                return Ok(());
            }
            self.visit(at);
            at += 1;
        }
        for at in (0..self.places.len()).rev() {
            let Some(place) = self.places.get(at) else { break };
            let is_left = place.is_bare && place.has_cache;
            let (dir, above) = (place.dir.clone(), place.above);
            if let Some(above) = above.and_then(|above| self.places.get_mut(above)) {
                above.is_bare &= is_left;
                above.has_cache |= is_left;
            }
            if is_left {
                self.left(dir);
            }
        }
        Ok(())
    }

    /// Lists one directory and queues those below it.
    fn visit(&mut self, at: usize) {
        let Some(dir) = self.places.get(at).map(|place| place.dir.clone()) else { return };
        let listed = self.top.open_beneath(&dir).and_then(|opened| Ok((opened.list()?, opened)));
        let (listing, opened) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                tracing::debug!(cause = %error.sentence(), "what is left there stays");
                if let Some(place) = self.places.get_mut(at) {
                    place.is_bare = false;
                }
                return;
            }
        };
        if self.known.contains(&dir) {
            self.look(&dir, &opened);
        }
        let cache = setup::format().cache_dir();
        let mut is_bare = listing.others.is_empty();
        for name in &listing.dirs {
            let bytes = name.as_bytes();
            // What pip moves aside, and what tells of distributions, holds no packages.
            if bytes.starts_with(b"~") || bytes.ends_with(b".dist-info") || bytes.ends_with(b".egg-info") {
                is_bare = false;
            } else if name != cache {
                self.places.push(Place { dir: dir.join(name), above: Some(at), is_bare: true, has_cache: false });
            }
        }
        if let Some(place) = self.places.get_mut(at) {
            place.is_bare &= is_bare;
            place.has_cache = listing.dirs.contains(cache);
        }
    }

    /// Takes the artifacts of a known directory that nothing belongs to any more.
    fn look(&mut self, dir: &Path, opened: &Arc<Dir>) {
        let names = self.orphans(dir, opened);
        if !names.is_empty() {
            self.take(dir, names);
        }
    }

    /// A directory that holds nothing else. What dead processes left in it goes too.
    fn left(&mut self, dir: PathBuf) {
        let names = self.top.open_beneath(&dir).map(|opened| self.orphans(&dir, &opened)).unwrap_or_default();
        self.take(&dir, names);
        self.remains.dirs.push((self.env.dir.clone(), dir));
    }

    fn take(&mut self, dir: &Path, names: Vec<Name>) {
        let what = What::Artifacts { names, beside: false };
        self.remains.roots.push(Root { dir: at(&self.env.dir, dir), within: Some(self.env.dir.clone()), what });
    }

    /// The artifacts in its directory of artifacts whose source no record names, and that have none.
    fn orphans(&self, dir: &Path, opened: &Arc<Dir>) -> Vec<Name> {
        let listed = opened.open_in(setup::format().cache_dir()).and_then(|cache| cache.names());
        let is_orphan = |name: &Name| match setup::format().recognise(name, Layout::Cache) {
            // Of what is newer than we, it is not known whose it is.
            Recognised::Artifact { source, known: true, .. } => {
                !self.env.names(dir, &source) && opened.stat_of(&source).is_err_and(|error| error.is_absent())
            }
            _ => false,
        };
        // Where there is none, or it is a link, there is nothing of ours.
        listed.unwrap_or_default().into_iter().filter(|name| leftover::recognise(name).is_none() && is_orphan(name)).collect()
    }
}

/// A directory below an environment, as it is written.
fn at(env: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { env.to_path_buf() } else { env.join(below) }
}

fn cause(path: &Path, why: &Unusable) -> Cause {
    match why {
        Unusable::System(error) => Cause::from(error),
        Unusable::Record(text) => Cause::new("record", text.as_str()),
    }
    .at(path)
}
