"""The form of a completion: think and answer tags in order, once each, and nothing around them.

As in R1 (DeepSeek-AI 2025, arXiv 2501.12948). Whether the answer is right is another verifier's
business; `all_of` joins the two. Tags are found by plain search, in time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from grpo_core.types import Sample, Verdict

if TYPE_CHECKING:
    from grpo_core.testing import Example

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")


def _tag_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a tag; write 'think', not '<think>'.")
    if len({name.casefold() for name in names}) != len(names):
        raise ValueError(f"each tag must be named once, got {', '.join(names)}.")
    return names


class FormatVerifier:
    """Correct if the completion is <think>..</think><answer>..</answer>, and nothing else.

    Each tag stands once, in this order, unchanged: `<answer id=1>`, `<Answer>` or a second
    `<answer>` are wrong. The reference is not looked at.
    """

    version = "1.0"
    max_gameability = 1.0  # it judges no answer

    class Config(BaseModel):
        """Options of the format verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        tags: Annotated[tuple[str, ...], AfterValidator(_tag_names)] = Field(
            default=("think", "answer"), min_length=1, description="names of the tags, in order"
        )
        opened: bool = Field(
            default=False,
            description="the prompt ends with the first opening tag, which is thus not repeated",
        )
        filled: Literal["last", "all"] = Field(
            default="last", description="which blocks must hold text: the last one, or all"
        )
        outside: bool = Field(
            default=False, description="text before, between and after the blocks is allowed"
        )
        partial: bool = Field(
            default=False,
            description="where the form fails, the score is a share for each tag found once",
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        names = self.config.tags
        self._tags = [tag for name in names for tag in (f"<{name}>", f"</{name}>")]
        self._similar = re.compile(
            rf"<\s*/?\s*(?:{'|'.join(map(re.escape, names))})(?![\w-])[^<>]{{0,200}}>",
            re.IGNORECASE,
        )

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample.completion) for sample in samples]

    def _judge(self, completion: str) -> Verdict:
        own = self._tags[1:] if self.config.opened else self._tags
        counts = {tag: completion.count(tag) for tag in own}
        details = {"tags": counts}
        if not any(counts.values()):
            return Verdict.unparseable("there are no tags", details)
        text = self._tags[0] + completion if self.config.opened else completion
        if fault := self._fault(text):
            once = sum(count == 1 for count in counts.values())
            # All tags in the wrong order are not enough for full marks.
            share = min(once, len(own) - 1) / len(own) if self.config.partial else 0.0
            return Verdict.wrong(fault, details, share)
        return Verdict.correct("the form is right", details)

    def _fault(self, text: str) -> str:
        """What is wrong with the form of a text; "" if nothing is."""
        found = list(self._similar.finditer(text))
        tags = [match.group() for match in found]
        for tag in tags:
            if tag not in self._tags:
                return f"{tag[:60]!r} is none of the tags {' '.join(self._tags)}"
        if tags != self._tags:
            return f"the tags must be {' '.join(self._tags)}, got {' '.join(tags)[:200]}"
        starts, ends = [match.start() for match in found], [match.end() for match in found]
        contents = [text[ends[i] : starts[i + 1]] for i in range(0, len(found), 2)]
        for name, content in zip(self.config.tags, contents, strict=True):
            is_last = name == self.config.tags[-1]
            if not content.strip() and (is_last or self.config.filled == "all"):
                return f"<{name}> is empty"
        around = [text[: starts[0]], text[ends[-1] :]]
        around += [text[ends[i] : starts[i + 1]] for i in range(1, len(found) - 1, 2)]
        if not self.config.outside and any(part.strip() for part in around):
            return "there is text outside of the tags"
        return ""

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdict is known."""
        from grpo_core.testing import Example

        form = "<think>1 + 1</think>\n<answer>2</answer>"
        partial, opened = {"partial": True}, {"opened": True}
        loose = {"tags": ["answer"], "outside": True}
        return [
            Example(form, "2", "correct"),
            Example(f"\n{form}\n", "3", "correct"),
            Example("<think></think><answer>2</answer>", "2", "correct"),
            Example("1 + 1</think><answer>2</answer>", "2", "correct", options=opened),
            Example("a <answer>2</answer> b", "2", "correct", options=loose),
            Example("The answer is 2.", "2", "unparseable"),
            Example("<think>1 + 1</think>", "2", "wrong", options=partial, score=0.5),
            Example(f"{form} done", "2", "wrong", options=partial, score=0.75),
            Example(form, "2", "wrong", options=opened),
            Example("<think>1</think><answer> </answer>", "2", "wrong"),
            Example("<answer>2</answer><think>1</think>", "2", "wrong"),
            Example("<think>1<answer>2</answer></think>", "2", "wrong"),
            Example("<think>1</think><answer>2</answer><answer>3</answer>", "2", "wrong"),
            Example("<think>1</think><answer>2<ANSWER></answer>", "2", "wrong"),
            Example("<think>1</think><answer id='a'>2</answer>", "2", "wrong"),
            Example("<think></think><answer>2</answer>", "2", "wrong", options={"filled": "all"}),
        ]
