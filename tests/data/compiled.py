# -*- coding: utf-8 -*-
"""Compiles the interpreter's own library and odd sources, and tells what the interpreter itself reads back of each body.

usage: compiled.py STRIDE       every STRIDE-th file, levels 0 and 2 in turn; with 1 every file at both levels
For each body on the output: the name, the body, and the fields of its code objects, each behind its length (u32).
"""
import marshal
import os
import resource
import struct
import sys
import warnings
import zlib

TWO = sys.version_info[0] == 2
OUT = getattr(sys.stdout, 'buffer', sys.stdout)
SKIPPED = ('site-packages', 'dist-packages', '__pycache__')


def odd():
    """Sources that reach what ordinary ones seldom do, by name."""
    many = range(600)
    yield 'long', 'def f(a):\n while a:\n  if a > 1:\n   try:\n' + ''.join(
        '    a = g(a, %d.5, "text %d")\n' % (n, n) for n in range(18000)) + '   except E: pass\n  else:\n   a = 0\n return a\n'
    yield 'names', ''.join('name_%d = other_%d.attribute_%d\n' % (n, n, n) for n in range(25000))
    yield 'locals', 'def f(x):\n' + ''.join(' v%d = x\n v%d = v%d\n' % (n, n, n // 2) for n in many) + ' return [%s]\n' % ', '.join(
        'v%d' % n for n in many)
    yield 'cells', 'def f():\n' + ''.join(' c%d = %d\n' % (n, n) for n in range(300)) + ' def g():\n  return [%s]\n return g\n' % ', '.join(
        'c%d' % n for n in range(300))
    yield 'places', 'x = 1\n' + '\n' * 70000 + 'y = f(%s a,\n%s b)\n' % (' ' * 3000, ' ' * 200) + '\n' * 300 + 'z = 3\n'
    deep = ''
    for n in range(15):
        deep += ' ' * n + ('try:\n', 'with a as b:\n', 'for i in a:\n')[n % 3]
    yield 'nested', deep + ' ' * 15 + 'return_ = yields\n' + ''.join(
        ' ' * n + 'finally: f(%d)\n' % n for n in range(14, -1, -1) if n % 3 == 0)
    yield 'classes', 'class A(object):\n' + ''.join(
        ' @d\n def m%d(self, a, b=1, *c, **k):\n  "doc"\n  return lambda: (self, a, [x for x in b if x])\n' % n for n in range(300))
    yield 'generators', 'def f(a):\n x = yield a\n for i in a:\n  try: yield i\n  finally: x = (yield)\n\ndef g(): return (i for i in f(1))\n'
    yield 'strings', u'a = u"\\ud800\\udc00 \\ud800", b"\\xff", "%s"\n' % ('x' * 300) if TWO else 'é = "\\ud800", b"\\xff", "%s", -0.0, 1e400\n' % ('é' * 300)
    yield 'numbers', 'a = (1, -1, 2 ** 31 - 1, -2147483648, 4294967296, 10 ** 50, -10 ** 18, 1 << 62, 1j, 2.5, {1, 2}, 5 in {1, 2, 3})\n'
    yield 'await', 'async def f(a):\n async with a as b, c:\n  async for d in b:\n   await d\n return [x async for x in a if await x]\n'
    yield 'async', 'async def f(a):\n try:\n  async for d in g(): yield d\n finally: await a\n'
    yield 'positional', 'def f(a, /, b, *, c): return (d := a)\n'
    yield 'formats', 'def f(a): return f"{a!r:>{10}} {a} {a:x}", f"{a=}"\n'
    yield 'match', 'def f(a):\n match a:\n  case [1, *r] | (2, r): return r\n  case {"k": v, **z} if v: return z\n  case P(x=1, y=[]): pass\n  case _: raise\n'
    yield 'groups', 'def f():\n try: g()\n except* (A, B) as e: h(e)\n except* C: raise\n finally: pass\n'
    yield 'types', 'type A[T: int, *Ts, **P] = list[T]\nclass B[T]:\n def m[U](self, a: U) -> T: return super().m\n'
    yield 'defaults', 'def f[T = int](a: T): pass\n'
    yield 'templates', 'def f(a): return t"{a!r:>{b}} and {a + 1}"\n'
    yield 'deferred', 'class A:\n x: int = 1\n y: B\n def m(self, a: C) -> D: return __class__\n'


def sources(stride):
    files = []
    for top, dirs, names in os.walk(os.path.dirname(os.__file__)):
        dirs[:] = sorted(one for one in dirs if one not in SKIPPED)
        files += [os.path.join(top, name) for name in sorted(names) if name.endswith('.py')]
    files = [one for one in files if os.path.isfile(one) and os.path.getsize(one) < 1000000][::stride]
    for index, path in enumerate(files):
        with open(path, 'rb') as file:
            text = file.read()
        for level in [0] if TWO else [0, 2] if stride == 1 else [index % 2 * 2]:
            yield path, text, level
    for name, text in odd():
        yield 'odd ' + name, text, 0


def crc(data):
    return '%x' % (zlib.crc32(data) & 0xFFFFFFFF)


def text(value):
    return value if isinstance(value, bytes) else value.encode('utf-8') if TWO else value.encode('utf-8', 'surrogatepass')


def names(value):
    return '%d:%s' % (len(value), crc(b'\0'.join(map(text, value))))


def constant(value):
    if value is None or value is True or value is False or value is Ellipsis:
        return {None: 'N', True: 'T', False: 'F', Ellipsis: '.'}[value]
    kind = type(value).__name__
    if kind in ('int', 'long'):
        digits, rest = b'', abs(value)
        if rest < 1 << 60:
            return 'i%d' % value
        while rest:
            digits += struct.pack('<H', rest & 0x7FFF)
            rest >>= 15
        return ('-' if value < 0 else '+') + crc(digits)
    if kind == 'float':
        return 'f%x' % struct.unpack('<Q', struct.pack('<d', value))
    if kind == 'complex':
        return 'x%x,%x' % struct.unpack('<QQ', struct.pack('<dd', value.real, value.imag))
    if isinstance(value, bytes):
        return 'b' + crc(value)
    if kind in ('str', 'unicode'):
        return 'u' + crc(text(value))
    if kind == 'tuple':
        return '(%s)' % ' '.join(map(constant, value))
    # Sets have no order.
    return {'frozenset': '>%d' % (len(value) if kind == 'frozenset' else 0), 'code': 'c', 'slice': ':'}[kind]


def fields(code):
    get = lambda name, default: getattr(code, 'co_' + name, default)
    numbers = [code.co_argcount, get('posonlyargcount', 0), get('kwonlyargcount', 0), code.co_nlocals, code.co_stacksize, code.co_flags,
               code.co_firstlineno]
    # 3.11 made names of locals, cells and free variables out of one list; up to 3.9 the line table has another name.
    lines = code.co_linetable if hasattr(code, 'co_linetable') else code.co_lnotab
    texts = [crc(code.co_code), names(code.co_names), names(code.co_varnames), names(code.co_cellvars), names(code.co_freevars),
             crc(text(code.co_filename)), crc(text(get('qualname', code.co_name))), crc(text(code.co_name)), crc(lines),
             crc(get('exceptiontable', b''))]
    told = [' '.join([str(one) for one in numbers] + texts + [constant(one) for one in code.co_consts])]
    for one in code.co_consts:
        if type(one) is type(code):
            told += fields(one)
    return told


def main():
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    warnings.simplefilter('ignore')
    for path, source, level in sources(int(sys.argv[1])):
        try:
            code = compile(source, path, 'exec', 0, True) if TWO else compile(source, path, 'exec', dont_inherit=True, optimize=level)
            body = marshal.dumps(code)
        except (SyntaxError, ValueError):
            continue  # what is bad on purpose, and what came with later versions
        for part in (text(path), body, '\n'.join(fields(marshal.loads(body))).encode('ascii')):
            OUT.write(struct.pack('<I', len(part)) + part)


main()
