//! `inspect` for people.

use std::path::Path;

use super::inspect::Told;
use super::inspect_code::{CodeTold, OneTold};
use super::out::Style;
use super::text;

/// So many code objects are shown where not all were asked for, and so deep.
const SHOWN: usize = 12;
const DEEPEST: usize = 2;
/// What is nested deeper is shown no further to the right.
const INDENTED: usize = 20;

/// One artifact as text; with `all` every code object, with its flags and constants.
pub(crate) fn render(told: &Told, path: &Path, cwd: Option<&Path>, all: bool, style: Style) -> String {
    let mut lines = Vec::new();
    says_of_itself(told, style, &mut lines);
    wrong(told, style, &mut lines);
    match_source(told, style, &mut lines);
    if let Some(code) = &told.code {
        tree(code, all, &mut lines);
    }
    if let Some(why) = &told.no_code {
        line(&mut lines, "code", &format!("not listed: {why}"));
    }
    if !told.is_good() {
        line(&mut lines, "file", &told.file.owner);
        line(&mut lines, "", &told.file.times);
        line(&mut lines, "directory", &told.directory.owner);
        line(&mut lines, "", &told.directory.times);
        if let Some(remark) = &told.remark {
            line(&mut lines, "remark", remark);
        }
    }
    let verdict = if told.is_good() { style.good("good") } else { style.bad("bad") };
    format!("{}: {verdict}\n{}\n", style.strong(&text::path(path, cwd)), lines.join("\n"))
}

fn line(lines: &mut Vec<String>, word: &str, text: &str) {
    lines.push(format!("  {word:<10} {text}"));
}

fn says_of_itself(told: &Told, style: Style, lines: &mut Vec<String>) {
    // Exact: a length is evidence.
    let rounded = if told.size < 1000 { String::new() } else { format!(" ({})", text::size(told.size)) };
    line(lines, "size", &format!("{} bytes{rounded}", told.size));
    if let Some(header) = &told.header {
        line(lines, "magic", &format!("{}, which {} writes", header.magic, header.interpreter));
        let stamp = match (header.mtime, header.source_size, &header.source_hash) {
            (Some(mtime), Some(size), _) => format!("source of {}, {size} bytes", text::date(mtime.into())),
            (Some(mtime), None, _) => format!("source of {}", text::date(mtime.into())),
            (None, _, Some(hash)) => format!("source with hash {hash}"),
            (None, _, None) => String::new(),
        };
        line(lines, "mode", &format!("{}: {stamp}", header.mode));
    }
    match &told.seal {
        None if told.has_unreadable_seal() => line(lines, "seal", "there, and it cannot be read: what is wrong with it stands below"),
        None => line(lines, "seal", "none: not written by bytekeep, or cut off since"),
        Some(seal) => {
            let origin =
                if seal.adopted { "adopted: proves the bytes since it was sealed, not their origin" } else { "written by bytekeep" };
            line(lines, "seal", &format!("version {}, over {} bytes, {origin}", seal.version, seal.payload));
            line(lines, "made from", &format!("BLAKE3 {}", seal.source_digest));
            match seal.label_fits {
                Some(true) => line(lines, "label", "fits the name"),
                Some(false) => line(lines, "label", &style.bad("does not fit the name: this artifact belongs elsewhere")),
                None => line(lines, "label", "the name does not say what it should be"),
            }
        }
    }
}

fn wrong(told: &Told, style: Style, lines: &mut Vec<String>) {
    line(lines, "structure", told.structure);
    if told.structure == "sound" && told.deep == Some(false) {
        let who = told.header.as_ref().map_or("its interpreter", |header| &header.interpreter);
        line(
            lines,
            "",
            &style.hint(&format!("the instructions were not looked into: no opcodes of {who} with this magic number are known")),
        );
    }
    for flaw in &told.flaws {
        let place = flaw.offset.map(|offset| format!(" (at byte {offset})")).unwrap_or_default();
        line(lines, "flaw", &format!("{}{place}", style.bad(&text::message(&flaw.text))));
    }
    if let Some(way) = &told.way {
        line(lines, "in", &text::message(way));
    }
    for mark in &told.shape {
        line(lines, "shape", &text::message(&mark.text));
        line(lines, "", &style.hint(&format!("often by {}", mark.hint)));
    }
}

fn match_source(told: &Told, style: Style, lines: &mut Vec<String>) {
    let fits = |fits: Option<bool>, what: &str| match fits {
        Some(true) => format!(", fits the {what}"),
        Some(false) => format!(", {}", style.bad(&format!("does not fit the {what}"))),
        None => String::new(),
    };
    let source = &told.source;
    let name = source.path.as_ref().map(|name| format!("`{name}` ")).unwrap_or_default();
    line(lines, "source", &format!("{name}{}{}{}", source.state, fits(source.header_fits, "header"), fits(source.digest_fits, "seal")));
    if source.in_vain {
        let who = told.header.as_ref().map_or("Python", |header| &header.interpreter);
        line(lines, "", &style.warn(&format!("its time is one that {who} cannot keep: it is compiled at every import all the same")));
    }
}

fn tree(code: &CodeTold, all: bool, lines: &mut Vec<String>) {
    let others = match code.other_filenames {
        0 => String::new(),
        number => format!(", and {number} of its code objects from others"),
    };
    line(lines, "compiled", &format!("from `{}`{others} (co_filename)", text::name(code.filename.as_bytes())));
    line(lines, "code", &format!("{} code object{}", code.count, if code.count == 1 { "" } else { "s" }));
    let is_shown = |one: &&OneTold| all || one.depth <= DEEPEST;
    let most = if all { usize::MAX } else { SHOWN };
    let mut shown = 0;
    for one in code.objects.iter().filter(is_shown).take(most) {
        shown += 1;
        told(one, all, lines);
    }
    let more = code.count - shown;
    if more > 0 {
        let hint = if all { "" } else { ": `--code` lists them, with flags and constants" };
        line(lines, "", &format!("… and {more} more{hint}"));
    }
}

fn told(one: &OneTold, all: bool, lines: &mut Vec<String>) {
    let indent = "  ".repeat(one.depth.min(INDENTED));
    let name = text::message(&one.name);
    let mut facts = vec![format!("line {}", one.first_line), format!("{} bytes of instructions", one.instructions)];
    let arguments = u64::from(one.arguments) + u64::from(one.keyword_only);
    if arguments > 0 {
        facts.insert(1, format!("{arguments} argument{}", if arguments == 1 { "" } else { "s" }));
    }
    line(lines, "", &format!("{indent}{name}: {}", facts.join(", ")));
    if all {
        let mut more = vec![format!("at byte {}, {} bytes in all", one.offset, one.size)];
        more.extend((!one.flags.is_empty()).then(|| one.flags.join(" ")));
        line(lines, "", &format!("{indent}  {}", more.join("; ")));
        if one.constants > 0 {
            let rest = one.constants - one.first_constants.len().min(one.constants);
            let rest = if rest == 0 { String::new() } else { format!(", … {rest} more") };
            line(lines, "", &format!("{indent}  constants {}{rest}", one.first_constants.join(", ")));
        }
    }
}
