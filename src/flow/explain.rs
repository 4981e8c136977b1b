//! `explain`: gathers what an import by a certain user would meet, and has [`import`](super::import) say what comes of it.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::base::seal::Artifact;
use crate::base::source::{self, Source, SourceError};
use crate::base::sys::{Dir, Kind, Name};
use crate::base::user::Right;
use crate::model::{Cause, Entry, Format, Head, Layout, Level, Recognised, Stamp, Target};

use super::Run;
use super::folder::{Folder, Home, Item};
use super::import::{self, ArtifactFound, Found, Outcome, SourceFound, StampFound, Whole};
use super::look::{LARGEST, LARGEST_SOURCE, in_turn};
use super::queue::Task;
use super::reach::Reach;
use super::report::{AnswerEvent, Event};

/// What holds for all entries of a folder.
struct Place {
    /// The directory of artifacts, there or not.
    artifacts: PathBuf,
    obstacle: Option<Cause>,
    elsewhere: Elsewhere,
}

/// Artifacts of the sources of a folder that an import does not look at, by the name of the source.
#[derive(Default)]
struct Elsewhere {
    /// In the directory of artifacts: their tags and levels.
    others: HashMap<Name, BTreeSet<(Arc<str>, Level)>>,
    /// Beside the sources though a prefix is in force: the very names that are looked for in it.
    beside_prefix: BTreeSet<Name>,
}

/// It could not be told for lack of descriptors: to be asked again.
struct Starved;

impl Run<'_> {
    /// Asks for each of some items of a folder, and tells the answers.
    pub(super) fn explain(&self, folder: &Arc<Folder>, items: Vec<Item>) {
        let Some(reach) = &self.reach else { return };
        let place = self.place(folder, reach);
        let mut later = Vec::new();
        for item in items {
            let Item::Entry(entry) = &item else { continue };
            match self.found(folder, &place, entry, reach) {
                Ok(Some(found)) => self.tell_answer(folder, &place, entry, &import::import(&found)),
                Ok(None) => self.forget(1),
                Err(Starved) => later.push(item),
            }
        }
        if later.is_empty() {
            folder.looks.fetch_sub(1, Ordering::SeqCst);
        } else {
            self.put_off(Task::Look(Arc::clone(folder), later));
        }
    }

    fn tell_answer(&self, folder: &Folder, place: &Place, entry: &Entry, answer: &import::Answer) {
        let artifact =
            folder.artifacts.as_ref().map_or_else(|| place.artifacts.clone(), |dir| dir.path().to_path_buf()).join(&entry.artifact);
        let is_alone = answer.cause.as_ref().is_some_and(|cause| cause.code == "sourceless");
        let source = folder.sources.as_ref().filter(|_| !is_alone).map(|dir| dir.path_of(&entry.source));
        let target = self.target_of(entry);
        let event = AnswerEvent {
            artifact: &artifact,
            source: source.as_deref(),
            tag: target.map(|target| &*target.tag),
            level: entry.level.number(),
            answer,
            wrong: answer.outcome != Outcome::Cached,
        };
        self.count_answer(event.wrong);
        self.report.event(&Event::Answer(event));
        self.progress();
    }

    fn place(&self, folder: &Folder, reach: &Reach) -> Place {
        let artifacts = match &folder.home {
            Home::Below(name) => folder.absolute.join(name),
            Home::Beside => folder.absolute.clone(),
            Home::Prefix(prefix, below) => prefix.path().join(below),
        };
        let explain = &self.job.options.explain;
        let obstacle = if explain.dont_write {
            Some(Cause::new("dont-write", "the interpreter is told to write none (PYTHONDONTWRITEBYTECODE)"))
        } else {
            reach.obstacle(&artifacts)
        };
        Place { artifacts, obstacle, elsewhere: self.elsewhere(folder) }
    }

    fn elsewhere(&self, folder: &Folder) -> Elsewhere {
        let mut elsewhere = Elsewhere::default();
        // What is not listed only makes a cause less exact.
        let names = |dir: Option<&Dir>| dir.and_then(|dir| dir.list().ok()).map(|listing| listing.others).unwrap_or_default();
        if folder.layout != Layout::Beside {
            for name in names(folder.artifacts.as_deref()) {
                if let Recognised::Artifact { source, tag: Some(tag), level, .. } = self.job.format.recognise(&name, folder.layout) {
                    elsewhere.others.entry(source).or_default().insert((tag, level));
                }
            }
        }
        if folder.layout == Layout::Prefix {
            let beside = folder.sources.as_ref().and_then(|sources| sources.open_in(self.job.format.cache_dir()).ok());
            elsewhere.beside_prefix.extend(names(beside.as_ref()));
        }
        elsewhere
    }

    /// What an import would meet. `None`: nobody would import this, since its source went away meanwhile.
    fn found(&self, folder: &Folder, place: &Place, entry: &Entry, reach: &Reach) -> Result<Option<Found>, Starved> {
        let Some(target) = self.target_of(entry) else { return Ok(None) };
        let format = self.job.format;
        let opens_source = format.layout(target) == Layout::Beside;
        let source = self.see_source(folder, entry, reach, opens_source)?;
        if source == SourceFound::Absent && folder.layout != Layout::Beside {
            return Ok(None);
        }
        let mut obstacle = place.obstacle.clone();
        let artifact = match &folder.trouble {
            Some((_, cause)) if cause.code == "not-a-directory" && obstacle.is_some() => ArtifactFound::Absent(missing()),
            Some(_) if !reach.rights(&place.artifacts).search => unreached(),
            Some((_, cause)) => ArtifactFound::Unclear(cause.clone()),
            None => match &folder.artifacts {
                Some(dir) => self.see_artifact(folder, dir, place, entry, target, reach, &mut obstacle)?,
                None => see_nothing(place, entry, target),
            },
        };
        Ok(Some(Found { source, artifact, obstacle, opens_source }))
    }

    fn see_source(&self, folder: &Folder, entry: &Entry, reach: &Reach, opens_source: bool) -> Result<SourceFound, Starved> {
        let Some(dir) = &folder.sources else { return Ok(SourceFound::Absent) };
        let rights = reach.rights(&folder.absolute);
        if !rights.search || !(rights.list || opens_source) {
            let what = if rights.search { "listed" } else { "reached" };
            let text = format!("its directory `{}` cannot be {what}, so nothing in it is found", folder.absolute.display());
            return Ok(SourceFound::Hidden(Cause::new("hidden", text).at(&folder.absolute)));
        }
        match source::look(dir, &entry.source) {
            Ok(stat) if reach.user.may(&stat, Right::Read) => Ok(SourceFound::There(None)),
            Ok(_) => {
                let path = dir.path_of(&entry.source);
                let text = format!("its source `{}` cannot be read", path.display());
                Ok(SourceFound::There(Some(Cause::new("source-unreadable", text).at(path))))
            }
            // No file is no module.
            Err(error) if error.is_absent() || matches!(error, SourceError::NotAFile { .. }) => Ok(SourceFound::Absent),
            Err(error) => self.unclear(&error).map(SourceFound::Unclear),
        }
    }

    fn unclear(&self, error: &SourceError) -> Result<Cause, Starved> {
        match error {
            SourceError::System(error) if error.is_out_of_descriptors() && !self.is_starved() => Err(Starved),
            SourceError::System(error) => Ok(Cause::from(error)),
            SourceError::ForeignLink { path } => {
                let text = format!("`{}` is a link of another user, which root does not follow; run it as that user", path.display());
                Ok(Cause::new("foreign-link", text).at(path))
            }
            SourceError::TooLarge { path, .. } => Ok(Cause::new("too-large", error_text(error)).at(path)),
            _ => Ok(Cause::new("changing", error_text(error))),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that an artifact is judged by")]
    fn see_artifact(
        &self,
        folder: &Folder,
        dir: &Dir,
        place: &Place,
        entry: &Entry,
        target: &Target,
        reach: &Reach,
        obstacle: &mut Option<Cause>,
    ) -> Result<ArtifactFound, Starved> {
        let unreadable = |text: &str| ArtifactFound::Unreadable(Cause::new("unreadable", text));
        let read = source::look(dir, &entry.artifact).and_then(|stat| {
            let _turn = in_turn(stat.size);
            Source::read(dir, &entry.artifact, LARGEST)
        });
        let artifact = match read {
            Ok(artifact) => artifact,
            // A link to nothing is replaced by the first that is written.
            Err(error) if error.is_absent() => return Ok(see_nothing(place, entry, target)),
            Err(SourceError::NotAFile { kind, .. }) => return Ok(in_the_way(kind)),
            Err(SourceError::System(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Ok(unreadable("it cannot be read"));
            }
            // Read as a source is, and not to be told as one.
            Err(SourceError::TooLarge { path, size, .. }) => {
                let text = format!("it has an artifact of {size} bytes, which is more than is looked through");
                return Ok(ArtifactFound::Unclear(Cause::new("too-large", text).at(path)));
            }
            Err(SourceError::Changing { path }) => {
                let text = "its artifact changed each time while it was read";
                return Ok(ArtifactFound::Unclear(Cause::new("changing", text).at(path)));
            }
            Err(error) => return self.unclear(&error).map(ArtifactFound::Unclear),
        };
        if obstacle.is_none() && dir.stat().is_ok_and(|dir| !reach.may_replace(&dir, &artifact.stat)) {
            let text = format!("it is another user's, and `{}` is sticky: nobody else replaces it", place.artifacts.display());
            *obstacle = Some(Cause::new("sticky", text).at(&place.artifacts));
        }
        if !reach.rights(&place.artifacts).search {
            return Ok(unreached());
        }
        if !reach.user.may(&artifact.stat, Right::Read) {
            return Ok(unreadable("it cannot be read"));
        }
        let magic = artifact.bytes.first_chunk::<4>();
        if magic.is_some_and(|magic| *magic != target.magic) {
            return Ok(ArtifactFound::Rejected(Cause::new("magic", "its magic number is not that of this interpreter")));
        }
        let start = artifact.bytes.get(..artifact.bytes.len().min(16)).unwrap_or_default();
        match self.job.format.head(start, Some(&target.tag), Some(target)) {
            Err(flaw) => Ok(ArtifactFound::Rejected(Cause::new("header", flaw.text))),
            Ok(head) => self.weigh(folder, entry, &head, &artifact.bytes).map(ArtifactFound::Whole),
        }
    }

    fn read_source(&self, dir: &Dir, entry: &Entry) -> Result<Option<Source>, Starved> {
        match Source::read(dir, &entry.source, LARGEST_SOURCE) {
            Ok(source) => Ok(Some(source)),
            Err(SourceError::System(error)) if error.is_out_of_descriptors() && !self.is_starved() => Err(Starved),
            Err(error) => {
                tracing::debug!(cause = %error, "an artifact is judged without its source's bytes");
                Ok(None)
            }
        }
    }

    /// A file with a header against its source, and its body.
    fn weigh(&self, folder: &Folder, entry: &Entry, head: &Head, bytes: &[u8]) -> Result<Whole, Starved> {
        let format = self.job.format;
        let split = Artifact::split(bytes);
        let seal = split.as_ref().ok().and_then(|artifact| artifact.seal);
        let payload = split.as_ref().map_or(bytes, |artifact| artifact.payload);
        // Also where the header says something else: what is proved is worth a restamp.
        let source = match &folder.sources {
            Some(dir) if seal.is_some() || matches!(head.stamp, Stamp::Hash { .. }) => self.read_source(dir, entry)?,
            _ => None,
        };
        let hash = source.as_ref().map(|source| format.source_hash(head.magic, &source.bytes));
        let stamp = match head.stamp {
            Stamp::Time { .. } => time_stamp(format, head, folder, entry),
            Stamp::Hash { checked: true, hash: kept } => StampFound::Compared(hash.map(|hash| hash == kept)),
            Stamp::Hash { checked: false, hash: kept } => StampFound::Believed(hash.map(|hash| hash == kept)),
        };
        Ok(Whole {
            stamp,
            body: format.body(head, payload).err().map(|flaw| (format.loading(&flaw), flaw)),
            damage: seal.and(split.ok()).and_then(|artifact| artifact.prove().err()),
            same_source: seal.zip(source).map(|(seal, source)| seal.source == source.digest),
        })
    }
}

/// Nothing stands where an artifact belongs: what stands elsewhere?
fn see_nothing(place: &Place, entry: &Entry, target: &Target) -> ArtifactFound {
    if place.elsewhere.beside_prefix.contains(&entry.artifact) {
        let text = format!("its artifact stands beside it, and the pycache prefix leads to `{}`", place.artifacts.display());
        return ArtifactFound::Absent(Cause::new("prefix", text).at(&place.artifacts));
    }
    let Some(others) = place.elsewhere.others.get(&entry.source) else { return ArtifactFound::Absent(missing()) };
    if others.iter().any(|(tag, _)| *tag == target.tag) {
        return ArtifactFound::Absent(Cause::new("other-level", "it has artifacts of other optimisation levels only"));
    }
    let tags: BTreeSet<&str> = others.iter().map(|(tag, _)| &**tag).collect();
    let tags: Vec<&str> = tags.into_iter().collect();
    ArtifactFound::Absent(Cause::new("other-interpreter", format!("it has artifacts of other interpreters only ({})", tags.join(", "))))
}

fn unreached() -> ArtifactFound {
    ArtifactFound::Unreadable(Cause::new("unreadable", "its directory cannot be reached"))
}

fn missing() -> Cause {
    Cause::new("missing", "it has no artifact")
}

fn error_text(error: &SourceError) -> String {
    error.to_string()
}

fn in_the_way(kind: Kind) -> ArtifactFound {
    let text = format!("{} stands in its artifact's place", kind.noun());
    match kind {
        Kind::Dir => ArtifactFound::InTheWay(Cause::new("not-a-file", text)),
        _ => ArtifactFound::Blocking(Cause::new("blocks", format!("{text}: opening it may never end"))),
    }
}

fn time_stamp(format: &dyn Format, head: &Head, folder: &Folder, entry: &Entry) -> StampFound {
    let stat = folder.sources.as_ref().and_then(|dir| source::look(dir, &entry.source).ok());
    match stat {
        Some(stat) if format.agrees(head, &stat) => StampFound::Agrees,
        Some(stat) if format.is_in_vain(head, &stat) => StampFound::InVain,
        _ => StampFound::Disagrees,
    }
}
