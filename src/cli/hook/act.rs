//! What is done where a manager said to look: artifacts whose sources went are removed, the rest is brought up to date by whoever owns it.
//! The file system says what went and what is there, never the manager's list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::args_common::{FormatArg, Global};
use super::super::args_hook::{Kind, Run};
use super::super::exclude::Excludes;
use super::super::failure::Failure;
use super::super::human::{Human, Loudness};
use super::super::json::Json;
use super::super::out::Out;
use super::super::settings::{self, Settings};
use super::super::until::Until;
use super::super::{hints, setup, store};
use super::debian::Unwanted;
use super::environment;
use super::git::Tracked;
use super::owner::{self, Owners, Site, Whose};
use super::places::Places;
use crate::base::memo::Memo;
use crate::base::sys::{self, Dir, Name};
use crate::flow::{self, Action, Clean, CodeNames, Command, Event, Job, Maker, Options, Report, Root, Summary, What};
use crate::model::Compiler;
use crate::packages::Listed;
use crate::python::interpreter::Interpreter;
use crate::python::pool::{Limits, WorkerPool};
use crate::store::Store;

/// All that the work needs.
pub(super) struct Act<'a> {
    args: &'a Run,
    settings: &'a Settings,
    root: Option<PathBuf>,
    memo: Option<Memo>,
    store: Option<Store>,
    listed: Box<flow::Listed<'a>>,
    unwanted: Unwanted,
    global: &'a Global,
    out: &'a Out,
    until: Until<'a>,
    stop: &'a Arc<AtomicBool>,
    /// Did something lie on a file system that is mounted read-only?
    pub(super) is_read_only: bool,
    /// Was nothing done in an environment that was named?
    pub(super) is_left: bool,
    /// Was something left for a reason that may be gone the next time: a full disk, a lock?
    pub(super) is_unfinished: AtomicBool,
}

/// What the same interpreters compile.
#[derive(Default)]
struct Batch {
    makers: Vec<Interpreter>,
    /// Libraries of interpreters among the sites, which have files that are bad on purpose.
    libraries: BTreeSet<PathBuf>,
    roots: Vec<Root>,
}

impl<'a> Act<'a> {
    #[allow(clippy::too_many_arguments, reason = "each is another's, and there is one call")]
    pub(super) fn new(
        args: &'a Run,
        settings: &'a Settings,
        root: Option<PathBuf>,
        cache: Option<PathBuf>,
        global: &'a Global,
        out: &'a Out,
        until: Until<'a>,
        stop: &'a Arc<AtomicBool>,
    ) -> Result<Self, Failure> {
        let mut notes = Vec::new();
        let store = store::open(settings, Command::Compile, false, &mut notes)?;
        let unwanted = Unwanted::below(root.as_deref().unwrap_or(Path::new("/")));
        let records = Listed::new(&setup::ARTIFACT_ENDS, Arc::clone(stop), until.left());
        let act = Self {
            args,
            settings,
            root,
            memo: cache.map(Memo::open),
            store,
            listed: Box::new(move |path: &Path| records.why(path)),
            unwanted,
            global,
            out,
            until,
            stop,
            is_read_only: false,
            is_left: false,
            is_unfinished: AtomicBool::new(false),
        };
        for note in &notes {
            act.note(note);
        }
        Ok(act)
    }

    /// Says something worth knowing.
    pub(super) fn note(&self, text: &str) {
        self.report(Command::Compile, |report| report.event(&Event::Note { code: "hook", text, path: Path::new("") }));
    }

    /// Cleans and compiles.
    pub(super) fn places(&mut self, places: &Places, owners: &mut Owners<'_>) -> Result<Summary, Failure> {
        let mut all = Summary::default();
        self.remove_doomed(places, &mut all)?;
        let found = self.found(places);
        let mut left = environment::left(places, &found, self.is_read_only);
        let clean = found.iter().map(|(_, root)| Root { what: without_sources(&root.what), ..root.clone() }).collect();
        let emptied =
            self.clean(clean, Clean { orphans: true, leftovers: true, sealed: self.is_unrecorded(), ..Clean::default() }, &mut all)?;
        let tops: BTreeSet<PathBuf> = found.iter().map(|(site, _)| self.real(&site.dir)).collect();
        emptied.iter().rev().for_each(|dir| remove_empty(dir, &tops, self.root.as_deref()));
        if places.only_clean {
            return Ok(all);
        }
        // What went with its last source is nowhere to compile in.
        let found = found.into_iter().filter(|(_, root)| root.dir.is_dir()).collect();
        for batch in self.batches(found, owners) {
            self.compile(&batch, &mut all)?;
        }
        let is_named = !places.sites.is_empty();
        left.append(&mut owners.notes);
        self.is_left = is_named && !left.is_empty();
        for note in left {
            tracing::debug!(cause = %note, "left");
            // Who named an environment wants it done; a system has versions that nobody installed.
            if is_named || self.global.verbose > 0 {
                self.note(&note);
            }
        }
        Ok(all)
    }

    /// A work tree: orphans go; what is stale is made anew where somebody says by whom, and else left, since Python sees that it is.
    pub(super) fn work_tree(&mut self, top: &Path, owners: &mut Owners<'_>) -> Result<Summary, Failure> {
        let mut all = Summary::default();
        if self.is_read_only(top) {
            return Ok(all);
        }
        let tracked = Tracked::below(top, &self.args.words)?;
        let cache = setup::format().cache_dir();
        let is_cached = |dir: &&PathBuf| dir.join(cache).is_dir();
        let root = |dir: &PathBuf| Root { dir: dir.clone(), within: Some(top.to_path_buf()), what: What::CacheDir };
        let roots: Vec<Root> = tracked.dirs.iter().filter(is_cached).map(root).collect();
        let listed = |path: &Path| tracked.artifacts.contains(path).then(|| "git keeps it itself".to_owned());
        let clean = Clean { orphans: true, leftovers: true, ..Clean::default() };
        let options = Options { listed: Some(&listed), clean, ..self.options() };
        let emptied = self.run(Command::Clean, roots.clone(), &[], options, &mut all)?;
        let tops = BTreeSet::from([top.to_path_buf()]);
        emptied.iter().rev().for_each(|dir| remove_empty(dir, &tops, self.root.as_deref()));
        let makers = owners.named();
        if !makers.is_empty() {
            let roots = roots.into_iter().filter(|root| root.dir.join(cache).is_dir()).collect();
            let options = Options { listed: Some(&listed), ..self.options() };
            self.run(Command::Repair, roots, makers, options, &mut all)?;
        }
        Ok(all)
    }

    /// Are the records of what was just installed not written yet? Then nothing tells which artifacts came in packages: none is sealed, and
    /// none removed that does not carry our own seal. So it is in conda's post-link scripts and in apk's triggers.
    fn is_unrecorded(&self) -> bool {
        match self.args.kind {
            Kind::Conda => settings::variable("PKG_NAME").is_some(),
            Kind::Apk => settings::variable("APK_SCRIPT").is_some(),
            _ => false,
        }
    }

    /// What our own artifacts would keep a manager's `rmdir` from: those of sources that are about to go.
    fn remove_doomed(&mut self, places: &Places, all: &mut Summary) -> Result<(), Failure> {
        let mut roots = Vec::new();
        for (dir, names) in &places.doomed {
            let Some(site) = owner::site(dir) else { continue };
            roots.extend(self.root_of(dir, &site, What::Sources(names.iter().cloned().collect())));
        }
        self.clean(roots, Clean { sealed: self.is_unrecorded(), ..Clean::default() }, all).map(drop)
    }

    /// What of the places is there, and whose it is.
    fn found(&mut self, places: &Places) -> Vec<(Site, Root)> {
        let mut found = Vec::new();
        for tree in &places.trees {
            let sites = match places.sites.get(tree).cloned().or_else(|| owner::site(tree)) {
                Some(site) => vec![(site, tree.clone())],
                // Above all sites: those that are below.
                None => owner::sites_below(self.root.as_deref().unwrap_or(Path::new("/")), tree),
            };
            for (site, dir) in sites {
                let root = self.root_of(&dir, &site, What::Tree);
                found.extend(root.map(|root| (site, root)));
            }
        }
        for folder in &places.folders {
            let Some(site) = owner::site(folder) else { continue };
            let sources = match Dir::open_root(&self.real(folder)).and_then(|dir| dir.list()) {
                Ok(listing) => listing.others.into_iter().filter(|name| setup::format().is_source(name)).collect(),
                Err(error) => {
                    tracing::debug!(cause = %error.sentence(), "it is not looked at");
                    continue;
                }
            };
            let root = self.root_of(folder, &site, What::Sources(sources));
            found.extend(root.map(|root| (site, root)));
        }
        found
    }

    /// A directory as it is reached: below the root that was named, or else below its site, without links on the way.
    fn root_of(&mut self, dir: &Path, site: &Site, what: What) -> Option<Root> {
        let real = self.real(dir);
        if !real.is_dir() || self.is_read_only(&real) {
            return None;
        }
        let within = self.root.clone().unwrap_or_else(|| site.dir.clone());
        Some(Root { dir: real, within: Some(within), what })
    }

    fn is_read_only(&mut self, dir: &Path) -> bool {
        let is = sys::is_read_only(dir);
        self.is_read_only |= is;
        is
    }

    /// Where a path of the manager's system is for us.
    fn real(&self, path: &Path) -> PathBuf {
        self.root.as_ref().map_or_else(|| path.to_path_buf(), |root| root.join(path.strip_prefix("/").unwrap_or(path)))
    }

    /// By interpreters. Where a package does not want to be compiled for some version, each version by itself.
    fn batches(&self, found: Vec<(Site, Root)>, owners: &mut Owners<'_>) -> Vec<Batch> {
        let mut batches: BTreeMap<Vec<PathBuf>, Batch> = BTreeMap::new();
        let mut known: BTreeMap<Site, Vec<Interpreter>> = BTreeMap::new();
        for (site, root) in found {
            let makers = known.entry(site.clone()).or_insert_with(|| owners.of(&site));
            let alone = site.whose == Whose::Debian && !self.unwanted.is_empty();
            let sets: Vec<&[Interpreter]> = if alone { makers.chunks(1).collect() } else { vec![makers.as_slice()] };
            for makers in sets.into_iter().filter(|makers| !makers.is_empty()) {
                let key = makers.iter().map(|maker| maker.executable.clone()).collect();
                let batch = batches.entry(key).or_insert_with(|| Batch { makers: makers.to_vec(), ..Batch::default() });
                batch.libraries.extend(Some(site.dir.clone()).filter(|_| site.whose != Whose::Debian));
                batch.roots.push(root.clone());
            }
        }
        batches.into_values().collect()
    }

    fn clean(&self, roots: Vec<Root>, clean: Clean, all: &mut Summary) -> Result<BTreeSet<PathBuf>, Failure> {
        if roots.is_empty() {
            return Ok(BTreeSet::new());
        }
        self.run(Command::Clean, roots, &[], Options { clean, ..self.options() }, all)
    }

    fn compile(&self, batch: &Batch, all: &mut Summary) -> Result<(), Failure> {
        let mut excludes = Excludes::default();
        batch.libraries.iter().for_each(|library| excludes.add_bad_on_purpose(library.clone()));
        let versions: Vec<(u8, u8)> = batch.makers.iter().map(|maker| (maker.version.0, maker.version.1)).collect();
        let is_unwanted = |path: &Path| {
            let inside = self.root.as_ref().and_then(|root| path.strip_prefix(root).ok()).map(|below| Path::new("/").join(below));
            let inside = inside.as_deref().unwrap_or(path);
            excludes.matches(inside) || versions.iter().all(|version| self.unwanted.matches(inside, *version))
        };
        let options = Options { exclude: Some(&is_unwanted), ..self.options() };
        self.run(Command::Compile, batch.roots.clone(), &batch.makers, options, all).map(drop)
    }

    fn options(&self) -> Options<'_> {
        // Code says where its source will be, not where it is while somebody else installs it.
        let strip = self.root.clone();
        let prepend = strip.as_ref().map(|_| PathBuf::from("/"));
        Options {
            mode: self.args.invalidation_mode.map(Into::into),
            // py3compile, pip and uv leave no seal: theirs is put behind what they made.
            adopt: !self.is_unrecorded(),
            listed: Some(self.listed.as_ref()),
            memo: self.memo.as_ref(),
            store: self.store.as_ref(),
            link_mode: self.settings.link_mode.value.into(),
            durability: self.settings.durability.value.into(),
            code_names: CodeNames { strip, prepend, ..CodeNames::default() },
            jobs: self.settings.width(),
            lock_timeout: self.args.common.lock_timeout.0,
            max_source: self.args.limits.compiling.max_source.0,
            ..Options::default()
        }
    }

    /// One run of the pipeline. Answers the directories of sources whose artifacts were removed.
    fn run(
        &self,
        command: Command,
        roots: Vec<Root>,
        makers: &[Interpreter],
        options: Options<'_>,
        all: &mut Summary,
    ) -> Result<BTreeSet<PathBuf>, Failure> {
        let timeout =
            self.args.limits.compiling.timeout.map_or(Limits::default().timeout, |time| Some(time.0).filter(|time| !time.is_zero()));
        let limits = Limits { jobs: self.settings.width(), timeout, ..Limits::default() };
        let pools: Vec<WorkerPool> = makers.iter().map(|maker| WorkerPool::new(maker, limits.clone())).collect();
        let levels = self.args.interpreters.levels();
        let makers = pools.iter().map(|pool| Maker { compiler: pool as &dyn Compiler, levels: levels.clone() }).collect();
        let options = Options { max_time: self.until.left(), ..options };
        let job = Job { command, roots, format: setup::format(), makers, options, stop: self.stop };
        let emptied: Mutex<BTreeSet<PathBuf>> = Mutex::default();
        let mut summary = self.report(command, |report| {
            flow::run(&job, &|event: &Event<'_>| {
                if let Event::Entry(entry) = event
                    && entry.wrong
                    && entry.cause.is_some_and(|cause| hints::is_shared(cause.code))
                {
                    self.is_unfinished.store(true, Ordering::SeqCst);
                }
                if let Event::Entry(entry) = event
                    && entry.action == Action::Removed
                    && let Some(dir) = entry.artifact.parent().and_then(Path::parent)
                {
                    emptied.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_path_buf());
                }
                // What came in packages stays as ever, and is worth no word after each transaction.
                if !matches!(event, Event::Note { code: "listed", .. }) || self.global.verbose > 0 {
                    report.event(event);
                }
            })
        })?;
        if self.global.format == FormatArg::Json {
            Json::new(self.out).summary(command, false, &summary);
        }
        // What cleaning left alone is compiled next, and counts there.
        let passed = if command == Command::Clean { summary.actions.remove(&Action::None).unwrap_or(0) } else { 0 };
        summary.entries = summary.entries.saturating_sub(passed);
        all.absorb(&summary);
        Ok(emptied.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn report<T>(&self, command: Command, with: impl FnOnce(&dyn Report) -> T) -> T {
        if self.global.format == FormatArg::Json {
            return with(&Json::new(self.out));
        }
        let loudness = Loudness { quiet: self.global.quiet, verbose: self.global.verbose > 0 };
        let human = Human::new(self.out, command, false, loudness, None).of_hook();
        let answer = with(&human);
        human.finish();
        answer
    }
}

/// What is cleaned of it: all artifacts that are there, also those of sources that went.
fn without_sources(what: &What) -> What {
    match what {
        What::Sources(_) => What::CacheDir,
        what => what.clone(),
    }
}

/// Removes a directory that held nothing but artifacts of what went, and those above it that are empty then: the manager could not, since
/// our artifacts were in it, and an empty directory can be imported. Never a site itself.
fn remove_empty(dir: &Path, tops: &BTreeSet<PathBuf>, root: Option<&Path>) {
    let Some(top) = dir.ancestors().skip(1).find(|above| tops.contains(*above)) else { return };
    let Ok(below) = dir.strip_prefix(top) else { return };
    // Below a root that was named no link is followed, here neither.
    let within = root.unwrap_or(top);
    let Ok(top) = Dir::open_root(within).and_then(|dir| Arc::new(dir).open_beneath(top.strip_prefix(within).unwrap_or(top))) else {
        return;
    };
    for dir in below.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
        let above = dir.parent().unwrap_or(Path::new(""));
        let Some(name) = dir.file_name().and_then(Name::new) else { return };
        // Where modules are put, also while there are none.
        if matches!(name.as_bytes(), b"site-packages" | b"dist-packages") {
            return;
        }
        match top.open_beneath(above).and_then(|above| above.rmdir(&name)) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return tracing::debug!(cause = %error.sentence(), "a directory is not removed"),
        }
    }
}
