//! The files by which a manager knows of us: printed, installed, taken away, looked at.

use super::super::args_common::Global;
use super::super::args_hook::FilesCommand;
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::out::Out;

/// `print`, `install`, `uninstall`, `status`.
pub(super) fn run(command: &FilesCommand, _global: &Global, _out: &Out) -> Result<Exit, Failure> {
    let kind = match command {
        FilesCommand::Print(args) => Some(args.kind),
        FilesCommand::Install(args) | FilesCommand::Uninstall(args) => Some(args.kind),
        FilesCommand::Status(args) => args.kind,
    };
    let kind = kind.map_or("any kind", super::super::args_hook::Kind::word);
    Err(Failure::new(format!("there is no file for {kind} yet")).hint("call `bytekeep hook run` from a hook of your own"))
}
