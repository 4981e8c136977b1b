//! Everything that knows Python: what its artifacts look like, which interpreters there are, and the workers that compile by them.
//!
//! - [`magic`] is the table of magic numbers: who writes which, and how long the header behind it is.
//! - [`pyc`] knows names, headers and labels: [`Pyc`] is the [`crate::model::Format`] of `.pyc` files.
//! - [`marshal`] walks the body behind the header to its last byte and trusts none of it.
//! - `bytecode` looks deeper: into the instructions and their tables, by what `opcodes` knows of each interpreter.
//! - [`objects`] lists what the body holds, for whoever explains, compares or rewrites it.
//! - [`shown`] puts its values into a few words.
//! - [`way`] gives places in it their names: which function, which constant.
//! - [`rewrite`] changes a body without an interpreter: the file name in its code, the numbers of its references.
//! - [`equal`] says whether two artifacts hold the same code by value, [`differences`] where they do not.
//! - [`legacy`] is the format of artifacts that `compileall -b` puts beside their sources.
//! - [`words`] asks an interpreter for what only it can say as it does: errors, regular expressions, names.
//! - [`interpreter`] finds interpreters and asks each once what it is; [`memo`] remembers the answer.
//! - [`pool`] is the [`crate::model::Compiler`]: workers that are spoken to in [`frame`]s.
//!
//! What the layers above may lean on:
//! - **Y1** No artifact makes this module panic, recurse, or allocate by a number that stands in the file.
//! - **Y2** A body that is cut anywhere is found, and so is a seal that is cut anywhere but at its first byte.
//! - **Y3** What a released interpreter wrote is never called damaged.
//!
//! The pool's own promises (K1 to K4) stand in [`pool`].

mod bell;
mod bytecode;
mod code_object;
pub mod differences;
pub mod equal;
pub mod flags;
pub mod frame;
mod input;
pub mod interpreter;
pub mod legacy;
mod line_table;
pub mod magic;
pub mod marshal;
pub mod memo;
mod message;
mod nameless;
pub mod objects;
mod opcodes;
pub mod pool;
mod process;
pub mod pyc;
mod quote;
pub mod rewrite;
mod room;
pub mod shown;
mod slot;
pub mod variables;
pub mod way;
pub mod words;
mod worker;

pub use pyc::Pyc;
