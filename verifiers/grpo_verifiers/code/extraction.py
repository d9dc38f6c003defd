"""From a completion to the one program that is judged.

1. Only what follows the last `</think>` counts; nothing, if the reasoning never ended.
2. Of the fenced blocks those that name the language count, else those that name none. The last one
   is taken; if it does not define the function that is tested, the last one that does. With
   `blocks="all"` they are joined in their order instead.
3. A block that the prompt has opened, or that the end of the completion cuts off, is a block.
4. Without a fence, the content of the last `<answer>`, or else the whole text, if it is code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from grpo_verifiers.reasoning import after_reasoning

_FENCE = re.compile(r"^[ \t]{0,12}(?:`{3,9}|~{3,9})([^\n`]{0,100})$", re.MULTILINE)
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_CODE_START = re.compile(r"^(?:def |class |import |from \w[\w.]* import |@\w|async def )", re.M)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The program of a completion.

    Attributes:
        code: its source.
        method: where it was found.
    """

    code: str
    method: Literal["fence", "answer_tag", "plain"]


@dataclass(frozen=True, slots=True)
class _Block:
    tag: str
    code: str


def extract_code(
    completion: str,
    tags: Sequence[str],
    *,
    prompt: str = "",
    is_code: Callable[[str], bool] | None = None,
    defines: Callable[[str], bool] | None = None,
    blocks: Literal["last", "all"] = "last",
) -> Extraction | None:
    """The program of a completion, or None if there is none.

    Args:
        completion: what the model wrote.
        tags: what fences of the language are marked with, in lower case.
        prompt: what it continues; one that ends in an open fence or `<think>` matters.
        is_code: whether a text without any fence is a program; None: always.
        defines: whether a program defines what is tested; None: not known.
        blocks: which blocks make the program.
    """
    prompt = prompt.rstrip()
    text = after_reasoning(completion, opened=prompt.endswith("<think>"))
    opened = _FENCE.search(prompt.rpartition("\n")[2])
    found = _blocks(text, opened.group(1) if opened else None)
    if found is None:
        return _unfenced(text, is_code)
    chosen = [block.code for block in found if block.tag in tags]
    chosen = chosen or [block.code for block in found if not block.tag]
    chosen = [code.lstrip("\ufeff") for code in chosen if code.strip()]
    if not chosen:
        return None
    if blocks == "all":
        return Extraction("\n".join(chosen), "fence")
    if defines is not None and not defines(chosen[-1]):
        chosen = [code for code in chosen if defines(code)] or chosen
    return Extraction(chosen[-1], "fence")


def _blocks(text: str, opened: str | None) -> list[_Block] | None:
    """The fenced blocks of a text; None if it has no fence."""
    fences = list(_FENCE.finditer(text))
    if opened is None and len(fences) == 1 and not fences[0].group(1).strip():
        before = text[: fences[0].start()]
        if _CODE_START.search(before) or before[:1] in (" ", "\t"):
            opened = ""  # the end of a block that the model took for open
    if not fences and opened is None:
        return None
    blocks = []
    tag, start = (_tag(opened), 0) if opened is not None else (None, 0)
    opening = ""
    for fence in fences:
        info = fence.group(1).strip()
        if tag is None or info:  # a fence with a name opens, even where one is open
            if tag is not None:
                blocks.append(_Block(tag, _outdented(text[start : fence.start()], opening)))
            tag, start, opening = _tag(info), fence.end() + 1, fence.group(0)
        else:
            blocks.append(_Block(tag, _outdented(text[start : fence.start()], opening)))
            tag = None
    if tag is not None:
        blocks.append(_Block(tag, _outdented(text[start:], opening)))
    return blocks


def _outdented(code: str, fence: str) -> str:
    """Code without the margin of the list item that its fence stands in, if it has that."""
    margin = fence[: len(fence) - len(fence.lstrip())]
    lines = code.splitlines(keepends=True)
    if not margin or not all(line.startswith(margin) for line in lines if line.strip()):
        return code
    return "".join(line.removeprefix(margin) for line in lines)


def _tag(info: str) -> str:
    """The language of a fence: `python` of "```python title=x" and of "```{.Python}"."""
    words = info.strip("{} .\t\r").replace(",", " ").replace(":", " ").split()
    return words[0].lower() if words else ""


def _unfenced(text: str, is_code: Callable[[str], bool] | None) -> Extraction | None:
    answers = _ANSWER.findall(text)
    method: Literal["answer_tag", "plain"] = "answer_tag" if answers else "plain"
    code = (answers[-1] if answers else text).strip("\r\n")
    if not code.strip():
        return None
    if is_code is None or is_code(code):
        return Extraction(code, method)
    start = _CODE_START.search(code)
    return Extraction(code[start.start() :], method) if start else None
