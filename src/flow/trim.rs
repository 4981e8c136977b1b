//! Keeping a pycache prefix within bounds: how old must an artifact be to go?

use walkdir::WalkDir;

use crate::base::Error;
use crate::base::sys::{Name, Time};
use crate::model::{Layout, Recognised};

use super::job::{Job, JobError, What};

const BEGINNING: Time = Time { sec: i64::MIN, nsec: 0 };

/// The time before which artifacts go: as it was asked for, or so late that what stays fits the bytes that were allowed.
pub(super) fn limit(job: &Job<'_>) -> Result<Option<Time>, JobError> {
    let clean = &job.options.clean;
    let Some(allowed) = clean.keep_bytes else { return Ok(clean.made_before) };
    let mut made: Vec<(Time, u64)> = Vec::new();
    for root in job.roots.iter().filter(|root| root.what == What::Prefix) {
        for entry in WalkDir::new(&root.dir).follow_links(false) {
            let trouble = |error: walkdir::Error| {
                let path = error.path().unwrap_or(&root.dir).to_path_buf();
                Error::new("list", path, error.into_io_error().unwrap_or_else(|| std::io::ErrorKind::Other.into()))
            };
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_gone(&error) => {
                    tracing::debug!(cause = %trouble(error).sentence(), "others remove in it too");
                    continue;
                }
                // The walk that removes comes by there too, and tells it.
                Err(error) => {
                    tracing::debug!(cause = %trouble(error).sentence(), "what is in it is not counted");
                    continue;
                }
            };
            let is_artifact = Name::new(entry.file_name())
                .is_some_and(|name| matches!(job.format.recognise(&name, Layout::Prefix), Recognised::Artifact { .. }));
            if !entry.file_type().is_file() || !is_artifact {
                continue;
            }
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(error) if is_gone(&error) => {
                    tracing::debug!(cause = %trouble(error).sentence(), "others remove in it too");
                    continue;
                }
                Err(error) => {
                    tracing::debug!(cause = %trouble(error).sentence(), "it is not counted");
                    continue;
                }
            };
            let time = meta.modified().map_err(|cause| Error::new("stat", entry.path(), cause))?;
            made.push((time.into(), meta.len()));
        }
    }
    let limit = cut(made, allowed);
    // Both conditions must hold.
    Ok(Some(clean.made_before.map_or(limit, |before| before.min(limit))))
}

fn is_gone(error: &walkdir::Error) -> bool {
    error.io_error().is_some_and(|cause| cause.kind() == std::io::ErrorKind::NotFound)
}

/// The earliest time such that what was made from then on fits `allowed` bytes: the beginning of all time where everything fits.
fn cut(mut made: Vec<(Time, u64)>, allowed: u64) -> Time {
    made.sort_unstable_by(|one, other| other.cmp(one));
    let mut kept = 0_u64;
    let mut earliest_kept = Time { sec: i64::MAX, nsec: 0 };
    for (time, size) in made {
        kept = kept.saturating_add(size);
        if kept > allowed {
            return earliest_kept;
        }
        earliest_kept = time;
    }
    BEGINNING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let at = |sec| Time { sec, nsec: 0 };
        let made = || vec![(at(3), 10), (at(1), 10), (at(2), 10)];
        assert_eq!(cut(made(), 30), BEGINNING);
        assert_eq!(cut(made(), 29), at(2), "what was made at 1 goes");
        assert_eq!(cut(made(), 10), at(3));
        assert!(cut(made(), 9) > at(3), "nothing fits, so all go");
        assert_eq!(cut(Vec::new(), 0), BEGINNING);
    }
}
