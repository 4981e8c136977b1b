//! The one entry: whose input, where it leads, what is done there, one line at the end.
//!
//! Somebody else's transaction waits for this, and must not fail for it: what goes wrong is told, and the exit code stays 0 unless
//! `--strict` is given.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::args_common::{FormatArg, Global};
use super::super::args_hook::{Kind, Run};
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::out::{Out, Style};
use super::super::settings::{self, Given, Settings};
use super::super::signals;
use super::super::text;
use super::super::until::Until;
use super::act::Act;
use super::lists::{Cache, Changed};
use super::owner::Owners;
use super::places::Places;
use super::{apk, dpkg, environment, git, pacman, rpm};
use crate::base::children;
use crate::flow::{Action, Summary};
use crate::python::memo::Probes;

/// How long all of it may take where nobody says otherwise: a package transaction waits for it.
const MAX_TIME: Duration = Duration::from_secs(600);

/// `hook run KIND`.
pub(super) fn run(args: &Run, given: Given, global: &Global, out: &Out) -> Result<Exit, Failure> {
    let stop = signals::listen().map_err(|cause| Failure::from(cause).during("cannot listen to signals"))?;
    match attempt(args, given, global, out, &stop) {
        Ok(exit) => Ok(exit),
        Err(_) if stop.load(Ordering::SeqCst) => Ok(Exit::Interrupted),
        Err(failure) if args.strict => Err(failure),
        Err(failure) => {
            out.message(&failure.render(out.style));
            Ok(Exit::Good)
        }
    }
}

/// What a manager's input came to.
struct Input {
    places: Places,
    /// The root of the system that it is about; `None` is this one's own.
    root: Option<PathBuf>,
    /// What is remembered when all is done.
    changed: Option<Changed>,
    /// A work tree of git, which nobody owns.
    work_tree: Option<PathBuf>,
    /// Where conda listens.
    listener: Option<PathBuf>,
}

impl Input {
    fn read(args: &Run, cache: Option<&Path>, until: Until<'_>) -> Result<Option<Self>, Failure> {
        let mut root = args.root.clone();
        let (mut changed, mut work_tree, mut listener) = (None, None, None);
        let places = match args.kind {
            Kind::Dpkg if args.post_invoke => {
                if dpkg::was_elsewhere(root.as_deref()) || dpkg::is_unfinished() {
                    tracing::debug!("dpkg worked on another system, or is not done yet");
                    return Ok(None);
                }
                // What belongs to another system is remembered there.
                let other = root.as_deref().filter(|root| !dpkg::is_same(root, Path::new("/")));
                let own = cache.map(|cache| Cache::Own(cache.to_path_buf()));
                let mut since = Changed::since(other, other.map_or(own, |root| Some(Cache::Below(root.to_path_buf()))))?;
                let places = std::mem::take(&mut since.places);
                changed = Some(since);
                places
            }
            Kind::Dpkg => {
                root = dpkg::root(root.as_deref());
                dpkg::places(&args.words)
            }
            Kind::Rpm => rpm::places(args.removed, root.as_deref().unwrap_or(Path::new("/")), until)?,
            Kind::Pacman => pacman::places(args.removed, until)?,
            Kind::Apk => apk::places(&args.words),
            Kind::Pip | Kind::Uv | Kind::Conda => {
                let environments = environment::named(args.kind, &args.words)?;
                listener = environments.first().filter(|_| args.kind == Kind::Conda).cloned();
                environment::places(args.kind, &environments)?
            }
            Kind::Git => {
                work_tree = git::work_tree(&args.words);
                Places::default()
            }
        };
        if let Some(named) = &root {
            let whole = named.canonicalize();
            let unable = |cause| Failure::of_path("cannot use the root", named, cause).hint("name the directory of a system with `--root`");
            root = Some(whole.map_err(unable)?).filter(|root| root != Path::new("/"));
        }
        Ok(Some(Self { places, root, changed, work_tree, listener }))
    }
}

fn attempt(args: &Run, given: Given, global: &Global, out: &Out, stop: &Arc<AtomicBool>) -> Result<Exit, Failure> {
    if args.nice {
        children::yield_to_others();
    }
    let until = Until::new(stop, Some(args.common.max_time.map_or(MAX_TIME, |time| time.0)));
    let cache = settings::default_dir();
    let Some(input) = Input::read(args, cache.as_deref(), until)? else { return Ok(Exit::Good) };
    if input.places.is_empty() && input.work_tree.is_none() {
        input.changed.iter().for_each(Changed::keep);
        return Ok(Exit::Good);
    }
    let settings = Settings::of_system(global, given)?;
    let probes = Probes::open(cache.clone()).until(Arc::clone(stop)).within(until.left());
    let mut owners = Owners::new(input.root.as_deref(), &args.interpreters.python, &probes)?;
    let mut act = Act::new(args, &settings, input.root.clone(), cache, global, out, until, stop)?;
    let mut summary = match &input.work_tree {
        Some(top) => act.work_tree(top, &mut owners)?,
        None => act.places(&input.places, &mut owners)?,
    };
    if input.places.left > 0 {
        act.note(&format!("{} more paths were handed over than are looked at; `bytekeep compile` does all of a tree", input.places.left));
    }
    // What came while an interpreter was asked what it is, no run of the pipeline has seen.
    summary.stopped |= stop.load(Ordering::SeqCst);
    summary.out_of_time |= owners.is_unsure && until.left().is_some_and(|left| left.is_zero());
    let is_done = !summary.stopped && !summary.out_of_time && !owners.is_unsure && !act.is_unfinished.load(Ordering::SeqCst);
    let exit = if act.is_left { Exit::of(&summary).at_least_wrong() } else { Exit::of(&summary) };
    // What was not done is found again; a source that failed would fail again.
    input.changed.iter().filter(|_| is_done).for_each(Changed::keep);
    conclude(args, &input, &act, &summary, global, out);
    Ok(if args.strict { exit.forgiving(global.exit_zero) } else { exit.forgiving(true) })
}

fn conclude(args: &Run, input: &Input, act: &Act<'_>, summary: &Summary, global: &Global, out: &Out) {
    if global.format == FormatArg::Json {
        return; // Each step has told its own.
    }
    // On a system that is not to be written there is nothing to say; nor where nobody asked and nothing was done.
    let is_idle = Action::ALL.iter().all(|action| *action == Action::None || summary.action(*action) == 0) && summary.is_good();
    let unasked = input.changed.is_some() || input.work_tree.is_some() || act.is_read_only;
    let line = line(args.kind, summary, Style(false));
    if let Some(environment) = input.listener.as_deref().filter(|_| summary.wrong > 0) {
        environment::speak(environment, &line);
    }
    if !(global.quiet || (is_idle && unasked && global.verbose == 0)) {
        out.message(&self::line(args.kind, summary, out.style));
    }
}

/// `bytekeep (dpkg): 12 compiled, 3 removed, 1 failed, 40 up to date in 1.20s`.
fn line(kind: Kind, summary: &Summary, style: Style) -> String {
    let action = |action| summary.action(action);
    let tried = action(Action::Failed) + action(Action::Skipped);
    let parts = [
        (action(Action::Built), "compiled"),
        (action(Action::Restamped), "restamped"),
        (action(Action::Sealed), "sealed"),
        (action(Action::Removed), "removed"),
        (action(Action::Swept), "left-overs swept"),
        (action(Action::Skipped), "skipped"),
        (action(Action::Failed), "failed"),
        (summary.wrong.saturating_sub(tried), "wrong"),
        (action(Action::None).saturating_sub(summary.wrong.saturating_sub(tried)), "left as they are"),
    ];
    let parts: Vec<String> = parts.iter().filter(|(number, _)| *number > 0).map(|(number, word)| format!("{number} {word}")).collect();
    let what = if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") };
    let end = match (summary.stopped, summary.out_of_time) {
        (true, _) => "; interrupted, and what was written is whole",
        (false, true) => "; stopped by --max-time, and what was written is whole",
        (false, false) => "",
    };
    let name = format!("bytekeep ({})", kind.word());
    let name = if summary.is_good() { style.good(&name) } else { style.bad(&name) };
    format!("{name}: {what} in {}{end}\n", text::elapsed(summary.elapsed))
}
