//! Stores that others own or can write, full of forged values: sealed for the right key, and other code. A run must not believe one of them,
//! must say so, must write nothing there, and must come to the same artifacts.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::ground::{Ground, Snapshot, give, run, snapshot};
use super::user::USER;
use crate::corpus::module;
use crate::locks::holders::pass_environment;
use crate::mount::{check, copy, on_path};
use crate::run::{Tally, interrupted, without_options};
use crate::stores::ground::keyed;
use crate::stores::judge::{Code, Judge};
use crate::whole::forged;

const MODULES: usize = 4;

/// What a run may do with a store that is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    /// Nothing is taken from it, nothing changes in it, and it is told.
    Leave,
    /// It is the user's own: used, but for what others own in it.
    Mend,
}

/// How a store is laid: `place/bytekeep` is what is named.
struct Case {
    name: &'static str,
    must: Must,
    lay: fn(&Path) -> Result<()>,
}

const CASES: [Case; 17] = [
    Case { name: "theirs", must: Must::Leave, lay: |place| give_all(&place.join("bytekeep")) },
    Case { name: "theirs-version", must: Must::Leave, lay: |place| give(&place.join("bytekeep/store-1"), USER) },
    Case { name: "group-writes", must: Must::Leave, lay: |place| mode(&place.join("bytekeep"), 0o775) },
    Case { name: "all-write", must: Must::Leave, lay: |place| mode(&place.join("bytekeep"), 0o777) },
    Case { name: "group-writes-version", must: Must::Leave, lay: |place| mode(&place.join("bytekeep/store-1"), 0o775) },
    Case { name: "all-write-version", must: Must::Leave, lay: |place| mode(&place.join("bytekeep/store-1"), 0o777) },
    Case { name: "place-theirs", must: Must::Leave, lay: |place| give(place, USER) },
    Case { name: "place-all-write", must: Must::Leave, lay: |place| mode(place, 0o777) },
    Case { name: "place-group-writes", must: Must::Leave, lay: |place| mode(place, 0o775) },
    Case {
        name: "sticky-theirs",
        must: Must::Leave,
        lay: |place| {
            give_all(&place.join("bytekeep"))?;
            mode(place, 0o1777)
        },
    },
    Case {
        name: "sticky-link",
        must: Must::Leave,
        lay: |place| {
            aside(place, "real")?;
            symlink("real", place.join("bytekeep"))?;
            mode(place, 0o1777)
        },
    },
    Case {
        name: "sticky-absent",
        must: Must::Leave,
        lay: |place| {
            aside(place, "elsewhere")?;
            mode(place, 0o1777)
        },
    },
    Case {
        name: "link-to-theirs",
        must: Must::Leave,
        lay: |place| {
            std::fs::create_dir(place.join("home"))?;
            aside(place, "home/store")?;
            give(&place.join("home"), USER)?;
            give_all(&place.join("home/store"))?;
            Ok(symlink("home/store", place.join("bytekeep"))?)
        },
    },
    Case {
        name: "link-through-theirs",
        must: Must::Leave,
        lay: |place| {
            std::fs::create_dir(place.join("home"))?;
            aside(place, "real")?;
            symlink("../real", place.join("home/store"))?;
            give(&place.join("home"), USER)?;
            Ok(symlink("home/store", place.join("bytekeep"))?)
        },
    },
    Case {
        name: "version-link-to-theirs",
        must: Must::Leave,
        lay: |place| {
            std::fs::rename(place.join("bytekeep/store-1"), place.join("theirs"))?;
            give_all(&place.join("theirs"))?;
            Ok(symlink("../theirs", place.join("bytekeep/store-1"))?)
        },
    },
    Case {
        name: "shards-theirs",
        must: Must::Mend,
        lay: |place| keyed(place).iter().try_for_each(|value| give_all(value.parent().context("no shard")?)),
    },
    Case { name: "values-theirs", must: Must::Mend, lay: |place| keyed(place).iter().try_for_each(|value| give(value, USER)) },
];

fn mode(path: &Path, mode: u32) -> Result<()> {
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?)
}

fn give_all(path: &Path) -> Result<()> {
    check(Command::new("chown").args(["-hR", &format!("{USER}:{USER}")]).arg(path)).map(drop)
}

/// The store goes to another name.
fn aside(place: &Path, name: &str) -> Result<()> {
    Ok(std::fs::rename(place.join("bytekeep"), place.join(name))?)
}

/// How a run comes to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// By `--store`.
    Own,
    /// Where root's is when nobody names one: in a mount namespace of its own, so that this machine's is not touched.
    Default,
    /// As the administrator's, by a user's run and by root's.
    System,
}

/// The system's store has values alone.
const WAYS: [(Named, bool); 5] =
    [(Named::Own, false), (Named::Default, true), (Named::System, false), (Named::Own, true), (Named::Default, false)];

/// `quick`: each case in one way, by turns.
pub(super) fn check_all(ground: &Ground<'_>, quick: bool, again: &str, tally: &Tally) -> Result<()> {
    let lair = Lair::lay_out(ground)?;
    let mut done = 0;
    for (number, case) in CASES.iter().enumerate() {
        for (way, (named, links)) in WAYS.into_iter().enumerate() {
            let skipped = (quick && way != number % WAYS.len()) || (named == Named::Default && !on_path("unshare"));
            if interrupted() || skipped {
                continue;
            }
            let complain = |what: String| {
                let how = if links { "hardlink" } else { "copy" };
                tally.violation(&format!("stores: {} ({named:?}, {how}): {what}", case.name), again);
            };
            lair.one(case, named, links, &complain).with_context(|| case.name)?;
            tally.checked(MODULES as u64);
            done += 1;
        }
    }
    if !on_path("unshare") {
        println!("SKIP hostile stores where nobody names one: there is no unshare");
    }
    println!("hostile: stores: {done} stores that are not to be believed");
    lair.is_believed_else()
}

/// A forged store, and the code that is right.
struct Lair<'a> {
    ground: &'a Ground<'a>,
    right: Vec<String>,
    judge: std::cell::RefCell<Judge>,
}

impl<'a> Lair<'a> {
    fn lay_out(ground: &'a Ground<'a>) -> Result<Self> {
        let judge = std::cell::RefCell::new(Judge::start(&ground.setting.python)?);
        let mut lair = Self { ground, right: Vec::new(), judge };
        let tree = lair.plant("reference")?;
        check(lair.compile(&tree).arg("--no-store"))?;
        lair.right = lair.code(&tree)?;
        // both kinds of what a store holds
        for (number, mode) in ["copy", "hardlink"].into_iter().enumerate() {
            let tree = lair.plant(&format!("filler{number}"))?;
            check(lair.compile(&tree).arg("--store").arg(lair.forged()).args(["--link-mode", mode]))?;
            crate::run::remove(&tree)?;
        }
        let mut changed = 0;
        for path in keyed(&lair.forged()) {
            let value = forged(std::fs::read(&path)?, |payload| {
                for number in 0..MODULES {
                    let wanted = u32::try_from(1000 + number).unwrap_or(0).to_le_bytes();
                    while let Some(at) = payload.windows(5).position(|five| matches!(five[0], b'i' | 0xe9) && five[1..] == wanted) {
                        payload[at + 1..at + 5].copy_from_slice(&6_666_666_u32.to_le_bytes());
                        changed += 1;
                    }
                }
            });
            std::fs::write(path, value)?;
        }
        if changed == 0 {
            bail!("nothing could be forged");
        }
        Ok(lair)
    }

    fn forged(&self) -> PathBuf {
        self.ground.top().join("forged")
    }

    fn plant(&self, name: &str) -> Result<PathBuf> {
        let tree = self.ground.top().join(name);
        crate::run::remove(&tree)?;
        std::fs::create_dir(&tree)?;
        for number in 0..MODULES {
            let path = tree.join(format!("m{number}.py"));
            std::fs::write(&path, module(1000 + number, 2))?;
            let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
            std::fs::File::options().write(true).open(path)?.set_modified(then)?;
        }
        Ok(tree)
    }

    fn compile(&self, tree: &Path) -> Command {
        let mut command = Command::new(&self.ground.setting.bin);
        command.args(self.ground.setting.arguments("compile", tree, 1)).current_dir("/");
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        without_options(command);
        command.env("HOME", self.ground.top().join("home")).env("XDG_CACHE_HOME", self.ground.top().join("cache"));
        command.env_remove("BYTEKEEP_NO_STORE").env("BYTEKEEP_SYSTEM_STORE", self.ground.top().join("no-system"));
    }

    fn code(&self, tree: &Path) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for number in 0..MODULES {
            let path = tree.join("__pycache__").join(format!("m{number}.{}.pyc", self.ground.tag));
            let code = match std::fs::read(&path) {
                Ok(bytes) => self.judge.borrow_mut().code(&bytes)?,
                Err(error) => Code::Not(error.to_string()),
            };
            all.push(match code {
                Code::Is(code, _) => code,
                Code::Not(why) => format!("{}: {why}", path.display()),
            });
        }
        Ok(all)
    }

    fn one(&self, case: &Case, named: Named, links: bool, complain: &dyn Fn(String)) -> Result<()> {
        let place = self.ground.top().join("place");
        crate::run::remove(&place)?;
        std::fs::create_dir(&place)?;
        mode(&place, 0o755)?;
        let store = place.join("bytekeep");
        copy(&self.forged(), &store)?;
        (case.lay)(&place)?;
        let before = snapshot(&place)?;
        let tree = self.plant("victim")?;
        let mut command = self.compile(&tree);
        command.args(if links { &["--link-mode", "hardlink"][..] } else { &[] });
        match named {
            Named::Own => command.arg("--store").arg(&store),
            Named::Default => {
                let inner = command;
                command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", "mount --bind \"$1\" /var/cache && shift && exec \"$@\"", "sh"]).arg(&place);
                command.arg(inner.get_program()).args(inner.get_args()).current_dir("/");
                pass_environment(&inner, &mut command);
                &mut command
            }
            Named::System => command.env("BYTEKEEP_SYSTEM_STORE", &store),
        };
        if named == Named::System {
            // beside an own one that is empty
            let own = self.ground.top().join("own");
            crate::run::remove(&own)?;
            command.arg("--store").arg(own);
        }
        let ended = run(command)?;
        for fault in ended.faults() {
            complain(fault);
        }
        let code = self.code(&tree)?;
        let is_right = code == self.right;
        // one that was named must be of use
        let refused = named == Named::Own && case.must == Must::Leave;
        if ended.status.code() != Some(if refused { 2 } else { 0 }) {
            complain(format!("it ends with {}: {}", ended.status, ended.said.trim().replace('\n', " | ")));
        }
        let made: Vec<&String> = code.iter().filter(|code| !code.contains("No such file")).collect();
        let not_begun = refused && made.is_empty();
        if !is_right && !not_begun {
            complain("an artifact is not what its source gives".to_owned());
        }
        // what is not there is no trouble, nor what root laid wrong, where nobody named it
        let absent =
            (named == Named::System && case.name == "sticky-absent") || (named != Named::Own && case.name == "version-link-to-theirs");
        let shown = if named == Named::Default { Path::new("/var/cache") } else { &place };
        let tells = ended.said.contains(&*shown.to_string_lossy());
        if case.must == Must::Leave && !tells && !absent {
            complain(format!("nobody is told: {}", ended.said.trim().replace('\n', " | ")));
        }
        if (case.must == Must::Leave || named == Named::System) && snapshot(&place)? != before {
            complain(format!("something changed there: {}", difference(&before, &snapshot(&place)?)));
        }
        if case.must == Must::Leave && named == Named::Own {
            self.keep_off(&place, &store, &before, complain)?;
        }
        Ok(())
    }

    /// Nor may anybody keep house there.
    fn keep_off(&self, place: &Path, store: &Path, before: &Snapshot, complain: &dyn Fn(String)) -> Result<()> {
        for words in [&["clean"][..], &["prune", "--max-size", "0"], &["verify", "--remove-bad"], &["stats"]] {
            let mut command = Command::new(&self.ground.setting.bin);
            command.arg("store").args(words).arg("--store").arg(store);
            self.environment(&mut command);
            let ended = run(command)?;
            for fault in ended.faults() {
                complain(format!("store {}: {fault}", words[0]));
            }
            // where there is none, there is nothing to do
            if store.exists() && ended.status.code() != Some(2) {
                complain(format!("store {} ends with {}: {}", words[0], ended.status, ended.said.trim().replace('\n', " | ")));
            }
            if snapshot(place)? != *before {
                complain(format!("store {} changes something there: {}", words[0], difference(before, &snapshot(place)?)));
            }
        }
        Ok(())
    }

    /// The forgery is good: root's own store full of it is believed, and gives other code. Else nothing was shown.
    fn is_believed_else(&self) -> Result<()> {
        for mode in ["copy", "hardlink"] {
            let tree = self.plant("believer")?;
            check(self.compile(&tree).arg("--store").arg(self.forged()).args(["--link-mode", mode]))?;
            if self.code(&tree)? == self.right {
                bail!("a forged store of one's own is not believed ({mode}): then the others show nothing");
            }
        }
        Ok(())
    }
}

fn difference(before: &Snapshot, after: &Snapshot) -> String {
    let new = after.iter().filter(|(name, told)| before.get(*name) != Some(told)).map(|(name, _)| name);
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    new.chain(gone).take(3).map(|name| name.escape_ascii().to_string()).collect::<Vec<_>>().join(", ")
}
