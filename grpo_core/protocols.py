"""The protocols of the framework's exchangeable parts: what a plugin's class has to offer.

Shape letters: P prompts, G completions of one prompt (a group).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from grpo_core.types import Completion, Prompt, Sample, ScoredCompletion, Verdict


class Verifier(Protocol):
    """Judges completions. Runs in a worker process that is killed at its deadline.

    The constructor must be light, because it runs in the trainer, too, where options are checked.
    A model is loaded at the first call. Optional attributes, read from the instance:
        version: str = "0"; recorded in the manifest and on every verdict.
        Config: a pydantic model; its instance is passed to the constructor.
        placement: str = "workers", the pool's worker processes, any of which may get a call;
            "process": one process of its own that gets all calls, for models, caches and rate
            limits; "trainer": a thread of the trainer, which cannot be killed.
        batch_size: int = 1; how many samples one call may get.
        deadline: float | None; seconds for one call. None: verification.deadline.
        memory_mb: int | None; what a call may take. None: verification.memory_mb. Workers that
            verifiers share get the largest.
        reads: Sequence[str] = (); which of the sample's "messages" and "token_ids" it looks at.
        candidate_bears_limits: bool = False; True means that running out of time or memory is the
            completion's fault (verdict `wrong`), provided `check_reference` passes in time.
        check_reference(reference) -> None: raises VerifierError for a reference it cannot read.
        preload() -> None: heavy imports, done once before workers are forked. It must leave no
            threads and no open connections behind; they would not survive the fork.
        examples: a list of `grpo_core.testing.Example`, or a function that returns one; what `grpo
            plugins test` tries.
        max_gameability: float = 0.0; share of the suite's cheap attacks that may get credit. 1.0
            for a verifier that judges no answer by itself.
        compose(create) -> None: for a verifier made of others; called once after the constructor.
            `create(name, options)` makes another registered verifier.
    """

    def verify(self, samples: Sequence[Sample]) -> Sequence[Verdict]:
        """One verdict a sample, in order."""
        ...


class RewardShaper(Protocol):
    """Adds a reward component beside the verdicts. Never changes the binary verdict.

    Attributes:
        range: (low, high), the values it may return before its weight; checked at run time.
        version, Config: as for verifiers.
    """

    range: tuple[float, float]

    def shape(self, group: Sequence[ScoredCompletion]) -> Sequence[float]:
        """One value a completion of the group, in order."""
        ...


class Task(Protocol):
    """Prompts with references, in splits.

    Attributes:
        default_verifier: name of the verifier that fits its references.
        splits: names of its splits; training uses "train", held-out evaluation the task's
            `evaluation_split`.
        version, Config: as for verifiers.
    """

    default_verifier: str
    splits: Sequence[str]
    evaluation_split: str

    def load(self, split: str) -> Sequence[Prompt]:
        """The prompts of a split, always the same ones in the same order."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn.

    Attributes:
        temperature: > 0 samples from softmax(logits / temperature); 0 takes the likeliest token.
        top_p, top_k: nucleus and top-k truncation; 1.0 and 0 mean off.
        stop: strings that end a completion; removed from its text.
        seed: with the prompt id and the completion's index it decides every draw, whatever else
            is in the batch. For a prompt that comes twice the index goes on counting.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: Sequence[str] = ()
    seed: int = 0


OnCompletion = Callable[[int, Completion], None]


@runtime_checkable
class Sampler(Protocol):
    """Draws groups of completions from the current policy."""

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """Token ids of a prompt, chat template applied."""
        ...

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> Sequence[Sequence[Completion]]:
        """`num_samples` completions for each prompt, [P][G], in order of index.

        `on_completion(prompt_position, completion)` is called as soon as each one is finished, so
        that verification starts while others are still being sampled.
        """
        ...

    def update_weights(self) -> None:
        """Called after every optimiser step: sample from the new weights from here on."""
        ...

    def close(self) -> None:
        """Free what the sampler holds."""
        ...


@runtime_checkable
class ProbedSampler(Protocol):
    """A sampler with weights of its own, which lets the trainer find out whether they are right.

    An engine that samples from the trainer's very model has nothing to go wrong and leaves it out.
    """

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Log-probability, in nats at temperature 1, of every token of a sequence but the first."""
        ...
