r"""The shape of an answer: a single expression, a group of them, or a relation between them.

    3 \text{ or } 4                 Group("list", 3, 4)
    (1, 2]                          Group("(]", 1, 2)        tuple or interval
    (-\infty,1)\cup(2,\infty)       Group("union", Group("()", ...), Group("()", ...))
    x = 8 = 7                       Relation((x, 8, 7), ("=", "="))
    2x + 1                          Leaf("2x + 1")

Only brackets, separators and relation signs at the outermost level are looked at, so this needs no
grammar of expressions; leaves are compared by `leaves`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from grpo_verifiers.math.exact import read_quantity
from grpo_verifiers.math.limits import MAX_ITEMS, AnswerTooLarge
from grpo_verifiers.math.matrices import read_determinant, read_matrix
from grpo_verifiers.math.nodes import CONSTANTS, LABEL, Group, Leaf, Node, Relation
from grpo_verifiers.math.splitting import closes_at_end, split, top_tokens
from grpo_verifiers.math.words import clock

_CONNECTIVE = re.compile(
    r"(?:,\s*|(?<=[\s)}\]0-9]))(or|and)(?=[\s(\\])|(?<=[0-9)}])(or)(?=[A-Za-z]\S*=)"
)
_OR = re.compile(r"(?<=[\s)}\]])or(?=[\s(\\])")
_THOUSANDS = re.compile(r"(?<=[0-9])(?<!\b0),(?=[0-9]{3}(?![0-9]))")
_RELATIONS = {
    **{"=": "=", "<": "<", ">": ">", r"\leq": "<=", r"\geq": ">=", r"\neq": "!="},
    r"\equiv": "=",
}
_INEQUALITIES = frozenset(["<", "<=", ">", ">="])
_SET_BUILDER = re.compile(r"([a-zA-Z])\s*(?:\\in\s*\\mathbb\{?R\}?\s*)?(?:\||:)(.+)")
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
# A condition that is no part of the answer: k \in \mathbb{Z}.
_CONDITION = re.compile(
    r"(?:where |for )?[a-z](?:\s*,\s*[a-z])*\s*\\in\s*\\mathbb\{[A-Z]\}(?:\s*[_^]\{[^{}]*\})?"
    r"|(?:\\text\{)?\s*(?:where|for)\b.*(?:integer|real|natural)[^{}0-9]*\}?"
)
_CASES = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_MODULUS = re.compile(r"(.+?)\s*\(?\s*\\(?:pmod|mod|bmod)\s*(?:\{([^{}]*)\}|([0-9a-zA-Z]+))\s*\)?")
# "either", "x \in", "The answer is", "Answer:", "\text{The area is }" in front of an answer.
_PREAMBLE = re.compile(
    r"(?:either|both)\s+|(?:[a-zA-Z]|\([a-z](?:\s*,\s*[a-z])*\))\s*\\in(?![a-zA-Z])"
    r"|(?:[A-Za-z]+\s+){0,8}(?:is|are|equals)\s+(?!not\b)"
    r"|(?!lambda\b|and\b|or\b)[A-Z][A-Za-z ]{2,40}:(?=\s)"
    r"|(?!lambda\b)[a-z]+(?: [a-z]+){1,5}:(?=\s)"
    r"|\\text\{[^{}0-9]*(?:\b(?:is|are|equals)|:|=)\s*\}"
)


def read_structure(text: str) -> Node:
    """The shape of a canonical text.

    Raises:
        AnswerTooLarge: if a group has more than `MAX_ITEMS` members, or a number is too long.
    """
    text = text.strip()
    while (preamble := _PREAMBLE.match(text)) and preamble.end() < len(text):
        text = text[preamble.end() :].strip()
    if text.startswith("|") and LABEL.fullmatch(text):
        return Leaf(text)
    if read_quantity(text) is not None or (":" in text and clock(text) is not None):
        return Leaf(text)
    readers = (_cases, _list, _modulo, _relation, _union, _brackets, _matrix, _plus_minus, _ratio)
    for read in readers:
        node = read(text)
        if node is not None:
            return node
    return Leaf(text)


def is_label(node: Node) -> bool:
    r"""Whether a side of an equation only names what is asked: x, f(x), \angle A, Area, a:b."""
    if isinstance(node, Group):
        return node.kind in ("()", "ratio") and all(is_label(item) for item in node.items)
    if not isinstance(node, Leaf) or node.text in CONSTANTS:
        return False
    return LABEL.fullmatch(node.text) is not None


def _group(kind: str, pieces: Sequence[str]) -> Group:
    if len(pieces) > MAX_ITEMS:
        raise AnswerTooLarge(f"a group has {len(pieces)} members, more than {MAX_ITEMS}")
    return Group(kind, tuple(read_structure(piece) for piece in pieces))


def _cases(text: str) -> Node | None:
    """A system of equations, as a list of them."""
    match = _CASES.fullmatch(text)
    if match is None or "&" in match[1]:
        return None
    return _group("list", [row for row in split(match[1], ["\\\\", ","]) if row])


def _list(text: str) -> Node | None:
    """Answers with commas, semicolons, "or" or "and" between them.

    Where `;` or "or" separates lists, as in `x=1, y=2; x=3, y=4`, it is a list of lists.
    """
    text = text.replace(r"\text{or}", " or ").replace(r"\text{and}", " and ")
    for outer in (";", " or "):
        parts = split(_OR.sub(";", text) if outer == " or " else text, [";"])
        parts = [part for part in parts if part]
        if len(parts) > 1 and all("=" in part and len(split(part, [","])) > 1 for part in parts):
            return _group("list", parts)
    connectives = {match[1] or match[2] for match in _CONNECTIVE.finditer(text)}
    text = _CONNECTIVE.sub(" , ", text)
    separators = [
        match
        for match in top_tokens(text)
        if match.group() in ",;" and not _THOUSANDS.match(text, match.start())
    ]
    if not separators:
        return None
    edges = [0, *(edge for match in separators for edge in match.span()), len(text)]
    pieces = [text[a:b].strip() for a, b in zip(edges[::2], edges[1::2], strict=True)]
    pieces = [piece for piece in pieces if piece]
    kept = [piece for piece in pieces if not _CONDITION.fullmatch(piece)]
    group = _group("list", kept or pieces)
    if len(connectives) == 1 and all(_is_inequality(item) for item in group.items):
        return Group("union" if connectives == {"or"} else "both", group.items)
    return group.items[0] if len(group.items) == 1 < len(pieces) else group


def _is_inequality(node: Node) -> bool:
    return isinstance(node, Relation) and all(sign in _INEQUALITIES for sign in node.operators)


def _modulo(text: str) -> Node | None:
    r"""A residue, `3 \pmod{7}` or `x \equiv 3 \pmod{7}`; or a remainder, `15 \bmod 8`."""
    if r"mod" not in text or (match := _MODULUS.fullmatch(text)) is None:
        return None
    *names, residue = split(match[1], ["=", r"\equiv"])
    if len(names) > 1 or not all(LABEL.fullmatch(name) for name in names):
        return None
    modulus = match[2] or match[3]
    numbers = [read_quantity(part) for part in (residue, modulus)]
    if not names and r"\pmod" not in text and numbers[0] and numbers[1] and numbers[1].value:
        return Leaf(str(numbers[0].value % numbers[1].value))
    group = Group("modulo", (read_structure(residue), read_structure(modulus)))
    return Relation((Leaf(names[0]), group), ("=",)) if names else group


def _relation(text: str) -> Node | None:
    exact, *approximations = split(text, [r"\approx"])
    if approximations:
        if not exact or (LABEL.fullmatch(exact) and exact not in CONSTANTS):
            exact = f"{exact}={approximations[-1]}" if exact else approximations[-1]
        return read_structure(exact)
    signs = [match for match in top_tokens(text) if match.group() in _RELATIONS]
    if not signs:
        return None
    if len(signs) > MAX_ITEMS:
        raise AnswerTooLarge(f"a chain of {len(signs)} relations, more than {MAX_ITEMS}")
    parts = split(text, list(_RELATIONS))
    operators = tuple(_RELATIONS[match.group()] for match in signs)
    return Relation(tuple(read_structure(part) for part in parts), operators)


def _union(text: str) -> Node | None:
    for sign, kind in ((r"\cup", "union"), (r"\setminus", "without")):
        pieces = split(text, [sign])
        if len(pieces) > 1:
            return _group(kind, pieces)
    return None


def _brackets(text: str) -> Node | None:
    if text == r"\emptyset":
        return Group("set", ())
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    closing = r"\}" if text.endswith(r"\}") else text[-1:]
    if (opening == r"\{") != (closing == r"\}") or opening not in (r"\{", "(", "["):
        return None
    if closing not in (r"\}", ")", "]") or not closes_at_end(text):
        return None
    inside = text[len(opening) : len(text) - len(closing)].strip()
    if opening == r"\{":
        if builder := _SET_BUILDER.fullmatch(inside):
            return read_structure(builder.group(2))
        inside = _CONNECTIVE.sub(" , ", inside)
        return _group("set", [piece for piece in split(inside, [",", ";"]) if piece])
    pieces = split(inside, [",", ";"])
    if len(pieces) > 1:
        return _group(opening + closing, pieces)
    return read_structure(inside) if opening + closing in ("()", "[]") and inside else None


def _matrix(text: str) -> Node | None:
    if determinant := read_determinant(text):
        return Leaf(determinant)
    rows = read_matrix(text)
    return None if rows is None else Group("matrix", tuple(_group("row", row) for row in rows))


def _plus_minus(text: str) -> Node | None:
    if not _PLUS_MINUS.search(text):
        return None
    upper = _PLUS_MINUS.sub(lambda match: "+" if match[1] == "pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda match: "-" if match[1] == "pm" else "+", text)
    return _group("list", [upper.lstrip("+ "), lower.lstrip("+ ")])


def _ratio(text: str) -> Node | None:
    pieces = split(text, [":"])
    return _group("ratio", pieces) if len(pieces) > 1 and all(pieces) else None
