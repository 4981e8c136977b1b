//! The rows of the benchmark.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::compare::{Bench, Contender, Samples, against};
use crate::corpus::{self, Corpus};
use crate::mount::{Place, check, copy, settle};
use crate::run::{Cost, Setting, measure};
use crate::whole::{files, is_artifact};

pub(super) const JOBS: usize = 2;

/// What nobody who lets CPython compile can do without: two processes read, compile and marshal, and write nothing.
const FLOOR: &str = "
import marshal, multiprocessing, os, sys, warnings

def one(path):
    with open(path, 'rb') as file:
        text = file.read()
    try:
        return len(marshal.dumps(compile(text, path, 'exec', dont_inherit=True)))
    except (SyntaxError, ValueError):
        return 0

warnings.simplefilter('ignore')
paths = [os.path.join(top, name) for top, _, names in os.walk(sys.argv[1]) for name in names if name.endswith('.py')]
with multiprocessing.get_context('fork').Pool(2) as pool:
    print(sum(pool.imap_unordered(one, paths, 16)))
";

/// A tree in a fresh place, with a cache directory in which the interpreter is already known, as it is to uv: nobody is measured
/// while asking it for its version.
pub(super) struct Laid {
    place: Place,
    site: PathBuf,
    cache: PathBuf,
}

impl Laid {
    pub(super) fn empty(setting: &Setting) -> Result<Self> {
        let place = Place::fresh(&setting.scratch)?;
        let (site, cache) = (place.dir().join("site"), place.dir().join("cache"));
        let laid = Self { place, site, cache };
        laid.acquaint(setting, &laid.cache)?;
        Ok(laid)
    }

    pub(super) fn with(setting: &Setting, tree: &Path) -> Result<Self> {
        let laid = Self::empty(setting)?;
        copy(tree, &laid.site)?;
        settle()?;
        Ok(laid)
    }

    fn acquaint(&self, setting: &Setting, cache: &Path) -> Result<()> {
        let tree = self.place.dir().join("one");
        std::fs::create_dir_all(&tree)?;
        std::fs::create_dir_all(cache)?;
        std::fs::write(tree.join("one.py"), "one = 1\n")?;
        check(setting.bytekeep("compile", &tree, 1, cache).arg("--force")).map(drop)
    }

    pub(super) fn site(&self) -> &Path {
        &self.site
    }

    pub(super) fn cache(&self) -> &Path {
        &self.cache
    }

    pub(super) fn compile(&self, setting: &Setting) -> Command {
        setting.bytekeep("compile", &self.site, JOBS, &self.cache)
    }

    fn artifacts(&self) -> usize {
        files(&self.site).iter().filter(|path| is_artifact(path)).count()
    }
}

pub(super) fn laid_out(bench: &Bench<'_>) -> Result<PathBuf> {
    Ok(bench.corpus.as_ref().context("no corpus")?.tree.clone())
}

/// A corpus that is compiled and sealed, and as good as on disk.
fn sealed(bench: &Bench<'_>) -> Result<Laid> {
    let laid = Laid::with(bench.setting, &laid_out(bench)?)?;
    let cost = measure(vec![laid.compile(bench.setting)])?;
    bench.took(0, "preparing", &cost);
    settle()?;
    Ok(laid)
}

pub(crate) fn cold(bench: &mut Bench<'_>) -> Result<()> {
    let (setting, tree) = (bench.setting, laid_out(bench)?);
    let corpus = bench.corpus.as_ref().context("no corpus")?;
    let uv = corpus.uv.clone();
    let made = std::cell::RefCell::new(Vec::new());
    let floor = Place::fresh(&setting.scratch)?;
    let pycs = floor.dir().join("artifacts");
    {
        let laid = Laid::with(setting, &tree)?;
        measure(vec![laid.compile(setting)])?;
        for path in files(&laid.site).iter().filter(|path| is_artifact(path)) {
            let to = pycs.join(path.strip_prefix(&laid.site)?);
            std::fs::create_dir_all(to.parent().context("no directory")?)?;
            std::fs::copy(path, to)?;
        }
    }
    let one = |name: &'static str, command: &dyn Fn(&Laid) -> Command| -> Result<Cost> {
        let laid = Laid::with(setting, &tree)?;
        let cost = measure(vec![command(&laid)])?;
        made.borrow_mut().push((name, laid.artifacts()));
        Ok(cost)
    };
    let batch = |durability: &'static str| move |laid: &Laid| with(laid.compile(setting), &["--durability", durability]);
    let mut contenders: Vec<Contender<'_>> = vec![
        ("bytekeep compile".into(), Box::new(|| one("bytekeep", &batch("batch")))),
        ("bytekeep compile --durability none".into(), Box::new(|| one("bytekeep", &batch("none")))),
        ("compileall -q -j2".into(), Box::new(|| one("compileall", &|laid| setting.compileall(&laid.site, JOBS)))),
        (
            "cp -r of the artifacts, sync -f".into(),
            Box::new(|| {
                let place = Place::fresh(&setting.scratch)?;
                settle()?;
                let mut command = Command::new("sh");
                command.args(["-c", "cp -r \"$1\" \"$2\" && sync -f \"$2\"", "sh"]).arg(&pycs).arg(place.dir().join("copy"));
                measure(vec![command])
            }),
        ),
    ];
    contenders.push((
        "CPython's compile() alone, nothing written".into(),
        Box::new(|| {
            let laid = Laid::with(setting, &tree)?;
            let mut command = Command::new(&setting.python.path);
            command.args(["-I", "-c", FLOOR]).arg(&laid.site);
            measure(vec![command])
        }),
    ));
    if let Ok(uv) = &uv {
        contenders.push((format!("{}, its compile phase", version(uv)), Box::new(|| uv_compiles(setting, corpus, uv))));
    }
    let all = bench.alternate(&mut contenders)?;
    drop(contenders);
    let least = |name: &str| made.borrow().iter().filter(|(who, _)| *who == name).map(|(_, count)| *count).min().unwrap_or(0);
    println!("  artifacts: bytekeep {}, compileall {}", least("bytekeep"), least("compileall"));
    if least("bytekeep") < least("compileall") {
        bench.tally.violation("bytekeep made fewer artifacts than compileall", "compare --only cold");
    }
    let (ours, none, theirs, floor) = (all[0].wall(), all[1].wall(), all[2].wall(), all[4].wall());
    let mut verdicts = vec![
        against(ours / theirs, "× compileall", 0.85, true),
        against(ours / none, "× none", 1.10, true),
        format!("{:.2} × compile() alone", ours / floor),
    ];
    if let Some(uv) = all.get(5) {
        verdicts.insert(0, against(ours / uv.wall(), "× uv", 0.95, true));
    }
    bench.line("cold", &all[0], &verdicts);
    for samples in &all[1..] {
        bench.line("cold", samples, &[format!("{:.2} × compile() alone", samples.wall() / floor)]);
    }
    if let Err(why) = uv {
        bench.skip("cold, uv", &why);
    }
    Ok(())
}

/// uv's own figure for its compile phase: `pip sync --compile-bytecode` of what is already installed does nothing else.
fn uv_compiles(setting: &Setting, corpus: &Corpus, uv: &Path) -> Result<Cost> {
    let laid = Laid::empty(setting)?;
    let command = |verb: &str| {
        let mut command = Command::new(uv);
        command.args(["pip", verb, "--offline", "--no-index", "--no-config", "--python"]).arg(&setting.python.path).arg("--target");
        command.arg(&laid.site).env("UV_CACHE_DIR", &corpus.uv_cache).env("UV_LINK_MODE", "copy");
        command.env("UV_CONCURRENT_INSTALLS", JOBS.to_string()).env("NO_COLOR", "1");
        command
    };
    check(command("install").args(["-q", "--no-deps", "-r"]).arg(&corpus.requirements))?;
    settle()?;
    let mut sync = command("sync");
    sync.arg("--compile-bytecode").arg(&corpus.requirements);
    let mut cost = measure(vec![sync])?;
    let Some(said) = cost.text.lines().find_map(|line| line.strip_prefix("Bytecode compiled ")) else {
        bail!("uv does not say how long it compiled: {}", cost.text.trim());
    };
    let time = said.split_once(" in ").and_then(|(_, time)| duration(time));
    cost.wall = time.with_context(|| format!("uv says a time that is not understood: {said}"))?;
    println!("  uv: {said}; {} artifacts", laid.artifacts());
    Ok(cost)
}

/// `839ms`, `14.83s` or `1m 02s`.
fn duration(text: &str) -> Option<Duration> {
    let mut whole = Duration::ZERO;
    for part in text.split_whitespace() {
        let unit = part.find(|c: char| c.is_ascii_alphabetic())?;
        let seconds = match &part[unit..] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            _ => return None,
        };
        whole += Duration::try_from_secs_f64(part[..unit].parse::<f64>().ok()? * seconds).ok()?;
    }
    Some(whole)
}

pub(super) fn with(mut command: Command, more: &[&str]) -> Command {
    command.args(more);
    command
}

fn version(program: &Path) -> String {
    let said = check(Command::new(program).arg("--version")).unwrap_or_default();
    said.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

pub(crate) fn verify(bench: &mut Bench<'_>) -> Result<()> {
    let setting = bench.setting;
    let laid = sealed(bench)?;
    let b3sum = match bench.corpus.as_ref().context("no corpus")?.b3sum.clone() {
        Ok(found) => found,
        Err(why) => {
            bench.skip("verify", &format!("no b3sum to compare with: {why}"));
            return Ok(());
        }
    };
    let sums = |options: &'static str| {
        let script = format!("find \"$1\" -type f '(' -name '*.py' -o -name '*.pyc' ')' -print0 | xargs -0 \"$2\" {options} >/dev/null");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(&laid.site).arg(&b3sum);
        measure(vec![command])
    };
    let all = bench.alternate(&mut [
        ("bytekeep verify".into(), Box::new(|| measure(vec![setting.bytekeep("verify", &laid.site, JOBS, &laid.cache)]))),
        (format!("{}, its own threads", version(&b3sum)), Box::new(|| sums(""))),
        ("b3sum --num-threads 1".into(), Box::new(|| sums("--num-threads 1"))),
    ])?;
    let best = all[1].wall().min(all[2].wall());
    let verdicts =
        [against(all[0].wall() / all[1].wall(), "× b3sum", 0.75, true), format!("{:.2} × the better b3sum", all[0].wall() / best)];
    bench.line("verify", &all[0], &verdicts);
    bench.line("verify", &all[1], &[]);
    bench.line("verify", &all[2], &[]);
    Ok(())
}

pub(crate) fn nothing(bench: &mut Bench<'_>) -> Result<()> {
    let setting = bench.setting;
    let laid = sealed(bench)?;
    let all = bench.alternate(&mut [
        ("bytekeep compile, sealed".into(), Box::new(|| measure(vec![laid.compile(setting)]))),
        ("compileall -q -j2".into(), Box::new(|| measure(vec![setting.compileall(&laid.site, JOBS)]))),
        ("compileall -q -j1".into(), Box::new(|| measure(vec![setting.compileall(&laid.site, 1)]))),
    ])?;
    let faster = |other: &Samples| other.wall() / all[0].wall();
    let verdicts =
        [against(faster(&all[1]), "× faster than compileall -j2", 10.0, false), format!("{:.2} × faster than -j1", faster(&all[2]))];
    bench.line("nothing to do", &all[0], &verdicts);
    bench.line("nothing to do", &all[1], &[]);
    bench.line("nothing to do", &all[2], &[]);
    Ok(())
}

pub(crate) fn unsealed(bench: &mut Bench<'_>) -> Result<()> {
    let setting = bench.setting;
    let laid = Laid::with(setting, &laid_out(bench)?)?;
    bench.took(0, "preparing", &measure(vec![setting.compileall(&laid.site, JOBS)])?);
    settle()?;
    // what was written a moment ago may rightly not be believed by its time stamps yet
    std::thread::sleep(Duration::from_secs(4));
    let names = ["first run", "second run", "third run", "compileall -q -j2", "compileall -q -j1"];
    let mut all = names.map(Samples::new);
    for run in 0..bench.plan.runs {
        let cache = laid.place.dir().join(format!("cache-{run}"));
        laid.acquaint(setting, &cache)?;
        settle()?;
        for (number, samples) in all.iter_mut().enumerate() {
            let command = match number {
                3 => setting.compileall(&laid.site, JOBS),
                4 => setting.compileall(&laid.site, 1),
                _ => setting.bytekeep("compile", &laid.site, JOBS, &cache),
            };
            let cost = measure(vec![command])?;
            bench.took(run, &samples.name, &cost);
            samples.costs.push(cost);
        }
    }
    let [.., fast, _] = &all;
    for (number, samples) in all.iter().enumerate() {
        let ratio = samples.wall() / fast.wall();
        let verdict = match number {
            0 => vec![format!("{ratio:.2} × compileall -j2")],
            1 | 2 => vec![against(ratio, "× compileall -j2", 1.0, true)],
            _ => Vec::new(),
        };
        bench.line("unsealed", samples, &verdict);
    }
    Ok(())
}

pub(crate) fn restamp(bench: &mut Bench<'_>) -> Result<()> {
    let setting = bench.setting;
    let template = sealed(bench)?;
    let pycs = Place::fresh(&setting.scratch)?;
    let artifacts = pycs.dir().join("artifacts");
    for path in files(&template.site).iter().filter(|path| is_artifact(path)) {
        let to = artifacts.join(path.strip_prefix(&template.site)?);
        std::fs::create_dir_all(to.parent().context("no directory")?)?;
        std::fs::copy(path, to)?;
    }
    let many = template.artifacts();
    // as an image or an archive leaves them
    for path in files(&template.site).iter().filter(|path| path.extension().is_some_and(|suffix| suffix == "py")) {
        std::fs::File::options().write(true).open(path)?.set_modified(std::time::UNIX_EPOCH)?;
    }
    settle()?;
    let restamped = |more: &'static [&'static str], word: &str| -> Result<Cost> {
        let laid = Laid::with(setting, &template.site)?;
        let cost = measure(vec![with(laid.compile(setting), more)])?;
        let said = format!("{word} {many} entries");
        if !cost.text.contains(&said) && !cost.text.contains(&format!("({many} restamped")) {
            bench.tally.violation(&format!("not `{said}`, but: {}", cost.text.trim()), "compare --only restamp");
        }
        Ok(cost)
    };
    let all = bench.alternate(&mut [
        ("bytekeep compile, all times changed".into(), Box::new(|| restamped(&[], "Restamped"))),
        ("to unchecked-hash".into(), Box::new(|| restamped(&["--invalidation-mode", "unchecked-hash"], "Restamped"))),
        (
            "cp -r of the artifacts, sync -f".into(),
            Box::new(|| {
                let place = Place::fresh(&setting.scratch)?;
                settle()?;
                let mut command = Command::new("sh");
                command.args(["-c", "cp -r \"$1\" \"$2\" && sync -f \"$2\"", "sh"]).arg(&artifacts).arg(place.dir().join("copy"));
                measure(vec![command])
            }),
        ),
        (
            "bytekeep compile --force".into(),
            Box::new(|| {
                let laid = Laid::with(setting, &template.site)?;
                measure(vec![with(laid.compile(setting), &["--force"])])
            }),
        ),
    ])?;
    let (copied, compiled) = (all[2].wall(), all[3].wall());
    for samples in &all[..2] {
        let verdicts = [
            against(samples.wall() / copied, "× cp and sync", 1.4, true),
            format!("{:.1} × faster than compiling", compiled / samples.wall()),
        ];
        bench.line("restamp", samples, &verdicts);
    }
    bench.line("restamp", &all[2], &[]);
    bench.line("restamp", &all[3], &[]);
    Ok(())
}

pub(crate) fn eight(bench: &mut Bench<'_>) -> Result<()> {
    let (setting, tree) = (bench.setting, laid_out(bench)?);
    let many = |count: usize, jobs: usize| {
        let laid = Laid::with(setting, &tree)?;
        measure((0..count).map(|_| setting.bytekeep("compile", &laid.site, jobs, &laid.cache)).collect())
    };
    let all = bench.alternate(&mut [
        ("1 process, cold".into(), Box::new(|| many(1, JOBS))),
        ("8 processes on one tree, cold".into(), Box::new(|| many(8, JOBS))),
        // What so many workers cost on so few processors, without anybody to share the tree with.
        (format!("1 process with as many workers, -j{}", 8 * JOBS), Box::new(|| many(1, 8 * JOBS))),
    ])?;
    bench.line("eight", &all[0], &[]);
    let against_one = |samples: &Samples| samples.cpu() / all[0].cpu();
    let verdicts = [against(against_one(&all[1]), "× CPU", 1.2, true), format!("{:.2} × wall", all[1].wall() / all[0].wall())];
    bench.line("eight", &all[1], &verdicts);
    bench.line("eight", &all[2], &[format!("{:.2} × CPU", against_one(&all[2]))]);
    Ok(())
}

pub(crate) fn claims(bench: &mut Bench<'_>) -> Result<()> {
    let (setting, tree) = (bench.setting, laid_out(bench)?);
    let many = |count: usize, stored: bool| {
        let laid = Laid::empty(setting)?;
        let site = |number: usize| laid.place.dir().join(format!("site{number}"));
        (0..count).try_for_each(|number| copy(&tree, &site(number)))?;
        settle()?;
        let command = |number: usize| {
            let mut command = setting.bytekeep("compile", &site(number), JOBS, &laid.cache);
            if stored {
                command.arg("--store").arg(laid.place.dir().join("store"))
            } else {
                command.arg("--no-store")
            };
            command
        };
        measure((0..count).map(command).collect())
    };
    let all = bench.alternate(&mut [
        ("1 process, an empty store".into(), Box::new(|| many(1, true))),
        ("8 processes on 8 trees, one empty store".into(), Box::new(|| many(8, true))),
        ("1 process, no store".into(), Box::new(|| many(1, false))),
    ])?;
    let (ratio, first) = (all[1].cpu() / all[0].cpu(), all[0].cpu() / all[2].cpu());
    bench.line("claims", &all[0], &[against(first, "× CPU without a store", 1.05, true)]);
    bench.line("claims", &all[1], &[against(ratio, "× CPU", 1.3, true), format!("{:.2} × wall", all[1].wall() / all[0].wall())]);
    bench.line("claims", &all[2], &[]);
    Ok(())
}

pub(crate) fn memory(bench: &mut Bench<'_>) -> Result<()> {
    let setting = bench.setting;
    let most = bench.plan.files.max(10);
    let mut each = Vec::new();
    for count in [most / 10, most] {
        let mut samples = Samples::new(&format!("{count} small files, {} in one directory", count / 5));
        let laid = Laid::empty(setting)?;
        corpus::generate(&laid.site, count)?;
        settle()?;
        let cost = measure(vec![laid.compile(setting)])?;
        bench.took(0, &samples.name, &cost);
        if laid.artifacts() != count {
            bench.tally.violation(&format!("{} artifacts of {count}", laid.artifacts()), "compare --only memory");
        }
        samples.costs.push(cost);
        let mut verdicts = vec![against(samples.peak_mb(), "MB", 100.0, true)];
        each.push(samples.wall() / f64::from(u32::try_from(count)?));
        if let [few, many] = each[..] {
            verdicts.push(format!("{:.2} × the time a file", many / few));
        }
        bench.line("memory", &samples, &verdicts);
        let again = measure(vec![laid.compile(setting)])?;
        bench.took(0, "again, nothing to do", &again);
        let mut second = Samples::new(&format!("{count} small files again, nothing to do"));
        second.costs.push(again);
        let verdict = against(second.peak_mb(), "MB", 100.0, true);
        bench.line("memory", &second, &[verdict]);
    }
    Ok(())
}
