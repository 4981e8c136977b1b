//! The report for people. Findings and plans, which were asked for, go to stdout; errors, progress and the summary to stderr.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::env::Owners;
use super::failure::error_block;
use super::hints;
use super::out::Out;
use super::packages::Packages;
use super::text;
use crate::base::lock::Holder;
use crate::base::sys::Time;
use crate::flow::{Action, Command, EntryEvent, Event, Report};
use crate::model::{Cause, Verdict};

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loudness {
    /// Nothing but errors.
    pub(crate) quiet: bool,
    /// Each entry, with its cause and warnings.
    pub(crate) verbose: bool,
}

/// Errors that many entries share: one message at the end.
struct Shared {
    cause: Cause,
    first: PathBuf,
    entries: u64,
    folders: BTreeSet<PathBuf>,
}

/// Tells people.
pub(crate) struct Human<'a> {
    out: &'a Out,
    command: Command,
    dry_run: bool,
    loudness: Loudness,
    cwd: Option<PathBuf>,
    shared: Mutex<BTreeMap<&'static str, Shared>>,
    /// For `status`.
    packages: Option<Packages>,
    /// What to do next, by the code of the cause.
    hint: fn(&str) -> Option<&'static str>,
}

impl<'a> Human<'a> {
    /// A report of a command.
    pub(crate) fn new(out: &'a Out, command: Command, dry_run: bool, loudness: Loudness, cwd: Option<PathBuf>) -> Self {
        Self { out, command, dry_run, loudness, cwd, shared: Mutex::default(), packages: None, hint: hints::of_cause }
    }

    /// With the hints of a hook.
    pub(crate) fn of_hook(mut self) -> Self {
        self.hint = hints::of_cause_in_hook;
        self
    }

    /// Counts by package too.
    pub(crate) fn by_package(mut self, roots: Vec<PathBuf>, owners: Owners) -> Self {
        self.packages = Some(Packages::below(roots, owners));
        self
    }

    /// The table of packages in which something is to be done.
    pub(crate) fn packages(&self, style: super::out::Style) -> String {
        self.packages.as_ref().map(|packages| packages.table(style)).unwrap_or_default()
    }

    /// Shows a progress bar on stderr, which must be a terminal.
    pub(crate) fn show_progress(&self) {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{bar:24} {human_pos}/{human_len} entries, {rate}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("rate", rate));
        self.out.set_bar(bar);
    }

    fn path(&self, path: &Path) -> String {
        text::path(path, self.cwd.as_deref())
    }

    fn entry(&self, event: &EntryEvent<'_>) {
        if let Some(packages) = &self.packages {
            packages.count(event);
        }
        // A table at a glance takes the place of `status`' findings.
        let listed = matches!(self.command, Command::Verify | Command::Status | Command::Add) || self.dry_run;
        if listed {
            if self.is_listed(event) {
                self.out.data(&self.line(event, self.out.data_style));
            }
        } else if event.wrong {
            self.error(event);
        } else if !self.loudness.quiet && (self.loudness.verbose || self.is_news(event)) {
            self.out.message(&self.line(event, self.out.style));
        }
        if self.loudness.verbose {
            let place = self.path(event.source.unwrap_or(event.artifact));
            for warning in event.warnings {
                let (kind, text) = (text::message(&warning.kind), text::message(&warning.text));
                self.out.message(&format!("{}: {place}:{}: {kind}: {text}\n", self.out.style.warn("warning"), warning.line));
            }
        }
    }

    /// A finding of `verify`, a step of a plan.
    fn is_listed(&self, event: &EntryEvent<'_>) -> bool {
        if self.command == Command::Status {
            return self.loudness.verbose;
        }
        if self.dry_run && self.command != Command::Verify {
            return event.wrong || self.loudness.verbose || (!self.loudness.quiet && (event.action != Action::None || self.is_news(event)));
        }
        event.wrong || self.loudness.verbose || (!self.loudness.quiet && hints::is_told(event.verdict))
    }

    /// Worth a line without being wrong and without being asked for: what was mended, and what is left alone.
    fn is_news(&self, event: &EntryEvent<'_>) -> bool {
        match self.command {
            Command::Repair => event.action != Action::None,
            Command::Status | Command::Verify | Command::Explain | Command::Add => false,
            Command::Compile | Command::Clean => event.action == Action::Skipped,
            // What records list is told once, in a note.
            Command::Seal if event.cause.is_some_and(|cause| cause.code == "listed") => false,
            Command::Seal => event.action == Action::Skipped || (event.verdict == Verdict::Unsealed && event.action == Action::None),
        }
    }

    /// `verdict path: cause`, with what was done in front where something was.
    fn line(&self, event: &EntryEvent<'_>, style: super::out::Style) -> String {
        let verdict = event.verdict.word();
        let verdict = if event.wrong {
            style.bad(verdict)
        } else if hints::is_told(event.verdict) {
            style.warn(verdict)
        } else {
            style.good(verdict)
        };
        let action = match (event.action, self.dry_run) {
            (Action::None, _) => String::new(),
            (Action::Failed, true) => "would fail: ".to_owned(),
            (action, true) => format!("would be {}: ", action.word()),
            (action, false) => format!("{}: ", action.word()),
        };
        let cause = event.cause.map(|cause| format!(": {}", text::message(&cause.text))).unwrap_or_default();
        format!("{action}{verdict} {}{cause}\n", self.path(event.artifact))
    }

    fn error(&self, event: &EntryEvent<'_>) {
        // People know their sources; the artifact is named where the source is not the matter.
        let of_source = matches!(self.command, Command::Compile | Command::Repair);
        let path = event.source.filter(|_| of_source).unwrap_or(event.artifact);
        // A source that cannot be read is its own trouble; a directory that cannot be written is that of all in it.
        let is_own = |cause: &Cause| cause.path.is_some() && cause.path.as_deref() == event.source;
        if let Some(cause) = event.cause.filter(|cause| hints::is_shared(cause.code) && !is_own(cause)) {
            let folder = event.artifact.parent().unwrap_or(event.artifact).to_path_buf();
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            let shared = match shared.entry(cause.code) {
                Slot::Occupied(slot) => slot.into_mut(),
                Slot::Vacant(slot) => {
                    slot.insert(Shared { cause: cause.clone(), first: path.to_path_buf(), entries: 0, folders: BTreeSet::new() })
                }
            };
            shared.entries += 1;
            shared.folders.insert(folder);
            if !self.loudness.verbose {
                return;
            }
            return self.out.message(&self.line(event, self.out.style));
        }
        let what = format!("cannot {} `{}`", hints::verb(self.command), self.path(path));
        let causes: Vec<String> = match event.cause {
            Some(cause) => vec![cause.text.clone()],
            None => vec![hints::meaning(event.verdict).to_owned()],
        };
        let hint = event.cause.and_then(|cause| (self.hint)(cause.code));
        self.out.message(&error_block(self.out.style, &what, &causes, hint));
    }

    /// What was kept back of this cause is told otherwise.
    pub(crate) fn leave_out(&self, code: &str) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).remove(code);
    }

    /// Tells what was kept back until its number was known.
    pub(crate) fn finish(&self) {
        if let Some(bar) = self.out.bar() {
            bar.finish_and_clear();
        }
        let shared = std::mem::take(&mut *self.shared.lock().unwrap_or_else(PoisonError::into_inner));
        for (code, shared) in shared {
            let (verb, first) = (hints::verb(self.command), self.path(&shared.first));
            let what = match (shared.entries, shared.folders.len()) {
                (1, _) => format!("cannot {verb} `{first}`"),
                (entries, 1) => format!("cannot {verb} {} in one folder, `{first}` being the first", text::entries(entries)),
                (entries, folders) => format!("cannot {verb} {} in {folders} folders, `{first}` being the first", text::entries(entries)),
            };
            self.out.message(&error_block(self.out.style, &what, &[shared.cause.text], (self.hint)(code)));
        }
    }
}

impl Report for Human<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Entry(entry) => self.entry(entry),
            Event::Waiting { dir, holder } if !self.loudness.quiet => {
                self.out.message(&format!("waiting for the lock on `{}`, {}\n", self.path(dir), held_by(holder)));
            }
            Event::Note { text, path, .. } if !self.loudness.quiet => {
                let (text, path) = (text::message(text), self.path(path));
                let place = if path.is_empty() || text.contains(&path) { String::new() } else { format!(" (`{path}`)") };
                self.out.message(&format!("{}: {text}{place}\n", self.out.style.warn("note")));
            }
            Event::Waiting { .. } | Event::Note { .. } | Event::Answer(_) => {}
            Event::Progress { done, known } => {
                if let Some(bar) = self.out.bar() {
                    bar.set_length(*known);
                    bar.set_position(*done);
                }
            }
        }
    }
}

/// Whole entries a second.
fn rate(state: &ProgressState, text: &mut dyn std::fmt::Write) {
    // A terminal's line that cannot be written is drawn again a moment later.
    text.write_fmt(format_args!("{:.0}/s", state.per_sec())).unwrap_or_default();
}

/// `held by PID 123 (bytekeep compile) since 12 s`.
pub(crate) fn held_by(holder: &Holder) -> String {
    let Some(pid) = holder.pid else { return "held by another process".to_owned() };
    let command = holder.command.as_deref().map(|command| format!(" ({})", text::name(command.as_bytes()))).unwrap_or_default();
    let since = holder.since.map(|since| Duration::from_secs(u64::try_from(Time::now().sec.saturating_sub(since)).unwrap_or(0)));
    let since = since.map(|since| format!(" since {} s", since.as_secs())).unwrap_or_default();
    format!("held by PID {pid}{command}{since}")
}

#[cfg(test)]
mod tests {
    use super::super::out::capture;
    use super::*;
    use crate::model::Warning;

    const NORMAL: Loudness = Loudness { quiet: false, verbose: false };

    fn event<'a>(path: &'a str, verdict: Verdict, action: Action, cause: Option<&'a Cause>) -> EntryEvent<'a> {
        let wrong = verdict.is_problem() && matches!(action, Action::None | Action::Failed | Action::Skipped);
        let artifact = Path::new(path);
        EntryEvent { artifact, source: None, tag: None, level: None, verdict, action, cause, warnings: &[], wrong, bytes: 0, stored: false }
    }

    fn told(command: Command, dry_run: bool, loudness: Loudness, events: &[EntryEvent<'_>]) -> (String, String) {
        let (out, stdout, stderr) = capture::plain();
        let human = Human::new(&out, command, dry_run, loudness, Some("/w".into()));
        for event in events {
            human.event(&Event::Entry(*event));
        }
        human.finish();
        (stdout.text(), stderr.text())
    }

    #[test]
    fn verify_lists_its_findings_on_stdout() {
        let cause = Cause::new("cut", "it ends after 20 bytes");
        let events = [
            event("/w/ok.pyc", Verdict::Ok, Action::None, None),
            event("/w/a\n.pyc", Verdict::Truncated, Action::None, Some(&cause)),
            event("x.pyc", Verdict::Orphan, Action::None, None),
        ];
        let (stdout, stderr) = told(Command::Verify, false, NORMAL, &events);
        assert_eq!(stdout, "truncated a\\n.pyc: it ends after 20 bytes\norphan x.pyc\n");
        assert_eq!(stderr, "");
        let (stdout, _) = told(Command::Verify, false, Loudness { quiet: true, verbose: false }, &events);
        assert_eq!(stdout, "truncated a\\n.pyc: it ends after 20 bytes\n");
        let verbose = Loudness { quiet: false, verbose: true };
        let (stdout, _) = told(Command::Verify, false, verbose, &events);
        assert!(stdout.starts_with("ok ok.pyc\n"), "{stdout}");
        assert_eq!(told(Command::Status, false, NORMAL, &events), (String::new(), String::new()));
        assert_eq!(told(Command::Status, false, verbose, &events).0, stdout);
    }

    #[test]
    fn a_source_that_does_not_compile_is_told_with_its_line() {
        let cause = Cause::new("source", "  File \"a.py\", line 1\n    x = \n       ^\nSyntaxError: invalid syntax");
        let mut failed = event("__pycache__/a.pyc", Verdict::Missing, Action::Failed, Some(&cause));
        (failed.source, failed.wrong) = (Some(Path::new("a.py")), true);
        let (stdout, stderr) = told(Command::Compile, false, NORMAL, &[failed]);
        assert_eq!(stdout, "");
        assert_eq!(
            stderr,
            "error: cannot compile `a.py`\n  Caused by:   File \"a.py\", line 1\n        x = \n           ^\n    SyntaxError: invalid syntax\n\
             hint: mend the source, or leave it out with `--exclude GLOB`\n"
        );
    }

    #[test]
    fn what_holds_for_a_whole_folder_is_told_once() {
        let cause = Cause::new("read-only", "cannot create `d/__pycache__`: Read-only file system");
        let paths: Vec<String> = (0..100).map(|n| format!("d{}/__pycache__/{n}.pyc", n % 4)).collect();
        let events: Vec<_> = paths.iter().map(|path| event(path, Verdict::Stale, Action::Failed, Some(&cause))).collect();
        let (_, stderr) = told(Command::Compile, false, NORMAL, &events);
        assert_eq!(stderr.lines().count(), 3, "{stderr}");
        assert!(stderr.starts_with("error: cannot compile 100 entries in 4 folders, `d0/__pycache__/0.pyc` being the first\n"), "{stderr}");
        assert!(stderr.contains("hint: the file system is mounted read-only"), "{stderr}");
    }

    #[test]
    fn warnings_and_entries_are_told_when_asked_for() {
        let warnings = [Warning { kind: "SyntaxWarning".to_owned(), text: "\"is\" with a literal".to_owned(), line: 3 }];
        let mut built = event("__pycache__/a.pyc", Verdict::Missing, Action::Built, None);
        (built.source, built.warnings) = (Some(Path::new("a.py")), &warnings);
        let verbose = Loudness { quiet: false, verbose: true };
        let (_, stderr) = told(Command::Compile, false, verbose, &[built]);
        assert_eq!(stderr, "built: missing __pycache__/a.pyc\nwarning: a.py:3: SyntaxWarning: \"is\" with a literal\n");
        assert_eq!(told(Command::Compile, false, NORMAL, &[built]), (String::new(), String::new()));
        let (stdout, _) = told(Command::Compile, true, NORMAL, &[built]);
        assert_eq!(stdout, "would be built: missing __pycache__/a.pyc\n");
    }

    #[test]
    fn whoever_waits_knows_for_whom() {
        let holder = Holder { pid: Some(123), command: Some("bytekeep compile".to_owned()), since: Some(Time::now().sec - 12) };
        let told = held_by(&holder);
        assert!(told == "held by PID 123 (bytekeep compile) since 12 s" || told.ends_with("13 s"), "{told}");
        assert_eq!(held_by(&Holder::default()), "held by another process");
    }
}
