//! Exit codes.

use crate::flow::Summary;

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Good,
    /// Something is wrong with an entry.
    Wrong,
    /// Wrong usage, or nothing could be done at all.
    Unable,
    /// Ended by a signal.
    Interrupted,
}

impl Exit {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Good, Self::Wrong, Self::Unable, Self::Interrupted];

    /// Of a run.
    pub(crate) fn of(summary: &Summary) -> Self {
        if summary.stopped {
            Self::Interrupted
        } else if summary.is_good() {
            Self::Good
        } else {
            Self::Wrong
        }
    }

    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Wrong => 1,
            Self::Unable => 2,
            // As a shell reports an interrupt (128 and the signal's number), whichever signal it was.
            Self::Interrupted => 130,
        }
    }

    /// For the manual.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Good => "all is well",
            Self::Wrong => "something is wrong with an entry: found by `verify`, or not mended by the others",
            Self::Unable => "wrong usage, or nothing could be done at all",
            Self::Interrupted => "interrupted; everything that was written is whole",
        }
    }

    /// With `--exit-zero`, entries that are wrong do not count. Wrong usage and interrupts still do.
    pub(crate) fn forgiving(self, exit_zero: bool) -> Self {
        if exit_zero && self == Self::Wrong { Self::Good } else { self }
    }

    /// What was asked for could not be told.
    pub(crate) fn at_least_wrong(self) -> Self {
        if self == Self::Good { Self::Wrong } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_code() {
        let good = Summary::default();
        let wrong = Summary { wrong: 1, ..Summary::default() };
        let out_of_time = Summary { out_of_time: true, ..Summary::default() };
        for (summary, code) in [(good, 0), (wrong, 1), (out_of_time, 1)] {
            assert_eq!(Exit::of(&summary).code(), code);
            assert_eq!(Exit::of(&Summary { stopped: true, ..summary }).code(), 130);
        }
        assert_eq!(Exit::ALL.map(Exit::code), [0, 1, 2, 130]);
        assert_eq!(Exit::ALL.map(|exit| exit.forgiving(true).code()), [0, 0, 2, 130]);
        assert_eq!(Exit::ALL.map(|exit| exit.at_least_wrong().code()), [1, 1, 2, 130]);
    }
}
