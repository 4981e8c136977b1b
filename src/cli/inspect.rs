//! `inspect`: everything that one artifact says of itself, whether or not it is sound, and what its damage tells of where it came from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::failure::Failure;
use super::inspect_code::{self, CodeTold};
use super::inspect_source::{Place, SourceTold};
use super::json;
use super::out::Out;
use super::text;
use crate::base::seal::Seal;
use crate::base::shape::Mark;
use crate::base::sys::{self, Dir, Kind, Name, Stat, Time};
use crate::base::whereabouts::Whereabouts;
use crate::base::{Error, Flaw, user};
use crate::flow::examine::{self, Bad, Examined};
use crate::flow::look::label_fits;
use crate::model::{Format, Head, Layout, Level, Recognised, Stamp};

/// One artifact, told in full.
#[derive(Serialize)]
pub(crate) struct Told {
    #[serde(flatten)]
    head: json::Start,
    #[serde(flatten)]
    path: json::PathLine,
    good: bool,
    pub(super) size: u64,
    name: NameTold,
    pub(super) header: Option<HeaderTold>,
    pub(super) seal: Option<SealTold>,
    pub(super) structure: &'static str,
    /// Were the instructions and their tables looked into too?
    pub(super) deep: Option<bool>,
    pub(super) flaws: Vec<FlawTold>,
    /// Where in the code the first wrong byte lies.
    pub(super) way: Option<String>,
    pub(super) shape: Vec<MarkTold>,
    pub(super) file: StandsTold,
    pub(super) directory: StandsTold,
    /// What the times of both say.
    pub(super) remark: Option<String>,
    pub(super) source: SourceTold,
    /// `None`: it cannot be listed.
    pub(super) code: Option<CodeTold>,
    /// Why the code of a sound structure is not listed.
    #[serde(skip)]
    pub(super) no_code: Option<String>,
}

/// The same of what a run has judged.
#[derive(Serialize)]
struct Judged<'a> {
    #[serde(flatten)]
    told: Told,
    verdict: &'static str,
    cause: Option<json::CauseLine<'a>>,
}

#[derive(Serialize)]
struct NameTold {
    interpreter: Option<String>,
    optimize: Option<u8>,
    source: Option<String>,
}

#[derive(Serialize)]
pub(super) struct HeaderTold {
    pub(super) magic: u16,
    pub(super) interpreter: String,
    pub(super) mode: &'static str,
    pub(super) mtime: Option<u32>,
    pub(super) source_size: Option<u32>,
    pub(super) source_hash: Option<String>,
}

#[derive(Serialize)]
pub(super) struct SealTold {
    pub(super) version: u16,
    pub(super) payload: u64,
    pub(super) adopted: bool,
    keyed: bool,
    pub(super) source_digest: String,
    /// Does it carry the label of what the name says? `None`: the name does not say.
    pub(super) label_fits: Option<bool>,
}

#[derive(Serialize)]
pub(super) struct FlawTold {
    code: &'static str,
    pub(super) text: String,
    pub(super) offset: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct MarkTold {
    code: &'static str,
    pub(super) text: String,
    from: u64,
    to: u64,
    pub(super) hint: &'static str,
}

/// Whose a file or a directory is, and since when.
#[derive(Serialize)]
pub(super) struct StandsTold {
    uid: u32,
    gid: u32,
    mode: String,
    links: u64,
    user: Option<String>,
    group: Option<String>,
    modified: String,
    changed: String,
    made: Option<String>,
    #[serde(skip)]
    pub(super) owner: String,
    #[serde(skip)]
    pub(super) times: String,
}

impl Told {
    /// Is nothing wrong with it?
    pub(crate) fn is_good(&self) -> bool {
        let belongs = self.seal.as_ref().is_none_or(|seal| seal.label_fits != Some(false));
        self.flaws.is_empty() && belongs && self.source.header_fits != Some(false) && self.source.digest_fits != Some(false)
    }
}

impl Told {
    /// Is there a seal, whole or in part, that cannot be read: a newer one, or one that contradicts what it stands behind?
    pub(super) fn has_unreadable_seal(&self) -> bool {
        self.flaws.iter().any(|flaw| matches!(flaw.code, "version" | "newer-seal" | "key" | "length" | "cut-seal"))
    }
}

impl From<Flaw> for FlawTold {
    fn from(flaw: Flaw) -> Self {
        Self { code: flaw.code, text: flaw.text, offset: flaw.offset }
    }
}

impl From<Mark> for MarkTold {
    fn from(mark: Mark) -> Self {
        Self { code: mark.code, text: mark.text, from: mark.from, to: mark.to, hint: mark.hint }
    }
}

impl MarkTold {
    /// What only the source tells.
    fn mixed(to: u64) -> Self {
        let text = "only one of header and seal fits the source: perhaps the beginning of one artifact and the end of another";
        let hint = "two writers at once, in place and without a lock";
        Self { code: "two-writers", text: text.to_owned(), from: 0, to, hint }
    }
}

impl StandsTold {
    fn new(stat: &Stat, birth: Option<Time>) -> Self {
        use crate::base::whereabouts::{owner, times};
        let (user, group) = user::names(stat.uid, stat.gid);
        Self {
            user,
            group,
            uid: stat.uid,
            gid: stat.gid,
            mode: format!("{:o}", stat.mode),
            links: stat.nlink,
            modified: stat.mtime.to_string(),
            changed: stat.ctime.to_string(),
            made: birth.map(|birth| birth.to_string()),
            owner: owner(stat),
            times: times(stat, birth),
        }
    }
}

/// What the file's name says.
struct Named {
    source: Option<Name>,
    tag: Option<Arc<str>>,
    level: Option<Level>,
}

/// Looks at one artifact of at most `limit` bytes.
pub(crate) fn look(path: &Path, limit: u64, format: &dyn Format) -> Result<Told, Failure> {
    let Read { bytes, stands, dir, name } = read(path, limit)?;
    let in_cache = dir.canonicalize().is_ok_and(|dir| dir.file_name() == Some(format.cache_dir().as_os_str()));
    let (layout, recognised) = recognise(format, &name, in_cache);
    let mut named = match recognised {
        Recognised::Artifact { source, tag, level, .. } => Named { source: Some(source), tag, level: Some(level) },
        Recognised::ForeignTemp { .. } | Recognised::Foreign => Named { source: None, tag: None, level: None },
    };
    let examined = examine::examine(format, &bytes, named.tag.as_deref(), named.source.as_ref());
    if layout == Layout::Beside && examined.head.as_ref().is_some_and(|head| format.layout(&head.target()) != Layout::Beside) {
        // `compileall -b` gives all levels one name.
        named.level = None;
    }
    let code = examined.head.as_ref().filter(|_| is_sound(&examined)).map(|head| inspect_code::tell(head, examined.payload));
    let (code, no_code) = match code {
        Some(Ok(code)) => (Some(code), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let (code, filename) = code.unzip();
    let place = Place::of(layout, &dir, named.source.as_ref(), filename.as_deref());
    Ok(Told { code, no_code, ..tell(path, &bytes, examined, &named, &place, &stands, format, limit) })
}

/// The same of a bad artifact that is about to go, with what was found of it, as one line of JSON. Without its code: to list that takes
/// memory, and it is in the copy.
pub(crate) fn of_bad(bad: &Bad<'_>, format: &dyn Format, limit: u64) -> Vec<u8> {
    let entry = bad.entry;
    let named = Named { source: Some(entry.source.clone()), tag: entry.tag.clone(), level: Some(entry.level) };
    let examined = examine::examine(format, bad.bytes, named.tag.as_deref(), named.source.as_ref());
    let place = Place::in_dir(bad.sources, &entry.source);
    let told = tell(bad.path, bad.bytes, examined, &named, &place, bad.stands, format, limit);
    let judged = Judged { told, verdict: bad.verdict.word(), cause: bad.cause.map(json::CauseLine::from) };
    // Nothing in it can fail to be JSON.
    json::line(&judged).unwrap_or_default().into_bytes()
}

fn is_sound(examined: &Examined<'_>) -> bool {
    matches!(examined.structure, Some(Ok(())))
}

#[allow(clippy::too_many_arguments, reason = "one place where the object is put together")]
fn tell(
    path: &Path,
    bytes: &[u8],
    examined: Examined<'_>,
    named: &Named,
    place: &Place,
    stands: &Whereabouts,
    format: &dyn Format,
    limit: u64,
) -> Told {
    let structure = match &examined.structure {
        Some(Ok(())) => "sound",
        Some(Err(_)) => "broken",
        None => "unknown",
    };
    let head = examined.head.as_ref();
    let deep = head.map(|head| format.knows_deep(head));
    let source = SourceTold::look(place, format, head, examined.seal.as_ref(), limit);
    let is_digest_wrong = examined.flaws.iter().any(|flaw| flaw.code == "digest");
    let mixed = (source.is_of_two() && is_digest_wrong && structure == "broken").then_some(examined.payload.len() as u64);
    let mut told = Told {
        head: json::Start::of("inspect"),
        path: path.into(),
        good: false,
        size: bytes.len() as u64,
        name: NameTold {
            interpreter: named.tag.as_deref().map(str::to_owned),
            optimize: named.level.and_then(Level::number),
            source: named.source.as_ref().map(|source| text::name(source.as_bytes())),
        },
        seal: examined.seal.map(|seal| told_seal(format, &seal, named, head)),
        header: head.map(told_header),
        structure,
        deep,
        flaws: examined.flaws.into_iter().map(FlawTold::from).collect(),
        way: examined.way,
        shape: examined.shape.into_iter().map(MarkTold::from).chain(mixed.map(MarkTold::mixed)).collect(),
        file: StandsTold::new(&stands.file, stands.file_birth),
        directory: StandsTold::new(&stands.dir, stands.dir_birth),
        remark: stands.remark(),
        source,
        code: None,
        no_code: None,
    };
    told.good = told.is_good();
    told
}

pub(crate) struct Read {
    pub(crate) bytes: Vec<u8>,
    stands: Whereabouts,
    dir: PathBuf,
    name: Name,
}

/// The file, opened once, in the directory that holds its name. Links are followed: the user named it.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Read, Failure> {
    let shown = text::path(path, None);
    let name = path.file_name().and_then(Name::new).ok_or_else(|| Failure::new(format!("`{shown}` is not a file")))?;
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let failed = |error: Error| Failure::from(error.cause).during(format!("cannot {} `{shown}`", error.operation));
    let open = Dir::open_root(&dir).map_err(failed)?;
    // Asked before the open: opening a device can have effects.
    let kind = open.stat_through(&name).map_err(failed)?.kind;
    if kind != Kind::File {
        return Err(Failure::new(format!("`{shown}` is {}, not a file", kind.noun())));
    }
    let file = open.open_through(&name).map_err(failed)?;
    let stands = Whereabouts::of(&file, &open).map_err(failed)?;
    let size = stands.file.size;
    let bytes = sys::read_all(&file, size, limit, path).map_err(failed)?;
    let bytes = bytes.ok_or_else(|| {
        Failure::new(format!("`{shown}` has {}, more than the limit of {}", text::size(size), text::size(limit)))
            .hint("allow it with `--max-size SIZE`")
    })?;
    Ok(Read { bytes, stands, dir, name })
}

/// A name with a tag belongs into a cache directory or a prefix tree, wherever it was copied to; one without stands beside its source.
fn recognise(format: &dyn Format, name: &Name, in_cache: bool) -> (Layout, Recognised) {
    let cached = format.recognise(name, Layout::Cache);
    match cached {
        Recognised::Artifact { tag: Some(_), known: true, .. } if !in_cache => (Layout::Prefix, cached),
        _ if in_cache => (Layout::Cache, cached),
        _ => (Layout::Beside, format.recognise(name, Layout::Beside)),
    }
}

fn told_header(head: &Head) -> HeaderTold {
    let (mtime, source_size, source_hash) = match head.stamp {
        Stamp::Time { mtime, size } => (Some(mtime), size, None),
        Stamp::Hash { hash, .. } => (None, None, Some(hash.map(|byte| format!("{byte:02x}")).concat())),
    };
    let magic = u16::from_le_bytes([head.magic[0], head.magic[1]]);
    HeaderTold { magic, interpreter: head.tag.to_string(), mode: head.mode().word(), mtime, source_size, source_hash }
}

fn told_seal(format: &dyn Format, seal: &Seal, named: &Named, head: Option<&Head>) -> SealTold {
    let tag = named.tag.as_deref().or(head.map(|head| &*head.tag));
    SealTold {
        version: crate::base::seal::VERSION,
        payload: seal.payload_len,
        adopted: seal.adopted,
        keyed: seal.key.is_some(),
        source_digest: seal.source.hex(),
        // As `verify` asks it.
        label_fits: tag.zip(named.level).and_then(|(tag, level)| label_fits(format, seal, tag, level)),
    }
}

/// For programs.
pub(crate) fn write_json(out: &Out, told: &Told) {
    json::write(out, told);
}

/// Lines with every field, for the test of the manual page.
#[cfg(test)]
pub(crate) fn sample() -> String {
    let (out, stdout, _) = super::out::capture::plain();
    let (top, path) = tests::artifact(b"x = 1\n", b"x = 1\n");
    let mut told = look(&path, 1 << 20, super::setup::format()).unwrap();
    told.flaws.push(FlawTold { code: "cut", text: String::new(), offset: None });
    told.shape.push(MarkTold { code: "cut", text: String::new(), from: 0, to: 0, hint: "" });
    write_json(&out, &told);
    drop(top);
    stdout.text()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::super::inspect_render::render;
    use super::super::out::Style;
    use super::*;

    use crate::base::seal::Digest;

    /// A sealed artifact with a header by time, made from `made`, beside a source that is `there` now.
    pub(super) fn artifact(made: &[u8], there: &[u8]) -> (tempfile::TempDir, PathBuf) {
        use std::os::unix::fs::MetadataExt;
        let top = tempfile::tempdir().unwrap();
        let (source, cache) = (top.path().join("a.py"), top.path().join("__pycache__"));
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(&source, there).unwrap();
        let mtime = u32::try_from(source.metadata().unwrap().mtime()).unwrap();
        let size = u32::try_from(there.len()).unwrap();
        // The magic number of Python 3.13, and a module of nothing but an escape sequence as a constant.
        let head = [&[0xf3, 0x0d, b'\r', b'\n', 0, 0, 0, 0][..], &mtime.to_le_bytes(), &size.to_le_bytes()].concat();
        let code = [&[0xE3; 1][..], &[0; 20], b"s\x02\0\0\0\x95\0)\x01\xf5\x05\0\0\0\x1b[2J\n)\0)\0s\0\0\0\0\xda\x04a.py"].concat();
        let names = b"Z\x08<module>Z\x08<module>\x01\0\0\0s\0\0\0\0s\0\0\0\0";
        let head = [&head[..], &code, names].concat();
        let label = super::super::setup::format().label("cpython-313", 0, "");
        let path = cache.join("a.cpython-313.pyc");
        std::fs::write(&path, crate::base::seal::sealed(head, Digest::of(made), label, false)).unwrap();
        (top, path)
    }

    #[test]
    fn a_good_one_and_one_of_another_source() {
        let format = super::super::setup::format();
        let (_top, path) = artifact(b"x = 1\n", b"x = 1\n");
        let told = look(&path, 1 << 20, format).unwrap();
        assert_eq!((told.source.header_fits, told.source.digest_fits), (Some(true), Some(true)));
        assert_eq!(told.seal.as_ref().unwrap().label_fits, Some(true));
        let shown = render(&told, &path, path.parent(), false, Style(false));
        assert!(shown.starts_with("a.cpython-313.pyc: "), "{shown}");
        let (_top, path) = artifact(b"x = 1\n", b"x = 2\n");
        let told = look(&path, 1 << 20, format).unwrap();
        assert_eq!((told.source.header_fits, told.source.digest_fits), (Some(true), Some(false)));
        assert!(!told.is_good());
    }

    #[test]
    fn damage_is_told_and_does_not_stop_the_rest() {
        let format = super::super::setup::format();
        let (_top, path) = artifact(b"x", b"x");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.get_mut(16).unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let told = look(&path, 1 << 20, format).unwrap();
        assert!(told.header.is_some() && told.seal.is_some());
        assert!(told.flaws.iter().any(|flaw| flaw.code == "digest") && !told.is_good());
        std::fs::write(&path, b"").unwrap();
        assert!(!look(&path, 1 << 20, format).unwrap().is_good());
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused() {
        let format = super::super::setup::format();
        let (top, path) = artifact(b"x", b"x");
        assert!(look(top.path(), 1 << 20, format).is_err());
        assert!(look(Path::new("/dev/zero"), 1 << 20, format).is_err());
        assert!(look(&top.path().join("gone.pyc"), 1 << 20, format).is_err());
        assert!(look(&path, 10, format).is_err());
    }
}
