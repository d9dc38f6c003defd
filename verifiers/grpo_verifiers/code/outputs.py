"""Whether what a program wrote is what it should have written.

Lines are compared one by one; white space at the end of a line and empty lines at the end do not
count, and neither does how much white space stands between two words of a line. With a tolerance,
words that are numbers may differ by so much.
"""

from __future__ import annotations

import math

from grpo_verifiers.code.shown import shorten


def difference(found: str, expected: str, tolerance: float = 0.0) -> str:
    """The first difference between two outputs, for people; empty if they are equal."""
    found_lines, expected_lines = _lines(found), _lines(expected)
    for number, (line, wanted) in enumerate(zip(found_lines, expected_lines, strict=False), 1):
        if not _same(line, wanted, tolerance):
            return f"line {number} is {shorten(line)!r}, expected {shorten(wanted)!r}"
    if len(found_lines) == len(expected_lines):
        return ""
    if not found_lines:
        return f"it printed nothing, expected {shorten(expected_lines[0])!r}"
    return f"it printed {len(found_lines)} lines, expected {len(expected_lines)}"


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same(line: str, wanted: str, tolerance: float) -> bool:
    if line == wanted:
        return True
    words, wanted_words = line.split(), wanted.split()
    if words == wanted_words:
        return True
    return (
        tolerance > 0
        and len(words) == len(wanted_words)
        and all(_close(*pair, tolerance) for pair in zip(words, wanted_words, strict=True))
    )


def _close(word: str, wanted: str, tolerance: float) -> bool:
    if word == wanted:
        return True
    try:
        value, target = float(word), float(wanted)
    except ValueError:
        return False
    if not (math.isfinite(value) and math.isfinite(target)):
        return False
    return abs(value - target) <= max(tolerance, tolerance * abs(target))
