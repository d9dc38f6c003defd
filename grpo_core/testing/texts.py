"""Texts that no verifier and no shaper may stumble over: fixed odd ones, and random ones."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

ODD_TEXTS = (
    "",
    " \n\t ",
    "\x00\x1b[31m",
    "\N{REPLACEMENT CHARACTER}\N{RIGHT-TO-LEFT OVERRIDE}\N{GRINNING FACE}",
    "\\boxed{" * 50,
    "((((" * 200,
    "9" * 5000,
    "1e999999999",
    "<think>" + "so " * 2000,
    "{'a': [None, float('nan')]}",
    "'; DROP TABLE answers; --",
)

# Beyond what models usually write, but not beyond what a policy may come to write.
ODDER_TEXTS = (
    "\ud800 alone \udfff",
    "e\N{COMBINING ACUTE ACCENT}" * 300,
    "\N{FULLWIDTH DIGIT FOUR}\N{FULLWIDTH DIGIT TWO} \N{ARABIC-INDIC DIGIT FOUR} "
    "\N{VULGAR FRACTION ONE HALF} \N{SUPERSCRIPT TWO}",
    "\r\n\x0b\x0c\x85\N{LINE SEPARATOR}\N{ZERO WIDTH SPACE}\N{BYTE ORDER MARK}",
    "".join(map(chr, range(32))),
    "%s %d %n {0} {name} {{}} ${HOME} $(true) `true`",
    "[" * 3000 + "]" * 3000,
    '{"a":' * 1000 + "1" + "}" * 1000,
    "<answer>" * 200 + "</think>" * 200,
    "```python\n" * 100,
    "\\frac{" * 100 + "1" + "}{2}" * 100,
    "x" * 100_000,
    "the answer is " * 5_000,
)

FRAGMENTS = (
    *("\\boxed{", "}", "\\frac{1}{2}", "$", "####", "the answer is", "<think>", "</think>"),
    *("<answer>", "</answer>", "```python\n", "```", "def f(x):\n    return x\n", "\n", " ", ","),
    *('{"', '":', "[", "]", "(", ")", "^", "!", "/", "-1", "0", "10", "0.5", "(A)"),
    *("B.", "\\", "∞"),
)


def for_any_text(
    check: Callable[[str], None], num_random: int = 30, seconds: float = float("inf")
) -> int:
    """Run a check on fixed odd texts, and on random ones where hypothesis is installed.

    Args:
        check: raises AssertionError for a text that fails.
        num_random: how many random texts.
        seconds: random texts stop when these have passed.

    Returns:
        How many texts were checked.
    """
    for text in ODD_TEXTS:
        check(text)
    return len(ODD_TEXTS) + for_random_texts(check, num_random, seconds)


def for_random_texts(check: Callable[[str], None], number: int, seconds: float) -> int:
    """The random ones of `for_any_text`, the same ones every time; 0 without hypothesis."""
    if importlib.util.find_spec("hypothesis") is None:
        return 0
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    any_text = st.text(st.characters())  # surrogates, too
    pieces = st.lists(st.sampled_from(FRAGMENTS) | st.text(st.characters(), max_size=5))
    end, count = time.monotonic() + seconds, 0

    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(any_text | pieces.map("".join))
    def on_random_text(text: str) -> None:
        nonlocal count
        if time.monotonic() < end:
            count += 1
            check(text)

    on_random_text()
    return count
