//! The words for people that hang on a verdict or on the code of a cause: what it means and what to do next.

use crate::flow::Command;
use crate::model::Verdict;

/// What to do next, by the code of the cause.
pub(crate) fn of_cause(code: &str) -> Option<&'static str> {
    let hint = match code {
        "locked" => "wait until the other process has finished, or give it more time with `--lock-timeout SECONDS`",
        "read-only" => "the file system is mounted read-only: remount it, or put the cache elsewhere with `--pycache-prefix DIR`",
        "permission" => "run it as the owner of the files, or put the cache elsewhere with `--pycache-prefix DIR`",
        "disk-full" => "free some space and run it again: what was written is whole, and only the rest is left",
        "quota" => "your quota is used up: remove something and run it again; what was written is whole",
        "file-size-limit" => "raise the limit on file sizes (`ulimit -f unlimited`) and run it again",
        "name-too-long" => "the artifact's name is longer than the file system allows: shorten the source's name",
        "stale-handle" => "the network file system lost the directory: run it again",
        "gone" | "vanished" => "something else removed it meanwhile: run it again when the tree is at rest",
        "moved" => "run it again when the tree is at rest",
        "no-such-path" => "make the list anew: it names what cannot be there",
        "lock-file" => "remove it by hand, after a look at what it is and who put it there: until then nobody can lock the directory",
        "memory" => "give it more memory (`ulimit -v unlimited`), or use fewer `--jobs`",
        "level" => "say which level it has with `--optimize LEVEL`",
        "no-source" => "bring its source back, or remove it with `bytekeep clean --orphans` or `--sourceless`",
        "busy" => {
            "something else holds it, as a mount point or an open file (`findmnt` and `lsof` say what): let go of it and run it again"
        }
        "record" => "install the distribution again, or name the tree itself without `--env`",
        "io" => "look into the system's log for errors of the device, then run it again",
        "too-large" => "allow it with `--max-source SIZE`, or leave it out with `--exclude GLOB`",
        "too-large-artifact" => "see what it is with `bytekeep inspect --max-size SIZE`, and make it anew with `bytekeep compile --force`",
        "timeout" => "give it longer with `--timeout SECONDS` (0 is without limit), or leave it out with `--exclude GLOB`",
        "compiler-died" => {
            "compile it by the interpreter alone (`python3 -m py_compile FILE`) to see it die, or leave it out with `--exclude GLOB`"
        }
        "compiler-wrong" => "see what the interpreter is (a wrapper, a broken build), and name a sound one with `--python`",
        "other-code" => {
            "was it made by another release of this Python? `bytekeep compile --force PATH` makes it anew; `inspect` tells more of it"
        }
        "source" => "mend the source, or leave it out with `--exclude GLOB`",
        "not-a-file" => "only regular files are compiled: remove it, or leave it out with `--exclude GLOB`",
        "not-a-directory" => "remove it, after a look at who put it there: nothing is written through a link, and through a file by nobody",
        "unmounted" => "mount the sources, or name `--orphans` when they are gone for good",
        "descriptors" => "raise the limit on open files (`ulimit -n`) and run it again, or use fewer `--jobs`",
        "dangling" => "remove the link or bring back what it leads to; an editor's lock goes by itself",
        "link" => "look at where the link leads and who put it there, or leave it out with `--exclude GLOB`",
        "foreign-link" => "run it as the user who owns the link, or replace the link by the file",
        "changing" => "run it again when nobody writes the source",
        "unsafe" => "remove what stands there, after a look at who put it there",
        "newer-seal" => "it was written by a newer bytekeep: use that one for this tree",
        "no-interpreter" => "name the interpreter that it is for with `--python`",
        "interpreter" => "run it again: what was compiled is whole, and only the rest is left",
        "signed" => "it belongs to whoever signed it: rebuild it where it was signed",
        _ => return None,
    };
    Some(hint)
}

/// The same for a hook, which has no options to leave something out, and whose artifacts stand where Python looks for them.
pub(crate) fn of_cause_in_hook(code: &str) -> Option<&'static str> {
    let hint = of_cause(code)?;
    let is_missing = |way: &str| ["--exclude", "--pycache-prefix", "--env"].iter().any(|option| way.contains(option));
    Some(hint.split_once(", or ").filter(|(_, other)| is_missing(other)).map_or(hint, |(first, _)| first))
}

/// Causes that lie in a directory, a file system or the whole machine and hold for all that is in it: told once, with a count.
pub(crate) fn is_shared(code: &str) -> bool {
    matches!(code, "locked" | "lock-file" | "read-only" | "permission" | "disk-full" | "quota" | "interpreter" | "no-interpreter" | "moved")
}

/// What a verdict means, in a line.
pub(crate) fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "sealed, whole, and it fits its source",
        Verdict::Unsealed => "without a seal, but sound, and it fits its source",
        Verdict::Stale => "the source has changed, and the header says so",
        Verdict::Misstamped => "made from these very source bytes, but the header says otherwise",
        Verdict::SilentlyStale => "made from other source bytes, and Python would use it",
        Verdict::Truncated => "it ends before it should",
        Verdict::Corrupt => "its bytes are not those that were written",
        Verdict::BadMagic => "its magic number is not that of the interpreter in its name",
        Verdict::Unknown => "of an interpreter or a seal version that bytekeep does not know: left alone",
        Verdict::Orphan => "its source is gone, and nothing would import it",
        Verdict::Sourceless => "it has no source, and Python would import it",
        Verdict::Missing => "there is a source and no artifact",
        Verdict::Unreadable => "the source, the artifact or the directory cannot be read",
        Verdict::Unsafe => "a link, a FIFO or a device, which could lead out of the tree",
        Verdict::Leftover => "left behind by a process that is dead",
    }
}

/// What mends a verdict, in a line.
pub(crate) fn cure(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "nothing to do",
        Verdict::Unsealed => "`bytekeep seal` proves it from now on",
        Verdict::Stale | Verdict::Missing => "`bytekeep compile`",
        Verdict::Misstamped => "`bytekeep repair` or `compile` renews the header, without an interpreter where it was not adopted",
        Verdict::SilentlyStale | Verdict::Truncated | Verdict::Corrupt | Verdict::BadMagic => "`bytekeep repair`",
        Verdict::Unknown => "a newer bytekeep may know it",
        Verdict::Orphan => "`bytekeep clean --orphans`",
        Verdict::Sourceless => "`bytekeep clean --sourceless`, if it should not be there",
        Verdict::Unreadable => "run it as the owner of the files",
        Verdict::Unsafe => "look at who put it there",
        Verdict::Leftover => "`bytekeep clean --leftovers`; `compile` and `repair` sweep it too",
    }
}

/// Is a verdict worth a line of its own where only findings are told?
pub(crate) fn is_told(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Ok | Verdict::Unsealed | Verdict::Missing => false,
        Verdict::Stale
        | Verdict::Misstamped
        | Verdict::SilentlyStale
        | Verdict::Truncated
        | Verdict::Corrupt
        | Verdict::BadMagic
        | Verdict::Unknown
        | Verdict::Orphan
        | Verdict::Sourceless
        | Verdict::Unreadable
        | Verdict::Unsafe
        | Verdict::Leftover => true,
    }
}

/// The command's name.
pub(crate) fn word(command: Command) -> &'static str {
    match command {
        Command::Verify => "verify",
        Command::Status => "status",
        Command::Compile => "compile",
        Command::Repair => "repair",
        Command::Clean => "clean",
        Command::Seal => "seal",
        Command::Explain => "explain",
        Command::Add => "store add",
    }
}

/// What it does to one entry, as a verb.
pub(crate) fn verb(command: Command) -> &'static str {
    match command {
        Command::Verify => "verify",
        Command::Status => "look at",
        Command::Compile => "compile",
        Command::Repair => "repair",
        Command::Clean => "remove",
        Command::Seal => "seal",
        Command::Explain => "explain",
        Command::Add => "add to the store",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shared_cause_says_what_to_do_next() {
        for code in ["locked", "lock-file", "read-only", "permission", "disk-full", "quota", "no-interpreter"] {
            assert!(is_shared(code) && of_cause(code).is_some(), "{code}");
        }
    }

    #[test]
    fn no_hook_is_told_of_options_that_it_has_not() {
        for (code, hint) in [
            ("source", "mend the source"),
            ("too-large", "allow it with `--max-source SIZE`"),
            ("timeout", "give it longer with `--timeout SECONDS` (0 is without limit)"),
            ("permission", "run it as the owner of the files"),
            ("descriptors", "raise the limit on open files (`ulimit -n`) and run it again, or use fewer `--jobs`"),
        ] {
            assert_eq!(of_cause_in_hook(code), Some(hint));
        }
        for code in ["compiler-died", "not-a-file", "link", "read-only", "record"] {
            let hint = of_cause_in_hook(code).unwrap();
            assert!(!["--exclude", "--pycache-prefix", "--env"].iter().any(|option| hint.contains(option)), "{hint}");
        }
    }

    #[test]
    fn every_system_error_has_a_hint() {
        use std::io::ErrorKind as Kind;
        let of = |kind: Kind| crate::model::Cause::from(&crate::base::Error::new("open", "a", kind)).code;
        for kind in
            [Kind::NotFound, Kind::PermissionDenied, Kind::ReadOnlyFilesystem, Kind::StorageFull, Kind::QuotaExceeded, Kind::FileTooLarge]
        {
            assert!(of_cause(of(kind)).is_some(), "{}", of(kind));
        }
        // None of these is the device's fault.
        for kind in [Kind::ResourceBusy, Kind::WouldBlock, Kind::NotADirectory] {
            assert!(of_cause(of(kind)).is_some_and(|hint| !hint.contains("device")), "{}", of(kind));
        }
    }

    #[test]
    fn every_problem_is_told_with_its_meaning_and_cure() {
        for verdict in Verdict::ALL {
            assert!(!meaning(verdict).is_empty() && !cure(verdict).is_empty());
            assert!(is_told(verdict) || !verdict.is_problem(), "{verdict}");
        }
    }
}
