//! The table: what each command does about each verdict.

use super::job::{Clean, Command};
use crate::model::Verdict;

/// What is to be done about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Leave,
    /// Compile it.
    Build,
    /// Give the code that is there a new header and seal.
    Restamp,
    /// Put a seal behind it where it stands.
    Seal,
    /// Remove it.
    Remove,
    /// Remove a left-over.
    Sweep,
}

/// What besides the verdict decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// Are the artifact's own bytes damaged?
    pub(super) damaged: bool,
    /// Is somebody there who can make it?
    pub(super) has_maker: bool,
    /// Does it carry a seal?
    pub(super) sealed: bool,
    /// Does the seal say from which source bytes it was compiled? Not one that was put behind somebody else's work.
    pub(super) own: bool,
    /// Is it to be compiled again and compared?
    pub(super) recompile: bool,
    /// Is it as old as `clean` asks for?
    pub(super) old_enough: bool,
    /// Its tag, where known.
    pub(super) tag: Option<&'a str>,
    /// `--force`.
    pub(super) force: bool,
    /// `--adopt`.
    pub(super) adopt: bool,
    /// What `clean` is to remove.
    pub(super) clean: &'a Clean,
}

/// The cell of the table. No wildcard: a new verdict does not compile before every column has decided.
pub(super) fn decide(command: Command, verdict: Verdict, facts: &Facts<'_>) -> Decision {
    use Verdict as V;
    match command {
        Command::Verify | Command::Status | Command::Explain | Command::Add => Decision::Leave,
        Command::Compile => match verdict {
            V::Ok if !facts.force => Decision::Leave,
            V::Unsealed if !facts.force => {
                if facts.adopt {
                    Decision::Seal
                } else {
                    Decision::Leave
                }
            }
            V::Misstamped if facts.own && !facts.force => Decision::Restamp,
            V::Ok | V::Unsealed | V::Misstamped | V::Missing | V::Stale | V::SilentlyStale | V::Truncated | V::Corrupt | V::BadMagic => {
                Decision::Build
            }
            V::Unknown => {
                if facts.force {
                    Decision::Build
                } else {
                    Decision::Leave
                }
            }
            V::Orphan | V::Sourceless | V::Unreadable | V::Unsafe => Decision::Leave,
            V::Leftover => Decision::Sweep,
        },
        Command::Repair => match verdict {
            V::Ok | V::Unsealed | V::Missing => Decision::Leave,
            V::Misstamped if facts.own => Decision::Restamp,
            // It does no harm: Python compiles past it, or uses the code, which is right. Whoever can make it anew has more of it so.
            V::Misstamped if !facts.has_maker => Decision::Leave,
            // Nobody here can make it, and as it stands it hurts: without it Python makes it anew.
            V::Misstamped | V::Stale | V::SilentlyStale | V::Truncated | V::Corrupt | V::BadMagic => {
                if facts.has_maker {
                    Decision::Build
                } else {
                    Decision::Remove
                }
            }
            V::Orphan => {
                if facts.damaged {
                    Decision::Remove
                } else {
                    Decision::Leave
                }
            }
            V::Sourceless | V::Unknown | V::Unreadable | V::Unsafe => Decision::Leave,
            V::Leftover => Decision::Sweep,
        },
        Command::Clean => clean(verdict, facts),
        Command::Seal => match verdict {
            // What nobody here can compile again is not proved.
            V::Unsealed if facts.recompile && !facts.has_maker => Decision::Leave,
            V::Unsealed => Decision::Seal,
            V::Ok if facts.recompile && facts.sealed && !facts.own && facts.has_maker => Decision::Seal,
            V::Ok | V::Missing | V::Stale | V::Misstamped | V::SilentlyStale | V::Truncated | V::Corrupt | V::BadMagic => Decision::Leave,
            V::Orphan | V::Sourceless | V::Unknown | V::Unreadable | V::Unsafe | V::Leftover => Decision::Leave,
        },
    }
}

/// Would this change or take away an artifact without mending anything? What other people's records list by its bytes is spared that.
pub(super) fn is_avoidable(command: Command, decision: Decision, verdict: Verdict) -> bool {
    match decision {
        Decision::Seal => true,
        Decision::Build | Decision::Restamp => matches!(verdict, Verdict::Ok | Verdict::Unsealed),
        // Who lists it takes it away, and misses it then.
        Decision::Remove => command == Command::Clean,
        Decision::Leave | Decision::Sweep => false,
    }
}

fn clean(verdict: Verdict, facts: &Facts<'_>) -> Decision {
    use Verdict as V;
    let clean = facts.clean;
    let tag = facts.tag.unwrap_or_default();
    let tag_fits = clean.tags.as_ref().is_none_or(|tags| tags.iter().any(|wanted| wanted == tag))
        && clean.keep_tags.as_ref().is_none_or(|kept| !tag.is_empty() && kept.iter().all(|kept| kept != tag));
    // Each of these names a kind; none named means the artifacts that have a source, and left-overs.
    let kinds = clean.orphans || clean.leftovers || clean.sourceless;
    let fits = tag_fits && facts.old_enough && (!clean.sealed || facts.sealed);
    let remove = |wanted: bool| if fits && wanted { Decision::Remove } else { Decision::Leave };
    match verdict {
        V::Ok | V::Unsealed | V::Stale | V::Misstamped | V::SilentlyStale | V::Truncated | V::Corrupt | V::BadMagic => remove(!kinds),
        V::Orphan => remove(clean.orphans),
        V::Sourceless => remove(clean.sourceless),
        V::Missing | V::Unknown | V::Unreadable | V::Unsafe => Decision::Leave,
        V::Leftover => {
            // A filter by tag, age or seal says nothing of left-overs: they go only where they are meant.
            let filtered = clean.tags.is_some()
                || clean.keep_tags.is_some()
                || clean.sealed
                || clean.made_before.is_some()
                || clean.keep_bytes.is_some();
            if clean.leftovers || (!kinds && !filtered) { Decision::Sweep } else { Decision::Leave }
        }
    }
}

/// Does an entry that is left as it is make the run's exit code 1?
pub(super) fn is_wrong(command: Command, verdict: Verdict, damaged: bool) -> bool {
    match command {
        // A damaged module without a source fails at import, and nobody but its owner can mend it.
        Command::Verify | Command::Status | Command::Seal | Command::Add => {
            verdict.is_problem() || (verdict == Verdict::Sourceless && damaged)
        }
        Command::Compile | Command::Explain => matches!(verdict, Verdict::Unreadable | Verdict::Unsafe),
        Command::Repair => {
            matches!(verdict, Verdict::Misstamped | Verdict::Unreadable | Verdict::Unsafe) || (verdict == Verdict::Sourceless && damaged)
        }
        Command::Clean => verdict == Verdict::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMANDS: [Command; 8] = [
        Command::Verify,
        Command::Status,
        Command::Compile,
        Command::Repair,
        Command::Clean,
        Command::Seal,
        Command::Explain,
        Command::Add,
    ];

    fn cell(command: Command, verdict: Verdict, damaged: bool) -> Decision {
        let facts = Facts {
            damaged,
            has_maker: true,
            sealed: true,
            own: true,
            recompile: false,
            old_enough: true,
            tag: Some("cpython-313"),
            force: false,
            adopt: false,
            clean: &Clean::default(),
        };
        decide(command, verdict, &facts)
    }

    #[test]
    fn the_table_is_the_one_that_is_promised() {
        let promised = "\
ok             leave leave leave   leave   remove leave leave leave
unsealed       leave leave leave   leave   remove seal  leave leave
stale          leave leave build   build   remove leave leave leave
misstamped     leave leave restamp restamp remove leave leave leave
silently-stale leave leave build   build   remove leave leave leave
truncated      leave leave build   build   remove leave leave leave
corrupt        leave leave build   build   remove leave leave leave
bad-magic      leave leave build   build   remove leave leave leave
unknown        leave leave leave   leave   leave  leave leave leave
orphan         leave leave leave   leave   leave  leave leave leave
sourceless     leave leave leave   leave   leave  leave leave leave
missing        leave leave build   leave   leave  leave leave leave
unreadable     leave leave leave   leave   leave  leave leave leave
unsafe         leave leave leave   leave   leave  leave leave leave
leftover       leave leave sweep   sweep   sweep  leave leave leave";
        assert_eq!(promised.lines().count(), Verdict::ALL.len());
        for (line, verdict) in promised.lines().zip(Verdict::ALL) {
            let cells: Vec<_> = line.split_whitespace().collect();
            assert_eq!(cells[0], verdict.word());
            for (word, command) in cells[1..].iter().zip(COMMANDS) {
                assert_eq!(format!("{:?}", cell(command, verdict, false)).to_lowercase(), **word, "{command:?} {verdict}");
            }
        }
        assert_eq!(cell(Command::Repair, Verdict::Orphan, true), Decision::Remove);
    }

    #[test]
    fn what_is_listed_is_changed_only_where_that_mends_it() {
        for verdict in Verdict::ALL {
            for command in COMMANDS {
                let decision = cell(command, verdict, false);
                let mends = matches!(command, Command::Compile | Command::Repair);
                let expected = decision != Decision::Leave && decision != Decision::Sweep && !mends;
                assert_eq!(is_avoidable(command, decision, verdict), expected, "{command:?} {verdict}");
            }
        }
        // By force, and where another mode was wanted.
        assert!(is_avoidable(Command::Compile, Decision::Build, Verdict::Ok));
        assert!(is_avoidable(Command::Compile, Decision::Seal, Verdict::Unsealed));
    }

    #[test]
    fn seal_renews_an_adopted_seal_only_by_what_can_be_compiled_again() {
        let clean = Clean::default();
        let decide = |verdict, adopted: bool, has_maker, recompile| {
            let (damaged, sealed, old_enough, tag, force, adopt) = (false, true, true, None, false, false);
            let facts = Facts { damaged, has_maker, sealed, own: !adopted, recompile, old_enough, tag, force, adopt, clean: &clean };
            decide(Command::Seal, verdict, &facts)
        };
        assert_eq!(decide(Verdict::Ok, true, true, true), Decision::Seal);
        assert_eq!(decide(Verdict::Ok, true, true, false), Decision::Leave);
        assert_eq!(decide(Verdict::Ok, false, true, true), Decision::Leave);
        assert_eq!(decide(Verdict::Ok, true, false, true), Decision::Leave);
        assert_eq!(decide(Verdict::Unsealed, false, false, true), Decision::Leave);
        assert_eq!(decide(Verdict::Unsealed, false, false, false), Decision::Seal);
    }

    #[test]
    fn repair_removes_what_nobody_here_can_make() {
        let facts = Facts {
            damaged: true,
            has_maker: false,
            sealed: true,
            own: true,
            recompile: false,
            old_enough: true,
            tag: None,
            force: false,
            adopt: false,
            clean: &Clean::default(),
        };
        assert_eq!(decide(Command::Repair, Verdict::Truncated, &facts), Decision::Remove);
        assert_eq!(decide(Command::Repair, Verdict::Sourceless, &facts), Decision::Leave, "nothing sourceless is ever removed unasked");
        assert_eq!(decide(Command::Repair, Verdict::Misstamped, &facts), Decision::Restamp, "for that nobody need be here");
    }

    #[test]
    fn what_was_adopted_is_compiled_and_never_restamped() {
        for (command, facts, decision) in [
            (Command::Compile, (true, false, false), Decision::Build),
            (Command::Compile, (false, false, false), Decision::Build),
            (Command::Compile, (true, true, true), Decision::Build),
            (Command::Compile, (false, true, false), Decision::Restamp),
            (Command::Repair, (true, false, false), Decision::Build),
            (Command::Repair, (false, false, false), Decision::Leave),
        ] {
            let ((has_maker, own, force), clean) = (facts, Clean::default());
            let (damaged, sealed, recompile, old_enough, tag, adopt) = (false, true, false, true, None, false);
            let facts = Facts { damaged, has_maker, sealed, own, recompile, old_enough, tag, force, adopt, clean: &clean };
            assert_eq!(super::decide(command, Verdict::Misstamped, &facts), decision, "{command:?} {facts:?}");
        }
    }

    #[test]
    fn clean_removes_only_what_it_is_asked_for() {
        let mut asked = Clean { orphans: true, ..Clean::default() };
        let decide = |clean: &Clean, verdict, tag, sealed| {
            decide(
                Command::Clean,
                verdict,
                &Facts {
                    damaged: false,
                    has_maker: false,
                    sealed,
                    own: sealed,
                    recompile: false,
                    old_enough: true,
                    tag: Some(tag),
                    force: false,
                    adopt: false,
                    clean,
                },
            )
        };
        assert_eq!(decide(&asked, Verdict::Ok, "cpython-313", true), Decision::Leave);
        assert_eq!(decide(&asked, Verdict::Orphan, "cpython-313", true), Decision::Remove);
        asked = Clean { keep_tags: Some(vec!["cpython-313".into()]), ..Clean::default() };
        assert_eq!(decide(&asked, Verdict::Ok, "cpython-313", true), Decision::Leave);
        assert_eq!(decide(&asked, Verdict::Ok, "cpython-312", true), Decision::Remove);
        asked = Clean { sealed: true, tags: Some(vec!["cpython-312".into()]), ..Clean::default() };
        assert_eq!(decide(&asked, Verdict::Ok, "cpython-312", true), Decision::Remove);
        assert_eq!(decide(&asked, Verdict::Unsealed, "cpython-312", false), Decision::Leave);
        assert_eq!(decide(&asked, Verdict::Ok, "cpython-313", true), Decision::Leave);
        asked = Clean { leftovers: true, ..Clean::default() };
        assert_eq!(decide(&asked, Verdict::Ok, "cpython-313", true), Decision::Leave);
        assert_eq!(decide(&asked, Verdict::Leftover, "", false), Decision::Sweep);
        assert_eq!(decide(&asked, Verdict::Orphan, "cpython-313", true), Decision::Leave);
        asked = Clean { leftovers: true, orphans: true, ..Clean::default() };
        assert_eq!(decide(&asked, Verdict::Leftover, "", false), Decision::Sweep);
        assert_eq!(decide(&asked, Verdict::Orphan, "cpython-313", true), Decision::Remove);
        assert_eq!(decide(&asked, Verdict::Ok, "cpython-313", true), Decision::Leave);
    }
}
