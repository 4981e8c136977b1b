//! Interpreters that misbehave.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytekeep::python::interpreter::Interpreter;

/// By which it says what it is.
const BUILD: &str = include_str!("../../src/python/build.py");

/// What every fake speaks: the protocol, honestly, up to the point where it does not.
const PROTOCOL: &str = r"
import binascii, os, struct, sys, time, signal
def frame(ident, body, magic=b'\x8bBKf', flip=0):
    head = struct.pack('<II', len(body), ident)
    return magic + head + struct.pack('<I', (binascii.crc32(body, binascii.crc32(head)) & 0xffffffff) ^ flip) + body
def fields(*parts):
    return b''.join(struct.pack('<I', len(p)) + p for p in parts)
def write(data):
    while data:
        data = data[os.write(1, data):]
def hello():
    free = os.dup(0)
    os.close(free)
    from importlib.util import MAGIC_NUMBER as magic
    identity = magic + '\0'.join([sys.implementation.cache_tag, variant(), build()]).encode()
    write(frame(0, b'H' + fields(b'3', str(os.getpid()).encode(), str(free).encode(), identity)))
def read(size):
    got = b''
    while len(got) < size:
        part = os.read(0, size - len(got))
        if not part:
            os._exit(0)
        got += part
    return got
def request():
    head = read(16)
    length, ident, crc = struct.unpack('<III', head[4:])
    return ident, read(length)
def good(ident, body):
    write(frame(ident, b'C' + fields(b'code of ' + body[-20:], b'0')))
";

/// An interpreter like `model` that runs `behaviour`, called with `ident` and `body` for each request (a request whose source holds `BAD`
/// is `bad`), after `start` was run.
pub(crate) fn fake(dir: &Path, model: &Interpreter, start: &str, behaviour: &str) -> Interpreter {
    let program = format!(
        "#!{}\n{BUILD}\n{PROTOCOL}\n{start}\nhello()\nwhile True:\n    ident, body = request()\n    bad = b'BAD' in body\n    {}\n",
        model.executable.display(),
        behaviour.replace('\n', "\n    ")
    );
    script(dir, model, &program)
}

/// An interpreter that is this script.
pub(crate) fn script(dir: &Path, model: &Interpreter, text: &str) -> Interpreter {
    let path = dir.join("python");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Interpreter { executable: path.clone(), real: path, ..model.clone() }
}
