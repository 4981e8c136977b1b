//! Who writes into the bench's tree: the product's commands, the same with the calls of their workers, and stand-ins with a fault.

use std::ffi::OsString;

use anyhow::Result;

use crate::bench::{Bench, Op};
use crate::standin;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Writer {
    pub(crate) op: Op,
    pub(crate) name: &'static str,
    pub(crate) verb: &'static str,
    /// what writes instead of the command under test
    pub(crate) bug: Option<&'static str>,
    /// are the calls of its workers hit too?
    pub(crate) inside: bool,
}

const fn product(op: Op, name: &'static str, verb: &'static str) -> Writer {
    Writer { op, name, verb, bug: None, inside: false }
}

/// The product's commands.
pub(crate) const COMMANDS: [Writer; 11] = [
    product(Op::Fresh, "fresh", "compile"),
    product(Op::Stale, "stale", "compile"),
    product(Op::Force, "force", "compile"),
    product(Op::Clean, "clean", "clean"),
    product(Op::Repair, "repair", "repair"),
    product(Op::Seal, "seal", "seal"),
    product(Op::Restamp, "restamp", "compile"),
    product(Op::Filling, "filling", "compile"),
    product(Op::Warm, "warm", "compile"),
    product(Op::Linking, "linking", "compile"),
    product(Op::Linked, "linked", "compile"),
];

/// The same where workers are started: what strikes the N-th call of a thread strikes theirs too.
pub(crate) const INSIDE: [Writer; 2] = [
    Writer { inside: true, ..product(Op::Fresh, "fresh-workers", "compile") },
    Writer { inside: true, ..product(Op::Repair, "repair-workers", "repair") },
];

const fn stand_in(name: &'static str, bug: &'static str) -> Writer {
    Writer { bug: Some(bug), ..product(Op::Stale, name, "compile") }
}

/// Writers of the stand-ins' whole set that a program may choose from.
pub(crate) const STAND_INS: [Writer; 7] = [
    stand_in("standin-whole", "whole"),
    stand_in("standin-ignerr", "ignerr"),
    stand_in("standin-ignfsync", "ignfsync"),
    stand_in("standin-litter", "litter"),
    stand_in("standin-inplace", "inplace"),
    stand_in("standin-unlinkfirst", "unlinkfirst"),
    stand_in("standin-unlinkrename", "unlinkrename"),
];

impl Writer {
    pub(crate) fn is_faulty(&self) -> bool {
        self.bug.is_some_and(|bug| bug != "whole")
    }

    pub(crate) fn arguments(&self, bench: &Bench<'_>) -> Result<Vec<OsString>> {
        match self.bug {
            Some(bug) => standin::arguments(bug, &bench.template(Op::Force), &bench.tree),
            None => Ok(bench.arguments(self.op, self.verb)),
        }
    }

    /// The one of this name, of all of them.
    pub(crate) fn named(name: &str) -> Option<Self> {
        COMMANDS.into_iter().chain(INSIDE).chain(STAND_INS).find(|one| one.name == name)
    }
}
