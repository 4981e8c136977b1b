//! Keeps the house in order: who may name whom, and what may stand only in one place.
//!
//! `main → cli → {flow, python} → {model, store} → base` and `cli → packages → base`, downwards over any number of steps, and no other arrow.
//! This is one crate, so no crate boundary says so; this test is the boundary. It reads the text of `src`, without comments and strings.
//! Every rule is also shown a snippet that breaks it, so that a rule that has gone blind is found.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a test works on files of its own")]

use std::path::Path;

/// A file of `src`.
struct File {
    /// Its path below `src`, with slashes.
    path: String,
    /// The text as it stands there.
    text: String,
    /// The text with comments and the insides of strings blanked out; lines and columns are those of `text`.
    code: String,
    /// `code` without the test modules in it.
    product: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let code = blank_comments_and_strings(text);
        let product = without_tests(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, product }
    }

    fn layer(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }

    /// The module's path from the crate's root: `flow/job.rs` is `[flow, job]`, `flow/mod.rs` is `[flow]`.
    fn depth(&self) -> usize {
        match self.path.as_str() {
            "lib.rs" | "main.rs" => 0,
            path => path.split('/').count() - usize::from(path.ends_with("/mod.rs")),
        }
    }
}

/// A rule: what is wrong with a file, a line each.
type Rule = fn(&File) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("arrows", arrows),
    ("layers", layers),
    ("platform calls", platform_calls),
    ("starting processes", starting_processes),
    ("printing", printing),
    ("length", length),
    ("head", head),
    ("purity", purity),
];

/// Whom each layer may name, itself included. `lib.rs` names the modules and nothing else is asked of it.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &["base"]),
    ("model", &["model", "base"]),
    ("store", &["store", "base"]),
    ("packages", &["packages", "base"]),
    ("flow", &["flow", "store", "model", "base"]),
    ("python", &["python", "model", "base"]),
    ("cli", &["cli", "flow", "store", "packages", "python", "model", "base"]),
    ("main", &["cli"]),
    ("lib", &["cli", "flow", "store", "packages", "python", "model", "base"]),
];

/// Commands that are so unlike the others that each has a folder of its own.
const COMMANDS: &[&str] = &["cli/compileall", "cli/hook"];

/// What stands at the crate's root beside the layers: macros.
const AT_ROOT: &[&str] = &["ignored"];

/// The platform: files and directories, what is shared between them, locks of bytes, and children.
const PLATFORM: [&str; 4] = ["base/sys.rs", "base/share.rs", "base/bytelock.rs", "base/children.rs"];
const LIMIT: usize = 600;

fn arrows(file: &File) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(layer, _)| *layer == file.layer()) else { return Vec::new() };
    let mut wrong = Vec::new();
    for (line, name, by_super) in names_at_root(&file.code, file.depth()) {
        let is_layer = ARROWS.iter().any(|(layer, _)| *layer == name);
        // In a nested module `super::` reaches less far than it seems, so it counts only where it names a layer.
        let strict = matches!(file.layer(), "base" | "main") && !by_super;
        if allowed.contains(&name.as_str()) || AT_ROOT.contains(&name.as_str()) || !(is_layer || strict) {
            continue;
        }
        wrong.push(format!("line {line}: {} may not name `{name}`", file.layer()));
    }
    wrong
}

/// A new folder or file at the top must say whom it may name.
fn layers(file: &File) -> Vec<String> {
    let mut wrong = Vec::new();
    if !ARROWS.iter().any(|(layer, _)| *layer == file.layer()) {
        wrong.push(format!("`{}` is no layer: say in ARROWS whom it may name", file.layer()));
    }
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    if folder.contains('/') && !COMMANDS.contains(&folder) {
        wrong.push("a folder has no folders, but for those of single commands".to_owned());
    }
    wrong
}

fn platform_calls(file: &File) -> Vec<String> {
    if PLATFORM.contains(&file.path.as_str()) {
        return Vec::new();
    }
    let words = ["unsafe", "rustix", "libc", "fs2"];
    words.iter().flat_map(|word| lines_with_word(&file.code, word)).map(|(line, word)| format!("line {line}: `{word}`")).collect()
}

/// Who starts interpreters, and who asks `rpm` and `git`: they alone know where what they keep is. Each child has a time limit, an environment of its own and
/// no shell.
const STARTERS: [&str; 5] = ["python/interpreter", "python/pool", "python/process", "packages/rpm", "cli/hook/git"];

fn starting_processes(file: &File) -> Vec<String> {
    let may = STARTERS.iter().any(|start| file.path.starts_with(start));
    if may || file.is_test() {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (index, line) in file.product.lines().enumerate() {
        // clap's own `Command` starts nothing.
        let line = line.replace("clap::Command::new", "");
        let renamed = line.contains("Command as ") && line.contains("process");
        if renamed || has_path(&line, "Command::new") {
            wrong.push(format!("line {}: `{}`", index + 1, line.trim()));
        }
    }
    wrong
}

fn printing(file: &File) -> Vec<String> {
    if file.layer() == "cli" || file.is_test() {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (index, line) in file.product.lines().enumerate() {
        let says = ["println!", "eprintln!", "print!", "eprint!", "dbg!", "process::exit", "io::stdout", "io::stderr"];
        wrong.extend(says.iter().filter(|word| has_path(line, word)).map(|word| format!("line {}: `{word}`", index + 1)));
    }
    wrong
}

/// What is found and what is done about it are functions of what they are given.
fn purity(file: &File) -> Vec<String> {
    if !["flow/judge.rs", "flow/policy.rs", "flow/import.rs"].contains(&file.path.as_str()) {
        return Vec::new();
    }
    // Tests are the same file's, and may make times.
    let code = file.code.lines().take(file.product.lines().count()).collect::<Vec<_>>().join("\n");
    let words = ["fs", "io", "Dir", "File", "Instant", "SystemTime", "Time::now", "env", "look", "Run", "Job"];
    words.iter().flat_map(|word| lines_with_word(&code, word)).map(|(line, word)| format!("line {line}: `{word}`")).collect()
}

fn length(file: &File) -> Vec<String> {
    if file.is_test() {
        return Vec::new();
    }
    let lines = file.product.lines().count();
    if lines > LIMIT { vec![format!("{lines} lines without its tests; the limit is {LIMIT}")] } else { Vec::new() }
}

fn head(file: &File) -> Vec<String> {
    if file.text.starts_with("//! ") { Vec::new() } else { vec!["it does not begin by saying what it is (`//! …`)".to_owned()] }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Does a line have this path or macro, not as the end of a longer word?
fn has_path(line: &str, path: &str) -> bool {
    let ends_in_word = is_word(*path.as_bytes().last().unwrap());
    line.match_indices(path).any(|(at, _)| {
        let before = at.checked_sub(1).is_some_and(|before| is_word(line.as_bytes()[before]));
        let after = ends_in_word && line.as_bytes().get(at + path.len()).copied().is_some_and(is_word);
        !before && !after
    })
}

fn lines_with_word<'w>(code: &str, word: &'w str) -> Vec<(usize, &'w str)> {
    code.lines().enumerate().filter(|(_, line)| has_path(line, word)).map(|(index, _)| (index + 1, word)).collect()
}

/// The names that a file reaches from the crate's root, each with its line and whether `super` led there: by `crate::`, by `bytekeep::`, by enough `super::`; in braces too.
fn names_at_root(code: &str, depth: usize) -> Vec<(usize, String, bool)> {
    let mut starts = Vec::new();
    for root in ["crate::", "bytekeep::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].bytes().next_back();
            if !before.is_some_and(|byte| is_word(byte) || byte == b':') {
                starts.push((at + root.len(), false));
            }
        }
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("::") || code[..at].bytes().next_back().is_some_and(is_word) {
            continue;
        }
        let (mut end, mut steps) = (at, 0);
        while code[end..].starts_with("super::") {
            end += "super::".len();
            steps += 1;
        }
        if steps >= depth {
            starts.push((end, true));
        }
    }
    starts.sort_unstable();
    let mut names = Vec::new();
    for (start, by_super) in starts {
        let line = code[..start].matches('\n').count() + 1;
        names.extend(first_names(&code[start..]).into_iter().map(|name| (line, name, by_super)));
    }
    names
}

/// The first component of a path, or of each path in a pair of braces.
fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.strip_prefix('{') else {
        let name = word(rest);
        return if name.is_empty() { Vec::new() } else { vec![name] };
    };
    let (mut names, mut depth, mut expects) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expects = true,
            c if depth == 0 && expects && (c.is_alphanumeric() || c == '_') => {
                names.push(word(&group[at..]));
                expects = false;
            }
            _ => {}
        }
    }
    names
}

/// Blanks comments and the insides of strings and characters; every newline stays.
fn blank_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let blank = |out: &mut Vec<u8>, from: usize, to: usize| {
        out.extend(bytes[from..to.min(bytes.len())].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
    };
    while at < bytes.len() {
        let rest = &bytes[at..];
        let after_word = at > 0 && is_word(bytes[at - 1]);
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if rest[0] == b'"' {
            quoted(rest, b'"')
        } else if let Some(length) = (!after_word).then(|| raw_string(rest)).flatten() {
            length
        } else if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || text[at + 1..].chars().nth(1) == Some('\'')) {
            quoted(rest, b'\'')
        } else {
            out.push(rest[0]);
            at += 1;
            continue;
        };
        blank(&mut out, at, at + length);
        at += length;
    }
    String::from_utf8(out).unwrap()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `r"…"`, `r#"…"#`, `br"…"`, `cr"…"`, where the text begins with one.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let prefix = usize::from(matches!(rest[0], b'b' | b'c'));
    if rest.get(prefix) != Some(&b'r') {
        return None;
    }
    let hashes = rest[prefix + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + 1 + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let inside = rest[open + 1..].windows(end.len()).position(|window| window == end);
    Some(inside.map_or(rest.len(), |inside| open + 1 + inside + end.len()))
}

/// Takes out every `#[cfg(test)]` item with its braces. Works on blanked code, where every brace counts.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        let end =
            item.find(['{', ';']).map_or(item.len(), |open| if item.as_bytes()[open] == b';' { open + 1 } else { closing(item, open) });
        rest = item[end..].trim_start_matches('\n');
    }
    out.push_str(rest);
    out
}

fn closing(text: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

fn files() -> Vec<File> {
    fn collect(dir: &Path, top: &Path, files: &mut Vec<File>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, top, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push(File::new(path.strip_prefix(top).unwrap().to_str().unwrap(), &text));
            }
        }
    }
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&top, &top, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

#[test]
fn the_house_is_in_order() {
    let files = files();
    assert!(files.len() > 5, "src was not found");
    let mut wrong = Vec::new();
    for file in &files {
        for (name, rule) in RULES {
            wrong.extend(rule(file).into_iter().map(|what| format!("src/{}: {name}: {what}", file.path)));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// `(rule, path, text)`: each breaks that rule.
const BAD: &[(&str, &str, &str)] = &[
    ("arrows", "base/x.rs", "use crate::model::Verdict;"),
    ("arrows", "base/x.rs", "use super::super::model::Verdict;"),
    ("arrows", "base/mod.rs", "use super::model::Verdict;"),
    ("arrows", "base/x.rs", "fn f() { crate::surprise::f() }"),
    ("arrows", "model.rs", "use crate::flow::Job;"),
    ("arrows", "model.rs", "use super::python::Pyc;"),
    ("arrows", "flow/x.rs", "use crate::python::Pyc;"),
    ("arrows", "flow/x.rs", "fn f() -> crate::cli::Args {}"),
    ("arrows", "flow/x.rs", "use crate::{base::Error, model::{Entry, Verdict}, python::Pyc};"),
    ("arrows", "flow/x.rs", "use crate::{\n    cli,\n};"),
    ("arrows", "flow/x.rs", "use bytekeep::python::Pyc;"),
    ("arrows", "flow/mod.rs", "pub(in super::python) fn f() {}"),
    ("arrows", "python/x.rs", "use crate::flow::Job;"),
    ("arrows", "python/x.rs", "#[cfg(test)]\nmod tests {\n    use crate::flow::Job;\n}"),
    ("arrows", "main.rs", "fn main() { bytekeep::flow::run() }"),
    ("layers", "helpers/mod.rs", ""),
    ("layers", "helpers.rs", ""),
    ("layers", "flow/deep/mod.rs", ""),
    ("platform calls", "flow/x.rs", "fn f() { unsafe { g() } }"),
    ("platform calls", "base/write.rs", "use rustix::fs::fsync;"),
    ("platform calls", "python/x.rs", "libc::kill(1, 9);"),
    ("platform calls", "base/lock.rs", "fs2::FileExt::unlock(&file);"),
    ("starting processes", "flow/x.rs", "Command::new(\"true\");"),
    ("starting processes", "cli/x.rs", "std::process::Command::new(\"true\");"),
    ("starting processes", "python/mod.rs", "use std::process::Command as Cmd;"),
    ("printing", "flow/x.rs", "println!();"),
    ("printing", "python/x.rs", "eprintln!(\"oh\");"),
    ("printing", "base/x.rs", "std::process::exit(1);"),
    ("printing", "main.rs", "fn main() { print!(\"a\") }"),
    ("printing", "flow/x.rs", "writeln!(std::io::stderr(), \"oh\");"),
    ("purity", "flow/judge.rs", "use crate::base::sys::{Dir, Stat};"),
    ("purity", "flow/judge.rs", "fn f() -> bool { std::fs::exists(\"x\").is_ok() }"),
    ("purity", "flow/policy.rs", "let time = Time::now();"),
    ("head", "flow/x.rs", "// What it is.\n"),
    ("head", "flow/x.rs", "use std::io;\n"),
];

/// `(path, text)`: breaks no rule but perhaps the one on heads.
const GOOD: &[(&str, &str)] = &[
    ("base/x.rs", "use super::{Error, Result};\nuse crate::base::seal::Seal;"),
    ("base/x.rs", "/// See [`crate::model::Format`], which is unsafe on `libc`.\nfn f() {}"),
    ("base/x.rs", "crate::ignored!(f(), \"println!\");"),
    ("base/mod.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n    use super::seal;\n}"),
    ("model.rs", "use crate::base::{Error, Flaw};"),
    ("flow/x.rs", "use super::super::model;\nuse super::job::Job;"),
    ("flow/x.rs", "let command = Command::Verify; let text = \"use crate::python::Pyc\"; let raw = r#\"unsafe \"libc\" \"#;"),
    ("flow/x.rs", "#![deny(unsafe_code)]\nlet is_unsafe = true; let my_rustix_like = '\"'; fn f<'a>(_: &'a str) {}"),
    ("flow/x.rs", "/* unsafe /* nested */ libc */"),
    ("python/pool.rs", "std::process::Command::new(path)"),
    ("python/interpreter_probe.rs", "Command::new(path)"),
    ("python/x.rs", "#[cfg(test)]\nmod tests {\n    fn f() { println!(\"{{\"); Command::new(\"python3\"); }\n}"),
    ("cli/mod.rs", "println!(); clap::Command::new(\"bytekeep\"); use crate::{flow, python, base::seal};"),
    ("flow/judge.rs", "/// Does no `io`.\nfn f() {}"),
    ("flow/look.rs", "use std::io;"),
    ("main.rs", "fn main() -> std::process::ExitCode { bytekeep::cli::main() }"),
    ("lib.rs", "pub mod base;\npub use crate::flow::run;"),
];

#[test]
fn every_rule_finds_what_breaks_it() {
    for (name, path, text) in BAD {
        let (_, rule) = RULES.iter().find(|(rule, _)| rule == name).unwrap();
        assert!(!rule(&File::new(path, text)).is_empty(), "{name} does not see it: {path}: {text}");
    }
    let long = |lines: usize| File::new("flow/x.rs", &"fn f() {}\n".repeat(lines));
    assert!(!length(&long(LIMIT + 1)).is_empty());
    assert!(length(&long(LIMIT)).is_empty());
    let tests = format!("//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(LIMIT));
    assert!(length(&File::new("flow/x.rs", &tests)).is_empty(), "tests do not count");
    for (name, _) in RULES {
        assert!(*name == "length" || BAD.iter().any(|(rule, ..)| rule == name), "{name} is never shown to fail");
    }
}

#[test]
fn no_rule_finds_what_is_right() {
    for (path, text) in GOOD {
        let file = File::new(path, text);
        for (name, rule) in RULES.iter().filter(|(name, _)| *name != "head") {
            assert_eq!(rule(&file), Vec::<String>::new(), "{name}: {path}: {text}");
        }
    }
}

#[test]
fn blanking_keeps_lines_and_lengths() {
    for file in files() {
        assert_eq!(file.text.len(), file.code.len(), "{}", file.path);
        assert_eq!(file.text.lines().count(), file.code.lines().count(), "{}", file.path);
    }
    assert_eq!(blank_comments_and_strings("a\"b\\\"c\"d'\\''e'f"), "a      d    e'f");
    assert_eq!(blank_comments_and_strings("a r#\"\"b\"#c // d\ne"), format!("a {}c {}\ne", " ".repeat(7), " ".repeat(4)));
}
