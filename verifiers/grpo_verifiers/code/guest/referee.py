"""The tests' process: runs the asserts, and asks the candidate's process for every call.

It sees nothing of the candidate but plain values, and stand-ins of its objects. Its reports go to
the host alone: `{"planned": ...}` for how many tests there are, `{"case": ...}` for each, and
`{"done": true}` when they have ended by themselves, without which none counts.
"""

from __future__ import annotations

import importlib
import inspect
import json
import random
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_verifiers.code.guest import codec, pytest_stand_in, raising
    from grpo_verifiers.code.guest.cases import SHOWN_CHARS, Broken, Stop, run_tests
    from grpo_verifiers.code.guest.peer import OPERATORS, Gone, Peer
    from grpo_verifiers.code.guest.remote import Remote, state_of
else:
    import grpo_code_codec as codec
    import grpo_code_pytest as pytest_stand_in
    import grpo_code_raising as raising
    from grpo_code_cases import SHOWN_CHARS, Broken, Stop, run_tests
    from grpo_code_peer import OPERATORS, Gone, Peer
    from grpo_code_remote import Remote, state_of

MODULE = "tests"
CANDIDATE_MODULES = ("solution", "main", "candidate")
_ITERATION = ("iter", "next", "len", "getitem", "bool", "contains", "reversed", "hash")
_ITERATORS: tuple[Any, ...] = (iter([]), iter(()), iter({}), iter(""), iter(range(0)))
_PLAIN_ITERABLES = frozenset(map(type, _ITERATORS)) | frozenset(
    {map, filter, zip, enumerate, reversed, types.GeneratorType}
)
# With one of these the candidate could get from an object of the tests to all the others.
_OPENERS = frozenset(
    [
        *("getattr", "setattr", "delattr", "vars", "globals", "locals", "eval", "exec", "compile"),
        *("open", "__import__", "breakpoint", "type", "object", "super", "attrgetter"),
        *("methodcaller", "import_module", "partial", "partialmethod"),
    ]
)
_FUNCTIONS = (type, types.FunctionType, types.BuiltinFunctionType)


def main(channel: Any, payload: bytes) -> None:
    """Run tests; the payload is {"tests", "context", "entry_point", "share", "stop", "seed"}."""
    order = json.loads(payload)
    random.seed(order["seed"])
    referee = Referee(channel, order)
    try:
        referee.run()
    except Gone:
        return
    except Stop:
        pass
    except Broken as error:
        channel.send(codec.dump({"broken": str(error)[:1000]}))
        return
    channel.send(codec.dump({"done": True}))


class Referee(Peer):
    """Runs tests in a module where the candidate's names are stand-ins."""

    def __init__(self, channel: Any, order: Any) -> None:
        super().__init__(channel, "referee")
        self._order = order
        self._num_cases = 0

    def run(self) -> None:
        """Run all tests; raises Stop after a failure if that ends it."""
        module = types.ModuleType(MODULE)
        sys.modules[MODULE] = module
        sys.modules["pytest"] = pytest_stand_in.module()
        for name in CANDIDATE_MODULES:
            sys.modules[name] = _Solution(name, self)
        space = module.__dict__
        if self._order["context"]:
            exec(compile(self._order["context"], "<prompt>", "exec"), space)
        self._bind(space)
        tests, entry_point = self._order["tests"], self._order["entry_point"]
        run_tests(tests, module, entry_point, self.report, self.plan)

    def _bind(self, space: dict[str, Any]) -> None:
        """Put stand-ins of the candidate's things where the tests will look for them.

        What the prompt provides is taken from there, but for its classes, whose instances the
        candidate makes, too. Only what was asked for is taken: the candidate must not give the
        tests another `range`.
        """
        entry_point = self._order["entry_point"]
        for name, (source, attribute) in self._order["library"].items():
            if name not in space:
                space[name] = _imported(source, attribute)
        own = {name for name, value in space.items() if name != entry_point and _is_own(value)}
        wanted = [name for name in self._order["names"] if name not in own]
        found = self.ask("resolve", "", *wanted)
        for name in wanted:
            if name in found:
                space[name] = self.named(name, found[name])
        if entry_point and entry_point not in space:
            space[entry_point] = _missing(entry_point)
        if entry_point:
            space.setdefault("candidate", space[entry_point])

    def named(self, name: str, value: Any) -> Any:
        """A stand-in that the tests know by name; it may be a class."""
        if isinstance(value, Remote) and name in self._order["classes"]:
            state_of(value).builds = True
        return value

    def plan(self, num: int) -> None:
        """Tell the host how many tests there are, as far as is known."""
        self.channel.send(codec.dump({"planned": num}))

    def report(self, name: str, error: BaseException | None) -> None:
        """Tell the host how a test went.

        Raises:
            Stop: if it failed and the others need not be run.
        """
        self._num_cases += 1
        why = _why(error) if error is not None else ""
        name = name[:SHOWN_CHARS]
        frame = {"case": self._num_cases, "name": name, "ok": error is None, "why": why}
        self.channel.send(codec.dump(frame))
        if error is not None and self._order["stop"]:
            raise Stop

    def share(self) -> list[str]:
        """What a call should bring back beside its value."""
        printed = ["printed"] if sys.stdout is not sys.__stdout__ else []
        return printed + list(self._order["share"])

    def read(self, reply: Any, request: Any, args: tuple[Any, ...]) -> Any:
        """As any peer reads; what was printed and what became of arguments is applied here."""
        printed = reply.get("printed")
        if printed and sys.stdout is not sys.__stdout__:
            sys.stdout.write(printed)
        if "arguments" in self._order["share"] and reply.get("changed") is not None:
            for mine, theirs in zip(args, self.unpack(reply["changed"]), strict=False):
                _become(mine, theirs)
        return super().read(reply, request, args)

    def _export(self, value: Any) -> Any:
        if type(value) in _FUNCTIONS and value.__name__ in _OPENERS:
            raise Broken(f"the tests pass {value.__name__} to the candidate, which opens too much")
        return super()._export(value)

    def do(self, message: Any) -> Any:
        """What the candidate may do with what the tests have passed to it.

        Functions can be called, iterators read, and instances of the tests' own classes have their
        public attributes. Nothing leads from these to frames, modules or the tests' variables.

        Raises:
            TypeError, AttributeError: for anything else.
        """
        what = message["do"]
        args, keywords = self.unpack(message["args"]), self.unpack(message["keywords"])
        if what == "op":
            return self._operate(message["name"], args)
        target = self.given(message["target"])
        if what == "call" and callable(target):
            return target(*args, **keywords)
        if what == "getattr" and _is_open(target, message["name"]):
            return getattr(target, message["name"])
        if what == "setattr" and _is_open(target, message["name"]):
            _check_settable(target, message["name"], *args)
            return setattr(target, message["name"], *args)
        raise AttributeError(f"'{type(target).__name__}' gives no {message['name'] or what!r}")

    def _operate(self, name: str, args: list[Any]) -> Any:
        own = [item for item in args if not isinstance(item, Remote)]
        allowed = all(_is_value(item) or _is_open(item) for item in own)
        readable = name in _ITERATION and type(args[0]) in _PLAIN_ITERABLES
        if not (allowed or readable) or name not in OPERATORS:
            raise TypeError(f"'{name}' is not open to the candidate")
        return OPERATORS[name](*args)


class _Solution(types.ModuleType):
    """The candidate's program as a module of the tests' process."""

    def __init__(self, name: str, referee: Referee) -> None:
        super().__init__(name)
        self._referee = referee

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = self._referee.ask("resolve", "", name)
        if name not in found:
            raise AttributeError(f"the program has no '{name}'")
        return self._referee.named(name, found[name])


def _is_own(value: Any) -> bool:
    """Whether something of the prompt's is kept: all but its classes and their instances."""
    return isinstance(value, types.FunctionType) or getattr(value, "__module__", "") != MODULE


def _imported(source: str, attribute: str) -> Any:
    """A module, or what it has by a name.

    Raises:
        Broken: if there is no such module.
    """
    try:
        module = importlib.import_module(source)
    except ImportError as error:
        raise Broken(str(error)) from None
    return getattr(module, attribute) if attribute else module


def _check_settable(target: Any, name: str, value: Any) -> None:
    """The candidate may not replace what the tests' objects do, only what they hold.

    Raises:
        AttributeError: for methods and other functions, as old value or new one.
    """
    missing = object()
    defined = inspect.getattr_static(type(target), name, missing)
    has_setter = hasattr(type(defined), "__set__")
    held = vars(target).get(name) if hasattr(target, "__dict__") else None
    is_method = callable(defined) or (hasattr(type(defined), "__get__") and not has_setter)
    if is_method or callable(value) or callable(held):
        raise AttributeError(f"'{type(target).__name__}.{name}' is not to be replaced")


def _missing(name: str) -> Any:
    def missing(*args: Any, **keywords: Any) -> Any:
        raise NameError(f"name '{name}' is not defined")

    return missing


def _why(error: BaseException) -> str:
    described = raising.describe(error)
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    text = f"{described['bases'][0]}: {described['message']}".rstrip(": ")
    return f"{text} (line {line} of the tests)" if line else text


def _is_value(item: Any) -> bool:
    try:
        codec.pack(item)
    except codec.CodecError:
        return False
    return True


def _is_open(item: Any, name: str = "") -> bool:
    """Whether an object is an instance of one of the tests' classes, and a name public."""
    kind = type(item)
    own = kind.__module__ == MODULE and not isinstance(item, type)
    return own and not name.startswith("_")


def _become(mine: Any, theirs: Any) -> None:
    """Give a list, dict or set of the tests the content that the candidate left in its copy."""
    if type(mine) is not type(theirs):
        return
    if type(mine) is list:
        mine[:] = theirs
    elif type(mine) in (dict, set):
        mine.clear()
        mine.update(theirs)
