//! Where to work: from the paths, lists and environments that are named to the roots of a job.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::args::Command as Chosen;
use super::args_common::{Select, Tree};
use super::env::{Env, Owners, Remains};
use super::exclude::Excludes;
use super::failure::Failure;
use super::setup::{Environment, format, unusable_prefix};
use super::until::Until;
use super::{roots, text};
use crate::flow::{Command, What};

/// Where to work, as far as paths say it.
pub(crate) struct Placed {
    /// The roots.
    pub(crate) roots: roots::Roots<'static>,
    /// What is left out.
    pub(crate) excludes: Excludes,
    /// What was named, to find the environment that holds it.
    pub(crate) paths: Vec<PathBuf>,
    /// What people are told.
    pub(crate) notes: Vec<String>,
    /// The environments whose records were read.
    pub(crate) envs: Vec<PathBuf>,
    /// What distributions left that are gone.
    pub(crate) remains: Remains,
    /// The distribution of each source, where that is asked for.
    pub(crate) owners: Owners,
    /// Artifacts whose bytes somebody has recorded.
    pub(crate) proved: BTreeSet<PathBuf>,
}

/// What is named by what somebody else says: the records of environments, an interpreter's library.
pub(crate) struct Recorded<'a> {
    envs: &'a [PathBuf],
    stdlib: bool,
}

impl<'a> Recorded<'a> {
    /// What a command names so.
    pub(crate) fn of(chosen: &'a Chosen) -> Self {
        let (recorded, stdlib) = match chosen {
            Chosen::Compile(args) => (&args.recorded, args.stdlib),
            Chosen::Verify(args) => (&args.recorded, false),
            Chosen::Repair(args) => (&args.recorded, false),
            Chosen::Status(args) => (&args.recorded, false),
            _ => return Self { envs: &[], stdlib: false },
        };
        Self { envs: &recorded.env, stdlib }
    }
}

impl Placed {
    /// Of what the arguments say.
    pub(crate) fn new(
        command: Command,
        tree: &Tree,
        select: &Select,
        recorded: &Recorded<'_>,
        prefix: Option<&Path>,
        environment: &Environment,
        until: Until<'_>,
    ) -> Result<Self, Failure> {
        let of_sources = matches!(command, Command::Compile | Command::Explain);
        let mut roots = roots::Roots::new(format(), prefix.filter(|_| !of_sources));
        let mut notes = Vec::new();
        let mut paths = tree.paths.clone();
        // Directories that patterns may be relative to, apart from the roots.
        let mut below: Vec<PathBuf> = select.root.iter().cloned().collect();
        for path in &paths {
            if roots::is_empty(path) {
                return Err(Failure::new("an empty path was named").hint("name a directory; `.` is the working directory"));
            }
            roots.add_named(path)?;
            if roots.below_prefix(path, true).is_some_and(|below| !below.as_os_str().is_empty()) && path.is_dir() {
                let shown = text::path(path, None);
                notes.push(format!(
                    "`{shown}` lies in the pycache prefix: to work on artifacts there, name the sources or the whole prefix"
                ));
            }
        }
        if let Some(file) = &select.files_from {
            let named = roots.len();
            let mut base = select.root.as_deref().map(roots::Base::new).transpose()?;
            for path in &roots::read_list(file, select.null, select.root.as_deref(), until)? {
                if until.is_over()? {
                    break;
                }
                roots.add_listed(path, base.as_mut());
            }
            notes.extend(passed_over(roots.passed_over, "listed", "are not there, or neither a directory nor a source nor an artifact"));
            // Whatever in the list lies in another environment than the rest shall be seen.
            paths.extend(roots.dirs(named));
            paths.extend(select.root.clone().filter(|_| roots.len() == named));
        }
        let (mut remains, mut owners, mut proved) = (Remains::default(), Owners::new(), BTreeSet::new());
        for dir in recorded.envs {
            let env = Env::read(dir, until)?;
            env.add_to(&mut roots, &mut notes);
            proved.extend(env.proved());
            if command == Command::Status {
                owners.extend(env.owners());
            }
            // In a prefix `clean` finds by itself what has no source.
            if prefix.is_none() {
                remains.extend(env.remains(until, &mut notes)?);
            }
            paths.push(dir.clone());
            below.push(dir.clone());
        }
        let named = !tree.paths.is_empty() || select.files_from.is_some() || recorded.stdlib || !recorded.envs.is_empty();
        if !named {
            match (prefix, &environment.active) {
                // A prefix alone is a tree of artifacts; sources to compile do not follow from it.
                (Some(prefix), _) if !of_sources => {
                    prefix.read_dir().map_err(|cause| unusable_prefix(prefix, tree, cause))?;
                    roots.add(prefix.to_path_buf(), What::Prefix);
                }
                (_, Some(active)) if !matches!(command, Command::Clean | Command::Seal) => {
                    notes.push(format!("no path was named: working on the active environment `{}`", text::path(active, None)));
                    roots.add_named(active)?;
                    paths.push(active.clone());
                }
                _ => return Err(Failure::new("no path was named").hint("name a directory; `.` is the working directory")),
            }
        }
        if roots.dirs(0).any(|dir| prefix == Some(&dir)) {
            // Below it stand the paths of the sources from the root on.
            below.push(PathBuf::from("/"));
        }
        let excludes = Excludes::new(&select.exclude, below.into_iter().chain(roots.dirs(0)))?;
        Ok(Self { roots, excludes, paths, notes, envs: recorded.envs.to_vec(), remains, owners, proved })
    }

    /// Adds the library of the interpreter.
    pub(crate) fn add_stdlib(&mut self, libraries: &[&Path]) -> Result<(), Failure> {
        let [library] = libraries else {
            return Err(
                Failure::new("`--stdlib` is the library of one interpreter, and several are named").hint("run it once for each `--python`")
            );
        };
        self.excludes.add_library(library.to_path_buf(), self.roots.named());
        self.roots.add(library.to_path_buf(), What::Tree);
        Ok(())
    }
}

/// How much of a list or a record was nothing to work on, for people.
pub(crate) fn passed_over(count: u64, how: &str, why: &str) -> Option<String> {
    let noun = if count == 1 { "path" } else { "paths" };
    (count > 0).then(|| format!("{count} {how} {noun} passed over, which {why}"))
}
