"""Cheap ways to get credit without knowing the answer, as policies find them in training."""

from grpo_core.testing.attacks import code, judge, math, text
from grpo_core.testing.attacks.attack import Attack, Problem, attempts

KINDS = ("text", "math", "code", "judge")
ATTACKS: tuple[Attack, ...] = (*text.ATTACKS, *math.ATTACKS, *code.ATTACKS, *judge.ATTACKS)

__all__ = ["ATTACKS", "KINDS", "Attack", "Problem", "attempts"]
