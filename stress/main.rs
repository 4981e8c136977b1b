//! Programs that run long, want root, or measure. See `stress/README.md`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::doc_markdown,
    missing_docs,
    reason = "a program for people at a terminal; what it writes and removes is its own scratch"
)]

mod bench;
mod bitrot;
mod bombs;
mod claims;
mod cleanrace;
mod compare;
mod corpus;
#[path = "../tests/support/crafted.rs"]
mod crafted;
mod crashstates;
mod faults;
mod fuzz;
mod hooks;
mod hostile;
mod kill;
mod locks;
mod mount;
mod mutations;
mod places;
mod powercut;
mod preload;
mod run;
mod selftest;
mod shortio;
mod standin;
mod storm;
mod strace_log;
mod whole;
mod workers;
mod writer;

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
    /// Full, read-only, layered and failing file systems, limits, and what a file system may lack. Root.
    Places,
    /// Reads and writes cut short, by a preloaded library. Needs `--features fault`.
    Shortio,
    /// Every flipped bit and every cut of sealed artifacts.
    Bitrot,
    /// Hostile bytes for every parser.
    Fuzz,
    /// Damaged artifacts without a seal: what the interpreter refuses must be found, and how much of what it takes in silence is.
    Mutations,
    /// Workers that die, hang, print and lie at every byte; real ones over small pipes that are cut short.
    Workers,
    /// The lock of a directory: delays at every call, a stopped holder, another user, and runs that want the same.
    Locks,
    /// Several processes over as many trees with one store: each source is compiled once, and kills keep nobody.
    Claims,
    /// Many processes over one tree, with edits, damage and kills.
    Storm,
    /// Package transactions and their hooks, many at once on one system, with kills.
    Hooks,
    /// Clean and compile against each other, against installers that remove and rename, and against walkers.
    Cleanrace,
    /// Root over trees of another user who changes them meanwhile.
    Hostile,
    /// The product with one safeguard after the other left out: each must be missed. Needs `--features fault`.
    Selftest,
    /// All of them but `compare` and `selftest`; with `--quick` a slice of each.
    All,
}

/// What `all` runs, with the seconds that each may take shortly and at length. None: until all of its cases are done.
const SLICES: &[(Program, Option<u64>, Option<u64>)] = &[
    (Program::Kill, Some(15), None),
    (Program::Faults, Some(15), None),
    (Program::Crashstates, None, None),
    (Program::Powercut, None, None),
    (Program::Places, Some(6), None),
    (Program::Shortio, Some(4), None),
    (Program::Bitrot, Some(2), None),
    (Program::Fuzz, Some(1), None),
    (Program::Mutations, Some(8), None),
    (Program::Workers, Some(10), None),
    (Program::Locks, Some(3), None),
    (Program::Claims, Some(6), None),
    (Program::Storm, Some(12), Some(600)),
    (Program::Hooks, Some(6), Some(300)),
    (Program::Cleanrace, Some(10), Some(300)),
    (Program::Hostile, Some(4), Some(60)),
];

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
    /// One case, as a violation names it
    #[arg(long)]
    case: Option<String>,
    /// all, selftest: a slice of each, as `.ci/run` calls it; hostile: a part
    #[arg(long)]
    quick: bool,
    /// compare: where the packages are kept
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/corpus"))]
    corpus: PathBuf,
    /// compare: where the chart of the row `warm` goes (SVG)
    #[arg(long)]
    chart: Option<PathBuf>,
    /// compare: measured runs of each contender
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// compare: these rows alone
    #[arg(long, value_enum)]
    only: Vec<compare::Row>,
    /// compare: files of the largest generated tree
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// crashstates: files of the tree
    #[arg(long, default_value_t = 60)]
    sources: usize,
    /// fuzz: inputs of each parser
    #[arg(long, default_value_t = 10_000_000)]
    inputs: u64,
    /// storm: how many run at once
    #[arg(long, default_value_t = 16)]
    processes: usize,
}

fn main() -> Result<ExitCode> {
    // This program is also what some of its cases start.
    if let Some(done) = standin::asked()
        .or_else(locks::lockers::asked)
        .or_else(locks::stranger::asked)
        .or_else(fuzz::asked)
        .or_else(compare::walk::asked)
        .or_else(cleanrace::cleaners::asked)
        .or_else(hostile::asked)
    {
        return done.map(|()| ExitCode::SUCCESS);
    }
    if let Some(done) = workers::proxy::asked() {
        return done;
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
    let (seconds, case) = (args.seconds, args.case.as_deref());
    match args.program {
        Program::List => Ok(()),
        Program::Compare => {
            let (corpus, only, chart) = (args.corpus.clone(), args.only.clone(), args.chart.clone());
            let plan = compare::Plan { corpus, runs: args.runs.max(1), only, files: args.files, chart };
            compare::run(setting, &plan, tally)
        }
        Program::Kill => kill::run(setting, seconds, case, random, tally),
        Program::Faults => faults::run(setting, seconds, case, random, tally),
        Program::Crashstates => {
            let plan = crashstates::Plan { sources: args.sources, seconds, case: args.case.clone() };
            crashstates::run(setting, &plan, random, tally)
        }
        Program::Powercut => powercut::run(setting, seconds, case, random, tally),
        Program::Places => places::run(setting, seconds, case, random, tally),
        Program::Shortio => shortio::run(setting, seconds, case, random, tally),
        Program::Bitrot => bitrot::run(setting, seconds, case, random, tally),
        Program::Fuzz => fuzz::run(setting, seconds, args.inputs, case, tally),
        Program::Mutations => mutations::run(setting, seconds, args.inputs.min(mutations::INPUTS), case, tally),
        Program::Workers => workers::run(setting, seconds, case, random, tally),
        Program::Locks => {
            let sections = if seconds.is_some() { 20_000 } else { 100_000 };
            locks::run(setting, &locks::Plan { sections, seconds, case: args.case.clone() }, random, tally)
        }
        Program::Claims => claims::run(setting, seconds, case, random, tally),
        Program::Storm => {
            let plan = storm::Plan { seconds: seconds.unwrap_or(60), processes: args.processes.max(1), case: args.case.clone() };
            storm::run(setting, &plan, tally)
        }
        Program::Hooks => {
            let plan = hooks::Plan { seconds: seconds.unwrap_or(60), processes: args.processes.clamp(1, 8) };
            hooks::run(setting, &plan, tally)
        }
        Program::Cleanrace => cleanrace::run(setting, seconds, case, random, tally),
        Program::Hostile => {
            let plan = hostile::Plan { seconds: seconds.unwrap_or(60), case: args.case.clone(), quick: args.quick };
            hostile::run(setting, &plan, random, tally)
        }
        Program::Selftest => selftest::run(setting, args.quick, tally),
        Program::All => all(args, setting, tally),
    }
}

fn all(args: &Args, setting: &run::Setting, tally: &Tally) -> Result<()> {
    for (program, shortly, at_length) in SLICES {
        let seconds = if args.quick { *shortly } else { at_length.and(args.seconds).or(*at_length) };
        let mut slice = Args { program: *program, seconds, case: None, ..args.clone() };
        if args.quick {
            (slice.sources, slice.processes) = (16, 4);
        }
        let start = std::time::Instant::now();
        perform(&slice, setting, tally)?;
        let name = program.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        println!("-- {name}: {:.1} s", start.elapsed().as_secs_f64());
        if run::interrupted() {
            break;
        }
    }
    Ok(())
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
    let strace = || linux().and_then(|()| strace_log::possible());
    say("compare", "the benchmark, from packages of the index", linux());
    if !mount::possible() {
        println!("SKIP compare's fresh file systems: not root, or no mkfs.ext4; new directory names are used instead");
    }
    say("kill", "SIGKILL at every system call that touches files", strace());
    say("faults", "an error at every system call that touches files", strace());
    say("crashstates", "power cuts at every moment of a recorded run, in memory", strace());
    say("powercut", "power cuts on ext4, xfs and btrfs", powercut::possible());
    for (name, why) in powercut::missing() {
        println!("SKIP powercut on {name}: {why}");
    }
    say("places", "full, read-only, layered, failing file systems", linux().and_then(|()| places::possible()));
    for (name, why) in places::missing() {
        println!("SKIP places on {name}: {why}");
    }
    say("shortio", "reads and writes cut short by a preloaded library", linux().and_then(|()| shortio::possible()));
    say("bitrot", "every flipped bit and every cut of sealed artifacts", Ok(()));
    say("fuzz", "hostile bytes for every parser", linux());
    say("mutations", "damaged artifacts without a seal, judged beside the interpreters", linux());
    say("workers", "workers that misbehave at every byte", linux());
    if let Err(why) = preload::possible() {
        println!("SKIP workers over pipes that are cut short: {why}");
    }
    say("locks", "the lock of a directory, raced for", linux());
    for (what, why) in locks::missing() {
        println!("SKIP {what}: {why}");
    }
    say("claims", "many processes over many trees with one store", linux());
    say("storm", "many processes over one tree", linux());
    say("hooks", "package transactions and their hooks on one system", linux());
    say("cleanrace", "clean and compile against installers that remove and rename, and walkers", linux());
    if let Err(why) = strace_log::possible() {
        println!("SKIP cleanrace's cases aside and told: {why}");
    }
    say("hostile", "root over trees of another user who changes them meanwhile", hostile::possible());
    say("selftest", "safeguards left out, which must be missed", linux().and_then(|()| selftest::possible()));
}
