//! The report for programs: one JSON object a line on stdout. Every field stands in `man/bytekeep-json.5`, which a test compares.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Serialize;

use super::out::Out;
use super::text;
use crate::flow::{Command, EntryEvent, Event, Report, Summary};
use crate::model::Cause;

/// Raised when a field changes its meaning or goes; new fields do not raise it.
pub(crate) const VERSION: u8 = 1;

/// How every object begins.
#[derive(Serialize)]
pub(crate) struct Start {
    v: u8,
    kind: &'static str,
}

impl Start {
    /// Of an object of this kind.
    pub(crate) fn of(kind: &'static str) -> Self {
        Self { v: VERSION, kind }
    }
}

/// The path that an object is about.
#[derive(Serialize)]
pub(crate) struct PathLine {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
}

impl From<&Path> for PathLine {
    fn from(at: &Path) -> Self {
        let (path, path_b64) = path(at);
        Self { path, path_b64 }
    }
}

/// How an object about an artifact and its source begins.
#[derive(Serialize)]
pub(crate) struct About<'a> {
    #[serde(flatten)]
    head: Start,
    #[serde(flatten)]
    path: PathLine,
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_b64: Option<String>,
    interpreter: Option<&'a str>,
    optimize: Option<u8>,
}

impl<'a> About<'a> {
    /// Of an object of this kind.
    pub(crate) fn new(kind: &'static str, artifact: &Path, source: Option<&Path>, tag: Option<&'a str>, level: Option<u8>) -> Self {
        let (source, source_b64) = source.map(path).unzip();
        let source_b64 = source_b64.flatten();
        Self { head: Start::of(kind), path: artifact.into(), source, source_b64, interpreter: tag, optimize: level }
    }
}

/// How a run ended: a part of every summary.
#[derive(Serialize)]
pub(crate) struct Ended {
    entries: u64,
    wrong: u64,
    stopped: bool,
    out_of_time: bool,
    seconds: f64,
}

impl From<&Summary> for Ended {
    fn from(summary: &Summary) -> Self {
        Self {
            entries: summary.entries,
            wrong: summary.wrong,
            stopped: summary.stopped,
            out_of_time: summary.out_of_time,
            seconds: (summary.elapsed.as_secs_f64() * 1e6).round() / 1e6,
        }
    }
}

/// A path: text, and beside it all its bytes where text cannot hold them.
pub(crate) fn path(path: &Path) -> (String, Option<String>) {
    let bytes = path.as_os_str().as_bytes();
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(text::base64(bytes))),
    }
}

#[derive(Serialize)]
struct EntryLine<'a> {
    #[serde(flatten)]
    about: About<'a>,
    verdict: &'static str,
    action: &'static str,
    cause: Option<CauseLine<'a>>,
    wrong: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stored: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningLine<'a>>,
}

/// Why.
#[derive(Serialize)]
pub(crate) struct CauseLine<'a> {
    code: &'a str,
    text: &'a str,
    #[serde(flatten)]
    at: Option<PathLine>,
}

impl<'a> From<&'a Cause> for CauseLine<'a> {
    fn from(cause: &'a Cause) -> Self {
        Self { code: cause.code, text: &cause.text, at: cause.path.as_deref().map(PathLine::from) }
    }
}

#[derive(Serialize)]
struct WarningLine<'a> {
    category: &'a str,
    text: &'a str,
    line: u64,
}

#[derive(Serialize)]
struct NoteLine<'a> {
    #[serde(flatten)]
    head: Start,
    code: &'a str,
    text: &'a str,
    #[serde(flatten)]
    at: PathLine,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    #[serde(flatten)]
    head: Start,
    command: &'static str,
    dry_run: bool,
    #[serde(flatten)]
    ended: Ended,
    bytes: u64,
    verdicts: BTreeMap<&'static str, u64>,
    actions: BTreeMap<&'static str, u64>,
    interpreters: BTreeMap<&'a str, BTreeMap<&'static str, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreLine>,
}

#[derive(Serialize)]
struct StoreLine {
    hits: u64,
    misses: u64,
    puts: u64,
    linked: u64,
    saved_seconds: f64,
}

/// Writes lines.
pub(crate) struct Json<'a> {
    out: &'a Out,
}

impl<'a> Json<'a> {
    /// To stdout.
    pub(crate) fn new(out: &'a Out) -> Self {
        Self { out }
    }

    fn line(&self, line: &impl Serialize) {
        write(self.out, line);
    }

    fn entry(&self, event: &EntryEvent<'_>) {
        let warnings =
            event.warnings.iter().map(|warning| WarningLine { category: &warning.kind, text: &warning.text, line: warning.line });
        self.line(&EntryLine {
            about: About::new("entry", event.artifact, event.source, event.tag, event.level),
            verdict: event.verdict.word(),
            action: event.action.word(),
            cause: event.cause.map(CauseLine::from),
            wrong: event.wrong,
            stored: event.stored,
            warnings: warnings.collect(),
        });
    }

    /// Something about the run as a whole.
    pub(crate) fn note(&self, code: &str, text: &str, at: &Path) {
        self.line(&NoteLine { head: Start::of("note"), code, text, at: at.into() });
    }

    /// The last line.
    pub(crate) fn summary(&self, command: Command, dry_run: bool, summary: &Summary) {
        let tags = summary.tags.iter().map(|(tag, verdicts)| (tag.as_str(), verdicts.iter().map(|(v, n)| (v.word(), *n)).collect()));
        self.line(&SummaryLine {
            head: Start::of("summary"),
            command: super::hints::word(command),
            dry_run,
            ended: summary.into(),
            bytes: summary.bytes,
            verdicts: summary.verdicts.iter().map(|(verdict, number)| (verdict.word(), *number)).collect(),
            actions: summary.actions.iter().map(|(action, number)| (action.word(), *number)).collect(),
            interpreters: tags.collect(),
            store: summary.store.map(|counts| StoreLine {
                hits: counts.hits,
                misses: counts.misses,
                puts: counts.puts,
                linked: counts.linked,
                saved_seconds: counts.saved.as_secs_f64(),
            }),
        });
    }
}

/// One object on one line.
pub(crate) fn line(line: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string(line)? + "\n")
}

/// One object on one line of stdout.
pub(crate) fn write(out: &Out, object: &impl Serialize) {
    match line(object) {
        Ok(text) => out.data(&text),
        Err(cause) => out.message(&format!("error: cannot write a line of JSON\n  Caused by: {cause}\n")),
    }
}

impl Report for Json<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Entry(entry) => self.entry(entry),
            Event::Waiting { dir, holder } => self.note("waiting", &super::human::held_by(holder), dir),
            Event::Note { code, text, path } => self.note(code, text, path),
            Event::Progress { .. } | Event::Answer(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::time::Duration;

    use super::super::out::capture;
    use super::*;
    use crate::base::lock::Holder;
    use crate::flow::Action;
    use crate::model::{Verdict, Warning};
    use crate::store::Counts;

    fn full() -> String {
        let (out, stdout, _) = capture::plain();
        let json = Json::new(&out);
        let cause = Cause::new("digest", "its bytes are not those that were sealed").at(OsStr::from_bytes(b"c\xff"));
        let warnings = [Warning { kind: "SyntaxWarning".to_owned(), text: "odd".to_owned(), line: 3 }];
        let mut event = EntryEvent {
            artifact: Path::new(OsStr::from_bytes(b"a\xff.pyc")),
            source: Some(Path::new(OsStr::from_bytes(b"a\xff.py"))),
            tag: Some("cpython-313"),
            level: Some(0),
            verdict: Verdict::Corrupt,
            action: Action::Built,
            cause: Some(&cause),
            warnings: &warnings,
            wrong: false,
            bytes: 7,
            stored: true,
        };
        json.event(&Event::Entry(event));
        (event.artifact, event.source, event.tag, event.level, event.cause, event.warnings) =
            (Path::new("a\nb"), None, None, None, None, &[]);
        event.stored = false;
        json.event(&Event::Entry(event));
        json.event(&Event::Waiting { dir: Path::new("d"), holder: &Holder { pid: Some(7), command: None, since: None } });
        json.event(&Event::Note { code: "no-locks", text: "no locks here", path: Path::new(OsStr::from_bytes(b"\xff")) });
        let store = Counts { hits: 3, misses: 2, puts: 1, saved: Duration::from_millis(250), linked: 2, spent: Duration::ZERO };
        let mut summary = Summary { elapsed: Duration::from_millis(1500), store: Some(store), ..Summary::default() };
        summary.count(&event);
        json.summary(Command::Repair, false, &summary);
        stdout.text()
    }

    #[test]
    fn lines_are_as_documented() {
        let text = full();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "{\"v\":1,\"kind\":\"entry\",\"path\":\"a\u{fffd}.pyc\",\"path_b64\":\"Yf8ucHlj\",\"source\":\"a\u{fffd}.py\",\"source_b64\":\"Yf8ucHk=\",\
             \"interpreter\":\"cpython-313\",\"optimize\":0,\"verdict\":\"corrupt\",\"action\":\"built\",\
             \"cause\":{\"code\":\"digest\",\"text\":\"its bytes are not those that were sealed\",\"path\":\"c\u{fffd}\",\"path_b64\":\"Y/8=\"},\
             \"wrong\":false,\"stored\":true,\"warnings\":[{\"category\":\"SyntaxWarning\",\"text\":\"odd\",\"line\":3}]}"
        );
        assert_eq!(
            lines[1],
            r#"{"v":1,"kind":"entry","path":"a\nb","source":null,"interpreter":null,"optimize":null,"verdict":"corrupt","action":"built","cause":null,"wrong":false}"#
        );
        assert!(lines[2].contains("\"code\":\"waiting\"") && lines[2].contains("PID 7"), "{}", lines[2]);
        assert_eq!(
            lines[4],
            r#"{"v":1,"kind":"summary","command":"repair","dry_run":false,"entries":1,"wrong":0,"stopped":false,"out_of_time":false,"seconds":1.5,"bytes":7,"verdicts":{"corrupt":1},"actions":{"built":1},"interpreters":{"":{"corrupt":1}},"store":{"hits":3,"misses":2,"puts":1,"linked":2,"saved_seconds":0.25}}"#
        );
    }

    fn fields(value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    into.push(key.clone());
                    fields(value, into);
                }
            }
            serde_json::Value::Array(list) => list.iter().for_each(|value| fields(value, into)),
            _ => {}
        }
    }

    #[test]
    fn the_manual_names_every_field_and_every_word() {
        let page = include_str!("../../man/bytekeep-json.5");
        let mut names = Vec::new();
        let (answers, outcomes) = super::super::explain::sample();
        let house = super::super::store_command::sample();
        let (hooks, states) = super::super::hook::sample();
        let samples = [
            full(),
            super::super::inspect::sample(),
            super::super::differ::sample(),
            super::super::config::sample(),
            house,
            answers,
            hooks,
        ];
        for line in samples.iter().flat_map(|lines| lines.lines()) {
            fields(&serde_json::from_str(line).unwrap(), &mut names);
        }
        names.retain(|name| !name.is_empty());
        names.extend(Verdict::ALL.map(|verdict| verdict.word().to_owned()));
        names.extend(outcomes.into_iter().chain(states).map(str::to_owned));
        names.extend(Action::ALL.map(|action| action.word().to_owned()));
        for name in names {
            let escaped = name.replace('-', "\\-");
            assert!(page.contains(&format!("\\fB{escaped}\\fR")) || page.contains(&format!(".B {escaped}\n")), "{name} is not in the page");
        }
    }
}
