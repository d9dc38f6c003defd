"""Equations and inequalities: what they say the answer is, and when two of them say the same."""

from __future__ import annotations

import re
from collections.abc import Callable

from grpo_verifiers.math.exact import read_quantity
from grpo_verifiers.math.leaves import LeafComparison, compact, expressions
from grpo_verifiers.math.nodes import MIRRORED, Group, Leaf, Node, Relation
from grpo_verifiers.math.structure import is_label
from grpo_verifiers.math.units import split_unit
from grpo_verifiers.math.words import names_another_word

Equal = Callable[[Node, Node], bool]

CONTRADICTION = "the sides of the equation differ, or it still has to be solved"


def same_relation(
    gold: Relation, candidate: Relation, leaves: LeafComparison, equal: Equal
) -> bool:
    """Whether two relations say the same.

    Raises:
        AnswerError: if a side cannot be read, or is too large to evaluate.
    """
    if set(gold.operators) == {"="} == set(candidate.operators):
        return _same_equation(gold, candidate, leaves, equal)
    for relation in (candidate, candidate.mirrored()):
        if relation.operators == gold.operators and all(
            equal(a, b) for a, b in zip(gold.parts, relation.parts, strict=True)
        ):
            return True
    if len(gold.operators) != 1 or len(candidate.operators) != 1:
        return False
    sign = _proportion(gold, candidate, leaves)
    operator = candidate.operators[0] if sign > 0 else MIRRORED[candidate.operators[0]]
    return sign != 0 and operator == gold.operators[0]


def named_value(relation: Relation) -> Node | None:
    """The value of `name = value` or `value = name`."""
    if set(relation.operators) != {"="} or not any(is_label(part) for part in relation.parts):
        return None
    values = [part for part in relation.parts if not is_label(part)]
    return values[-1] if values else relation.parts[-1]


def solved(relation: Relation, equal: Equal) -> Node | None:
    """What an equation says the answer is; None if it contradicts itself or says nothing."""
    if set(relation.operators) != {"="}:
        return None
    parts = relation.parts
    values = [part for part in parts if not is_label(part)]
    if len(values) == len(parts):
        values = [part for part in parts if not _names_several(part)]
    if not values:
        two_words = any(_are_two_words(part, parts[-1]) for part in parts[:-1])
        return None if two_words else parts[-1]
    if all(equal(other, values[-1]) for other in values[:-1]):
        return values[-1]
    return None


def _are_two_words(label: Node, value: Node) -> bool:
    """Whether both sides are words, or letters of options, so that none names the other."""
    if not isinstance(label, Leaf) or not isinstance(value, Leaf):
        return False
    letters = re.fullmatch(r"[A-J] [A-J]", f"{label.text} {value.text}")
    return letters is not None or names_another_word(label.text, value.text)


def assignments(node: Node) -> dict[str, Node] | None:
    """Values by their names: of `x = 1, y = 2` and of `(x, y) = (1, 2)`; None for anything else."""
    if isinstance(node, Relation):
        names, values = node.parts[0], node.parts[-1]
        if not (isinstance(names, Group) and isinstance(values, Group) and is_label(names)):
            return None
        if len(node.parts) != 2 or names.kind != "()" or len(names.items) != len(values.items):
            return None
        pairs = list(zip(names.items, values.items, strict=True))
    elif isinstance(node, Group) and node.kind == "list":
        pairs = []
        for item in node.items:
            value = named_value(item) if isinstance(item, Relation) else None
            if value is None or not isinstance(item, Relation) or len(item.parts) != 2:
                return None
            pairs.append((next(part for part in item.parts if is_label(part)), value))
    else:
        return None
    found = {key(name): value for name, value in pairs}
    return found if len(found) == len(pairs) > 1 else None


def key(node: Node | None) -> str:
    """A leaf's text without spaces; empty for anything else."""
    return compact(node.text) if isinstance(node, Leaf) else ""


def _same_equation(
    gold: Relation, candidate: Relation, leaves: LeafComparison, equal: Equal
) -> bool:
    names = [part for part in gold.parts if is_label(part)]
    others = [part for part in candidate.parts if is_label(part)]
    any_name = leaves.config.variables == "any"
    if names and others and (names[0] == others[0] or any_name or key(names[0]) == key(others[0])):
        value, answer = named_value(gold), solved(candidate, equal)
        if value is not None and answer is not None and equal(value, answer):
            return True
    if len(gold.parts) != 2 or len(candidate.parts) != 2:
        return False
    if len(names) == 1 and _is_number(named_value(gold)):
        return False  # x = 3 asks for just that: neither y = 3 nor 2x = 6
    return _proportion(gold, candidate, leaves) != 0


def _proportion(gold: Relation, candidate: Relation, leaves: LeafComparison) -> int:
    sides = [part for part in (*gold.parts, *candidate.parts) if isinstance(part, Leaf)]
    if len(sides) != 4:
        return 0
    leaves.stage = "numeric"
    texts = [split_unit(side.text)[0] for side in sides]
    pairs = (texts[0], texts[1]), (texts[2], texts[3])
    return int(expressions().proportion(*pairs, leaves.budget))


def _names_several(node: Node) -> bool:
    r"""Whether a side such as m + n or \frac{a}{b} combines quantities that have been asked for."""
    if not isinstance(node, Leaf) or read_quantity(node.text) is not None:
        return False
    letters = re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+|_\{[^{}]*\}", " ", node.text))
    names = set(letters) - {"e", "i"}
    return len(names) > 1 or (len(names) == 1 and not re.search(r"[0-9]", node.text))


def _is_number(node: Node | None) -> bool:
    return isinstance(node, Leaf) and read_quantity(node.text) is not None
