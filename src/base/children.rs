//! What the platform does with children and their pipes: the other half of [`super::sys`], and as that the only place of its calls.

#![expect(unsafe_code, reason = "pre_exec has no safe wrapper; every other call goes through rustix")]

use std::io;
use std::os::fd::AsFd;
use std::process::Command;

use rustix::fs::{OFlags, Timespec};

/// Gives this process, and those that it starts, the lowest priority of the scheduler (19). It stays so.
pub fn yield_to_others() {
    if let Err(cause) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%cause, "the priority stays as it is");
    }
}

/// Limits that hold in a child from before its first instruction.
#[derive(Debug, Clone, Copy)]
pub struct ChildLimits {
    /// Address space, bytes; `None` leaves it.
    pub address_space: Option<u64>,
}

/// Makes a child die with the thread that starts it, and bounds it. The starting thread must therefore live as long as the child.
///
/// Where the system has no such signal (macOS), a child notices the end of its request pipe instead.
pub fn tie_to_this_thread(command: &mut Command, limits: ChildLimits) {
    use std::os::unix::process::CommandExt;
    let parent = rustix::process::getpid();
    let prepare = move || -> io::Result<()> {
        use rustix::process::{Resource, Rlimit, setrlimit};
        #[cfg(target_os = "linux")]
        {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have died before the line above; then nobody would ever send the signal.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = parent;
        // No core files of crashing interpreters in somebody's tree.
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        if let Some(bytes) = limits.address_space {
            // Never above what the caller may have: raising a hard limit is refused.
            let bytes = rustix::process::getrlimit(Resource::As).maximum.map_or(bytes, |hard| hard.min(bytes));
            setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe system calls are made (prctl, getppid, setrlimit): no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Lowers the number of descriptors that a running child may have open, so that it can open no more. `false` where the system has no such call.
pub fn limit_descriptors(pid: u32, limit: u64) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) })?;
        Ok(true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (pid, limit);
        Ok(false)
    }
}

/// Waits until a descriptor has something to read (or has ended): `false` when the time is over first.
pub fn wait_readable(fd: &impl AsFd, limit: std::time::Duration) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, poll};
    let limit = Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

/// Makes reads and writes of a pipe's end return at once.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// Makes a pipe hold a whole source or artifact of usual size, so that neither end waits for the other in the middle of one.
pub fn widen_pipe(fd: &impl AsFd) {
    #[cfg(target_os = "linux")]
    if let Err(cause) = rustix::pipe::fcntl_setpipe_size(fd, 256 << 10) {
        tracing::debug!(%cause, "a pipe stays as small as it is");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = fd;
}

/// Waits until one of several descriptors has something to read (or has ended), or `writer` takes bytes (or has ended).
/// Which of them; none when the time is over first. `None` as limit waits for ever.
pub fn wait_any(
    readers: &[std::os::fd::BorrowedFd<'_>],
    writer: Option<std::os::fd::BorrowedFd<'_>>,
    limit: Option<std::time::Duration>,
) -> io::Result<Vec<bool>> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut set: Vec<PollFd<'_>> = readers.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    set.extend(writer.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
    let limit =
        limit.map(|limit| Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() });
    match poll(&mut set, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(set.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(cause) => Err(cause.into()),
    }
}

/// Kills a child that was started in a process group of its own, with all that it started in turn.
pub fn kill_group(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    match kill_process_group(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(cause) => tracing::debug!(%cause, "a child cannot be killed"),
    }
}

/// How a child ended: exit status, or the signal that ended it. `None` while it runs. The child stays unreaped, so its number stays its own.
pub fn ended(pid: u32) -> io::Result<Option<std::result::Result<i32, i32>>> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(pid), options)?;
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ok(code),
        (None, signal) => Err(signal.unwrap_or_default()),
    }))
}
