r"""The last `\boxed{...}` or `\fbox{...}` of a text, with the boxes that belong to it.

Boxes are one answer of several parts when nothing stands between them but a comma, "and" or "or"
and a few plain words: `\boxed{3} or \boxed{4}`, `x_1=\boxed{3} \text{ and } x_2=\boxed{4}`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"\\{1,3}(?P<box>boxed|fbox|framebox)\s*\{|\\{1,3}boxed\s+(?P<bare>-?[0-9A-Za-z.]*[0-9A-Za-z])"
    r"|\\[hv]?(?P<hidden>phantom)\s*\{|\\.|[{}]",
    re.DOTALL,
)
_INNER = re.compile(r"\\{1,3}(?:boxed|fbox)\s*\{")
_JOINT_NOISE = re.compile(
    r"\\(?:text(?:bf|it|rm)?|mathrm|mbox)\s*\{|\\(?:q?quad|[,;:!() \[\]]|\\)|[$~*{}()\s]"
    r"|\([a-z]{1,3}\)|[A-Za-z](?:_\{?[A-Za-z0-9]{1,3}\}?)?\s*="
)
_CONNECTIVE = re.compile(r"[,;&]|\b(?:and|or|alternatively)\b", re.IGNORECASE)
_PLAIN_WORDS = re.compile(r"[A-Za-z]+|[,;&]")
_TURN_WORDS = (
    "no not wait actually but so then hence thus therefore step next which gives is are equals "
    "however because since rather correction instead first second finally check now"
)
_TURNS = frozenset(_TURN_WORDS.split())
_MAX_JOINT_CHARS = 80
_MAX_JOINT_WORDS = 6
MAX_BOXES = 32


@dataclass(frozen=True, slots=True)
class Boxes:
    """What the boxes of a text say.

    Attributes:
        last: the content of the last box and of those joined to it; None if no box is balanced.
        contents: the different contents in the order of their appearance, at most `MAX_BOXES`.
        is_cut_off: whether there is no balanced box but an open one.
    """

    last: str | None
    contents: tuple[str, ...] = ()
    is_cut_off: bool = False


def find_boxes(text: str) -> Boxes:
    """The boxes of a text; those in a phantom, which nobody sees, are none."""
    opened: list[tuple[str, int, int]] = []  # kind, start, start of content
    boxes: list[tuple[int, int, int]] = []  # start, start of content, end of content
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match["bare"]:
            boxes.append((match.start(), match.start("bare"), match.end("bare")))
        elif match["box"] or match["hidden"] or token == "{":
            kind = "box" if match["box"] else "hidden" if match["hidden"] else "brace"
            opened.append((kind, match.start(), match.end()))
        elif token == "}" and opened:
            kind, start, content = opened.pop()
            if kind != "brace":
                while boxes and boxes[-1][0] > start:
                    boxes.pop()  # boxes inside this one
            if kind == "box":
                boxes.append((start, content, match.start()))
    if not boxes:
        return Boxes(None, is_cut_off=any(kind == "box" for kind, _, _ in opened))
    contents = [_innermost(text[start:end]) for _, start, end in boxes]
    last = contents[-1:]
    for index in range(len(boxes) - 1, 0, -1):
        if not _joined(text, boxes[index - 1][2], boxes[index][0]):
            break
        if contents[index - 1] not in last:
            last.insert(0, contents[index - 1])
    return Boxes(" , ".join(last), tuple(dict.fromkeys(contents[-MAX_BOXES:])))


def _innermost(content: str) -> str:
    """The content of a box in the box, if nothing but words stand round it."""
    inner = list(_INNER.finditer(content))
    if len(inner) != 1:
        return content
    depth = 1
    for match in _TOKEN.finditer(content, inner[0].end()):
        depth += (match.group()[-1] == "{") - (match.group() == "}")
        if depth == 0:
            around = content[: inner[0].start()] + content[match.end() :]
            if any(char.isdigit() for char in around) or re.search(r"\b(?:or|and|not)\b|,", around):
                return content
            return _innermost(content[inner[0].end() : match.start()])
    return content


def _joined(text: str, end: int, start: int) -> bool:
    """Whether a box that ends at `end` and one that starts at `start` are parts of one answer."""
    if start - end - 1 > _MAX_JOINT_CHARS:
        return False
    between = _JOINT_NOISE.sub(" ", text[end + 1 : start]).strip()
    if not between:
        return "\n\n" not in text[end + 1 : start]
    words = _PLAIN_WORDS.findall(between)
    if len(words) > _MAX_JOINT_WORDS or re.sub(r"[A-Za-z,;&\s]", "", between):
        return False
    return bool(_CONNECTIVE.search(between)) and _TURNS.isdisjoint(word.lower() for word in words)
