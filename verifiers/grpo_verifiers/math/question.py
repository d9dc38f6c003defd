r"""Answers that only repeat the sum that was asked: 6 \cdot 7 for "What is 6 * 7?"."""

from __future__ import annotations

import re

from grpo_verifiers.math.exact import read_quantity
from grpo_verifiers.math.limits import AnswerError
from grpo_verifiers.math.normalise import canonical

_PROMPT_CHARS = 10_000
_TIMES = re.compile(r"\\(?:cdot|times)(?![a-zA-Z])|(?<=[0-9)])\s*[x×·∗⋅]\s*(?=[0-9(])")
_DIVIDED = re.compile(r"\\div(?![a-zA-Z])|÷")
_SUM = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[-+*/^][0-9]+(?:\.[0-9]+)?)+")
_NOISE = re.compile(r"\\(?:left|right|,|;|!|\(|\)|\[|\])|[\s${}]")
_OPERATOR = re.compile(r"[0-9a-z)!]\s*(?:[-+*/^]|\*\*)|!|\\(?:frac|sqrt|binom)")


def repeats_question(answer: str, prompt: str) -> bool:
    """Whether an answer is an expression of which the prompt has the sum that is left to do.

    That is the whole of it, as in `2^{10}`, or a part, as in `(6 * 7) + 0`. An equation, which says
    what comes out, does not repeat the question.
    """
    if not prompt or "=" in answer or _OPERATOR.search(plain := _plain(answer)) is None:
        return False
    try:
        if read_quantity(canonical(answer)) is not None:
            return False  # a fraction is a number
    except AnswerError:
        return False
    question = _plain(prompt[-_PROMPT_CHARS:])
    sums = {plain, *_SUM.findall(plain)}
    return any(re.search(rf"(?<![0-9.]){re.escape(s)}(?![0-9*/^(])", question) for s in sums)


def _plain(text: str) -> str:
    text = _DIVIDED.sub("/", _TIMES.sub("*", text)).replace("**", "^").replace("−", "-")
    return _NOISE.sub("", text).rstrip(".?")
