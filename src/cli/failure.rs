//! An error that ends the whole run: told in one shape, exit code 2.

use std::fmt;
use std::path::Path;

use super::out::Style;
use super::text;

/// Why nothing could be done, and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    /// A failure in one sentence fragment, paths in back-quotes.
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        Self { error: anyhow::Error::msg(what.to_string()), hint: None }
    }

    /// A path that cannot be used, with the system's words.
    pub(crate) fn of_path(what: &str, path: &Path, cause: std::io::Error) -> Self {
        Self::from(cause).during(format!("{what} `{}`", text::path(path, None)))
    }

    /// What was tried when it failed.
    #[must_use]
    pub(crate) fn during(mut self, what: impl fmt::Display) -> Self {
        self.error = self.error.context(what.to_string());
        self
    }

    /// What to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The error with its causes and its hint.
    pub(crate) fn render(&self, style: Style) -> String {
        let mut causes: Vec<String> = self.error.chain().skip(1).map(ToString::to_string).collect();
        // An error that repeats its source in its own words would be told twice.
        causes.dedup();
        error_block(style, &self.error.to_string(), &causes, self.hint.as_deref())
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), hint: None }
    }
}

/// The shape of every error: what failed, a `Caused by` per level, a hint last.
pub(crate) fn error_block(style: Style, what: &str, causes: &[String], hint: Option<&str>) -> String {
    let mut block = format!("{}: {}\n", style.bad("error"), text::message(what));
    for cause in causes {
        let cause = text::message(cause);
        let mut lines = cause.lines();
        block.extend([format!("  Caused by: {}\n", lines.next().unwrap_or_default())]);
        let rest: Vec<&str> = lines.collect();
        if !rest.is_empty() {
            block.push_str(&text::indent(&rest.join("\n"), 4));
            block.push('\n');
        }
    }
    if let Some(hint) = hint {
        block.extend([format!("{}: {}\n", style.hint("hint"), text::message(hint))]);
    }
    block
}

/// An error of the command line in the same shape. The text comes from clap: a sentence, details, `tip:` lines, usage.
pub(crate) fn usage_block(style: Style, rendered: &str, command: Option<&str>) -> String {
    let mut what = Vec::new();
    let mut hints = Vec::new();
    for line in rendered.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information")) {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        match line.trim_start().strip_prefix("tip: ") {
            Some(tip) => hints.push(tip.replace('\'', "`")),
            None if line.trim().is_empty() => {}
            None => what.push(line.replace('\'', "`")),
        }
    }
    hints.push(format!("`{} --help` tells what is understood", command.map_or("bytekeep".to_owned(), |name| format!("bytekeep {name}"))));
    let mut block = format!("{}: {}\n", style.bad("error"), text::message(&what.join("\n")));
    for hint in hints {
        block.extend([format!("{}: {}\n", style.hint("hint"), text::message(&hint))]);
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_of_errors() {
        let failure = Failure::of_path("cannot read", Path::new("a\nb"), std::io::ErrorKind::NotFound.into()).hint("name another");
        let shown = failure.render(Style(false));
        assert_eq!(shown, "error: cannot read `a\\nb`\n  Caused by: entity not found\nhint: name another\n");
        let coloured = error_block(Style(true), "it", &["one\n  two\n\n  three".to_owned()], None);
        assert_eq!(coloured, "\x1b[1;31merror\x1b[0m: it\n  Caused by: one\n      two\n\n      three\n");
    }

    #[test]
    fn usage_errors_have_the_same_shape() {
        let clap = "error: unexpected argument '--forse' found\n\n  tip: a similar argument exists: '--force'\n\nUsage: bytekeep …\n\nFor more …\n";
        assert_eq!(
            usage_block(Style(false), clap, Some("compile")),
            "error: unexpected argument `--forse` found\nhint: a similar argument exists: `--force`\nhint: `bytekeep compile --help` tells what is understood\n"
        );
    }
}
