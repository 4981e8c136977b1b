//! Root works in a tree full of code that says so when it runs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::ground::{Ground, Way, run};
use crate::run::Tally;

/// What an interpreter may import before or while it compiles, if it is led to.
const MODULES: [&str; 16] = [
    "sitecustomize",
    "usercustomize",
    "marshal",
    "sys",
    "linecache",
    "warnings",
    "codecs",
    "encodings/__init__",
    "encodings/utf_8",
    "encodings/evilcodec",
    "evilcodec",
    "os",
    "io",
    "struct",
    "binascii",
    "startup",
];

/// No descriptor is needed for it: a worker has none to spare.
fn marks(ground: &Ground<'_>, name: &str) -> String {
    let mark = ground.top().join("markers").join(name.replace('/', "-"));
    format!("import posix\ntry:\n    posix.mkdir('{}')\nexcept OSError:\n    pass\n", mark.display())
}

fn program(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

fn lay_out(ground: &mut Ground<'_>) -> Result<()> {
    for name in MODULES {
        ground.file(format!("tree/{name}.py"), marks(ground, name))?;
    }
    let import = marks(ground, "pth")
        .lines()
        .collect::<Vec<_>>()
        .join("; ")
        .replace("; try:;     ", "; ")
        .replace("; except OSError:;     pass", "");
    let version = ground.setting.python.version.rsplit_once('.').map_or("3", |(minor, _)| minor).to_owned();
    for dir in ["", &format!("home/.local/lib/python{version}/site-packages"), &format!("base/lib/python{version}/site-packages")] {
        ground.file(Path::new("tree").join(dir).join("evil.pth"), format!("{import}\n"))?;
        ground.file(Path::new("tree").join(dir).join("usercustomize.py"), marks(ground, "usercustomize"))?;
    }
    for (number, codec) in ["evilcodec", "encodings.evilcodec", "evil-codec", "startup", "tree.evilcodec"].iter().enumerate() {
        ground.file(format!("tree/cookies/c{number}.py"), format!("# coding: {codec}\nX = 1\n"))?;
    }
    ground.file("tree/cookies/fine.py", "X = 1\nassert (X, 'a warning wants to quote its line')\nY = X is 1\n")?;
    std::fs::create_dir_all(ground.tree.join("bin"))?;
    for name in ["python", "python3"] {
        let mark = ground.top().join("markers").join("interpreter");
        program(
            &ground.tree.join("bin").join(name),
            &format!("#!/bin/sh\nmkdir {}\nexec {} \"$@\"\n", mark.display(), ground.setting.python.path.display()),
        )?;
    }
    for dir in ["venv", "venv/lib"] {
        std::fs::create_dir_all(ground.tree.join(dir))?;
    }
    std::os::unix::fs::symlink("../bin", ground.tree.join("venv/bin"))?;
    ground.file("tree/venv/pyvenv.cfg", format!("home = {}\n", ground.tree.join("bin").display()))?;
    ground.file("tree/venv/lib/m.py", "X = 1\n")?;
    // an interpreter that is root's, with settings that are not
    std::fs::create_dir_all(ground.tree.join("half/bin"))?;
    std::os::unix::fs::symlink(&ground.setting.python.path, ground.tree.join("half/bin/python"))?;
    ground.file("tree/half/pyvenv.cfg", format!("home = {}\n", ground.tree.join("bin").display()))?;
    ground.file("tree/half/m.py", "X = 1\n")?;
    ground.give_away()?;
    ground.begin()
}

/// What would make an interpreter run code of the tree, one by one and all at once.
fn environments(ground: &Ground<'_>) -> Vec<Vec<(&'static str, PathBuf)>> {
    let tree = |name: &str| ground.tree.join(name);
    let one = [
        ("PYTHONPATH", ground.tree.clone()),
        ("PYTHONSTARTUP", tree("startup.py")),
        ("PYTHONHOME", ground.tree.clone()),
        ("PYTHONUSERBASE", tree("base")),
        ("HOME", tree("home")),
        ("PYTHONWARNINGS", "error::evilcodec.Evil".into()),
        ("PYTHONPLATLIBDIR", ground.tree.clone()),
        ("PYTHONEXECUTABLE", tree("venv/bin/python")),
        ("__PYVENV_LAUNCHER__", tree("venv/bin/python")),
    ];
    let mut all: Vec<Vec<_>> = vec![Vec::new()];
    all.extend(one.iter().map(|pair| vec![pair.clone()]));
    all.push(one.to_vec());
    all
}

fn marked(ground: &Ground<'_>) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(ground.top().join("markers"))? {
        let entry = entry?;
        all.push(entry.file_name().to_string_lossy().into_owned());
        std::fs::remove_dir(entry.path())?;
    }
    all.sort();
    Ok(all)
}

pub(super) fn check_all(ground: &mut Ground<'_>, quick: bool, again: &str, tally: &Tally) -> Result<()> {
    lay_out(ground)?;
    careless(ground, again, tally)?;
    let mut pythons = vec![ground.setting.python.path.clone()];
    if !quick {
        let versions = pythons[0].ancestors().nth(3).and_then(|dir| std::fs::read_dir(dir).ok());
        pythons.extend(versions.into_iter().flatten().flatten().map(|entry| entry.path().join("bin/python")).filter(|path| path.exists()));
        pythons.sort();
        pythons.dedup();
    }
    let mut runs = 0;
    let mut one = |ground: &mut Ground<'_>, mut command: Command, what: String| -> Result<()> {
        let ended = run({
            command.current_dir(&ground.tree);
            command
        })?;
        runs += 1;
        let mut found = ended.faults();
        found.extend(marked(ground)?.into_iter().map(|mark| format!("{mark} of the tree was run")));
        found.extend(ground.changed()?);
        for fault in found {
            tally.violation(&format!("code: {what}: {fault}"), again);
        }
        tally.checked(1);
        Ok(())
    };
    for python in &pythons {
        for (number, environment) in environments(ground).into_iter().enumerate() {
            let arguments = ["compile", "--force", "-v", "--python"].map(Into::into).into_iter();
            let arguments: Vec<_> = arguments.chain([python.clone().into(), ".".into()]).collect();
            let names: Vec<&str> = environment.iter().map(|(name, _)| *name).collect();
            let mut command = ground.bytekeep(Way::Direct, &arguments);
            command.envs(environment.clone());
            one(ground, command, format!("{} with {}", python.display(), names.join(" ")))?;
            if !quick || number == 0 {
                let mut command = ground.bytekeep(Way::Direct, &ground.words("repair", Path::new(".")));
                command.envs(environment);
                one(ground, command, format!("repair with {}", names.join(" ")))?;
            }
        }
    }
    // nobody names an interpreter: the tree's own is not root's to start, nor the first on a path that leads into the tree
    for dir in ["venv", "venv/lib", "half", "."] {
        for path in [
            "/usr/bin:/bin".to_owned(),
            format!("{}:/usr/bin:/bin", ground.tree.join("bin").display()),
            ":bin:.:venv/bin:/usr/bin:/bin".to_owned(),
        ] {
            for verb in ["compile", "repair"] {
                let mut command = ground.bytekeep(Way::Direct, &[verb.into(), "--jobs".into(), "2".into(), dir.into()]);
                command.env("PATH", &path);
                one(ground, command, format!("{verb} {dir} with PATH={path}"))?;
            }
        }
    }
    println!("code: {runs} runs by {} interpreters", pythons.len());
    Ok(())
}

/// Who starts an interpreter without care runs the tree's code; else this finds nothing anywhere.
fn careless(ground: &Ground<'_>, again: &str, tally: &Tally) -> Result<()> {
    for environment in [Vec::new(), vec![("PYTHONPATH", ground.tree.clone())], vec![("HOME", ground.tree.join("home"))]] {
        let mut command = Command::new(&ground.setting.python.path);
        command.args(["-c", "import linecache, warnings; compile(b'# coding: evilcodec\\n', 'x', 'exec')"]).current_dir(&ground.tree);
        let what = format!("{:?}", environment.iter().map(|(name, _)| name).collect::<Vec<_>>());
        command.envs(environment).output()?;
        let found = marked(ground)?;
        println!("standin:careless {what}: {}", found.join(" "));
        if found.is_empty() {
            tally.violation("standin:careless: an interpreter started in the tree runs nothing of it", again);
        }
        tally.checked(1);
    }
    Ok(())
}
