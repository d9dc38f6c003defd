r"""Whether a candidate's answer equals the reference: structure first, then leaf by leaf.

Sets, lists and unions are compared without order, tuples, intervals and matrices with it. Leaves
that are numbers or words are decided exactly; only what is left goes to `symbolic`, which is
imported on first use so that arithmetic tasks never load sympy.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from grpo_verifiers.math.exact import (
    Percent,
    Quantity,
    read_based,
    read_quantity,
    same_quantity,
)
from grpo_verifiers.math.structure import Group, Leaf, Node, Relation, is_label
from grpo_verifiers.math.units import is_unit_suffix

_UNORDERED = ("list", "set", "union")
_SPACES = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_][\w\s.,'’()-]*")
_SHORT_WORDS = frozenset(["yes", "no", "odd", "red", "tie", "am", "pm", "sun", "mon", "may"])
_NAME = re.compile(
    r"\\(?:mathbb|overline|vec|angle|triangle)\s*(?:[A-Za-z]{1,4}|\{[A-Za-z]{1,4}\})"
)
_INFINITY = re.compile(r"[+-]?\s*\\infty")
_TRAILING_TEXT = re.compile(r"(?:\s*\\text\{[^{}0-9]*\}(?:\^\{[23]\})?)+$")


class Comparison:
    """Compares a candidate with a reference, and remembers what it took.

    Attributes:
        symbolic: True once sympy was needed.
        reason: why the last comparison failed, for people; empty if nothing special is to be said.
    """

    def __init__(self, percent: Percent = "either", tolerance: Fraction = Fraction(0)) -> None:
        self.percent = percent
        self.tolerance = tolerance
        self.symbolic = False
        self.reason = ""

    def equal(self, gold: Node, candidate: Node) -> bool:
        """Whether two answers are equal.

        Raises:
            AnswerError: if an expression cannot be read, or is too large to evaluate.
        """
        if isinstance(gold, Relation) and isinstance(candidate, Relation):
            return self._equal_relations(gold, candidate)
        if isinstance(candidate, Relation):
            value = interval(candidate) or self._solved(candidate)
            return value is not None and self.equal(gold, value)
        if isinstance(gold, Relation):
            value = interval(gold) or _named_value(gold)
            return value is not None and self.equal(value, candidate)
        gold, candidate = _unwrapped(gold), _unwrapped(candidate)
        if isinstance(gold, Leaf) and isinstance(candidate, Leaf):
            return self._equal_leaves(gold.text, candidate.text)
        if isinstance(gold, Group) and isinstance(candidate, Group):
            return self._equal_groups(gold, candidate)
        if isinstance(candidate, Group):
            self.reason = f"{len(candidate.items)} answers were given where one is asked for"
        return False

    def check_readable(self, node: Node) -> None:
        """Read everything in a reference that a candidate may have to be compared with.

        Raises:
            AnswerError: if a part is neither a number nor words nor an expression with a value.
        """
        if isinstance(node, Group):
            for item in node.items:
                self.check_readable(item)
        elif isinstance(node, Relation):
            for part in node.parts:
                if not is_label(part):
                    self.check_readable(part)
        else:
            text = node.text
            known: object = read_quantity(text) or read_based(text) or _words(text)
            if not (known or _INFINITY.fullmatch(text) or _NAME.fullmatch(text)):
                _symbolic().check_expression(without_unit(text))

    def _equal_groups(self, gold: Group, candidate: Group) -> bool:
        alike = gold.kind == candidate.kind or {gold.kind, candidate.kind} == {"list", "set"}
        if not alike or len(gold.items) != len(candidate.items):
            if len(candidate.items) != len(gold.items):
                self.reason = f"{len(candidate.items)} answers, {len(gold.items)} expected"
            return False
        if gold.kind not in _UNORDERED:
            pairs = zip(gold.items, candidate.items, strict=True)
            return all(self.equal(a, b) for a, b in pairs)
        left = list(candidate.items)
        for wanted in gold.items:
            found = next((item for item in left if self.equal(wanted, item)), None)
            if found is None:
                return False
            left.remove(found)
        return True

    def _equal_relations(self, gold: Relation, candidate: Relation) -> bool:
        intervals = interval(gold), interval(candidate)
        if intervals[0] is not None and intervals[1] is not None:
            same_variable = key(_variable(gold)) == key(_variable(candidate))
            return same_variable and self.equal(intervals[0], intervals[1])
        if set(gold.operators) == {"="} == set(candidate.operators):
            return self._equal_equations(gold, candidate)
        for relation in (candidate, candidate.mirrored()):
            if relation.operators == gold.operators:
                pairs = zip(gold.parts, relation.parts, strict=True)
                if all(self.equal(a, b) for a, b in pairs):
                    return True
        return False

    def _equal_equations(self, gold: Relation, candidate: Relation) -> bool:
        names = [part for part in gold.parts if is_label(part)]
        others = [part for part in candidate.parts if is_label(part)]
        if len(names) == len(others) == 1 and key(names[0]) == key(others[0]):
            value, solved = _named_value(gold), self._solved(candidate)
            return value is not None and solved is not None and self.equal(value, solved)
        sides = [part for part in (*gold.parts, *candidate.parts) if isinstance(part, Leaf)]
        if len(sides) != 4 or len(gold.parts) != 2:
            return False
        if len(names) == 1 and _is_number(_named_value(gold)):
            return False  # x = 3 asks for just that: neither y = 3 nor 2x = 6
        self.symbolic = True
        texts = [without_unit(side.text) for side in sides]
        return bool(_symbolic().same_equation((texts[0], texts[1]), (texts[2], texts[3])))

    def _solved(self, relation: Relation) -> Node | None:
        """What an equation says the answer is; None if it contradicts itself or says nothing."""
        if set(relation.operators) != {"="}:
            return None
        parts = relation.parts
        values = [part for part in parts if not is_label(part)]
        if len(values) == len(parts):
            values = [part for part in parts if not _names_several(part)]
        if not values:
            return parts[-1]
        for other in values[:-1]:
            if not self.equal(other, values[-1]):
                self.reason = "the sides of the equation differ, or it still has to be solved"
                return None
        return values[-1]

    def _equal_leaves(self, gold: str, candidate: str) -> bool:
        if gold == candidate or _compact(gold) == _compact(candidate):
            return True
        decided = self._equal_exactly(gold, candidate)
        if decided is not None:
            return decided
        self.symbolic = True
        texts = without_unit(gold), without_unit(candidate)
        return bool(_symbolic().same_value(*texts, self.tolerance))

    def _equal_exactly(self, gold: str, candidate: str) -> bool | None:
        """Decide numbers and words; None where it takes an evaluation."""
        bases = read_based(gold), read_based(candidate)
        if bases[0] and bases[1]:
            return bases[0] == bases[1]
        if bases[0] or bases[1]:
            digits = [
                b.digits if b else text for b, text in zip(bases, (gold, candidate), strict=True)
            ]
            return digits[0] == digits[1].upper()
        first, second = read_quantity(gold), read_quantity(candidate)
        if first and second:
            return self.same_number(first, second)
        if _INFINITY.fullmatch(gold) or _INFINITY.fullmatch(candidate):
            return _compact(gold).lstrip("+") == _compact(candidate).lstrip("+")
        words = _words(gold), _words(candidate)
        if words[0] or words[1]:
            return words[0] == words[1]
        if _NAME.fullmatch(gold) or _NAME.fullmatch(candidate):
            return False  # \mathbb{R} and the like equal nothing but themselves
        return None

    def same_number(self, gold: Quantity, candidate: Quantity) -> bool:
        """Whether two numbers are equal under the options."""
        return same_quantity(gold, candidate, percent=self.percent, tolerance=self.tolerance)


def interval(relation: Relation) -> Group | None:
    r"""The interval that x > 3, 3 < x or 1 < x \leq 2 describes, or None."""
    operators = relation.operators
    if all(operator in ("<", "<=") for operator in operators):
        parts = relation.parts
    elif all(operator in (">", ">=") for operator in operators):
        relation = relation.mirrored()
        parts, operators = relation.parts, relation.operators
    else:
        return None
    brackets = ["[" if operators[0] == "<=" else "(", "]" if operators[-1] == "<=" else ")"]
    if len(parts) == 3 and is_label(parts[1]):
        return Group("".join(brackets), (parts[0], parts[2]))
    if len(parts) == 2 and is_label(parts[0]):
        return Group("(" + brackets[1], (Leaf(r"-\infty"), parts[1]))
    if len(parts) == 2 and is_label(parts[1]):
        return Group(brackets[0] + ")", (parts[0], Leaf(r"\infty")))
    return None


def key(node: Node | None) -> str:
    """A leaf's text without spaces; empty for anything else."""
    return _compact(node.text) if isinstance(node, Leaf) else ""


def without_unit(text: str) -> str:
    r"""An expression without the unit in `\text{}` behind it."""
    match = _TRAILING_TEXT.search(text)
    return text[: match.start()] if match and is_unit_suffix(match.group()) else text


def _variable(relation: Relation) -> Node | None:
    return next((part for part in relation.parts if is_label(part)), None)


def _named_value(relation: Relation) -> Node | None:
    """The value of `name = value` or `value = name`."""
    if set(relation.operators) != {"="} or _variable(relation) is None:
        return None
    values = [part for part in relation.parts if not is_label(part)]
    return values[-1] if values else relation.parts[-1]


def _names_several(node: Node) -> bool:
    r"""Whether a side such as m + n or \frac{a}{b} combines quantities that have been asked for."""
    if not isinstance(node, Leaf) or read_quantity(node.text) is not None:
        return False
    letters = re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+|_\{[^{}]*\}", " ", node.text))
    names = set(letters) - {"e", "i"}
    return len(names) > 1 or (len(names) == 1 and not re.search(r"[0-9]", node.text))


def _is_number(node: Node | None) -> bool:
    return isinstance(node, Leaf) and read_quantity(node.text) is not None


def _unwrapped(node: Leaf | Group) -> Node:
    if isinstance(node, Group) and len(node.items) == 1 and node.kind in ("list", "set"):
        return node.items[0]
    return node


def _compact(text: str) -> str:
    return _SPACES.sub("", _TEXT.sub(r"\1", text))


def _words(text: str) -> str | None:
    """Words in lower case, if words are what the text is."""
    plain = _TEXT.sub(r" \1 ", text)
    if "\\" in plain or _WORDS.fullmatch(plain.strip(" ()")) is None:
        return None
    words: Sequence[str] = re.findall(r"[^\W_]+", plain.lower())
    is_text = plain != text or any(len(word) > 3 or word in _SHORT_WORDS for word in words)
    return " ".join(words) if is_text else None


def _symbolic() -> Any:
    # On first use only: sympy and its parser take half a second and 60 MB.
    return importlib.import_module("grpo_verifiers.math.symbolic")
