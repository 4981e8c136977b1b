//! What is compiled: some 10,000 files of packages that people use, kept between runs; and generated trees of any size.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::mount::{check, on_path};
use crate::run::Python;

const PACKAGES: &[&str] = &[
    "ansible-core",
    "django",
    "docutils",
    "faker",
    "fonttools",
    "hypothesis",
    "jinja2",
    "mypy",
    "networkx",
    "numpy",
    "pandas",
    "pip",
    "pygments",
    "setuptools",
    "sphinx",
    "sqlalchemy",
    "sympy",
    "twisted",
];

/// Packages as an installer lays them out, without artifacts, and the tools to compare with.
#[derive(Debug)]
pub(crate) struct Corpus {
    pub(crate) tree: PathBuf,
    pub(crate) requirements: PathBuf,
    pub(crate) uv_cache: PathBuf,
    /// The program, or why it is not there.
    pub(crate) uv: Result<PathBuf, String>,
    pub(crate) b3sum: Result<PathBuf, String>,
}

impl Corpus {
    /// Downloads and lays out what is not there yet. Later runs need no network.
    pub(crate) fn lay_out(dir: &Path, python: &Python) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let wheels = dir.join("wheels");
        let minor = python.version.rsplit_once('.').map_or("", |(minor, _)| minor);
        once(&wheels.join(".complete"), minor, || {
            println!("downloading {} packages and what they need to {}", PACKAGES.len(), wheels.display());
            check(Command::new(&python.path).args(["-m", "pip", "download", "-q", "--only-binary=:all:", "-d"]).arg(&wheels).args(PACKAGES))
        })?;
        let all = wheel_files(&wheels)?;
        let tree = dir.join("tree");
        once(&dir.join("tree.complete"), minor, || {
            let options = ["-m", "pip", "install", "-q", "--no-compile", "--no-index", "--no-deps", "--target"];
            check(Command::new(&python.path).args(options).arg(&tree).args(&all))
        })?;
        let requirements = dir.join("requirements.txt");
        std::fs::write(&requirements, all.iter().map(|wheel| wheel.display().to_string()).collect::<Vec<_>>().join("\n"))?;
        let venv = dir.join("venv");
        let uv = tool(venv.join("bin/uv"), &|| {
            check(Command::new(&python.path).args(["-m", "venv"]).arg(&venv))?;
            check(Command::new(venv.join("bin/python")).args(["-m", "pip", "install", "-q", "uv"]))
        });
        Ok(Self { tree, requirements, uv_cache: dir.join("uv-cache"), uv, b3sum: b3sum(dir) })
    }
}

/// A tool's place, gotten where it is not there yet.
fn tool(found: PathBuf, get: &dyn Fn() -> Result<String>) -> Result<PathBuf, String> {
    if !found.exists() {
        get().map_err(|error| format!("{error:#}"))?;
    }
    Ok(found)
}

pub(crate) fn b3sum(dir: &Path) -> Result<PathBuf, String> {
    tool(dir.join("tools/bin/b3sum"), &|| {
        if !on_path("cargo") {
            bail!("there is no cargo to install it with");
        }
        check(Command::new("cargo").args(["install", "-q", "b3sum", "--root"]).arg(dir.join("tools")))
    })
}

/// Does something once; the mark says for which version of the interpreter.
fn once(mark: &Path, version: &str, act: impl FnOnce() -> Result<String>) -> Result<()> {
    match std::fs::read_to_string(mark) {
        Ok(found) if found.trim() == version => return Ok(()),
        Ok(found) => bail!("{} was laid out for Python {}; give another --corpus for {version}", mark.display(), found.trim()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => bail!("{}: {error}", mark.display()),
    }
    act()?;
    Ok(std::fs::write(mark, version)?)
}

fn wheel_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        all.push(entry?.path());
    }
    all.retain(|path| path.extension().is_some_and(|suffix| suffix == "whl"));
    all.sort();
    Ok(all)
}

/// `count` small modules, a fifth of them in one directory, the others a hundred to a directory.
pub(crate) fn generate(tree: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let dir = if number < count / 5 { tree.join("wide") } else { tree.join(format!("p{:04}", number / 100)) };
        if number == 0 || (number >= count / 5 && (number % 100 == 0 || number == count / 5)) {
            std::fs::create_dir_all(&dir)?;
        }
        std::fs::write(dir.join(format!("m{number:06}.py")), module(number, 6))?;
    }
    Ok(())
}

/// A module of some functions that differ from those of any other number.
pub(crate) fn module(number: usize, functions: usize) -> String {
    let mut text = format!("\"\"\"Module {number}.\"\"\"\nimport os\n\nNUMBER = {number}\n");
    for function in 0..functions {
        let written = write!(
            text,
            "\n\ndef f{function}(a, b={number}):\n    for i in range(a):\n        b += i * {function}\n    return b, 'n{number}'\n"
        );
        debug_assert!(written.is_ok(), "a string takes everything");
    }
    text
}
