//! Tests of `interpreter.rs`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::*;

#[test]
fn a_version_means_a_name_on_path() {
    for (spec, name) in [("3.12", "python3.12"), ("3", "python3"), ("pypy3", "pypy3"), ("python", "python")] {
        assert_eq!(name_of(OsStr::new(spec)), OsStr::new(name));
    }
    assert_eq!(on_path(OsStr::new("sh"), Some(OsStr::new("relative:.::"))), Vec::<PathBuf>::new());
    assert!(!on_path(OsStr::new("sh"), Some(OsStr::new("/nowhere:/bin"))).is_empty());
}

#[test]
fn the_environment_of_a_path_is_found() {
    let top = tempfile::tempdir().unwrap();
    let home = top.path().canonicalize().unwrap().join("env");
    std::fs::create_dir_all(home.join("lib/site-packages")).unwrap();
    assert_eq!(Interpreter::of_tree(&home), None);
    drop(std::fs::OpenOptions::new().create_new(true).write(true).open(home.join("pyvenv.cfg")).unwrap());
    assert_eq!(Interpreter::of_tree(&home.join("lib/site-packages")), Some(home.join("bin/python")));
    assert_eq!(Interpreter::of_tree(&home), Some(home.join("bin/python")));
    let probes = Probes::open(None);
    let both = [home.join("lib"), top.path().to_owned()];
    assert!(matches!(Interpreter::default_for(&both, &probes), Err(InterpreterError::Ambiguous { .. })));
}

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("python");
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o755).open(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

fn answer(version: &str, tag: &str, implementation: &str) -> String {
    let hex = |text: &str| text.bytes().fold(String::new(), |all, byte| all + &format!("{byte:02x}"));
    format!(
        r#"{{"tag": "{}", "magic": "00010d0a", "implementation": "{}", "version": [{version}], "variant": "", "stdlib": "2f", "library": "", "executable": "", "wide": true, "build": "78"}}"#,
        hex(tag),
        hex(implementation)
    )
}

#[test]
fn what_cannot_serve_is_named_and_why() {
    let top = tempfile::tempdir().unwrap();
    let probes = Probes::open(None);
    let says = |text: &str| Interpreter::find(script(top.path(), text).as_os_str(), true, &probes);
    let told = |answer: String| says(&format!("#!/bin/sh\necho '{answer}'\n"));
    assert!(told(answer("3, 12, 1", "cpython-312", "cpython")).is_ok());
    assert!(matches!(told(answer("3, 5, 9", "cpython-35", "cpython")), Err(InterpreterError::TooOld { .. })));
    assert!(matches!(told(answer("2, 6, 0", "cpython-27", "cpython")), Err(InterpreterError::TooOld { .. })));
    assert!(matches!(told(answer("2, 7, 18", "pypy-27", "pypy")), Err(InterpreterError::Unsupported { .. })));
    assert!(matches!(told(answer("3, 9, 0", "graalpy", "graalpy")), Err(InterpreterError::Unsupported { .. })));
    assert!(matches!(told(answer("3, 12, 0", "", "cpython")), Err(InterpreterError::Unsupported { .. })));
    let error = says("#!/bin/sh\necho first >&2\necho last >&2\nexit 5\n").unwrap_err();
    assert!(error.to_string().ends_with("exit status 5 (last)"), "{error}");
    assert!(matches!(says("#!/bin/sh\necho hello\n"), Err(InterpreterError::Broken { .. })));
    let missing = Interpreter::find("/no/such/python", true, &probes).unwrap_err();
    assert!(missing.to_string().contains("/no/such/python") && missing.to_string().contains("--python"), "{missing}");
    assert!(matches!(Interpreter::find("/etc/passwd", true, &probes), Err(InterpreterError::NotExecutable(_))));
    assert!(matches!(Interpreter::find("no-such-python", true, &probes), Err(InterpreterError::Missing { .. })));
}

#[test]
fn root_starts_nothing_that_others_can_write() {
    let top = tempfile::tempdir().unwrap();
    let path = script(top.path(), "#!/bin/sh\n");
    assert_eq!(writable_by_others(&path), None);
    std::fs::set_permissions(top.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(writable_by_others(&path).as_deref(), Some(top.path()));
    let link = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&path, link.path().join("python3")).unwrap();
    assert_eq!(writable_by_others(&link.path().join("python3")).as_deref(), Some(top.path()));
    if sys::effective_user() == 0 {
        let error = Interpreter::find(path.as_os_str(), false, &Probes::open(None)).unwrap_err();
        assert!(error.to_string().contains(&format!("--python {}", path.display())), "{error}");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
fn the_settings_of_an_environment_are_looked_at_whatever_they_hold() {
    let top = tempfile::tempdir().unwrap();
    let loose = top.path().join("loose");
    std::fs::create_dir_all(top.path().join("env/bin")).unwrap();
    std::fs::create_dir(&loose).unwrap();
    std::fs::set_permissions(&loose, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (config, python) = (top.path().join("env/pyvenv.cfg"), top.path().join("env/bin/python"));
    let write = |bytes: &[u8]| {
        drop(std::fs::remove_file(&config));
        std::fs::OpenOptions::new().create_new(true).write(true).open(&config).unwrap().write_all(bytes).unwrap();
    };
    assert_eq!(loose_home(&python), None);
    write(b"# \xff\nversion = 3\n");
    assert_eq!(loose_home(&python), None);
    write(&[b"# \xff\r\nHome = ", loose.as_os_str().as_encoded_bytes(), b"\r\n"].concat());
    assert_eq!(loose_home(&python), Some(loose));
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(loose_home(&python), Some(config.clone()));
    std::fs::remove_file(&config).unwrap();
    std::fs::create_dir(&config).unwrap();
    assert_eq!(loose_home(&python), Some(config), "what cannot be read is not trusted");
}

/// A script that counts its starts.
fn program(dir: &Path, count: &Path) -> PathBuf {
    script(dir, &format!("#!/bin/sh\necho x >> {}\necho '{}'\n", count.display(), answer("3, 12, 1", "cpython-312", "cpython")))
}

#[test]
fn a_script_is_asked_each_time() {
    let top = tempfile::tempdir().unwrap();
    let count = top.path().join("count");
    let path = program(top.path(), &count);
    let probes = Probes::open(Some(top.path().join("cache")));
    for _ in 0..2 {
        Interpreter::find(path.as_os_str(), true, &probes).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\nx\n");
}

#[test]
fn an_answer_is_remembered_while_nothing_changed() {
    let top = tempfile::tempdir().unwrap();
    let home = top.path().join("env");
    std::fs::create_dir_all(home.join("bin")).unwrap();
    let path = home.join("bin/python");
    // Any program will do: it is never started here.
    let real = std::env::current_exe().unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    let cache = top.path().join("cache");
    let probes = Probes::open(Some(cache.clone()));
    let answer: Answer = serde_json::from_str(&answer("3, 12, 1", "cpython-312", "cpython")).unwrap();
    assert_eq!(probes.recall(&path, &real), None);
    probes.remember(&path, &real, &answer);
    assert_eq!(probes.recall(&path, &real), Some(answer.clone()));
    assert_eq!(probes.recall(&real, &real), None, "another way to it is another interpreter");
    let config = home.join("pyvenv.cfg");
    drop(std::fs::OpenOptions::new().create_new(true).write(true).open(&config).unwrap());
    assert_eq!(probes.recall(&path, &real), None, "it became a virtual environment");
    probes.remember(&path, &real, &answer);
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(probes.recall(&path, &real), None, "others may have written it");
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(probes.recall(&path, &real), Some(answer.clone()));
    std::fs::OpenOptions::new().write(true).open(cache.join("interpreters-4.json")).unwrap().write_all(b"{{{").unwrap();
    assert_eq!(probes.recall(&path, &real), None);
    probes.remember(&path, &real, &answer);
    assert_eq!(probes.recall(&path, &real), Some(answer.clone()));
    // A program that starts another one, which may be a third one tomorrow.
    let home = tempfile::tempdir().unwrap();
    let probes = Probes::open(Some(home.path().to_owned()));
    probes.remember(&path, &real, &Answer { executable: "2f7368".to_owned(), ..answer });
    assert_eq!(probes.recall(&path, &real), None);
}
