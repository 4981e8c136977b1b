//! Names as compileall makes them, letter by letter: of files on its walk, of their artifacts, and the one that compiled code carries.
//! Paths are bytes here: `d//a.py` and `d/a.py` are one file and two names.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::args::Asked;

/// `os.path.join` of two.
pub(super) fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if name.starts_with(b"/") {
        return name.to_vec();
    }
    let slash: &[u8] = if above.is_empty() || above.ends_with(b"/") { b"" } else { b"/" };
    [above, slash, name].concat()
}

/// Head with the slash, and tail: what `rpartition('/')` gives.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    path.split_at(at)
}

/// The directory that holds a file, as a path that can be opened.
pub(super) fn directory(path: &[u8]) -> PathBuf {
    let (head, _) = split(path);
    let trimmed = match head.iter().rposition(|byte| *byte != b'/') {
        Some(last) => head.get(..=last).unwrap_or_default(),
        None if head.is_empty() => b".",
        None => b"/",
    };
    PathBuf::from(OsStr::from_bytes(trimmed))
}

/// Where the artifacts of an interpreter are.
#[derive(Debug)]
pub(super) struct Naming<'a> {
    /// The cache tag.
    pub(super) tag: &'a str,
    /// `-b`
    pub(super) legacy: bool,
    /// `sys.pycache_prefix`, absolute.
    pub(super) prefix: Option<&'a Path>,
}

impl Naming<'_> {
    /// The artifact of a source at a level, as compileall names it.
    pub(super) fn artifact(&self, source: &[u8], level: i64) -> Vec<u8> {
        if self.legacy {
            return [source, b"c"].concat();
        }
        let (head, tail) = split(source);
        let stem = tail.strip_suffix(b".py").unwrap_or(tail);
        let opt = if level > 0 { format!(".opt-{level}") } else { String::new() };
        let name = [stem, b".", self.tag.as_bytes(), opt.as_bytes(), b".pyc"].concat();
        match self.prefix {
            None => join(&join(head, b"__pycache__"), &name),
            Some(prefix) => {
                let dir = directory(source);
                let absolute = std::path::absolute(&dir).unwrap_or(dir);
                prefix.join(absolute.strip_prefix("/").unwrap_or(&absolute)).join(OsStr::from_bytes(&name)).into_os_string().into_vec()
            }
        }
    }
}

/// How code shall name its file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Renaming {
    ddir: Option<Vec<u8>>,
    strip: Option<Vec<u8>>,
    prepend: Option<Vec<u8>>,
    /// The minor version of Python 3, or more.
    minor: u8,
}

/// The name that code shall carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Renamed {
    /// That of its source.
    Own,
    /// Another one.
    To(Vec<u8>),
    /// 3.13 and later: what was to be stripped is not how the path begins, and that is told. The name without stripping.
    Unstripped(Option<Vec<u8>>),
    /// compileall breaks off: nothing is left to join.
    Nothing,
}

impl Renaming {
    /// For what was named as a file.
    pub(super) fn of_file(asked: &Asked, version: (u8, u8, u8)) -> Self {
        let bytes = |text: &Option<OsString>| text.as_ref().map(|text| text.as_bytes().to_vec());
        let minor = if version.0 == 3 { version.1 } else { u8::MAX };
        Self { ddir: bytes(&asked.ddir), strip: bytes(&asked.stripdir), prepend: bytes(&asked.prependdir), minor }
    }

    /// For what lies in a directory that was named: from 3.9 on, `-d` takes that off.
    pub(super) fn of_directory(asked: &Asked, version: (u8, u8, u8), dir: &[u8]) -> Self {
        let own = Self::of_file(asked, version);
        if own.minor < 9 || own.ddir.is_none() {
            return own;
        }
        Self { ddir: None, strip: Some(dir.to_vec()), prepend: own.ddir, minor: own.minor }
    }

    /// For a directory below: 3.7 and 3.8 go down with the name, 3.6 stays where it was.
    pub(super) fn below(&self, name: &[u8]) -> Self {
        match &self.ddir {
            Some(ddir) if (7..9).contains(&self.minor) => Self { ddir: Some(join(ddir, name)), ..self.clone() },
            _ => self.clone(),
        }
    }

    /// What is stripped, for the message.
    pub(super) fn stripped(&self) -> &[u8] {
        self.strip.as_deref().unwrap_or_default()
    }

    /// The name for a source.
    pub(super) fn of(&self, source: &[u8]) -> Renamed {
        let (_, tail) = split(source);
        let mut name = self.ddir.as_ref().map(|ddir| join(ddir, tail));
        let mut unstripped = false;
        if let Some(strip) = &self.strip {
            let parts: Vec<&[u8]> = source.split(|byte| *byte == b'/').collect();
            let taken: Vec<&[u8]> = strip.split(|byte| *byte == b'/').collect();
            let rest = if self.minor < 13 {
                Some(without_matching(&parts, &taken))
            } else {
                parts.strip_prefix(taken.as_slice()).map(<[_]>::to_vec)
            };
            match rest.as_ref().map(|rest| rest.split_first()) {
                Some(Some((first, rest))) => name = Some(rest.iter().fold(first.to_vec(), |path, part| join(&path, part))),
                Some(None) => return Renamed::Nothing,
                None => unstripped = true,
            }
        }
        if let Some(prepend) = &self.prepend {
            name = Some(join(prepend, name.as_deref().unwrap_or(source)));
        }
        // To `py_compile` an empty name is none.
        let name = name.filter(|name| !name.is_empty());
        match name {
            name if unstripped => Renamed::Unstripped(name),
            Some(name) => Renamed::To(name),
            None => Renamed::Own,
        }
    }
}

/// 3.9 to 3.12: each component that stands at the same place in both goes, at the first place where it stands.
fn without_matching<'a>(parts: &[&'a [u8]], taken: &[&[u8]]) -> Vec<&'a [u8]> {
    let mut rest = parts.to_vec();
    for (part, _) in parts.iter().zip(taken).filter(|(part, taken)| part == taken) {
        if let Some(at) = rest.iter().position(|left| left == part) {
            rest.remove(at);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(minor: u8, options: [&str; 3], source: &str) -> String {
        let text = |text: &str| Some(OsString::from(text)).filter(|text| !text.is_empty());
        let asked = Asked { ddir: text(options[0]), stripdir: text(options[1]), prependdir: text(options[2]), ..Asked::default() };
        match Renaming::of_file(&asked, (3, minor, 0)).of(source.as_bytes()) {
            Renamed::Own => "own".to_owned(),
            Renamed::Nothing => "nothing".to_owned(),
            Renamed::To(name) => String::from_utf8(name).unwrap(),
            Renamed::Unstripped(name) => {
                format!("unstripped {}", name.map_or_else(|| "own".to_owned(), |name| String::from_utf8(name).unwrap()))
            }
        }
    }

    #[test]
    fn the_name_in_the_code() {
        for (minor, options, source, name) in [
            (13, ["", "", ""], "d/a.py", "own"),
            (13, ["x", "", ""], "d/a.py", "x/a.py"),
            (13, ["", "d", ""], "d/e/a.py", "e/a.py"),
            (13, ["", "d/", ""], "d/e/a.py", "unstripped own"),
            (13, ["", "/zz", "/p"], "d/a.py", "unstripped /p/d/a.py"),
            (13, ["", "/b", "/"], "/b/usr/a.py", "/usr/a.py"),
            (12, ["", "/b", "/"], "/b/usr/a.py", "/usr/a.py"),
            (12, ["", "x/d", ""], "e/d/a.py", "e/a.py"),
            (12, ["", "d/x", ""], "d/e/a.py", "e/a.py"),
            (12, ["", "d/a.py", ""], "d/a.py", "nothing"),
            (9, ["", "", "/p"], "/d/a.py", "/d/a.py"),
            (9, ["", "", "p/"], "d/a.py", "p/d/a.py"),
        ] {
            assert_eq!(renamed(minor, options, source), name, "{minor} {options:?} {source}");
        }
        let asked = Asked { ddir: Some("x".into()), ..Asked::default() };
        let below = |minor| Renaming::of_directory(&asked, (3, minor, 0), b"d").below(b"e").of(b"d/e/a.py");
        assert_eq!(below(6), Renamed::To(b"x/a.py".to_vec()));
        assert_eq!(below(8), Renamed::To(b"x/e/a.py".to_vec()));
        assert_eq!(below(9), Renamed::To(b"x/e/a.py".to_vec()));
    }

    #[test]
    fn the_names_of_artifacts() {
        let naming = Naming { tag: "cpython-313", legacy: false, prefix: None };
        assert_eq!(naming.artifact(b"d//a.b.py", 2), b"d//__pycache__/a.b.cpython-313.opt-2.pyc");
        assert_eq!(naming.artifact(b"a.py", -1), b"__pycache__/a.cpython-313.pyc");
        assert_eq!(Naming { legacy: true, ..naming }.artifact(b"a.py", 2), b"a.pyc");
        let naming = Naming { tag: "t", legacy: false, prefix: Some(Path::new("/p")) };
        assert_eq!(naming.artifact(b"/d/a.py", 0), b"/p/d/a.t.pyc");
        for (path, dir) in [("a.py", "."), ("/a.py", "/"), ("d//a.py", "d"), ("./d/a.py", "./d")] {
            assert_eq!(directory(path.as_bytes()).as_os_str(), dir, "{path}");
        }
    }
}
