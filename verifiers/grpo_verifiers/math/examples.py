r"""Completions whose verdicts are known: a golden table for the conformance suite."""

from __future__ import annotations

from grpo_core.testing import Example

_SIX = "What is 6 * 7?"
_SHARES = "Which x solve the inequality?"

EXAMPLES = [
    Example(r"Six sevens are \boxed{42}.", "42", "correct", _SIX),
    Example("6 * 7 = 42", 42, "correct", _SIX),
    Example("The answer is 42.0", "42", "correct", _SIX),
    Example(r"Six sevens are \boxed{43}.", "42", "wrong", _SIX),
    Example(r"\boxed{6 \cdot 7}", "42", "wrong", _SIX),
    Example("The answer is not 42.", "42", "reject", _SIX),
    Example("I cannot tell.", "42", "reject", _SIX),
    Example("#### 1,234", "We add them.\n#### 1234", "correct", "How many in all?"),
    Example(r"\boxed{\frac{2\sqrt3}{4}}", r"\frac{\sqrt{3}}{2}", "correct", "How high is it?"),
    Example(r"\boxed{\frac{\sqrt{3}}{4}}", r"\frac{\sqrt{3}}{2}", "wrong", "How high is it?"),
    Example(r"\boxed{x^2+2x+1}", "(x+1)^2", "correct", "Give the square."),
    Example(r"\boxed{x^2+2x+2}", "(x+1)^2", "wrong", "Give the square."),
    Example(r"\boxed{[0, 1)}", "[0,1)", "correct", _SHARES),
    Example(r"\boxed{0 \leq x < 1}", "[0,1)", "correct", _SHARES),
    Example(r"\boxed{(0, 1)}", "[0,1)", "wrong", _SHARES),
    Example("Hence (B) 7.", "B", "correct", "Which is prime? (A) 4 (B) 7 (C) 9"),
    Example("Hence (A) 4.", "B", "wrong", "Which is prime? (A) 4 (B) 7 (C) 9"),
    Example(r"\boxed{3 or 4}", "3", "wrong", "How many?"),
    Example(r"\boxed{9^{9^{9^{9}}}}", "3", "wrong", "How many?"),
    Example("The answer is 3", "3", "unparseable", "How many?", options={"require_boxed": True}),
    Example("3.1416", r"\pi", "correct", "The ratio?", options={"tolerance": 0.001}),
    Example(r"\boxed{3}", r"\boxed{}", "error", "How many?"),
]
