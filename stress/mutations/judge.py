# What an interpreter makes of damaged bodies. Runs on CPython 2.7, 3.6 and later, and on PyPy. Frames are a length (u32) and so many bytes.
# First it is sent paths of sources, until an empty one, and answers each with the body that it compiles to, or nothing. From then on a frame
# is a number (u32) of one of these and a damaged copy of it. Two bytes answer: "r" and a space (refused), or "l" and then, when it has
# looked, "s" (the same to its last field) or "d" (different). Where it dies it says less.
import marshal
import os
import struct
import sys

PY2 = sys.version_info[0] == 2
IN, OUT = os.dup(0), os.dup(1)


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
    while len(view):
        view = view[os.write(OUT, view):]


def frame():
    return read(struct.unpack('<I', read(4))[0])


FIELDS = ('co_argcount co_posonlyargcount co_kwonlyargcount co_nlocals co_stacksize co_flags co_code co_names co_varnames co_freevars '
          'co_cellvars co_filename co_name co_qualname co_firstlineno co_linetable co_exceptiontable').split()
if sys.version_info < (3, 10):
    FIELDS[FIELDS.index('co_linetable')] = 'co_lnotab'
CODE = type(compile('', '', 'exec'))


def plain(value):
    """A copy that is equal only where all is, types included."""
    kind = type(value)
    if kind is CODE:
        return ('code', [plain(getattr(value, field, None)) for field in FIELDS], plain(value.co_consts))
    if kind in (tuple, list):
        return (kind.__name__, [plain(item) for item in value])
    if kind in (set, frozenset):
        return (kind.__name__, sorted(repr(plain(item)) for item in value))
    if kind is dict:
        return ('dict', [(plain(key), plain(item)) for key, item in value.items()])
    if kind is float:
        return ('float', struct.pack('<d', value))
    if kind is complex:
        return ('complex', struct.pack('<dd', value.real, value.imag))
    if kind is slice:
        return ('slice', [plain(value.start), plain(value.stop), plain(value.step)])
    return (kind.__name__, value)


def main():
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass
    sound = []
    while True:
        path = frame()
        if not path:
            break
        try:
            with open(path, 'rb') as source:
                text = source.read()
            if PY2:
                code = compile(text, path, 'exec', 0, True)
            else:
                code = compile(text, os.fsdecode(path), 'exec', dont_inherit=True)
            body = marshal.dumps(code)
            sound.append(plain(marshal.loads(body)))
        except Exception:
            body = b''
            sound.append(None)
        write(struct.pack('<I', len(body)) + body)
    while True:
        request = frame()
        number, = struct.unpack('<I', request[:4])
        try:
            code = marshal.loads(request[4:])
        # Anything at all: also what no documentation names.
        except BaseException:
            write(b'r ')
            continue
        if type(code) is not CODE:
            # Import says so, and refuses.
            write(b'r ')
            continue
        write(b'l')
        try:
            same = plain(code) == sound[number]
        except BaseException:
            same = False
        write(b's' if same else b'd')


main()
