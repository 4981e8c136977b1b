//! Stand-ins with the signatures of `crate::python`, for as long as that is not in this tree.

#![allow(dead_code, clippy::unused_self, clippy::unnecessary_wraps, reason = "stand-ins")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::base::source::Source;
use crate::base::sys::{Name, Stat};
use crate::base::{Flaw, FlawKind};
use crate::model::{CompileError, Compiler, Format, Head, Layout, Level, Made, Mode, Recognised, Request, Stamp, Target};

pub(crate) struct Probes;

impl Probes {
    pub(crate) fn open(_cache_dir: Option<PathBuf>) -> Self {
        Self
    }
}

#[derive(Debug, thiserror::Error)]
#[error("there is no interpreter `{0}`")]
pub(crate) struct InterpreterError(String);

#[derive(Debug, Clone)]
pub(crate) struct Interpreter {
    pub(crate) target: Target,
    pub(crate) stdlib: PathBuf,
}

impl Interpreter {
    pub(crate) fn find(spec: impl AsRef<std::ffi::OsStr>, _named: bool, _probes: &Probes) -> Result<Self, InterpreterError> {
        let spec = spec.as_ref().to_string_lossy();
        if spec.contains('/') { Err(InterpreterError(spec.into_owned())) } else { Ok(Self::any()) }
    }

    pub(crate) fn default_for(_paths: &[PathBuf], _probes: &Probes) -> Result<Self, InterpreterError> {
        Ok(Self::any())
    }

    pub(crate) fn of_tree(_path: &std::path::Path) -> Option<PathBuf> {
        None
    }

    fn any() -> Self {
        let target = Target { tag: "cpython-313".into(), magic: [0xf3, 0x0d, b'\r', b'\n'], variant: "".into() };
        Self { target, stdlib: "/usr/lib/python3".into() }
    }
}

#[derive(Clone)]
pub(crate) struct Limits {
    pub(crate) jobs: usize,
    pub(crate) timeout: Option<Duration>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) memory: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { jobs: 1, timeout: None, stop: Arc::default(), memory: None }
    }
}

pub(crate) struct WorkerPool(Target);

impl WorkerPool {
    #[allow(clippy::needless_pass_by_value, reason = "stand-in")]
    pub(crate) fn new(interpreter: &Interpreter, _limits: Limits) -> Self {
        Self(interpreter.target.clone())
    }
}

impl Compiler for WorkerPool {
    fn target(&self) -> &Target {
        &self.0
    }

    fn width(&self) -> usize {
        1
    }

    fn compile(&self, _: &Request<'_>) -> Result<Made, CompileError> {
        Err(CompileError::Stopped)
    }
}

pub(crate) struct Pyc;

impl Format for Pyc {
    fn cache_dir(&self) -> &Name {
        static NAME: std::sync::OnceLock<Name> = std::sync::OnceLock::new();
        #[allow(clippy::unwrap_used, reason = "stand-in")]
        NAME.get_or_init(|| Name::new("__pycache__").unwrap())
    }

    fn is_source(&self, name: &Name) -> bool {
        name.as_bytes().ends_with(b".py")
    }

    fn recognise(&self, name: &Name, layout: Layout) -> Recognised {
        let Some(stem) = name.as_bytes().strip_suffix(b".pyc") else { return Recognised::Foreign };
        let stem = String::from_utf8_lossy(stem).into_owned();
        let (module, tag) = match (layout, stem.split_once('.')) {
            (Layout::Beside, _) | (_, None) => (stem.as_str(), None),
            (_, Some((module, tag))) => (module, Some(tag.into())),
        };
        let source = Name::new(format!("{module}.py"));
        source.map_or(Recognised::Foreign, |source| Recognised::Artifact { source, tag, level: Level::Known(0), known: true })
    }

    fn layout(&self, _: &Target) -> Layout {
        Layout::Cache
    }

    fn artifact_name(&self, _: &Name, _: &Target, _: u8) -> Option<Name> {
        None
    }

    fn head(&self, head: &[u8], _: Option<&str>) -> Result<Head, Flaw> {
        let Some(head) = head.first_chunk::<16>() else {
            return Err(Flaw::new(FlawKind::Truncated, "cut", "it is shorter than its header"));
        };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if head[2..4] != *b"\r\n" {
            return Err(Flaw::new(FlawKind::BadMagic, "magic", "it has no magic number"));
        }
        let stamp = match word(4) {
            0 => Stamp::Time { mtime: word(8), size: Some(word(12)) },
            flags => Stamp::Hash { checked: flags & 2 != 0, hash: word(8).to_le_bytes().repeat(2).try_into().unwrap_or_default() },
        };
        Ok(Head { magic: [head[0], head[1], head[2], head[3]], tag: "cpython-313".into(), len: 16, stamp })
    }

    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "stand-in")]
    fn agrees(&self, head: &Head, source: &Stat) -> bool {
        matches!(head.stamp, Stamp::Time { mtime, size } if mtime == source.mtime.sec as u32 && size.is_none_or(|size| u64::from(size) == source.size))
    }

    fn source_hash(&self, _: [u8; 4], _: &[u8]) -> [u8; 8] {
        [0; 8]
    }

    fn body(&self, _: &Head, _: &[u8]) -> Result<(), Flaw> {
        Ok(())
    }

    fn label(&self, tag: &str, level: u8, variant: &str) -> [u8; 8] {
        let digest = crate::base::seal::Digest::of(format!("{tag} {level} {variant}").as_bytes());
        digest.0.first_chunk().copied().unwrap_or_default()
    }

    fn variants(&self) -> &'static [&'static str] {
        &[""]
    }

    fn dress(&self, _: &Target, _: Mode, _: &Source, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}
