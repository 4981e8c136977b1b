//! `inspect`: the source that is there, and whether header and seal fit it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::text;
use crate::base::Error;
use crate::base::seal::{Digest, Seal};
use crate::base::source::Source;
use crate::base::sys::{Dir, Name};
use crate::model::{Format, Head, Layout, Stamp};

/// Whether the source is there, and what of the artifact fits it.
#[derive(Serialize)]
pub(super) struct SourceTold {
    pub(super) path: Option<String>,
    pub(super) state: &'static str,
    /// Does the header fit it?
    pub(super) header_fits: Option<bool>,
    /// Is its time one that this header cannot keep? Then the artifact is right and of no use.
    pub(super) in_vain: bool,
    /// Does the seal fit it?
    pub(super) digest_fits: Option<bool>,
}

/// Where the source of an artifact is.
pub(super) enum Place {
    /// In this directory; `shown` is how its path is told.
    In { dir: Result<Arc<Dir>, Error>, name: Name, shown: String },
    /// Nobody knows where.
    NotLookedFor,
    /// The artifact's name does not even say what it is called.
    NotNamed,
}

impl Place {
    /// By the place of an artifact that somebody has named.
    pub(super) fn of(layout: Layout, dir: &Path, source: Option<&Name>, filename: Option<&Path>) -> Self {
        let Some(name) = source else { return Self::NotNamed };
        let above = match layout {
            Layout::Cache => Some(dir.join("..")),
            Layout::Beside => Some(dir.to_path_buf()),
            Layout::Prefix => mirrored(dir, name, filename),
        };
        let Some(above) = above else { return Self::NotLookedFor };
        let shown = if layout == Layout::Prefix { text::path(&above.join(name), None) } else { text::name(name.as_bytes()) };
        Self::In { dir: Dir::open_root(&above).map(Arc::new), name: name.clone(), shown }
    }

    /// In a directory that is open.
    pub(super) fn in_dir(dir: Option<&Arc<Dir>>, name: &Name) -> Self {
        dir.map_or(Self::NotLookedFor, |dir| {
            let shown = text::path(&dir.path_of(name), None);
            Self::In { dir: Ok(Arc::clone(dir)), name: name.clone(), shown }
        })
    }
}

impl SourceTold {
    /// Reads the source, at most `limit` bytes.
    pub(super) fn look(place: &Place, format: &dyn Format, head: Option<&Head>, seal: Option<&Seal>, limit: u64) -> Self {
        let unknown = |state, path| Self { path, state, header_fits: None, in_vain: false, digest_fits: None };
        let (dir, name, shown) = match place {
            Place::In { dir, name, shown } => (dir, name, Some(shown.clone())),
            Place::NotNamed => return unknown("not known by the name", None),
            Place::NotLookedFor => return unknown("not looked for", None),
        };
        let source = match dir.as_ref().map(|dir| Source::read(dir, name, limit)) {
            Ok(Ok(source)) => source,
            Ok(Err(error)) if error.is_absent() => return unknown("gone", shown),
            Err(error) if error.is_absent() => return unknown("gone", shown),
            Ok(Err(_)) | Err(_) => return unknown("unreadable", shown),
        };
        let in_vain = head.is_some_and(|head| format.is_in_vain(head, &source.stat));
        let header_fits = head.map(|head| match head.stamp {
            Stamp::Time { .. } => in_vain || format.agrees(head, &source.stat),
            Stamp::Hash { hash, .. } => format.source_hash(head.magic, &source.bytes) == hash,
        });
        let digest_fits = seal.map(|seal| Digest::of(&source.bytes) == seal.source);
        Self { path: shown, state: "there", header_fits, in_vain, digest_fits }
    }

    /// Does one of header and seal fit the source, and the other not?
    pub(super) fn is_of_two(&self) -> bool {
        matches!((self.header_fits, self.digest_fits), (Some(true), Some(false)) | (Some(false), Some(true)))
    }
}

/// The directory of the source of an artifact in a prefix tree. Which part of the path is the prefix, only the code tells, and it is
/// believed only where the rest of the path says the same.
fn mirrored(dir: &Path, source: &Name, filename: Option<&Path>) -> Option<PathBuf> {
    let filename = filename.filter(|path| path.is_absolute() && path.file_name() == Some(source.as_os_str()))?;
    let parent = filename.parent()?;
    let here = std::path::absolute(dir).ok()?;
    here.ends_with(parent.strip_prefix("/").ok()?).then(|| parent.to_path_buf())
}
