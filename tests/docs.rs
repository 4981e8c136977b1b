//! What README, CHANGELOG and the man pages say does not drift from what is there.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a test works on files of its own")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/pages.rs"]
mod pages;

use pages::{have, replay, text, typed_lines};

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The man pages that are there: `bytekeep-seal.5`.
fn man_pages() -> BTreeSet<String> {
    let names = std::fs::read_dir(top().join("man")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// What is code in a Markdown text: the lines of blocks (joined where they go on with a backslash), and the spans between back-quotes.
fn code(markdown: &str) -> Vec<String> {
    let mut code: Vec<String> = Vec::new();
    let (mut in_block, mut goes_on) = (false, false);
    for line in markdown.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let part = line.trim_end_matches('\\');
            match code.last_mut() {
                Some(last) if goes_on => last.push_str(part),
                _ => code.push(part.to_owned()),
            }
            goes_on = line.ends_with('\\');
        } else {
            code.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    code
}

/// What is code in a man page: lines that can be typed, and `.Ic` lines.
fn code_of_page(page: &str) -> Vec<String> {
    let typed = typed_lines(page).into_iter().map(|(command, _)| command);
    typed.chain(page.lines().filter_map(|line| line.strip_prefix(".Ic ")).map(str::to_owned)).collect()
}

/// Uses of the command in code: its subcommand, and the long options behind it. A bare `--option` has no subcommand.
fn uses(code: &[String]) -> Vec<(Option<String>, Vec<String>)> {
    let mut uses = Vec::new();
    for line in code {
        for part in line.split(['|', '&', ';', '<', '>']) {
            let words: Vec<&str> = part.split_whitespace().collect();
            let ours = words.iter().position(|word| *word == "bytekeep").map(|at| at + 1);
            let by_cargo = part.contains("cargo run").then(|| words.iter().position(|word| *word == "--").map(|at| at + 1)).flatten();
            let from = match ours.or(by_cargo) {
                Some(from) => from,
                None if part.starts_with("--") => 0,
                None => continue,
            };
            let command = words.get(from).filter(|word| word.chars().all(|c| c.is_ascii_lowercase())).map(|word| (*word).to_owned());
            if command.is_none() && from > 0 {
                continue;
            }
            let options = words[from..].iter().filter(|word| word.starts_with("--") && word.len() > 2);
            uses.push((command, options.map(|word| word.split('=').next().unwrap().to_owned()).collect()));
        }
    }
    uses
}

fn help(of: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_bytekeep")).args(of).arg("--help").output().unwrap();
    assert!(done.status.success(), "bytekeep {of:?} --help");
    String::from_utf8(done.stdout).unwrap()
}

/// The commands that `--help` lists.
fn commands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1).take_while(|line| line.starts_with("  "));
    // A line that is further in goes on with the description above it.
    let first = list.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    first.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// What a text uses that the command does not have.
fn unknown_uses(uses: &[(Option<String>, Vec<String>)], help: &BTreeMap<String, String>) -> Vec<String> {
    let has = |help: &str, option: &str| help.split([' ', ',', '\n', '=', '[']).any(|word| word == option);
    let mut unknown = Vec::new();
    for (command, options) in uses {
        let pages: Vec<&String> = match command {
            Some(command) => help.get(command).into_iter().collect(),
            None => help.values().collect(),
        };
        if pages.is_empty() {
            unknown.push(format!("bytekeep {}", command.as_deref().unwrap_or_default()));
            continue;
        }
        let missing = options.iter().filter(|option| !pages.iter().any(|page| has(page, option)));
        unknown.extend(missing.map(|option| format!("bytekeep {} {option}", command.as_deref().unwrap_or("…"))));
    }
    unknown
}

#[test]
fn every_command_and_option_that_is_written_about_exists() {
    // With what is said of the commands below it.
    let whole = |command: &str| {
        let own = help(&[command]);
        commands(&own).iter().map(|below| help(&[command, below])).chain([own.clone()]).collect::<String>()
    };
    let help: BTreeMap<String, String> = commands(&help(&[])).into_iter().map(|command| (command.clone(), whole(&command))).collect();
    assert!(help.len() > 3, "`bytekeep --help` lists its commands: {:?}", help.keys());
    let mut sources = vec![("README.md".to_owned(), code(&text("README.md"))), ("CHANGELOG.md".to_owned(), code(&text("CHANGELOG.md")))];
    for page in ["bytekeep-seal.5", "bytekeep-durability.7", "bytekeep-recipes.7", "bytekeep.toml.5"] {
        sources.push((page.to_owned(), code_of_page(&text(&format!("man/{page}")))));
    }
    let mut unknown = Vec::new();
    for (name, code) in &sources {
        let uses = uses(code);
        assert!(!uses.is_empty(), "{name} names no command");
        unknown.extend(unknown_uses(&uses, &help).into_iter().map(|what| format!("{name}: {what}")));
    }
    assert!(unknown.is_empty(), "\n{}", unknown.join("\n"));
}

/// The test above can fail.
#[test]
fn a_command_or_option_that_is_not_there_is_found() {
    let help: BTreeMap<String, String> =
        [("compile".to_owned(), "  -f, --force\n      --env <DIR>\n".to_owned()), ("verify".to_owned(), "  --complete".to_owned())].into();
    let check = |markdown: &str| unknown_uses(&uses(&code(markdown)), &help);
    assert_eq!(check("Say `bytekeep compile --force x`, or `--complete`, in `bytekeep`."), Vec::<String>::new());
    assert_eq!(check("```toml\nbytekeep = { version = \"0.1\" }\n```"), Vec::<String>::new());
    assert_eq!(check("```console\n$ pip install --no-compile x && bytekeep compile \\\n  --env x\n```"), Vec::<String>::new());
    assert_eq!(check("`bytekeep compact`"), ["bytekeep compact"]);
    assert_eq!(check("`--complet`"), ["bytekeep … --complet"]);
    assert_eq!(check("```console\n$ true && bytekeep compile \\\n  --complete x\n```"), ["bytekeep compile --complete"]);
    assert_eq!(check("```console\n$ cargo run --release -- verify --all\n```"), ["bytekeep verify --all"]);
    assert_eq!(commands("What\n\nCommands:\n  compile  Brings\n           more\n  verify   Judges\n\nOptions:\n"), ["compile", "verify"]);
}

/// `bytekeep-seal(5)` and `man/bytekeep-seal.5` in a text; `.Xr bytekeep-seal 5` in a page: as names of files.
fn mentioned_pages(text: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        let name: String = text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        // The page that is named as its file.
        if text[name.len()..].starts_with(".toml") { name + ".toml" } else { name }
    };
    let mut mentioned = BTreeSet::new();
    for (at, _) in text.match_indices("bytekeep") {
        let name = name(&text[at..]);
        let mut rest = text[at + name.len()..].chars();
        let (mark, section) = (rest.next(), rest.next());
        let Some(section) = section.filter(char::is_ascii_digit) else { continue };
        let is_reference = match mark {
            Some('(') => rest.next() == Some(')'),
            Some('.') => text[..at].ends_with("man/"),
            Some(' ') => text[..at].ends_with(".Xr "),
            _ => false,
        };
        if is_reference {
            mentioned.insert(format!("{name}.{section}"));
        }
    }
    mentioned
}

#[test]
fn every_page_that_is_mentioned_exists() {
    let there = man_pages();
    let mut files: Vec<String> = ["README.md", "CHANGELOG.md"].map(str::to_owned).into();
    files.extend(there.iter().map(|page| format!("man/{page}")));
    for file in files {
        let missing: Vec<String> = mentioned_pages(&text(&file)).difference(&there).cloned().collect();
        assert!(missing.is_empty(), "{file} mentions {missing:?}");
    }
    let found = mentioned_pages(
        "see bytekeep-a(5), (man/bytekeep-b.7),\n.Xr bytekeep-c 1 ,\nbytekeep 1, bytekeep(s), bytekeep.toml(5), bytekeep.toml",
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["bytekeep-a.5", "bytekeep-b.7", "bytekeep-c.1", "bytekeep.toml.5"]);
}

#[test]
fn every_link_in_the_readme_leads_somewhere() {
    let readme = text("README.md");
    let headings: BTreeSet<String> =
        readme.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches(['#', ' ']))).collect();
    for (at, _) in readme.match_indices("](") {
        let target = readme[at + 2..].split(')').next().unwrap();
        match target.strip_prefix('#') {
            Some(heading) => assert!(headings.contains(heading), "{target}"),
            None if target.contains("://") => {}
            None => assert!(top().join(target).exists(), "{target}"),
        }
    }
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_generated_table_has_its_place() {
    let readme = text("README.md");
    for table in ["commands", "verdicts", "exit-codes"] {
        let (_, rest) = readme.split_once(&format!("<!-- generated: {table} -->\n")).unwrap_or_else(|| panic!("{table} has no place"));
        let table = rest.split_once("<!-- end -->").expect("and an end").0;
        assert!(!table.contains("<!--"), "{table}");
    }
}

/// The two commands for a new user are the ones that the checks run.
#[test]
fn the_first_commands_are_checked() {
    let (readme, checks) = (text("README.md"), text(".ci/run"));
    let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("$ ")).take(2).collect();
    assert_eq!(commands, ["cargo run --release -- compile --stdlib --pycache-prefix target/tour", "cargo test"]);
    for command in commands {
        assert!(checks.lines().any(|line| line.ends_with(&format!(" {command}"))), "{command}");
    }
}

/// Formats every page and keeps what the formatter has against it.
fn linted(program: &str, options: &[&str]) {
    if !have(&[program]) {
        return;
    }
    let mut wrong = String::new();
    for page in man_pages() {
        let path: PathBuf = top().join("man").join(&page);
        let done = Command::new(program).args(options).arg(&path).output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        // What groff 1.22 says of its own macro packages is not about the page.
        told.lines().filter(|line| line.contains(&page)).for_each(|line| wrong = format!("{wrong}\n{line}"));
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn groff_formats_every_page_without_a_warning() {
    linted("groff", &["-mandoc", "-Tutf8", "-ww", "-z"]);
}

#[test]
fn mandoc_has_nothing_against_the_pages_written_by_hand() {
    if !have(&["mandoc"]) {
        return;
    }
    for page in ["bytekeep-seal.5", "bytekeep-durability.7", "bytekeep-recipes.7", "bytekeep.toml.5"] {
        let done = Command::new("mandoc").args(["-Tlint", "-W", "warning"]).arg(top().join("man").join(page)).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&done.stdout), "", "{page}");
    }
}

/// bytekeep-durability(7) tells why both halves of the lock protocol are needed, as lines that anybody can replay: here they are.
#[test]
fn the_story_of_the_locks_is_true() {
    if !have(&["bash", "flock"]) || !Path::new("/dev/fd").exists() {
        return;
    }
    let page = text("man/bytekeep-durability.7");
    let locks = page.split_once(".Sh LOCKS").unwrap().1.split_once(".Sh RACY TIMES").unwrap().0;
    let lines = typed_lines(locks);
    assert_eq!(lines.iter().filter(|(_, output)| output.ends_with("C holds it\n")).count(), 2);
    drop(replay("bash", &lines));
}
