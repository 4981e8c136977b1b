//! What only an interpreter itself can say in its own words: how it shows a name, what its regular expressions find, how it tells an error
//! in a source, which directories it imports from. For whoever must answer as it does; compiling is the [`pool`](super::pool)'s.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::interpreter::Interpreter;
use super::process;
use crate::base::children::{self, ChildLimits};

const PROGRAM: &str = include_str!("words.py");
/// How often it is looked whether somebody wants all to end.
const TICK: Duration = Duration::from_millis(40);
/// The longest answer that is taken, bytes in hex.
const LONGEST: u64 = 1 << 30;
/// The longest list of directories, bytes.
const LONGEST_PATH: u64 = 1 << 20;
/// What may be named at once: more makes a longer line, and no less work.
const AT_ONCE: usize = 512;

type Fields = Vec<Vec<u8>>;

/// A question, and where the answer goes.
struct Question {
    line: Vec<u8>,
    reply: Sender<Result<Fields, String>>,
}

/// An interpreter that is asked for its words. It is started by the first question, in isolation as a worker is, and ends with this.
#[derive(Debug)]
pub struct Words<'a> {
    interpreter: &'a Interpreter,
    stop: &'a AtomicBool,
    questions: Mutex<Option<Sender<Question>>>,
}

impl<'a> Words<'a> {
    /// Of an interpreter; none runs yet. Who waits for an answer waits no longer once `stop` is set.
    pub fn new(interpreter: &'a Interpreter, stop: &'a AtomicBool) -> Self {
        Self { interpreter, stop, questions: Mutex::default() }
    }

    /// `repr()` of a path.
    ///
    /// # Errors
    /// The interpreter did not answer: how.
    pub fn repr(&self, path: &[u8]) -> Result<String, String> {
        let shown = self.ask('R', &[path])?;
        shown.first().map(|text| String::from_utf8_lossy(text).into_owned()).ok_or_else(nothing)
    }

    /// Takes a regular expression, for [`Words::found`]. `Some`: it is none, in the interpreter's words.
    ///
    /// # Errors
    /// The interpreter did not answer: how.
    pub fn pattern(&self, pattern: &[u8]) -> Result<Option<String>, String> {
        Ok(self.ask('P', &[pattern])?.first().map(|why| String::from_utf8_lossy(why).into_owned()))
    }

    /// In which of these paths is the pattern found?
    ///
    /// # Errors
    /// The interpreter did not answer: how.
    pub fn found(&self, paths: &[&[u8]]) -> Result<Vec<bool>, String> {
        let mut found = Vec::with_capacity(paths.len());
        for some in paths.chunks(AT_ONCE) {
            found.extend(self.ask('S', some)?.iter().map(|answer| answer == b"1"));
        }
        if found.len() == paths.len() { Ok(found) } else { Err(nothing()) }
    }

    /// What `py_compile` says of a source that does not compile, under a file name. `is_own`: the name is that of the source, so its lines
    /// may be quoted. `None`: it does compile.
    ///
    /// # Errors
    /// The interpreter did not answer: how.
    pub fn error(&self, level: i64, filename: &[u8], is_own: bool, source: &[u8]) -> Result<Option<String>, String> {
        let said = self.ask('E', &[level.to_string().as_bytes(), filename, if is_own { b"1" } else { b"0" }, source])?;
        let text = String::from_utf8_lossy(said.first().ok_or_else(nothing)?).into_owned();
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    fn ask(&self, kind: char, fields: &[&[u8]]) -> Result<Fields, String> {
        let mut line = kind.to_string().into_bytes();
        for field in fields {
            // So that an empty field is one.
            line.extend_from_slice(b" x");
            field.iter().for_each(|byte| line.extend([hex(byte >> 4), hex(byte & 15)]));
        }
        line.push(b'\n');
        let (reply, answer) = channel();
        let sent = self.started()?.send(Question { line, reply });
        sent.map_err(|_| nothing())?;
        loop {
            match answer.recv_timeout(TICK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if self.stop.load(Ordering::SeqCst) => return Err("stopped".to_owned()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(nothing()),
            }
        }
    }

    /// The thread that speaks to it. One of its own, since the child lives as long as the thread that started it.
    fn started(&self) -> Result<Sender<Question>, String> {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*questions {
            return Ok(sender.clone());
        }
        let (sender, asked) = channel();
        let interpreter = self.interpreter.clone();
        let named = std::thread::Builder::new().name("bytekeep-words".to_owned());
        named.spawn(move || serve(&interpreter, &asked)).map_err(|cause| format!("no thread can be started: {cause}"))?;
        Ok(questions.insert(sender).clone())
    }
}

fn nothing() -> String {
    "the interpreter did not answer".to_owned()
}

fn hex(digit: u8) -> u8 {
    match digit {
        0..=9 => b'0' + digit,
        _ => b'a' + (digit - 10),
    }
}

/// A child that is killed and reaped when it goes.
struct Speaker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _cwd: process::EmptyDir,
}

impl Speaker {
    fn start(interpreter: &Interpreter) -> std::io::Result<Self> {
        let cwd = process::empty_dir()?;
        let limits = ChildLimits { address_space: interpreter.wide.then_some(4 << 30) };
        let mut command = process::command(&interpreter.executable, &interpreter.flags(0), PROGRAM, cwd.path(), true, limits);
        let mut child = command.stderr(Stdio::null()).spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Self { child, stdin, stdout: BufReader::new(stdout), _cwd: cwd }),
            _ => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn answer(&mut self, line: &[u8]) -> std::io::Result<Fields> {
        self.stdin.write_all(line)?;
        self.stdin.flush()?;
        let mut answer = Vec::new();
        // Reads until the line is whole, however the pipe gives it.
        self.stdout.by_ref().take(LONGEST).read_until(b'\n', &mut answer)?;
        if answer.pop() != Some(b'\n') {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let field = |field: &[u8]| {
            let digits = std::str::from_utf8(field.strip_prefix(b"x")?).ok()?;
            super::interpreter::unhex(digits)
        };
        let fields: Option<Fields> = answer.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).map(field).collect();
        fields.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        children::kill_group(self.child.id());
        crate::ignored!(self.child.wait(), "an interpreter cannot be waited for");
    }
}

fn serve(interpreter: &Interpreter, asked: &Receiver<Question>) {
    let mut speaker = None;
    // Ends when whoever asks is gone.
    while let Ok(question) = asked.recv() {
        let answer = match &mut speaker {
            Some(speaker) => Speaker::answer(speaker, &question.line),
            None => Speaker::start(interpreter).and_then(|started| speaker.insert(started).answer(&question.line)),
        };
        if answer.is_err() {
            // What has died over one question may answer the next.
            speaker = None;
        }
        let path = interpreter.executable.display();
        let answer = answer.map_err(|cause| format!("the interpreter `{path}` does not say what it would: {cause}"));
        crate::ignored!(question.reply.send(answer), "nobody waits for an answer");
    }
}

/// `sys.path` of a module that the interpreter runs by `-m`, as this user has it in this directory with this environment: `site` and what
/// it reads are run, since they decide on it.
///
/// # Errors
/// The interpreter did not answer: how.
pub fn search_path(interpreter: &Interpreter, stop: &AtomicBool) -> Result<Fields, String> {
    const ASK: &str = "import os, sys; sys.stdout.buffer.write(b''.join(os.fsencode(p) + b'\\0' for p in sys.path if isinstance(p, str)))";
    let broken = |how: String| format!("the interpreter `{}` does not say what its path is: {how}", interpreter.executable.display());
    let mut command = process::command_of_user(&interpreter.executable, &["-B", "-c", ASK]);
    let mut child = command.spawn().map_err(|cause| broken(cause.to_string()))?;
    let (Some(mut stdout), mut bytes) = (child.stdout.take(), Vec::new()) else { return Err(broken(nothing())) };
    let (done, heard) = channel();
    let pid = child.id();
    let reader = std::thread::Builder::new().spawn(move || {
        let read = stdout.by_ref().take(LONGEST_PATH).read_to_end(&mut bytes);
        crate::ignored!(done.send(read.map(|_| bytes)), "nobody waits for it");
    });
    let heard = reader.map_err(|cause| broken(cause.to_string())).and_then(|_| {
        loop {
            match heard.recv_timeout(TICK) {
                Ok(bytes) => return bytes.map_err(|cause| broken(cause.to_string())),
                Err(RecvTimeoutError::Timeout) if !stop.load(Ordering::SeqCst) => {}
                Err(_) => return Err(broken("stopped".to_owned())),
            }
        }
    });
    if heard.is_err() {
        children::kill_group(pid);
    }
    let ended = child.wait().map_err(|cause| broken(cause.to_string()))?;
    let heard = heard?;
    if !ended.success() {
        return Err(broken(ended.to_string()));
    }
    let mut dirs: Fields = heard.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    dirs.pop();
    Ok(dirs)
}

/// Runs `python -m MODULE -h`; its help as it writes it. `false`: it failed.
///
/// # Errors
/// It cannot be started.
pub fn help_of(executable: &Path, module: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let done = process::command_of_user(executable, &["-B", "-m", module, "-h"]).output()?;
    Ok((done.status.success(), done.stdout))
}

#[cfg(test)]
mod tests {
    use super::super::memo::Probes;
    use super::*;

    #[test]
    fn words_are_the_interpreters_own() {
        let python = Interpreter::find("python3", true, &Probes::open(None)).unwrap();
        let stop = AtomicBool::new(false);
        let words = Words::new(&python, &stop);
        assert_eq!(words.repr(b"it's").unwrap(), "\"it's\"");
        assert_eq!(words.repr(b"a\xffb").unwrap(), "'a\\udcffb'");
        assert!(words.pattern(b"(").unwrap().unwrap().contains("error"));
        assert_eq!(words.pattern(b"b$").unwrap(), None);
        assert_eq!(words.found(&[b"ab", b"", b"ba"]).unwrap(), [true, false, false]);
        assert_eq!(words.error(0, b"x.py", true, b"x = 1\n").unwrap(), None);
        let told = words.error(0, b"x.py", true, b"def f():\n    return 1\nx = (\n").unwrap().unwrap();
        assert!(told.contains("File \"x.py\", line 3") || told.contains("line 4"), "{told}");
        let told = words.error(3, b"x.py", true, b"x = 1\n").unwrap().unwrap();
        assert_eq!(told, "Sorry: ValueError: compile(): invalid optimize value");
        assert!(search_path(&python, &stop).unwrap().len() > 2);
    }
}
