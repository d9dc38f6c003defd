"""Continuous batching: completions join, are decoded side by side, and leave when finished.

Source: Yu et al. 2022, "Orca", OSDI: scheduling at the level of single tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from grpo_core.protocols import SamplingParams
from grpo_core.sampling.base import check_finite
from grpo_core.sampling.distribution import draw
from grpo_core.sampling.hf.memory import Memory
from grpo_core.sampling.hf.passes import Passes, Prefilled
from grpo_core.sampling.hf.stops import StopWatch
from grpo_core.types import FinishReason

_PREFILL_TOKENS = 8192  # of prompts computed side by side; bounds their memory
_PART_OF_BATCH = 8  # waiting completions join when this part of the batch is free


@dataclass(slots=True)
class Row:
    """A completion in the making.

    Attributes:
        prompt: position of its prompt in the list that was asked for.
        index: its number within the group.
        prompt_ids: tokens of its prompt.
        uniforms: what decides its tokens.
        stop_watch: looks for stop strings.
    """

    prompt: int
    index: int
    prompt_ids: tuple[int, ...]
    uniforms: np.ndarray
    stop_watch: StopWatch
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Batch:
    """The completions of one call: those that wait, and those under way."""

    def __init__(
        self,
        rows: Iterable[Row],
        passes: Passes,
        params: SamplingParams,
        eos: frozenset[int],
        size: int,
    ) -> None:
        """Nothing is computed yet.

        Args:
            rows: the completions.
            passes: of the model.
            params: how tokens are drawn.
            eos: tokens that end a completion.
            size: rows decoded side by side at most.
        """
        # The longest prompts first: what waits then never needs more columns than there are.
        # Completions of one prompt stand together, also when it comes twice.
        ordered = sorted(rows, key=lambda r: (-len(r.prompt_ids), r.prompt_ids, r.prompt, r.index))
        self._waiting = deque(ordered)
        self._live: list[Row] = []
        self._passes = passes
        self._params = params
        self._eos = eos
        self._size = min(size, len(ordered))
        longest = max((len(row.prompt_ids) for row in ordered), default=0)
        self._memory = Memory(
            self._size, longest, params.max_new_tokens, apart=passes.prompts_apart
        )
        self._held: tuple[tuple[int, ...], Prefilled] | None = None

    @property
    def is_done(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._waiting and not self._live

    @torch.inference_mode()
    def advance(self) -> list[Row]:
        """One token more of every row under way; rows that wait join where there is room.

        Returns:
            the rows that have been finished by it.
        """
        finished: list[Row] = []
        free = self._size - len(self._live)
        if free >= min(len(self._waiting), max(1, self._size // _PART_OF_BATCH)) > 0:
            joining = min(free, len(self._waiting))
            finished += self._admit([self._waiting.popleft() for _ in range(joining)])
        if self._live:
            finished += self._step()
        return finished

    def _admit(self, rows: Sequence[Row]) -> list[Row]:
        """Compute prompts, draw the first token of each row, and let those that go on join."""
        finished: list[Row] = []
        for prompts in self._portions(rows):
            computed = self._computed(prompts)
            numbers = {ids: number for number, ids in enumerate(prompts)}
            chosen = [row for row in rows if row.prompt_ids in numbers]
            places = [numbers[row.prompt_ids] for row in chosen]
            self._extend(chosen, computed.logits[places])
            going_on = [at for at, row in enumerate(chosen) if row.finish_reason is None]
            if going_on:
                self._memory.join(computed, [places[at] for at in going_on])
                self._live += [chosen[at] for at in going_on]
            finished += [row for row in chosen if row.finish_reason is not None]
            if self._waiting and self._waiting[0].prompt_ids in numbers:
                ids = self._waiting[0].prompt_ids
                self._held = ids, computed.only(numbers[ids])
        return finished

    def _portions(self, rows: Sequence[Row]) -> Iterator[list[tuple[int, ...]]]:
        """The distinct prompts of `rows`, as many at a time as are computed side by side."""
        portion: list[tuple[int, ...]] = []
        width = 0
        for ids in dict.fromkeys(row.prompt_ids for row in rows):
            is_held = self._held is not None and ids == self._held[0]
            width = max(width, len(ids))
            if portion and width * (len(portion) + 1) > _PREFILL_TOKENS:
                yield portion
                portion, width = [], len(ids)
            portion.append(ids)
            if is_held:  # it comes first, if at all
                yield portion
                portion, width = [], 0
        if portion:
            yield portion

    def _computed(self, prompts: Sequence[tuple[int, ...]]) -> Prefilled:
        """Prompts computed, or the one that was kept for completions that had to wait."""
        held, self._held = self._held, None
        if held is not None and held[0] == prompts[0]:
            return held[1]
        return self._passes.prefill(prompts)

    def _step(self) -> list[Row]:
        """The next token of every row under way."""
        live = self._live
        self._memory.columns.grow()
        tokens = [row.token_ids[-1] for row in live]
        positions = [len(row.prompt_ids) + len(row.token_ids) - 1 for row in live]
        self._extend(live, self._passes.step(tokens, positions, self._memory))
        gone = [at for at, row in enumerate(live) if row.finish_reason is not None]
        if gone:
            self._live = [live[at] for at in self._memory.leave(gone)]
        return [live[at] for at in gone]

    def _extend(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Draw the next token of each row from `logits` [B, V]."""
        uniforms = np.array([row.uniforms[len(row.token_ids)] for row in rows])
        params = self._params
        tokens, logprobs = draw(
            logits,
            torch.as_tensor(uniforms).to(logits.device),
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
        )
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            check_finite(logprob, len(row.token_ids))
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.finish_reason = self._reason(row)

    def _reason(self, row: Row) -> FinishReason | None:
        if row.token_ids[-1] in self._eos:
            return "eos"
        if row.stop_watch.is_complete(row.token_ids):
            return "stop"
        return "length" if len(row.token_ids) == self._params.max_new_tokens else None
