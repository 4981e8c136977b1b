//! Python: its interpreters and the workers that compile by them.

pub mod frame;
pub mod interpreter;
pub mod memo;
mod message;
pub mod pool;
mod process;
mod quote;
mod slot;
mod worker;
