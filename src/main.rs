//! The command `bytekeep`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bytekeep::cli::main()
}
