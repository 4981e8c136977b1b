//! `inspect --diff A B`: how two artifacts differ, in their headers, their seals and their code.

use std::path::Path;

use serde::Serialize;

use super::failure::Failure;
use super::inspect;
use super::json::{self, PathLine, Start};
use super::out::{Out, Style};
use super::text;
use crate::base::seal::{Artifact, Seal};
use crate::model::{Format, Head, Stamp};
use crate::python::differences::{Differences, differences};
use crate::python::objects::{Broken, Objects};

/// So many differences of code are told.
const MOST: usize = 100;

/// How two artifacts differ.
#[derive(Serialize)]
pub(crate) struct Told {
    #[serde(flatten)]
    head: Start,
    #[serde(flatten)]
    path: PathLine,
    other: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_b64: Option<String>,
    /// Is their code the same by value? `None`: it could not be compared.
    same_code: Option<bool>,
    cause: Option<String>,
    header: Vec<FieldTold>,
    code: Vec<CodeTold>,
    more: bool,
    filenames: Option<FieldTold>,
}

/// What differs besides code.
#[derive(Serialize)]
struct FieldTold {
    field: &'static str,
    first: Option<String>,
    second: Option<String>,
}

#[derive(Serialize)]
struct CodeTold {
    function: String,
    line: u32,
    field: Option<String>,
    first: Option<String>,
    second: Option<String>,
    #[serde(skip)]
    sentence: String,
}

impl Told {
    /// Is their code the same?
    pub(crate) fn is_same(&self) -> bool {
        self.same_code == Some(true)
    }
}

/// Looks at two artifacts of at most `limit` bytes each.
pub(crate) fn look(first: &Path, second: &Path, limit: u64, format: &dyn Format) -> Result<Told, Failure> {
    let (one, other) = (inspect::read(first, limit)?, inspect::read(second, limit)?);
    let (one, other) = (Half::of(&one.bytes, format), Half::of(&other.bytes, format));
    let compared = match (&one.head, &other.head) {
        (Ok(head), Ok(against)) if head.magic == against.magic => compare(&one, head, &other, against),
        (Ok(_), Ok(_)) => Err("they are of different interpreters, whose code is never the same".to_owned()),
        (Err(flaw), _) => Err(format!("the first cannot be read: {flaw}")),
        (_, Err(flaw)) => Err(format!("the second cannot be read: {flaw}")),
    };
    let (cause, told) = match compared {
        Ok(told) => (None, Some(told)),
        Err(cause) => (Some(cause), None),
    };
    let same_code = told.as_ref().map(|told| told.found.is_empty());
    let Differences { found, more, filenames } = told.unwrap_or_default();
    let code = found.into_iter().map(|one| CodeTold {
        sentence: one.to_string(),
        function: one.function,
        line: one.line,
        field: one.field,
        first: one.first,
        second: one.second,
    });
    let (against, other_b64) = json::path(second);
    Ok(Told {
        head: Start::of("difference"),
        path: first.into(),
        other: against,
        other_b64,
        same_code,
        cause,
        header: header(&one, &other),
        code: code.collect(),
        more,
        filenames: filenames.map(|(first, second)| FieldTold { field: "co_filename", first: Some(first), second: Some(second) }),
    })
}

/// One of the two.
struct Half<'a> {
    size: usize,
    payload: &'a [u8],
    head: Result<Head, String>,
    seal: Result<Option<Seal>, String>,
}

impl<'a> Half<'a> {
    fn of(bytes: &'a [u8], format: &dyn Format) -> Self {
        let artifact = Artifact::split(bytes);
        let payload = artifact.as_ref().map_or(bytes, |artifact| artifact.payload);
        let head = format.head(payload.get(..16).unwrap_or(payload), None, None).map_err(|flaw| flaw.text);
        let seal = artifact.and_then(|artifact| artifact.prove().map(|()| artifact.seal)).map_err(|flaw| flaw.text);
        Self { size: bytes.len(), payload, head, seal }
    }
}

fn compare(one: &Half<'_>, head: &Head, other: &Half<'_>, against: &Head) -> Result<Differences, String> {
    let said = |which: &str, broken: Broken| {
        let place = broken.flaw.offset.map(|offset| format!(" (at byte {offset})")).unwrap_or_default();
        format!("the code of the {which} cannot be read: {}{place}", broken.flaw.text)
    };
    let first = Objects::read(head, one.payload).map_err(|broken| said("first", broken))?;
    let second = Objects::read(against, other.payload).map_err(|broken| said("second", broken))?;
    first.fits_beside(&second).map_err(|flaw| flaw.text)?;
    Ok(differences(&first, &second, MOST))
}

/// What differs in what stands around the code.
fn header(one: &Half<'_>, other: &Half<'_>) -> Vec<FieldTold> {
    let (first, second) = (around(one), around(other));
    let pairs = first.into_iter().zip(second).filter(|((_, first), (_, second))| first != second);
    pairs.map(|((field, first), (_, second))| FieldTold { field, first, second }).collect()
}

fn around(half: &Half<'_>) -> [(&'static str, Option<String>); 10] {
    let head = half.head.as_ref().ok();
    let seal = half.seal.as_ref().ok().and_then(Option::as_ref);
    let hex = |bytes: [u8; 8]| bytes.map(|byte| format!("{byte:02x}")).concat();
    let (mtime, size, hash) = match head.map(|head| head.stamp) {
        Some(Stamp::Time { mtime, size }) => (Some(mtime.to_string()), size.map(|size| size.to_string()), None),
        Some(Stamp::Hash { hash, .. }) => (None, None, Some(hex(hash))),
        None => (None, None, None),
    };
    let state = match &half.seal {
        Ok(None) => "none".to_owned(),
        Ok(Some(seal)) if seal.adopted => "adopted".to_owned(),
        Ok(Some(_)) => "whole".to_owned(),
        Err(flaw) => format!("bad: {flaw}"),
    };
    [
        ("size", Some(half.size.to_string())),
        ("magic", half.head.as_ref().map(|head| u16::from_le_bytes([head.magic[0], head.magic[1]]).to_string()).ok()),
        ("interpreter", head.map(|head| head.tag.to_string())),
        ("mode", head.map(|head| head.mode().word().to_owned())),
        ("mtime", mtime),
        ("source_size", size),
        ("source_hash", hash),
        ("seal", Some(state)),
        ("source_digest", seal.map(|seal| seal.source.hex())),
        ("label", seal.map(|seal| hex(seal.label))),
    ]
}

/// For programs.
pub(crate) fn write_json(out: &Out, told: &Told) {
    json::write(out, told);
}

/// For people.
pub(crate) fn render(told: &Told, first: &Path, second: &Path, cwd: Option<&Path>, style: Style) -> String {
    let mut lines = Vec::new();
    let nothing = || "none".to_owned();
    for FieldTold { field, first, second } in told.header.iter().chain(&told.filenames) {
        let date = |value: &String| match value.parse() {
            Ok(seconds) if *field == "mtime" => text::date(seconds),
            _ => text::message(value),
        };
        let (first, second) = (first.as_ref().map_or_else(nothing, date), second.as_ref().map_or_else(nothing, date));
        lines.push(format!("  {field:<13} {first} | {second}"));
    }
    for one in &told.code {
        lines.push(format!("  {:<13} {}", "code", text::message(&one.sentence)));
    }
    if told.more {
        lines.push(format!("  {:<13} and more", "code"));
    }
    if let Some(cause) = &told.cause {
        lines.push(format!("  {:<13} {}", "code", text::message(cause)));
    }
    let verdict = match told.same_code {
        Some(true) => style.good("the same code"),
        Some(false) => style.bad("other code"),
        None => style.bad("not comparable"),
    };
    lines.insert(0, format!("{} | {}: {verdict}", style.strong(&text::path(first, cwd)), style.strong(&text::path(second, cwd))));
    lines.push(String::new());
    lines.join("\n")
}

/// A line with every field, for the test of the manual page.
#[cfg(test)]
pub(crate) fn sample() -> String {
    let field = || FieldTold { field: "", first: None, second: None };
    let code = CodeTold { function: String::new(), line: 1, field: None, first: None, second: None, sentence: String::new() };
    let (head, path) = (Start::of("difference"), Path::new("").into());
    let (other, other_b64) = (String::new(), Some(String::new()));
    let (same_code, cause, header, more) = (None, None, vec![field()], false);
    let told = Told { head, path, other, other_b64, same_code, cause, header, code: vec![code], more, filenames: Some(field()) };
    serde_json::to_string(&told).unwrap_or_default()
}
