//! From roots to folders: which directories, which entries in them. One directory at a time, so that many threads walk at once; each is
//! opened beneath its root without following links, so a directory that is swapped meanwhile leads nobody astray.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::base::Result;
use crate::base::leftover::{self, Leftover};
use crate::base::seam;
use crate::base::source;
use crate::base::sys::{Dir, Name};
use crate::model::{Cause, Entry, Layout, Level, Recognised, Target, Verdict};

use super::Run;
use super::act::no_interpreter;
use super::folder::{Folder, Home, Item, Tree};
use super::job::{Command, Maker, What};
use super::look::source_trouble;
use super::queue::Task;
use super::report::Action;

/// So many items of one folder are looked at by one thread at a time: one large folder keeps all of them busy.
const CHUNK: usize = 256;

impl Run<'_> {
    fn is_excluded(&self, path: &Path) -> bool {
        self.job.options.exclude.is_some_and(|exclude| exclude(path))
    }

    /// Lists one directory of a root and queues what is found.
    pub(super) fn scan(&self, tree: &Arc<Tree>, relative: &Path) {
        if let Err(error) = self.try_scan(tree, relative) {
            if error.is_out_of_descriptors() && !self.is_starved() {
                // Many roots that wait for descriptors must not hold the last ones.
                tree.close();
                self.put_off(Task::Scan(Arc::clone(tree), relative.to_path_buf()));
                return;
            }
            // A directory that went away while we walk is an answer, unless it is one that was named.
            // A lost handle (NFS) is none: what is in the directory would be left out in silence.
            if error.is_absent() && !relative.as_os_str().is_empty() {
                tracing::debug!(cause = %error.sentence(), "a directory went away");
            } else {
                self.tell_directory(&error);
            }
        }
    }

    fn try_scan(&self, tree: &Arc<Tree>, relative: &Path) -> Result<()> {
        let absolute = if relative.as_os_str().is_empty() { tree.absolute.clone() } else { tree.absolute.join(relative) };
        let open = || tree.dir()?.open_beneath(relative);
        match &tree.what {
            What::Tree => self.scan_tree(tree, relative, &absolute),
            What::CacheDir => {
                let dir = open()?;
                let listing = dir.list()?;
                let sources = self.sources_in(&dir, &listing.others);
                self.folders(&dir, &absolute, &sources, &[], None, tree)
            }
            What::Sources(names) => {
                let dir = open()?;
                let beside = if self.takes_what_is_there() { dir.list()?.others } else { Vec::new() };
                let sources: BTreeSet<&Name> = names.iter().filter(|name| !self.is_excluded(&dir.path_of(name))).collect();
                let sources: Vec<Name> = sources.into_iter().cloned().collect();
                self.folders(&dir, &absolute, &sources, &beside, Some(&Only::Sources(&sources)), tree)
            }
            // An import is of a source, whatever artifact of it was named.
            What::Artifacts { names, beside } if self.job.command == Command::Explain => {
                let layout = if *beside { Layout::Beside } else { Layout::Cache };
                let sources: BTreeSet<Name> = names.iter().filter_map(|name| self.source_of(name, layout)).collect();
                let sources: Vec<Name> = sources.into_iter().collect();
                self.folders(&open()?, &absolute, &sources, &[], Some(&Only::Sources(&sources)), tree)
            }
            What::Artifacts { names, beside } => {
                let others: &[Name] = if *beside { names } else { &[] };
                self.folders(&open()?, &absolute, &[], others, Some(&Only::Artifacts(names, *beside)), tree)
            }
            What::Prefix => self.scan_prefix(tree, relative, &open()?),
        }
    }

    /// One directory of a tree, and those below it.
    fn scan_tree(&self, tree: &Arc<Tree>, relative: &Path, absolute: &Path) -> Result<()> {
        let dir = tree.dir()?.open_beneath(relative)?;
        let listing = dir.list()?;
        let cache_dir = self.job.format.cache_dir();
        let sources = self.sources_in(&dir, &listing.others);
        // Most directories of most trees hold nothing for us.
        let beside = !listing.others.is_empty() && self.layouts().contains(&Layout::Beside);
        let cached = listing.dirs.contains(cache_dir) || listing.others.contains(cache_dir);
        if beside || cached || !sources.is_empty() || self.prefix.is_some() {
            self.folders(&dir, absolute, &sources, &listing.others, None, tree)?;
        }
        for name in &listing.dirs {
            let below = relative.join(name);
            if name != cache_dir && !self.is_excluded(&tree.path.join(&below)) {
                self.queue.push(Task::Scan(Arc::clone(tree), below));
            }
        }
        Ok(())
    }

    fn sources_in(&self, dir: &Dir, others: &[Name]) -> Vec<Name> {
        let is_source = |name: &&Name| self.job.format.is_source(name) && !self.is_excluded(&dir.path_of(name));
        others.iter().filter(is_source).cloned().collect()
    }

    /// The folders of one directory of sources: artifacts in a directory of their own (or under the prefix), and beside the sources.
    fn folders(
        &self,
        dir: &Arc<Dir>,
        absolute: &Path,
        sources: &[Name],
        beside: &[Name],
        only: Option<&Only<'_>>,
        tree: &Tree,
    ) -> Result<()> {
        // All are opened before one is queued: what fails for lack of descriptors is done again as a whole.
        let mut found = Vec::new();
        for layout in self.layouts_of(only) {
            let home = match layout {
                Layout::Cache => Home::Below(self.job.format.cache_dir().clone()),
                Layout::Beside => Home::Beside,
                Layout::Prefix => match &self.prefix {
                    Some(prefix) => Home::Prefix(Arc::clone(&prefix.0), prefix.1.join(absolute.strip_prefix("/").unwrap_or(absolute))),
                    None => continue,
                },
            };
            let folder = Folder::open(layout, home, Some(Arc::clone(dir)), absolute.to_path_buf(), &self.open)?;
            let there: Vec<Name> = match (layout, &folder.artifacts) {
                (Layout::Beside, _) => beside.to_vec(),
                (_, None) => Vec::new(),
                (_, Some(artifacts)) => match artifacts.list() {
                    Ok(listing) => listing.others.into_iter().chain(listing.dirs).collect(),
                    Err(error) if error.is_absent() => {
                        tracing::debug!(cause = %error.sentence(), "a directory went away");
                        Vec::new()
                    }
                    Err(error) if error.is_out_of_descriptors() => return Err(error),
                    Err(error) => {
                        self.tell_directory(&error);
                        continue;
                    }
                },
            };
            let mut items = if self.job.command == Command::Explain { Vec::new() } else { self.leftovers(&there, layout) };
            items.extend(self.entries(&folder, sources, &there, only).into_iter().map(Item::Entry));
            found.push((folder, items));
        }
        if self.lacks_makers() {
            self.tell_uncompiled(dir, sources, &found, tree);
        }
        for (folder, mut items) in found {
            // Only now: what failed above is done again.
            if let Some(shared) = &tree.shared {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                items.retain(|item| shared.insert((folder.layout, item.name().clone())));
            }
            self.queue_looks(folder, &items);
        }
        Ok(())
    }

    /// Is it to compile without anybody who can? Then it does for the artifacts that are there what needs no interpreter, and tells the
    /// rest.
    pub(super) fn lacks_makers(&self) -> bool {
        self.job.command == Command::Compile && self.job.makers.is_empty()
    }

    /// Are entries the artifacts that are there, instead of those that should be?
    fn takes_what_is_there(&self) -> bool {
        match self.job.command {
            Command::Compile => self.lacks_makers(),
            Command::Explain => false,
            _ => true,
        }
    }

    /// The sources that have no artifact at all, where nobody is there to make one.
    fn tell_uncompiled(&self, dir: &Dir, sources: &[Name], found: &[(Folder, Vec<Item>)], tree: &Tree) {
        let items = found.iter().flat_map(|(_, items)| items);
        let compiled: BTreeSet<&Name> =
            items.filter_map(|item| if let Item::Entry(entry) = item { Some(&entry.source) } else { None }).collect();
        for source in sources.iter().filter(|source| !compiled.contains(source)) {
            let shared = tree.shared.as_ref().map(|shared| shared.lock().unwrap_or_else(PoisonError::into_inner));
            if !shared.is_none_or(|mut shared| shared.insert((Layout::Beside, source.clone()))) {
                continue;
            }
            let (verdict, cause) = match source::look(dir, source) {
                Ok(_) => (Verdict::Missing, no_interpreter()),
                Err(error) if error.is_absent() => continue,
                Err(error) => source_trouble(&error),
            };
            self.tell_path(&dir.path_of(source), verdict, Action::Failed, Some(&cause), true);
        }
    }

    fn layouts_of(&self, only: Option<&Only<'_>>) -> Vec<Layout> {
        match only {
            // What is named is made where it stands, or it is told why not.
            Some(Only::Artifacts(_, beside)) if self.job.command == Command::Compile => {
                let home = if self.prefix.is_some() { Layout::Prefix } else { Layout::Cache };
                vec![if *beside { Layout::Beside } else { home }]
            }
            _ => self.layouts(),
        }
    }

    fn layouts(&self) -> Vec<Layout> {
        let home = if self.prefix.is_some() { Layout::Prefix } else { Layout::Cache };
        if self.takes_what_is_there() {
            return if self.prefix.is_some() { vec![home] } else { vec![home, Layout::Beside] };
        }
        let mut layouts: Vec<Layout> = Vec::new();
        for maker in &self.job.makers {
            let layout = match self.job.format.layout(maker.compiler.target()) {
                Layout::Beside => Layout::Beside,
                Layout::Cache | Layout::Prefix => home,
            };
            if !layouts.contains(&layout) {
                layouts.push(layout);
            }
        }
        // Without a source what stands there is imported, wherever artifacts belong.
        if self.job.command == Command::Explain && !layouts.contains(&Layout::Beside) {
            layouts.push(Layout::Beside);
        }
        layouts
    }

    fn source_of(&self, artifact: &Name, layout: Layout) -> Option<Name> {
        match self.job.format.recognise(artifact, layout) {
            Recognised::Artifact { source, .. } => Some(source),
            _ => None,
        }
    }

    /// What is imported without a source: the artifacts beside where it would stand that are named as the interpreter looks for them.
    fn sourceless(&self, folder: &Folder, there: &[Name]) -> Vec<Entry> {
        let Some(maker) = self.job.makers.first().filter(|_| folder.layout == Layout::Beside) else { return Vec::new() };
        let is_home = self.job.format.layout(maker.compiler.target()) == Layout::Beside;
        let entry = |artifact: &Name| {
            let Recognised::Artifact { source, tag, level, .. } = self.job.format.recognise(artifact, Layout::Beside) else { return None };
            let wanted = if is_home {
                maker.levels.iter().any(|level| self.makes(maker, *level, &source, artifact))
            } else {
                level == Level::Known(0)
            };
            let excluded = folder.sources.as_ref().is_some_and(|dir| self.is_excluded(&dir.path_of(&source)));
            let is_alone = wanted && !excluded && !there.contains(&source);
            is_alone.then(|| Entry { source, artifact: artifact.clone(), tag, level, maker: Some(0) })
        };
        there.iter().filter_map(entry).collect()
    }

    fn leftovers(&self, there: &[Name], layout: Layout) -> Vec<Item> {
        let item = |name: &Name| match leftover::recognise(name) {
            Some(kind) => Some(Item::Leftover(name.clone(), kind)),
            None if seam::without("only-ours") && layout == Layout::Cache => Some(Item::Leftover(name.clone(), Leftover::Temp)),
            None => match self.job.format.recognise(name, layout) {
                // Beside sources the name alone says little; the source must be there.
                Recognised::ForeignTemp { source } if layout != Layout::Beside || there.contains(&source) => {
                    Some(Item::ForeignTemp(name.clone()))
                }
                _ => None,
            },
        };
        there.iter().filter_map(item).collect()
    }

    /// The entries of a folder: for `compile` one per source, maker and level, or per artifact that was named; else one per artifact that
    /// is there (and, with `--complete`, one per source and level that should be).
    fn entries(&self, folder: &Folder, sources: &[Name], there: &[Name], only: Option<&Only<'_>>) -> Vec<Entry> {
        let mut entries = Vec::new();
        if let (Command::Compile, Some(Only::Artifacts(names, _))) = (self.job.command, only) {
            let names: BTreeSet<&Name> = names.iter().collect();
            entries.extend(names.into_iter().filter_map(|name| self.entry_of(name, folder)).filter(|entry| self.has_source(folder, entry)));
            return entries;
        }
        let explains = self.job.command == Command::Explain;
        if explains && only.is_none() {
            entries = self.sourceless(folder, there);
        } else if self.takes_what_is_there() {
            entries.extend(
                there.iter().filter_map(|name| self.entry_of(name, folder)).filter(|entry| only.is_none_or(|only| only.has(entry))),
            );
        }
        if self.job.command == Command::Compile || explains || self.job.options.complete {
            let mut known: BTreeSet<Name> = entries.iter().map(|entry| entry.artifact.clone()).collect();
            for source in sources {
                for entry in self.expected(source, folder.layout) {
                    if known.insert(entry.artifact.clone()) {
                        entries.push(entry);
                    }
                }
            }
        }
        entries
    }

    /// Can an artifact that was named be made from a source? Says so where not.
    fn has_source(&self, folder: &Folder, entry: &Entry) -> bool {
        let gone = folder.sources.as_ref().is_none_or(|dir| dir.stat_of(&entry.source).is_err_and(|error| error.is_absent()));
        if gone {
            let verdict = if folder.layout == Layout::Beside { Verdict::Sourceless } else { Verdict::Orphan };
            let cause = Cause::new("no-source", "it has no source to be made from");
            self.tell_path(&folder.path.join(&entry.artifact), verdict, Action::Failed, Some(&cause), true);
        }
        !gone
    }

    fn expected<'e>(&'e self, source: &'e Name, layout: Layout) -> impl Iterator<Item = Entry> + 'e {
        self.job.makers.iter().enumerate().flat_map(move |(index, maker)| {
            let target = maker.compiler.target();
            let wanted = (self.job.format.layout(target) == Layout::Beside) == (layout == Layout::Beside);
            let levels: &[u8] = if wanted { &maker.levels } else { &[] };
            levels.iter().filter_map(move |level| {
                let artifact = self.job.format.artifact_name(source, target, *level)?;
                let (source, tag) = (source.clone(), Some(Arc::clone(&target.tag)));
                Some(Entry { source, artifact, tag, level: Level::Known(*level), maker: Some(index) })
            })
        })
    }

    fn entry_of(&self, name: &Name, folder: &Folder) -> Option<Entry> {
        let Recognised::Artifact { source, tag, level, known: _ } = self.job.format.recognise(name, folder.layout) else { return None };
        // A directory of sources that is gone is left out by the same pattern as when it was there.
        let source_path = folder.sources.as_ref().map_or_else(|| folder.absolute.join(&source), |dir| dir.path_of(&source));
        if self.is_excluded(&source_path) {
            return None;
        }
        let maker = match &tag {
            Some(tag) => self.maker_of(tag),
            // Only what is there tells whose it is; what is to be made belongs to whoever gives such names.
            None if self.job.command != Command::Compile => None,
            None => self.job.makers.iter().position(|maker| (0..=2).any(|level| self.makes(maker, level, &source, name))),
        };
        Some(Entry { source, artifact: name.clone(), tag, level, maker })
    }

    /// Is this the name that a maker gives to the artifact of a source at this level?
    pub(super) fn makes(&self, maker: &Maker<'_>, level: u8, source: &Name, artifact: &Name) -> bool {
        self.job.format.artifact_name(source, maker.compiler.target(), level).as_ref() == Some(artifact)
    }

    /// The maker whose artifacts have this tag.
    pub(super) fn maker_of(&self, tag: &str) -> Option<usize> {
        self.job.makers.iter().position(|maker| *maker.compiler.target().tag == *tag)
    }

    /// The first maker that gives an entry's artifact its name: beside the source the name does not tell the tag.
    pub(super) fn maker_by_name(&self, entry: &Entry) -> Option<&Maker<'_>> {
        let gives = |maker: &&Maker<'_>| maker.levels.iter().any(|level| self.makes(maker, *level, &entry.source, &entry.artifact));
        self.job.makers.iter().find(gives)
    }

    /// The interpreter that an entry is made by, where one is there.
    pub(super) fn target_of(&self, entry: &Entry) -> Option<&Target> {
        entry.maker.map(|index| self.job.makers[index].compiler.target())
    }

    fn queue_looks(&self, folder: Folder, items: &[Item]) {
        if items.is_empty() {
            let of_sources = matches!(self.job.command, Command::Compile | Command::Explain);
            if let (Some((verdict, cause)), false) = (&folder.trouble, of_sources) {
                self.tell_trouble(&folder.path, *verdict, cause);
            }
            return;
        }
        self.know(items.len());
        let folder = Arc::new(folder);
        let chunks: Vec<Vec<Item>> = items.chunks(CHUNK).map(<[Item]>::to_vec).collect();
        folder.looks.store(chunks.len(), std::sync::atomic::Ordering::SeqCst);
        for chunk in chunks {
            self.queue.push(Task::Look(Arc::clone(&folder), chunk));
        }
    }

    /// A pycache prefix by itself: the sources' directory is what the path below the prefix says.
    fn scan_prefix(&self, tree: &Arc<Tree>, relative: &Path, dir: &Arc<Dir>) -> Result<()> {
        let listing = dir.list()?;
        let absolute = Path::new("/").join(relative);
        let sources = match Dir::open_root(&absolute) {
            Ok(sources) => Some(Arc::new(sources)),
            Err(error) if error.is_absent() => {
                if is_unmounted(&absolute) && !listing.others.is_empty() {
                    let text = "the sources' whole file system seems to be absent (not mounted?); nothing is judged without it";
                    self.tell_trouble(dir.path(), Verdict::Unreadable, &Cause::new("unmounted", text).at(&absolute));
                    return Ok(());
                }
                None
            }
            Err(error) => return Err(error),
        };
        let home = Home::Prefix(tree.dir()?, relative.to_path_buf());
        let folder = Folder::open(Layout::Prefix, home, sources, absolute, &self.open)?;
        let mut items = self.leftovers(&listing.others, Layout::Prefix);
        for name in listing.dirs {
            if leftover::recognise(&name) == Some(Leftover::Aside) {
                // What a dead process was removing: no mirror of anybody's sources.
                items.push(Item::Leftover(name, Leftover::Aside));
            } else if !self.is_excluded(&folder.absolute.join(&name)) {
                self.queue.push(Task::Scan(Arc::clone(tree), relative.join(name)));
            }
        }
        items.extend(listing.others.iter().filter_map(|name| self.entry_of(name, &folder)).map(Item::Entry));
        self.queue_looks(folder, &items);
        Ok(())
    }
}

/// Is the place of these sources gone as a whole, so that it proves nothing about each of them? So it is where not even the first
/// directory of the path is there, or where the deepest one that is there is empty, as an unmounted mount point is.
fn is_unmounted(absolute: &Path) -> bool {
    let there = absolute.ancestors().skip(1).find(|above| above.is_dir());
    match there {
        None => true,
        Some(root) if root.parent().is_none() => true,
        Some(above) => std::fs::read_dir(above).is_ok_and(|mut names| names.next().is_none()),
    }
}

/// What of a folder was named.
enum Only<'a> {
    Sources(&'a [Name]),
    /// Their names, and whether they stand beside the sources.
    Artifacts(&'a [Name], bool),
}

impl Only<'_> {
    fn has(&self, entry: &Entry) -> bool {
        match self {
            Self::Sources(names) => names.binary_search(&entry.source).is_ok(),
            Self::Artifacts(names, _) => names.contains(&entry.artifact),
        }
    }
}
