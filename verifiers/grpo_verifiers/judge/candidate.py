"""The text of one who is graded, made safe to show to the judge."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

from grpo_verifiers.judge.forms import KEY_END, LINE_START, SIGN, Form

# Marks by which chat templates and tokenizers tell who is speaking: inside a text they would be
# read as such, and end the user's turn.
_SPECIAL = re.compile(
    r"<[|\N{FULLWIDTH VERTICAL LINE}]|[|\N{FULLWIDTH VERTICAL LINE}]>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"
    r"|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|im_start|im_end|turn)>",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the judge may see of a completion.

    Attributes:
        text: without reasoning, at most the given number of characters, nothing in it that could
            be taken for a verdict or for another speaker.
        left_out: characters cut from the middle.
    """

    text: str
    left_out: int = 0


def prepare(text: str, form: Form, max_chars: int) -> Candidate:
    """Cut the middle of a text that is too long, and neutralise the rest."""
    left_out = max(0, len(text) - max_chars)
    if left_out:
        head = max_chars // 2
        note = f"\n[... {left_out} characters left out ...]\n"
        text = text[:head] + note + text[head + left_out :]
    return Candidate(neutralise(text, form), left_out)


def neutralise(text: str, form: Form) -> str:
    """Break what could be read as a verdict or as another speaker, visibly and no more."""
    text = text.encode(errors="replace").decode()  # lone surrogates are no text
    text = re.sub(r"\r\n?|[\v\f\x85\u2028\u2029]", "\n", text)
    text = _SPECIAL.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    keys = "|".join(re.escape(question.key) for question in form.questions)
    text = re.sub(
        rf"({LINE_START}(?:{keys}){KEY_END}){SIGN}",
        r"\1 (quoted):",
        text,
        flags=re.IGNORECASE | re.MULTILINE,
    )
    return re.sub(rf"([\"'](?:{keys}))([\"']\s*:)", r"\1 (quoted)\2", text, flags=re.IGNORECASE)


def fence(text: str) -> str:
    """The text between two lines with one mark that nobody can have foreseen."""
    mark = secrets.token_hex(8)
    while mark in text:
        mark = secrets.token_hex(8)
    return f"[begin of answer {mark}]\n{text}\n[end of answer {mark}]"
