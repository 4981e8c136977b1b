//! Paths on standard input, one a line, as rpm and pacman hand them over: read as they come, none of them kept here.

use std::io::{self, BufRead, IsTerminal};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::super::failure::Failure;
use super::super::until::Until;

/// The longest path that a system takes (`PATH_MAX`), and then some. A line that is longer is no path.
const LONGEST: u64 = 8192;
/// How often it is looked whether reading shall stop.
const TICK: Duration = Duration::from_millis(40);

/// Calls with each line; answers how many there were. A person at a terminal hands over nothing.
pub(super) fn each(until: Until<'_>, mut take: impl FnMut(&[u8])) -> Result<u64, Failure> {
    if io::stdin().is_terminal() {
        return Ok(0);
    }
    let unable = |cause| Failure::from(cause).during("cannot read the list of files from standard input");
    // A thread of its own: a pipe may say nothing for ever, and reading cannot be called off.
    let (sender, lines) = sync_channel(64);
    let read = move || {
        let mut input = io::stdin().lock();
        let mut block = Vec::new();
        loop {
            match line(&mut input) {
                Ok(Some(line)) => block.push(line),
                Ok(None) => break,
                Err(cause) => return drop(sender.send(Err(cause))),
            }
            if block.len() == 256 && sender.send(Ok(std::mem::take(&mut block))).is_err() {
                return;
            }
        }
        drop(sender.send(Ok(block)));
    };
    std::thread::Builder::new().name("bytekeep-list".to_owned()).spawn(read).map_err(unable)?;
    let mut count = 0;
    loop {
        match lines.recv_timeout(TICK) {
            Ok(block) => {
                for line in block.map_err(unable)? {
                    count += 1;
                    take(&line);
                }
                if until.is_over()? {
                    return Ok(count);
                }
            }
            Err(RecvTimeoutError::Timeout) if until.is_over()? => return Ok(count),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(count),
        }
    }
}

/// A line without its end, empty where it is too long to be a path; `None` at the end of the input.
fn line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if io::Read::take(&mut *input, LONGEST).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == LONGEST {
        line.clear();
        input.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_what_is_too_long_for_one() {
        let long = vec![b'x'; 30_000];
        let text = [b"/a.py\n\n", &long[..], b"\n/b.py\n/c.py"].concat();
        let mut input = io::BufReader::with_capacity(7, &text[..]);
        let mut lines = Vec::new();
        while let Some(line) = line(&mut input).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [&b"/a.py"[..], b"", b"", b"/b.py", b"/c.py"]);
    }
}
