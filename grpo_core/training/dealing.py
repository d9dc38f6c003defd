"""Divide completions into micro-batches, and micro-batches among processes.

Neither changes what is computed: loss and gradient are sums over completions.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence

from grpo_core.training.packing import Group, MicroBatch, TrainingCompletion, lay_out, num_tokens


def pack(
    completions: Sequence[TrainingCompletion], max_tokens: int, *, share_prompts: bool = True
) -> Iterator[MicroBatch]:
    """Micro-batches of at most `max_tokens` tokens, padding included (one completion at least).

    Args:
        completions: in any order; those with equal `prompt_ids` share a prompt.
        max_tokens: of a micro-batch.
        share_prompts: False gives every completion a row of its own, for models whose attention
            cannot be told what to see.
    """
    yield from deal(completions, max_tokens, 0, 1, share_prompts=share_prompts)


def deal(
    completions: Sequence[TrainingCompletion],
    max_tokens: int,
    rank: int,
    size: int,
    *,
    share_prompts: bool = True,
) -> list[MicroBatch]:
    """The micro-batches of one of `size` processes; all get equally many, some of them empty.

    Micro-batches are of like size, and so is what the processes compute at the same time.

    Args:
        completions: of all processes, in the same order in each.
        max_tokens: as for `pack`.
        rank: of the process, from 0.
        size: number of processes; a single one gets what `pack` gives.
        share_prompts: as for `pack`.
    """
    divide = _balanced if share_prompts else _padded
    batches = divide(completions, max_tokens, size)
    own = batches[rank::size]
    rounds = math.ceil(len(batches) / size)
    laid_out = [lay_out(batch, share_prompts=share_prompts) for batch in own]
    return laid_out + [MicroBatch.empty()] * (rounds - len(own))


def _balanced(
    completions: Sequence[TrainingCompletion], max_tokens: int, size: int
) -> list[list[Group]]:
    """Groups in as few batches as hold them, a multiple of `size`, and of like size.

    The largest group goes to the emptiest batch (Graham 1969, longest processing time first).
    """
    groups = [group for _, group in sorted(_by_prompt(completions).items())]
    total = sum(map(num_tokens, groups))
    num_batches = _multiple(math.ceil(total / max_tokens), size)
    while num_batches < _multiple(len(completions), size):
        # Parts that are small against a batch can be spread evenly; but each has its own prompt.
        most = min(max_tokens, math.ceil(total / num_batches))
        parts = [part for group in groups for part in _parts(group, most)]
        batches = _spread(parts, num_batches)
        if all(_fits(batch, max_tokens) for batch in batches):
            return [batch for batch in batches if batch]
        num_batches += size
    return [[[completion]] for group in groups for completion in group]


def _fits(batch: Sequence[Group], max_tokens: int) -> bool:
    is_single = sum(map(len, batch)) <= 1
    return is_single or sum(map(num_tokens, batch)) <= max_tokens


def _multiple(count: int, size: int) -> int:
    return size * math.ceil(count / size)


def _spread(parts: Iterable[Group], num_batches: int) -> list[list[Group]]:
    batches: list[list[Group]] = [[] for _ in range(num_batches)]
    heap = [(0, at) for at in range(num_batches)]
    for part in sorted(parts, key=num_tokens, reverse=True):
        tokens, at = heapq.heappop(heap)
        batches[at].append(part)
        heapq.heappush(heap, (tokens + num_tokens(part), at))
    return sorted(batches, key=lambda batch: -sum(map(num_tokens, batch)))


def _parts(group: Group, max_tokens: int) -> Iterator[Group]:
    """A group in parts that fit, with like numbers of tokens."""
    most = max(1, max_tokens - len(group[0].prompt_ids))
    tokens = num_tokens(group) - len(group[0].prompt_ids)
    count = min(len(group), math.ceil(tokens / most))
    ordered = sorted(group, key=lambda item: len(item.token_ids))
    yield from (ordered[at::count] for at in range(count))


def _by_prompt(
    completions: Iterable[TrainingCompletion],
) -> dict[tuple[int, ...], list[TrainingCompletion]]:
    groups: dict[tuple[int, ...], list[TrainingCompletion]] = {}
    for completion in completions:
        groups.setdefault(tuple(completion.prompt_ids), []).append(completion)
    return groups


def _padded(
    completions: Sequence[TrainingCompletion], max_tokens: int, size: int
) -> list[list[Group]]:
    """Rows of one completion each, as long as the longest of their batch."""
    rows = sorted(([completion] for completion in completions), key=num_tokens)
    if size > 1:
        max_tokens = min(max_tokens, math.ceil(sum(map(num_tokens, rows)) / size))
    while True:
        batches: list[list[Group]] = []
        for row in rows:
            if not batches or (len(batches[-1]) + 1) * num_tokens(row) > max_tokens:
                batches.append([])
            batches[-1].append(row)
        # Rows of unequal length may fit into fewer batches than there are processes.
        if len(batches) >= min(size, len(rows)):
            return batches
        max_tokens //= 2
