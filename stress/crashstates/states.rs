//! The states that a power cut may leave, at one moment of a replayed run: each counted once, each judged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use crate::crashstates::replay::{Content, Disk, FLUSHED, Names, Slot, VARIANTS, WRITTEN};
use crate::whole::{Digest, Look, look};

/// An artifact that must be whole: as it was, or sealed for its source.
#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    pub(crate) old: Option<Vec<u8>>,
    pub(crate) source: Digest,
    /// Is it another one when all is done, although the old one is sealed for the same source?
    pub(crate) changes: bool,
}

/// By path below the tree.
pub(crate) type Artifacts = BTreeMap<PathBuf, Artifact>;

/// Why these bytes are no new artifact.
pub(crate) fn not_new(artifact: &Artifact, bytes: &[u8]) -> Option<String> {
    match look(bytes) {
        Look::Sealed { .. } if artifact.changes && artifact.old.as_deref() == Some(bytes) => Some("is as it was".to_owned()),
        Look::Sealed { source, adopted: false } if source == artifact.source => None,
        Look::Sealed { adopted: true, .. } => Some("is adopted".to_owned()),
        Look::Sealed { .. } => Some("is sealed for another source".to_owned()),
        Look::Unsealed => Some(format!("is not sealed ({} bytes)", bytes.len())),
        Look::Torn(why) => Some(why),
    }
}

/// Which of the names that are not durable yet reached the disk.
#[derive(Debug, Clone, Copy)]
enum Choice {
    First(usize),
    Alone(usize),
    Without(usize),
}

impl Choice {
    fn all(pending: usize) -> impl Iterator<Item = Self> {
        (0..=pending).map(Self::First).chain((0..pending).flat_map(|number| [Self::Alone(number), Self::Without(number)]))
    }

    fn has(self, number: usize) -> bool {
        match self {
            Self::First(count) => number < count,
            Self::Alone(only) => number == only,
            Self::Without(lost) => number != lost,
        }
    }
}

/// On the disk beside the tree: what is in these is judged by what a run makes of it, and would only multiply the states.
pub(crate) const BESIDE: [&str; 2] = ["store", "first"];

fn is_beside(path: &std::path::Path) -> bool {
    BESIDE.iter().any(|name| path.starts_with(name))
}

#[derive(Debug)]
pub(crate) struct States<'a> {
    artifacts: &'a Artifacts,
    seen: HashSet<u128>,
    verdicts: HashMap<(Slot, Content), Option<String>>,
    pub(crate) prefix: usize,
    pub(crate) bad: usize,
    /// The first ones found.
    pub(crate) told: Vec<String>,
}

impl<'a> States<'a> {
    pub(crate) fn new(artifacts: &'a Artifacts) -> Self {
        Self { artifacts, seen: HashSet::new(), verdicts: HashMap::new(), prefix: 0, bad: 0, told: Vec::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// The power goes now. `moment` says when that is.
    pub(crate) fn cut(&mut self, disk: &Disk, moment: &str) {
        for choice in Choice::all(disk.pending.len()) {
            let mut names = disk.durable.clone();
            for (_, pending) in disk.pending.iter().enumerate().filter(|(number, _)| choice.has(*number)) {
                pending.apply(&mut names);
            }
            let before = self.seen.len();
            self.fill(disk, &names, &format!("{moment}, of {} names not flushed {choice:?}", disk.pending.len()));
            if matches!(choice, Choice::First(_)) {
                self.prefix += self.seen.len() - before;
            }
        }
    }

    /// Contents for these names: of all files that are not flushed at once, and of one at a time while the others are whole or lost.
    fn fill(&mut self, disk: &Disk, names: &Names, moment: &str) {
        let reached = reachable(disk, names);
        let (mut sum, mut bad) = (0_u128, 0);
        let mut loose = Vec::new();
        for (slot, ino) in names.iter().enumerate() {
            if is_beside(&disk.places[slot].path) {
                continue;
            }
            let here = ino.filter(|_| reached[disk.places[slot].dir]);
            let Some(inode) = here.map(|ino| &disk.inodes[ino]) else {
                bad += usize::from(self.verdict(disk, slot, None).is_some());
                continue;
            };
            // what a lock says of its holder is nothing to an artifact, and would only multiply the states
            if inode.dirty && !disk.places[slot].path.ends_with(".bytekeep.lock") {
                loose.push((slot, inode.variants.map(|content| (mark(slot, content), self.verdict(disk, slot, Some(content)).is_some()))));
            } else {
                let content = if inode.is_dir || inode.dirty { usize::MAX } else { inode.variants[WRITTEN] };
                sum = sum.wrapping_add(mark(slot, content));
                bad += usize::from(content != usize::MAX && self.verdict(disk, slot, Some(content)).is_some());
            }
        }
        let all = |variant: usize| {
            loose.iter().fold((sum, bad), |(sum, bad), (_, each)| (sum.wrapping_add(each[variant].0), bad + usize::from(each[variant].1)))
        };
        for variant in 0..VARIANTS.len() {
            let (sum, bad) = all(variant);
            self.state(disk, names, sum, bad, moment, |_| variant);
        }
        for others in [WRITTEN, FLUSHED] {
            let (sum, bad) = all(others);
            for (slot, each) in &loose {
                for variant in (0..VARIANTS.len()).filter(|variant| *variant != others) {
                    let sum = sum.wrapping_sub(each[others].0).wrapping_add(each[variant].0);
                    let bad = bad - usize::from(each[others].1) + usize::from(each[variant].1);
                    self.state(disk, names, sum, bad, moment, |other| if other == *slot { variant } else { others });
                }
            }
        }
    }

    fn state(&mut self, disk: &Disk, names: &Names, sum: u128, bad: usize, moment: &str, variant: impl Fn(Slot) -> usize) {
        if !self.seen.insert(sum) || bad == 0 {
            return;
        }
        self.bad += 1;
        if self.told.len() >= 3 {
            return;
        }
        let reached = reachable(disk, names);
        let whys = names.iter().enumerate().find_map(|(slot, ino)| {
            let content = ino.filter(|_| reached[disk.places[slot].dir]).map(|ino| disk.inodes[ino].variants[variant(slot)]);
            let why = self.verdict(disk, slot, content)?;
            Some(format!("{}: {why} (unflushed data: {})", disk.places[slot].path.display(), VARIANTS[variant(slot)]))
        });
        self.told.push(format!("{moment}: {}", whys.unwrap_or_default()));
    }

    /// What is wrong with an artifact of these contents, or with its absence.
    fn verdict(&mut self, disk: &Disk, slot: Slot, content: Option<Content>) -> Option<&str> {
        let artifacts = self.artifacts;
        let verdict = self.verdicts.entry((slot, content.unwrap_or(usize::MAX))).or_insert_with(|| {
            let artifact = artifacts.get(&disk.places[slot].path)?;
            let Some(content) = content else { return artifact.old.is_some().then(|| "is gone".to_owned()) };
            let bytes = &disk.contents[content];
            if artifact.old.as_ref() == Some(bytes) { None } else { not_new(artifact, bytes) }
        });
        verdict.as_deref()
    }

    /// Artifacts that a cut right after the end may take back: names that are not flushed, or data that is not.
    pub(crate) fn not_durable(&self, disk: &Disk) -> Vec<String> {
        let reached = reachable(disk, &disk.durable);
        let lost = |path: &PathBuf, artifact: &Artifact| {
            let slot = disk.find(path).filter(|slot| reached[disk.places[*slot].dir]);
            match slot.and_then(|slot| disk.durable[slot]) {
                Some(ino) => not_new(artifact, &disk.contents[disk.inodes[ino].variants[FLUSHED]]),
                None => Some("its name is not on the disk".to_owned()),
            }
        };
        self.artifacts.iter().filter_map(|(path, artifact)| Some(format!("{}: {}", path.display(), lost(path, artifact)?))).collect()
    }
}

/// One state, laid out for real: `number` chooses among those that [`States::cut`] would make.
pub(crate) fn lay_out(disk: &Disk, random: &mut crate::run::Random, to: &std::path::Path) -> anyhow::Result<()> {
    let choices: Vec<Choice> = Choice::all(disk.pending.len()).collect();
    let choice = choices[random.below(choices.len())];
    let mut names = disk.durable.clone();
    for (_, pending) in disk.pending.iter().enumerate().filter(|(number, _)| choice.has(*number)) {
        pending.apply(&mut names);
    }
    // all alike, or each in its own way
    let alike = random.below(VARIANTS.len() + 2);
    let reached = reachable(disk, &names);
    let mut made: HashMap<usize, PathBuf> = HashMap::new();
    for (slot, ino) in names.iter().enumerate().filter_map(|(slot, ino)| Some((slot, (*ino)?))) {
        let (inode, path) = (&disk.inodes[ino], to.join(&disk.places[slot].path));
        if !reached[disk.places[slot].dir] {
            continue;
        }
        if inode.is_dir {
            std::fs::create_dir_all(path)?;
        } else if let Some(first) = made.get(&ino) {
            std::fs::hard_link(first, path)?;
        } else {
            let variant = if !inode.dirty {
                WRITTEN
            } else if alike < VARIANTS.len() {
                alike
            } else {
                random.below(VARIANTS.len())
            };
            std::fs::write(&path, &disk.contents[inode.variants[variant]])?;
            made.insert(ino, path);
        }
    }
    Ok(())
}

/// Which directories can be reached by these names. One is always made after that which it stands in.
fn reachable(disk: &Disk, names: &Names) -> Vec<bool> {
    let mut reached = vec![false; disk.inodes.len()];
    for (ino, inode) in disk.inodes.iter().enumerate().filter(|(_, inode)| inode.is_dir) {
        reached[ino] = ino == 0 || (names[inode.home] == Some(ino) && reached[disk.places[inode.home].dir]);
    }
    reached
}

/// A state is known by the sum of its names' marks, in any order: 128 bits, so that no two of some millions meet.
fn mark(slot: Slot, content: Content) -> u128 {
    let half = |salt: u64| {
        let mixed = crate::run::Random::new(salt ^ u64::try_from(slot).unwrap_or(0).wrapping_mul(0x0100_0000_01B3)).next();
        crate::run::Random::new(mixed ^ u64::try_from(content).unwrap_or(0)).next()
    };
    (u128::from(half(1)) << 64) | u128::from(half(2))
}
