//! Who compiles: what a [`Compiler`] is asked, and what it answers.

use std::time::Duration;

use super::Target;

/// What a [`Compiler`] is asked.
#[derive(Debug)]
pub struct Request<'a> {
    /// The source's bytes: exactly these are compiled.
    pub source: &'a [u8],
    /// The file name that the code carries, as raw bytes.
    pub filename: &'a [u8],
    /// Optimisation level, 0 to 2.
    pub level: u8,
}

/// What a [`Compiler`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The code without a header.
    pub code: Vec<u8>,
    /// How long compiling alone took, where that is known.
    pub took: Duration,
    /// What the compiler warned of.
    pub warnings: Vec<Warning>,
}

/// A warning about a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The class of warning, `SyntaxWarning`.
    pub kind: String,
    /// The text.
    pub text: String,
    /// The line, counted from 1; 0 where none is known.
    pub line: u64,
}

/// Why there is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The source is not valid. The fault is the source's own.
    #[error("{}", .0.text)]
    Source(Box<SourceFault>),
    /// The compiler died over this source, on each of so many tries.
    #[error("the interpreter died while compiling it ({how}; tried {tries} times)")]
    Died {
        /// How it ended: `signal 11`, `exit status 3`, `answered garbage`.
        how: String,
        /// How many fresh workers were tried.
        tries: u32,
    },
    /// It took longer than the time limit, on each of so many tries.
    #[error("compiling it took longer than {} s (tried {tries} times)", limit.as_secs_f64())]
    TimedOut {
        /// The limit.
        limit: std::time::Duration,
        /// How many fresh workers were tried.
        tries: u32,
    },
    /// No compiler could be started for it, since others hold all that the system has to give (descriptors). It says nothing of the
    /// source, nor of the compiler.
    #[error("no interpreter could be started for it: {how}")]
    Start {
        /// The system's words.
        how: String,
    },
    /// The compiler was stopped.
    #[error("stopped")]
    Stopped,
    /// The compiler cannot be used at all: every further request would fail too.
    #[error("{0}")]
    Unusable(String),
}

/// What is wrong with a source, in the compiler's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFault {
    /// The class of error: `SyntaxError`, `IndentationError`, `ValueError`…
    pub kind: String,
    /// The message.
    pub text: String,
    /// Line, counted from 1, where known.
    pub line: Option<u64>,
    /// Column in characters, counted from 1, where known.
    pub column: Option<u64>,
    /// Last column, exclusive, counted from 1, where known and on the same line.
    pub end_column: Option<u64>,
    /// The line itself, quoted from the bytes that were compiled: never from the file, which may have become something else.
    pub quoted: Option<String>,
}

/// How much of a source's line is quoted, in characters.
const LONGEST_LINE: usize = 160;

impl SourceFault {
    /// As the interpreter would show it: file, line, the line itself with a caret, class and message. Several lines.
    pub fn describe(&self, file: &str) -> String {
        let place = self.line.map(|line| format!(", line {line}")).unwrap_or_default();
        let mut lines = vec![format!("File \"{file}\"{place}")];
        if let Some(quoted) = &self.quoted {
            let shown = quoted.trim();
            let indent = quoted.chars().take_while(|c| c.is_whitespace()).count();
            let number = |column: Option<u64>| column.and_then(|column| usize::try_from(column).ok()).unwrap_or(0);
            let (column, end) = (number(self.column), number(self.end_column));
            let length = shown.chars().count();
            let from = column.saturating_sub(1 + indent).min(length);
            // Of a generated line with thousands of characters, what stands around the caret.
            let cut = if length > LONGEST_LINE { from.saturating_sub(LONGEST_LINE / 2).min(length - LONGEST_LINE) } else { 0 };
            let dots = |there: bool| if there { "..." } else { "" };
            let part: String = shown.chars().skip(cut).take(LONGEST_LINE).collect();
            lines.push(format!("  {}{part}{}", dots(cut > 0), dots(cut + LONGEST_LINE < length)));
            if column > indent {
                let left = (length - from).min(LONGEST_LINE + cut - from).max(1);
                let width = end.saturating_sub(column).clamp(1, left);
                lines.push(format!("  {}{}", " ".repeat(dots(cut > 0).len() + from - cut), "^".repeat(width)));
            }
        }
        lines.push(format!("{}: {}", self.kind, self.text));
        lines.join("\n")
    }
}

/// Anything that turns a source into code. Blocking: call it from as many threads as [`Compiler::width`] says.
pub trait Compiler: Send + Sync {
    /// What it makes.
    fn target(&self) -> &Target;

    /// How many calls may usefully run at one time.
    fn width(&self) -> usize;

    /// Gets ready for a level before anything else is opened: called where descriptors are few, and not otherwise.
    fn prepare(&self, level: u8) {
        tracing::trace!(level, "nothing to prepare");
    }

    /// All that its code depends on beside the source, the level and the target: two compilers that say the same make the same code of one
    /// source. `None`: that is not known, so nothing that it makes is shared.
    fn build(&self) -> Option<&str> {
        None
    }

    /// Compiles. Errors are this source's own, except [`CompileError::Start`], [`CompileError::Unusable`] and
    /// [`CompileError::Stopped`].
    fn compile(&self, request: &Request<'_>) -> Result<Made, CompileError>;

    /// Ends it for good: each request, those in work and all that come, is soon answered by [`CompileError::Stopped`]. A compiler that
    /// takes but a moment for anything needs none.
    fn stop(&self) {
        tracing::trace!("nothing to stop");
    }

    /// Was it stopped? Whoever goes on with it must know that nothing comes of that.
    fn is_stopped(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_line_what_stands_around_the_caret_is_shown() {
        let long = 1000;
        for (at, before, behind) in [(0, false, true), (500, true, true), (long - 1, true, false), (long, true, false)] {
            let mut quoted = format!("  {}", "x".repeat(long));
            if at < long {
                quoted.replace_range(at + 2..at + 3, "$");
            }
            let column = Some(at as u64 + 3);
            let fault =
                SourceFault { kind: "E".into(), text: "t".into(), line: Some(1), column, end_column: Some(9999), quoted: Some(quoted) };
            let told = fault.describe("f");
            let [_, shown, caret, _] = told.lines().collect::<Vec<_>>()[..] else { panic!("{told}") };
            assert_eq!((shown.starts_with("  ..."), shown.ends_with("...")), (before, behind), "{told}");
            assert!(shown.len() <= LONGEST_LINE + 8 && caret.len() <= LONGEST_LINE + 8, "{told}");
            assert_eq!(shown.find('$').unwrap_or(shown.len()), caret.find('^').unwrap(), "{told}");
        }
    }
}
