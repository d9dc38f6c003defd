r"""Whether a candidate's answer equals the reference: structure first, then leaf by leaf.

Sets, lists and unions are compared without order, tuples, intervals and matrices with it. What
describes a set of real numbers is compared as one: `x > 3` and `(3,\infty)`.
"""

from __future__ import annotations

from collections.abc import Sequence

from grpo_verifiers.math.config import MathConfig
from grpo_verifiers.math.exact import read_quantity
from grpo_verifiers.math.leaves import LeafComparison
from grpo_verifiers.math.nodes import Group, Leaf, Node, Relation
from grpo_verifiers.math.realsets import interval, is_real_set, pieces_of, variable
from grpo_verifiers.math.relations import (
    CONTRADICTION,
    assignments,
    key,
    named_value,
    same_relation,
    solved,
)
from grpo_verifiers.math.structure import is_label

_BARE = ("list", "set")


class Comparison:
    """Compares a candidate with a reference, and remembers what it took.

    Attributes:
        leaves: compares single answers, and counts what that costs.
        reason: why the last comparison failed, for people; empty if nothing special is to be said.
    """

    def __init__(self, config: MathConfig | None = None) -> None:
        self.config = config or MathConfig()
        self.leaves = LeafComparison(self.config)
        self.reason = ""

    def equal(self, gold: Node, candidate: Node) -> bool:
        """Whether two answers are equal.

        Raises:
            AnswerError: if an expression cannot be read, or is too large to evaluate.
        """
        gold, candidate = _unwrapped(gold), _unwrapped(candidate)
        if isinstance(gold, Leaf) and isinstance(candidate, Leaf):
            return self.leaves.equal(gold.text, candidate.text)
        for decide in (self._as_real_sets, self._as_assignments):
            decided = decide(gold, candidate)
            if decided is not None:
                return decided
        if isinstance(gold, Relation) or isinstance(candidate, Relation):
            return self._with_relation(gold, candidate)
        if isinstance(gold, Group) and isinstance(candidate, Group):
            return self._equal_groups(gold, candidate)
        return self._leaf_and_group(gold, candidate)

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
            self.leaves.check_readable(node.text)

    def _as_real_sets(self, gold: Node, candidate: Node) -> bool | None:
        """Compare two sets of real numbers; None if they are not both that."""
        if not (is_real_set(gold) or is_real_set(candidate)):
            return None
        budget = self.leaves.budget
        first = pieces_of(gold, budget)
        second = pieces_of(candidate, budget) if first is not None else None
        if first is None or second is None:
            return None
        names = key(variable(gold)), key(variable(candidate))
        if all(names) and names[0] != names[1] and self.config.variables == "strict":
            return False
        return len(first) == len(second) and all(
            a.closed == b.closed and self.equal(a.node, b.node)
            for pair in zip(first, second, strict=True)
            for a, b in zip(*pair, strict=True)
        )

    def _as_assignments(self, gold: Node, candidate: Node) -> bool | None:
        """Compare named values with named values, a tuple, or a list; None for anything else."""
        first, second = assignments(gold), assignments(candidate)
        if first is not None and second is not None:
            if first.keys() != second.keys() and self.config.variables == "strict":
                return False
            return len(first) == len(second) and self._in_order(
                [first[name] for name in sorted(first)], [second[name] for name in sorted(second)]
            )
        named, other = (first, candidate) if first is not None else (second, gold)
        if named is None or not isinstance(other, Group) or len(other.items) != len(named):
            return None
        if any(isinstance(item, Relation) for item in other.items):
            return None
        if len({name[:1] for name in named}) == 1:
            return None  # x_1 and x_2 have no order
        orders = [[named[name] for name in sorted(named)]]
        if other.kind == "list":
            orders.append(list(named.values()))
        elif other.kind != "()":
            return None
        items = list(other.items)
        return any(
            self._in_order(order, items) if first is not None else self._in_order(items, order)
            for order in orders
        )

    def _with_relation(self, gold: Node, candidate: Node) -> bool:
        if isinstance(gold, Relation) and isinstance(candidate, Relation):
            return same_relation(gold, candidate, self.leaves, self.equal)
        if isinstance(candidate, Relation):
            value = interval(candidate) or solved(candidate, self.equal)
            if value is None:
                self.reason = CONTRADICTION
            return value is not None and self.equal(gold, value)
        assert isinstance(gold, Relation)
        value = interval(gold) or named_value(gold)
        return value is not None and self.equal(value, candidate)

    def _leaf_and_group(self, gold: Node, candidate: Node) -> bool:
        """A ratio may be written as a quotient; else one answer never equals several."""
        quotients = [_quotient(node) for node in (gold, candidate)]
        if isinstance(gold, Leaf) and "frac" not in gold.text and "/" not in gold.text:
            quotients = [gold, candidate]  # 30:1 is no answer where 30 is asked for
        if all(isinstance(node, Leaf) for node in quotients):
            return self.equal(quotients[0], quotients[1])
        if isinstance(gold, Leaf) and isinstance(candidate, Group):
            if candidate.kind == "list" and all(self.equal(gold, item) for item in candidate.items):
                return True  # one value in several forms
            if candidate.kind == "modulo":
                return _is_residue(candidate) and self.equal(gold, candidate.items[0])
            self.reason = f"{len(candidate.items)} answers were given where one is asked for"
        if isinstance(gold, Group) and gold.kind == "modulo":
            return self.equal(gold.items[0], candidate)
        return False

    def _equal_groups(self, gold: Group, candidate: Group) -> bool:
        first, second = _flat(gold), _flat(candidate)
        if first.kind == "ratio" == second.kind and len(first.items) == 2 == len(second.items):
            return self.equal(_quotient(first), _quotient(second))
        if "matrix" in (first.kind, second.kind) and first.kind != second.kind:
            first, second = _vector(first), _vector(second)
        if first.kind != second.kind and not {first.kind, second.kind} <= set(_BARE):
            return False
        if not self._is_ordered(first, second):
            return self._equal_unordered(first, second)
        return self._in_order(first.items, second.items)

    def _is_ordered(self, gold: Group, candidate: Group) -> bool:
        if self.config.order == "none":
            return gold.kind in ("matrix", "row", "(]", "[)")
        if self.config.order == "lists" and gold.kind == "list" == candidate.kind:
            return True
        return gold.kind not in (*_BARE, "union")

    def _equal_unordered(self, gold: Group, candidate: Group) -> bool:
        left, wanted = list(candidate.items), list(gold.items)
        if "set" in (gold.kind, candidate.kind) or len(set(wanted)) == len(wanted):
            left, wanted = self._distinct(left), self._distinct(wanted)
        if len(left) != len(wanted):
            self.reason = f"{len(left)} answers, {len(wanted)} expected"
            return False
        for item in wanted:
            found = next((other for other in left if self.equal(item, other)), None)
            if found is None:
                return False
            left.remove(found)
        return True

    def _distinct(self, items: Sequence[Node]) -> list[Node]:
        kept: list[Node] = []
        for item in items:
            if item not in kept:
                kept.append(item)
        return kept

    def _in_order(self, gold: Sequence[Node], candidate: Sequence[Node]) -> bool:
        if len(gold) != len(candidate):
            self.reason = f"{len(candidate)} answers, {len(gold)} expected"
            return False
        return all(self.equal(a, b) for a, b in zip(gold, candidate, strict=True))


def _unwrapped(node: Node) -> Node:
    """The only member of a list or set instead of it."""
    if isinstance(node, Group) and len(node.items) == 1 and node.kind in _BARE:
        only = node.items[0]
        if not (isinstance(only, Group) and only.kind == "set"):
            return only
    return node


def _flat(group: Group) -> Group:
    """A list without lists in it, such as come from plus-minus signs."""
    if group.kind in _BARE and any(_is_list(item) for item in group.items):
        items = [
            inner
            for item in group.items
            for inner in (item.items if isinstance(item, Group) and _is_list(item) else (item,))
        ]
        return Group(group.kind, tuple(items))
    return group


def _vector(group: Group) -> Group:
    """A matrix of one row or column as a tuple; rows in brackets, [[1,2],[3,4]], as a matrix."""
    if group.kind in ("()", "[]") and all(isinstance(row, Group) for row in group.items):
        rows_as_matrix = [row.items for row in group.items if isinstance(row, Group)]
        return Group("matrix", tuple(Group("row", items) for items in rows_as_matrix))
    if group.kind == "[]":
        return Group("()", group.items)
    rows = [row.items for row in group.items if isinstance(row, Group)]
    if group.kind != "matrix" or not (len(rows) == 1 or all(len(row) == 1 for row in rows)):
        return group
    return Group("()", tuple(entry for row in rows for entry in row))


def _is_residue(group: Group) -> bool:
    """Whether a number with a modulus is smaller than it: not 5 mod 3, which is a computation."""
    residue, modulus = group.items
    if not isinstance(residue, Leaf) or not isinstance(modulus, Leaf):
        return True
    number, limit = read_quantity(residue.text), read_quantity(modulus.text)
    return number is None or limit is None or 0 <= number.value < limit.value


def _is_list(node: Node) -> bool:
    return isinstance(node, Group) and node.kind == "list" and assignments(node) is None


def _quotient(node: Node) -> Node:
    """A ratio of two expressions as a fraction."""
    if isinstance(node, Group) and node.kind == "ratio" and len(node.items) == 2:
        top, bottom = node.items
        if isinstance(top, Leaf) and isinstance(bottom, Leaf):
            return Leaf(rf"\frac{{{top.text}}}{{{bottom.text}}}")
    return node
