//! Files that are rendered from the one definition of the command line: the manual's section 1, and the tables of README. They stand in
//! the repository so that packagers find them ready; this fails when they say anything else than the program, and `BLESS=1` renews them.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which writes the files of this repository when asked to")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The one helper: a file as it is, against what it should be.
fn check(path: &Path, expected: &str) {
    let there = std::fs::read_to_string(path).unwrap_or_default();
    if there == expected {
        return;
    }
    if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(path, expected).unwrap();
        return;
    }
    let first = there.lines().zip(expected.lines()).position(|(there, expected)| there != expected).map_or(0, |line| line + 1);
    panic!("{} is out of date (first difference at line {first}); renew it with `BLESS=1 cargo test --test generated`", path.display());
}

fn pages() -> BTreeMap<String, String> {
    let mut top = bytekeep::cli::command();
    top.build();
    let mut pages = BTreeMap::new();
    let mut left = vec![top];
    while let Some(command) = left.pop() {
        left.extend(command.get_subcommands().cloned());
        let man = clap_mangen::Man::new(command).section("1").source("bytekeep").manual("bytekeep").date("");
        let mut page = Vec::new();
        man.render(&mut page).unwrap();
        pages.insert(man.get_filename(), String::from_utf8(page).unwrap());
    }
    pages
}

#[test]
fn the_manual_says_what_the_command_line_is() {
    let man = repository().join("man");
    let pages = pages();
    for (name, page) in &pages {
        check(&man.join(name), page);
    }
    for item in std::fs::read_dir(&man).unwrap() {
        let name = item.unwrap().file_name().into_string().unwrap();
        assert!(!name.ends_with(".1") || pages.contains_key(&name), "man/{name} is the page of no command");
    }
}

#[test]
fn pages_are_the_same_on_every_host_and_day() {
    for (name, page) in pages() {
        assert!(!page.contains("/root") && !page.contains("/home"), "{name}");
        assert_eq!(page.lines().find(|line| line.starts_with(".TH")).map(|line| line.contains("20")), Some(false), "{name}");
    }
}

#[test]
fn the_tables_of_the_readme_say_what_the_program_does() {
    let path = repository().join("README.md");
    let Ok(text) = std::fs::read_to_string(&path) else { return };
    let mut renewed = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("<!-- generated: ") {
        let (name, after) = after.split_once(" -->").unwrap();
        let (_, after) = after.split_once("<!-- end -->").unwrap_or_else(|| panic!("the table `{name}` of README has no end"));
        let table = bytekeep::cli::readme_table(name).unwrap_or_else(|| panic!("README asks for a table `{name}`, which nobody makes"));
        renewed.extend([before, "<!-- generated: ", name, " -->\n", &table, "<!-- end -->"]);
        rest = after;
    }
    renewed.push_str(rest);
    check(&path, &renewed);
}
