"""Lay completions out for one forward pass, each prompt computed once for its whole group.

A micro-batch is one row without padding, in which every prompt is followed by its completions:

    row        p p p p a a a b b q q q c c
    position   0 1 2 3 4 5 6 4 5 0 1 2 3 4

Attention lets a completion see its prompt and itself, and positions go on from the prompt's, so
every completion gets exactly the log-probabilities it would get alone.

A model whose attention cannot be told so gets rows of one prompt and one completion, padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from grpo_core.kernels.tiles import Segment, Tile, cut


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


# A group, or a part of one: completions of one prompt.
Group = Sequence[TrainingCompletion]


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
        tiles: of the attention of a single packed row; none where prompts are not shared.
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
    tiles: tuple[Tile, ...]

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
            tiles=tuple(cut([Segment(0, 1)], 1)),
        )

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        names = [field.name for field in fields(self) if field.name != "tiles"]
        moved = {name: getattr(self, name).to(device) for name in names}
        return MicroBatch(**moved, tiles=tuple(tile.to(device) for tile in self.tiles))

    def scatter(self, values: Tensor) -> Tensor:
        """[N] values of tokens laid out as [B, T], 0 where masked; differentiable."""
        empty = values.new_zeros(self.completion_mask.shape)
        return empty.index_put((self.rows, self.columns), values)


def num_tokens(group: Group) -> int:
    """Tokens of a group that shares its prompt."""
    return len(group[0].prompt_ids) + sum(len(item.token_ids) for item in group)


def lay_out(groups: Sequence[Group], *, share_prompts: bool) -> MicroBatch:
    """The tensors of one forward pass.

    Args:
        groups: of at least one completion each; of a group, all have the same prompt.
        share_prompts: whether all lie in one row, or each completion in a row of its own with its
            prompt.
    """
    rows = [groups] if share_prompts else [[[item]] for group in groups for item in group]
    length = max(sum(map(num_tokens, row)) for row in rows)
    members = [completion for group in groups for completion in group]
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    position_ids = torch.zeros(len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    sources: list[int] = []
    pieces: list[Segment] = []
    for at, row in enumerate(rows):
        start = 0
        for group in row:
            prompt, prompt_start = group[0].prompt_ids, start
            start += len(prompt)
            input_ids[at, prompt_start:start] = torch.tensor(prompt)
            position_ids[at, prompt_start:start] = torch.arange(len(prompt))
            segments[at, prompt_start:start] = 0
            pieces.append(Segment(prompt_start, len(prompt)))
            for number, completion in enumerate(group, start=1):
                count = len(completion.token_ids)
                end = start + count
                input_ids[at, start:end] = torch.tensor(completion.token_ids)
                position_ids[at, start:end] = torch.arange(len(prompt), len(prompt) + count)
                segments[at, start:end] = number
                pieces.append(Segment(start, count, prompt_start, len(prompt)))
                # The prompt's last position predicts the first token, each token the next one.
                sources.append(at * length + prompt_start + len(prompt) - 1)
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
        tiles=tuple(cut(pieces, length)) if share_prompts else (),
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
