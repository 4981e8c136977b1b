import sys
sys.path[:] = [p for p in sys.path if p[:1] == '/']

# What a version, a build or a flag may do to code in its own way: positions, folded constants, kinds of text, division, handlers. Nothing
# that the level changes.
SAMPLE = u'''
import os.path as p, sys
def f(a, *b, **c):
    try:
        return [a / 2 + 1 for a in b
                if a.x(1)[2:3] not in ("p", "q")]
    except (ValueError, KeyError):
        x = 1, -2, 2 ** 70, 0.1, 1e400, "a" "b", b"c", 3 // 2, 5 % 3
        while x and not c: x = x, (lambda: (x, c)), "%s" % a
class C(object):
    def m(self): yield "".join(self.n) if self else None
'''


# One number for how it compiles: a wrapper may add options (-X no_debug_ranges, -U), and a distribution patches, and the version's text is
# the same all the same. By hand, since a probe imports as little as it can.
def habits():
    todo, seen = [compile(SAMPLE, 'x', 'exec', 0, True)], []
    while todo:
        code = todo.pop()
        table = getattr(code, 'co_linetable', None) or code.co_lnotab
        seen.append(repr((code.co_code, table, getattr(code, 'co_exceptiontable', ''), code.co_flags, code.co_names, code.co_varnames)))
        for const in code.co_consts:
            if hasattr(const, 'co_code'):
                todo.append(const)
            else:
                seen.append(repr(const))
    number = 0xcbf29ce484222325
    for byte in bytearray(''.join(seen).encode('utf-8')):
        number = (number ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return '%x' % number


# Two interpreters with one magic number may compile one source to different code: by a mended compiler, a distribution's patch, a narrow
# `unicode`, another word size, another order in sets, a limit for the digits of numbers. The text of the version names the build; the rest
# is what a build, an option or a wrapper may choose.
def build():
    digits = getattr(sys, 'get_int_max_str_digits', int)
    return '\n'.join([sys.version, str(sys.maxsize), str(sys.maxunicode), str(getattr(sys, 'hash_info', '')),
                      getattr(sys, 'float_repr_style', ''), str(sys.flags.hash_randomization), str(digits()), habits()])


def variant():
    return ('t' if 't' in getattr(sys, 'abiflags', '') else '') + ('d' if hasattr(sys, 'gettotalrefcount') else '')


