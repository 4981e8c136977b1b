//! From the paths of a job to its roots: what each means, and which of them the walk through another comes to anyway.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::base::sys::Name;
use crate::base::{Error, Result};
use crate::model::{Format, Layout, Recognised};

use super::folder::{Base, Shared, Tree};
use super::job::{Job, JobError, Root, What};

/// The roots that are worked on; those inside others, and those named twice, once. Files of one directory are one root, however many were
/// named: it is listed, locked and told once.
pub(super) fn roots(job: &Job<'_>) -> std::result::Result<Vec<Arc<Tree>>, JobError> {
    let mut placed: Vec<Placed> = Vec::new();
    let mut known: HashMap<(PathBuf, PathBuf, Part), usize> = HashMap::new();
    let mut ways: HashMap<(PathBuf, PathBuf), (usize, Arc<Shared>)> = HashMap::new();
    let mut bases: HashMap<PathBuf, (PathBuf, Arc<Base>)> = HashMap::new();
    for root in &job.roots {
        let absolute = absolute(&root.dir)?;
        // What is not there (any more) or cannot be reached is told when its turn comes, and the others go on.
        let real_of = |path: &Path, otherwise: PathBuf| {
            std::fs::canonicalize(path).unwrap_or_else(|cause| {
                tracing::debug!(path = %path.display(), %cause, "taken by its letters");
                otherwise
            })
        };
        let (real, within) = match &root.within {
            None => (real_of(&root.dir, absolute.clone()), None),
            Some(within) => {
                let Ok(below) = root.dir.strip_prefix(within) else {
                    return Err(Error::new("reach", &root.dir, std::io::ErrorKind::InvalidInput).into());
                };
                let known = match bases.entry(within.clone()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let real = real_of(within, self::absolute(within)?);
                        new.insert((real, Arc::new(Base::new(within.clone()))))
                    }
                };
                // There is no link below: it is not asked once more what the path leads to now.
                let real = if below.as_os_str().is_empty() { known.0.clone() } else { known.0.join(below) };
                (real, Some((Arc::clone(&known.1), below.to_path_buf())))
            }
        };
        // In a prefix each name of a directory has artifacts of its own.
        let name = if job.options.prefix.is_some() { absolute.clone() } else { PathBuf::new() };
        let at = *known.entry((real.clone(), name.clone(), Part::of(&root.what))).or_insert(placed.len());
        if let Some(there) = placed.get_mut(at) {
            there.root.what.absorb(&root.what);
            continue;
        }
        ways.entry((real.clone(), name.clone())).or_default().0 += 1;
        placed.push(Placed { root: root.clone(), real, name, absolute, within });
    }
    // From the outside in, so that only a tree that is walked itself takes in others.
    placed.sort_by_key(|one| (one.real.components().count(), one.root.what != What::Tree));
    let mut trees: HashMap<PathBuf, Vec<Placed>> = HashMap::new();
    let mut kept = Vec::new();
    for one in placed {
        let within = |tree: &Placed| tree.reaches(&one, job);
        if one.root.what != What::Prefix && one.real.ancestors().filter_map(|above| trees.get(above)).flatten().any(within) {
            continue;
        }
        // A tree takes in the others, and its names are those of many directories.
        let alone = matches!(one.root.what, What::Tree | What::Prefix);
        let ways = ways.get(&(one.real.clone(), one.name.clone())).filter(|(count, _)| *count > 1 && !alone);
        let shared = ways.map(|(_, shared)| Arc::clone(shared));
        let within = one.within.clone();
        kept.push(Arc::new(Tree::new(one.root.dir.clone(), within, one.root.what.clone(), one.absolute.clone(), shared)));
        if one.root.what == What::Tree {
            trees.entry(one.real.clone()).or_default().push(one);
        }
    }
    Ok(kept)
}

/// A root with what its path comes to.
struct Placed {
    root: Root,
    /// With all links resolved.
    real: PathBuf,
    /// What sets it apart from other names of the same directory, where that counts.
    name: PathBuf,
    /// As Python would call it.
    absolute: PathBuf,
    /// From where it is reached, and by which path, where it was not named itself.
    within: Option<(Arc<Base>, PathBuf)>,
}

impl Placed {
    /// Does the walk through this tree come to another root? Not where something on the way is left out.
    fn reaches(&self, other: &Self, job: &Job<'_>) -> bool {
        let Ok(below) = other.real.strip_prefix(&self.real) else { return false };
        if job.options.prefix.is_some() && other.absolute.strip_prefix(&self.absolute) != Ok(below) {
            return false;
        }
        let Some(exclude) = job.options.exclude else { return true };
        !below.ancestors().filter(|level| !level.as_os_str().is_empty()).any(|level| exclude(&self.root.dir.join(level)))
    }
}

/// The absolute path without `.` and `..`, by its letters alone, as Python makes the entries of its path: links stay.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let full = std::path::absolute(path).map_err(|cause| Error::new("find", path, cause))?;
    let mut clean = PathBuf::new();
    for component in full.components() {
        if component == Component::ParentDir {
            clean.pop();
        } else {
            clean.push(component);
        }
    }
    Ok(clean)
}

/// What of a directory is meant, without the names.
#[derive(PartialEq, Eq, Hash)]
enum Part {
    Tree,
    Sources,
    Artifacts { beside: bool },
    CacheDir,
    Prefix,
}

impl Part {
    fn of(what: &What) -> Self {
        match what {
            What::Tree => Self::Tree,
            What::Sources(_) => Self::Sources,
            What::Artifacts { beside, .. } => Self::Artifacts { beside: *beside },
            What::CacheDir => Self::CacheDir,
            What::Prefix => Self::Prefix,
        }
    }
}

impl What {
    /// Takes in the names of another of the same part.
    fn absorb(&mut self, other: &Self) {
        match (self, other) {
            (Self::Sources(names), Self::Sources(more)) | (Self::Artifacts { names, .. }, Self::Artifacts { names: more, .. }) => {
                names.extend(more.iter().cloned());
            }
            _ => {}
        }
    }
}

impl Root {
    /// What a path that a person or a program names means: a tree, a source, an artifact, or a directory of artifacts.
    pub fn of(path: &Path, format: &dyn Format) -> std::result::Result<Self, JobError> {
        let meta = std::fs::metadata(path).map_err(|cause| Error::new("find", path, cause))?;
        let name = path.file_name().and_then(Name::new);
        let parent = || match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        if meta.is_dir() {
            return Ok(match &name {
                Some(name) if name == format.cache_dir() => Self { dir: parent(), within: None, what: What::CacheDir },
                _ => Self { dir: path.to_path_buf(), within: None, what: What::Tree },
            });
        }
        let unusable = |what| JobError::NotUsable { path: path.to_path_buf(), what };
        let Some(name) = name else { return Err(unusable("no file")) };
        if format.is_source(&name) {
            return Ok(Self { dir: parent(), within: None, what: What::Sources(vec![name]) });
        }
        let in_cache = parent().file_name().is_some_and(|dir| dir == format.cache_dir().as_os_str());
        let layout = if in_cache { Layout::Cache } else { Layout::Beside };
        if !matches!(format.recognise(&name, layout), Recognised::Artifact { .. }) {
            return Err(unusable("another file"));
        }
        let mut dir = parent();
        if in_cache {
            dir = dir.parent().filter(|dir| !dir.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        }
        Ok(Self { dir, within: None, what: What::Artifacts { names: vec![name], beside: !in_cache } })
    }
}
