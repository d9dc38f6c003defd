"""Lay completions out for one forward pass, each prompt computed once for its whole group.

A row holds a prompt followed by several of its completions. The attention mask lets a completion
see the prompt and itself, and positions restart after the prompt, so every completion gets exactly
the log-probabilities it would get alone:

    row        p p p p a a a b b
    position   0 1 2 3 4 5 6 4 5

Rows are kept short, because attention costs the square of their length, and are collected into
micro-batches of bounded size. What is computed does not depend on either bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ROW_TOKENS = 512  # where attention's square starts to cost more than computing a prompt again


@dataclass(frozen=True, slots=True)
class TrainingCompletion:
    """A completion to be trained on.

    Attributes:
        prompt_ids, token_ids: the prompt's tokens and the completion's [T], T >= 1.
        advantage: weight of its policy gradient, or [T] of each token's.
        sampler_logprobs: [T] nats, as recorded by the sampler.
        place: a number of the caller's, which comes back in `MicroBatch.places`.
    """

    prompt_ids: Sequence[int]
    token_ids: Sequence[int]
    advantage: float | Sequence[float]
    sampler_logprobs: Sequence[float]
    place: int = 0


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Tensors of one forward pass over R rows of at most L tokens, B completions of at most T.

    Attributes:
        input_ids, position_ids: [R, L]; padded on the right.
        segments: [R, L]; 0 prompt, 1.. completions, -1 padding.
        sources: [N] flat indices into R*L of the positions that predict a completion token.
        targets: [N] the tokens they predict.
        rows, columns: [N] where each token lies in [B, T] tensors.
        completion_mask: [B, T] bool, true on tokens of a completion.
        advantages: [B], or [B, T] where tokens have their own, 0 where masked.
        sampler_logprobs: [B, T], 0 where masked. places: [B].
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Tensor
    sources: Tensor
    targets: Tensor
    rows: Tensor
    columns: Tensor
    completion_mask: Tensor
    advantages: Tensor
    sampler_logprobs: Tensor
    places: Tensor

    @classmethod
    def empty(cls) -> MicroBatch:
        """One row without a completion: a pass over it adds nothing, and takes part in it."""
        numbers = torch.zeros(1, 1, dtype=torch.long)
        none = torch.zeros(0, dtype=torch.long)
        return cls(
            input_ids=numbers,
            position_ids=numbers,
            segments=numbers,
            sources=none,
            targets=none,
            rows=none,
            columns=none,
            completion_mask=torch.zeros(1, 1, dtype=torch.bool),
            advantages=torch.zeros(1),
            sampler_logprobs=torch.zeros(1, 1),
            places=torch.zeros(1, dtype=torch.long),
        )

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        return MicroBatch(*(getattr(self, name).to(device) for name in self.__slots__))

    def attention_mask(self) -> Tensor:
        """[R, 1, L, L] bool: which position (last axis) each position may look at."""
        segments = self.segments
        length = segments.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
        own = segments[:, :, None] == segments[:, None, :]
        prompt = (segments == 0)[:, None, :]
        return ((own | prompt) & causal)[:, None]

    def scatter(self, values: Tensor) -> Tensor:
        """[N] values of tokens laid out as [B, T], 0 where masked; differentiable."""
        empty = values.new_zeros(self.completion_mask.shape)
        return empty.index_put((self.rows, self.columns), values)


def pack(
    completions: Sequence[TrainingCompletion], max_tokens: int, *, share_prompts: bool = True
) -> Iterator[MicroBatch]:
    """Micro-batches of at most `max_tokens` padded tokens (one row at least).

    Args:
        completions: in any order; those with equal `prompt_ids` share a prompt.
        max_tokens: R*L of a micro-batch.
        share_prompts: False gives every completion a row of its own, for models whose attention
            cannot be masked freely.
    """
    rows = sorted(_rows(completions, share_prompts), key=_row_length)
    batch: list[list[TrainingCompletion]] = []
    for row in rows:
        if batch and (len(batch) + 1) * _row_length(row) > max_tokens:
            yield _micro_batch(batch)
            batch = []
        batch.append(row)
    if batch:
        yield _micro_batch(batch)


def deal(
    completions: Sequence[TrainingCompletion],
    max_tokens: int,
    rank: int,
    size: int,
    *,
    share_prompts: bool = True,
) -> list[MicroBatch]:
    """The micro-batches of one of `size` processes; all get equally many, some of them empty.

    Args:
        completions: of all processes, in the same order in each.
        max_tokens: as for `pack`; less where there is not enough for everybody otherwise.
        rank: of the process, from 0.
        size: number of processes; a single one gets what `pack` gives.
        share_prompts: as for `pack`.
    """
    if size > 1:
        lengths = [_row_length(row) for row in _rows(completions, share_prompts)]
        max_tokens = min(max_tokens, math.ceil(sum(lengths) / size))
        # Rows of unequal length may still fit into fewer batches than there are processes.
        while len(lengths) >= size and _num_batches(lengths, max_tokens) < size:
            max_tokens //= 2
    batches = list(pack(completions, max_tokens, share_prompts=share_prompts))
    own = batches[rank::size]
    rounds = math.ceil(len(batches) / size)
    return own + [MicroBatch.empty()] * (rounds - len(own))


def _num_batches(lengths: Sequence[int], max_tokens: int) -> int:
    """How many micro-batches `pack` makes of rows of these lengths."""
    batches = in_batch = 0
    for length in sorted(lengths):
        if in_batch and (in_batch + 1) * length <= max_tokens:
            in_batch += 1
        else:
            batches, in_batch = batches + 1, 1
    return batches


def _rows(
    completions: Sequence[TrainingCompletion], share_prompts: bool
) -> Iterator[list[TrainingCompletion]]:
    if not share_prompts:
        yield from ([completion] for completion in completions)
        return
    groups: dict[tuple[int, ...], list[TrainingCompletion]] = {}
    for completion in completions:
        groups.setdefault(tuple(completion.prompt_ids), []).append(completion)
    for prompt, group in groups.items():
        row: list[TrainingCompletion] = []
        used = len(prompt)
        for completion in sorted(group, key=lambda item: len(item.token_ids)):
            if row and used + len(completion.token_ids) > _ROW_TOKENS:
                yield row
                row, used = [], len(prompt)
            row.append(completion)
            used += len(completion.token_ids)
        yield row


def _row_length(row: Sequence[TrainingCompletion]) -> int:
    return len(row[0].prompt_ids) + sum(len(completion.token_ids) for completion in row)


def _micro_batch(rows: Sequence[Sequence[TrainingCompletion]]) -> MicroBatch:
    length = max(map(_row_length, rows))
    members = [completion for row in rows for completion in row]
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    position_ids = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    sources: list[int] = []
    for at, row in enumerate(rows):
        prompt = row[0].prompt_ids
        start = len(prompt)
        input_ids[at, :start] = torch.tensor(prompt)
        position_ids[at, :start] = torch.arange(start)
        segments[at, :start] = 0
        for segment, completion in enumerate(row, start=1):
            count = len(completion.token_ids)
            end = start + count
            input_ids[at, start:end] = torch.tensor(completion.token_ids)
            position_ids[at, start:end] = torch.arange(len(prompt), len(prompt) + count)
            segments[at, start:end] = segment
            # The prompt's last position predicts the first token, each token the next one.
            sources.append(at * length + len(prompt) - 1)
            sources.extend(range(at * length + start, at * length + end - 1))
            start = end
    counts = torch.tensor([len(completion.token_ids) for completion in members])
    mask = torch.arange(int(counts.max())) < counts[:, None]
    where_rows, where_columns = mask.nonzero(as_tuple=True)
    logprobs = torch.zeros(mask.shape)
    logprobs[mask] = torch.tensor([p for item in members for p in item.sampler_logprobs])
    return MicroBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        segments=segments,
        sources=torch.tensor(sources),
        targets=torch.tensor([token for item in members for token in item.token_ids]),
        rows=where_rows,
        columns=where_columns,
        completion_mask=mask,
        advantages=_advantages(members, mask),
        sampler_logprobs=logprobs,
        places=torch.tensor([item.place for item in members]),
    )


def _advantages(members: Sequence[TrainingCompletion], mask: Tensor) -> Tensor:
    """[B], or [B, T] float32 if any member's tokens have their own."""
    given = [item.advantage for item in members]
    if all(isinstance(advantage, int | float) for advantage in given):
        return torch.tensor(given, dtype=torch.float32)
    rows = [
        [advantage] * len(item.token_ids) if isinstance(advantage, int | float) else advantage
        for advantage, item in zip(given, members, strict=True)
    ]
    values = torch.zeros(mask.shape)
    values[mask] = torch.tensor([value for row in rows for value in row], dtype=torch.float32)
    return values
