//! Keeps the order: workers finish as they like, and each source is told in its turn, as soon as that has come.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::out::Out;
use super::texts::{Outcome, Texts, Trouble};
use super::walk::{Step, Walk};
use crate::flow::{Action, EntryEvent, Event, Report};
use crate::model::{Cause, Verdict};

/// What is known of a source so far.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Artifacts that nothing was heard of yet.
    pub(super) left: usize,
    worked: bool,
    trouble: Option<Trouble>,
    outcome: Option<Outcome>,
}

#[derive(Debug, Default)]
struct State {
    next: usize,
    standings: Vec<Standing>,
    failed: bool,
    broken: bool,
    /// By the sources' paths as the pipeline writes them: what is in work.
    in_work: HashMap<PathBuf, usize>,
    /// What the pipeline leaves alone and compileall does not.
    again: Vec<usize>,
    /// Of directories as a whole.
    troubles: Vec<(PathBuf, Cause)>,
}

/// See the module.
pub(super) struct Board<'a> {
    pub(super) walk: &'a Walk,
    pub(super) texts: &'a Texts<'a>,
    out: &'a Out,
    state: Mutex<State>,
    /// Is this artifact, which the pipeline knows nothing of, what the interpreter takes for current? By source.
    pub(super) is_current: &'a (dyn Fn(usize) -> bool + Sync),
    /// The artifact of a source at a level, as compileall names it.
    pub(super) artifact: &'a (dyn Fn(usize, i64) -> Vec<u8> + Sync),
    /// A level that no interpreter knows and that comes last.
    invalid: Option<i64>,
}

impl<'a> Board<'a> {
    pub(super) fn new(
        walk: &'a Walk,
        texts: &'a Texts<'a>,
        out: &'a Out,
        is_current: &'a (dyn Fn(usize) -> bool + Sync),
        artifact: &'a (dyn Fn(usize, i64) -> Vec<u8> + Sync),
        invalid: Option<i64>,
    ) -> Self {
        let standings = walk.files.iter().map(|_| Standing::default()).collect();
        Self { walk, texts, out, state: Mutex::new(State { standings, ..State::default() }), is_current, artifact, invalid }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are in work now, with so many artifacts each.
    pub(super) fn begin(&self, files: &[usize], artifacts: usize) {
        let mut state = self.lock();
        state.in_work.clear();
        state.troubles.clear();
        for index in files {
            let Some(file) = self.walk.files.get(*index) else { continue };
            state.in_work.insert(file.dir.join(&file.name), *index);
            if let Some(standing) = state.standings.get_mut(*index) {
                *standing = Standing { left: artifacts, worked: standing.worked, ..Standing::default() };
            }
        }
    }

    /// What came of a source.
    pub(super) fn settle(&self, index: usize, outcome: Outcome) {
        let mut state = self.lock();
        if let Some(standing) = state.standings.get_mut(index) {
            standing.outcome = Some(outcome);
        }
        self.tell(&mut state);
    }

    /// Tells whatever has its turn.
    pub(super) fn go_on(&self) {
        self.tell(&mut self.lock());
    }

    fn tell(&self, state: &mut State) {
        while let Some(step) = self.walk.steps.get(state.next).filter(|_| !state.broken) {
            match step {
                Step::Say(line) => self.out.data(line),
                Step::File(index) => {
                    let Some(file) = self.walk.files.get(*index) else { return };
                    let Some(outcome) = state.standings.get(*index).and_then(|standing| standing.outcome.as_ref()) else { return };
                    let text = self.texts.of(file, outcome);
                    let failed = matches!(outcome, Outcome::Failed(_));
                    state.failed |= failed;
                    if !text.is_empty() {
                        self.out.data(&text);
                    }
                }
                Step::Break(text) => {
                    self.out.message(&format!("{text}\n"));
                    (state.failed, state.broken) = (true, true);
                }
            }
            state.next += 1;
        }
    }

    /// The pipeline has ended: what it said nothing of has failed by its directory. Answers what is to be done once more, by force.
    pub(super) fn end(&self, otherwise: Option<&str>) -> Vec<usize> {
        let mut state = self.lock();
        let again = std::mem::take(&mut state.again);
        let mut left: Vec<usize> = state.in_work.values().copied().collect();
        left.sort_unstable();
        for index in left.into_iter().filter(|index| !again.contains(index)) {
            let Some(file) = self.walk.files.get(index) else { continue };
            let of_directory = state.troubles.iter().find(|(path, _)| file.dir == *path || path.starts_with(&file.dir));
            let cause = of_directory.map(|(_, cause)| cause.clone());
            // What has only an ending for a name is no module, and would be given the artifact of `py.py`.
            let unnamed = (file.name.as_bytes() == b".py").then_some("its name is an ending alone: no module has it");
            let cause = cause.unwrap_or_else(|| Cause::new("undone", unnamed.or(otherwise).unwrap_or("it was not looked at")));
            if let Some(standing) = state.standings.get_mut(index).filter(|standing| standing.outcome.is_none()) {
                standing.outcome = Some(Outcome::Failed(Trouble::Cause(0, cause, (self.artifact)(index, 0))));
            }
        }
        self.tell(&mut state);
        again
    }

    /// Has anything failed?
    pub(super) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Which sources have all their artifacts?
    pub(super) fn is_done(&self, index: usize) -> bool {
        let state = self.lock();
        let outcome = state.standings.get(index).and_then(|standing| standing.outcome.as_ref());
        matches!(outcome, Some(Outcome::Current | Outcome::Compiled))
    }

    fn take(&self, event: &EntryEvent<'_>) {
        let mut state = self.lock();
        let index = event.source.and_then(|source| state.in_work.get(source)).copied();
        let Some(index) = index else {
            if let Some(cause) = event.cause.filter(|_| event.wrong) {
                state.troubles.push((event.artifact.to_path_buf(), cause.clone()));
            }
            return;
        };
        self.warn(index, event);
        let level = i64::from(event.level.unwrap_or_default());
        let is_strange = event.verdict == Verdict::Unknown && event.action == Action::None && !(self.is_current)(index);
        let failed = event.wrong || matches!(event.action, Action::Failed | Action::Skipped);
        let trouble = failed.then(|| {
            let unknown = || Cause::new("undone", "it was not done");
            Trouble::Cause(level, event.cause.cloned().unwrap_or_else(unknown), (self.artifact)(index, level))
        });
        let Some(standing) = state.standings.get_mut(index) else { return };
        standing.left = standing.left.saturating_sub(1);
        standing.worked |= event.action != Action::None;
        standing.trouble = match (standing.trouble.take(), trouble) {
            // It is the first level that tells.
            (Some(Trouble::Cause(old, ..)), Some(new)) if level < old => Some(new),
            (old, new) => old.or(new),
        };
        let is_over = standing.left == 0;
        if is_strange && !state.again.contains(&index) {
            state.again.push(index);
        }
        if is_over && !state.again.contains(&index) {
            let outcome = state.standings.get_mut(index).map(|standing| match standing.trouble.take() {
                Some(trouble) => Outcome::Failed(trouble),
                None if self.invalid.is_some() => Outcome::Failed(Trouble::Level(self.invalid.unwrap_or_default())),
                None if standing.worked => Outcome::Compiled,
                None => Outcome::Current,
            });
            if let Some(standing) = state.standings.get_mut(index) {
                standing.outcome = outcome;
            }
            self.tell(&mut state);
        }
    }

    /// What the interpreter shows by default, where it does: on standard error.
    fn warn(&self, index: usize, event: &EntryEvent<'_>) {
        let Some(file) = self.walk.files.get(index) else { return };
        for warning in event.warnings.iter().filter(|warning| warning.kind == "SyntaxWarning") {
            let name = super::super::text::name(&file.code_name);
            self.out.message(&format!("{name}:{}: {}: {}\n", warning.line, warning.kind, super::super::text::message(&warning.text)));
        }
    }
}

impl Report for Board<'_> {
    fn event(&self, event: &Event<'_>) {
        if let Event::Entry(entry) = event {
            self.take(entry);
        }
    }
}
