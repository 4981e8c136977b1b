//! Where text goes: the one place that writes to standard output and standard error.
//!
//! Data that was asked for goes to stdout, all else to stderr. A reader who leaves early (`bytekeep verify | head`) is a quiet end:
//! the run goes on to its exit code, and nothing more is written. Any other failure to write what was asked for is told and counts.
//! Streams that were closed before the start are no case of their own: the runtime puts `/dev/null` in their place.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use indicatif::ProgressBar;

use super::args_common::ColorArg;

struct Stream {
    writer: Box<dyn Write + Send>,
    /// Set by the first write that failed; nothing is written after it.
    failed: Option<io::ErrorKind>,
}

/// Both streams.
pub(crate) struct Out {
    stdout: Mutex<Stream>,
    stderr: Mutex<Stream>,
    bar: OnceLock<ProgressBar>,
    /// Colours on stdout.
    pub(crate) data_style: Style,
    /// Colours on stderr.
    pub(crate) style: Style,
}

impl Out {
    /// The process's own streams.
    pub(crate) fn of_process(color: ColorArg) -> Self {
        let environment = Environment::of_process();
        let data_style = Style(wants_colour(color, environment, io::stdout().is_terminal()));
        let style = Style(wants_colour(color, environment, io::stderr().is_terminal()));
        Self::new(Box::new(io::stdout()), Box::new(io::stderr()), data_style, style)
    }

    fn new(stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>, data_style: Style, style: Style) -> Self {
        let stream = |writer| Mutex::new(Stream { writer, failed: None });
        Self { stdout: stream(stdout), stderr: stream(stderr), bar: OnceLock::new(), data_style, style }
    }

    /// Lets text pass above a progress bar from now on.
    pub(crate) fn set_bar(&self, bar: ProgressBar) {
        // A run has one bar; a second one would only go without.
        drop(self.bar.set(bar));
    }

    /// The progress bar, where there is one.
    pub(crate) fn bar(&self) -> Option<&ProgressBar> {
        self.bar.get()
    }

    /// Writes text that was asked for.
    pub(crate) fn data(&self, text: &str) {
        self.write(&self.stdout, text);
    }

    /// Writes a message.
    pub(crate) fn message(&self, text: &str) {
        self.write(&self.stderr, text);
    }

    fn write(&self, stream: &Mutex<Stream>, text: &str) {
        let write = || {
            let mut stream = lock(stream);
            if stream.failed.is_none() {
                // In one piece and with its newline, so that lines of several processes on one terminal stay lines.
                let answer = stream.writer.write_all(text.as_bytes()).and_then(|()| stream.writer.flush());
                stream.failed = answer.err().map(|cause| cause.kind());
            }
        };
        match self.bar.get() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Why what was asked for could not all be written. A reader who left is no reason.
    pub(crate) fn data_failure(&self) -> Option<io::ErrorKind> {
        lock(&self.stdout).failed.filter(|kind| *kind != io::ErrorKind::BrokenPipe)
    }
}

fn lock(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    // A thread that panicked while it wrote left at worst half a line.
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style(pub(crate) bool);

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Something is wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// Something is worth a look.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("1;33", text)
    }

    /// All is well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("1;32", text)
    }

    /// What to do next.
    pub(crate) fn hint(self, text: &str) -> String {
        self.paint("1;36", text)
    }

    /// A heading.
    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }
}

/// What the environment says of terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Environment {
    no_color: bool,
    force_color: bool,
    dumb: bool,
}

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let forced = |name: &str| set(name) && std::env::var_os(name).is_some_and(|value| value != "0");
        Self {
            no_color: set("NO_COLOR"),
            force_color: forced("FORCE_COLOR") || forced("CLICOLOR_FORCE"),
            dumb: std::env::var_os("TERM").is_some_and(|term| term == "dumb"),
        }
    }

    /// May a progress bar move the cursor about?
    pub(crate) fn allows_bar(self, terminal: bool) -> bool {
        terminal && !self.dumb
    }
}

/// The option wins over the environment, and there `NO_COLOR` over what forces colours, as people know it from other tools.
fn wants_colour(option: ColorArg, environment: Environment, terminal: bool) -> bool {
    match option {
        ColorArg::Always => true,
        ColorArg::Never => false,
        ColorArg::Auto if environment.no_color => false,
        ColorArg::Auto if environment.force_color => true,
        ColorArg::Auto => terminal && !environment.dumb,
    }
}

/// Streams that can be read afterwards.
#[cfg(test)]
pub(crate) mod capture {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    pub(crate) struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Buffer {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// Streams without colours, and what was written to stdout and stderr.
    pub(crate) fn plain() -> (Out, Buffer, Buffer) {
        let (stdout, stderr) = (Buffer::default(), Buffer::default());
        let out = Out::new(Box::new(stdout.clone()), Box::new(stderr.clone()), Style(false), Style(false));
        (out, stdout, stderr)
    }

    #[test]
    fn a_reader_who_leaves_is_quiet_and_a_full_disk_is_not() {
        struct Fails(io::ErrorKind);
        impl Write for Fails {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for (kind, told) in [(io::ErrorKind::BrokenPipe, None), (io::ErrorKind::StorageFull, Some(io::ErrorKind::StorageFull))] {
            let out = Out::new(Box::new(Fails(kind)), Box::new(io::sink()), Style(false), Style(false));
            out.data("line\n");
            out.data("line\n");
            assert_eq!(out.data_failure(), told);
        }
    }

    #[test]
    fn colours_by_option_and_environment() {
        let environment = |no_color, force_color, dumb| Environment { no_color, force_color, dumb };
        for (option, environment, terminal, colours) in [
            (ColorArg::Auto, environment(false, false, false), true, true),
            (ColorArg::Auto, environment(false, false, false), false, false),
            (ColorArg::Auto, environment(false, true, true), false, true),
            (ColorArg::Auto, environment(true, true, false), true, false),
            (ColorArg::Auto, environment(false, false, true), true, false),
            (ColorArg::Always, environment(true, false, true), false, true),
            (ColorArg::Never, environment(false, true, false), true, false),
        ] {
            assert_eq!(wants_colour(option, environment, terminal), colours, "{option:?} {environment:?} {terminal}");
        }
        assert!(!environment(false, true, true).allows_bar(true));
        assert!(!environment(false, false, false).allows_bar(false));
    }
}
