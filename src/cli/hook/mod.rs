//! `hook`: what package managers call, and the files by which they know of it.
//!
//! A manager's input says where to look (one file a kind), `owner` whose interpreters count there, `run` does it.

mod files;
mod run;

use super::args_common::Global;
use super::args_hook::HookCommand;
use super::exit::Exit;
use super::failure::Failure;
use super::out::Out;

/// One of the commands below `hook`.
pub(crate) fn run(command: &HookCommand, global: &Global, out: &Out) -> Result<Exit, Failure> {
    match command {
        HookCommand::Run(args) => run::run(args, global, out),
        HookCommand::Files(command) => files::run(command, global, out),
    }
}
