r"""From a completion to the one text that is its answer.

Exactly one candidate is taken, so that listing many answers gains nothing:

1. what follows the last `</think>`; nothing, if the reasoning never ended;
2. the last balanced `\boxed{...}` or `\fbox{...}`; boxes joined by nothing but "or", "and" or a
   comma count as one answer with several parts;
3. the last of `<answer>...</answer>`, `#### ...`, `A: ...`, "the answer is ...", "Answer: ...";
4. the whole completion, if it is a single expression;
5. the last mathematics in $ $ or \( \), or the last number, whichever stands later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from grpo_verifiers.math.limits import MAX_COMPLETION_CHARS
from grpo_verifiers.math.prose import bare_expression, is_expression, last_in_prose, statement

Method = Literal["boxed", "answer_tag", "hashes", "line", "statement", "whole", "prose"]

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX_JOINT = re.compile(r"[\s$\\)(.]*(?:,|;|,?\s*(?:\\text\{\s*)?(?:or|and)(?:\s*\})?)[\s$\\)(]*")
_MARKER = re.compile(
    r"(?P<answer_tag><answer>)|(?P<hashes>\#\#\#\#)|(?P<line>(?:^|\n)[ \t*]*(?-i:A)[ \t]*:)"
    r"|(?P<statement>\banswers?\b[^.:=\n]{0,60}?(?:\bis\b|\bare\b|\bbe\b|[:=：])"
    r"|(?:^|\n)[ \t#*]*(?:final )?answers?[ \t*]*\n|答案[是为：:])",
    re.IGNORECASE,
)
_TAIL_CHARS = 300
_MAX_JOINT_CHARS = 40


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer of a completion.

    Attributes:
        text: the answer as written.
        method: how it was found.
    """

    text: str
    method: Method


def extract_answer(
    completion: str, *, prompt: str = "", require_boxed: bool = False
) -> Extraction | None:
    """The answer of a completion, or None if there is none.

    Args:
        completion: what the model wrote.
        prompt: what it continues; a prompt that ends in `<think>` opens the reasoning.
        require_boxed: accept nothing but a box.
    """
    text = after_reasoning(completion, opened=prompt.rstrip().endswith("<think>"))
    text = text[-MAX_COMPLETION_CHARS:]
    if "\\boxed" in text or "\\fbox" in text:
        box, cut_off = last_box(text)
        if box is not None:
            return Extraction(box, "boxed")
        if cut_off:
            return None  # `\boxed{7` may be the beginning of 72
    if require_boxed:
        return None
    return _marked(text) or _unmarked(text)


def after_reasoning(completion: str, *, opened: bool = False) -> str:
    """What follows the last `</think>`; nothing, if an opened `<think>` never ends."""
    _, end, tail = completion.rpartition("</think>")
    if end:
        return tail.partition("<think>")[0]
    return "" if opened else completion.partition("<think>")[0] if "<think>" in tail else tail


def last_box(text: str) -> tuple[str | None, bool]:
    """The content of the last balanced box, with the boxes that are merely joined to it.

    Returns:
        the content, None if no box is balanced, and whether a box is open at the end of the text.
    """
    opened: list[tuple[int, int] | None] = []  # (start, start of content) of boxes, None of braces
    boxes: list[tuple[int, int, int]] = []  # (start, start of content, end of content)
    for match in _BOX_TOKEN.finditer(text):
        token = match.group()
        if token == "{":
            opened.append(None)
        elif token == "}":
            box = opened.pop() if opened else None
            if box is not None:
                while boxes and boxes[-1][0] > box[0]:
                    boxes.pop()  # boxes inside this one
                boxes.append((*box, match.start()))
        elif len(token) > 2:
            opened.append((match.start(), match.end()))
    if not boxes:
        return None, any(box is not None for box in opened)
    contents = [text[boxes[-1][1] : boxes[-1][2]]]
    for earlier, later in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        start, end = earlier[2] + 1, later[0]
        if end - start > _MAX_JOINT_CHARS or not _BOX_JOINT.fullmatch(text, start, end):
            break
        if text[earlier[1] : earlier[2]] != contents[0]:
            contents.insert(0, text[earlier[1] : earlier[2]])
    return " , ".join(contents), False


def _marked(text: str) -> Extraction | None:
    """The answer behind the last marker."""
    last = _last_marker(text)
    if last is None:
        return None
    rest = text[last.end() :]
    if last["answer_tag"]:
        method: Method = "answer_tag"
        rest = rest.partition("</answer>")[0].strip()
    elif last["statement"]:
        method = "statement"
    else:
        method = "hashes" if last["hashes"] else "line"
        rest = rest.strip().partition("\n")[0].strip()
    found = statement(rest) if method == "statement" or not is_expression(rest) else rest
    return Extraction(found, method) if found else None


def _last_marker(text: str) -> re.Match[str] | None:
    """The last marker; the end of the text, where it nearly always stands, is searched first."""
    last = None
    if _may_hold_marker(text):
        for start in (max(0, len(text) - _TAIL_CHARS), 0):
            for match in _MARKER.finditer(text, start):
                last = match
            if last is not None:
                break
    return last


def _may_hold_marker(text: str) -> bool:
    # Plain substring searches, fifty times as fast as the pattern.
    letters = "A" in text and ":" in text
    return letters or "####" in text or "答案" in text or "answer" in text.lower()


def _unmarked(text: str) -> Extraction | None:
    if whole := bare_expression(text):
        return Extraction(whole, "whole")
    found = last_in_prose(text)
    return Extraction(found, "prose") if found else None
