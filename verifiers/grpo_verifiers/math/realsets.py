r"""Sets of real numbers: intervals, unions, inequalities, and what they have in common.

`x \leq 3`, `(-\infty,3]`, `x < 1 \text{ or } x > 2`, `\mathbb{R}\setminus\{2\}` and `|x| < 2` all
become a sorted row of pieces, which are compared end by end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from grpo_verifiers.math.leaves import constant
from grpo_verifiers.math.limits import Budget
from grpo_verifiers.math.nodes import Group, Leaf, Node, Relation
from grpo_verifiers.math.structure import is_label

_BRACKETS = ("()", "(]", "[)", "[]")
_BELOW = Leaf(r"-\infty")
_ABOVE = Leaf(r"\infty")
_REALS = (r"\mathbb{R}", r"\text{all real numbers}", "all real numbers", "all reals")


@dataclass(frozen=True, slots=True)
class End:
    """An end of a piece: where it is, roughly where, and whether it belongs to the piece."""

    node: Leaf
    value: float
    closed: bool


Piece = tuple[End, End]


def is_real_set(node: Node) -> bool:
    """Whether an answer can only be meant as a set of real numbers, not as a tuple or a list."""
    if isinstance(node, Leaf):
        return node.text in _REALS
    if isinstance(node, Relation):
        return interval(node) is not None or _is_apart(node)
    if node.kind in ("union", "without", "both"):
        return True
    if node.kind == "list":
        return all(isinstance(item, Relation) and is_real_set(item) for item in node.items)
    infinite = any(isinstance(item, Leaf) and r"\infty" in item.text for item in node.items)
    return node.kind in ("(]", "[)") or (node.kind in _BRACKETS and infinite)


def pieces_of(node: Node, budget: Budget) -> list[Piece] | None:
    """The pieces of a set, sorted and joined; None if the answer is no set of known numbers."""
    pieces = _pieces(node, budget)
    if pieces is None:
        return None
    return _joined(sorted(pieces, key=lambda piece: (piece[0].value, not piece[0].closed)))


def variable(node: Node) -> Leaf | None:
    """The variable that an inequality, or a row of them, is about."""
    if isinstance(node, Group):
        return next((name for item in node.items if (name := variable(item))), None)
    if not isinstance(node, Relation):
        return None
    for part in node.parts:
        inner = _inside_bars(part)
        if isinstance(inner or part, Leaf) and is_label(inner or part):
            return inner or part  # type: ignore[return-value]
    return None


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
    bars = [_inside_bars(part) for part in parts]
    if len(parts) == 2 and bars[0] is not None and isinstance(parts[1], Leaf):
        opening = "[" if operators[0] == "<=" else "("
        return Group(opening + brackets[1], (Leaf(f"-({parts[1].text})"), parts[1]))
    if any(bars):
        return None
    if len(parts) == 3 and is_label(parts[1]):
        return Group("".join(brackets), (parts[0], parts[2]))
    if len(parts) == 2 and is_label(parts[0]) and not is_label(parts[1]):
        return Group("(" + brackets[1], (_BELOW, parts[1]))
    if len(parts) == 2 and is_label(parts[1]) and not is_label(parts[0]):
        return Group(brackets[0] + ")", (parts[0], _ABOVE))
    return None


def _is_apart(relation: Relation) -> bool:
    r"""Whether it is x \neq 2, |x| > 2, or 1 < |x| < 2."""
    if relation.operators == ("!=",):
        return any(is_label(part) for part in relation.parts)
    return len(relation.parts) in (2, 3) and any(_inside_bars(part) for part in relation.parts)


def _inside_bars(node: Node) -> Leaf | None:
    if not isinstance(node, Leaf) or not node.text.startswith("|") or not node.text.endswith("|"):
        return None
    inner = Leaf(node.text[1:-1].strip())
    return inner if is_label(inner) and not inner.text.isupper() else None


def _pieces(node: Node, budget: Budget) -> list[Piece] | None:
    if isinstance(node, Leaf):
        return (
            [(End(_BELOW, -math.inf, False), End(_ABOVE, math.inf, False))]
            if node.text in _REALS
            else None
        )
    if isinstance(node, Relation):
        inside = interval(node)
        return _pieces(inside, budget) if inside else _apart(node, budget)
    if node.kind in _BRACKETS and len(node.items) == 2:
        ends = [
            _end(item, side in "[]", budget)
            for item, side in zip(node.items, node.kind, strict=True)
        ]
        return None if ends[0] is None or ends[1] is None else [(ends[0], ends[1])]
    if node.kind == "set":
        points = [_end(item, True, budget) for item in node.items]
        return None if None in points else [(point, point) for point in points if point]
    if node.kind == "list" and (left_out := _left_out(node)):
        return _pieces(_reals_without(left_out), budget)
    if node.kind in ("union", "list", "both"):
        return _several(node, budget)
    return _without(node, budget) if node.kind == "without" else None


def _left_out(node: Group) -> tuple[Node, ...]:
    r"""The points of `x \neq 1, x \neq 2`; none if the list is anything else."""
    points: list[Node] = []
    for item in node.items:
        if not isinstance(item, Relation) or item.operators != ("!=",):
            return ()
        point = next((part for part in item.parts if not is_label(part)), item.parts[0])
        points += point.items if isinstance(point, Group) else [point]
    return tuple(points)


def _reals_without(points: tuple[Node, ...]) -> Group:
    return Group("without", (Leaf(_REALS[0]), Group("set", points)))


def _several(node: Group, budget: Budget) -> list[Piece] | None:
    """A union, or what its parts have in common.

    Inequalities with just a comma between them, which overlap, hold together: x > 1, x < 3.
    """
    found = [_pieces(item, budget) for item in node.items]
    if any(pieces is None for pieces in found):
        return None
    if (
        node.kind in ("list", "both")
        and len(found) == 2
        and all(len(pieces or ()) == 1 for pieces in found)
    ):
        (first,), (second,) = found[0] or [], found[1] or []
        low = max(first[0], second[0], key=lambda end: end.value)
        high = min(first[1], second[1], key=lambda end: end.value)
        if low.value < high.value:
            return [(low, high)]
    if node.kind == "both":
        return None if len(found) != 2 else []
    return [piece for pieces in found for piece in pieces or ()]


def _apart(relation: Relation, budget: Budget) -> list[Piece] | None:
    """The pieces of an inequality that leaves out a middle."""
    if relation.operators == ("!=",):
        if any(isinstance(part, Group) for part in relation.parts):  # x \neq \pm 3
            points = _left_out(Group("list", (relation,)))
            return _pieces(_reals_without(points), budget) if points else None
        point = next((part for part in relation.parts if not is_label(part)), None)
        return _around(point, point, False, budget)
    if any(operator in (">", ">=") for operator in relation.operators):
        relation = relation.mirrored()
    if any(operator not in ("<", "<=") for operator in relation.operators):
        return None
    first, *_, last = relation.parts
    closed = relation.operators[0] == "<="
    if not isinstance(first, Leaf) or _inside_bars(relation.parts[1]) is None:
        return None
    below = Leaf(f"-({first.text})")
    if len(relation.parts) == 2:
        return _around(below, first, closed, budget)
    if not isinstance(last, Leaf):
        return None
    end_closed = relation.operators[1] == "<="
    ends = [
        _end(Leaf(f"-({last.text})"), end_closed, budget), _end(below, closed, budget),
        _end(first, closed, budget), _end(last, end_closed, budget),
    ]  # fmt: skip
    if any(end is None for end in ends):
        return None
    return [(ends[0], ends[1]), (ends[2], ends[3])]  # type: ignore[list-item]


def _around(
    low: Node | None, high: Node | None, closed: bool, budget: Budget
) -> list[Piece] | None:
    ends = [_end(node, closed, budget) if node else None for node in (low, high)]
    if ends[0] is None or ends[1] is None:
        return None
    below, above = End(_BELOW, -math.inf, False), End(_ABOVE, math.inf, False)
    return [(below, ends[0]), (ends[1], above)]


def _without(node: Group, budget: Budget) -> list[Piece] | None:
    """A set less points."""
    whole, *points = (_pieces(item, budget) for item in node.items)
    if whole is None or len(whole) != 1 or not all(points):
        return None
    cuts = sorted(
        (piece[0] for found in points for piece in found or ()), key=lambda end: end.value
    )
    low, high = whole[0]
    pieces = []
    for cut in cuts:
        if not low.value < cut.value < high.value:
            return None
        pieces.append((low, replace(cut, closed=False)))
        low = replace(cut, closed=False)
    return [*pieces, (low, high)]


def _end(node: Node, closed: bool, budget: Budget) -> End | None:
    if not isinstance(node, Leaf):
        return None
    value = constant(node.text, budget)
    if value is None:
        return None
    return End(node, value, closed)


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces that touch, made one."""
    joined = list(pieces[:1])
    for piece in pieces[1:]:
        before = joined[-1]
        touch = before[1].value == piece[0].value and (before[1].closed or piece[0].closed)
        if touch or piece[0].value < before[1].value:
            later = max(before[1], piece[1], key=lambda e: (e.value, e.closed))
            joined[-1] = (before[0], later)
        else:
            joined.append(piece)
    return joined
