"""Completions with known verdicts, which `grpo plugins test code` starts from."""

from __future__ import annotations

from grpo_core.testing import Example

_AREA = {
    "entry_point": "area",
    "prompt": 'def area(w, h):\n    """The area of a rectangle."""\n',
    "tests": "def check(candidate):\n"
    "    assert candidate(2, 3) == 6\n"
    "    assert abs(candidate(0.5, 0.5) - 0.25) < 1e-9\n",
}
_SQUARES = {
    "tests": "for n in range(5):\n    assert squares(n) == [i * i for i in range(n)]\n"
    "try:\n    squares(-1)\n    assert False\nexcept ValueError:\n    pass\n",
}
_SUM = {
    "cases": [
        {"stdin": "1 2\n", "stdout": "3\n"},
        {"stdin": "-4 4\n", "stdout": "0\n"},
    ]
}
_PAIR = {
    "cases": [{"call": "pair(1)", "literal": "(1, 1)"}, {"call": "pair()", "raises": "TypeError"}]
}
_ADD = "Write `area(w, h)`."
_GOOD = """def squares(n):
    if n < 0:
        raise ValueError(n)
    return [i * i for i in range(n)]"""


def _fenced(code: str) -> str:
    return f"Here it is.\n\n```python\n{code}\n```\n"


EXAMPLES = [
    Example(_fenced("def area(w, h):\n    return w * h"), _AREA, "correct", _ADD),
    Example("    return w * h\n", _AREA, "correct", str(_AREA["prompt"])),
    Example(_fenced("def area(w, h):\n    return 6"), _AREA, "wrong", _ADD),
    Example(_fenced("def area(w, h):\n    return 6"), _AREA, "wrong", _ADD, {"partial": True}, 0.5),
    Example(_fenced("def area(w, h)\n    return w * h"), _AREA, "wrong", _ADD),
    Example("It is the product of both sides.", _AREA, "unparseable", _ADD),
    Example("<think>\n" + _fenced("def area(w, h): return w * h"), _AREA, "unparseable", _ADD),
    Example(_fenced(_GOOD), _SQUARES, "correct", "Write `squares(n)`."),
    Example(_fenced(_GOOD.replace("< 0", "< -1")), _SQUARES, "wrong", "Write `squares(n)`."),
    Example(_fenced("print(sum(map(int, input().split())))"), _SUM, "correct", "Add two numbers."),
    Example(_fenced("print(3)"), _SUM, "wrong", "Add two numbers."),
    Example(_fenced("print(3)\nraise SystemExit(1)"), _SUM, "wrong", "Add two numbers."),
    Example(_fenced("def pair(n):\n    return n, n"), _PAIR, "correct", "Write `pair(n)`."),
    Example(_fenced("def pair(n):\n    return [n, n]"), _PAIR, "wrong", "Write `pair(n)`."),
    Example("x", {"tests": "assert f("}, "error"),
    Example("x", {"cases": []}, "error"),
]
