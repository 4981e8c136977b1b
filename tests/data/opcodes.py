"""Prints what the interpreter that runs it says of its own instructions: a section of src/python/opcodes.txt.

Runs on 2.7 and every 3.x. Nothing is written down here that the interpreter can be asked: what an operand means is read off `dis`, which
is given one instruction after the other with an operand that shows.
"""
from __future__ import print_function
import dis
import opcode
import struct
import sys
import types

VERSION = sys.version_info[:2]
PYPY = '__pypy__' in sys.builtin_module_names
WIDE = VERSION < (3, 6)  # one byte, or three with an operand
try:
    from importlib.util import MAGIC_NUMBER
except ImportError:
    from imp import get_magic
    MAGIC_NUMBER = get_magic()

# Beside those whose names begin with INSTRUMENTED: made while running, or only there to fill a table.
NEVER_ON_DISK = ('CACHE', 'RESERVED', 'INTERPRETER_EXIT', 'ENTER_EXECUTOR', 'TRACE_RECORD')

# What the pages of `dis` say and its lists do not: the operand is below this.
DOCUMENTED = {'IS_OP': 2, 'CONTAINS_OP': 2, 'BUILD_SLICE': 4, 'FORMAT_VALUE': 8, 'CONVERT_VALUE': 4,
              'RAISE_VARARGS': 4 if VERSION < (3,) else 3}


def on_disk():
    for name, number in sorted(opcode.opmap.items(), key=lambda item: item[1]):
        if number < 256 and not name.startswith('INSTRUMENTED') and name not in NEVER_ON_DISK:
            yield number, name


def caches(number, name):
    entries = getattr(opcode, '_inline_cache_entries', None)
    if not entries or PYPY:
        return 0
    return entries[number] if isinstance(entries, list) else entries.get(name, 0)


def seen_by_dis(number, operand):
    """The instruction behind sixteen others, as `dis` reads it; None where it has no such view."""
    source = 'def outer(%s):\n  def f():\n    return %s\n' % (
        ', '.join('a%d' % n for n in range(8)), ', '.join('a%d, b%d' % (n, n) for n in range(8)))
    code = compile(source, 'f', 'exec')
    for _ in range(2):
        code = [const for const in code.co_consts if isinstance(const, types.CodeType)][0]
    if not hasattr(code, 'replace'):
        return None
    nop = opcode.opmap['NOP']
    data = bytes([nop, 0] * 16 + [number, operand] + [0, 0] * caches(number, opcode.opname[number]) + [nop, 0] * 64)
    try:
        code = code.replace(co_code=data, co_consts=tuple(range(100, 132)), co_names=tuple('n%d' % n for n in range(32)))
        return [one for one in dis.get_instructions(code) if one.offset == 32][0]
    except (IndexError, ValueError):
        return None


def shift(number):
    """How many low bits of the operand are flags, before the index of a name."""
    seen = seen_by_dis(number, 4)
    if seen is None:
        return 0
    return {'n4': 0, 'n2': 1, 'n1': 2}[seen.argval]


def jump(number, name):
    after = 34 + 2 * caches(number, name)
    seen = seen_by_dis(number, 8)
    if seen is None:
        return 'forward' if number in opcode.hasjrel else 'to'
    # In units of one byte or of one instruction: `units` says which.
    return {after + 8: 'forward', after + 16: 'forward', after - 16: 'backward', 8: 'to', 16: 'to'}[seen.argval]


def units():
    seen = seen_by_dis(opcode.opmap['JUMP_FORWARD'], 8)
    return 'bytes' if seen is None or seen.argval == 42 else 'instructions'


def compared():
    """COMPARE_OP keeps its operator above flags since 3.12."""
    flags = 0 if VERSION < (3, 12) or PYPY else 4 if VERSION < (3, 13) else 5
    return len(opcode.cmp_op) << flags


def operand(number, name):
    if number < opcode.HAVE_ARGUMENT if VERSION < (3, 13) else number not in opcode.hasarg:
        # 3.10 and 3.11 leave operands of what an instruction was before it was made a simpler one.
        return 'none' if WIDE else 'any' if PYPY or VERSION in ((3, 10), (3, 11)) else 'zero'
    if number in opcode.hasconst:
        return 'const'
    if number in opcode.hasname:
        return 'name' + ('', '>>1', '>>2')[shift(number)]
    if number in opcode.hasjrel or number in opcode.hasjabs:
        return jump(number, name)
    if name.count('_FAST') == 2 or name == 'LOAD_FAST_BORROW_LOAD_FAST_BORROW':
        return 'locals'
    if number in opcode.haslocal and number not in opcode.hasfree and name != 'LOAD_DEREF':
        return 'local'
    if number in opcode.hasfree or name == 'LOAD_DEREF':
        return 'free'
    limits = dict(DOCUMENTED)
    lists = {'BINARY_OP': '_nb_ops', 'CALL_INTRINSIC_1': '_intrinsic_1_descs', 'CALL_INTRINSIC_2': '_intrinsic_2_descs',
             'LOAD_COMMON_CONSTANT': '_common_constants', 'LOAD_SPECIAL': '_special_method_names'}
    limits.update((known, len(getattr(opcode, of))) for known, of in lists.items() if hasattr(opcode, of))
    limits['COMPARE_OP'] = compared()
    return '<%d' % limits[name] if name in limits else 'any'


def lines():
    """How places in the source are kept: this nobody can be asked."""
    if PYPY:
        return 'lnotab' if VERSION < (3, 10) else 'own'
    return 'lnotab' if VERSION < (3, 10) else 'deltas' if VERSION < (3, 11) else 'locations'


def main():
    tag = getattr(getattr(sys, 'implementation', None), 'cache_tag', None) or 'cpython-%d%d' % VERSION
    width = 'bytes' if WIDE else 'words'
    number = struct.unpack('<H', MAGIC_NUMBER[:2])[0]
    print('magic %d %s width %s jumps %s lines %s extended %d' % (number, tag, width, units(), lines(), opcode.EXTENDED_ARG))
    for number, name in on_disk():
        count = caches(number, name)
        print('%d %s %s%s' % (number, name, operand(number, name), ' caches %d' % count if count else ''))


main()
