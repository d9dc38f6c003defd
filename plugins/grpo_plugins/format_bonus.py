r"""A bonus for the form of a completion, as in R1 (DeepSeek-AI 2025, arXiv 2501.12948).

The form is either `<think>...</think><answer>...</answer>` or a final `\boxed{...}`. It is read
with plain text search, in time linear in the completion's length: a regular expression of the
user's could be made to hang by what a model writes. Whether the answer is right is the verifier's
business.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from grpo_core import ScoredCompletion, shaper

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
BOX = "\\boxed{"

Style = Annotated[
    Literal["think_answer", "boxed"],
    Field(description="think_answer: <think>..</think><answer>..</answer>; boxed: \\boxed{..}"),
]
Partial = Annotated[
    bool,
    Field(description="think_answer only: where the form fails, a share for each tag found once"),
]
ThinkOpened = Annotated[
    bool,
    Field(
        description="think_answer only: the prompt ends with <think>, which is thus not repeated"
    ),
]


@shaper(range=(0.0, 1.0), version="1.0")
def format_bonus(
    scored: ScoredCompletion,
    *,
    style: Style = "think_answer",
    partial: Partial = False,
    think_opened: ThinkOpened = False,
) -> float:
    """1 where the completion has the asked form, else 0 (or a share, see `partial`)."""
    text = scored.completion.text
    if style == "boxed":
        return float(has_box(text))
    if has_think_and_answer(TAGS[0] + text if think_opened else text):
        return 1.0
    if not partial:
        return 0.0
    wanted = TAGS[1:] if think_opened else TAGS
    found = sum(text.count(tag) == 1 for tag in wanted)
    return min(found, len(wanted) - 1) / len(wanted)  # all tags in the wrong order are not enough


def has_think_and_answer(text: str) -> bool:
    """True for one block of thought, then one block with an answer, and nothing around them."""
    text = text.strip()
    if any(text.count(tag) != 1 for tag in TAGS):
        return False
    think, think_end, answer, answer_end = (text.index(tag) for tag in TAGS)
    between = text[think_end + len(TAGS[1]) : answer]
    content = text[answer + len(TAGS[2]) : answer_end]
    return (
        think == 0
        and think_end < answer < answer_end
        and not between.strip()
        and bool(content.strip())
        and text.endswith(TAGS[3])
    )


def has_box(text: str) -> bool:
    r"""True if the last \boxed{...} is closed and not empty."""
    start = text.rfind(BOX)
    if start < 0:
        return False
    depth = 1
    for position in range(start + len(BOX), len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return bool(text[start + len(BOX) : position].strip())
    return False
