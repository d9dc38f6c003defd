"""What an answer can be: an expression, a group of answers, or a relation between them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# What may stand on one side of an equation and only name what is asked.
_NAME = r"(?:\\[a-zA-Z]+|\\text\{[^{}]*\}|[A-Za-z][A-Za-z ]{0,40})"
LABEL = re.compile(
    rf"(?:\\(?!frac)[a-zA-Z]+\s*)?{_NAME}(?:_\{{[^{{}}]*\}}|'|\^\{{-1\}}|\^\{{\([0-9a-z]+\)\}})*"
    r"\s*(?:\([^()=]*\))?"
    r"|\\(?:overline|vec|overrightarrow|hat|bar|mathbf|widehat)\s*\{[A-Za-z]{1,4}\}"
    r"|m?\s*\\(?:angle|triangle|measuredangle)\s*\{?[A-Za-z]{1,4}\}?"
    r"|m\s*\(\s*\\angle [A-Z]{1,3}\s*\)"
    r"|\|\s*(?:[A-Z]{2}|[A-Z](?:\s*\\c[ua]p\s*[A-Z])+)\s*\||[A-Z]_\{[^{}]*\}"
    r"|\\frac\{\s*d?[a-z]\s*\}\{\s*d[a-z]\s*\}"
    r"|\\frac\{(?:[A-Z]{2,4}|[A-Z]_\{[^{}]*\})\}\{(?:[A-Z]{2,4}|[A-Z]_\{[^{}]*\})\}"
)
CONSTANTS = frozenset([r"\pi", r"\infty", r"\emptyset", "e", "i"])
MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One expression, number, or word, as canonical text."""

    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several answers.

    Attributes:
        kind: "list" (bare commas), "set", "union", "without" (a set less another), "ratio",
            "modulo" (residue and modulus), "matrix" (of "row" groups), or the two brackets round a
            tuple or interval: "()", "(]", "[)", "[]".
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
        operators = tuple(MIRRORED[operator] for operator in reversed(self.operators))
        return Relation(tuple(reversed(self.parts)), operators)


Node = Leaf | Group | Relation
