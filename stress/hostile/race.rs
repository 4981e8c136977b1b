//! The user exchanges names in the tree while root works on it.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::ground::{Ground, SECRET, Way, run};
use super::user::{Act, USER, User};
use crate::run::{Random, interrupted, strays_after};
use crate::whole::{files, is_artifact};

const VERBS: [&str; 7] = ["compile", "seal", "force", "verify", "repair", "clean", "compile"];

/// Lays out the tree, with the exchanges that the user makes, and those that only root can make where hard links are protected.
fn lay_out(ground: &mut Ground<'_>) -> Result<(Vec<Act>, Vec<Act>)> {
    ground.lay_out_outside()?;
    for dir in ["pkg", "cached", "etc", "private", "hard", "lock", "one", "two", "flood"] {
        for number in 0..3 {
            for letter in ["m", "n"] {
                ground.file(format!("tree/{dir}/{letter}{number}.py"), format!("HERE = '{dir} {letter}{number}'\n"))?;
            }
        }
        std::fs::create_dir_all(ground.tree.join(dir).join("__pycache__"))?;
    }
    // fits the artifact outside, so that there is something to seal
    let victim = ground.file("tree/hard/h0.py", "VICTIM = 1\n")?;
    let time = std::fs::metadata(ground.outside.join("victim.py"))?.modified()?;
    std::fs::File::options().write(true).open(victim)?.set_modified(time)?;
    for name in ["s0.py", "s1.py"] {
        ground.file(Path::new("tree/private").join(name), "OPEN = 1\n")?;
    }
    let link = |to: &str, name: &str| -> Result<PathBuf> {
        let path = ground.tree.join(name);
        symlink(ground.outside.join(to), &path)?;
        Ok(path)
    };
    let tree = |name: &str| ground.tree.join(name);
    let act = |kind, a, b| Act { kind, a, b };
    let acts = vec![
        act("swap", tree("pkg"), link("pkg", "pkg.link")?),
        act("swapdir", tree("cached/__pycache__"), link("pkg/__pycache__", "cached/away")?),
        act("swapdir", tree("etc/__pycache__"), link("etc", "etc/away")?),
        act("swap", tree("private/s0.py"), link("secret.py", "private/s0.link")?),
        act("swap", tree("private/s1.py"), link("wrong.py", "private/s1.link")?),
        act("swapdir", tree("one/__pycache__"), tree("two/__pycache__")),
        act("flood", tree("flood/__pycache__"), ground.outside.join("etc")),
    ];
    let rooted = vec![
        act("swaphard", ground.artifact("tree/hard", "h0"), ground.outside.join("victim.pyc")),
        act("link", tree("lock/__pycache__/.bytekeep.lock"), ground.outside.join("precious")),
    ];
    ground.give_away()?;
    Ok((acts, rooted))
}

/// What it found, after so many checks.
pub(super) fn race(ground: &mut Ground<'_>, way: Way, seconds: f64, random: &mut Random) -> Result<(u64, Vec<String>)> {
    let (acts, rooted) = lay_out(ground)?;
    ground.begin()?;
    let start = Instant::now();
    let (mut found, mut runs, mut refused) = (Vec::new(), 0, 0);
    let mut exchanges: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    while found.is_empty() && !interrupted() && (runs < VERBS.len() || start.elapsed().as_secs_f64() < seconds) {
        let users = [User::start(USER, random.next() >> 1, &acts)?, User::start(0, random.next() >> 1, &rooted)?];
        let ours = HashSet::from([users[0].id(), users[1].id()]);
        // a fixed order, for each makes work for the next
        for verb in VERBS {
            let ended = run(ground.bytekeep(way, &ground.words(verb, &ground.tree)))?;
            runs += 1;
            refused += if way == Way::Direct { 0 } else { ground.refused() };
            slowest = slowest.max(ended.wall);
            found.extend(ended.faults().into_iter().map(|fault| format!("{verb}: {fault}")));
            found.extend(leaks(ground).map(|path| format!("{verb}: {} holds what only root can read", path.display())));
        }
        if strays_after(Duration::from_secs(2), &ours) > 0 {
            found.push("a process outlived its run".to_owned());
        }
        for user in users {
            for (act, count) in user.stop()? {
                *exchanges.entry(act.a).or_default() += count;
            }
        }
        // only now: a walk by path would be led outside by the same exchanges
        found.extend(ground.changed()?);
        found.extend(leaks(ground).map(|path| format!("{} holds what only root can read", path.display())));
    }
    let total: u64 = exchanges.values().sum();
    println!(
        "race:{}: {runs} runs, {total} exchanges (fewest at one place {}), {refused} calls refused, slowest run {:.1} s",
        way.word(),
        exchanges.values().min().unwrap_or(&0),
        slowest.as_secs_f64()
    );
    found
        .extend(exchanges.iter().filter(|(_, count)| **count == 0).map(|(path, _)| format!("nothing was exchanged at {}", path.display())));
    if matches!(way, Way::Refused(_)) && refused == 0 {
        found.push("no call was refused".to_owned());
    }
    Ok((u64::try_from(runs)? + total, found))
}

/// Artifacts of the one directory with links to secrets. Not by a walk, see above.
fn leaks(ground: &Ground<'_>) -> impl Iterator<Item = PathBuf> {
    let all = files(&ground.tree.join("private")).into_iter().filter(|path| is_artifact(path));
    all.filter(|path| std::fs::read(path).is_ok_and(|bytes| bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes())))
}

/// Sources that a record and a list name, in a directory that is exchanged with a link to outside meanwhile. Only the environment and the
/// list's directory were named; what is below them is data.
pub(super) fn env_race(ground: &mut Ground<'_>, seconds: f64, random: &mut Random) -> Result<(u64, Vec<String>)> {
    // No cache directory outside: that a lock is taken and let go there is to be seen as well.
    for number in 0..5 {
        ground.file(format!("outside/pkg/m{number}.py"), format!("OUTSIDE = {number}\n"))?;
    }
    let site = ground.tree.join("lib/python3/site-packages");
    let mut acts = Vec::new();
    let (mut record, mut list) = (String::new(), String::new());
    for dir in ["pkg", "top/pkg"] {
        for number in 0..5 {
            ground.file(site.join(dir).join(format!("m{number}.py")), format!("HERE = {number}\n"))?;
            writeln!(record, "{dir}/m{number}.py,,")?;
            writeln!(list, "lib/python3/site-packages/{dir}/m{number}.py")?;
        }
    }
    for (name, to) in [("pkg", "outside/pkg"), ("top", "outside")] {
        let link = site.join(format!("{name}.link"));
        symlink(ground.top().join(to), &link)?;
        acts.push(Act { kind: "swap", a: site.join(name), b: link });
    }
    ground.file(site.join("pkg-1.dist-info/RECORD"), record)?;
    let list = ground.file("list", list)?;
    ground.give_away()?;
    ground.begin()?;
    let start = Instant::now();
    let (mut found, mut runs, mut total) = (Vec::new(), 0, 0);
    while found.is_empty() && !interrupted() && (runs < 2 || start.elapsed().as_secs_f64() < seconds) {
        for way in [["--env".into()].to_vec(), vec!["--files-from".into(), list.clone().into_os_string(), "--root".into()]] {
            let user = User::start(USER, random.next() >> 1, &acts)?;
            let mut command = ground.bytekeep(Way::Direct, &["compile".into(), "--force".into(), "--python".into()]);
            command.arg(&ground.setting.python.path).args(&way).arg(&ground.tree);
            let ended = run(command)?;
            runs += 1;
            total += user.stop()?.iter().map(|(_, count)| count).sum::<u64>();
            let way = way[0].to_string_lossy();
            found.extend(ended.faults().into_iter().map(|fault| format!("{way}: {fault}")));
            found.extend(ground.changed()?.into_iter().map(|change| format!("{way}: {change}")));
        }
    }
    println!("race:env: {runs} runs, {total} exchanges");
    if total == 0 {
        found.push("nothing was exchanged".to_owned());
    }
    Ok((u64::try_from(runs)? + total, found))
}

/// A lock file whose other name comes and goes: with all in between made slow, it has one name when it is asked for its names.
pub(super) fn lock_race(ground: &mut Ground<'_>, seconds: f64, random: &mut Random) -> Result<(u64, Vec<String>)> {
    ground.file("outside/precious", "precious\n")?;
    let mut acts = Vec::new();
    for number in 0..4 {
        let dir = format!("tree/p{number}");
        ground.file(format!("{dir}/m.py"), "X = 1\n")?;
        ground.file(ground.artifact(&dir, "m").strip_prefix(ground.top())?, [&ground.magic[..], b"torn"].concat())?;
        acts.push(Act { kind: "link", a: ground.top().join(&dir).join("__pycache__/.bytekeep.lock"), b: ground.outside.join("precious") });
    }
    ground.give_away()?;
    ground.begin()?;
    let start = Instant::now();
    let (mut found, mut runs) = (Vec::new(), 0);
    let user = User::start(0, random.next() >> 1, &acts)?;
    while found.is_empty() && !interrupted() && (runs == 0 || start.elapsed().as_secs_f64() < seconds) {
        for number in 0..4 {
            std::fs::write(ground.artifact(&format!("tree/p{number}"), "m"), [&ground.magic[..], b"torn"].concat())?;
        }
        let ended = run(ground.bytekeep(Way::Slow, &ground.words("clean", &ground.tree)))?;
        runs += 1;
        found.extend(ended.faults().into_iter().map(|fault| format!("clean: {fault}")));
        found.extend(ground.changed()?.into_iter().filter(|change| change.starts_with("outside")));
        for number in 0..4 {
            std::fs::create_dir_all(ground.tree.join(format!("p{number}/__pycache__")))?;
        }
    }
    let total: u64 = user.stop()?.iter().map(|(_, count)| count).sum();
    println!("race:lock: {runs} runs, {total} hard links laid as lock files");
    if total == 0 {
        found.push("no link was laid".to_owned());
    }
    Ok((u64::try_from(runs)? + total, found))
}
