//! rpm: its database has several forms, none of them stable, so the tool itself is asked, once for all packages.
//!
//! One query for everything and not `rpm -qf` for each file: that loads the whole header of a package again for each of its files.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::reading::Reading;
use crate::base::children::{ChildLimits, kill_group, tie_to_this_thread, wait_readable};

/// Where its database may be below a root: rpm's own place, that of Fedora and SUSE, that of ostree's images.
pub(super) const PLACES: [&str; 3] = ["var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"];
/// The files of which one is there where there is a database. An empty directory is none, and asking would make one.
const FORMS: [&str; 3] = ["rpmdb.sqlite", "Packages.db", "Packages"];
/// Where the tool is: by path, since root starts nothing that a caller's `PATH` names.
const TOOLS: [&str; 2] = ["/usr/bin/rpm", "/bin/rpm"];
/// A digest and a path a line. `%ghost` files, which the package does not bring, have no digest.
const LINES: &str = "[%{FILEDIGESTS} %{FILENAMES}\\n]";
/// How often it is looked whether to go on.
const TICK: Duration = Duration::from_millis(50);

/// Is there a database in this place?
pub(super) fn is_there(place: &Path) -> bool {
    FORMS.iter().any(|form| place.join(form).exists())
}

/// Asks for all files.
pub(super) fn read(reading: &mut Reading<'_>, place: &Path, stop: &AtomicBool) -> Result<(), String> {
    let tool = TOOLS.iter().map(Path::new).find(|tool| tool.exists()).ok_or("`rpm` is not installed here")?;
    let db = place.strip_prefix(reading.root).unwrap_or(place);
    let mut command = Command::new(tool);
    command.arg("--root").arg(reading.root).arg("--dbpath").arg(Path::new("/").join(db)).args(["-qa", "--qf", LINES]);
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    tie_to_this_thread(&mut command, ChildLimits { address_space: None });
    let child = command.spawn().map_err(|cause| format!("cannot start `{}`: {cause}", tool.display()))?;
    let mut asked = Asked(child);
    let until = reading.until();
    let out = asked.0.stdout.take().map(|pipe| Pipe { from: pipe, until, stop });
    out.map_or(Ok(()), |out| {
        reading.lines(out, tool, |reading, line| {
            let at = line.iter().position(|byte| *byte == b' ').unwrap_or(0);
            let (digest, path) = line.split_at(at);
            if !digest.is_empty() && digest.iter().all(u8::is_ascii_hexdigit) {
                reading.record(path.trim_ascii_start());
            }
        })
    })?;
    loop {
        match asked.0.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("`{}` ended with {status}{}", tool.display(), asked.said())),
            Ok(None) => reading.check()?,
            Err(cause) => return Err(format!("cannot wait for `{}`: {cause}", tool.display())),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The tool at work. However it is left, it is gone then, with what it started.
struct Asked(Child);

impl Asked {
    /// The first line of what it complained of; there is not much after it has ended.
    fn said(&mut self) -> String {
        let mut text = Vec::new();
        let read = self.0.stderr.take().map(|pipe| pipe.take(4096).read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().filter(|_| matches!(read, Some(Ok(_))));
        line.map(|line| format!(": {line}")).unwrap_or_default()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            kill_group(self.0.id());
            crate::ignored!(self.0.wait(), "a killed child is not reaped");
        }
    }
}

/// Its output, until it has ended or the time is over.
struct Pipe<'a> {
    from: ChildStdout,
    until: Instant,
    stop: &'a AtomicBool,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !wait_readable(&self.from, TICK)? {
            if self.stop.load(Ordering::SeqCst) || Instant::now() >= self.until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes too long"));
            }
        }
        self.from.read(buffer)
    }
}
