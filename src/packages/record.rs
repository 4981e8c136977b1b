//! The rows of a `RECORD`: what the [specification](https://packaging.python.org/en/latest/specifications/recording-installed-packages/)
//! says of them, and paths by their letters.

use std::path::{Component, Path, PathBuf};

/// Longest recorded path, bytes: the system takes none that is longer (`PATH_MAX`).
const LONGEST: usize = 4096;

/// What a row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The path, as it is written.
    pub(super) path: Vec<u8>,
    /// Does it say a digest or a size too?
    pub(super) proved: bool,
}

/// The rows of a CSV file, one after the other: quotes may enclose commas, newlines and doubled quotes. One whose path is too long to be
/// one is passed over.
pub(super) struct Rows<'a>(pub(super) &'a [u8]);

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        while !self.0.is_empty() {
            let mut path = Vec::new();
            let (mut quoted, mut first, mut proved) = (false, true, false);
            while let Some((byte, rest)) = self.0.split_first() {
                self.0 = rest;
                match byte {
                    b'"' if quoted && rest.first() == Some(&b'"') => {
                        self.0 = rest.split_first().map_or(rest, |(_, rest)| rest);
                        if first {
                            path.push(b'"');
                        }
                    }
                    b'"' => quoted = !quoted,
                    b'\n' if !quoted => break,
                    b',' if !quoted => first = false,
                    byte if first && path.len() <= LONGEST => path.push(*byte),
                    byte if !first => proved |= !byte.is_ascii_whitespace(),
                    _ => {}
                }
            }
            if path.last() == Some(&b'\r') {
                path.pop();
            }
            if !path.is_empty() && path.len() <= LONGEST {
                return Some(Row { path, proved });
            }
        }
        None
    }
}

/// The rows of a list of paths, one a line, as `pip` wrote it before there were wheels (`installed-files.txt`).
pub(super) fn lines(list: &[u8]) -> impl Iterator<Item = Row> + '_ {
    let lines = list.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.filter(|line| !line.is_empty() && line.len() <= LONGEST).map(|line| Row { path: line.to_vec(), proved: false })
}

/// A path without `.` and `..`, by its letters alone. `None`: nothing is left of it. One that climbs above its start begins with `..`.
pub(super) fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => match normal.components().next_back() {
                Some(Component::Normal(_)) => drop(normal.pop()),
                _ => normal.push(".."),
            },
            Component::CurDir => {}
            component => normal.push(component),
        }
    }
    (!normal.as_os_str().is_empty()).then_some(normal)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_a_record_holds(bytes in proptest::collection::vec(prop_oneof![3 => Just(b'"'), 3 => Just(b','), 3 => Just(b'\n'), 3 => Just(b'.'), 3 => Just(b'/'), 1 => any::<u8>()], 0..200)) {
            for row in Rows(&bytes).chain(lines(&bytes)) {
                prop_assert!(!row.path.is_empty() && row.path.len() <= bytes.len());
                let path = PathBuf::from(OsString::from_vec(row.path));
                // What climbs says so at its beginning, and nowhere else.
                let Some(path) = normal(&Path::new("lib/site").join(path)) else { continue };
                let parts: Vec<Component<'_>> = path.components().collect();
                let climbs = parts.iter().take_while(|part| matches!(part, Component::RootDir | Component::ParentDir)).count();
                prop_assert!(parts.iter().skip(climbs).all(|part| matches!(part, Component::Normal(_))), "{}", path.display());
            }
        }

        #[test]
        fn what_is_quoted_is_read_back(path in "[ -~\n]{1,40}") {
            let quoted = format!("\"{}\",sha256=x,3\r\nnext.py,,\r\n", path.replace('"', "\"\""));
            let paths: Vec<Vec<u8>> = Rows(quoted.as_bytes()).map(|row| row.path).collect();
            prop_assert_eq!(paths, [path.into_bytes(), b"next.py".to_vec()]);
        }
    }

    #[test]
    fn rows_of_a_record() {
        let text = b"a.py,sha256=x,12\r\n\"b,c.py\",,\r\n\"say \"\"hi\"\".py\",\"x\ny\",\n\nlast.py";
        let expected: [(&[u8], bool); 4] = [(b"a.py", true), (b"b,c.py", false), (b"say \"hi\".py", true), (b"last.py", false)];
        let rows = |text| Rows(text).map(|row| (row.path, row.proved)).collect::<Vec<_>>();
        assert_eq!(rows(text), expected.map(|(path, proved)| (path.to_vec(), proved)));
        assert!(rows(b"").is_empty());
        assert_eq!(rows(b"\"never closed,"), [(b"never closed,".to_vec(), false)]);
        let long = [&b"x".repeat(LONGEST + 1)[..], b",,\na.py,,7\n"].concat();
        assert_eq!(rows(&long), [(b"a.py".to_vec(), true)]);
        assert_eq!(rows(b"\xff\xfe.py,,\n"), [(b"\xff\xfe.py".to_vec(), false)], "a name need not be text");
    }

    #[test]
    fn lines_of_a_list() {
        let paths: Vec<_> = lines(b"../a.py\r\n\nb.py").map(|row| row.path).collect();
        assert_eq!(paths, [b"../a.py".to_vec(), b"b.py".to_vec()]);
    }

    #[test]
    fn paths_by_their_letters() {
        for (path, expected) in
            [("e/lib/../bin/x.py", "e/bin/x.py"), ("./e/x.py", "e/x.py"), ("../e/x.py", "../e/x.py"), ("e/../../x.py", "../x.py")]
        {
            assert_eq!(normal(Path::new(path)).unwrap(), Path::new(expected));
        }
        assert_eq!(normal(Path::new("e/..")), None);
    }
}
