//! What `hook status` says: a line for each file, for people and for programs.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::args_hook::Kind;
use super::super::json::{self, Start};
use super::super::out::Out;
use super::super::text;

/// What stands where a hook's file belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Ours, as this version would write it.
    Current,
    /// Ours, of another version, or for a command elsewhere.
    Outdated,
    /// Ours, edited since.
    Edited,
    /// Somebody else's.
    Foreign,
    /// A link to `/dev/null`, as an administrator disables a hook of pacman.
    Disabled,
    /// Nothing.
    Absent,
    /// A package's own.
    Packaged,
    /// There is no file to install.
    Unsupported,
}

impl State {
    /// All of them.
    #[cfg(test)]
    pub(super) const ALL: [Self; 8] =
        [Self::Current, Self::Outdated, Self::Edited, Self::Foreign, Self::Disabled, Self::Absent, Self::Packaged, Self::Unsupported];

    /// Its word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Outdated => "outdated",
            Self::Edited => "edited",
            Self::Foreign => "foreign",
            Self::Disabled => "disabled",
            Self::Absent => "absent",
            Self::Packaged => "packaged",
            Self::Unsupported => "unsupported",
        }
    }
}

/// One file of one manager.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) manager: &'static str,
    /// Empty: there is no file.
    pub(super) path: PathBuf,
    pub(super) state: Option<State>,
    pub(super) version: Option<String>,
    /// What `print` gives.
    pub(super) text: Option<String>,
}

impl Line {
    /// Of this file; an empty path is none.
    pub(super) fn new(kind: Kind, path: &Path) -> Self {
        Self { manager: kind.word(), path: path.to_path_buf(), state: None, version: None, text: None }
    }
}

#[derive(Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    head: Start,
    manager: &'static str,
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

/// One object a line.
pub(super) fn write_json(out: &Out, lines: &[Line]) {
    for line in lines {
        let path = (!line.path.as_os_str().is_empty()).then(|| json::path(&line.path));
        let (path, path_b64) = path.map_or((None, None), |(path, b64)| (Some(path), b64));
        let (state, version, text) = (line.state.map(State::word), line.version.as_deref(), line.text.as_deref());
        json::write(out, &Object { head: Start::of("hook"), manager: line.manager, path, path_b64, state, version, text });
    }
}

/// A table.
pub(super) fn table(lines: &[Line]) -> String {
    let mut table = format!("{:8}  {:11}  file\n", "manager", "state");
    for line in lines {
        let state = line.state.map_or("", State::word);
        let file = match line.state {
            Some(State::Unsupported) => format!("none: see `bytekeep hook print {}`", line.manager),
            _ => text::path(&line.path, None),
        };
        let version = line.version.as_deref().filter(|version| *version != env!("CARGO_PKG_VERSION"));
        let version = version.map(|version| format!(" (of bytekeep {})", text::message(version))).unwrap_or_default();
        table.extend([format!("{:8}  {state:11}  {file}{version}\n", line.manager)]);
    }
    table
}

/// All that it can write, and its words, for the test of the manual.
#[cfg(test)]
pub(in super::super) fn sample() -> (String, Vec<&'static str>) {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let (out, stdout, _) = super::super::out::capture::plain();
    let odd = Path::new(OsStr::from_bytes(b"/\xff"));
    let (version, text) = (Some("0.1.0".to_owned()), Some("text".to_owned()));
    write_json(&out, &[Line { state: Some(State::Current), version, text, ..Line::new(Kind::Git, odd) }]);
    (stdout.text(), State::ALL.map(State::word).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people_and_for_programs() {
        let lines = [
            Line { state: Some(State::Outdated), version: Some("0.0.9".to_owned()), ..Line::new(Kind::Dpkg, Path::new("/etc/a\nb")) },
            Line { state: Some(State::Unsupported), ..Line::new(Kind::Uv, Path::new("")) },
        ];
        assert_eq!(
            table(&lines),
            "manager   state        file\n\
             dpkg      outdated     /etc/a\\nb (of bytekeep 0.0.9)\n\
             uv        unsupported  none: see `bytekeep hook print uv`\n"
        );
        let (out, stdout, _) = super::super::super::out::capture::plain();
        write_json(&out, &lines);
        assert_eq!(
            stdout.text(),
            "{\"v\":1,\"kind\":\"hook\",\"manager\":\"dpkg\",\"path\":\"/etc/a\\nb\",\"state\":\"outdated\",\"version\":\"0.0.9\"}\n\
             {\"v\":1,\"kind\":\"hook\",\"manager\":\"uv\",\"path\":null,\"state\":\"unsupported\",\"version\":null}\n"
        );
    }
}
