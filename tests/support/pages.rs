//! Reading pages: what of them a reader can type.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::Path;
use std::process::{Command, Stdio};

/// A file of the repository.
pub(crate) fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a man page that a reader can type, each with what it prints: `(command, output)`.
pub(crate) fn typed_lines(page: &str) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut literal = false;
    for line in page.lines() {
        match line {
            _ if line.starts_with(".Bd -literal") => literal = true,
            ".Ed" => literal = false,
            _ if !literal => {}
            _ => match line.strip_prefix("$ ") {
                Some(command) => lines.push((command.replace("\\e", "\\"), String::new())),
                None => {
                    if let Some((_, output)) = lines.last_mut() {
                        output.push_str(line);
                        output.push('\n');
                    }
                }
            },
        }
    }
    lines
}

/// Runs such lines in one shell in an empty directory and compares what they print.
pub(crate) fn replay(shell: &str, lines: &[(String, String)]) -> tempfile::TempDir {
    let (mut script, mut expected) = (String::new(), String::new());
    for (command, output) in lines {
        script.push_str(command);
        script.push('\n');
        expected.push_str(output);
    }
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(shell).arg("-c").arg(script).current_dir(dir.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), expected, "{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    dir
}

/// Are these tools here? Says so where they are not: a test that is skipped is skipped aloud.
pub(crate) fn have(tools: &[&str]) -> bool {
    let missing: Vec<&str> = tools
        .iter()
        .filter(|tool| {
            Command::new(tool).arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
        })
        .copied()
        .collect();
    if !missing.is_empty() {
        // Past the test harness, which keeps the output of tests that pass to itself.
        use std::io::Write;
        drop(writeln!(std::io::stderr(), "SKIP: not installed: {}", missing.join(", ")));
    }
    missing.is_empty()
}
