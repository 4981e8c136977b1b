//! What code an artifact holds, as the interpreter itself sees it: so that one that went through a store can be compared with one that never
//! saw a store.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::Python;
use crate::whole::{Digest, digest};

/// All that running the code depends on, but for the file names in it; and these.
const READS: &str = "
import sys, marshal, struct, hashlib, types
read = sys.stdin.buffer.read
def walk(code, names):
    names.add(code.co_filename)
    def one(const):
        return walk(const, names) if isinstance(const, types.CodeType) else (type(const).__name__, repr(const))
    lines = getattr(code, 'co_linetable', None) or code.co_lnotab
    return (code.co_name, code.co_argcount, code.co_flags, code.co_stacksize, code.co_code, code.co_names, code.co_varnames,
            code.co_freevars, code.co_cellvars, code.co_firstlineno, lines, getattr(code, 'co_exceptiontable', b''),
            tuple(one(const) for const in code.co_consts))
while True:
    size = read(8)
    if len(size) < 8:
        break
    try:
        code = marshal.loads(read(struct.unpack('<Q', size)[0]))
        names = set()
        text = hashlib.sha256(repr(walk(code, names)).encode('utf-8', 'backslashreplace')).hexdigest()
        said = 'code ' + text + ' ' + ' '.join(sorted(name.encode('utf-8', 'surrogateescape').hex() for name in names))
    except Exception as e:
        said = 'no ' + repr(e).encode('ascii', 'backslashreplace').decode('ascii')
    sys.stdout.write(said + '\\n')
    sys.stdout.flush()
";

/// What is in an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Code {
    /// Equal for equal code, whatever its file names are; and these, in hexadecimals.
    Is(String, Vec<String>),
    /// What the interpreter says of it.
    Not(String),
}

/// One interpreter that is asked for many artifacts.
#[derive(Debug)]
pub(crate) struct Judge {
    child: Child,
    header: usize,
    into: ChildStdin,
    from: BufReader<ChildStdout>,
    seen: HashMap<Digest, Code>,
}

impl Judge {
    pub(crate) fn start(python: &Python) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -v 2000000; exec \"$@\"", "sh"]).arg(&python.path);
        command.args(["-E", "-s", "-S", "-c", READS]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let into = child.stdin.take().context("no pipe")?;
        let from = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, header: python.header, into, from, seen: HashMap::new() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn code(&mut self, artifact: &[u8]) -> Result<Code> {
        let name = digest(artifact);
        if let Some(known) = self.seen.get(&name) {
            return Ok(known.clone());
        }
        let code = artifact.get(self.header..).unwrap_or_default();
        self.into.write_all(&u64::try_from(code.len())?.to_le_bytes())?;
        self.into.write_all(code)?;
        self.into.flush()?;
        let mut answer = String::new();
        self.from.read_line(&mut answer)?;
        let mut words = answer.split_whitespace();
        let said = match (words.next(), words.next()) {
            (Some("code"), Some(text)) => Code::Is(text.to_owned(), words.map(str::to_owned).collect()),
            (Some("no"), _) => Code::Not(answer.trim().to_owned()),
            _ => bail!("the judging interpreter says {answer:?}"),
        };
        self.seen.insert(name, said.clone());
        Ok(said)
    }
}

impl Drop for Judge {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            println!("the judging interpreter did not end: {error}");
        }
    }
}
