//! The one entry: whose input, where it leads, what is done there, one line at the end.

use super::super::args_common::Global;
use super::super::args_hook::Run;
use super::super::exit::Exit;
use super::super::failure::Failure;
use super::super::out::Out;

/// `hook run KIND`.
pub(super) fn run(args: &Run, _global: &Global, _out: &Out) -> Result<Exit, Failure> {
    Err(Failure::new(format!("a hook of {} is not known yet", args.kind.word())))
}
