//! A library that is preloaded: it gives reads and writes less to do than they were asked for, at random, as a kernel may at any time.
//! It never says that something was read or written which was not. Built at run time by `preload.rs`; no part of any crate.
//!
//! `SHIM_WHAT`: `pipes`, `files` or `all`. `SHIM_CHANCE`: of a hundred calls so many are disturbed. `SHIM_EINTR`: of a hundred disturbed ones
//! so many fail with EINTR instead. `SHIM_SEED`: what the choices follow from. `SHIM_COUNT`: a file of at least 32 bytes, in which are counted
//! the calls seen, reads cut, writes cut, and EINTRs.
#![no_std]

use core::ffi::{c_char, c_int, c_long, c_void};
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering::Relaxed};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const READ: i64 = 0;
    pub const WRITE: i64 = 1;
    pub const FSTAT: i64 = 5;
    pub const MMAP: i64 = 9;
    pub const CLOSE: i64 = 3;
    pub const PREAD: i64 = 17;
    pub const PWRITE: i64 = 18;
    pub const READV: i64 = 19;
    pub const WRITEV: i64 = 20;
    pub const SENDFILE: i64 = 40;
    pub const FCNTL: i64 = 72;
    pub const OPENAT: i64 = 257;
    pub const COPY_FILE_RANGE: i64 = 326;
    /// Where `struct stat` has its mode, in words of four bytes.
    pub const MODE: usize = 6;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const READ: i64 = 63;
    pub const WRITE: i64 = 64;
    pub const FSTAT: i64 = 80;
    pub const MMAP: i64 = 222;
    pub const CLOSE: i64 = 57;
    pub const PREAD: i64 = 67;
    pub const PWRITE: i64 = 68;
    pub const READV: i64 = 65;
    pub const WRITEV: i64 = 66;
    pub const SENDFILE: i64 = 71;
    pub const FCNTL: i64 = 25;
    pub const OPENAT: i64 = 56;
    pub const COPY_FILE_RANGE: i64 = 285;
    pub const MODE: usize = 4;
}

#[link(name = "c")]
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn getenv(name: *const c_char) -> *const c_char;
    fn __errno_location() -> *mut c_int;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

const EINTR: c_int = 4;
const F_SETPIPE_SZ: c_int = 1031;

static PIPES: AtomicI64 = AtomicI64::new(0);
static FILES: AtomicI64 = AtomicI64::new(0);
static CHANCE: AtomicU64 = AtomicU64::new(0);
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);
/// Where they are counted, shared between processes; null where nobody asked.
static COUNTS: AtomicPtr<AtomicU64> = AtomicPtr::new(core::ptr::null_mut());

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    unsafe {
        let what = getenv(c"SHIM_WHAT".as_ptr());
        let first = if what.is_null() { 0 } else { *what.cast::<u8>() };
        PIPES.store(i64::from(first == b'p' || first == b'a'), Relaxed);
        FILES.store(i64::from(first == b'f' || first == b'a'), Relaxed);
        CHANCE.store(decimal(getenv(c"SHIM_CHANCE".as_ptr())), Relaxed);
        INTERRUPTS.store(decimal(getenv(c"SHIM_EINTR".as_ptr())), Relaxed);
        SEED.store(decimal(getenv(c"SHIM_SEED".as_ptr())), Relaxed);
        let count = getenv(c"SHIM_COUNT".as_ptr());
        if count.is_null() {
            return;
        }
        // O_RDWR | O_CLOEXEC; PROT_READ | PROT_WRITE, MAP_SHARED
        let fd = syscall(number::OPENAT, -100 as c_long, count, 0o2_000_002 as c_long, 0 as c_long);
        if fd >= 0 {
            let at = syscall(number::MMAP, 0 as c_long, 32 as c_long, 3 as c_long, 1 as c_long, fd, 0 as c_long);
            if at != -1 {
                COUNTS.store(at as *mut AtomicU64, Relaxed);
            }
            syscall(number::CLOSE, fd);
        }
    }
}

unsafe fn decimal(text: *const c_char) -> u64 {
    let (mut text, mut value) = (text.cast::<u8>(), 0u64);
    unsafe {
        while !text.is_null() && (*text).is_ascii_digit() {
            value = value.wrapping_mul(10).wrapping_add(u64::from(*text - b'0'));
            text = text.add(1);
        }
    }
    value
}

fn count(which: usize) {
    let counts = COUNTS.load(Relaxed);
    if !counts.is_null() {
        unsafe { (*counts.add(which)).fetch_add(1, Relaxed) };
    }
}

/// What becomes of a call that was asked for `len` bytes.
enum Fate {
    /// So many of them; all, mostly.
    Do(usize),
    Interrupt,
}

fn fate(fd: c_int, len: usize, writes: bool) -> Fate {
    let mut stat = [0u32; 64];
    if CHANCE.load(Relaxed) == 0 || unsafe { syscall(number::FSTAT, c_long::from(fd), stat.as_mut_ptr()) } != 0 {
        return Fate::Do(len);
    }
    let (pipe, file) = (stat[number::MODE] & 0o170_000 == 0o010_000, stat[number::MODE] & 0o170_000 == 0o100_000);
    if !(pipe && PIPES.load(Relaxed) == 1 || file && FILES.load(Relaxed) == 1) {
        return Fate::Do(len);
    }
    count(0);
    let roll = random();
    if roll % 100 >= CHANCE.load(Relaxed) {
        return Fate::Do(len);
    }
    if (roll >> 8) % 100 < INTERRUPTS.load(Relaxed) {
        count(3);
        return Fate::Interrupt;
    }
    // Not eight bytes of a pipe: std's Command reads a failed exec's errno from one, and so much a kernel does give at once.
    if len < 2 || (pipe && len <= 8) {
        return Fate::Do(len);
    }
    count(if writes { 2 } else { 1 });
    let any = (roll >> 20) as usize;
    let most = match (roll >> 16) % 4 {
        0 => 1,
        1 => 16,
        2 => 1024,
        _ => len,
    };
    Fate::Do(1 + any % (len - 1).min(most))
}

/// SplitMix64, by the number of the call.
fn random() -> u64 {
    let mut z = SEED.load(Relaxed).wrapping_add((1 + CALLS.fetch_add(1, Relaxed)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn interrupt() -> isize {
    unsafe { *__errno_location() = EINTR };
    -1
}

fn cut(fd: c_int, len: usize, writes: bool, call: impl FnOnce(usize) -> c_long) -> isize {
    match fate(fd, len, writes) {
        Fate::Interrupt => interrupt(),
        Fate::Do(len) => call(len) as isize,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn read(fd: c_int, into: *mut c_void, len: usize) -> isize {
    cut(fd, len, false, |len| unsafe { syscall(number::READ, c_long::from(fd), into, len) })
}

#[unsafe(no_mangle)]
pub extern "C" fn write(fd: c_int, from: *const c_void, len: usize) -> isize {
    cut(fd, len, true, |len| unsafe { syscall(number::WRITE, c_long::from(fd), from, len) })
}

#[unsafe(no_mangle)]
pub extern "C" fn pread64(fd: c_int, into: *mut c_void, len: usize, at: i64) -> isize {
    cut(fd, len, false, |len| unsafe { syscall(number::PREAD, c_long::from(fd), into, len, at) })
}

#[unsafe(no_mangle)]
pub extern "C" fn pread(fd: c_int, into: *mut c_void, len: usize, at: i64) -> isize {
    pread64(fd, into, len, at)
}

#[unsafe(no_mangle)]
pub extern "C" fn pwrite64(fd: c_int, from: *const c_void, len: usize, at: i64) -> isize {
    cut(fd, len, true, |len| unsafe { syscall(number::PWRITE, c_long::from(fd), from, len, at) })
}

#[unsafe(no_mangle)]
pub extern "C" fn pwrite(fd: c_int, from: *const c_void, len: usize, at: i64) -> isize {
    pwrite64(fd, from, len, at)
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Part {
    start: *mut c_void,
    len: usize,
}

/// The first part that has bytes, cut; a call that is not cut goes through as it is.
fn parts(number: i64, fd: c_int, all: *const Part, many: c_int, writes: bool) -> isize {
    let many_of = usize::try_from(many).unwrap_or(0);
    let first = (0..many_of).map(|at| unsafe { *all.add(at) }).find(|part| part.len > 0);
    let Some(first) = first else { return unsafe { syscall(number, c_long::from(fd), all, c_long::from(many)) as isize } };
    match fate(fd, first.len, writes) {
        Fate::Interrupt => interrupt(),
        Fate::Do(len) if len == first.len => unsafe { syscall(number, c_long::from(fd), all, c_long::from(many)) as isize },
        Fate::Do(len) => {
            let part = Part { len, ..first };
            unsafe { syscall(number, c_long::from(fd), &raw const part, 1 as c_long) as isize }
        }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn readv(fd: c_int, all: *const Part, many: c_int) -> isize {
    parts(number::READV, fd, all, many, false)
}

#[unsafe(no_mangle)]
pub extern "C" fn writev(fd: c_int, all: *const Part, many: c_int) -> isize {
    parts(number::WRITEV, fd, all, many, true)
}

#[unsafe(no_mangle)]
pub extern "C" fn copy_file_range(from: c_int, from_at: *mut i64, to: c_int, to_at: *mut i64, len: usize, flags: u32) -> isize {
    cut(to, len, true, |len| unsafe {
        syscall(number::COPY_FILE_RANGE, c_long::from(from), from_at, c_long::from(to), to_at, len, c_long::from(flags))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn sendfile64(to: c_int, from: c_int, at: *mut i64, len: usize) -> isize {
    cut(to, len, true, |len| unsafe { syscall(number::SENDFILE, c_long::from(to), c_long::from(from), at, len) })
}

#[unsafe(no_mangle)]
pub extern "C" fn sendfile(to: c_int, from: c_int, at: *mut i64, len: usize) -> isize {
    sendfile64(to, from, at, len)
}

/// Pipes stay small, whatever somebody wants. Its last argument is the one that may be left out; it stands in a register.
#[unsafe(no_mangle)]
pub extern "C" fn fcntl64(fd: c_int, command: c_int, value: c_long) -> c_int {
    let small = command == F_SETPIPE_SZ && PIPES.load(Relaxed) == 1;
    unsafe { syscall(number::FCNTL, c_long::from(fd), c_long::from(command), if small { 4096 } else { value }) as c_int }
}

#[unsafe(no_mangle)]
pub extern "C" fn fcntl(fd: c_int, command: c_int, value: c_long) -> c_int {
    fcntl64(fd, command, value)
}
