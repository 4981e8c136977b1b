//! What a run came to, for people: the summary line, and the table of `status`.

use std::collections::BTreeMap;

use super::hints;
use super::out::Style;
use super::text::{elapsed, entries, size};
use crate::flow::{Action, Command, Summary};
use crate::model::Verdict;

/// `Compiled 5378 entries in 520ms (12 up to date, 3 failed)`.
pub(crate) fn line(command: Command, dry_run: bool, summary: &Summary, style: Style) -> String {
    let action = |action| summary.action(action);
    let tried = action(Action::Failed) + action(Action::Skipped);
    // What is wrong, and what nobody here knows, is not "up to date" for being left alone.
    let left = summary.wrong.saturating_sub(tried) + summary.verdict(Verdict::Unknown);
    let untouched = action(Action::None).saturating_sub(left);
    let only_restamped = command == Command::Compile && action(Action::Built) == 0 && action(Action::Restamped) > 0;
    let (past, future, number) = match command {
        Command::Compile if only_restamped => ("Restamped", "Would restamp", action(Action::Restamped)),
        Command::Compile => ("Compiled", "Would compile", action(Action::Built)),
        Command::Repair => {
            let mended = [Action::Built, Action::Restamped, Action::Sealed, Action::Removed].map(action).iter().sum();
            ("Repaired", "Would repair", mended)
        }
        Command::Clean => ("Removed", "Would remove", action(Action::Removed)),
        Command::Seal => ("Sealed", "Would seal", action(Action::Sealed)),
        Command::Verify => ("Verified", "Would verify", summary.entries),
        Command::Status => ("Looked at", "Would look at", summary.entries),
        Command::Add => ("Added", "Would add", summary.store.map_or(0, |store| store.puts)),
        Command::Explain => ("Explained", "Would explain", summary.entries),
    };
    let details: Vec<(u64, &str)> = match command {
        Command::Verify | Command::Status => Verdict::ALL.map(|verdict| (summary.verdict(verdict), verdict.word())).to_vec(),
        Command::Add => {
            let (there, added) = summary.store.map_or((0, 0), |store| (store.hits, store.puts));
            let left = summary.entries.saturating_sub(there.saturating_add(added)).saturating_sub(summary.wrong);
            vec![(there, "there already"), (left, "left out")]
        }
        _ => vec![
            (if command == Command::Repair { action(Action::Built) } else { 0 }, "built"),
            (summary.store.map_or(0, |store| store.hits), "from the store"),
            (if only_restamped { 0 } else { action(Action::Restamped) }, "restamped"),
            (if command == Command::Seal { 0 } else { action(Action::Sealed) }, "sealed"),
            (if command == Command::Clean { 0 } else { action(Action::Removed) }, "removed"),
            (action(Action::Swept), "left-overs swept"),
            (untouched, untouched_word(command)),
            (action(Action::Skipped), "skipped"),
            (action(Action::Failed), "failed"),
        ],
    };
    let mut details: Vec<String> =
        details.iter().filter(|(number, _)| *number > 0).map(|(number, word)| format!("{number} {word}")).collect();
    // What is wrong without having been tried has no other place, nor what is a problem only since it was asked for.
    let judges = matches!(command, Command::Verify | Command::Status);
    let told = if judges { problems(summary) } else { tried };
    if summary.wrong > told {
        details.push(format!("{} {}", summary.wrong - told, if judges && told > 0 { "more wrong" } else { "wrong" }));
    }
    let verb = if dry_run { future } else { past };
    let verb = if summary.is_good() { style.good(verb) } else { style.bad(verb) };
    let end = match (summary.stopped, summary.out_of_time) {
        (true, _) => "Interrupted, and what was written is whole. ",
        (false, true) => "Stopped by --max-time, and what was written is whole. ",
        (false, false) => "",
    };
    let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
    format!("{end}{verb} {} in {}{details}\n", entries(number), elapsed(summary.elapsed))
}

/// What entries are with which nothing was to be done.
fn untouched_word(command: Command) -> &'static str {
    match command {
        Command::Compile => "up to date",
        Command::Clean | Command::Seal => "left as they are",
        Command::Repair | Command::Verify | Command::Status | Command::Explain | Command::Add => "in order",
    }
}

/// What to do next, from the worst down.
pub(crate) fn next(command: Command, summary: &Summary) -> Option<String> {
    if !matches!(command, Command::Verify | Command::Status) {
        return None;
    }
    let some = |verdicts: &[Verdict]| verdicts.iter().any(|verdict| summary.verdict(*verdict) > 0);
    let hint = if some(&[Verdict::SilentlyStale, Verdict::Truncated, Verdict::Corrupt, Verdict::BadMagic]) {
        "`bytekeep repair PATH` rebuilds what is bad"
    } else if some(&[Verdict::Misstamped]) {
        "`bytekeep repair PATH` renews the headers, without an interpreter"
    } else if some(&[Verdict::Stale]) || (some(&[Verdict::Missing]) && command == Command::Status) {
        "`bytekeep compile PATH` brings it up to date"
    } else if some(&[Verdict::Unreadable]) {
        "run it as the owner of the files"
    } else if some(&[Verdict::Leftover]) {
        "`bytekeep clean --leftovers PATH` removes what dead processes left"
    } else if some(&[Verdict::Unsealed]) && command == Command::Status {
        "`bytekeep seal PATH` makes later damage visible in what has no seal"
    } else {
        return None;
    };
    Some(hint.to_owned())
}

/// The table of `status`: interpreters by verdicts, and a word on the whole above it.
pub(crate) fn table(summary: &Summary, style: Style) -> String {
    let mut text = glance(summary, style);
    if summary.entries > 0 {
        text.push_str(&grid("interpreter", &summary.tags, style));
    }
    text
}

/// Names by verdicts, with the verdicts that occur as columns.
pub(crate) fn grid<'t>(head: &str, names: impl IntoIterator<Item = (&'t String, &'t BTreeMap<Verdict, u64>)>, style: Style) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let occurs = |verdict: &Verdict| names.iter().any(|(_, verdicts)| verdicts.contains_key(verdict));
    let columns: Vec<Verdict> = Verdict::ALL.into_iter().filter(occurs).collect();
    let mut rows =
        vec![std::iter::once(head.to_owned()).chain(columns.iter().map(|v| v.word().to_owned())).chain(["all".to_owned()]).collect()];
    for (name, verdicts) in names {
        let name = if name.is_empty() { "(none)".to_owned() } else { super::text::name(name.as_bytes()) };
        let counts = columns.iter().map(|verdict| verdicts.get(verdict).map_or("-".to_owned(), ToString::to_string));
        rows.push(std::iter::once(name).chain(counts).chain([verdicts.values().sum::<u64>().to_string()]).collect::<Vec<String>>());
    }
    let widths: Vec<usize> = (0..columns.len() + 2).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(&if number == 0 { style.strong(&line) } else { line });
        text.push('\n');
    }
    text
}

/// How many entries have a verdict that is a problem.
fn problems(summary: &Summary) -> u64 {
    Verdict::ALL.into_iter().filter(|verdict| verdict.is_problem()).map(|verdict| summary.verdict(verdict)).sum()
}

fn glance(summary: &Summary, style: Style) -> String {
    if summary.entries == 0 {
        return format!("{}: no source and no artifact is here\n", style.warn("empty"));
    }
    let bad = problems(summary);
    let missing = summary.verdict(Verdict::Missing);
    let unclear: u64 = [Verdict::Unsafe, Verdict::Unknown].iter().map(|verdict| summary.verdict(*verdict)).sum();
    let all = entries(summary.entries);
    match (bad, missing) {
        (0, 0) if unclear > 0 => format!("{}: {unclear} of {all} cannot be judged and are left alone\n", style.warn("unclear")),
        (0, 0) => format!("{}: {all}, {}, nothing to do\n", style.good("good"), size(summary.bytes)),
        (0, missing) => format!("{}: {missing} of {all} would be compiled at every start\n", style.warn("incomplete")),
        (bad, 0) => format!("{}: {bad} of {all} are no good\n", style.bad("bad")),
        (bad, missing) => format!("{}: {bad} of {all} are no good, {missing} are missing\n", style.bad("bad")),
    }
}

/// The tables of README, by their names: generated, so that they never say anything else than the program.
pub(crate) fn readme_table(name: &str) -> Option<String> {
    let rows: Vec<[String; 3]> = match name {
        "commands" => super::args::definition()
            .get_subcommands()
            .map(|command| {
                [
                    format!("`bytekeep {}`", command.get_name()),
                    command.get_about().map(ToString::to_string).unwrap_or_default(),
                    String::new(),
                ]
            })
            .collect(),
        "verdicts" => Verdict::ALL
            .map(|verdict| {
                [
                    format!("`{verdict}`{}", if verdict.is_problem() { " ✗" } else { "" }),
                    hints::meaning(verdict).to_owned(),
                    hints::cure(verdict).to_owned(),
                ]
            })
            .to_vec(),
        "exit-codes" => super::Exit::ALL.map(|exit| [exit.code().to_string(), exit.meaning().to_owned(), String::new()]).to_vec(),
        _ => return None,
    };
    let head = match name {
        "commands" => "| command | does |\n| --- | --- |\n",
        "verdicts" => "| verdict (✗: `verify` exits with 1) | means | next |\n| --- | --- | --- |\n",
        _ => "| exit code | means |\n| --- | --- |\n",
    };
    let lines = rows.iter().map(|[first, second, third]| match third.as_str() {
        "" => format!("| {first} | {second} |\n"),
        third => format!("| {first} | {second} | {third} |\n"),
    });
    Some(head.to_owned() + &lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::flow::EntryEvent;

    fn summary(rows: &[(&str, Verdict, Action, u64)]) -> Summary {
        let mut summary = Summary { elapsed: Duration::from_millis(520), ..Summary::default() };
        for (tag, verdict, action, number) in rows {
            let (verdict, action) = (*verdict, *action);
            let wrong = matches!(action, Action::Failed | Action::Skipped);
            let artifact = Path::new("a");
            let event = EntryEvent {
                artifact,
                source: None,
                tag: Some(tag),
                level: None,
                verdict,
                action,
                cause: None,
                warnings: &[],
                wrong,
                bytes: 10,
                stored: false,
            };
            (0..*number).for_each(|_| summary.count(&event));
        }
        summary
    }

    #[test]
    fn one_line_says_what_was_done() {
        let plain = Style(false);
        let compiled = summary(&[
            ("t", Verdict::Missing, Action::Built, 5),
            ("t", Verdict::Ok, Action::None, 12),
            ("t", Verdict::Stale, Action::Failed, 3),
        ]);
        assert_eq!(line(Command::Compile, false, &compiled, plain), "Compiled 5 entries in 520ms (12 up to date, 3 failed)\n");
        assert_eq!(line(Command::Compile, true, &compiled, plain), "Would compile 5 entries in 520ms (12 up to date, 3 failed)\n");
        let interrupted = line(Command::Compile, false, &Summary { stopped: true, ..compiled.clone() }, plain);
        assert!(interrupted.starts_with("Interrupted, and what was written is whole. Compiled 5"), "{interrupted}");
        let out_of_time = line(Command::Compile, false, &Summary { out_of_time: true, ..compiled }, plain);
        assert!(out_of_time.starts_with("Stopped by --max-time, and what was written is whole. Compiled 5"), "{out_of_time}");
        let verified = summary(&[("t", Verdict::Ok, Action::None, 1), ("t", Verdict::Corrupt, Action::None, 2)]);
        assert_eq!(line(Command::Verify, false, &verified, plain), "Verified 3 entries in 520ms (1 ok, 2 corrupt)\n");
        let removed = summary(&[("t", Verdict::Ok, Action::Removed, 1), ("t", Verdict::Leftover, Action::Swept, 2)]);
        assert_eq!(line(Command::Clean, false, &removed, plain), "Removed 1 entry in 520ms (2 left-overs swept)\n");
        assert_eq!(line(Command::Seal, false, &Summary::default(), plain), "Sealed 0 entries in 0ms\n");
        let restamped = summary(&[("t", Verdict::Misstamped, Action::Restamped, 3), ("t", Verdict::Ok, Action::None, 1)]);
        assert_eq!(line(Command::Compile, false, &restamped, plain), "Restamped 3 entries in 520ms (1 up to date)\n");
        let both = summary(&[("t", Verdict::Misstamped, Action::Restamped, 3), ("t", Verdict::Stale, Action::Built, 1)]);
        assert_eq!(line(Command::Compile, false, &both, plain), "Compiled 1 entry in 520ms (3 restamped)\n");
    }

    #[test]
    fn a_table_at_a_glance() {
        let mixed = summary(&[
            ("cpython-312", Verdict::Ok, Action::None, 3),
            ("cpython-313", Verdict::Stale, Action::None, 1),
            ("", Verdict::Orphan, Action::None, 1),
        ]);
        let expected = "bad: 1 of 5 entries are no good\n\
                        interpreter  ok  stale  orphan  all\n\
                        (none)        -      -       1    1\n\
                        cpython-312   3      -       -    3\n\
                        cpython-313   -      1       -    1\n";
        assert_eq!(table(&mixed, Style(false)), expected);
        assert_eq!(next(Command::Status, &mixed).unwrap(), "`bytekeep compile PATH` brings it up to date");
        assert!(table(&Summary::default(), Style(false)).starts_with("empty: "));
        let good = summary(&[("t", Verdict::Ok, Action::None, 1)]);
        assert!(table(&good, Style(false)).starts_with("good: 1 entry, 10 bytes"));
        assert_eq!(next(Command::Status, &good), None);
        let unclear = summary(&[("t", Verdict::Ok, Action::None, 2), ("t", Verdict::Unsafe, Action::None, 1)]);
        assert!(table(&unclear, Style(false)).starts_with("unclear: 1 of 3 entries cannot be judged and are left alone\n"));
    }

    #[test]
    fn the_tables_of_the_readme() {
        for name in ["commands", "verdicts", "exit-codes"] {
            assert!(readme_table(name).unwrap().lines().count() > 5, "{name}");
        }
        assert_eq!(readme_table("other"), None);
    }
}
