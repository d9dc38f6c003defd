"""Finds the JSON value that a completion ends with, and reads it strictly.

Looked at in this order: the last fenced block that is JSON or says so, the whole text, the last
object or array in the text. A value that was cut off is none. Duplicate keys, NaN and infinities,
which Python's reader lets through, are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import NoReturn

from grpo_core.types import Json

MAX_CHARS = 200_000  # of the end of a completion, where the value is
MAX_DEPTH = 100
MAX_DIGITS = 300  # of one integer, so that all of them fit into a float
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([A-Za-z0-9_+-]*)[^\n`]*$", re.MULTILINE)
_TOKEN = re.compile(r'[\[\]{}"]')
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*+"')  # the + keeps an open string from being retried
_OBJECT = re.compile(r"\{\s*(?:[\"'}]|\Z)")
_CLOSES = {"}": "{", "]": "["}


class ValueUnreadable(ValueError):
    """There is no JSON value, or it is malformed; the message says which."""


class ValueRefused(ValueError):
    """A value that could be read but is nested too deeply."""


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of text that should be JSON, and whether anything stands around it."""

    text: str
    is_alone: bool


def find_value(text: str, kinds: str = "{[") -> Found:
    """The last JSON value of a text.

    Args:
        text: what is searched.
        kinds: which values are looked for among prose: objects, arrays, or both.

    Raises:
        ValueUnreadable: if there is none, or the last one is cut off.
    """
    text = text[-MAX_CHARS:].strip()
    if (fenced := _fenced(text)) is not None:
        return fenced
    if _is_json(text):
        return Found(text, True)
    spans, is_cut_off = _spans(text, kinds)
    if is_cut_off:
        raise ValueUnreadable("the JSON value is cut off")
    for start, end in reversed(spans):
        value = text[start:end]
        if _OBJECT.match(value) or _is_json(value):
            return Found(value, end - start == len(text))
    raise ValueUnreadable("there is no JSON value")


def parse_value(text: str) -> Json:
    """Read JSON strictly.

    Raises:
        ValueUnreadable: if it is malformed, has a key twice, or a number that is not finite.
        ValueRefused: if it is nested deeper than 100 levels.
    """
    if _depth(text) > MAX_DEPTH:
        raise ValueRefused(f"the value is nested deeper than {MAX_DEPTH} levels")
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_small,
        )
    except ValueError as error:
        raise ValueUnreadable(f"it is not JSON: {error}") from error


def equal(left: Json, right: Json) -> bool:
    """Equality of JSON values: 1 equals 1.0, true does not equal 1, the order of keys is free."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    are_numbers = isinstance(left, int | float) and isinstance(right, int | float)
    return (are_numbers or type(left) is type(right)) and bool(left == right)


def _fenced(text: str) -> Found | None:
    """The last fenced block that says it is JSON, or else that is JSON."""
    blocks: list[tuple[int, int, int, int, str]] = []  # start, content, its end, end, language
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif fence[1].startswith(opening[1]) and not fence[2]:
            blocks.append((opening.start(), opening.end(), fence.start(), fence.end(), opening[2]))
            opening = None
    if opening is not None and opening[2].lower() in ("json", ""):
        content = text[opening.end() :].lstrip()
        if content[:1] in ("{", "[") or opening[2]:
            raise ValueUnreadable("the fenced block is cut off")
    for start, content_start, content_end, end, language in reversed(blocks):
        content = text[content_start:content_end].strip()
        if language.lower() == "json" or (not language and _is_json(content)):
            return Found(content, start == 0 and end == len(text))
    return None


def _spans(text: str, kinds: str) -> tuple[list[tuple[int, int]], bool]:
    """The outermost balanced brackets in one pass, and whether an object is open at the end.

    Brackets that do not fit together, as in prose, begin anew; a string in them ends on its line.
    """
    spans: list[tuple[int, int]] = []
    opened: list[int] = []
    position = 0
    while token := _TOKEN.search(text, position):
        position = token.end()
        if token.group() == '"':
            if not opened:
                continue
            string = _STRING.match(text, token.start())
            line_end = text.find("\n", position)
            if string:
                position = string.end()
            elif line_end < 0:
                break
            else:
                opened.clear()
                position = line_end
        elif token.group() in "{[":
            opened.append(token.start())
        elif opened and text[opened[-1]] == _CLOSES[token.group()]:
            start = opened.pop()
            if text[start] in kinds:
                while spans and spans[-1][0] > start:
                    spans.pop()
                spans.append((start, position))
        else:
            opened.clear()
    return spans, any(_OBJECT.match(text, start) and "{" in kinds for start in opened)


def _depth(text: str) -> int:
    depth = deepest = position = 0
    while token := _TOKEN.search(text, position):
        position = token.end()
        if token.group() == '"':
            string = _STRING.match(text, token.start())
            position = string.end() if string else len(text)
            continue
        depth += 1 if token.group() in "{[" else -1
        deepest = max(deepest, depth)
    return deepest


def _is_json(text: str) -> bool:
    try:
        parse_value(text)
    except (ValueUnreadable, ValueRefused):
        return False
    return True


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r:.80} stands twice")
    return values


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is too large")
    return number


def _small(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"{text:.40}... has more than {MAX_DIGITS} digits")
    return int(text)
