r"""Matrices of any brackets, with a factor in front, and small sums and products of them.

The entries of a result are texts made of the entries' texts, as in `(1)(5)+(2)(7)`; they are
evaluated when they are compared.
"""

from __future__ import annotations

import re

from grpo_verifiers.math.limits import MAX_ITEMS, AnswerTooLarge
from grpo_verifiers.math.splitting import closes_at_end, split, top_tokens

Rows = list[list[str]]

_MATRIX = re.compile(
    r"(?:\(\s*|\[\s*)?\\begin\{([pbB]?(?:small)?matrix)\}(.*?)\\end\{\1\}(?:\s*\)|\s*\])?",
    re.DOTALL,
)
_DETERMINANT = re.compile(
    r"(?:\\det\s*\(?\s*(?=\\begin\{[pb])|(?=\\begin\{v))\\begin\{([vpb]matrix)\}(.*?)\\end\{\1\}\s*\)?",
    re.DOTALL,
)
_ROW_SPACING = re.compile(r"(\\\\)\s*\[[0-9.]+\s*(?:pt|ex|em|mm|cm)\]")
_RULE = re.compile(r"\\[hc]line(?:\{[^{}]*\})?")
_POWER = re.compile(r"\s*\^\{(T|\\top|\\intercal)\}")
_MAX_ENTRY_CHARS = 600


def read_matrix(text: str) -> Rows | None:
    """The entries of a matrix, or of a sum or product of matrices; None if it is anything else.

    Raises:
        AnswerTooLarge: if it has too many rows.
    """
    if r"\begin{" not in text:
        return None
    terms: list[tuple[str, str]] = []
    start, sign = 0, "+"
    for match in top_tokens(text):
        if match.group() in "+-" and text[start : match.start()].strip():
            terms.append((sign, text[start : match.start()]))
            start, sign = match.end(), match.group()
    terms.append((sign, text[start:]))
    if len(terms) > 3:
        return None
    total: Rows | None = None
    for sign, term in terms:
        rows = _product(term.strip())
        if rows is None:
            return None
        if sign == "-":
            rows = _scaled("-", rows)
        total = rows if total is None else _sum(total, rows)
        if total is None:
            return None
    return total


def read_determinant(text: str) -> str | None:
    r"""A determinant of two or three rows, written out; None if the text is none."""
    match = _DETERMINANT.fullmatch(text)
    if match is None:
        return None
    rows = _rows(match)
    if len(rows) not in (2, 3) or any(len(row) != len(rows) for row in rows):
        return None
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return f"({a})({d})-({b})({c})"
    (a, b, c), (d, e, f), (g, h, i) = rows
    minors = (f"({e})({i})-({f})({h})", f"({f})({g})-({d})({i})", f"({d})({h})-({e})({g})")
    return "+".join(f"({x})({minor})" for x, minor in zip((a, b, c), minors, strict=True))


def _product(text: str) -> Rows | None:
    """A factor in front of one matrix, or of a product of two."""
    matches = list(_MATRIX.finditer(text))
    if not matches or len(matches) > 2:
        return None
    factor = text[: matches[0].start()].strip().removesuffix(r"\cdot").strip()
    rows = _rows(matches[0])
    end = matches[0].end()
    if power := _POWER.match(text, end):
        rows, end = [list(column) for column in zip(*rows, strict=True)], power.end()
    if len(matches) == 2:
        if text[end : matches[1].start()].strip() not in ("", r"\cdot", r"\times", "*"):
            return None
        other, end = _rows(matches[1]), matches[1].end()
        if len(rows[0]) != len(other) or len(rows) * len(other[0]) > MAX_ITEMS:
            return None
        rows = [
            [
                "+".join(f"({a})({b})" for a, b in zip(row, column, strict=True))
                for column in zip(*other, strict=True)
            ]
            for row in rows
        ]
    if text[end:].strip() or any(len(row) != len(rows[0]) for row in rows):
        return None
    rows = _scaled(factor, rows) if factor else rows
    too_long = any(len(entry) > _MAX_ENTRY_CHARS for row in rows for entry in row)
    return None if too_long else rows


def _rows(match: re.Match[str]) -> Rows:
    content = _RULE.sub("", _ROW_SPACING.sub(r"\1", match.group(2)))
    rows = [split(row, ["&"]) for row in split(content, ["\\\\"]) if row]
    if len(rows) > MAX_ITEMS:
        raise AnswerTooLarge(f"a matrix has {len(rows)} rows, more than {MAX_ITEMS}")
    width = max((len(row) for row in rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows] or [[""]]


def _scaled(factor: str, rows: Rows) -> Rows:
    if factor.startswith("(") and not closes_at_end(factor):
        return rows
    return [[f"{factor}({entry})" for entry in row] for row in rows]


def _sum(first: Rows, second: Rows) -> Rows | None:
    if len(first) != len(second) or len(first[0]) != len(second[0]):
        return None
    return [
        [f"({a})+({b})" for a, b in zip(row, other, strict=True)]
        for row, other in zip(first, second, strict=True)
    ]
