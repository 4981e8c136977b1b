//! The benchmark: contenders side by side in one run, in turn, each measured run in a fresh place; a Markdown table at the end.
//! A target missed is reported, never a failure. A contender that fails is one.

mod chart;
pub(crate) mod rows;
pub(crate) mod store;
pub(crate) mod walk;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::corpus::Corpus;
use crate::mount::{self, settle};
use crate::run::{Cost, Setting, Tally, load};
use crate::whole::files;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// No artifacts yet: against uv, compileall and a plain copy
    Cold,
    /// Every byte of a sealed tree: against b3sum
    Verify,
    /// A sealed tree with nothing to do: against compileall
    Nothing,
    /// A tree that compileall compiled, again and again
    Unsealed,
    /// A sealed tree whose sources' times were all changed: against a copy of the artifacts, and against compiling
    Restamp,
    /// A second environment, all of it in the store: against a copy of the artifacts, and against compileall
    Warm,
    /// One, two, four and sixteen processes at once, each on a tree of its own, all of it in one store: how many lookups a second
    Lookups,
    /// Eight processes on one tree: against one
    Eight,
    /// Eight processes on eight trees with the same packages and one store: against one
    Claims,
    /// Many small files: memory, and time for each
    Memory,
    /// Unsealed artifacts looked through by one core: against marshal.loads and b3sum
    Walk,
}

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) corpus: PathBuf,
    pub(crate) runs: usize,
    pub(crate) only: Vec<Row>,
    pub(crate) files: usize,
    /// Where the chart of the row of the store goes.
    pub(crate) chart: Option<PathBuf>,
}

/// Everything a row needs.
pub(crate) struct Bench<'a> {
    pub(crate) setting: &'a Setting,
    pub(crate) plan: &'a Plan,
    pub(crate) corpus: Option<Corpus>,
    pub(crate) tally: &'a Tally,
    sheet: Vec<String>,
}

/// The measured runs of one contender.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples {
    pub(crate) name: String,
    pub(crate) costs: Vec<Cost>,
}

impl Samples {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), costs: Vec::new() }
    }

    fn median(&self, of: impl Fn(&Cost) -> Duration) -> f64 {
        let mut all: Vec<f64> = self.costs.iter().map(|cost| of(cost).as_secs_f64()).collect();
        all.sort_by(f64::total_cmp);
        let middle = all.len() / 2;
        match all.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => all[middle],
            _ => f64::midpoint(all[middle - 1], all[middle]),
        }
    }

    pub(crate) fn wall(&self) -> f64 {
        self.median(|cost| cost.wall)
    }

    pub(crate) fn cpu(&self) -> f64 {
        self.median(|cost| cost.cpu)
    }

    pub(crate) fn peak_mb(&self) -> f64 {
        let kib = self.costs.iter().map(|cost| cost.peak_kib).max().unwrap_or(0);
        f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) * 1024.0 / 1e6
    }
}

/// A figure beside what it should be. `most`: it may not be larger; else it may not be smaller.
pub(crate) fn against(figure: f64, unit: &str, limit: f64, most: bool) -> String {
    let met = if most { figure <= limit } else { figure >= limit };
    let sign = if most { "≤" } else { "≥" };
    format!("{figure:.2} {unit} ({sign} {limit}: {})", if met { "met" } else { "**missed**" })
}

type Measured = fn(&mut Bench<'_>) -> Result<()>;

pub(crate) type Contender<'c> = (String, Box<dyn FnMut() -> Result<Cost> + 'c>);

impl Bench<'_> {
    /// Runs contenders in turn, another one first each time.
    pub(crate) fn alternate(&self, contenders: &mut [Contender<'_>]) -> Result<Vec<Samples>> {
        let mut all: Vec<Samples> = contenders.iter().map(|(name, _)| Samples::new(name)).collect();
        for run in 0..self.plan.runs {
            for turn in 0..contenders.len() {
                let which = (run + turn) % contenders.len();
                let cost = contenders[which].1()?;
                self.took(run, &contenders[which].0, &cost);
                all[which].costs.push(cost);
            }
        }
        Ok(all)
    }

    /// Notes a run. Exit 1 is a file that does not compile: the same for all contenders.
    pub(crate) fn took(&self, run: usize, name: &str, cost: &Cost) {
        self.tally.checked(1);
        let (wall, cpu) = (cost.wall.as_secs_f64(), cost.cpu.as_secs_f64());
        println!("  run {}: {name}: {wall:.2} s, CPU {cpu:.2} s, exit {:?}, load {}", run + 1, cost.code, load());
        if !matches!(cost.code, Some(0 | 1)) {
            let last = cost.text.trim().lines().last().unwrap_or("").to_owned();
            self.tally.violation(&format!("{name} exits {:?}: {last}", cost.code), "compare");
        }
    }

    pub(crate) fn line(&mut self, row: &str, samples: &Samples, verdicts: &[String]) {
        let walls: Vec<f64> = samples.costs.iter().map(|cost| cost.wall.as_secs_f64()).collect();
        let (least, most) = walls.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), wall| (least.min(*wall), most.max(*wall)));
        self.sheet.push(format!(
            "| {row} | {} | {:.3} | {least:.3} to {most:.3} | {:.2} | {:.0} | {} |",
            samples.name,
            samples.wall(),
            samples.cpu(),
            samples.peak_mb(),
            verdicts.join("; ")
        ));
    }

    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("SKIP {name}: {why}");
        self.sheet.push(format!("| {name} | | | | | | skipped: {why} |"));
    }
}

pub(crate) fn run(setting: &Setting, plan: &Plan, tally: &Tally) -> Result<()> {
    let wanted = |row: Row| plan.only.is_empty() || plan.only.contains(&row);
    let needs = Row::value_variants().iter().any(|row| !matches!(row, Row::Memory | Row::Walk) && wanted(*row));
    let corpus = if needs { Some(Corpus::lay_out(&plan.corpus, &setting.python)?) } else { None };
    if let Some(corpus) = &corpus {
        let sources: Vec<PathBuf> = files(&corpus.tree).into_iter().filter(|path| path.extension().is_some_and(|s| s == "py")).collect();
        let mut bytes = 0;
        for path in &sources {
            bytes += path.metadata()?.len();
        }
        println!("{} sources, {:.0} MB", sources.len(), f64::from(u32::try_from(bytes / 1000)?) / 1000.0);
    }
    println!("{} cores, {} runs", std::thread::available_parallelism()?, plan.runs);
    println!("each measured run {}", if mount::possible() { "on a fresh ext4" } else { "under a directory name never used before" });
    let mut bench = Bench { setting, plan, corpus, tally, sheet: Vec::new() };
    let all: [(Row, Measured); 11] = [
        (Row::Cold, rows::cold),
        (Row::Verify, rows::verify),
        (Row::Nothing, rows::nothing),
        (Row::Unsealed, rows::unsealed),
        (Row::Restamp, rows::restamp),
        (Row::Warm, store::warm),
        (Row::Lookups, store::lookups),
        (Row::Eight, rows::eight),
        (Row::Claims, rows::claims),
        (Row::Memory, rows::memory),
        (Row::Walk, walk::walk),
    ];
    let mut fault = None;
    for (row, measured) in all.into_iter().filter(|(row, _)| wanted(*row)) {
        println!("{row:?}");
        settle()?;
        // what was measured before an error is still worth printing
        if let Err(error) = measured(&mut bench) {
            fault = Some(error);
            break;
        }
    }
    println!(
        "\n| row | contender | wall s, median | wall s | CPU s | peak MB | ratios (target) |\n| --- | --- | --- | --- | --- | --- | --- |"
    );
    for line in &bench.sheet {
        println!("{line}");
    }
    println!();
    fault.map_or(Ok(()), Err)
}
