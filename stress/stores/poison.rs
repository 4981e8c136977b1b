//! What befalls a store: values that are flipped, cut, exchanged, or something else than files; shards that are no directories; and each
//! kind of it, all over a store, before a tree is compiled from it.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::ground::{Ground, keyed};
use crate::mount::{check, copy};
use crate::run::{Random, Tally, interrupted, measure};

/// In a value's place.
pub(crate) const VALUES: [&str; 16] = [
    "flip", "cut", "zeros", "half", "empty", "longer", "unsealed", "other", "huge", "dir", "fifo", "link", "dangling", "endless", "device",
    "gone",
];
/// In a shard's.
pub(crate) const SHARDS: [&str; 5] = ["dir", "fifo", "link", "empty", "gone"];
/// What else a store has: what it remembers, and its claims.
pub(crate) const MEMORIES: [&str; 4] = ["digests-1", "claims", "record-1", "links/walked-1"];

/// Puts something of this kind in the place of what is there, by a rename where that can be. `others`: where another one's value is had.
pub(crate) fn put(kind: &str, path: &Path, others: &[PathBuf], outside: &Path, random: &mut Random) -> Result<()> {
    let temp = path.with_file_name(format!("poison-{:x}", random.next()));
    let old = std::fs::read(path);
    let mut bytes = old.unwrap_or_default();
    let at = random.below(bytes.len());
    match kind {
        "flip" if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        "cut" => bytes.truncate(at),
        "zeros" => bytes.fill(0),
        "half" => {
            let middle = bytes.len() / 2;
            bytes[middle..].fill(0);
        }
        "longer" => bytes.extend_from_slice(b"longer"),
        "unsealed" => bytes.truncate(bytes.len().saturating_sub(96)),
        "other" => bytes = others.get(random.below(others.len())).and_then(|other| std::fs::read(other).ok()).unwrap_or_default(),
        _ => {}
    }
    let node = |words: &[&str]| check(Command::new("mknod").arg(&temp).args(words)).map(drop);
    match kind {
        "gone" => {}
        "empty" => std::fs::write(&temp, b"")?,
        // more than any value is allowed
        "huge" => std::fs::File::create(&temp)?.set_len(300 << 20)?,
        "dir" => {
            std::fs::create_dir(&temp)?;
            std::fs::write(temp.join("within"), "within\n")?;
        }
        "fifo" => node(&["p"])?,
        "endless" if rustix::process::geteuid().is_root() => node(&["c", "1", "5"])?,
        "device" if rustix::process::geteuid().is_root() => node(&["b", "7", "250"])?,
        "link" | "endless" => symlink(outside, &temp)?,
        "dangling" | "device" => symlink(path.with_file_name("not-there"), &temp)?,
        _ => std::fs::write(&temp, bytes)?,
    }
    // a rename puts no file over a directory, and no directory over a file
    if kind == "gone" || kind == "dir" || path.is_dir() {
        let aside = temp.with_extension("aside");
        std::fs::rename(path, &aside)?;
        crate::run::remove(&aside)?;
    }
    if kind == "gone" { Ok(()) } else { Ok(std::fs::rename(&temp, path)?) }
}

/// What is poisoned, and how: `value:flip`, `shard:fifo`, `memory:zeros`.
fn cases() -> Vec<(&'static str, &'static str)> {
    let values = VALUES.into_iter().map(|kind| ("value", kind));
    let shards = SHARDS.into_iter().map(|kind| ("shard", kind));
    let memories = ["flip", "cut", "zeros", "empty", "other", "huge", "dir", "fifo", "link"].into_iter().map(|kind| ("memory", kind));
    values.chain(shards).chain(memories).collect()
}

const MODES: [&str; 2] = ["copy", "hardlink"];

/// Each kind, all over a store, in each link mode. `only`: MODE:WHAT:KIND.
/// `limit`: as many as can be done so soon, of each kind alike.
pub(crate) fn table(ground: &Ground<'_>, limit: Option<Duration>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    let full = |mode: &str| ground.room.join(format!("full-{mode}"));
    // root's secret, beside whose name lies what a careless one would remove
    let outside = ground.room.join("outside");
    std::fs::create_dir(&outside)?;
    for mode in MODES {
        for (number, tree) in ground.trees[..2].iter().enumerate() {
            crate::run::remove(tree)?;
            ground.plant(tree, number == 1)?;
        }
        for tree in &ground.trees[..2] {
            check(ground.on_tree("compile", tree, 1, &full(mode)).args(["--link-mode", mode]))?;
        }
    }
    for path in keyed(&full("copy")) {
        std::fs::copy(&path, outside.join(path.file_name().context("no name")?))?;
    }
    let before = snapshot(&outside)?;
    let start = Instant::now();
    let mut all: Vec<_> = MODES.into_iter().flat_map(|mode| cases().into_iter().map(move |(what, kind)| (mode, what, kind))).collect();
    random.shuffle_in_turn(&mut all, |(mode, what, _)| (*mode, *what));
    let mut done = 0;
    for (mode, what, kind) in &all {
        let name = format!("{mode}:{what}:{kind}");
        let late = limit.is_some_and(|limit| start.elapsed() > limit);
        if interrupted() || late || only.is_some_and(|only| only != name) {
            continue;
        }
        let complain = |text: String| {
            let again = format!("stores --seed {} --case {name}", ground.setting.seed);
            tally.violation(&format!("stores: {name}: {text}"), &again);
        };
        one(ground, &full(mode), (mode, what, kind), &outside, random, &complain).with_context(|| name.clone())?;
        if snapshot(&outside)? != before {
            complain("something changed outside of the store".to_owned());
        }
        tally.checked(u64::try_from(2 * ground.modules.len())?);
        done += 1;
    }
    println!("stores: poison: {done} of {} cases, {:.1} s", all.len(), start.elapsed().as_secs_f64());
    if done == 0 && !interrupted() {
        bail!("no case is called {}; a case is storm, xfs, exchange, poison or MODE:WHAT:KIND", only.unwrap_or_default());
    }
    Ok(())
}

fn one(
    ground: &Ground<'_>,
    full: &Path,
    (mode, what, kind): (&str, &str, &str),
    outside: &Path,
    random: &mut Random,
    complain: &dyn Fn(String),
) -> Result<()> {
    let store = ground.room.join("store");
    let trees = [ground.room.join("fresh"), ground.room.join("second")];
    for path in trees.iter().chain([&store]) {
        crate::run::remove(path)?;
    }
    copy(full, &store)?;
    for (tree, linked) in trees.iter().zip([true, false]) {
        ground.plant(tree, linked)?;
    }
    let values = keyed(&store);
    let (all, targets): (Vec<PathBuf>, Vec<PathBuf>) = match what {
        "value" => (values.clone(), values.clone()),
        "shard" => (Vec::new(), values.iter().filter_map(|path| path.parent()).map(Path::to_owned).collect()),
        _ => (Vec::new(), MEMORIES.iter().map(|name| store.join("store-1").join(name)).filter(|path| path.exists()).collect()),
    };
    let mut targets: Vec<PathBuf> = targets;
    targets.dedup();
    for (number, path) in targets.iter().enumerate() {
        // what was put there by an earlier one is nobody's own any more
        let of_kind: Vec<PathBuf> = all.iter().filter(|other| is_link(other) == is_link(path)).cloned().collect();
        let from = if kind == "other" && what == "value" { vec![another(full, &store, path, &of_kind, number)?] } else { values.clone() };
        let towards = if what == "shard" { outside.to_owned() } else { outside.join(path.file_name().context("no name")?) };
        put(kind, path, &from, &towards, random).with_context(|| path.display().to_string())?;
    }
    let told = |command: Command, may: &[i32], does: &str| -> Result<String> {
        let cost = measure(vec![command])?;
        if !cost.code.is_some_and(|code| may.contains(&code)) || cost.text.contains("panicked") {
            complain(format!("{does} exits {:?}: {}", cost.code, cost.text.trim().replace('\n', " | ")));
        }
        Ok(cost.text)
    };
    let bad_bytes = what == "value" && kind != "gone";
    let in_the_way = what == "shard" && !["dir", "gone"].contains(&kind);
    let found: &[i32] = if bad_bytes || in_the_way { &[1] } else { &[0] };
    told(ground.on_store(&["verify"], &store), found, "store verify of a poisoned store")?;
    let compile = |tree: &Path| {
        let mut command = ground.on_tree("compile", tree, 1, &store);
        command.args(["--link-mode", mode, "--format", "json"]);
        command
    };
    for (tree, which) in trees.iter().zip(["the first compile", "the second compile"]) {
        let text = told(compile(tree), &[0], which)?;
        for why in ground.at_rest(tree)? {
            complain(format!("after {which} {why}"));
        }
        let hits = summary_hits(&text);
        if bad_bytes && which == "the first compile" && hits != Some(0) {
            complain(format!("{hits:?} of them are told to be hits"));
        }
    }
    told(ground.on_store(&["stats"], &store), &[0], "store stats")?;
    told(ground.on_store(&["prune", "--max-size", "0"], &store), &[0], "store prune")?;
    told(ground.on_store(&["clean"], &store), &[0], "store clean")?;
    told(ground.on_store(&["verify"], &store), &[0], "store verify after clean")?;
    if let Some(left) = left_in(&store).first() {
        complain(format!("{} is left over after store clean", left.display()));
    }
    Ok(())
}

/// Shared artifacts are exchanged for one another without pause, so that one that was proved is another when it is linked: what comes
/// between the two takes its time.
pub(crate) fn exchange(ground: &Ground<'_>, tally: &Tally) -> Result<()> {
    if let Err(why) = crate::strace_log::possible() {
        println!("SKIP stores exchange: {why}");
        return Ok(());
    }
    let again = format!("stores --seed {} --case exchange", ground.setting.seed);
    let (store, tree) = (ground.room.join("exchanged"), ground.room.join("taker"));
    check(ground.on_tree("compile", &ground.trees[0], 1, &store).args(["--link-mode", "hardlink"]))?;
    let links: Vec<PathBuf> = keyed(&store).into_iter().filter(|path| is_link(path)).collect();
    let (mut linked, mut copied, mut swaps) = (0, 0, 0_u64);
    for _ in 0..4 {
        crate::run::remove(&tree)?;
        ground.plant(&tree, true)?;
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-b",
            "execve",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=linkat,?link",
            "-e",
            "inject=linkat,?link:delay_enter=20000",
        ]);
        let mut inner = ground.on_tree("compile", &tree, 1, &store);
        inner.args(["--link-mode", "hardlink"]);
        command.arg(inner.get_program()).args(inner.get_args());
        crate::locks::holders::pass_environment(&inner, &mut command);
        let over = std::sync::atomic::AtomicBool::new(false);
        let cost = std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut count = 0;
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    use rustix::fs::{CWD, RenameFlags, renameat_with};
                    // right for a while, so that it is taken for good, and then another for a while
                    for pair in links.chunks_exact(2) {
                        count += u64::from(renameat_with(CWD, &pair[0], CWD, &pair[1], RenameFlags::EXCHANGE).is_ok());
                    }
                    std::thread::sleep(std::time::Duration::from_millis(7));
                }
                count
            });
            let cost = measure(vec![command]);
            over.store(true, std::sync::atomic::Ordering::SeqCst);
            swaps += swapper.join().unwrap_or(0);
            cost
        })?;
        if cost.code != Some(0) {
            tally.violation(&format!("stores: exchange: compile exits {:?}: {}", cost.code, cost.text.trim()), &again);
        }
        for why in ground.at_rest(&tree)? {
            tally.violation(&format!("stores: exchange: {why}"), &again);
        }
        for name in &ground.modules {
            use std::os::unix::fs::MetadataExt;
            let shared = std::fs::metadata(ground.artifact(&tree, name)).is_ok_and(|meta| meta.nlink() > 1);
            *if shared { &mut linked } else { &mut copied } += 1;
        }
        tally.checked(u64::try_from(ground.modules.len())?);
    }
    println!("stores: exchange: {swaps} exchanges, {linked} artifacts linked, {copied} made anew");
    if swaps == 0 || linked == 0 {
        tally.violation("stores: exchange: nothing was exchanged or linked: then nothing was shown", &again);
    }
    Ok(())
}

/// The value of another key, as it was.
fn another(full: &Path, store: &Path, path: &Path, all: &[PathBuf], number: usize) -> Result<PathBuf> {
    let other = all.iter().cycle().skip(number + 1).take(all.len()).find(|other| *other != path).context("only one value")?;
    Ok(full.join(other.strip_prefix(store)?))
}

fn is_link(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "links")
}

fn summary_hits(text: &str) -> Option<u64> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter(|line| line["kind"] == "summary").find_map(|line| line["store"]["hits"].as_u64())
}

/// What a cleaned store must not have.
pub(crate) fn left_in(store: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(store).min_depth(1).into_iter().flatten().map(walkdir::DirEntry::into_path);
    all.filter(|path| !path.ends_with("CACHEDIR.TAG") && !path.ends_with("store-1")).collect()
}

type Seen = Vec<(PathBuf, Vec<u8>, std::time::SystemTime)>;

fn snapshot(dir: &Path) -> Result<Seen> {
    let mut all = Vec::new();
    for path in crate::whole::files(dir) {
        let modified = std::fs::metadata(&path)?.modified()?;
        all.push((path.clone(), std::fs::read(&path)?, modified));
    }
    Ok(all)
}
