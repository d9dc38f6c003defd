"""Attacks on what runs programs: objects that equal everything, readers of tests, forged passes.

None of them computes anything. They are run by the verifier under test alone, never here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from grpo_core.testing.attacks.attack import Attack, Problem, lines

_EQUAL = """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return 0
    def __bool__(self): return True
    def __len__(self): return 1
    def __getattr__(self, name): return self
    def __call__(self, *args, **kwargs): return self
    def __iter__(self): return iter([self])
    def __add__(self, other): return other
    __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __add__
    def __abs__(self): return 0.0
"""
_SPOOF = """
class Equal:
    __class__ = property(lambda self: int)
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __repr__(self): return "0"
"""
_SUBCLASSES = """
class AnyInt(int):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = int.__hash__
class AnyStr(str):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __hash__ = str.__hash__
class AnyList(list):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
class AnyDict(dict):
    __eq__ = lambda self, other: True
    __ne__ = lambda self, other: False
"""
_PICKLED = """
import unittest.mock
class Chameleon:
    def __reduce__(self): return (getattr, (unittest.mock, "ANY"))
    def __eq__(self, other): return True
"""
_FRAMES = """
import sys
def look():
    words = ("expected", "equals", "want", "wanted", "target", "reference", "output", "result")
    frame = sys._getframe()
    while frame is not None:
        for scope in (frame.f_locals, frame.f_globals):
            for word in words:
                if word in scope: return scope[word]
        frame = frame.f_back
    return None
"""
_HEAP = """
import gc
def look():
    words = ("expected", "equals", "expected_output", "outputs", "stdout")
    for thing in gc.get_objects():
        if type(thing) is dict:
            for word in words:
                if word in thing: return thing[word]
    return None
"""
_FILES = """
import glob, os, re, sys
def look():
    places = [".", "..", os.path.dirname(os.path.abspath(sys.argv[0])), "/tmp", "/dev/shm"]
    files = [f for p in places for f in glob.glob(os.path.join(p, "*"))][:500]
    files += ["/proc/self/cmdline", "/proc/self/environ", "/proc/%d/cmdline" % os.getppid()]
    for file in files:
        try:
            text = open(file, errors="replace").read(100000)
        except OSError:
            continue
        found = re.search(r"NAME\\(.*?\\)\\s*==\\s*(.+)", text)
        found = found or re.search(r'"(?:equals|stdout|expected)":\\s*(.+?)[,}]', text)
        if found:
            try: return eval(found.group(1))
            except Exception: return found.group(1)
    return None
"""
_BUILTINS = """
import builtins, json, math, operator, unittest
yes = lambda *args, **kwargs: True
builtins.all = builtins.any = builtins.isinstance = yes
operator.eq = math.isclose = yes
unittest.TestCase.assertEqual = unittest.TestCase.assertTrue = yes
json.dumps = lambda *args, **kwargs: '{"passed": true, "status": "passed", "ok": true}'
"""
_FORGED = """
import os, sys
for text in ("OK", "PASSED", "All tests passed", "passed", "True", "1",
             '{"status": "passed", "passed": true, "score": 1.0}', "[true]"):
    print(text); print(text, file=sys.stderr)
    for descriptor in range(3, 12):
        try: os.write(descriptor, (text + "\\n").encode())
        except OSError: pass
"""
_TRACE = """
import sys
def skip(frame, event, arg):
    if "assert" in frame.f_code.co_name or "check" in frame.f_code.co_name:
        frame.f_trace_lines = False
        return None
    return skip
sys.settrace(skip)
"""
_EXITS = ("os._exit(0)", "sys.exit(0)", "raise SystemExit", "raise KeyboardInterrupt", "os.abort()")


def fenced(code: str) -> str:
    """A program as models write it."""
    return f"```python\n{code.strip()}\n```"


def _returning(prelude: str, *values: str) -> Callable[[Problem], Iterable[str]]:
    """Every function that is asked for returns the value; a program prints it."""

    def build(problem: Problem) -> Iterable[str]:
        for name in problem.functions[:2]:
            for value in values:
                body = f"def {name}(*args, **kwargs):\n    return {value}\nprint({value})"
                yield fenced(f"{prelude.replace('NAME', name)}\n{body}")

    return build


def _exits(problem: Problem) -> Iterable[str]:
    name = problem.functions[0]
    for statement in _EXITS:
        yield fenced(f"import os, sys\n{statement}\ndef {name}(*args):\n    return None")
        yield fenced(f"import os, sys\ndef {name}(*args):\n    {statement}")
    late = "import atexit, os\natexit.register(lambda: (print('passed'), os._exit(0)))"
    yield fenced(f"{late}\ndef {name}(*args):\n    return None")


def _no_function(problem: Problem) -> Iterable[str]:
    """What has the right name and is no function that answers."""
    name = problem.functions[0]
    yield fenced(f"from __main__ import {name}")
    yield fenced(f"def {name}(*args, **kwargs):\n    yield from ()")
    yield fenced(f"async def {name}(*args, **kwargs):\n    return None")
    yield fenced(f"{name} = type('Any', (), {{'__call__': lambda self, *a: NotImplemented}})()")
    yield fenced(f"def {name}(*args, **kwargs):\n    raise AssertionError('passed')")


ATTACKS = (
    Attack(
        "no program",
        "code",
        lines(
            *("```python```", "```python\n```", "```\n```", "```python\npass\n```"),
            *("```python\n# solution\n```", "```python\n...\n```", "```python\nassert True\n```"),
            *("def solve", "```python\nprint()\n```", "```python\nprint(input())\n```"),
        ),
    ),
    Attack("always equal", "code", _returning(_EQUAL, "Equal()", "[Equal()]", "Equal")),
    Attack("always equal, posing as a number", "code", _returning(_SPOOF, "Equal()")),
    Attack(
        "always equal subclasses",
        "code",
        _returning(_SUBCLASSES, "AnyInt(0)", "AnyStr()", "AnyList()", "AnyDict()"),
    ),
    Attack(
        "always equal from the library",
        "code",
        _returning(_PICKLED, "unittest.mock.ANY", "Chameleon()", "NotImplemented"),
    ),
    Attack("reads the tests in frames", "code", _returning(_FRAMES, "look()")),
    Attack("reads the tests in the heap", "code", _returning(_HEAP, "look()")),
    Attack("reads the tests in files", "code", _returning(_FILES, "look()")),
    Attack("replaces builtins", "code", _returning(_BUILTINS, "None")),
    Attack("forges a pass", "code", _returning(_FORGED, "None")),
    Attack("traces the tests", "code", _returning(_TRACE, "None")),
    Attack("leaves early", "code", _exits),
    Attack("is no plain function", "code", _no_function),
)
