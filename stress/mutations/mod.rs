//! Damaged artifacts without a seal: what the interpreter refuses the walk must find at its deeper level, and of what the interpreter takes in
//! silence it is told how much each level finds.
//!
//! The judge is the interpreter itself, in a child with bounded memory: some damage makes `marshal.loads` kill its process.

mod damage;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytekeep::model::Format;
use bytekeep::python::Pyc;
use bytekeep::python::interpreter::Interpreter;
use bytekeep::python::memo::Probes;

use crate::run::{Random, Setting, Tally, interpreters, interrupted};
use damage::{Damage, Mutant};

const JUDGE: &str = include_str!("judge.py");
/// Sources of the standard library of each interpreter, of these sizes.
const SOURCES: usize = 60;
const SIZES: std::ops::Range<u64> = 4 << 10..80 << 10;
/// So many are made of each interpreter's artifacts where nobody asks for fewer.
pub(crate) const INPUTS: u64 = 100_000;
/// So many are sent before answers are read.
const BATCH: usize = 64;

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, inputs: u64, only: Option<&str>, tally: &Tally) -> Result<()> {
    let probes = Probes::open(None);
    let mut pythons = BTreeMap::new();
    for python in interpreters().iter().filter_map(|path| Interpreter::find(path, true, &probes).ok()) {
        pythons.entry(python.target.tag.to_string()).or_insert(python);
    }
    let (tag, kind) =
        only.map_or((None, None), |only| only.split_once(':').map_or((Some(only), None), |(tag, kind)| (Some(tag), Some(kind))));
    match tag {
        // The one that is tested with.
        Some("") => pythons.retain(|_, python| python.executable.canonicalize().ok() == setting.python.path.canonicalize().ok()),
        Some(tag) => pythons.retain(|known, _| known == tag),
        None => {}
    }
    if pythons.is_empty() {
        bail!("no interpreter is called {}; a case is TAG or TAG:DAMAGE", only.unwrap_or(""));
    }
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (queue, table) = (Mutex::new(pythons.into_values().collect::<Vec<_>>()), Mutex::new(Table::default()));
    let work = || -> Result<()> {
        loop {
            let (python, left) = {
                let mut queue = queue.lock().unwrap();
                (queue.pop(), queue.len())
            };
            let Some(python) = python else { return Ok(()) };
            // Two at a time share what time is left.
            let share = u32::try_from(left).unwrap_or(0) / 2 + 1;
            let until = deadline.map(|deadline| Instant::now() + deadline.saturating_duration_since(Instant::now()) / share);
            let mine = one(setting, &python, &Plan { inputs, until, kind }, tally).with_context(|| python.target.tag.to_string())?;
            println!("mutations: {}: {}", python.target.tag, mine.line());
            table.lock().unwrap().add(&mine);
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        work().and(other.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    table.into_inner().unwrap().print();
    Ok(())
}

struct Plan<'a> {
    inputs: u64,
    until: Option<Instant>,
    kind: Option<&'a str>,
}

/// What became of the mutants of one kind of damage.
#[derive(Debug, Default, Clone, Copy)]
struct Row {
    all: u64,
    /// The interpreter refuses it, or dies over it.
    refused: u64,
    died: u64,
    /// It takes it, and no field differs.
    same: u64,
    /// It takes it, and runs something else; found by the structure, and by the deeper look.
    silent: u64,
    structure: u64,
    deep: u64,
}

#[derive(Debug, Default)]
struct Table(BTreeMap<Damage, Row>);

impl Table {
    fn add(&mut self, other: &Self) {
        for (damage, more) in &other.0 {
            let row = self.0.entry(*damage).or_default();
            row.all += more.all;
            row.refused += more.refused;
            row.died += more.died;
            row.same += more.same;
            row.silent += more.silent;
            row.structure += more.structure;
            row.deep += more.deep;
        }
    }

    fn line(&self) -> String {
        let sum = |of: fn(&Row) -> u64| self.0.values().map(of).sum::<u64>();
        let (silent, deep) = (sum(|row| row.silent), sum(|row| row.deep));
        format!("{} damaged, {} refused, {silent} taken in silence, of these {deep} found", sum(|row| row.all), sum(|row| row.refused))
    }

    fn print(&self) {
        println!(
            "| damage | number | refused by the interpreter | it dies | taken, nothing differs | taken in silence | found by structure | and deep |"
        );
        println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
        #[allow(clippy::cast_precision_loss, reason = "a share of a count")]
        let share = |part: u64, all: u64| if all == 0 { "-".to_owned() } else { format!("{:.0} %", 100.0 * part as f64 / all as f64) };
        for (damage, row) in &self.0 {
            let Row { all, refused, died, same, silent, structure, deep } = *row;
            println!(
                "| {} | {all} | {refused} | {died} | {same} | {silent} | {} | {} |",
                damage.says(),
                share(structure, silent),
                share(deep, silent)
            );
        }
    }
}

/// All mutants of one interpreter's artifacts.
fn one(setting: &Setting, python: &Interpreter, plan: &Plan<'_>, tally: &Tally) -> Result<Table> {
    let tag = &*python.target.tag;
    let sources = sources(&python.stdlib);
    let (mut judge, bodies) = Judge::start(python, &sources)?;
    let header = [&python.target.magic[..], &[0; 12]].concat();
    let len = Pyc.head(&header, None, Some(&python.target)).map_err(|flaw| anyhow::anyhow!("{flaw}"))?.len;
    let artifacts: Vec<Vec<u8>> = bodies.into_iter().filter(|body| !body.is_empty()).map(|body| [&header[..len], &body].concat()).collect();
    if artifacts.len() != sources.len() {
        bail!("{} of {} sources do not compile", sources.len() - artifacts.len(), sources.len());
    }
    for (artifact, source) in artifacts.iter().zip(&sources) {
        tally.checked(1);
        if let Err(text) = look(python, artifact, true) {
            let what = format!("{tag}: the artifact of {} is refused: {text}", source.display());
            tally.violation(&what, &format!("mutations --case {tag} --seed {}", setting.seed));
        }
    }
    let mut naive = 0;
    let damages: Vec<Damage> = Damage::ALL.iter().copied().filter(|damage| plan.kind.is_none_or(|kind| kind == damage.word())).collect();
    if damages.is_empty() {
        bail!("no damage is called {}", plan.kind.unwrap_or(""));
    }
    let mut random = Random::new(setting.seed);
    let mut table = Table::default();
    let mut done = 0;
    while done < plan.inputs && !interrupted() && plan.until.is_none_or(|until| Instant::now() < until) {
        let batch: Vec<Mutant> = (0..BATCH).map(|at| Mutant::make(damages[at % damages.len()], &artifacts, len, &mut random)).collect();
        done += batch.len() as u64;
        let answers = judge.judge(&batch, len)?;
        for (mutant, answer) in batch.iter().zip(answers) {
            tally.checked(1);
            let row = table.0.entry(mutant.damage).or_default();
            row.all += 1;
            let structure = look(python, &mutant.bytes, false);
            let deep = look(python, &mutant.bytes, true);
            // What stands before the body is not given to `marshal.loads`.
            let refused = matches!(answer, Answer::Refused | Answer::Died) || mutant.damage == Damage::Magic;
            row.refused += u64::from(refused);
            row.died += u64::from(matches!(answer, Answer::Died | Answer::DiedLater));
            naive += u64::from(refused && naive_look(&mutant.bytes, len));
            if refused && deep.is_ok() {
                let what =
                    format!("{tag}: {} of {} is not found, and the interpreter refuses it", mutant, sources[mutant.artifact].display());
                tally.violation(&what, &format!("mutations --case {tag}:{} --seed {}", mutant.damage.word(), setting.seed));
            } else if structure.is_err() && deep.is_ok() {
                let what = format!("{tag}: {mutant}: the deeper look does not see what the structure shows");
                tally.violation(&what, &format!("mutations --case {tag}:{} --seed {}", mutant.damage.word(), setting.seed));
            }
            if refused {
                continue;
            }
            if matches!(answer, Answer::Same) {
                row.same += 1;
            } else {
                row.silent += 1;
                row.structure += u64::from(structure.is_err());
                row.deep += u64::from(deep.is_err());
            }
        }
    }
    if naive == 0 && done > 0 && plan.kind.is_none() {
        let what =
            format!("{tag}: who looks at the header and the first byte alone finds all that the interpreter refuses: that shows nothing");
        tally.violation(&what, &format!("mutations --case {tag} --seed {}", setting.seed));
    }
    Ok(table)
}

/// Who believes a header and a type code, as `compileall` does the header: it must let damage pass.
fn naive_look(artifact: &[u8], header: usize) -> bool {
    artifact.get(header).is_some_and(|code| code & 0x7F == b'c')
}

/// As `verify` looks at an artifact without a seal.
fn look(python: &Interpreter, artifact: &[u8], deep: bool) -> Result<(), String> {
    let head = Pyc.head(&artifact[..artifact.len().min(16)], Some(&python.target.tag), None).map_err(|flaw| flaw.to_string())?;
    let looked = if deep { Pyc.deep_body(&head, artifact) } else { Pyc.body(&head, artifact) };
    looked.map_err(|flaw| format!("{flaw} at {:?}", flaw.offset))
}

/// Modules of the standard library, spread over all of it.
fn sources(stdlib: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in walkdir::WalkDir::new(stdlib).sort_by_file_name() {
        let Ok(entry) = entry else { continue };
        let path = entry.path();
        let is_source = path.extension().is_some_and(|ext| ext == "py") && entry.metadata().is_ok_and(|meta| SIZES.contains(&meta.len()));
        let is_odd = path.components().any(|part| {
            // bad on purpose, or somebody else's
            ["test", "tests", "lib2to3", "site-packages", "idlelib"].iter().any(|odd| part.as_os_str() == *odd)
        });
        if is_source && !is_odd {
            all.push(path.to_owned());
        }
    }
    let step = all.len().div_ceil(SOURCES).max(1);
    all.into_iter().step_by(step).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Refused,
    Died,
    /// When its fields were asked for.
    DiedLater,
    Same,
    Different,
}

/// The interpreter that judges, and what starts it again.
struct Judge<'a> {
    python: &'a Interpreter,
    sources: &'a [PathBuf],
    child: Child,
    /// Has it judged nothing yet?
    is_fresh: bool,
}

impl Drop for Judge<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl<'a> Judge<'a> {
    fn start(python: &'a Interpreter, sources: &'a [PathBuf]) -> Result<(Self, Vec<Vec<u8>>)> {
        let mut command = Command::new(&python.executable);
        command.args(["-S", "-s", "-B", "-c", JUDGE]).env("PYTHONHASHSEED", "0").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut judge = Self { python, sources, child: command.stderr(Stdio::null()).spawn()?, is_fresh: true };
        let mut bodies = Vec::new();
        for source in sources {
            judge.send(&[source.as_os_str().as_encoded_bytes()])?;
            let (out, mut len) = (judge.child.stdout.as_mut().context("no answers")?, [0; 4]);
            out.read_exact(&mut len)?;
            let mut body = vec![0; u32::from_le_bytes(len) as usize];
            out.read_exact(&mut body)?;
            bodies.push(body);
        }
        judge.send(&[])?;
        Ok((judge, bodies))
    }

    fn send(&mut self, parts: &[&[u8]]) -> std::io::Result<()> {
        let input = self.child.stdin.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let len = u32::try_from(parts.iter().map(|part| part.len()).sum::<usize>()).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
        input.write_all(&[&len.to_le_bytes()[..], &parts.concat()].concat())
    }

    fn judge(&mut self, batch: &[Mutant], header: usize) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        while answers.len() < batch.len() {
            let before = answers.len();
            let rest = &batch[answers.len()..];
            for mutant in rest {
                let number = u32::try_from(mutant.artifact)?.to_le_bytes();
                // A cut may have taken a part of the header.
                let body = mutant.bytes.get(header..).unwrap_or_default();
                // Where it died its answers say so.
                if self.send(&[&number, body]).is_err() {
                    break;
                }
            }
            let out = self.child.stdout.as_mut().context("no answers")?;
            let mut died = None;
            for _ in rest {
                let mut two = [0; 2];
                if out.read_exact(&mut two[..1]).and_then(|()| out.read_exact(&mut two[1..])).is_err() {
                    died = Some(if two[0] == b'l' { Answer::DiedLater } else { Answer::Died });
                    break;
                }
                answers.push(match &two {
                    b"r " => Answer::Refused,
                    b"ls" => Answer::Same,
                    b"ld" => Answer::Different,
                    other => bail!("the judge says {other:?}"),
                });
            }
            if let Some(answer) = died {
                // Of an earlier one that it took it may die later. What it dies over as the first one is that one's doing.
                if self.is_fresh && answers.len() == before {
                    answers.push(answer);
                }
                *self = Self::start(self.python, self.sources)?.0;
            } else {
                self.is_fresh = false;
            }
        }
        Ok(answers)
    }
}
