"""Exceptions that cross from one process to another: by name, message and plain arguments.

A class that only one side has gets a stand-in of the same name on the other side, which extends the
same builtin exception, so that `except ValueError` and `except` with the class itself both work.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_verifiers.code.guest import codec
else:
    import grpo_code_codec as codec

MAX_MESSAGE = 500  # characters
MAX_ARGUMENTS = 10_000  # bytes
# These end loops and generators instead of being seen: a function that raises one would cut
# `map(f, cases)` short, and the cases after it would never be compared.
_STOPS = (StopIteration, StopAsyncIteration, GeneratorExit)
_classes: dict[tuple[str, ...], type[BaseException]] = {}


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as plain data."""
    try:
        message = str(error)[:MAX_MESSAGE]
    except BaseException:  # noqa: BLE001 - an odd class's own method
        message = ""
    try:
        arguments = codec.pack(list(error.args))
        if len(codec.dump(arguments)) > MAX_ARGUMENTS:
            arguments = [message]
    except BaseException:  # noqa: BLE001 - arguments of any kind
        arguments = [message]
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<completion>":
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == "<completion>":
        line, message = error.lineno or 0, str(error.msg)[:MAX_MESSAGE]
    bases = bases_of(type(error))
    return {"bases": bases, "message": message, "args": arguments, "line": line}


def bases_of(kind: type) -> list[str]:
    """Names of a class and of those it extends, up to the first builtin one."""
    names = []
    for base in kind.__mro__[:20]:
        names.append(str(base.__name__)[:100])
        if base.__module__ == "builtins":
            break
    return names


def class_of(bases: tuple[str, ...]) -> type[BaseException]:
    """The class of this name here: a builtin one, or a stand-in made for it."""
    known = getattr(builtins, bases[0], None) if bases else Exception
    if isinstance(known, type) and issubclass(known, BaseException):
        return known
    if bases not in _classes:
        parent = class_of(bases[1:])
        _classes[bases] = type(bases[0], (parent,), {"__module__": "solution"})
    return _classes[bases]


def rebuild(description: dict[str, Any], *, may_stop: bool) -> BaseException:
    """The exception that was described, to be raised here.

    Args:
        description: from `describe`.
        may_stop: whether it was asked for the next item of an iterator.
    """
    kind = class_of(tuple(description["bases"]))
    arguments = codec.unpack(description["args"])
    if issubclass(kind, _STOPS) and not may_stop:
        return RuntimeError(f"{kind.__name__} was raised by a function")
    try:
        error = kind(*arguments)
    except TypeError:  # UnicodeDecodeError wants five arguments of certain types
        error = Exception.__new__(kind) if issubclass(kind, Exception) else RuntimeError()
        error.args = (description["message"],)
    return error
