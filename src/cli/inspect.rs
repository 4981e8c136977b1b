//! `inspect`: everything that one artifact says of itself, whether or not it is sound.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::failure::Failure;
use super::json;
use super::out::{Out, Style};
use super::text;
use crate::base::seal::{Artifact, Digest, Seal};
use crate::base::source::Source;
use crate::base::sys::{self, Dir, Kind, Name, Stat};
use crate::base::{Error, Flaw};
use crate::model::{Format, Head, Layout, Level, Recognised, Stamp};

/// One artifact, told in full.
#[derive(Serialize)]
pub(crate) struct Told {
    v: u8,
    kind: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    size: u64,
    name: NameTold,
    header: Option<HeaderTold>,
    seal: Option<SealTold>,
    structure: &'static str,
    flaws: Vec<FlawTold>,
    source: SourceTold,
}

#[derive(Serialize)]
struct NameTold {
    interpreter: Option<String>,
    optimize: Option<u8>,
    source: Option<String>,
}

#[derive(Serialize)]
struct HeaderTold {
    magic: u16,
    interpreter: String,
    mode: &'static str,
    mtime: Option<u32>,
    source_size: Option<u32>,
    source_hash: Option<String>,
}

#[derive(Serialize)]
struct SealTold {
    version: u16,
    payload: u64,
    adopted: bool,
    keyed: bool,
    source_digest: String,
    /// Does it carry the label of what the name says? `None`: the name does not say.
    label_fits: Option<bool>,
}

#[derive(Serialize)]
struct FlawTold {
    code: &'static str,
    text: String,
    offset: Option<u64>,
}

#[derive(Serialize)]
struct SourceTold {
    path: Option<String>,
    state: &'static str,
    /// Does the header fit it?
    header_fits: Option<bool>,
    /// Does the seal fit it?
    digest_fits: Option<bool>,
}

impl Told {
    /// Is nothing wrong with it?
    pub(crate) fn is_good(&self) -> bool {
        let belongs = self.seal.as_ref().is_none_or(|seal| seal.label_fits != Some(false));
        self.flaws.is_empty() && belongs && self.source.header_fits != Some(false) && self.source.digest_fits != Some(false)
    }
}

impl From<Flaw> for FlawTold {
    fn from(flaw: Flaw) -> Self {
        Self { code: flaw.code, text: flaw.text, offset: flaw.offset }
    }
}

/// Looks at one artifact of at most `limit` bytes.
pub(crate) fn look(path: &Path, limit: u64, format: &dyn Format) -> Result<Told, Failure> {
    let (bytes, dir, name) = read(path, limit)?;
    let in_cache = dir.canonicalize().is_ok_and(|dir| dir.file_name() == Some(format.cache_dir().as_os_str()));
    let (layout, recognised) = recognise(format, &name, in_cache);
    let (source, tag, level) = match recognised {
        Recognised::Artifact { source, tag, level, .. } => (Some(source), tag, level),
        Recognised::ForeignTemp { .. } | Recognised::Foreign => (None, None, Level::Other),
    };
    let of_name = source.as_ref().map(|source| text::name(source.as_bytes()));
    let mut flaws = Vec::new();
    let artifact = Artifact::split(&bytes).map_err(|flaw| flaws.push(flaw)).ok();
    let seal = artifact.and_then(|artifact| artifact.seal);
    if let Some(flaw) = artifact.and_then(|artifact| artifact.prove().err()) {
        flaws.push(flaw);
    }
    let payload = artifact.map_or(&bytes[..], |artifact| artifact.payload);
    let head = format.head(&payload[..payload.len().min(16)], tag.as_deref(), None).map_err(|flaw| flaws.push(flaw)).ok();
    // Without a seal that can be read, its remains stand behind the body; the walk says where that ends.
    let walked = head.as_ref().map(|head| format.body(head, payload));
    let structure = match &walked {
        Some(Ok(())) => "sound",
        Some(Err(_)) => "broken",
        None => "unknown",
    };
    flaws.extend(walked.and_then(Result::err));
    let source = told_source(format, &dir, source, layout, head.as_ref(), seal.as_ref(), limit);
    let (shown, path_b64) = json::path(path);
    Ok(Told {
        v: json::VERSION,
        kind: "inspect",
        path: shown,
        path_b64,
        size: bytes.len() as u64,
        name: NameTold { interpreter: tag.as_deref().map(str::to_owned), optimize: level.number(), source: of_name },
        seal: seal.map(|seal| told_seal(format, &seal, tag.as_deref().or(head.as_ref().map(|head| &*head.tag)), level)),
        header: head.as_ref().map(told_header),
        structure,
        flaws: flaws.into_iter().map(FlawTold::from).collect(),
        source,
    })
}

/// The file, opened once, in the directory that holds its name. Links are followed: the user named it.
pub(crate) fn read(path: &Path, limit: u64) -> Result<(Vec<u8>, PathBuf, Name), Failure> {
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
    let stat: Stat = sys::stat(&file, path).map_err(failed)?;
    let bytes = sys::read_all(&file, stat.size, limit, path).map_err(failed)?;
    let bytes = bytes.ok_or_else(|| {
        Failure::new(format!("`{shown}` has {}, more than the limit of {}", text::size(stat.size), text::size(limit)))
            .hint("allow it with `--max-size SIZE`")
    })?;
    Ok((bytes, dir, name))
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

fn told_seal(format: &dyn Format, seal: &Seal, tag: Option<&str>, level: Level) -> SealTold {
    let label_fits =
        tag.zip(level.number()).map(|(tag, level)| format.variants().iter().any(|variant| format.label(tag, level, variant) == seal.label));
    SealTold {
        version: crate::base::seal::VERSION,
        payload: seal.payload_len,
        adopted: seal.adopted,
        keyed: seal.key.is_some(),
        source_digest: seal.source.hex(),
        label_fits,
    }
}

fn told_source(
    format: &dyn Format,
    dir: &Path,
    name: Option<Name>,
    layout: Layout,
    head: Option<&Head>,
    seal: Option<&Seal>,
    limit: u64,
) -> SourceTold {
    let unknown = |state, path| SourceTold { path, state, header_fits: None, digest_fits: None };
    let Some(name) = name else { return unknown("not known by the name", None) };
    let dir = match layout {
        Layout::Cache => dir.join(".."),
        Layout::Beside => dir.to_path_buf(),
        Layout::Prefix => return unknown("not looked for", None),
    };
    let shown = Some(text::name(name.as_bytes()));
    let read = Dir::open_root(&dir).map(Arc::new).map_err(Into::into).and_then(|dir| Source::read(&dir, &name, limit));
    let source = match read {
        Ok(source) => source,
        Err(error) if error.is_gone() => return unknown("gone", shown),
        Err(_) => return unknown("unreadable", shown),
    };
    let header_fits = head.map(|head| match head.stamp {
        Stamp::Time { .. } => format.agrees(head, &source.stat),
        Stamp::Hash { hash, .. } => format.source_hash(head.magic, &source.bytes) == hash,
    });
    SourceTold { path: shown, state: "there", header_fits, digest_fits: seal.map(|seal| Digest::of(&source.bytes) == seal.source) }
}

/// For programs.
pub(crate) fn write_json(out: &Out, told: &Told) {
    json::write(out, told);
}

/// For people.
pub(crate) fn render(told: &Told, path: &Path, cwd: Option<&Path>, style: Style) -> String {
    let mut lines = Vec::new();
    let mut line = |word: &str, text: String| lines.push(format!("  {word:<10} {text}"));
    line("size", text::size(told.size));
    if let Some(header) = &told.header {
        line("magic", format!("{}, which {} writes", header.magic, header.interpreter));
        let stamp = match (header.mtime, header.source_size, &header.source_hash) {
            (Some(mtime), Some(size), _) => format!("source of {}, {size} bytes", text::date(mtime.into())),
            (Some(mtime), None, _) => format!("source of {}", text::date(mtime.into())),
            (None, _, Some(hash)) => format!("source with hash {hash}"),
            (None, _, None) => String::new(),
        };
        line("mode", format!("{}: {stamp}", header.mode));
    }
    match &told.seal {
        None => line("seal", "none".to_owned()),
        Some(seal) => {
            let adopted = if seal.adopted { ", adopted: proves the bytes since it was sealed, not their origin" } else { "" };
            line("seal", format!("version {}, over {} bytes{adopted}", seal.version, seal.payload));
            line("made from", format!("BLAKE3 {}", seal.source_digest));
            match seal.label_fits {
                Some(true) => line("label", "fits the name".to_owned()),
                Some(false) => line("label", style.bad("does not fit the name: this artifact belongs elsewhere")),
                None => line("label", "the name does not say what it should be".to_owned()),
            }
        }
    }
    line("structure", told.structure.to_owned());
    for flaw in &told.flaws {
        let place = flaw.offset.map(|offset| format!(" (at byte {offset})")).unwrap_or_default();
        line("flaw", format!("{}{place}", style.bad(&text::message(&flaw.text))));
    }
    let fits = |fits: Option<bool>, what: &str| match fits {
        Some(true) => format!(", fits the {what}"),
        Some(false) => format!(", {}", style.bad(&format!("does not fit the {what}"))),
        None => String::new(),
    };
    let source = &told.source;
    let name = source.path.as_ref().map(|name| format!("`{name}` ")).unwrap_or_default();
    line("source", format!("{name}{}{}{}", source.state, fits(source.header_fits, "header"), fits(source.digest_fits, "seal")));
    let verdict = if told.is_good() { style.good("good") } else { style.bad("bad") };
    format!("{}: {verdict}\n{}\n", style.strong(&text::path(path, cwd)), lines.join("\n"))
}

/// Lines with every field, for the test of the manual page.
#[cfg(test)]
pub(crate) fn sample() -> String {
    let (out, stdout, _) = super::out::capture::plain();
    let (top, path) = tests::artifact(b"x = 1\n", b"x = 1\n");
    let mut told = look(&path, 1 << 20, super::setup::format()).unwrap();
    told.path_b64 = Some(String::new());
    told.flaws.push(FlawTold { code: "cut", text: String::new(), offset: None });
    write_json(&out, &told);
    drop(top);
    stdout.text()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    /// A sealed artifact with a header by time, made from `made`, beside a source that is `there` now.
    pub(super) fn artifact(made: &[u8], there: &[u8]) -> (tempfile::TempDir, PathBuf) {
        use std::os::unix::fs::MetadataExt;
        let top = tempfile::tempdir().unwrap();
        let (source, cache) = (top.path().join("a.py"), top.path().join("__pycache__"));
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(&source, there).unwrap();
        let mtime = u32::try_from(source.metadata().unwrap().mtime()).unwrap();
        let size = u32::try_from(there.len()).unwrap();
        // The magic number of Python 3.13, and `None` as its whole code.
        let head = [&[0xf3, 0x0d, b'\r', b'\n', 0, 0, 0, 0][..], &mtime.to_le_bytes(), &size.to_le_bytes(), b"N"].concat();
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
        let shown = render(&told, &path, path.parent(), Style(false));
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
