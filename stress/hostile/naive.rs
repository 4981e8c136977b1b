//! Writers that keep out of links in three ways, two of them naive: the exchanges must lead those outside, and not the third.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::ground::Ground;
use super::user::{Act, USER, User};
use crate::run::{Random, interrupted};

/// And whether it must be found writing outside.
pub(super) const WRITERS: [(&str, bool); 3] = [("islink", true), ("lastpart", true), ("beneath", false)];

/// How often it wrote inside and outside. A naive one may go on until it is found, ten times as long as the other.
pub(super) fn compete(ground: &Ground<'_>, writer: &str, naive: bool, seconds: f64, random: &mut Random) -> Result<(u64, u64)> {
    for dir in ["tree/pkg/__pycache__", "outside/pkg/__pycache__"] {
        std::fs::create_dir_all(ground.top().join(dir))?;
    }
    let link = ground.tree.join("pkg.link");
    symlink(ground.outside.join("pkg"), &link)?;
    ground.give_away()?;
    let user = User::start(USER, random.next() >> 1, &[Act { kind: "swap", a: ground.tree.join("pkg"), b: link }])?;
    let outside = ground.outside.join("pkg/__pycache__");
    let (mut inside, mut astray, mut number) = (0, 0, 0);
    let start = Instant::now();
    let limit = Duration::from_secs_f64(if naive { seconds.max(1.0) * 10.0 } else { seconds });
    while start.elapsed() < limit && !interrupted() && (!naive || astray < 3) {
        number += 1;
        let name = format!("w{number}");
        let written = match writer {
            "islink" => by_path(&ground.tree, &name, true),
            "lastpart" => by_path(&ground.tree, &name, false),
            _ => beneath(&ground.tree, &name),
        };
        // refused, or in the middle of an exchange
        if written.is_ok() {
            let there = outside.join(&name).exists();
            astray += u64::from(there);
            inside += u64::from(!there);
        }
    }
    let exchanges = user.stop()?[0].1;
    println!("standin:{writer}: {inside} written inside, {astray} outside, {exchanges} exchanges");
    Ok((inside, astray))
}

/// Asks first, then goes by path; or asks for no link at the end of the path alone.
fn by_path(tree: &Path, name: &str, ask: bool) -> std::io::Result<()> {
    let dir = tree.join("pkg/__pycache__");
    if ask && (tree.join("pkg").is_symlink() || dir.is_symlink()) {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    File::from(openat(CWD, dir.join(name), flags, Mode::from_raw_mode(0o644))?).write_all(b"x")
}

#[cfg(target_os = "linux")]
fn beneath(tree: &Path, name: &str) -> std::io::Result<()> {
    use rustix::fs::{ResolveFlags, openat2};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, tree, flags, Mode::empty())?;
    let dir = openat2(&root, "pkg/__pycache__", flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    File::from(openat(&dir, name, flags, Mode::from_raw_mode(0o644))?).write_all(b"x")
}

#[cfg(not(target_os = "linux"))]
fn beneath(_tree: &Path, _name: &str) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
