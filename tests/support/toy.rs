//! A toy language for tests of the pipeline: sources `x.toy`, artifacts `__toys__/x.LEVEL.toyc`, the code is the source in capitals.
//! It starts no interpreter, so a test can make its compiler wait, fail or count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytekeep::base::seal::Digest;
use bytekeep::base::sys::{Name, Stat};
use bytekeep::base::{Flaw, FlawKind};
use bytekeep::model::{CompileError, Compiler, Format, Head, Layout, Level, Made, Mode, Recognised, Request, SourceFault, Stamp, Target};

pub const MAGIC: [u8; 4] = *b"TOY\n";

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub struct Toy {
    cache_dir: Name,
    example: Name,
}

impl Toy {
    pub fn new() -> Self {
        Self { cache_dir: name("__toys__"), example: name("x.toy") }
    }
}

impl Format for Toy {
    fn cache_dir(&self) -> &Name {
        &self.cache_dir
    }

    fn is_source(&self, name: &Name) -> bool {
        name.as_bytes().ends_with(b".toy")
    }

    fn recognise(&self, artifact: &Name, _layout: Layout) -> Recognised {
        let text = artifact.as_os_str().to_string_lossy().into_owned();
        let Some((stem, level)) = text.strip_suffix(".toyc").and_then(|rest| rest.rsplit_once('.')) else { return Recognised::Foreign };
        let level = level.parse().map_or(Level::Other, Level::Known);
        Recognised::Artifact { source: name(&format!("{stem}.toy")), tag: Some(Arc::from("toy")), level, known: true }
    }

    fn layout(&self, _target: &Target) -> Layout {
        Layout::Cache
    }

    fn knows_prefix(&self, _target: &Target) -> bool {
        true
    }

    fn example(&self) -> &Name {
        &self.example
    }

    fn artifact_name(&self, source: &Name, _target: &Target, level: u8) -> Option<Name> {
        let stem = source.as_bytes().strip_suffix(b".toy")?;
        Name::from_bytes(&[stem, format!(".{level}.toyc").as_bytes()].concat())
    }

    fn head(&self, head: &[u8], _tag: Option<&str>, _here: Option<&Target>) -> Result<Head, Flaw> {
        let Some(head) = head.first_chunk::<12>() else {
            return Err(Flaw::new(FlawKind::Truncated, "header", "it is shorter than its header"));
        };
        if head[..4] != MAGIC {
            return Err(Flaw::new(FlawKind::BadMagic, "magic", "another magic"));
        }
        let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let stamp = Stamp::Time { mtime: number(4), size: Some(number(8)) };
        Ok(Head { magic: MAGIC, tag: Arc::from("toy"), len: 12, stamp })
    }

    fn agrees(&self, head: &Head, source: &Stat) -> bool {
        let Stamp::Time { mtime, size } = head.stamp else { return false };
        i64::from(mtime) == source.mtime.sec && size.map(u64::from) == Some(source.size)
    }

    fn source_hash(&self, _magic: [u8; 4], _source: &[u8]) -> [u8; 8] {
        [0; 8]
    }

    fn body(&self, head: &Head, artifact: &[u8]) -> Result<(), Flaw> {
        let body = &artifact[head.len..];
        let Some((length, code)) = body.split_first_chunk::<4>() else { return Err(Flaw::new(FlawKind::Truncated, "cut", "it is cut")) };
        match (u32::from_le_bytes(*length) as usize).cmp(&code.len()) {
            std::cmp::Ordering::Greater => Err(Flaw::new(FlawKind::Truncated, "cut", "it is cut")),
            std::cmp::Ordering::Less => Err(Flaw::new(FlawKind::Corrupt, "trailing", "something follows")),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn label(&self, tag: &str, level: u8, variant: &str) -> [u8; 8] {
        let digest = blake3::hash(format!("{tag} {level} {variant}").as_bytes());
        digest.as_bytes()[..8].try_into().unwrap()
    }

    fn variants(&self) -> &'static [&'static str] {
        &[""]
    }

    fn placeholder(&self, _target: &Target, _source: &Digest) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn named(&self, _target: &Target, code: &[u8], _source: &Digest, _filename: &[u8]) -> Option<Vec<u8>> {
        Some(code.to_vec())
    }

    fn dress(&self, target: &Target, _mode: Mode, source: &Stat, _bytes: &[u8], code: &[u8]) -> Vec<u8> {
        let mtime = u32::try_from(source.mtime.sec).unwrap();
        let size = u32::try_from(source.size).unwrap();
        [&target.magic[..], &mtime.to_le_bytes(), &size.to_le_bytes(), code].concat()
    }
}

/// Writes capitals. A source that begins with `!` does not compile.
pub struct Capitals {
    target: Target,
    pub compiled: AtomicU64,
    /// Called at each compile, with the file name.
    pub meanwhile: Box<dyn Fn(&str) + Send + Sync>,
}

impl Capitals {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    pub fn with(meanwhile: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let target = Target { tag: Arc::from("toy"), magic: MAGIC, variant: Arc::from("") };
        Self { target, compiled: AtomicU64::new(0), meanwhile: Box::new(meanwhile) }
    }

    #[allow(dead_code, reason = "not every test counts")]
    pub fn count(&self) -> u64 {
        self.compiled.load(Ordering::SeqCst)
    }
}

impl Compiler for Capitals {
    fn target(&self) -> &Target {
        &self.target
    }

    fn width(&self) -> usize {
        4
    }

    fn compile(&self, request: &Request<'_>) -> Result<Made, CompileError> {
        self.compiled.fetch_add(1, Ordering::SeqCst);
        (self.meanwhile)(&String::from_utf8_lossy(request.filename));
        if request.source.starts_with(b"!") {
            let fault = SourceFault {
                kind: "ToyError".into(),
                text: "exclamation".into(),
                line: Some(1),
                column: Some(1),
                end_column: None,
                quoted: Some("!".into()),
            };
            return Err(CompileError::Source(Box::new(fault)));
        }
        let code = request.source.to_ascii_uppercase();
        let length = u32::try_from(code.len()).unwrap().to_le_bytes();
        Ok(Made { code: [&length[..], &code].concat(), took: std::time::Duration::ZERO, warnings: Vec::new() })
    }
}
