//! `hook`: what package managers call, and the files by which they know of it.
//!
//! A manager's input says where to look (`dpkg`, `rpm`, …; `environment` for pip, uv and conda), `owner` whose interpreters count there, `run` does it. `template` has the files
//! that make a manager call, `files` puts them in their places and tells (`states`) what stands there.

mod act;
mod apk;
mod debian;
mod dpkg;
mod environment;
mod files;
mod git;
mod git_hooks;
mod lines;
mod lists;
mod owner;
mod pacman;
mod places;
mod rpm;
mod run;
mod states;
mod template;

#[cfg(test)]
pub(super) use self::states::sample;
use super::args_common::Global;
use super::args_hook::HookCommand;
use super::exit::Exit;
use super::failure::Failure;
use super::out::Out;
use super::settings::Given;

/// One of the commands below `hook`.
pub(crate) fn run(command: &HookCommand, given: Given, global: &Global, out: &Out) -> Result<Exit, Failure> {
    match command {
        HookCommand::Run(args) => run::run(args, given, global, out),
        HookCommand::Files(command) => files::run(command, global, out),
    }
}
