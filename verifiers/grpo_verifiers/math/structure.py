r"""The shape of an answer: a single expression, a group of them, or a relation between them.

    3 \text{ or } 4                 Group("list", 3, 4)
    (1, 2]                          Group("(]", 1, 2)        tuple or interval
    (-\infty,1)\cup(2,\infty)       Group("union", Group("()", ...), Group("()", ...))
    x = 8 = 7                       Relation((x, 8, 7), ("=", "="))
    2x + 1                          Leaf("2x + 1")

Only brackets, separators and relation signs at the outermost level are looked at, so this needs no
grammar of expressions; leaves are compared by `equality`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grpo_verifiers.math.exact import read_quantity
from grpo_verifiers.math.limits import MAX_ITEMS, AnswerTooLarge

_TOKEN = re.compile(r"\\(?:begin|end)\{[a-zA-Z]+\*?\}|\\[a-zA-Z]+|\\.|[(){}\[\],;:=<>&]", re.DOTALL)
_CONNECTIVE = re.compile(r"(?:,\s*|(?<=[\s)}\]]))(?:or|and)(?=[\s(\\])")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_RELATIONS = {"=": "=", "<": "<", ">": ">", r"\leq": "<=", r"\geq": ">=", r"\neq": "!="}
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_MATRIX = re.compile(r"\\begin\{([pb]?(?:small)?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_ROW_SPACING = re.compile(r"(\\\\)\s*\[[0-9.]+\s*(?:pt|ex|em|mm|cm)\]")
_SET_BUILDER = re.compile(r"[a-zA-Z]\s*(?:\\in\s*\\mathbb\{?R\}?\s*)?(?:\||\\mid|:)(.+)")
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
# "either", "x \in", "The answer is", "Answer:", "\text{The area is }" in front of an answer.
_PREAMBLE = re.compile(
    r"(?:either|both)\s+|[a-zA-Z]\s*\\in(?![a-zA-Z])|(?:[A-Za-z]+\s+){0,8}(?:is|are|equals)\s+"
    r"|[A-Za-z][A-Za-z ]{2,40}:(?=\s)|\\text\{[^{}0-9]*(?:\b(?:is|are|equals)|:|=)\s*\}"
)
_LABEL = re.compile(
    r"(?:\\[a-zA-Z]+\s*)?(?:\\[a-zA-Z]+|\\text\{[^{}]*\}|[A-Za-z][A-Za-z ]{0,40})"
    r"(?:_\{[^{}]*\})?(?:\^\{-1\})?'*\s*(?:\([^()=]*\))?"
)
_CONSTANTS = frozenset([r"\pi", r"\infty", r"\emptyset", "e", "i"])


@dataclass(frozen=True, slots=True)
class Leaf:
    """One expression, number, or word, as canonical text."""

    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several answers.

    Attributes:
        kind: "list" (bare commas), "set", "union", "ratio", "matrix" (of "row" groups), or the two
            brackets round a tuple or interval: "()", "(]", "[)", "[]".
        items: its members in the order written.
    """

    kind: str
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """Expressions joined by =, <, >, <=, >= or !=."""

    parts: tuple[Node, ...]
    operators: tuple[str, ...]

    def mirrored(self) -> Relation:
        """The same relation read from right to left."""
        operators = tuple(_MIRRORED[operator] for operator in reversed(self.operators))
        return Relation(tuple(reversed(self.parts)), operators)


Node = Leaf | Group | Relation


def read_structure(text: str) -> Node:
    """The shape of a canonical text.

    Raises:
        AnswerTooLarge: if a group has more than `MAX_ITEMS` members, or a number is too long.
    """
    text = text.strip()
    while (preamble := _PREAMBLE.match(text)) and preamble.end() < len(text):
        text = text[preamble.end() :].strip()
    if read_quantity(text) is not None:
        return Leaf(text)
    for read in (_list, _relation, _union, _brackets, _matrix, _plus_minus, _ratio):
        node = read(text)
        if node is not None:
            return node
    return Leaf(text)


def is_label(node: Node) -> bool:
    r"""Whether a side of an equation only names what is asked: x, f(x), \angle A, Area."""
    if isinstance(node, Group):
        return node.kind == "()" and all(is_label(item) for item in node.items)  # (x, y)
    if not isinstance(node, Leaf) or node.text in _CONSTANTS:
        return False
    return _LABEL.fullmatch(node.text) is not None


def _top_tokens(text: str) -> Iterator[re.Match[str]]:
    """The tokens of `text` that are inside no bracket."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in (r"\{", "(", "[", "{") or token.startswith(r"\begin{"):
            depth += 1
        elif token in (r"\}", ")", "]", "}") or token.startswith(r"\end{"):
            depth -= 1
        elif depth == 0:
            yield match


def _split(text: str, separators: Sequence[str]) -> list[str]:
    """Cut `text` at separators that are inside no bracket."""
    pieces, start = [], 0
    for match in _top_tokens(text):
        if match.group() in separators:
            pieces.append(text[start : match.start()])
            start = match.end()
    return [piece.strip() for piece in [*pieces, text[start:]]]


def _group(kind: str, pieces: Sequence[str]) -> Group:
    if len(pieces) > MAX_ITEMS:
        raise AnswerTooLarge(f"a group has {len(pieces)} members, more than {MAX_ITEMS}")
    return Group(kind, tuple(read_structure(piece) for piece in pieces))


def _list(text: str) -> Node | None:
    text = _CONNECTIVE.sub(" , ", text)
    separators = [
        match
        for match in _top_tokens(text)
        if match.group() in ",;" and not _THOUSANDS.match(text, match.start())
    ]
    if not separators:
        return None
    edges = [0, *(edge for match in separators for edge in match.span()), len(text)]
    pieces = [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return _group("list", [piece for piece in pieces if piece])


def _relation(text: str) -> Node | None:
    exact, *approximations = _split(text, [r"\approx"])
    if approximations:
        if _LABEL.fullmatch(exact) and exact not in _CONSTANTS:
            exact += "=" + approximations[-1]
        return read_structure(exact)
    signs = [match for match in _top_tokens(text) if match.group() in _RELATIONS]
    if not signs:
        return None
    if len(signs) > MAX_ITEMS:
        raise AnswerTooLarge(f"a chain of {len(signs)} relations, more than {MAX_ITEMS}")
    parts = _split(text, list(_RELATIONS))
    operators = tuple(_RELATIONS[match.group()] for match in signs)
    return Relation(tuple(read_structure(part) for part in parts), operators)


def _union(text: str) -> Node | None:
    pieces = _split(text, [r"\cup"])
    return _group("union", pieces) if len(pieces) > 1 else None


def _brackets(text: str) -> Node | None:
    if text == r"\emptyset":
        return Group("set", ())
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    closing = r"\}" if text.endswith(r"\}") else text[-1:]
    if (opening == r"\{") != (closing == r"\}") or opening not in (r"\{", "(", "["):
        return None
    if closing not in (r"\}", ")", "]") or not _closes_at_end(text):
        return None
    inside = text[len(opening) : len(text) - len(closing)].strip()
    if opening == r"\{":
        if builder := _SET_BUILDER.fullmatch(inside):
            return read_structure(builder.group(1))
        return _group("set", [piece for piece in _split(inside, [",", ";"]) if piece])
    pieces = _split(inside, [",", ";"])
    if len(pieces) > 1:
        return _group(opening + closing, pieces)
    return read_structure(inside) if opening + closing in ("()", "[]") and inside else None


def _closes_at_end(text: str) -> bool:
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += (token in (r"\{", "(", "[", "{")) - (token in (r"\}", ")", "]", "}"))
        if depth == 0:
            return match.end() == len(text)
    return False


def _matrix(text: str) -> Node | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [row for row in _split(_ROW_SPACING.sub(r"\1", match.group(2)), ["\\\\"]) if row]
    if len(rows) > MAX_ITEMS:
        raise AnswerTooLarge(f"a matrix has {len(rows)} rows, more than {MAX_ITEMS}")
    return Group("matrix", tuple(_group("row", _split(row, ["&"])) for row in rows))


def _plus_minus(text: str) -> Node | None:
    if not _PLUS_MINUS.search(text):
        return None
    upper = _PLUS_MINUS.sub(lambda match: "+" if match[1] == "pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda match: "-" if match[1] == "pm" else "+", text)
    return _group("list", [upper.lstrip("+ "), lower.lstrip("+ ")])


def _ratio(text: str) -> Node | None:
    pieces = _split(text, [":"])
    return _group("ratio", pieces) if len(pieces) > 1 and all(pieces) else None
