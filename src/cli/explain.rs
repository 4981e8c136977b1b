//! `explain`: answers gathered to a verdict, a table of causes and the next steps, for people; one object an answer for programs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::json::{self, About, CauseLine, Ended, Start};
use super::out::{Out, Style};
use super::text;
use crate::base::user::User;
use crate::flow::{AnswerEvent, Outcome, Summary};
use crate::model::Cause;

/// What was asked: it is told again, and the next steps are about it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The interpreter's tag.
    pub(crate) tag: String,
    /// The interpreter as it is named in a command.
    pub(crate) python: PathBuf,
    /// The optimisation level.
    pub(crate) level: u8,
    /// Who runs it.
    pub(crate) user: User,
    /// Where, as it was named.
    pub(crate) paths: Vec<PathBuf>,
    /// The pycache prefix that is in force.
    pub(crate) prefix: Option<PathBuf>,
}

/// Answers with the same end for the same reasons.
struct Row {
    modules: u64,
    /// The first of them by its path, so that the table does not depend on who was faster.
    example: PathBuf,
    cause: Option<Cause>,
    obstacle: Option<Cause>,
}

type Key = (Outcome, &'static str, &'static str);

/// Gathers answers.
pub(crate) struct Answers<'a> {
    out: &'a Out,
    asked: Asked,
    as_json: bool,
    verbose: bool,
    cwd: Option<PathBuf>,
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    rows: BTreeMap<Key, Row>,
    /// Where only the header is in the way of an artifact whose seal proves its source.
    header_only: u64,
}

#[derive(Serialize)]
struct AnswerLine<'a> {
    #[serde(flatten)]
    about: About<'a>,
    outcome: &'static str,
    cause: Option<CauseLine<'a>>,
    obstacle: Option<CauseLine<'a>>,
    header_only: bool,
    wrong: bool,
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    #[serde(flatten)]
    head: Start,
    command: &'static str,
    interpreter: &'a str,
    optimize: u8,
    user: UserLine<'a>,
    #[serde(flatten)]
    ended: Ended,
    outcomes: BTreeMap<&'static str, u64>,
    causes: BTreeMap<&'static str, u64>,
    obstacles: BTreeMap<&'static str, u64>,
    header_only: u64,
}

#[derive(Serialize)]
struct UserLine<'a> {
    name: Option<&'a str>,
    uid: u32,
    gids: &'a [u32],
}

fn code(cause: Option<&Cause>) -> &'static str {
    cause.map_or("", |cause| cause.code)
}

impl<'a> Answers<'a> {
    /// For people, with each module where `verbose`; or for programs.
    pub(crate) fn new(out: &'a Out, asked: Asked, as_json: bool, verbose: bool, cwd: Option<PathBuf>) -> Self {
        Self { out, asked, as_json, verbose, cwd, gathered: Mutex::default() }
    }

    /// One more.
    pub(crate) fn take(&self, event: &AnswerEvent<'_>) {
        let answer = event.answer;
        if self.as_json {
            self.write_line(event);
        } else if self.verbose {
            self.out.data(&self.line(event));
        }
        let path = event.source.unwrap_or(event.artifact);
        let key = (answer.outcome, code(answer.cause.as_ref()), code(answer.obstacle.as_ref()));
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.header_only += u64::from(answer.header_only);
        let row = gathered.rows.entry(key).or_insert_with(|| Row {
            modules: 0,
            example: path.to_path_buf(),
            cause: answer.cause.clone(),
            obstacle: answer.obstacle.clone(),
        });
        row.modules += 1;
        if path < row.example.as_path() {
            row.example = path.to_path_buf();
            (row.cause, row.obstacle) = (answer.cause.clone(), answer.obstacle.clone());
        }
    }

    fn write_line(&self, event: &AnswerEvent<'_>) {
        let answer = event.answer;
        let line = AnswerLine {
            about: About::new("answer", event.artifact, event.source, event.tag, event.level),
            outcome: answer.outcome.word(),
            cause: answer.cause.as_ref().map(CauseLine::from),
            obstacle: answer.obstacle.as_ref().map(CauseLine::from),
            header_only: answer.header_only,
            wrong: event.wrong,
        };
        json::write(self.out, &line);
    }

    fn line(&self, event: &AnswerEvent<'_>) -> String {
        let answer = event.answer;
        let path = text::path(event.source.unwrap_or(event.artifact), self.cwd.as_deref());
        let why: Vec<String> = [&answer.cause, &answer.obstacle].into_iter().flatten().map(|cause| text::message(&cause.text)).collect();
        let why = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
        format!("{} {path}{why}\n", paint(answer.outcome, answer.outcome.word(), self.out.data_style))
    }

    /// The end, of a run that came to this.
    pub(crate) fn conclude(&self, summary: &Summary, quiet: bool) {
        let gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if self.as_json {
            return self.write_summary(&gathered, summary);
        }
        let style = self.out.data_style;
        let mut told = format!("{}\n", self.verdict(&gathered.rows, summary, style));
        if !quiet {
            told.push_str(&self.table(&gathered.rows, style));
            let next = next_steps(&self.asked, &gathered);
            told.extend(next.iter().map(|step| format!("{}: {}\n", style.hint("next"), text::message(step))));
        }
        self.out.data(&told);
    }

    fn write_summary(&self, gathered: &Gathered, summary: &Summary) {
        let mut line = SummaryLine {
            head: Start::of("summary"),
            command: "explain",
            interpreter: &self.asked.tag,
            optimize: self.asked.level,
            user: UserLine { name: self.asked.user.name.as_deref(), uid: self.asked.user.uid, gids: &self.asked.user.gids },
            ended: summary.into(),
            outcomes: BTreeMap::new(),
            causes: BTreeMap::new(),
            obstacles: BTreeMap::new(),
            header_only: gathered.header_only,
        };
        for ((outcome, cause, obstacle), row) in &gathered.rows {
            *line.outcomes.entry(outcome.word()).or_default() += row.modules;
            for (map, code) in [(&mut line.causes, *cause), (&mut line.obstacles, *obstacle)] {
                if !code.is_empty() {
                    *map.entry(code).or_default() += row.modules;
                }
            }
        }
        json::write(self.out, &line);
    }

    /// One sentence, the most costly first.
    fn verdict(&self, rows: &BTreeMap<Key, Row>, summary: &Summary, style: Style) -> String {
        let count = |outcome| rows.iter().filter(|((of, ..), _)| *of == outcome).map(|(_, row)| row.modules).sum::<u64>();
        let all: u64 = rows.values().map(|row| row.modules).sum();
        let who = format!("{} as {}", self.asked.tag, shown_user(&self.asked.user));
        let not_all = match (summary.stopped, summary.out_of_time) {
            (true, _) => " (interrupted: there are more)",
            (false, true) => " (stopped by --max-time: there are more)",
            (false, false) => "",
        };
        if all == 0 {
            return format!("{}: no source and no module is here{not_all}", style.warn("empty"));
        }
        let all_told = format!("{} {}", thousands(all), if all == 1 { "module" } else { "modules" });
        let mut parts: Vec<(Outcome, u64, &str)> = Vec::new();
        for (outcome, one, many) in [
            (Outcome::EveryStart, "is compiled anew at every start", "are compiled anew at every start"),
            (Outcome::Fails, "cannot be imported", "cannot be imported"),
            (Outcome::OtherCode, "runs other code than its source says", "run other code than their sources say"),
            (Outcome::Once, "is compiled once more and cached then", "are compiled once more and cached then"),
            (Outcome::Unclear, "is unclear", "are unclear"),
        ] {
            let number = count(outcome);
            if number > 0 {
                parts.push((outcome, number, if number == 1 { one } else { many }));
            }
        }
        let Some((worst, number, what)) = parts.first().copied() else {
            let verdict = if all == 1 { "the only module comes".to_owned() } else { format!("all {all_told} come") };
            return format!("{} from the cache for {who}{not_all}", style.good(&verdict));
        };
        let head = paint(worst, &format!("{} of {all_told}", thousands(number)), style);
        let rest: Vec<String> = parts.iter().skip(1).map(|(_, number, what)| format!("; {} {what}", thousands(*number))).collect();
        format!("{head} {what} by {who}{}{not_all}", rest.concat())
    }

    /// What happens to how many modules, why, and one of them.
    fn table(&self, rows: &BTreeMap<Key, Row>, style: Style) -> String {
        let mut sorted: Vec<(&Key, &Row)> = rows.iter().filter(|(key, _)| **key != (Outcome::Cached, "", "")).collect();
        if sorted.is_empty() {
            return String::new();
        }
        sorted.sort_by_key(|((outcome, ..), row)| (rank(*outcome), std::cmp::Reverse(row.modules)));
        let width = sorted.iter().map(|(_, row)| thousands(row.modules).len()).max().unwrap_or(0).max("modules".len());
        let mut text = format!("{}\n", style.strong(&format!("{:>width$}  {:<11}  why", "modules", "outcome")));
        let indent = " ".repeat(width + 2 + 11 + 2);
        for ((outcome, ..), row) in sorted {
            let why = row.cause.as_ref().map(|cause| text::message(&cause.text)).unwrap_or_default();
            let word = paint(*outcome, &format!("{:<11}", outcome.word()), style);
            text.extend([format!("{:>width$}  {word}  {why}\n", thousands(row.modules))]);
            if let Some(obstacle) = &row.obstacle {
                text.extend([format!("{indent}and nothing is kept: {}\n", text::message(&obstacle.text))]);
            }
            text.extend([format!("{indent}such as {}\n", text::path(&row.example, self.cwd.as_deref()))]);
        }
        text
    }
}

/// The most costly first.
fn rank(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::EveryStart => 0,
        Outcome::Fails => 1,
        Outcome::OtherCode => 2,
        Outcome::Once => 3,
        Outcome::Unclear => 4,
        Outcome::Cached => 5,
    }
}

fn paint(outcome: Outcome, text: &str, style: Style) -> String {
    match outcome {
        Outcome::Cached => style.good(text),
        Outcome::Once | Outcome::Unclear => style.warn(text),
        Outcome::EveryStart | Outcome::Fails | Outcome::OtherCode => style.bad(text),
    }
}

fn shown_user(user: &User) -> String {
    match &user.name {
        Some(name) => format!("user {}", text::name(name.as_bytes())),
        None => format!("user {}", user.uid),
    }
}

/// `1,204`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A word of a command, as a shell takes it.
fn word(text: &OsStr) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:,@%=".contains(byte);
    let shown = text::name(text.as_bytes());
    if !text.is_empty() && text.as_bytes().iter().all(plain) { shown } else { format!("'{}'", shown.replace('\'', "'\\''")) }
}

/// What to do, the best step first.
fn next_steps(asked: &Asked, gathered: &Gathered) -> Vec<String> {
    let has = |wanted: &dyn Fn(&Key) -> bool| gathered.rows.keys().any(wanted);
    let command = |name: &str, options: &str| {
        let paths: Vec<String> = asked.paths.iter().map(|path| word(path.as_os_str())).collect();
        let level = if asked.level == 0 { String::new() } else { format!(" --optimize {}", asked.level) };
        let prefix = asked.prefix.as_ref().map(|dir| format!(" --pycache-prefix {}", word(dir.as_os_str()))).unwrap_or_default();
        let python = word(asked.python.as_os_str());
        format!("`bytekeep {name} --python {python}{level}{prefix}{options} {}`", paths.join(" "))
    };
    let compiled = |outcome: Outcome| matches!(outcome, Outcome::Once | Outcome::EveryStart);
    // Compiling ends no trouble with what nobody can keep, or this user cannot read.
    let mendable = |(outcome, cause, _): &Key| compiled(*outcome) && !matches!(*cause, "time" | "not-a-file" | "unreadable");
    let mut steps = Vec::new();
    if has(&mendable) {
        let walled = has(&|key: &Key| mendable(key) && matches!(key.2, "unwritable" | "sticky"));
        let who = if walled { ", run by whoever can write there," } else { "" };
        let of_them = match gathered.header_only {
            0 => String::new(),
            number => format!(" (of {} the header alone is wrong: their seals prove the code)", thousands(number)),
        };
        steps.push(format!("{}{who} brings these modules into the cache{of_them}", command("compile", "")));
    }
    if has(&|(outcome, cause, _)| compiled(*outcome) && *cause == "stale") && asked.tag != "cpython-27" && asked.tag != "cpython-36" {
        let option = " --invalidation-mode unchecked-hash";
        steps.push(format!(
            "where times change after the installation (image layers, archives, copies): {}, which no time makes stale",
            command("compile", option)
        ));
    }
    if has(&|(.., obstacle)| *obstacle == "read-only") {
        steps.push(
            "the file system is read-only: compile before it becomes so, or set PYTHONPYCACHEPREFIX to a directory that can be written"
                .to_owned(),
        );
    }
    if has(&|(_, cause, _)| *cause == "prefix") {
        steps.push("unset PYTHONPYCACHEPREFIX, and the artifacts beside the sources are used".to_owned());
    }
    if has(&|(_, cause, _)| *cause == "time") {
        steps.push("give the sources another time (`touch`): no header can hold theirs for this interpreter".to_owned());
    }
    let damage = |(outcome, cause, _): &Key| match outcome {
        Outcome::OtherCode => true,
        Outcome::Fails => !matches!(*cause, "hidden" | "source-unreadable" | "blocks" | "unreadable" | "magic" | "header"),
        _ => false,
    };
    if has(&damage) {
        steps.push(format!("{} rebuilds what is damaged or silently stale: the interpreter itself never does", command("repair", "")));
    }
    if has(&|(outcome, cause, _)| *outcome == Outcome::Fails && matches!(*cause, "magic" | "header")) {
        steps.push("modules that exist as bytecode only were made for another interpreter: install them again for this one".to_owned());
    }
    if has(&|(_, cause, _)| matches!(*cause, "hidden" | "source-unreadable" | "unreadable")) {
        steps.push(format!("let {} read the files and directories (`chmod -R a+rX`)", shown_user(&asked.user)));
    }
    if has(&|(_, cause, obstacle)| matches!(*cause, "not-a-file" | "blocks") || *obstacle == "not-a-directory") {
        steps.push("remove what stands in the cache's place, after a look at who put it there".to_owned());
    }
    steps
}

/// Lines with every field, and the words that they may hold, for the test of the manual page.
#[cfg(test)]
pub(crate) fn sample() -> (String, Vec<&'static str>) {
    let (out, stdout, _) = super::out::capture::plain();
    let answers = Answers::new(&out, tests::asked(), true, false, None);
    let cause = Cause::new("stale", "text").at("p");
    let answer = crate::flow::Answer { outcome: Outcome::EveryStart, cause: Some(cause.clone()), obstacle: Some(cause), header_only: true };
    let path = std::path::Path::new(OsStr::from_bytes(b"a\xff.pyc"));
    let event = AnswerEvent { artifact: path, source: Some(path), tag: Some("t"), level: Some(0), answer: &answer, wrong: true };
    answers.take(&event);
    answers.conclude(&Summary::default(), false);
    (stdout.text(), Outcome::ALL.map(Outcome::word).to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::out::capture;
    use super::*;
    use crate::flow::Answer;

    pub(super) fn asked() -> Asked {
        Asked {
            tag: "cpython-312".to_owned(),
            python: "/usr/bin/python3".into(),
            level: 0,
            user: User { name: Some("app".to_owned()), uid: 1000, gids: vec![1000] },
            paths: vec!["my env".into()],
            prefix: None,
        }
    }

    fn told(rows: &[(Outcome, &'static str, &'static str, u64)], asked: Asked, verbose: bool) -> String {
        let (out, stdout, _) = capture::plain();
        let answers = Answers::new(&out, asked, false, verbose, Some("/w".into()));
        let cause = |code: &'static str| (!code.is_empty()).then(|| Cause::new(code, format!("it is {code}")));
        for (outcome, why, obstacle, modules) in rows {
            let answer = Answer { outcome: *outcome, cause: cause(why), obstacle: cause(obstacle), header_only: false };
            for number in (0..*modules).rev() {
                let path = PathBuf::from(format!("/w/{why}{number}.py"));
                let wrong = *outcome != Outcome::Cached;
                answers.take(&AnswerEvent { artifact: &path, source: Some(&path), tag: None, level: None, answer: &answer, wrong });
            }
        }
        answers.conclude(&Summary::default(), false);
        stdout.text()
    }

    #[test]
    fn a_verdict_a_table_and_what_to_do() {
        let rows = [
            (Outcome::Cached, "", "", 1000),
            (Outcome::Once, "missing", "", 1),
            (Outcome::EveryStart, "stale", "unwritable", 234),
            (Outcome::Fails, "header-only", "", 2),
        ];
        let expected = "\
234 of 1,237 modules are compiled anew at every start by cpython-312 as user app; 2 cannot be imported; 1 is compiled once more and cached then
modules  outcome      why
    234  every-start  it is stale
                      and nothing is kept: it is unwritable
                      such as stale0.py
      2  fails        it is header-only
                      such as header-only0.py
      1  once         it is missing
                      such as missing0.py
next: `bytekeep compile --python /usr/bin/python3 'my env'`, run by whoever can write there, brings these modules into the cache
next: where times change after the installation (image layers, archives, copies): \
`bytekeep compile --python /usr/bin/python3 --invalidation-mode unchecked-hash 'my env'`, which no time makes stale
next: `bytekeep repair --python /usr/bin/python3 'my env'` rebuilds what is damaged or silently stale: the interpreter itself never does
";
        assert_eq!(told(&rows, asked(), false), expected);
    }

    #[test]
    fn all_is_well_or_nothing_is_there() {
        let nameless = Asked { user: User { name: None, uid: 7, gids: vec![0] }, ..asked() };
        assert_eq!(told(&[(Outcome::Cached, "", "", 3)], nameless, false), "all 3 modules come from the cache for cpython-312 as user 7\n");
        assert_eq!(
            told(&[(Outcome::Cached, "", "", 1)], asked(), false),
            "the only module comes from the cache for cpython-312 as user app\n"
        );
        assert_eq!(told(&[], asked(), false), "empty: no source and no module is here\n");
        let verbose = told(&[(Outcome::Cached, "", "", 1), (Outcome::Once, "missing", "wall", 1)], asked(), true);
        assert!(verbose.starts_with("cached 0.py\nonce missing0.py: it is missing; it is wall\n"), "{verbose}");
    }

    #[test]
    fn the_next_step_names_what_was_asked() {
        let asked = Asked { level: 2, prefix: Some("/p q".into()), ..asked() };
        let told = told(&[(Outcome::Once, "prefix", "", 1)], asked, false);
        assert!(told.contains("`bytekeep compile --python /usr/bin/python3 --optimize 2 --pycache-prefix '/p q' 'my env'`"), "{told}");
        assert!(told.contains("unset PYTHONPYCACHEPREFIX"), "{told}");
    }

    #[test]
    fn large_numbers_are_grouped() {
        for (number, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), shown);
        }
        assert_eq!(word(OsStr::new("it's")), "'it'\\''s'");
    }
}
