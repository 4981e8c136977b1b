//! Everything that can stand where a source, an artifact, a cache directory, a lock or a left-over is looked for.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use super::ground::{Ground, SECRET, Way, give, run};
use super::user::USER;
use crate::mount::check;
use crate::run::{Tally, interrupted};
use crate::whole::{files, is_artifact};

const KINDS: [&str; 12] = ["fifo", "socket", "null", "zero", "disk", "dir", "dangling", "self", "loop", "secret", "endless", "hard"];
/// Directories in one another. Twice as many take four times as long: each is opened from the root.
const LEVELS: usize = 2000;
/// Each is a directory of its own, over which each command is run.
pub(super) const PARTS: [&str; 8] = ["names", "kinds", "trees", "sparse", "deep", "aside", "marshal", "others"];

/// Something of this kind at this path, whose directory is there.
fn put(ground: &Ground<'_>, kind: &str, path: &Path) -> Result<()> {
    let node = |words: &[&str]| check(Command::new("mknod").arg(path).args(words)).map(drop);
    match kind {
        "fifo" => node(&["p"])?,
        "null" => node(&["c", "1", "3"])?,
        "zero" => node(&["c", "1", "5"])?,
        "disk" => node(&["b", "7", "250"])?,
        "socket" => {
            // the path of a socket must be short
            let short = ground.top().join("s");
            drop(UnixListener::bind(&short)?);
            std::fs::rename(short, path)?;
        }
        "dir" => {
            std::fs::create_dir(path)?;
            std::fs::write(path.join("within"), "within\n")?;
        }
        "dangling" => symlink(ground.outside.join("not-there"), path)?,
        "self" => symlink(path, path)?,
        "loop" => symlink(".", path)?,
        "secret" => symlink(ground.outside.join("wrong.py"), path)?,
        "endless" => symlink("/dev/zero", path)?,
        // laid when the tree is given away
        "hard" => {}
        other => bail!("no kind is called {other}"),
    }
    Ok(())
}

fn places(ground: &Ground<'_>, kind: &str) -> Result<Vec<PathBuf>> {
    let dir = ground.tree.join("kinds").join(kind);
    let cache = dir.join("__pycache__");
    std::fs::create_dir_all(&cache)?;
    std::fs::write(dir.join("fine.py"), "X = 1\n")?;
    let named = |name: &str| cache.join(name.replace("TAG", &ground.tag));
    let mut all = vec![
        dir.join("source.py"),
        dir.join("sourceless.pyc"),
        named("fine.TAG.pyc"),
        named("fine.TAG.pyc.1234567"),
        named(".bytekeep-aaaaaa.tmp"),
        named(".bytekeep-aaaaaa.old"),
    ];
    for (number, name) in ["__pycache__", "__pycache__/.bytekeep.lock"].iter().enumerate() {
        let below = dir.join(format!("below{number}"));
        std::fs::create_dir_all(&below)?;
        std::fs::write(below.join("m.py"), "X = 1\n")?;
        if name.contains('/') {
            std::fs::create_dir(below.join("__pycache__"))?;
        }
        all.push(below.join(name));
    }
    Ok(all)
}

fn lay_out(ground: &mut Ground<'_>, only: Option<&str>, levels: usize) -> Result<()> {
    let has = |part: &str| only.is_none_or(|only| only == part);
    ground.lay_out_outside()?;
    for part in PARTS {
        std::fs::create_dir_all(ground.tree.join(part))?;
    }
    let names: [&[u8]; 9] = [
        b"new\nline",
        b"\x1b[31mred\x07",
        b"caf\xe9",
        b"-rf",
        b"$(touch pwned)`'\"",
        b"a\rb",
        "\u{9b}31m\u{202e}".as_bytes(),
        &[b'n'; 252],
        b"tab\t",
    ];
    for (number, name) in names.iter().enumerate() {
        for (dir, text) in [("fine", "X = 1\n"), ("wrong", "x = = '\x1b[31m\x07'\n")] {
            let path = Path::new("tree/names").join(dir).join(OsStr::from_bytes(&[*name, b".py"].concat()));
            ground.file(&path, text)?;
            if number != 7 {
                ground.file(Path::new("tree/names").join(OsStr::from_bytes(name)).join("m.py"), text)?;
                let artifact = [name, format!(".{}.pyc", ground.tag).as_bytes()].concat();
                ground.file(Path::new("tree/names").join(dir).join("__pycache__").join(OsStr::from_bytes(&artifact)), "torn")?;
            }
        }
    }
    let mut hard = Vec::new();
    for kind in KINDS {
        for place in places(ground, kind)? {
            put(ground, kind, &place)?;
            if kind == "hard" && place.file_name() != Some(OsStr::new("__pycache__")) {
                hard.push(place);
            }
        }
    }
    for (link, to) in [("dot", "."), ("up", ".."), ("all", "/"), ("pkg", "/proc"), ("outside", "../../outside")] {
        ground.file(format!("tree/trees/{link}.d/m.py"), "X = 1\n")?;
        symlink(to, ground.tree.join(format!("trees/{link}.d/{link}")))?;
    }
    symlink(ground.outside.join("pkg"), ground.tree.join("trees/pkg"))?;
    symlink(&ground.outside, ground.tree.join("trees/.bytekeep-aaaaaa.old"))?;
    if has("sparse") {
        sparse(ground)?;
    }
    for (part, name) in [("deep", "deep"), ("aside", "aside/__pycache__/.bytekeep-aaaaaa.old")] {
        if has(part) {
            nest(&ground.tree.join(name), levels)?;
            // a left-over of this kind is dead by its age
            check(Command::new("touch").args(["-d", "@1400000000"]).arg(ground.tree.join(name)))?;
        }
    }
    ground.file("tree/aside/m.py", "X = 1\n")?;
    marshal(ground)?;
    for dir in ["open", "sticky"] {
        for name in ["m.py", "sub/m.py"] {
            ground.file(format!("tree/others/{dir}/{name}"), "X = 1\n")?;
        }
    }
    ground.file("tree/others/linked/m.py", "X = 1\n")?;
    std::fs::remove_dir_all(ground.tree.join("names/fine/__pycache__"))?;
    ground.give_away()?;
    for place in hard {
        let to = if place.extension().is_some_and(|suffix| suffix == "py") { "secret.py" } else { "victim.pyc" };
        if place.exists() {
            std::fs::remove_file(&place)?;
        }
        std::fs::hard_link(ground.outside.join(to), place)?;
    }
    // one of a third user open to all, and root's own with the sticky bit
    for (dir, owner, mode) in [("open", 65533, 0o777), ("sticky", 0, 0o1777)] {
        let dir = ground.tree.join("others").join(dir);
        give(&dir, owner)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))?;
    }
    ground.begin()
}

/// Files that are larger than the memory that a run may take.
fn sparse(ground: &Ground<'_>) -> Result<()> {
    let source = ground.file("tree/sparse/source.py", "")?;
    File::options().write(true).open(source)?.set_len(5 << 30)?;
    let all: [(&str, u64, &[u8]); 4] =
        [("whole", 5 << 30, b"\xf3"), ("a", 60 << 20, b"\xf3"), ("b", 250 << 20, b"s\xff\xff\xff\x0f"), ("c", 200 << 20, b"\xa9\x01")];
    for (name, size, body) in all {
        artifact(ground, "sparse", name, body)?;
        File::options().write(true).open(ground.artifact("tree/sparse", name))?.set_len(size)?;
    }
    // an object of two bytes, of which a reader remembers each
    let items = b"\xa9\0".repeat(30 << 20);
    let body = [&b"\xa8"[..], &(30_u32 << 20).to_le_bytes(), &items].concat();
    for name in ["refs", "more_refs"] {
        artifact(ground, "sparse", name, &body)?;
    }
    // a source that fits its artifact and is read to be compared
    let source = ground.file("tree/sparse/vast.py", "")?;
    File::options().write(true).open(&source)?.set_len(900 << 20)?;
    let hashed = [&ground.magic[..], &[3, 0, 0, 0], &[7; 8], b"N"].concat();
    ground.file(ground.artifact("tree/sparse", "vast").strip_prefix(ground.top())?, hashed)?;
    Ok(())
}

/// An artifact that fits its source by its header, with this body. Its bytes.
fn artifact(ground: &Ground<'_>, dir: &str, name: &str, body: &[u8]) -> Result<Vec<u8>> {
    let source = ground.file(format!("tree/{dir}/{name}.py"), "X = 1\n")?;
    let mtime = source.metadata()?.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let bytes = [&ground.magic[..], &[0; 4], &u32::try_from(mtime)?.to_le_bytes(), &6_u32.to_le_bytes(), body].concat();
    ground.file(ground.artifact(&format!("tree/{dir}"), name).strip_prefix(ground.top())?, &bytes)?;
    Ok(bytes)
}

/// Directories in one another, deeper than any path is long.
fn nest(top: &Path, levels: usize) -> Result<()> {
    std::fs::create_dir_all(top)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let name = "d".repeat(200);
    let mut dir: OwnedFd = openat(CWD, top, flags, Mode::empty())?;
    for level in 0..levels {
        mkdirat(&dir, name.as_str(), Mode::from_raw_mode(0o755))?;
        dir = openat(&dir, name.as_str(), flags, Mode::empty())?;
        if level % 250 == 249 {
            let file = openat(&dir, "m.py", OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
            rustix::io::write(&file, b"X = 1\n")?;
        }
    }
    Ok(())
}

/// Artifacts that fit their sources and hold what breaks a careless reader.
fn marshal(ground: &Ground<'_>) -> Result<()> {
    let bodies: [(&str, Vec<u8>); 10] = [
        ("nested", b")\x01".repeat(1_000_000)),
        ("nested_lists", b"[\x01\0\0\0".repeat(1_000_000)),
        ("many", b"(\xff\xff\xff\x7f".to_vec()),
        ("many_in_many", b"(\xff\xff\xff\x7f".repeat(1000)),
        ("negative", b"(\xff\xff\xff\xff".to_vec()),
        ("long_string", b"s\xff\xff\xff\x7fabc".to_vec()),
        ("long_number", b"l\xff\xff\xff\x7f\0".to_vec()),
        ("cycle", b"\xa9\x01r\0\0\0\0".to_vec()),
        ("no_such_ref", b"r\xff\xff\xff\x7f".to_vec()),
        ("code_of_nothing", b"\xe3".to_vec()),
    ];
    for (name, body) in bodies {
        let head = artifact(ground, "marshal", name, &body)?;
        ground.file(format!("tree/marshal/sourceless_{name}.pyc"), head)?;
    }
    Ok(())
}

/// All of it, or one part.
pub(super) fn check_all(ground: &mut Ground<'_>, way: Way, only: Option<&str>, quick: bool, again: &str, tally: &Tally) -> Result<()> {
    // component by component it is the square of the levels, which is slow and no fault
    lay_out(ground, only, if quick || way != Way::Direct { 500 } else { LEVELS })?;
    let mut slowest = (Duration::ZERO, String::new());
    let mut largest = (0, String::new());
    let (mut runs, mut refused) = (0, 0);
    let mut one = |ground: &mut Ground<'_>, words: &[std::ffi::OsString], what: &str| -> Result<()> {
        let ended = run(ground.bytekeep(way, words))?;
        runs += 1;
        refused += if way == Way::Direct { 0 } else { ground.refused() };
        slowest = slowest.clone().max((ended.wall, what.to_owned()));
        largest = largest.clone().max((ended.peak_kib, what.to_owned()));
        let mut found = ended.faults();
        found.extend(ground.changed()?);
        for fault in found {
            tally.violation(&format!("corpus:{}: {what}: {fault}", way.word()), again);
        }
        tally.checked(1);
        Ok(())
    };
    for part in PARTS.into_iter().filter(|part| only.is_none_or(|only| only == *part)) {
        let path = ground.tree.join(part);
        for verb in ["verify", "compile", "status", "seal", "force", "repair", "clean"] {
            if interrupted() {
                return Ok(());
            }
            let words = ground.words(verb, &path);
            one(ground, &words, &format!("{verb} {part}"))?;
        }
        let words = [ground.words("compile", &path), vec!["-v".into(), "--optimize".into(), "1".into()]].concat();
        one(ground, &words, &format!("compile -v {part}"))?;
    }
    for kind in KINDS.into_iter().filter(|_| only.is_none_or(|only| only == "kinds")) {
        let dir = ground.tree.join("kinds").join(kind);
        let words = ground.words("compile", &dir.join("source.py"));
        one(ground, &words, &format!("compile {kind}/source.py"))?;
        one(ground, &["inspect".into(), dir.join("sourceless.pyc").into()], &format!("inspect {kind}/sourceless.pyc"))?;
    }
    // what root alone may read, and the user linked: not theirs to read in an artifact either
    for path in files(&ground.tree.join("kinds")).into_iter().filter(|path| is_artifact(path)) {
        let meta = path.metadata()?;
        let open = std::os::unix::fs::MetadataExt::uid(&meta) == USER || meta.permissions().mode() & 0o077 != 0;
        if open && std::fs::read(&path)?.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
            tally.violation(&format!("corpus:{}: {} lets others read what only root can", way.word(), path.display()), again);
        }
        tally.checked(1);
    }
    println!(
        "corpus:{}: {runs} runs, {refused} calls refused; slowest {:.1} s ({}), largest {} MiB ({})",
        way.word(),
        slowest.0.as_secs_f64(),
        slowest.1,
        largest.0 >> 10,
        largest.1
    );
    if matches!(way, Way::Refused(_)) && refused == 0 {
        tally.violation(&format!("corpus:{}: no call was refused", way.word()), again);
    }
    Ok(())
}
