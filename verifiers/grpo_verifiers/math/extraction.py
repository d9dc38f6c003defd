r"""From a completion to the one text that is its answer.

Exactly one candidate is taken, so that listing many answers gains nothing:

1. what follows the last `</think>`; nothing, if the reasoning never ended;
2. "The final answer is ... I hope it is correct" behind all boxes; else the last balanced
   `\boxed{...}` or `\fbox{...}`; boxes joined by nothing but "or", "and" or a comma count as one
   answer with several parts;
3. the last of `<answer>...</answer>`, `#### ...`, `A: ...`, "the answer is ...", "Answer: ...";
4. the whole completion, if it is a single expression;
5. the last mathematics in $ $ or \( \), or the last number, whichever stands later, unless it is a
   part of something larger: see `endings`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from grpo_verifiers.math.boxes import find_boxes
from grpo_verifiers.math.limits import MAX_COMPLETION_CHARS
from grpo_verifiers.math.normalise import unescaped
from grpo_verifiers.math.prose import bare_expression, is_expression, last_in_prose, statement
from grpo_verifiers.reasoning import after_reasoning

Method = Literal["boxed", "answer_tag", "hashes", "line", "statement", "whole", "prose", "option"]

_MARKER = re.compile(
    r"(?P<answer_tag><answer>)|(?P<hashes>\#\#\#\#)|(?P<line>(?:^|\n)[ \t*]*(?-i:A)[ \t]*:)"
    r"|(?P<negated>\banswers?\s+(?:is\s*n['’]t|is not|is never|cannot be|can['’]?t be)\b)"
    r"|(?P<statement>\banswers?\b[^.:=\n]{0,60}?(?:\bis\b|\bare\b|\bbe\b|[:=：])"
    r"|(?:^|\n)[ \t#*]*(?:final )?answers?[ \t*]*\n|答案[是为：:])",
    re.IGNORECASE,
)
# A last line of nothing but a marker and a number: the common case, and cheap to see.
_PLAIN_LINE = re.compile(r"(?:(?P<hashes>####)|A:)[ \t]*(?P<number>[$-]*[0-9][0-9.,]*%?)\s*")
_END_TOKENS = re.compile(r"(?:\s*(?:</s>|<\|[a-zA-Z_]+\|>|<eos>|<end_of_turn>))+\s*\Z")
# The set phrase of a well-known prompt, which a box of an intermediate result does not outrank.
_FINAL_ANSWER = re.compile(
    r"final answer is:?\s((?:(?!final answer is).){1,300}?\.)\s{0,3}I hope it is correct", re.DOTALL
)
_QUOTES = re.compile(r"\\?[\"“”]")
_TOKEN_CHARS = 200
_TAIL_CHARS = 300
_OPTION_CHARS = 2_000
_OPTION = re.compile(
    r"\b(?:option|choice|answer|choose|select|pick)(?:\s+is)?\s*:?\s*\**\s*(?:\\text\{\s*)?"
    r"\(?([A-J])\b(?![a-z'])"
)
_FIRST_LETTER = re.compile(r"\s*\**\(?([A-J])[).:](?=\s|\*|\Z)")
_LETTER = re.compile(r"(?<![A-Za-z0-9)])\(([A-J])\)")
_OPTION_BEHIND = re.compile(r"[\s).,*]*\(?\s*(?:or\b|and\b|/|,|&)[\s,]*(?:maybe\s+)?\(?[A-J]\b")
_OPTION_BEFORE = re.compile(r"(?:\bor|/|,|\bnot|n't)\s*\Z")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer of a completion.

    Attributes:
        text: the answer as written.
        method: how it was found.
        boxes: the different contents of all boxes, if it was found in one.
    """

    text: str
    method: Method
    boxes: tuple[str, ...] = ()


def extract_answer(
    completion: str, *, prompt: str = "", require_boxed: bool = False
) -> Extraction | None:
    """The answer of a completion, or None if there is none.

    Args:
        completion: what the model wrote.
        prompt: what it continues; a prompt that ends in `<think>` opens the reasoning.
        require_boxed: accept nothing but a box.
    """
    text = visible(completion, prompt)
    if "boxed" in text or "\\fbox" in text:
        boxes = find_boxes(text)
        final = None if require_boxed else _FINAL_ANSWER.search(text, text.rfind("boxed"))
        if final and (answer := statement(_QUOTES.sub("", final[1]))):
            return Extraction(answer, "statement")
        if boxes.last is not None:
            return Extraction(boxes.last, "boxed", boxes.contents)
        if boxes.is_cut_off:
            return None  # `\boxed{7` may be the beginning of 72
    if require_boxed:
        return None
    return _marked(text) or _unmarked(text)


def extract_choice(completion: str, *, prompt: str = "") -> Extraction | None:
    """The letter of the option that a completion without a box names last; None without one."""
    text = visible(completion, prompt)[-_OPTION_CHARS:]
    if marker := _last_marker(text):
        text = text[marker.start() :]
    text = " ".join(text.split())
    named = list(_OPTION.finditer(text))
    letters = list(_LETTER.finditer(text))
    if len({letter[1] for letter in letters}) == 1:
        named.append(letters[-1])  # more than one are a list of the options
    if not named and not letters and (first := _FIRST_LETTER.match(text)):
        named.append(first)
    if not named or _OPTION_BEFORE.search(text, 0, named[-1].start()):
        return None
    if _OPTION_BEHIND.match(text, named[-1].end()):
        return None
    return Extraction(named[-1][1], "option")


def visible(completion: str, prompt: str = "") -> str:
    """The part of a completion in which the answer is looked for: the end, after the reasoning."""
    opened = prompt.rstrip().endswith("<think>")
    text = unescaped(after_reasoning(completion, opened=opened)[-MAX_COMPLETION_CHARS:])
    if not text.endswith(">"):
        return text
    return text[:-_TOKEN_CHARS] + _END_TOKENS.sub("", text[-_TOKEN_CHARS:])


def _marked(text: str) -> Extraction | None:
    """The answer behind the last marker."""
    if plain := _PLAIN_LINE.fullmatch(text, text.rstrip().rfind("\n") + 1):
        return Extraction(plain["number"], "hashes" if plain["hashes"] else "line")
    last = _last_marker(text)
    if last is None:
        return None
    rest = text[last.end() :].partition("</answer>")[0]
    if last["negated"]:
        return Extraction("not " + rest.strip().partition("\n")[0][:_TAIL_CHARS], "statement")
    if last["answer_tag"]:
        method: Method = "answer_tag"
        rest = rest.strip()
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
