"""Test cases as data: calls with values, and programs with input and output.

Understood are our own `{"call": ..., "equals": ...}` and `{"stdin": ..., "stdout": ...}`, APPS's
`inputs`, `outputs` and `fn_name` (also as the JSON text `input_output`), and LiveCodeBench's
`input`, `output` and `testtype`.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.errors import VerifierError
from grpo_verifiers.code.checks import Call, Check, Equals, Raises
from grpo_verifiers.code.expressions import TooLarge, Unsupported
from grpo_verifiers.code.guest import codec
from grpo_verifiers.code.rewriting import read_call
from grpo_verifiers.code.shown import shorten, shown

_JSON_NAMES = {"true": True, "false": False, "null": None}


class UnreadableReference(VerifierError):
    """A reference of the code verifier cannot be read."""


@dataclass(frozen=True, slots=True)
class ProgramCase:
    """What a program reads, and what it must write."""

    name: str
    stdin: str
    stdout: str


Cases = tuple[tuple[Check, ...], tuple[ProgramCase, ...], str | None]


def read_cases(reference: Mapping[str, Any], entry_point: str | None, tolerance: float) -> Cases:
    """The cases of a reference: checks or program cases, and the function they call, if one.

    Raises:
        UnreadableReference: if there are none, or one is wrong; its number counts from 1.
    """
    reference = _unfolded(reference)
    function = _function_name(reference, entry_point)
    checks: list[Check] = []
    programs: list[ProgramCase] = []
    for number, case in enumerate(_list_of_cases(reference, function), 1):
        try:
            read = _read_case(case, number, function, tolerance)
        except (Unsupported, TooLarge, codec.CodecError, ValueError, RecursionError) as error:
            raise UnreadableReference(f"case {number}: {error}") from error
        (checks if isinstance(read, Check) else programs).append(read)  # type: ignore[arg-type]
    if checks and programs:
        raise UnreadableReference("it mixes calls with stdin and stdout; give one kind of case")
    if not checks and not programs:
        raise UnreadableReference("it has no tests and no cases")
    if programs and not any(case.stdout.strip() for case in programs):
        raise UnreadableReference("no case expects any output, so a program that does nothing fits")
    return tuple(checks), tuple(programs), checks[0].calls[0].function if checks else None


def _unfolded(reference: Mapping[str, Any]) -> Mapping[str, Any]:
    """APPS keeps its cases in a JSON text."""
    folded = reference.get("input_output")
    if folded is None:
        return reference
    if isinstance(folded, str):
        try:
            folded = json.loads(folded)
        except (ValueError, RecursionError) as error:
            raise UnreadableReference(f"input_output is no JSON: {error}") from error
    if not isinstance(folded, Mapping):
        raise UnreadableReference(f"input_output is an object, got {shorten(repr(folded))}")
    return {**reference, **folded}


def _function_name(reference: Mapping[str, Any], entry_point: str | None) -> str | None:
    name = reference.get("fn_name") or entry_point
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise UnreadableReference(f"fn_name is the name of a function, got {shorten(repr(name))}")
    return name


@dataclass(frozen=True, slots=True)
class _Apps:
    """A case of APPS: arguments and value of a call, or input and output of a program."""

    input: Any
    output: Any
    is_call: bool


def _list_of_cases(reference: Mapping[str, Any], function: str | None) -> Iterator[Any]:
    cases = reference.get("cases")
    if cases is not None:
        if not isinstance(cases, list):
            raise UnreadableReference(f"cases is a list, got {shorten(repr(cases))}")
        yield from cases
        return
    inputs, outputs = reference.get("inputs", []), reference.get("outputs", [])
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise UnreadableReference("inputs and outputs are lists")
    if len(inputs) != len(outputs):
        raise UnreadableReference(f"{len(inputs)} inputs and {len(outputs)} outputs")
    is_call = bool(reference.get("fn_name"))
    for given, wanted in zip(inputs, outputs, strict=True):
        yield _Apps(given, wanted, is_call)


def _read_case(
    case: Any, number: int, function: str | None, tolerance: float
) -> Check | ProgramCase:
    if isinstance(case, _Apps):
        return _apps_case(case, number, function, tolerance)
    if not isinstance(case, Mapping):
        raise ValueError(f"a case is an object, got {shorten(repr(case))}")
    if "call" in case:
        return _call_case(case, tolerance)
    if "stdin" in case or "stdout" in case:
        _check_keys(case, {"stdin", "stdout", "name"})
        name = str(case.get("name", f"case {number}"))
        return _program_case(name, case.get("stdin", ""), case.get("stdout"))
    if "input" in case and "output" in case:
        _check_keys(case, {"input", "output", "testtype"})
        kind = case.get("testtype", "functional" if function else "stdin")
        if kind == "functional":
            return _functional_case(case, function, tolerance)
        return _program_case(f"case {number}", case["input"], case["output"])
    raise ValueError("it has neither call, nor stdin and stdout, nor input and output")


def _call_case(case: Mapping[str, Any], tolerance: float) -> Check:
    """Ours: `{"call": "f(1, 2)"}` with equals, literal or raises."""
    _check_keys(case, {"call", "equals", "literal", "raises", "tolerance", "name"})
    call = _parse_call(case["call"])
    wanted = [key for key in ("equals", "literal", "raises") if key in case]
    if len(wanted) != 1:
        raise ValueError(f"a call needs one of equals, literal and raises, got {wanted}")
    name = str(case.get("name") or call.text)
    if "raises" in case:
        if not isinstance(case["raises"], str):
            raise ValueError("raises is the name of an exception")
        return Check(name, (call,), Raises(case["raises"]), f"{case['raises']} to be raised")
    value = case["equals"] if "equals" in case else ast.literal_eval(str(case["literal"]))
    codec.pack(value)
    tolerance = float(case.get("tolerance", tolerance))
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is a number >= 0, got {tolerance}")
    return Check(name, (call,), Equals((value,), tolerance), shown(value))


def _parse_call(text: Any) -> Call:
    if not isinstance(text, str):
        raise ValueError(f"call is a text such as 'f(1, 2)', got {shorten(repr(text))}")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, MemoryError) as error:
        raise ValueError(f"the call {shorten(text)!r} cannot be parsed: {error}") from error
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"{shorten(text)!r} is not the call of a function")
    return read_call(node.func.id, node, _JSON_NAMES)


def _apps_case(
    case: _Apps, number: int, function: str | None, tolerance: float
) -> Check | ProgramCase:
    if not case.is_call:
        return _program_case(f"case {number}", case.input, case.output)
    if not isinstance(case.input, list):
        raise ValueError(f"inputs of a function are lists of arguments, got {shown(case.input)}")
    wanted = [case.output]
    if isinstance(case.output, list) and len(case.output) == 1:
        wanted.append(case.output[0])  # most rows of APPS wrap the value, some do not
    return _json_check(function, case.input, wanted, tolerance)


def _functional_case(case: Mapping[str, Any], function: str | None, tolerance: float) -> Check:
    """LiveCodeBench: arguments as one JSON value a line."""
    if not isinstance(case["input"], str) or not isinstance(case["output"], str):
        raise ValueError("input and output of a functional case are JSON texts")
    arguments = [json.loads(line) for line in case["input"].split("\n") if line.strip()]
    return _json_check(function, arguments, [json.loads(case["output"])], tolerance)


def _json_check(
    function: str | None, arguments: list[Any], wanted: list[Any], tolerance: float
) -> Check:
    if function is None:
        raise ValueError("calls need fn_name or entry_point")
    codec.dump(codec.pack([arguments, wanted]))
    call = Call(function, tuple(arguments))
    return Check(call.text, (call,), Equals(tuple(wanted), tolerance, True), shown(wanted[-1]))


def _program_case(name: str, given: Any, wanted: Any) -> ProgramCase:
    return ProgramCase(name, _program_text(given, "input"), _program_text(wanted, "output"))


def _program_text(value: Any, what: str) -> str:
    """A text; some rows of APPS give the lines as a list."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{what} of a program is a text, got {shorten(repr(value))}")
    return value


def _check_keys(case: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(map(str, case)) - known)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
