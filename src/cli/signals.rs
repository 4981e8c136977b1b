//! Signals only set a flag: the run ends between entries, and no handler touches a file. So a second Ctrl-C is no more than the first.
//! Whatever may take long before the run (a list, an interpreter that is asked) looks at the flag too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::base::seam;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

/// Listens from now on; the flag is set when the run is to stop.
pub(crate) fn listen() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let ignored = ignored_signals();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // `nohup`, and shells that start jobs in the background, have signals ignored: that is somebody's wish and stays.
        if ignored & (1 << (signal - 1)) == 0 {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
    }
    // Past a file-size limit (`ulimit -f`) the kernel sends this signal, which kills. With any handler the write fails with EFBIG
    // instead, which is one entry's error. A handler, not "ignore": that would be inherited by the interpreters that are started.
    if !seam::without("sigxfsz") {
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    }
    Ok(stop)
}

/// The signals that were ignored when the process started, as the kernel's mask. Where there is no such file, none.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    mask(&status)
}

fn mask(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals() {
        assert_eq!(mask("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), 0x1001);
        assert_eq!(mask(""), 0);
    }
}
