"""The `process_reward` verifier: the scores of a completion's steps, by a process reward model.

Four ways such models are built, all read here:

    tokens      a class for each token, read at the end of each step (TRL's PRMTrainer), or at a tag
                put after it (Qwen2.5-Math-PRM, Zhang et al. 2025, arXiv 2501.07301)
    vocabulary  a causal language model that says a good or a bad token after a tag (Math-Shepherd,
                Wang et al. 2024, arXiv 2312.08935)
    prefix      a model of whole texts, which is given each beginning of the completion
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from pydantic import Field

from grpo_core.errors import VerifierError
from grpo_core.types import Sample, Status, StepScore, Verdict
from grpo_verifiers.learned.calibration import Scored, calibrated
from grpo_verifiers.learned.conversation import Encoded
from grpo_verifiers.learned.loading import preload
from grpo_verifiers.learned.options import (
    DEADLINE,
    UNLIMITED_MB,
    ModelOptions,
    Options,
    check_path,
)
from grpo_verifiers.learned.reader import Reader, open_reader, refused
from grpo_verifiers.learned.scorer import Memory
from grpo_verifiers.learned.step_models import Kind, open_step_model
from grpo_verifiers.learned.steps import Aggregation, aggregate, step_ends, words_end


class StepOptions(Options):
    """How a completion is cut into steps."""

    split: Literal["separator", "numbered"] = Field(
        default="separator",
        description="numbered: each 'Step 2' or '2.' at the start of a line begins one.",
    )
    separator: str = Field(
        default="\n\n", min_length=1, description="What ends a step with split = 'separator'."
    )
    most: int = Field(
        default=128, ge=1, le=2000, description="With more, the last step holds all the rest."
    )


class TagOptions(Options):
    """What the model reads between steps, and what it says there."""

    step: str = Field(
        default="",
        description="Put after each step, where the score is then read: ' ки' for Math-Shepherd, "
        "'<extra_0>' for Qwen2.5-Math-PRM; empty: read at the step's own end.",
    )
    join: str = Field(
        default="", description="Put between a tag and the next step: '\\n' for Math-Shepherd."
    )
    good: str | int = Field(
        default="+", description="Of kind 'vocabulary': the token for a good step, or its id."
    )
    bad: str | int = Field(default="-", description="Likewise for a bad step.")


class Loaded(NamedTuple):
    """What the first call loads."""

    reader: Reader
    memory: Memory
    kind: Kind


class Steps(NamedTuple):
    """A completion cut into steps: where they end in it, and what the model reads of them."""

    ends: list[int]
    texts: list[Encoded]  # one with a mark for each step, or one for each step


class ProcessReward:
    """The scores that a process reward model gives to the steps of a completion.

    The verdict's score is their minimum, mean, product, or last one, correct from `correct_at` on;
    its `steps` can be dense rewards of their own, with grpo.advantage = "process". References are
    not read.
    """

    version = "1.0"
    batch_size = 32
    deadline = DEADLINE
    memory_mb = UNLIMITED_MB
    reads = ("messages",)

    class Config(ModelOptions):
        """Options of the process reward model."""

        kind: Literal["auto", "tokens", "vocabulary", "prefix"] = Field(
            default="auto", description="How the model scores steps; auto: by its class."
        )
        steps: StepOptions = Field(default=StepOptions(), description="Where steps end.")
        tags: TagOptions = Field(
            default=TagOptions(), description="What stands between steps, and what it may become."
        )
        aggregation: Aggregation = Field(
            default="min", description="How the scores of steps become the verdict's."
        )

    def __init__(self, config: Config) -> None:
        check_path(config.path)
        self.config = config
        self.placement = config.runs_in
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()

    def preload(self) -> None:
        """Import what is needed, once, before the process that loads the model is forked."""
        preload()

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order; the first call loads the model.

        Raises:
            VerifierError: if it cannot be loaded.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            cut = [self._cut(self._loaded, sample) for sample in samples]
            texts = [text for part in cut if isinstance(part, Steps) for text in part.texts]
            found = iter(self._loaded.memory.rows(texts))
        reader = self._loaded.reader
        verdicts = []
        for part in cut:
            if isinstance(part, Verdict):
                verdicts.append(part)
            else:
                rows = [row for _ in part.texts for row in next(found)]
                verdicts.append(self._verdict(reader, part.ends, rows))
        return verdicts

    def _load(self) -> Loaded:
        config = self.config
        reader = open_reader(config)
        _check_tag(reader.conversation.tokenizer, config.tags.step, config.path)
        kind, scorer = open_step_model(
            config, config.kind, reader, (config.tags.bad, config.tags.good)
        )
        return Loaded(reader, Memory(scorer), kind)

    def _cut(self, loaded: Loaded, sample: Sample) -> Steps | Verdict:
        config, reader = self.config, loaded.reader
        if not sample.completion.strip():
            return Verdict.unparseable("the completion is empty")
        ends = step_ends(
            sample.completion, config.steps.split, config.steps.separator, config.steps.most
        )
        write = self._prefixes if loaded.kind == "prefix" else self._tagged
        texts = []
        try:
            for encoded in write(reader, sample, ends):
                text = reader.fit(encoded)
                if isinstance(text, int):
                    return refused(text, reader)
                texts.append(text)
        except VerifierError as error:
            return Verdict.error(str(error))
        return Steps(ends, texts)

    def _prefixes(self, reader: Reader, sample: Sample, ends: Sequence[int]) -> list[Encoded]:
        encode = reader.conversation.encode
        return [encode(sample, sample.completion[:end].rstrip()) for end in ends]

    def _tagged(self, reader: Reader, sample: Sample, ends: Sequence[int]) -> list[Encoded]:
        """One text, with a tag after each step if there is one."""
        conversation, tag = reader.conversation, self.config.tags.step
        cutting = self.config.steps
        separator = cutting.separator if cutting.split == "separator" else ""
        text = ""
        marks = []
        for start, end in pairwise([0, *ends]):
            step = conversation.defuse(sample.completion[start:end])
            last = words_end(step, separator)
            if tag:
                text += (self.config.tags.join if text else "") + step[:last].lstrip() + tag
                marks.append(len(text))
            else:
                marks.append(len(text) + last)
                text += step
        return [conversation.encode_marked(sample, text, marks)]

    def _verdict(
        self, reader: Reader, ends: Sequence[int], rows: Sequence[Sequence[float]]
    ) -> Verdict:
        config = self.config
        try:
            label = reader.label(len(rows[0]))
            scored = [calibrated(row, label, config.calibration) for row in rows]
        except VerifierError as error:
            return Verdict.error(str(error))
        score = aggregate([step.score for step in scored], config.aggregation)
        return Verdict(
            Status.CORRECT if score >= config.correct_at else Status.WRONG,
            score,
            f"{len(ends)} steps, {config.aggregation} {score:.3f}, "
            f"the lowest is step {_lowest(scored)}",
            {"raw_steps": [step.raw for step in scored], "aggregation": config.aggregation},
            steps=tuple(StepScore(end, step.score) for end, step in zip(ends, scored, strict=True)),
        )


def _lowest(scored: Sequence[Scored]) -> int:
    return min(range(len(scored)), key=lambda at: scored[at].score) + 1


def _check_tag(tokenizer: Any, tag: str, path: str) -> None:
    """Refuse a special token that is none of the tokenizer's.

    Raises:
        VerifierError: if `tag` looks like one and is cut into several.
    """
    if not (tag.startswith("<") and tag.endswith(">")):
        return  # separators such as blank lines may be several tokens
    if (count := len(tokenizer.encode(tag, add_special_tokens=False))) != 1:
        raise VerifierError(
            f"tags.step is '{tag}', which is {count} tokens of '{path}', not one: the model was "
            "not trained with it. Set tags.step to the tag that the model's card names."
        )
