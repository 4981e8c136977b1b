import os

pypy = '__pypy__' in sys.builtin_module_names
implementation = getattr(sys, 'implementation', None)
if sys.version_info[0] == 2:
    import imp
    magic, tag = imp.get_magic(), 'cpython-27'
else:
    tag = getattr(implementation, 'cache_tag', None) or ''
    try:
        from _frozen_importlib_external import MAGIC_NUMBER as magic
    except ImportError:
        try:
            from importlib.util import MAGIC_NUMBER as magic
        except ImportError:
            magic = b''  # too old, which the version says better

try:
    executable = os.readlink('/proc/self/exe')
except (AttributeError, OSError):
    executable = ''

library = ''
try:
    with open('/proc/self/maps', 'rb') as maps:
        for line in maps:
            at = line.find(b'/')
            name = line[at:].strip() if at >= 0 else b''
            if os.path.basename(name).startswith((b'libpython', b'libpypy')):
                library = name
                break
except (IOError, OSError):
    pass


def hexed(value):
    if not isinstance(value, bytes):
        value = os.fsencode(value)
    return '"' + ''.join('%02x' % b for b in bytearray(value)) + '"'


print('{"tag": %s, "magic": %s, "implementation": %s, "version": [%d, %d, %d], "variant": "%s", "stdlib": %s, "library": %s, "executable": %s, "wide": %s, "build": %s}' % (
    hexed(tag), hexed(magic), hexed(implementation.name if implementation else 'pypy' if pypy else 'cpython'),
    sys.version_info[0], sys.version_info[1], sys.version_info[2],
    variant(),
    hexed(os.path.dirname(os.path.abspath(os.__file__))), hexed(library), hexed(executable), 'true' if sys.maxsize > 2 ** 32 else 'false',
    hexed(build())))
