//! `--exclude`: patterns against paths.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use super::failure::Failure;
use crate::base::sys::Name;

/// What an interpreter's own library has that is not its own, and the files in it that are bad on purpose (its tests compile them to
/// see them fail). Found by compiling the libraries of 2.7 and 3.6 to 3.13.
const STDLIB: [&str; 6] = ["site-packages", "dist-packages", BAD[0], BAD[1], BAD[2], BAD[3]];
const BAD: [&str; 4] = ["test/**/bad_coding*.py", "test/**/badsyntax_*.py", "lib2to3/tests/data", "test/test_lib2to3/data"];

/// `*` stays within a component, `**` does not, as in a shell.
const OPTIONS: MatchOptions = MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// What is left out.
#[derive(Debug, Default)]
pub(crate) struct Excludes {
    patterns: Vec<Pattern>,
    /// Named directories, which patterns may be relative to.
    roots: HashSet<PathBuf>,
    /// Libraries of interpreters: only below these [`STDLIB`] holds.
    libraries: Vec<Library>,
}

#[derive(Debug)]
struct Library {
    dir: PathBuf,
    patterns: Vec<Pattern>,
    /// What in it was named by itself, which [`STDLIB`] does not leave out.
    named: HashSet<PathBuf>,
}

impl Excludes {
    /// From the patterns of the command line, for these roots.
    pub(crate) fn new(patterns: &[String], roots: impl IntoIterator<Item = PathBuf>) -> Result<Self, Failure> {
        let compile = |text: &String| {
            let plain = if text == "/" { text } else { text.trim_end_matches('/') };
            Pattern::new(plain).map_err(|error| {
                Failure::new(format!("the pattern `{text}` of `--exclude` cannot be understood"))
                    .hint(format!("{} (at its character {})", error.msg, error.pos))
            })
        };
        let patterns = patterns.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { patterns, roots: roots.into_iter().collect(), libraries: Vec::new() })
    }

    /// Leaves out what is not to be compiled in this library, but nothing of what was named by itself: whole directories (without names)
    /// and single sources.
    pub(crate) fn add_library<'n>(&mut self, dir: PathBuf, named: impl Iterator<Item = (&'n Path, &'n [Name])>) {
        // Each by its real path too: what a person names must not depend on how it is spelled.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let library = real(&dir);
        let mut own = HashSet::new();
        for (place, names) in named {
            let whole = real(place);
            if names.is_empty() && library.starts_with(&whole) {
                return;
            }
            let places = [Some(place.to_path_buf()), whole.strip_prefix(&library).ok().map(|below| dir.join(below))];
            for place in places.into_iter().flatten() {
                if names.is_empty() {
                    own.insert(place);
                } else {
                    own.extend(names.iter().map(|name| place.join(name)));
                }
            }
        }
        let patterns = STDLIB.iter().filter_map(|text| Pattern::new(text).ok()).collect();
        self.libraries.push(Library { dir, patterns, named: own });
    }

    /// Leaves out what is bad on purpose in this library, and nothing else.
    pub(crate) fn add_bad_on_purpose(&mut self, dir: PathBuf) {
        let patterns = BAD.iter().filter_map(|text| Pattern::new(text).ok()).collect();
        self.libraries.push(Library { dir, patterns, named: HashSet::new() });
    }

    /// Is nothing left out?
    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty() && self.libraries.is_empty()
    }

    /// Is this path, or a directory above it, left out?
    pub(crate) fn matches(&self, path: &Path) -> bool {
        self.libraries.iter().any(|library| library.leaves_out(path)) || (!self.patterns.is_empty() && self.matches_patterns(path))
    }

    fn matches_patterns(&self, path: &Path) -> bool {
        let roots = path.ancestors().skip(1).filter(|above| self.roots.contains(*above));
        let mut below = roots.filter_map(|root| path.strip_prefix(root).ok());
        // Only below the named directory is a name enough: `--exclude build` leaves `/home/build/tree` alone when that was asked for.
        below.any(|rest| any_level(&self.patterns, rest, true)) || any_level(&self.patterns, path, false)
    }
}

impl Library {
    fn leaves_out(&self, path: &Path) -> bool {
        path.strip_prefix(&self.dir).is_ok_and(|below| any_level(&self.patterns, below, false))
            && !path.ancestors().any(|above| self.named.contains(above))
    }
}

/// Does a pattern match the path, a directory above it, or (with `names`) one of their names?
fn any_level(patterns: &[Pattern], path: &Path, names: bool) -> bool {
    path.ancestors().filter(|level| !level.as_os_str().is_empty()).any(|level| {
        let whole = level.to_string_lossy();
        let name = level.file_name().filter(|_| names).map(|name| name.to_string_lossy());
        patterns
            .iter()
            .any(|pattern| pattern.matches_with(&whole, OPTIONS) || name.as_ref().is_some_and(|name| pattern.matches_with(name, OPTIONS)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excludes(patterns: &[&str], roots: &[&str]) -> Excludes {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        Excludes::new(&patterns, roots.iter().map(PathBuf::from)).unwrap()
    }

    #[test]
    fn a_pattern_matches_the_path_as_named_relative_or_by_name() {
        for (pattern, path, left_out) in [
            ("tests", "src/pkg/tests/a.py", true),
            ("tests/", "src/pkg/tests/a.py", true),
            ("*_test.py", "src/pkg/a_test.py", true),
            ("pkg/*.py", "src/pkg/a.py", true),
            ("pkg/*.py", "src/pkg/deep/a.py", false),
            ("pkg/**/*.py", "src/pkg/deep/a.py", true),
            ("src/pkg", "src/pkg/a.py", true),
            ("src", "src/pkg/a.py", true),
            ("pk", "src/pkg/a.py", false),
            ("*.py", "src/pkg/a.pyc", false),
        ] {
            assert_eq!(excludes(&[pattern], &["src"]).matches(Path::new(path)), left_out, "{pattern} {path}");
        }
        assert!(!excludes(&["build"], &["/home/build/tree"]).matches(Path::new("/home/build/tree/a.py")));
        assert!(Excludes::new(&["[".to_owned()], Vec::new()).is_err());
    }

    #[test]
    fn a_library_without_what_is_bad_on_purpose() {
        let mut excludes = Excludes::default();
        excludes.add_library("/usr/lib/python3.12".into(), std::iter::empty());
        for (path, left_out) in [
            ("test/bad_coding.py", true),
            ("test/tokenizedata/badsyntax_3131.py", true),
            ("test/test_future_stmt/badsyntax_future.py", true),
            ("lib2to3/tests/data/bom.py", true),
            ("site-packages/pip/__init__.py", true),
            ("dist-packages", true),
            ("test/test_ast.py", false),
            ("os.py", false),
            ("lib2to3/pytree.py", false),
        ] {
            assert_eq!(excludes.matches(&Path::new("/usr/lib/python3.12").join(path)), left_out, "{path}");
        }
        assert!(!excludes.matches(Path::new("/home/test/bad_coding.py")));
        let mut excludes = Excludes::default();
        let (names, dir) = ([Name::new("bad_coding.py").unwrap()], Path::new("/usr/lib/python3.12"));
        let (packages, tests) = (dir.join("site-packages"), dir.join("test"));
        excludes.add_library(dir.into(), [(packages.as_path(), &[][..]), (tests.as_path(), &names[..])].into_iter());
        for (path, left_out) in [
            ("site-packages", false),
            ("site-packages/pip/__init__.py", false),
            ("dist-packages", true),
            ("test/bad_coding.py", false),
            ("test/bad_coding3.py", true),
        ] {
            assert_eq!(excludes.matches(&dir.join(path)), left_out, "{path}, where some of it is named");
        }
        let mut excludes = Excludes::default();
        excludes.add_library(dir.into(), [(Path::new("/"), &[][..])].into_iter());
        assert!(excludes.is_empty(), "the whole library is named");
    }
}
