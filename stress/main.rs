//! Programs that run long, want root, or measure. See `stress/README.md`.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::doc_markdown,
    missing_docs,
    reason = "a program for people at a terminal; what it writes and removes is its own scratch"
)]

mod bench;
mod compare;
mod corpus;
mod crashstates;
mod faults;
mod hostile;
mod kill;
mod mount;
mod powercut;
mod replay;
mod rows;
mod run;
mod selftest;
mod standin;
mod states;
mod storm;
mod strace_log;
mod whole;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{Parser, ValueEnum};

use run::{Random, Tally};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    /// What there is, and what of it would run here.
    List,
    /// The benchmark: a table of contenders, ratios and targets.
    Compare,
    /// A kill at every system call that touches files.
    Kill,
    /// An error at every system call that touches files.
    Faults,
    /// Power cuts at every moment of a recorded run, in memory.
    Crashstates,
    /// Power cuts for real: copies of a loop device's image, taken at one point in time.
    Powercut,
    /// Many processes over one tree, with edits, damage and kills.
    Storm,
    /// Root over trees of another user who changes them meanwhile.
    Hostile,
    /// The product with one safeguard after the other left out: each must be missed. Needs `--features fault`.
    Selftest,
    /// Short runs of `kill`, `faults`, `crashstates`, `hostile` and `storm`.
    All,
}

/// Programs that run long, want root, or measure.
#[derive(Debug, Clone, Parser)]
#[command(name = "stress")]
struct Args {
    program: Program,
    /// How long the program may go on
    #[arg(long)]
    seconds: Option<u64>,
    /// What its random choices follow from
    #[arg(long)]
    seed: Option<u64>,
    /// The command under test
    #[arg(long, default_value = env!("CARGO_BIN_EXE_bytekeep"))]
    bin: PathBuf,
    /// The interpreter [default: the newest CPython found]
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where trees and images are made, and removed at the end
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    scratch: PathBuf,
    /// all, hostile: a part, as `.ci/run` calls it
    #[arg(long)]
    quick: bool,
    /// compare: where the packages are kept
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/corpus"))]
    corpus: PathBuf,
    /// compare: measured runs of each contender
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// compare: these rows alone
    #[arg(long, value_enum)]
    only: Vec<compare::Row>,
    /// compare: files of the largest generated tree
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// kill, faults, crashstates, powercut, hostile: one case, as a violation names it
    #[arg(long)]
    case: Option<String>,
    /// crashstates: files of the tree
    #[arg(long, default_value_t = 60)]
    sources: usize,
    /// storm: how many run at once
    #[arg(long, default_value_t = 8)]
    processes: usize,
}

fn main() -> Result<ExitCode> {
    if let Some(done) = standin::asked().or_else(hostile::asked) {
        return done.map(|()| ExitCode::SUCCESS);
    }
    let mut args = Args::parse();
    args.bin = std::path::absolute(&args.bin)?;
    args.scratch = std::path::absolute(&args.scratch)?;
    args.corpus = std::path::absolute(&args.corpus)?;
    run::prepare()?;
    if args.program == Program::List {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let seed = args.seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| u64::from(t.subsec_nanos())));
    println!("seed {seed}");
    let tally = Tally::new(how(&args));
    let python = run::Python::find(args.python.as_deref())?;
    println!("interpreter {} ({})", python.path.display(), python.version);
    println!("under test {}", args.bin.display());
    std::fs::create_dir_all(&args.scratch)?;
    mount::sweep(&args.scratch)?;
    run::sweep(&args.scratch)?;
    let setting = run::Setting { bin: args.bin.clone(), python, scratch: args.scratch.clone(), seed };
    let done = perform(&args, &setting, &tally);
    if run::interrupted() {
        println!("interrupted");
        tally.close();
        return Ok(ExitCode::from(130));
    }
    done?;
    Ok(if tally.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn perform(args: &Args, setting: &run::Setting, tally: &Tally) -> Result<()> {
    let random = &mut Random::new(setting.seed);
    match args.program {
        Program::List => Ok(()),
        Program::Compare => {
            let plan = compare::Plan { corpus: args.corpus.clone(), runs: args.runs.max(1), only: args.only.clone(), files: args.files };
            compare::run(setting, &plan, tally)
        }
        Program::Kill => kill::run(setting, args.seconds, args.case.as_deref(), random, tally),
        Program::Faults => faults::run(setting, args.seconds, args.case.as_deref(), random, tally),
        Program::Crashstates => {
            let plan = crashstates::Plan { sources: args.sources, seconds: args.seconds, case: args.case.clone() };
            crashstates::run(setting, &plan, random, tally)
        }
        Program::Powercut => powercut::run(setting, args.seconds, args.case.as_deref(), random, tally),
        Program::Storm => storm::run(setting, args.seconds.unwrap_or(60), args.processes.max(1), tally),
        Program::Hostile => {
            let plan = hostile::Plan { seconds: args.seconds.unwrap_or(60), case: args.case.clone(), quick: args.quick };
            hostile::run(setting, &plan, random, tally)
        }
        Program::Selftest => selftest::run(setting, tally),
        Program::All => {
            let (kills, storm) = if args.quick { (20, 15) } else { (300, args.seconds.unwrap_or(120)) };
            kill::run(setting, Some(kills), None, random, tally)?;
            faults::run(setting, Some(kills), None, random, tally)?;
            let plan = crashstates::Plan { sources: if args.quick { 16 } else { args.sources }, seconds: None, case: None };
            crashstates::run(setting, &plan, random, tally)?;
            let plan = hostile::Plan { seconds: if args.quick { 4 } else { 60 }, case: None, quick: args.quick };
            hostile::run(setting, &plan, random, tally)?;
            storm::run(setting, storm, args.processes.clamp(1, if args.quick { 4 } else { 64 }), tally)
        }
    }
}

/// What of the command line a violation's own command must repeat.
fn how(args: &Args) -> String {
    let bin = (args.bin != Path::new(env!("CARGO_BIN_EXE_bytekeep"))).then(|| format!(" --bin {}", args.bin.display()));
    let python = args.python.as_ref().map(|python| format!(" --python {}", python.display()));
    [bin, python].into_iter().flatten().collect()
}

fn list() {
    let say = |name: &str, does: &str, here: Result<(), String>| match here {
        Ok(()) => println!("{name:11} runs  {does}"),
        Err(why) => println!("SKIP {name}: {why}  ({does})"),
    };
    let linux = || if cfg!(target_os = "linux") { Ok(()) } else { Err("it reads /proc".to_owned()) };
    say("compare", "the benchmark, from packages of the index", linux());
    if !mount::possible() {
        println!("SKIP compare's fresh file systems: not root, or no mkfs.ext4; new directory names are used instead");
    }
    say("kill", "SIGKILL at every system call that touches files", linux().and_then(|()| strace_log::possible()));
    say("faults", "an error at every system call that touches files", linux().and_then(|()| strace_log::possible()));
    say("crashstates", "power cuts at every moment of a recorded run, in memory", linux().and_then(|()| strace_log::possible()));
    say("powercut", "power cuts on ext4, xfs and btrfs", powercut::possible());
    for (name, why) in powercut::missing() {
        println!("SKIP powercut on {name}: {why}");
    }
    say("storm", "many processes over one tree", linux());
    say("hostile", "root over trees of another user who changes them meanwhile", hostile::possible());
    say("selftest", "safeguards left out, which must be missed", linux().and_then(|()| selftest::possible()));
}
