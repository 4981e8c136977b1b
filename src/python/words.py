# The interpreter's own words: how it shows a name, what a pattern finds, how it tells an error. One line a question, one line an answer,
# fields in hex. Runs on CPython 3.6 and later, and on PyPy.
import sys
sys.path[:] = [p for p in sys.path if p[:1] == '/']
import builtins, io, linecache, os, py_compile, re, resource, tokenize, traceback, warnings

IN = os.fdopen(os.dup(0), 'rb')
OUT = os.fdopen(os.dup(1), 'wb')
null = os.open(os.devnull, os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
os.close(null)
warnings.simplefilter('ignore')


def raw(text):
    return text.encode('utf-8', 'backslashreplace')


# compile() and those who tell of errors open the file that is named, which may lead anywhere. They get the bytes that were compiled, where
# the name is that of the source, and nothing else.
def shut(is_shut):
    limit = hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if is_shut:
        limit = os.dup(1)
        os.close(limit)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def line_of(source, number):
    lines = source.splitlines(True)
    if not 0 < number <= len(lines):
        return None
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(source).readline)[0] if sys.version_info >= (3, 12) else 'utf-8'
    except Exception:
        encoding = 'utf-8'
    if sys.version_info >= (3, 9):
        return lines[number - 1].decode(encoding, 'replace')
    try:
        return lines[number - 1].decode(encoding).lstrip(' \t\f')
    except UnicodeError:
        return None


def error(level, name, is_own, source):
    # A cookie's codec is loaded while that is possible.
    try:
        tokenize.detect_encoding(io.BytesIO(source).readline)
    except Exception:
        pass

    def opened(path, *args, **kwargs):
        if is_own:
            return io.TextIOWrapper(io.BytesIO(source), encoding='utf-8')
        raise FileNotFoundError(path)

    linecache.cache[name] = (len(source), None, source.decode('utf-8', 'replace').splitlines(True) if is_own else [], name)
    shut(True)
    try:
        compile(source, name, 'exec', dont_inherit=True, optimize=level)
        return b''
    except Exception as cause:
        problem = cause
    finally:
        shut(False)
    if isinstance(problem, SyntaxError) and problem.text is None and is_own and problem.lineno:
        problem.text = line_of(source, problem.lineno)
    traceback.open = opened
    return raw(py_compile.PyCompileError(problem.__class__, problem, name).msg)


pattern = None


def answer(kind, fields):
    global pattern
    if kind == b'R':
        return [raw(repr(os.fsdecode(field))) for field in fields]
    if kind == b'P':
        try:
            pattern = re.compile(os.fsdecode(fields[0]))
        except Exception:
            return [raw(traceback.format_exc().strip().splitlines()[-1])]
        return []
    if kind == b'S':
        return [b'1' if pattern.search(os.fsdecode(field)) else b'0' for field in fields]
    return [error(int(fields[0]), os.fsdecode(fields[1]), fields[2] == b'1', fields[3])]


while True:
    line = IN.readline()
    if not line.endswith(b'\n'):
        os._exit(0)
    kind, *fields = line.decode('ascii').rstrip('\n').split(' ')
    said = answer(kind.encode('ascii'), [bytes.fromhex(field[1:]) for field in fields])
    OUT.write(' '.join(['x' + field.hex() for field in said]).encode('ascii') + b'\n')
    OUT.flush()
