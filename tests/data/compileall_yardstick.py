"""Runs CPython's own tests of compileall and py_compile: with compileall as it is ("theirs"), or with all that goes through it redirected to
the command of bytekeep ("ours"). Run by the interpreter that is tested; prints a line per test: the outcome, and its name.

Usage: compileall_yardstick.py theirs|ours BYTEKEEP MODULE...

Redirected: `python -m compileall` in a subprocess; and the functions compile_dir, compile_file, compile_path and py_compile.compile, as far as
the command line can say what they are asked. What it cannot (a mock in place of a part of compileall, an object that is no path, an artifact at
an arbitrary place) is left to CPython in both runs; the last line counts both.
"""
import os
import subprocess
import sys
import unittest
from unittest import mock

WHOSE, BYTEKEEP, MODULES = sys.argv[1], sys.argv[2], sys.argv[3:]
sys.argv[1:] = []
# The tests look at their own directory; and the C locale would be the interpreter's to mend, not ours.
import compileall
import concurrent.futures
import importlib.util
import py_compile

RealPopen = subprocess.Popen
real = {name: getattr(compileall, name) for name in ('compile_dir', 'compile_file', 'compile_path')}
real_compile = py_compile.compile
counts = {'command line': 0, 'functions': 0, 'left': 0}
NEW = sys.version_info >= (3, 9)


def ours_env(env):
    env = dict(os.environ if env is None else env)
    env['BYTEKEEP_PYTHON'] = sys.executable
    return env


class Popen(RealPopen):
    def __init__(self, args, *more, **kw):
        if isinstance(args, (list, tuple)) and args and args[0] == sys.executable and 'compileall' in args:
            at = args.index('compileall')
            if args[at - 1].endswith('m'):
                env = ours_env(kw.get('env'))
                flags = args[1:at]
                if any(flag in ('-I', '-E') for flag in flags):
                    env = {k: v for k, v in env.items() if not k.startswith('PYTHON')}
                level = max([0] + [flag.count('O') for flag in flags if flag.startswith('-O')])
                if level:
                    env['PYTHONOPTIMIZE'] = str(level)
                kw['env'] = env
                counts['command line'] += 1
                args = [BYTEKEEP, 'compileall'] + list(args[at + 1:])
        super().__init__(args, *more, **kw)


def is_mocked():
    parts = [concurrent.futures.ProcessPoolExecutor, compileall.compile_file, compileall.compile_dir, compileall._walk_dir]
    return any(part is None or isinstance(part, mock.Mock) for part in parts)


class Left(Exception):
    """The command line cannot say this."""


def run(args, env=()):
    full = ours_env(None)
    prefix = getattr(sys, 'pycache_prefix', None)
    full.pop('PYTHONPYCACHEPREFIX', None)
    if prefix is not None:
        full['PYTHONPYCACHEPREFIX'] = prefix
    full.pop('PYTHONOPTIMIZE', None)
    if sys.flags.optimize:
        full['PYTHONOPTIMIZE'] = str(sys.flags.optimize)
    full.update(env)
    child = RealPopen([BYTEKEEP, 'compileall'] + args, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = child.communicate()
    counts['functions'] += 1
    return child.returncode, out.decode('utf-8', 'surrogateescape'), err.decode('utf-8', 'surrogateescape')


def text(path):
    path = os.fspath(path)
    if not isinstance(path, str) or path.startswith('-'):
        raise Left
    return path


def options(ddir, force, rx, quiet, legacy, optimize, invalidation_mode, stripdir=None, prependdir=None, limit_sl_dest=None,
            hardlink_dupes=False):
    args, env = [], {}
    for option, value in (('-d', ddir), ('-s', stripdir), ('-p', prependdir), ('-e', limit_sl_dest)):
        if value is not None:
            args += [option, text(value)]
    if rx is not None:
        args += ['-x' + rx.pattern]
    args += ['-f'] * bool(force) + ['-q'] * int(quiet) + ['-b'] * bool(legacy) + ['--hardlink-dupes'] * bool(hardlink_dupes)
    if invalidation_mode is not None:
        args += ['--invalidation-mode', invalidation_mode.name.lower().replace('_', '-')]
    levels = [optimize] if isinstance(optimize, int) else list(optimize)
    if (hardlink_dupes and len(set(levels)) < 2) or (ddir is not None and (stripdir is not None or prependdir is not None)):
        raise Left
    if NEW:
        args += ['-o%d' % level for level in levels]
    elif levels != [-1]:
        env['PYTHONOPTIMIZE'] = str(levels[0]) if levels[0] > 0 else ''
    return args, env


def told(done):
    code, out, err = done
    encoding = sys.stdout.encoding or 'utf-8'
    sys.stdout.write(out.encode(encoding, 'backslashreplace').decode(encoding))
    sys.stdout.flush()
    if code == 2:
        raise AssertionError(err)
    return code == 0


def compile_dir(dir, maxlevels=None if NEW else 10, ddir=None, force=False, rx=None, quiet=0, legacy=False, optimize=-1, workers=1,
                invalidation_mode=None, **kw):
    try:
        if is_mocked() or (workers is not None and workers < 0):
            raise Left
        args, env = options(ddir, force, rx, quiet, legacy, optimize, invalidation_mode, **kw)
        args += [] if maxlevels is None else ['-r%d' % maxlevels]
        return told(run(args + ['-j%d' % (workers or 0), text(dir)], env))
    except Left:
        counts['left'] += 1
        extra = {} if sys.version_info < (3, 7) else {'invalidation_mode': invalidation_mode}
        return real['compile_dir'](dir, maxlevels, ddir, force, rx, quiet, legacy, optimize, workers, **extra, **kw)


def compile_file(fullname, ddir=None, force=False, rx=None, quiet=0, legacy=False, optimize=-1, invalidation_mode=None, **kw):
    try:
        if is_mocked() or not os.path.isfile(fullname):
            raise Left
        args, env = options(ddir, force, rx, quiet, legacy, optimize, invalidation_mode, **kw)
        return told(run(args + [text(fullname)], env))
    except Left:
        counts['left'] += 1
        extra = {} if sys.version_info < (3, 7) else {'invalidation_mode': invalidation_mode}
        return real['compile_file'](fullname, ddir, force, rx, quiet, legacy, optimize, **extra, **kw)


def compile_path(skip_curdir=1, maxlevels=0, force=False, quiet=0, legacy=False, optimize=-1, **kw):
    try:
        if is_mocked():
            raise Left
        args, env = options(None, force, None, quiet, legacy, optimize, kw.get('invalidation_mode'))
        dirs = []
        for dir in sys.path:
            if (not dir or dir == os.curdir) and skip_curdir:
                if quiet < 2:
                    print('Skipping current directory')
            else:
                dirs.append(text(dir or os.curdir))
        return not dirs or told(run(args + ['-r%d' % maxlevels] + dirs, env))
    except Left:
        counts['left'] += 1
        return real['compile_path'](skip_curdir, maxlevels, force, quiet, legacy, optimize, **kw)


def py_compile_compile(file, cfile=None, dfile=None, doraise=False, optimize=-1, invalidation_mode=None, **kw):
    quiet = kw.get('quiet', 0)
    try:
        path = text(file)
        if not path.endswith('.py') or not os.path.isfile(path):
            raise Left
        level = '' if optimize == 0 else optimize
        place = importlib.util.cache_from_source(path, **({} if optimize < 0 else {'optimization': level}))
        legacy = cfile is not None and os.fspath(cfile) == path + 'c'
        if not legacy and cfile is not None and os.fspath(cfile) != place:
            raise Left
        if dfile is not None and os.path.basename(dfile) != os.path.basename(path):
            raise Left
        ddir = None if dfile is None else os.path.dirname(dfile)
        if optimize > 2:
            raise Left
        args, env = options(ddir, True, None, 0, legacy, optimize, invalidation_mode)
        code, out, err = run(args + [path], env)
    except Left:
        counts['left'] += 1
        extra = {} if sys.version_info < (3, 7) else {'invalidation_mode': invalidation_mode}
        return real_compile(file, cfile, dfile, doraise, optimize, **extra, **kw)
    if code == 0:
        return cfile or place
    why = out.split('*** ', 1)[-1].rstrip('\n') + '\n'
    for kind in (FileExistsError, PermissionError, NotADirectoryError):
        if why.startswith(kind.__name__ + ': '):
            raise kind(why.strip())
    error = py_compile.PyCompileError(SyntaxError, SyntaxError(why), path, why.rstrip('\n'))
    if quiet < 2:
        if doraise:
            raise error
        sys.stderr.write(error.msg + '\n')


if WHOSE == 'ours':
    subprocess.Popen = Popen
    compileall.compile_dir, compileall.compile_file, compileall.compile_path = compile_dir, compile_file, compile_path
    py_compile.compile = py_compile_compile


class Result(unittest.TestResult):
    def say(self, outcome, test):
        print('@', outcome, test.id(), file=sys.__stdout__, flush=True)

    def addSuccess(self, test):
        self.say('passes', test)

    def addSkip(self, test, reason):
        self.say('skips', test)

    def addExpectedFailure(self, test, err):
        self.say('skips', test)

    def addUnexpectedSuccess(self, test):
        self.say('fails', test)

    def addFailure(self, test, err):
        print(self._exc_info_to_string(err, test), file=sys.__stderr__)
        self.say('fails', test)

    addError = addFailure

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.addFailure(test, err)


def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


# Before 3.8 no prefix keeps these from writing into the interpreter's own library, which is not ours to change.
def is_harmless(test):
    return sys.version_info >= (3, 8) or '.test_no_args' not in test.id()


suite = unittest.defaultTestLoader.loadTestsFromNames(MODULES)
unittest.TestSuite(test for test in each(suite) if is_harmless(test)).run(Result())
print('@ counts', ', '.join('%s: %d' % item for item in sorted(counts.items())))
