//! The format of the seal does not drift: files made by a shell script, without a line of this crate, are read for ever.
//!
//! `data/seal/make.sh` made them once, with `b3sum` and `xxd`. A new version of the format gets new files beside these.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, missing_docs, reason = "a test works on files of its own")]

use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/pages.rs"]
mod pages;

use bytekeep::base::FlawKind;
use bytekeep::base::seal::{Artifact, Digest, Seal, sealed};
use pages::{have, replay, typed_lines};

const SOURCE: &[u8] = b"print(\"hi\")\n";
const PAYLOAD: &[u8] = b"\xF3\x0D\x0D\x0A\0\0\0\0\0\0\0\0\x0C\0\0\0N";

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/seal")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(data().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn label(hashed: &[u8]) -> [u8; 8] {
    Digest::of(hashed).0[..8].try_into().unwrap()
}

/// What a reader of version 1 says of a file: to its last byte, without asking the structure of the payload.
fn read_as_sealed(bytes: &[u8]) -> &'static str {
    let artifact = match Artifact::split(bytes) {
        Ok(artifact) => artifact,
        Err(flaw) => return word(flaw.kind),
    };
    match (artifact.seal, artifact.prove()) {
        (None, Ok(())) => "no seal",
        (Some(_), Ok(())) => "proved",
        (_, Err(flaw)) => word(flaw.kind),
    }
}

fn word(kind: FlawKind) -> &'static str {
    match kind {
        FlawKind::Truncated => "truncated",
        FlawKind::Corrupt => "corrupt",
        FlawKind::BadMagic => "bad-magic",
        FlawKind::Unknown => "unknown",
    }
}

/// Every golden file, and what is read out of it. "no seal" is then judged by the structure of the payload.
const ROWS: &[(&str, &str)] = &[
    ("v1-adopted.bin", "proved"),
    ("v1-cut-1.bin", "no seal"),
    ("v1-cut-48.bin", "no seal"),
    ("v1-cut-96.bin", "no seal"),
    ("v1-cut-97.bin", "no seal"),
    ("v1-flipped-label.bin", "corrupt"),
    ("v1-flipped-length.bin", "corrupt"),
    ("v1-flipped-magic.bin", "no seal"),
    ("v1-flipped-payload.bin", "corrupt"),
    ("v1-flipped-proof.bin", "corrupt"),
    ("v1-flipped-source.bin", "corrupt"),
    ("v1-key-without-flag.bin", "corrupt"),
    ("v1-keyed.bin", "corrupt"),
    ("v1-opt-2-free-threaded.bin", "proved"),
    ("v1-piece-missing.bin", "truncated"),
    ("v1-says-longer.bin", "truncated"),
    ("v1-says-shorter.bin", "corrupt"),
    ("v1-sealed.bin", "proved"),
    ("v1-unknown-flag.bin", "unknown"),
    ("v1-zeroed.bin", "corrupt"),
    ("v2-version.bin", "unknown"),
];

#[test]
fn every_golden_file_reads_as_it_always_did() {
    for (name, expected) in ROWS {
        assert_eq!(read_as_sealed(&read(name)), *expected, "{name}");
    }
}

#[test]
fn no_golden_file_is_forgotten() {
    let mut found: Vec<String> =
        std::fs::read_dir(data()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.retain(|name| Path::new(name).extension().is_some_and(|extension| extension == "bin"));
    found.sort();
    let rows: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, rows);
}

#[test]
fn we_write_what_the_script_wrote() {
    let plain = label(b"cpython-313\x000\x00");
    let source = Digest::of(SOURCE);
    assert_eq!(sealed(PAYLOAD.to_vec(), source, plain, false), read("v1-sealed.bin"));
    assert_eq!(sealed(PAYLOAD.to_vec(), source, plain, true), read("v1-adopted.bin"));
    let other = label(b"cpython-313\x002\x00t");
    assert_eq!(sealed(PAYLOAD.to_vec(), source, other, false), read("v1-opt-2-free-threaded.bin"));
    let seal = Seal::over(PAYLOAD, source, plain, false);
    assert_eq!(seal.to_bytes(), read("v1-sealed.bin")[PAYLOAD.len()..]);
}

#[test]
fn every_field_is_where_the_page_says() {
    let bytes = read("v1-adopted.bin");
    let seal = Seal::parse(&bytes, bytes.len() as u64).unwrap().unwrap();
    assert_eq!(seal.payload_len, 17);
    assert_eq!(seal.source, Digest::of(SOURCE));
    assert_eq!(seal.label, label(b"cpython-313\x000\x00"));
    assert!(seal.adopted);
    assert_eq!(seal.key, None);

    let bytes = read("v1-keyed.bin");
    let seal = Seal::parse(&bytes, bytes.len() as u64).unwrap().unwrap();
    assert_eq!(seal.key, Some(7));
    assert!(!seal.adopted);
}

/// Cut by exactly the seal, an artifact is its payload: sound, and unsealed. Nothing else that is cut equals it.
#[test]
fn a_cut_by_the_whole_seal_leaves_the_payload() {
    assert_eq!(read("v1-cut-96.bin"), PAYLOAD);
    for name in ["v1-cut-1.bin", "v1-cut-48.bin", "v1-cut-97.bin"] {
        assert_ne!(read(name), PAYLOAD, "{name}");
    }
}

#[test]
fn the_script_still_makes_these_files() {
    if !have(&["b3sum", "xxd"]) {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let status = Command::new("sh").arg(data().join("make.sh")).arg(out.path()).status().unwrap();
    assert!(status.success());
    for (name, _) in ROWS {
        assert_eq!(std::fs::read(out.path().join(name)).unwrap(), read(name), "{name}");
    }
}

fn page() -> String {
    pages::text("man/bytekeep-seal.5")
}

#[test]
fn the_vector_in_the_page_is_the_golden_file() {
    let lines = typed_lines(&page());
    let (_, printed) = lines.iter().find(|(command, _)| command.starts_with("xxd ")).expect("the page prints its vector");
    let hex: String = read("v1-sealed.bin").iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    assert_eq!(printed.replace('\n', ""), hex);
}

#[test]
fn the_lines_of_the_page_print_what_it_says() {
    if !have(&["b3sum", "xxd"]) {
        return;
    }
    let dir = replay("sh", &typed_lines(&page()));
    assert_eq!(std::fs::read(dir.path().join("sealed")).unwrap(), read("v1-sealed.bin"));
}
