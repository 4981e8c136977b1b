//! Every flipped bit and every cut of twenty sealed artifacts: `verify` must find each, in a tree of real files, and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::mount::check;
use crate::run::{self, Random, Setting, Tally, interrupted, measure};
use crate::whole::{Loader, Look, look};

const SEAL: usize = 96;
/// How many damaged artifacts one `verify` is given.
const BATCH: usize = 1000;
const MODES: [&str; 3] = ["timestamp", "checked-hash", "unchecked-hash"];

/// Small ones, since each bit of them costs a file: of every type of constant, with functions, classes and exception tables.
const SOURCES: [&str; 20] = [
    "",
    "x = 1\n",
    "x = 'text'\n",
    "x = b'bytes'\n",
    "x = 1.5\n",
    "x = 2j\n",
    "x = 12345678901234567890\n",
    "x = (1, 'two', None, True, ...)\n",
    "x = '\\u00e9\\u20ac'\n",
    "x = 3 in {1, 2, 3}\n",
    "def f():\n    pass\n",
    "def f(a, *b, c=1, **d):\n    return a\n",
    "f = lambda x: x + 1\n",
    "class C:\n    y = 2\n",
    "try:\n    x = 1\nexcept ValueError:\n    x = 2\n",
    "for i in range(3):\n    x = i\n",
    "with open('x') as f:\n    pass\n",
    "def g():\n    yield 1\n",
    "async def h():\n    await g()\n",
    "\"\"\"Doc.\"\"\"\nimport os\n",
];

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(usize),
    Cut(usize),
}

#[derive(Debug, Clone, Copy)]
struct Case {
    module: usize,
    damage: Damage,
}

impl Case {
    fn name(self) -> String {
        match self.damage {
            Damage::Flip(bit) => format!("m{}:flip:{bit}", self.module),
            Damage::Cut(length) => format!("m{}:cut:{length}", self.module),
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let [module, kind, number] = name.split(':').collect::<Vec<_>>().try_into().ok()?;
        let number = number.parse().ok()?;
        let damage = match kind {
            "flip" => Damage::Flip(number),
            "cut" => Damage::Cut(number),
            _ => return None,
        };
        Some(Self { module: module.strip_prefix('m')?.parse().ok().filter(|module| *module < SOURCES.len())?, damage })
    }

    fn done_to(self, whole: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = whole.to_vec();
        match self.damage {
            Damage::Flip(bit) => *bytes.get_mut(bit / 8)? ^= 1 << (bit % 8),
            Damage::Cut(length) => bytes.truncate(length),
        }
        Some(bytes)
    }
}

/// The modules as they are compiled.
struct Rot<'a> {
    setting: &'a Setting,
    room: PathBuf,
    /// what follows the stem in an artifact's name
    suffix: String,
    whole: Vec<Vec<u8>>,
}

pub(crate) fn run(setting: &Setting, seconds: Option<u64>, only: Option<&str>, random: &mut Random, tally: &Tally) -> Result<()> {
    let room = run::memory("bitrot").map_or_else(|| setting.room("bitrot"), Ok)?;
    let rot = Rot::lay_out(setting, room.path())?;
    let start = Instant::now();
    let mut cases = Vec::new();
    if let Some(only) = only {
        cases.push(Case::parse(only).with_context(|| format!("no case is called {only}; a case is mN:flip:BIT or mN:cut:LENGTH"))?);
    } else {
        for (module, whole) in rot.whole.iter().enumerate() {
            cases.extend((0..8 * whole.len()).map(|bit| Case { module, damage: Damage::Flip(bit) }));
            // what is cut by just the seal is a sound unsealed artifact: the one cut that nobody can find in the file alone
            let cuts = (0..whole.len()).filter(|length| length + SEAL != whole.len());
            cases.extend(cuts.map(|length| Case { module, damage: Damage::Cut(length) }));
        }
        random.shuffle(&mut cases);
    }
    let (mut done, mut verdicts) = (0, BTreeMap::new());
    for (number, batch) in cases.chunks(BATCH).enumerate() {
        if interrupted() || seconds.is_some_and(|limit| start.elapsed().as_secs() >= limit) {
            break;
        }
        rot.verify(number, batch, &mut verdicts, tally)?;
        done += batch.len();
        tally.checked(u64::try_from(batch.len())?);
    }
    let flips = cases.iter().take(done).filter(|case| matches!(case.damage, Damage::Flip(_)));
    let (loaded, asked) = rot.loaded_by_python(flips)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("bitrot: {done} of {} flips and cuts, verdicts {verdicts:?}, {seconds:.1} s", cases.len());
    println!("bitrot: of {asked} artifacts with one bit flipped {} loads {loaded} as if nothing were wrong", setting.python.version);
    if only.is_none() && loaded == 0 && !interrupted() {
        tally.violation("who only loads finds every flip: then this shows nothing", "bitrot");
    }
    if only.is_some() && tally.violations() > 0 {
        println!("the tree stays in {}", run::keep(room)?.display());
    }
    Ok(())
}

impl<'a> Rot<'a> {
    fn lay_out(setting: &'a Setting, room: &Path) -> Result<Self> {
        let mut rot = Self { setting, room: room.to_owned(), suffix: String::new(), whole: Vec::new() };
        for (number, text) in SOURCES.iter().enumerate() {
            let tree = rot.tree_of(number);
            std::fs::create_dir_all(&tree)?;
            std::fs::write(tree.join("m.py"), text)?;
            let mut compile = setting.bytekeep("compile", &tree, 1, &room.join("cache"));
            check(compile.args(["--invalidation-mode", MODES[number % MODES.len()]]))?;
            let artifact = std::fs::read_dir(tree.join("__pycache__"))?.next().context("no artifact")??;
            let name = artifact.file_name().into_string().ok().context("an odd name")?;
            name.strip_prefix('m').context("an odd name")?.clone_into(&mut rot.suffix);
            let bytes = std::fs::read(artifact.path())?;
            if !matches!(look(&bytes), Look::Sealed { .. }) {
                bail!("{} is not sealed", artifact.path().display());
            }
            rot.whole.push(bytes);
        }
        Ok(rot)
    }

    fn tree_of(&self, module: usize) -> PathBuf {
        self.room.join(format!("m{module}"))
    }

    /// A tree of damaged artifacts, each beside a source of its own (the module's, by another name), and one that is whole.
    fn verify(&self, number: usize, batch: &[Case], verdicts: &mut BTreeMap<String, usize>, tally: &Tally) -> Result<()> {
        let tree = self.room.join(format!("batch{number}"));
        let cache = tree.join("__pycache__");
        std::fs::create_dir_all(&cache)?;
        let lay = |stem: &str, module: usize, bytes: &[u8]| -> Result<PathBuf> {
            std::fs::hard_link(self.tree_of(module).join("m.py"), tree.join(format!("{stem}.py")))?;
            let artifact = cache.join(format!("{stem}{}", self.suffix));
            std::fs::write(&artifact, bytes)?;
            Ok(artifact)
        };
        let mut laid = HashMap::new();
        for (at, case) in batch.iter().enumerate() {
            let bytes = case.done_to(&self.whole[case.module]).with_context(|| format!("{} is outside", case.name()))?;
            laid.insert(lay(&format!("d{at}"), case.module, &bytes)?, *case);
        }
        let control = lay("whole", number % SOURCES.len(), &self.whole[number % SOURCES.len()])?;
        let mut verify = self.setting.bytekeep("verify", &tree, 2, &self.room.join("cache"));
        verify.args(["--format", "json"]);
        let cost = measure(vec![verify])?;
        let told: HashMap<PathBuf, String> = cost.text.lines().filter_map(run::verdict).collect();
        let seed = self.setting.seed;
        for (path, case) in &laid {
            let said = told.get(path).map_or("nothing", String::as_str);
            *verdicts.entry(said.to_owned()).or_default() += 1;
            // `unknown`: what might be a newer format is left alone and told
            if matches!(said, "ok" | "unsealed" | "nothing") {
                let text = format!("bitrot: verify says {said} of {}", case.name());
                tally.violation(&text, &format!("bitrot --seed {seed} --case {}", case.name()));
            }
        }
        if told.get(&control).map(String::as_str) != Some("ok") {
            tally.violation(&format!("bitrot: verify says {:?} of what is whole", told.get(&control)), &format!("bitrot --seed {seed}"));
        }
        std::fs::remove_dir_all(&tree)?;
        Ok(())
    }

    /// Who only loads what an artifact holds, as import does, finds little. How many of how many load.
    fn loaded_by_python<'c>(&self, cases: impl Iterator<Item = &'c Case>) -> Result<(usize, usize)> {
        let mut loader = Loader::start(&self.setting.python)?;
        let (mut loaded, mut asked) = (0, 0);
        for case in cases.take(1000) {
            // flips of the code itself: those of the header and of the seal import does not look at
            let whole = &self.whole[case.module];
            let Damage::Flip(bit) = case.damage else { continue };
            if !(self.setting.python.header..whole.len() - SEAL).contains(&(bit / 8)) {
                continue;
            }
            let Some(bytes) = case.done_to(whole) else { continue };
            asked += 1;
            // an interpreter that such bytes bring down has not loaded them
            match loader.refuses(&bytes) {
                Ok(None) => loaded += 1,
                Ok(Some(_)) => {}
                Err(_) => loader = Loader::start(&self.setting.python)?,
            }
        }
        Ok((loaded, asked))
    }
}
