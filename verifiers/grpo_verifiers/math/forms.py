"""Whether an answer of the right value has the form that is asked for."""

from __future__ import annotations

from typing import Literal

from grpo_verifiers.math.leaves import compact
from grpo_verifiers.math.limits import AnswerError
from grpo_verifiers.math.nodes import Group, Leaf, Node
from grpo_verifiers.math.normalise import canonical
from grpo_verifiers.math.parser import parse
from grpo_verifiers.math.rewriting import is_simplified
from grpo_verifiers.math.structure import read_structure
from grpo_verifiers.math.units import split_unit

Form = Literal["any", "simplified", "same"]


def has_form(answer: str, gold: str, form: Form) -> bool:
    """Whether an answer has the form asked for.

    Args:
        answer: the answer as written.
        gold: the reference in canonical spelling.
        form: see `MathConfig`.
    """
    if form == "any":
        return True
    text = canonical(answer)
    if form == "same":
        return compact(text) == compact(gold)
    return _is_simplified(read_structure(text))


def _is_simplified(node: Node) -> bool:
    if isinstance(node, Leaf):
        try:
            return is_simplified(parse(split_unit(node.text)[0]))
        except AnswerError:
            return True  # words, or a number with a base
    parts = node.items if isinstance(node, Group) else node.parts[-1:]
    return all(_is_simplified(part) for part in parts)
