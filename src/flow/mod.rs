//! One pipeline: `scan → judge → act → report`. It names neither a language nor the command line.

pub mod job;
pub mod report;

pub use job::{Clean, Command, Exclude, Job, JobError, Maker, Options, Root, What};
pub use report::{Action, EntryEvent, Event, Report, Summary};
