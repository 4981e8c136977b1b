//! The sources that the distributions of an environment have recorded as theirs (`*.dist-info/RECORD`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::failure::Failure;

/// Largest RECORD that is read: the largest known has a few MB.
const LIMIT: u64 = 256 << 20;

/// The recorded sources below an environment that are there, by directory.
pub(crate) fn sources(env: &Path) -> Result<BTreeMap<PathBuf, Vec<OsString>>, Failure> {
    let top = std::fs::canonicalize(env).map_err(|cause| Failure::of_path("cannot use the environment", env, cause))?;
    let mut found = BTreeMap::new();
    let mut any = false;
    for site in site_directories(env) {
        for info in names(&site).filter(|name| name.as_encoded_bytes().ends_with(b".dist-info")) {
            let record = site.join(info).join("RECORD");
            if let Some(text) = read(&record)? {
                any = true;
                collect(&text, site.strip_prefix(env).unwrap_or(&site), env, &mut found);
            }
        }
    }
    if !any {
        return Err(Failure::new(format!("no distribution is recorded in `{}`", super::text::path(env, None)))
            .hint("name the directory of a virtual environment, or the tree itself without `--env`"));
    }
    // A record is data of whoever built the package: a directory that leads out of the environment is not followed.
    found.retain(|dir, _| std::fs::canonicalize(dir).is_ok_and(|dir| dir.starts_with(&top)));
    Ok(found)
}

/// `lib/python*/site-packages`, or the directory itself where it is one.
fn site_directories(env: &Path) -> Vec<PathBuf> {
    let lib = env.join("lib");
    let mut sites: Vec<PathBuf> = names(&lib)
        .filter(|name| name.as_encoded_bytes().starts_with(b"python"))
        .map(|name| lib.join(name).join("site-packages"))
        .filter(|site| site.is_dir())
        .collect();
    sites.sort();
    if sites.is_empty() {
        sites.push(env.to_path_buf());
    }
    sites
}

fn names(dir: &Path) -> impl Iterator<Item = OsString> + use<> {
    let listing = std::fs::read_dir(dir).inspect_err(|cause| tracing::debug!(%cause, dir = %dir.display(), "a directory is not listed"));
    listing.into_iter().flatten().filter_map(Result::ok).map(|item| item.file_name())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let seen = match std::fs::metadata(path) {
        Ok(seen) => seen,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(Failure::of_path("cannot read", path, cause)),
    };
    // Anything but a file could block or never end.
    if !seen.is_file() || seen.len() > LIMIT {
        return Err(Failure::new(format!("`{}` is no file that could be a record", super::text::path(path, None))));
    }
    std::fs::read(path).map(Some).map_err(|cause| Failure::of_path("cannot read", path, cause))
}

/// Adds the sources of one record of a site directory, which is `site` below the environment.
fn collect(record: &[u8], site: &Path, env: &Path, found: &mut BTreeMap<PathBuf, Vec<OsString>>) {
    for row in rows(record) {
        if !row.ends_with(b".py") {
            continue;
        }
        let row = PathBuf::from(OsString::from_vec(row));
        // Some records name what is outside of the site directory by its whole path.
        let below = if row.is_absolute() { beneath(&row, env) } else { normal(&site.join(row)) };
        let Some(below) = below.filter(|below| !below.starts_with("..")) else { continue };
        // By its letters only below the environment: however that is spelled, it is the user's word.
        let path = env.join(below);
        let Some((dir, name)) = path.parent().zip(path.file_name()) else { continue };
        // Removed since it was recorded: nothing to compile.
        if path.symlink_metadata().is_ok() {
            found.entry(dir.to_path_buf()).or_default().push(name.to_os_string());
        }
    }
}

fn beneath(path: &Path, env: &Path) -> Option<PathBuf> {
    let whole = normal(&std::path::absolute(env).ok()?)?;
    Some(normal(path)?.strip_prefix(whole).ok()?.to_path_buf())
}

/// The first field of every row of a CSV file: quotes may enclose commas, newlines and doubled quotes.
fn rows(text: &[u8]) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    while bytes.peek().is_some() {
        let mut field = Vec::new();
        let mut quoted = false;
        let mut first = true;
        while let Some(byte) = bytes.next() {
            match byte {
                b'"' if quoted && bytes.peek() == Some(&b'"') => {
                    bytes.next();
                    if first {
                        field.push(b'"');
                    }
                }
                b'"' => quoted = !quoted,
                b'\n' if !quoted => break,
                b',' if !quoted => first = false,
                byte if first => field.push(byte),
                _ => {}
            }
        }
        if field.last() == Some(&b'\r') {
            field.pop();
        }
        if !field.is_empty() {
            rows.push(field);
        }
    }
    rows
}

/// A path without `.` and `..`, by its letters alone. `None`: it climbs above its start.
fn normal(path: &Path) -> Option<PathBuf> {
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
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    #[test]
    fn first_fields() {
        let text = b"a.py,sha256=x,12\r\n\"b,c.py\",,\n\"say \"\"hi\"\".py\",\"x\ny\",\n\nlast.py";
        let expected: [&[u8]; 4] = [b"a.py", b"b,c.py", b"say \"hi\".py", b"last.py"];
        assert_eq!(rows(text), expected);
        assert!(rows(b"").is_empty());
        assert_eq!(rows(b"\"never closed,"), [b"never closed,"]);
    }

    #[test]
    fn paths_by_their_letters() {
        for (path, expected) in
            [("e/lib/../bin/x.py", "e/bin/x.py"), ("./e/x.py", "e/x.py"), ("../e/x.py", "../e/x.py"), ("e/../../x.py", "../x.py")]
        {
            assert_eq!(normal(Path::new(path)).unwrap(), Path::new(expected));
        }
    }

    #[test]
    fn an_environment_is_what_its_records_say_and_nothing_outside() {
        let top = tempfile::tempdir().unwrap();
        let env = top.path().join("env");
        let site = env.join("lib/python3.13/site-packages");
        std::fs::create_dir_all(site.join("pkg")).unwrap();
        std::fs::create_dir_all(site.join("pkg-1.dist-info")).unwrap();
        std::fs::create_dir_all(env.join("bin")).unwrap();
        std::fs::create_dir_all(top.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../../../../../outside", site.join("link")).unwrap();
        for file in ["pkg/a.py", "pkg/data.txt", "pkg/unrecorded.py", "../../../bin/tool.py", "../../../../outside/x.py"] {
            std::fs::write(site.join(file), "").unwrap();
        }
        let record = "pkg/a.py,,\npkg/gone.py,,\npkg/data.txt,,\n../../../bin/tool.py,,\n../../../../outside/x.py,,\nlink/x.py,,\n";
        std::fs::write(site.join("pkg-1.dist-info/RECORD"), record).unwrap();
        let found: Vec<_> = sources(&env).unwrap().into_iter().collect();
        assert_eq!(found, [(env.join("bin"), vec!["tool.py".into()]), (site.join("pkg"), vec!["a.py".into()])]);
        assert!(sources(top.path()).is_err());
    }
}
