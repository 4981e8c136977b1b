//! `bytekeep store`: what is in a store, whether it is whole, and keeping it small.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::args_common::{FormatArg, Global};
use super::args_store::{Prune, StoreCommand, Verify};
use super::exit::Exit;
use super::failure::Failure;
use super::json::{self, CauseLine, VERSION};
use super::out::Out;
use super::settings::Settings;
use super::text::{self, size};
use super::{setup, store};
use crate::base::Flaw;
use crate::base::sys::{self, Time};
use crate::model::Cause;
use crate::store::{Holding, Proved, Pruned, Record, Store};

/// Runs one of the commands that work on the store alone. `None`: it works on trees.
pub(crate) fn run(
    command: &StoreCommand,
    settings: &Settings,
    global: &Global,
    out: &Out,
    stop: &AtomicBool,
) -> Option<Result<Exit, Failure>> {
    let told = Told { json: global.format == FormatArg::Json, quiet: global.quiet, out };
    Some(match command {
        StoreCommand::Stats(_) => stats(settings, &told),
        StoreCommand::Verify(args) => verify(args, settings, &told, stop).map(|exit| exit.forgiving(global.exit_zero)),
        StoreCommand::Prune(args) => prune(args, settings, &told),
        StoreCommand::Clean(_) => clean(settings, &told),
        StoreCommand::Dir(_) => dir(settings, &told),
        StoreCommand::Add(_) => return None,
    })
}

/// To whom it is told, and how.
struct Told<'o> {
    json: bool,
    quiet: bool,
    out: &'o Out,
}

impl Told<'_> {
    /// What was asked for.
    fn answer(&self, line: &impl Serialize, human: impl FnOnce() -> String) {
        if self.json { json::write(self.out, line) } else { self.out.data(&human()) }
    }

    /// What was done.
    fn done(&self, line: &impl Serialize, human: impl FnOnce() -> String) {
        if self.json {
            json::write(self.out, line);
        } else if !self.quiet {
            self.out.message(&human());
        }
    }
}

/// What one command came to: the last line.
#[derive(Serialize, Default)]
struct StoreLine {
    v: u8,
    kind: &'static str,
    command: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interpreters: Option<BTreeMap<String, PartLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<UsedLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bad: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    busy: Option<u64>,
}

#[derive(Serialize, Default)]
struct PartLine {
    values: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct UsedLine {
    hits: u64,
    misses: u64,
    puts: u64,
    linked: u64,
    saved_seconds: f64,
    since: Option<i64>,
}

/// A value that is bad.
#[derive(Serialize)]
struct ValueLine<'a> {
    v: u8,
    kind: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    cause: CauseLine<'a>,
    removed: bool,
}

fn line(command: &'static str, at: &Path) -> StoreLine {
    let (path, path_b64) = json::path(at);
    StoreLine { v: VERSION, kind: "store", command, path, path_b64, ..StoreLine::default() }
}

fn place(settings: &Settings) -> Result<&Path, Failure> {
    settings.store_dir.value.as_deref().ok_or_else(|| {
        Failure::new("there is no place for a store: neither XDG_CACHE_HOME nor HOME is set").hint("name a directory with `--store`")
    })
}

/// The store, where there is one: who looks or removes makes none.
fn open(path: &Path) -> Result<Option<Store>, Failure> {
    Store::existing(path).map_err(store::unusable)
}

fn dir(settings: &Settings, told: &Told<'_>) -> Result<Exit, Failure> {
    let path = place(settings)?;
    // As it is, for `cd "$(bytekeep store dir)"`.
    told.answer(&line("dir", path), || format!("{}\n", path.display()));
    Ok(Exit::Good)
}

fn stats(settings: &Settings, told: &Told<'_>) -> Result<Exit, Failure> {
    let path = place(settings)?;
    let (holding, record) = match open(path)? {
        Some(store) => (store.holding().map_err(store::unusable)?, store.record()),
        None => (Holding::default(), Record::default()),
    };
    let parts = by_interpreter(&holding);
    let Record { counts, since } = record;
    let line = StoreLine {
        values: Some(holding.values),
        bytes: Some(holding.bytes),
        shared: Some(holding.shared.0),
        shared_bytes: Some(holding.shared.1),
        interpreters: Some(parts.iter().map(|(tag, (values, bytes))| (tag.clone(), PartLine { values: *values, bytes: *bytes })).collect()),
        used: Some(UsedLine {
            hits: counts.hits,
            misses: counts.misses,
            puts: counts.puts,
            linked: counts.linked,
            saved_seconds: record.saved().as_secs_f64(),
            since: (since > 0).then_some(since),
        }),
        ..line("stats", path)
    };
    told.answer(&line, || {
        let mut shown = vec![format!("{}: {}, {}\n", text::path(path, None), values(holding.values), size(holding.bytes))];
        let width = parts.keys().map(|tag| tag.chars().count()).max().unwrap_or(0);
        for (tag, (number, bytes)) in &parts {
            shown.push(format!("  {tag:width$}  {}, {}\n", values(*number), size(*bytes)));
        }
        if holding.shared.0 > 0 {
            let (number, bytes) = holding.shared;
            shown.push(format!("and {}, {}, for trees that share them (`--link-mode`)\n", artifacts(number), size(bytes)));
        }
        let asked = counts.hits.saturating_add(counts.misses);
        if let Some(rate) = counts.hits.saturating_mul(100).checked_div(asked) {
            let saved = text::elapsed(record.saved());
            let about = if counts.linked > 0 { "about " } else { "" };
            let day = text::date(since);
            shown.push(format!("asked for {asked} values since {day}, of which {rate} % were there: {about}{saved} of compiling saved\n"));
        }
        shown.concat()
    });
    Ok(Exit::Good)
}

/// What is there by the tags of interpreters; a magic number that nobody knows stands for itself.
fn by_interpreter(holding: &Holding) -> BTreeMap<String, (u64, u64)> {
    let mut parts = BTreeMap::<String, (u64, u64)>::new();
    for (magic, (values, bytes)) in &holding.magics {
        let mut head = [0; 16];
        head[..4].copy_from_slice(magic);
        let tag = setup::format()
            .head(&head, None, None)
            .map_or_else(|_| format!("magic {}", u32::from_le_bytes(*magic) & 0xFFFF), |head| head.tag.to_string());
        let part = parts.entry(tag).or_default();
        *part = (part.0.saturating_add(*values), part.1.saturating_add(*bytes));
    }
    parts
}

fn verify(args: &Verify, settings: &Settings, told: &Told<'_>, stop: &AtomicBool) -> Result<Exit, Failure> {
    let path = place(settings)?;
    let style = told.out.data_style;
    let mut tell = |path: &Path, flaw: &Flaw| {
        let cause = Cause::from(flaw);
        let (shown, path_b64) = json::path(path);
        let removed = args.remove_bad;
        let line = ValueLine { v: VERSION, kind: "value", path: shown, path_b64, cause: CauseLine::from(&cause), removed };
        told.answer(&line, || {
            let did = if removed { "removed " } else { "" };
            format!("{did}{} {}: {}\n", style.bad("bad"), text::path(path, None), text::message(&cause.text))
        });
    };
    let proved = match open(path)? {
        Some(store) => store.prove(args.remove_bad, &|| stop.load(Ordering::SeqCst), &mut tell).map_err(store::unusable)?,
        None => Proved::default(),
    };
    let stopped = stop.load(Ordering::SeqCst);
    let bad = proved.bad - proved.removed;
    let (removed, values_) = (Some(proved.removed).filter(|_| args.remove_bad), proved.values);
    told.done(
        &StoreLine { values: Some(values_), shared: Some(proved.shared), bad: Some(proved.bad), removed, ..line("verify", path) },
        || {
            let verb = if bad == 0 { told.out.style.good("Proved") } else { told.out.style.bad("Proved") };
            let end = if stopped { "Interrupted. " } else { "" };
            let hint = told.out.style.hint("hint");
            let details = match (proved.bad, proved.removed) {
                (0, _) => "\n".to_owned(),
                (bad, 0) => format!(" ({bad} bad)\n{hint}: nobody takes them; `bytekeep store verify --remove-bad` removes them\n"),
                (bad, removed) => format!(" ({bad} bad, {removed} removed)\n"),
            };
            let shared_hint = if proved.bad_shared > 0 {
                format!("{hint}: `bytekeep repair` mends the trees that share bad ones\n")
            } else {
                String::new()
            };
            let shared = if proved.shared > 0 { format!(" and {} that trees share", artifacts(proved.shared)) } else { String::new() };
            format!("{end}{verb} {}{shared}{details}{shared_hint}", values(values_))
        },
    );
    Ok(match (stopped, bad) {
        (true, _) => Exit::Interrupted,
        (false, 0) => Exit::Good,
        _ => Exit::Wrong,
    })
}

fn prune(args: &Prune, settings: &Settings, told: &Told<'_>) -> Result<Exit, Failure> {
    let path = place(settings)?;
    let before = args.older_than.map(|days| Time::now().minus_seconds(i64::from(days) * 86_400));
    // All parts are locked at one time.
    sys::raise_open_file_limit();
    let pruned = match open(path)? {
        Some(store) => {
            store.prune(Some(args.max_size.map_or(settings.store_max_size.value, |size| size.0)), before).map_err(store::unusable)?
        }
        None => Pruned::default(),
    };
    let line = StoreLine {
        values: Some(pruned.left),
        bytes: Some(pruned.left_bytes),
        removed: Some(pruned.values),
        removed_bytes: Some(pruned.bytes),
        busy: Some(pruned.busy),
        ..line("prune", path)
    };
    told.done(&line, || {
        let busy = if pruned.busy > 0 { format!(" ({} of 256 parts left to another process)", pruned.busy) } else { String::new() };
        let (gone, left) = (values(pruned.values), values(pruned.left));
        let verb = told.out.style.good("Removed");
        format!("{verb} {gone}, {}; {left}, {}, stay{busy}\n", size(pruned.bytes), size(pruned.left_bytes))
    });
    Ok(Exit::Good)
}

fn clean(settings: &Settings, told: &Told<'_>) -> Result<Exit, Failure> {
    let path = place(settings)?;
    let holding = match open(path)? {
        Some(store) => {
            let holding = store.holding().map_err(store::unusable)?;
            store.clean().map_err(store::unusable)?;
            holding
        }
        None => Holding::default(),
    };
    let Holding { values: removed, bytes, .. } = holding;
    told.done(&StoreLine { removed: Some(removed), removed_bytes: Some(bytes), ..line("clean", path) }, || {
        format!("{} {}, {}\n", told.out.style.good("Removed"), values(removed), size(bytes))
    });
    Ok(Exit::Good)
}

/// `1 value`, `2 values`.
fn values(number: u64) -> String {
    format!("{number} {}", if number == 1 { "value" } else { "values" })
}

/// `1 artifact`, `2 artifacts`.
fn artifacts(number: u64) -> String {
    format!("{number} {}", if number == 1 { "artifact" } else { "artifacts" })
}

/// A line of each kind, for who compares them with the manual.
#[cfg(test)]
pub(crate) fn sample() -> String {
    let cause = Cause::new("digest", "text");
    let value =
        ValueLine { v: VERSION, kind: "value", path: "a".to_owned(), path_b64: None, cause: CauseLine::from(&cause), removed: false };
    let full = StoreLine {
        values: Some(1),
        bytes: Some(1),
        shared: Some(1),
        shared_bytes: Some(1),
        interpreters: Some([(String::new(), PartLine::default())].into()),
        used: Some(UsedLine { hits: 1, misses: 1, puts: 1, linked: 1, saved_seconds: 1.0, since: Some(1) }),
        bad: Some(1),
        removed: Some(1),
        removed_bytes: Some(1),
        busy: Some(1),
        ..line("stats", Path::new("a"))
    };
    [serde_json::to_string(&value).unwrap(), serde_json::to_string(&full).unwrap()].join("\n")
}
