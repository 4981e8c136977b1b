//! The row `walk`: how fast one core looks through unsealed artifacts, beside the interpreter that loads them and a digest of them.
//! All bytes are in memory before the clock starts, but `b3sum`'s, which reads them from the page cache.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytekeep::model::Format;
use bytekeep::python::Pyc;

use crate::compare::{Bench, Contender, against};
use crate::corpus;
use crate::mount::{Place, settle};
use crate::run::{Cost, Setting, measure};
use crate::whole::{files, is_artifact};

/// Once to warm up, once by the clock.
const LOADS: &str = "
import marshal, os, sys, time
bodies = []
for top, _, names in os.walk(sys.argv[1]):
    for name in names:
        if name.endswith('.pyc'):
            with open(os.path.join(top, name), 'rb') as file:
                bodies.append(file.read())
for turn in range(2):
    wall, cpu = time.perf_counter(), time.process_time()
    for body in bodies:
        marshal.loads(memoryview(body)[16:])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(sum(map(len, bodies)), wall, cpu)
";

/// Whether this process was started to walk a tree; then it has done its work.
pub(crate) fn asked() -> Option<Result<()>> {
    let all: Vec<String> = std::env::args().skip(1).collect();
    match &all[..] {
        [first, depth, tree] if first == "walk-one" => Some(child(depth == "deep", Path::new(tree))),
        _ => None,
    }
}

/// What this thread alone had of a processor.
fn cpu() -> Result<Duration> {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(said.split(' ').next().context("no time")?.parse()?))
}

fn child(deep: bool, tree: &Path) -> Result<()> {
    let mut all = Vec::new();
    for path in files(tree).into_iter().filter(|path| is_artifact(path)) {
        all.push(std::fs::read(path)?);
    }
    let (mut wall, mut took) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..2 {
        let (start, before) = (Instant::now(), cpu()?);
        for bytes in &all {
            let looked = Pyc
                .head(&bytes[..bytes.len().min(16)], None, None)
                .and_then(|head| if deep { Pyc.deep_body(&head, bytes) } else { Pyc.body(&head, bytes) });
            if let Err(flaw) = black_box(looked) {
                bail!("a false alarm: {flaw:?}");
            }
        }
        (wall, took) = (start.elapsed(), cpu()?.saturating_sub(before));
    }
    println!("{} {} {}", all.iter().map(Vec::len).sum::<usize>(), wall.as_secs_f64(), took.as_secs_f64());
    Ok(())
}

/// A contender that says itself what it took.
fn own(command: Command) -> Result<Cost> {
    let mut cost = measure(vec![command])?;
    let said: Vec<f64> = cost.text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [_, wall, cpu] = said[..] else { bail!("it does not say what it took: {}", cost.text.trim()) };
    (cost.wall, cost.cpu) = (Duration::try_from_secs_f64(wall)?, Duration::try_from_secs_f64(cpu)?);
    Ok(cost)
}

/// The interpreter's own library, compiled by it.
fn lay_out(setting: &Setting, tree: &Path) -> Result<f64> {
    let find = "import os, sys; print(os.path.dirname(os.__file__)) if sys.version_info >= (3, 8) else sys.exit('older than 3.8')";
    let library = crate::mount::check(Command::new(&setting.python.path).args(["-c", find]))?;
    let mut command = setting.compileall(Path::new(library.trim()), 2);
    command.args(["-x", "site-packages|dist-packages"]).env("PYTHONPYCACHEPREFIX", tree);
    // Exit 1 is a file that is bad on purpose.
    measure(vec![command])?;
    let mut bytes = 0;
    for path in files(tree).iter().filter(|path| is_artifact(path)) {
        bytes += path.metadata()?.len();
    }
    println!("  {bytes} bytes of artifacts");
    Ok(f64::from(u32::try_from(bytes / 1000)?) / 1000.0)
}

pub(crate) fn walk(bench: &mut Bench<'_>) -> Result<()> {
    let setting = bench.setting;
    let place = Place::fresh(&setting.scratch)?;
    let tree = place.dir().join("artifacts");
    let megabytes = lay_out(setting, &tree)?;
    settle()?;
    let b3sum = corpus::b3sum(&bench.plan.corpus);
    let walking = |depth: &str| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["walk-one", depth]).arg(&tree);
        own(command)
    };
    let mut contenders: Vec<Contender<'_>> = vec![
        ("the deeper look, one thread".into(), Box::new(|| walking("deep"))),
        ("the structure alone, one thread".into(), Box::new(|| walking("structure"))),
        (
            "marshal.loads, one process".into(),
            Box::new(|| {
                let mut command = Command::new(&setting.python.path);
                command.args(["-I", "-c", LOADS]).arg(&tree);
                own(command)
            }),
        ),
    ];
    if let Ok(b3sum) = &b3sum {
        let tree = &tree;
        let sums = move || {
            let script = "find \"$1\" -name '*.pyc' -print0 | xargs -0 \"$2\" --num-threads 1 >/dev/null";
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).arg(tree).arg(b3sum);
            measure(vec![command])
        };
        contenders.push(("b3sum --num-threads 1".into(), Box::new(sums)));
    }
    let all = bench.alternate(&mut contenders)?;
    drop(contenders);
    // By the processor's time: it is one core that is asked about, whoever else works on this machine.
    let rate = |which: usize| megabytes / all[which].cpu();
    for (which, samples) in all.iter().enumerate() {
        let verdicts = match which {
            0 => vec![against(rate(0), "MB/s", 400.0, false)],
            _ => vec![format!("{:.0} MB/s", rate(which)), format!("{:.2} × the deeper look's time", samples.cpu() / all[0].cpu())],
        };
        bench.line("walk", samples, &verdicts);
    }
    if let Err(why) = b3sum {
        bench.skip("walk, b3sum", &why);
    }
    Ok(())
}
