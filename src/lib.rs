//! Keeps compiled bytecode caches whole. It compiles sources into cache artifacts (CPython's `.pyc` first), writes each so that nobody
//! can ever see half of it, proves later that it is still what was written, and rebuilds what is not, while any number of other
//! installers work on the same tree.
//!
//! # What holds, and what does not
//!
//! - A path that this crate writes holds the complete old artifact, the complete new one, or nothing: at every instant, after a kill at
//!   every instant, and in durability `batch` and `full` after a power cut, on local POSIX file systems whose disks honour a flush.
//! - Every artifact carries a [seal](base::seal) that proves it from the file alone: against accidents. Who can write the file can also
//!   forge a seal.
//! - Many processes may work on one tree; each entry is compiled once. On network file systems locks are not used: there the renames
//!   still hold, and work may be done twice.
//! - A tree is data, not a guide: links below the root are not followed, nothing of it is run, no input makes this crate panic.
//! - Other writers may still tear what they write. That is found, and mended.
//! - A run, and a pool of workers, raise the soft limit of open files (`RLIMIT_NOFILE`) of the whole process to the hard one, for good.
//!
//! # The call that an installer makes
//!
//! "Compile these files that I have just written":
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use bytekeep::flow::{self, Command, Event, Job, Maker, Options, Root};
//! use bytekeep::python::Pyc;
//! use bytekeep::python::interpreter::Interpreter;
//! use bytekeep::python::memo::Probes;
//! use bytekeep::python::pool::{Limits, WorkerPool};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let site_packages = tempfile::tempdir()?;
//! # let written = [site_packages.path().join("one.py"), site_packages.path().join("two.py")];
//! # for path in &written { std::fs::write(path, "x = 1\n")?; }
//! // `Probes::open(Some(dir))` remembers what interpreters are, so that a run with nothing to do starts none.
//! let python = Interpreter::find("python3", true, &Probes::open(None))?;
//! let pool = WorkerPool::new(&python, Limits::default());
//! let stop = AtomicBool::new(false);
//! let job = Job {
//!     command: Command::Compile,
//!     roots: written.iter().map(|path| Root::of(path, &Pyc)).collect::<Result<_, _>>()?,
//!     format: &Pyc,
//!     makers: vec![Maker { compiler: &pool, levels: vec![0] }],
//!     options: Options::default(),
//!     // Set it, and what is in work ends soon, workers included. `Options::max_time` does the same by the clock.
//!     stop: &stop,
//! };
//! let summary = flow::run(&job, &|event: &Event<'_>| {
//!     if let Event::Entry(entry) = event {
//!         // Called from several threads, once for each artifact, after it stands there.
//!         assert!(!entry.wrong, "{}: {:?}", entry.artifact.display(), entry.cause);
//!     }
//! })?;
//! assert!(summary.is_good());
//! assert_eq!(summary.entries, 2);
//! # Ok(())
//! # }
//! ```
//!
//! # The map
//!
//! Dependencies point one way, and a test keeps it so: `cli` → `flow`, `python` → `model`, `store` → `base`, and `cli` →
//! `packages` → `base`.
//!
//! - [`base`] knows bytes, digests, files and locks. All system calls that make, write, rename, remove or lock are in `base/sys.rs`,
//!   those that link in `base/share.rs`; they take descriptors and names, so none follows a link. `base/children.rs` has those for
//!   processes, `base/bytelock.rs` locks of single bytes; no other file has unsafe code. `seal` is the trailer, `write` the atomic writer,
//!   `lock` the lock of a directory, `source` a source read once, `leftover` what the dead leave behind, `memo` what was found sound
//!   before, `digests` what was read before; `shape` tells how bytes were damaged, `whereabouts` whose a file is and since when, `keep`
//!   copies evidence, `place` puts files of a system's configuration in their places.
//! - [`packages`] reads what package managers record of the files they brought; it knows environments, and no bytecode.
//! - [`store`] keeps compiled code that all trees share, under keys, in values that prove themselves; it knows no language.
//! - [`model`] has the words as types, and the two traits between the pipeline and a language: [`model::Format`] and
//!   [`model::Compiler`].
//! - [`python`] is everything that knows Python: the `.pyc` format, the walk over marshalled code, interpreters, workers.
//! - [`flow`] is the one pipeline, `scan → judge → act → report`; a command is a column of the table in `flow/policy.rs`. It names
//!   neither Python nor the command line.
//! - `cli` is the command (feature `cli`, on by default): the only folder that prints or exits.
//!
//! Start reading at `flow/mod.rs`. What is absent, and why: no async (the work is files and pipes, and a compiler call blocks anyway); no
//! work in signal handlers (they set a flag); no database of what was written (the seal is in the file, and cannot get lost or drift);
//! no path joins in `base` (a path can be swapped for a link, a descriptor cannot); no `Serialize` in the core types (the JSON lines are
//! the command's own).

pub mod base;
#[cfg(feature = "cli")]
pub mod cli;
pub mod flow;
pub mod model;
pub mod packages;
pub mod python;
pub mod store;
