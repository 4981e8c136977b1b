//! The rows of the store: a second environment, against what a copy of its artifacts costs and against compiling it; and lookups at once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::compare::rows::{JOBS, Laid, laid_out, with};
use crate::compare::{Bench, Contender, against, chart};
use crate::mount::{Place, check, copy, settle};
use crate::run::{Cost, Setting, measure};
use crate::whole::{files, is_artifact};

/// The command with a store.
fn stored(mut command: Command, store: &Path) -> Command {
    command.env_remove("BYTEKEEP_NO_STORE").env("BYTEKEEP_STORE", store);
    command
}

pub(crate) fn warm(bench: &mut Bench<'_>) -> Result<()> {
    let (setting, tree) = (bench.setting, laid_out(bench)?);
    let room = Place::fresh(&setting.scratch)?;
    let (store, artifacts) = (room.dir().join("store"), room.dir().join("artifacts"));
    let many = fill(bench, &tree, &store, &artifacts)?;
    settle()?;
    let cold = |with_store: bool| -> Result<Cost> {
        let laid = Laid::with(setting, &tree)?;
        let own = laid.cache().join("store");
        measure(vec![if with_store { stored(laid.compile(setting), &own) } else { laid.compile(setting) }])
    };
    let warm = |durability: &'static str| -> Result<Cost> {
        let laid = Laid::with(setting, &tree)?;
        let cost = measure(vec![with(stored(laid.compile(setting), &store), &["--durability", durability])])?;
        if !cost.text.contains(&format!("{many} from the store")) {
            bench.tally.violation(&format!("not all {many} came from the store: {}", cost.text.trim()), "compare --only warm");
        }
        Ok(cost)
    };
    let copied = |line: &'static str| -> Result<Cost> {
        let place = Place::fresh(&setting.scratch)?;
        settle()?;
        let mut command = Command::new("sh");
        command.args(["-c", line, "sh"]).arg(&artifacts).arg(place.dir().join("copy"));
        measure(vec![command])
    };
    // Sources that two environments share by hard links, and artifacts that they then share too: on one file system.
    let hardlinked = || -> Result<Cost> {
        let laid = Laid::empty(setting)?;
        let (first, own) = (laid.cache().with_file_name("first"), laid.cache().with_file_name("store"));
        copy(&tree, &first)?;
        copy(&store, &own)?;
        check(Command::new("cp").arg("-al").arg(&first).arg(laid.site()))?;
        let compile = |site: &Path| {
            let command = setting.bytekeep("compile", site, JOBS, laid.cache());
            with(stored(command, &own), &["--link-mode", "hardlink", "--durability", "none"])
        };
        measure(vec![compile(&first)])?;
        settle()?;
        measure(vec![compile(laid.site())])
    };
    let linked = || -> Result<Cost> {
        let place = Place::fresh(&setting.scratch)?;
        copy(&artifacts, &place.dir().join("artifacts"))?;
        settle()?;
        let mut command = Command::new("cp");
        command.arg("-rl").arg(place.dir().join("artifacts")).arg(place.dir().join("copy"));
        measure(vec![command])
    };
    let all = bench.alternate(&mut [
        ("bytekeep compile, all in the store, --durability none".into(), Box::new(|| warm("none"))),
        ("bytekeep compile, all in the store".into(), Box::new(|| warm("batch"))),
        ("cp -r of the artifacts".into(), Box::new(|| copied("cp -r \"$1\" \"$2\""))),
        ("cp -r of the artifacts, sync -f".into(), Box::new(|| copied("cp -r \"$1\" \"$2\" && sync -f \"$2\""))),
        (
            "compileall -q -j2".into(),
            Box::new(|| {
                let laid = Laid::with(setting, &tree)?;
                measure(vec![setting.compileall(laid.site(), JOBS)])
            }),
        ),
        ("bytekeep compile, an empty store".into(), Box::new(|| cold(true))),
        ("bytekeep compile --no-store".into(), Box::new(|| cold(false))),
        ("bytekeep compile --link-mode hardlink, --durability none".into(), Box::new(hardlinked)),
        ("cp -rl of the artifacts".into(), Box::new(linked)),
    ])?;
    let wall = |at: usize| all[at].wall();
    let verdicts: [Vec<String>; 9] = [
        vec![against(wall(4) / wall(0), "× faster than compileall", 25.0, false), against(wall(0) / wall(2), "× cp", 1.3, true)],
        vec![against(wall(1) / wall(3), "× cp and sync", 1.3, true)],
        Vec::new(),
        Vec::new(),
        Vec::new(),
        vec![against(wall(5) / wall(6), "× --no-store", 1.05, true), format!("{:.2} × its CPU", all[5].cpu() / all[6].cpu())],
        Vec::new(),
        vec![against(wall(4) / wall(7), "× faster than compileall", 60.0, false), against(wall(7) / wall(8), "× cp -rl", 2.0, true)],
        Vec::new(),
    ];
    for (samples, verdicts) in all.iter().zip(&verdicts) {
        bench.line("warm", samples, verdicts);
    }
    if let Some(file) = &bench.plan.chart {
        let foot = format!("{many} artifacts, each run on a fresh ext4, median of {}; compare --only warm --chart FILE", bench.plan.runs);
        chart::write(file, "A second environment with the same packages", &foot, &all)?;
    }
    Ok(())
}

/// Whether lookups get in each other's way: processes of one thread each, as many as there are cores and more. Writing what they find is a
/// part of each, so the whole is measured beside a copy of as many artifacts by as many processes.
pub(crate) fn lookups(bench: &mut Bench<'_>) -> Result<()> {
    let (setting, tree) = (bench.setting, laid_out(bench)?);
    let room = Place::fresh(&setting.scratch)?;
    let (store, artifacts) = (room.dir().join("store"), room.dir().join("artifacts"));
    let many = fill(bench, &tree, &store, &artifacts)?;
    let at_once = |count: usize, copies: bool| {
        let laid = Laid::empty(setting)?;
        let site = |number: usize| laid.cache().with_file_name(format!("site{number}"));
        (0..count).filter(|_| !copies).try_for_each(|number| copy(&tree, &site(number)))?;
        settle()?;
        let command = |number: usize| {
            if copies {
                let mut command = Command::new("cp");
                command.arg("-r").arg(&artifacts).arg(site(number));
                return command;
            }
            with(stored(setting.bytekeep("compile", &site(number), 1, laid.cache()), &store), &["--durability", "none"])
        };
        measure((0..count).map(command).collect())
    };
    let counts = [1, 2, 4, 16];
    let at_once = &at_once;
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for count in counts {
        contenders.push((format!("{count} at once, all in the store"), Box::new(move || at_once(count, false))));
        contenders.push((format!("{count} at once, cp -r of the artifacts"), Box::new(move || at_once(count, true))));
    }
    let all = bench.alternate(&mut contenders)?;
    let number = |count: usize| u32::try_from(count).map_or(f64::NAN, f64::from);
    for (pair, count) in all.chunks(2).zip(counts) {
        let [ours, copies] = pair else { continue };
        let rate = number(many * count) / ours.wall();
        let each = ours.cpu() / number(count) / all[0].cpu();
        bench.line("lookups", ours, &[format!("{rate:.0} lookups/s"), against(each, "× the CPU of one, each", 1.3, true)]);
        bench.line("lookups", copies, &[]);
    }
    Ok(())
}

/// Fills a store, and a directory with nothing but the artifacts. How many there are.
fn fill(bench: &Bench<'_>, tree: &Path, store: &Path, artifacts: &Path) -> Result<usize> {
    let setting: &Setting = bench.setting;
    let laid = Laid::with(setting, tree)?;
    bench.took(0, "filling the store", &measure(vec![stored(laid.compile(setting), store)])?);
    let made: Vec<PathBuf> = files(laid.site()).into_iter().filter(|path| is_artifact(path)).collect();
    for path in &made {
        let to = artifacts.join(path.strip_prefix(laid.site())?);
        std::fs::create_dir_all(to.parent().context("no directory")?)?;
        std::fs::copy(path, to)?;
    }
    Ok(made.len())
}
