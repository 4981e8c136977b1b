# The worker: compiles what it is sent, and nothing else. Runs on CPython 2.7, 3.6 and later, and on PyPy.
import gc, marshal, os, struct, time, warnings
try:
    from binascii import crc32
except ImportError:
    from zlib import crc32

PY2 = sys.version_info[0] == 2
clock = getattr(time, 'perf_counter', time.time)
MAGIC = b'\x8bBKf'

# What a stray print writes must not tear a frame, so the frames' pipes leave 0 and 1.
IN = os.dup(0)
OUT = os.dup(1)
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 0)
os.dup2(null, 1)
os.close(null)


# The obvious ways to read (a buffered file, pickle from a pipe, readinto, one read of the wanted size) are not used, and must not come
# back: a pipe gives short reads, a layer that takes one for the whole answer hands the rest of it to the next request, and from there on
# everybody gets the answer to somebody else's question. So this reads until a frame is whole, and checks length, id and checksum.
def read(size):
    parts = []
    while size:
        part = os.read(IN, min(size, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        size -= len(part)
    return b''.join(parts)


def write(data):
    view = memoryview(data)
    done = 0
    while done < len(data):
        done += os.write(OUT, view[done:done + (1 << 20)])


def raw(text):
    if isinstance(text, bytes):
        return text
    if PY2:
        return text.encode('utf-8', 'replace')
    return text.encode('utf-8', 'backslashreplace')


def words(value):
    # Not str() alone: 2.7 would refuse a text that is not ASCII.
    try:
        return raw(value if isinstance(value, (bytes, type(u''))) else str(value))
    except Exception:
        return b'?'


def number(value):
    return b'%d' % value if isinstance(value, int) and not isinstance(value, bool) else b''


def send(ident, kind, fields):
    body = kind + b''.join([struct.pack('<I', len(f)) + f for f in fields])
    head = struct.pack('<II', len(body), ident)
    write(MAGIC + head + struct.pack('<I', crc32(body, crc32(head)) & 0xffffffff) + body)


def receive():
    head = read(16)
    length, ident, wanted = struct.unpack('<III', head[4:])
    body = read(length)
    if head[:4] != MAGIC or crc32(body, crc32(head[4:12])) & 0xffffffff != wanted:
        os._exit(3)
    fields = []
    at = 1
    while at < length:
        size, = struct.unpack('<I', body[at:at + 4])
        at += 4
        fields.append(body[at:at + size])
        at += size
    return ident, body[:1], fields


collected = []
kept = []


# Neither prints nor opens the file that it names.
def collect(message, category, filename, lineno, file=None, line=None):
    collected.append((raw(category.__name__), words(message), number(lineno)))


warnings.showwarning = collect
warnings.simplefilter('always')


def answer(level, filename, source):
    """Kind and fields of the answer."""
    del collected[:]
    began = clock()
    try:
        if PY2:
            code = compile(source, filename, 'exec', 0, True)
        else:
            code = compile(source, os.fsdecode(filename), 'exec', dont_inherit=True, optimize=level)
        code = marshal.dumps(code)
    except SyntaxError as error:
        text = error.text
        # How the offset counts depends on who raised the error; the parent tells it from this.
        origin = b'-' if text is None else b'n' if text[-1:] in (b'\n', u'\n') else b't'
        return b'S', [raw(error.__class__.__name__), words(error.msg), number(error.lineno), number(error.offset), origin,
                      number(getattr(error, 'end_lineno', None)), number(getattr(error, 'end_offset', None))]
    except Exception as error:
        return b'E', [raw(error.__class__.__name__), words(error)]
    fields = [code, b'%d' % max(0, int((clock() - began) * 1000000))]
    for warning in collected:
        fields.extend(warning)
    return b'C', fields


# Whatever compile() makes lazily is made now, always the same: later it could open nothing, and what an earlier file left behind
# (names kept by the machinery of errors, a module of names, "lambda" before 3.11) would change a later file's bytes.
def prepare():
    for name in ('utf-8', 'latin-1', 'ascii') + (('utf-32-be', 'utf-32-le', 'utf-16-be', 'utf-16-le') if PY2 else ()):
        b''.decode(name)
    # One object serves all strings of one such character; whether it is interned shows in the marshalled bytes. Kept, since PyPy
    # forgets what nobody holds.
    intern_text = intern if PY2 else sys.intern
    kept.extend([intern_text(chr(code)) for code in range(256)] + [intern_text('')])
    try:
        import unicodedata
    except ImportError:
        pass
    for text in (b'x = 1\n', b'x = "\\d"; x is 1; assert (1, 2)\n', b'x = u"\\N{DASH}"\n', b'# coding: utf-8\n\xc3\xa9 = u"\\N{EM DASH}"\n',
                 b'lambda: [a for a in {b for b in {c: 0 for c in (d for d in ())}}]\n',
                 b'x = $\n', b'x = )\n', b'return\n', b'f() = 1\n', b'if 1:\nx\n', b'if 1:\n  x\n y\n', b'if 1:\n\tx\n        y\n',
                 b'x = "abc\n', b'x = u"\\x"\n', b'x = u"\\N{no such name}"\n', b'x = "\xff"\n', b'# coding: ascii\nx = "\xff"\n',
                 b'# coding: latin-1\nx = "\xff"\n', b'# coding: utf-8\nx = "\xff"\n', b'def f():\n x = 1\n global x\n', b'(', b'x = 1\0\n',
                 b'def f(a, a): pass\n', b'break\n', b'print 1\n', b'x = f"{"\n', b'x = 0777\n', b'\xef\xbb\xbf# coding: latin-1\n'):
        answer(0, b'warm up', text)
    del collected[:]


# As in the probe: the executable may be another one by now than that which was asked.
def identity():
    if PY2:
        import imp
        magic, tag = imp.get_magic(), 'cpython-27'
    else:
        tag = sys.implementation.cache_tag or ''
        try:
            from _frozen_importlib_external import MAGIC_NUMBER as magic
        except ImportError:
            from importlib.util import MAGIC_NUMBER as magic
    return magic + b'\0'.join([raw(tag), raw(variant()), raw(build())])


def main():
    # What compile() makes is freed by counting references; looking for cycles costs a part of its time and finds none. PyPy counts none.
    if '__pypy__' not in sys.builtin_module_names:
        gc.disable()
    # A cookie's codec, before the limit: only the standard library is on the path.
    if len(sys.argv) > 1:
        import codecs
        try:
            codecs.lookup(sys.argv[1])
            b''.decode(sys.argv[1])
        except Exception:
            pass
    prepare()
    free = os.dup(IN)
    os.close(free)
    send(0, b'H', [b'3', b'%d' % os.getpid(), b'%d' % free, identity()])
    while True:
        ident, kind, fields = receive()
        if kind == b'L':
            # Where the parent cannot limit this process from outside.
            import resource
            limit = int(fields[0])
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            send(ident, b'L', [])
        else:
            kind, fields = answer(ord(fields[0]), fields[1], fields[2])
            send(ident, kind, fields)


main()
