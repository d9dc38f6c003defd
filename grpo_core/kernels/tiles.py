"""How the attention of a packed row is cut into dense pieces.

A packed row holds segments: prompts, and completions that also see the prompt before them. A tile
takes segments of like length side by side, a range of each one's positions as queries, and as keys
all that these may see: the prompt, then the segment up to the end of the range.

    keys       p p p p . a a a . .        (.) padding, which nobody sees
    queries              a a a . .

Every position is a query in exactly one tile, so that a tile's softmax is final, and a tile's size
is bounded, so that memory grows with the number of tokens and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Scores of one tile and head: a few megabytes for all heads, which the caches hold.
_TILE_SCORES = 1 << 16
_TILE_QUERIES = 256
# Shorter segments start a tile of their own: a tile costs some twenty calls, padding costs work.
_LENGTH_RATIO = 0.7
_NEVER = 1 << 30  # the order of a padded key: after every query


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive places of a row that see each other causally, and all of a prompt before them.

    Attributes:
        start, length: of the segment, in the row.
        prompt_start, prompt_length: of the prompt it goes on from; length 0 for a prompt itself.
    """

    start: int
    length: int
    prompt_start: int = 0
    prompt_length: int = 0


@dataclass(frozen=True, slots=True)
class Tile:
    """One dense piece: B segments, Q queries and K keys of each.

    Attributes:
        queries: [B*Q] places in the row; padding reads place 0.
        results: [B*Q] the same, padding at the place after the row's last.
        keys: [B*K] places; padding reads place 0.
        query_order, key_order: [B, Q] and [B, K] positions in the sequence of prompt and segment; a
            query sees the keys whose order is not above its own.
    """

    queries: Tensor
    results: Tensor
    keys: Tensor
    query_order: Tensor
    key_order: Tensor

    def to(self, device: torch.device) -> Tile:
        """The same on another device."""
        return Tile(*(getattr(self, name).to(device) for name in self.__slots__))

    def hidden(self, dtype: torch.dtype) -> Tensor:
        """[B, Q, 1, K] to be added to scores: 0 where a query sees a key, else -infinity."""
        seen = self.key_order[:, None, None, :] <= self.query_order[:, :, None, None]
        zero = torch.zeros((), dtype=dtype, device=seen.device)
        return torch.where(seen, zero, -torch.inf)


def cut(segments: Sequence[Segment], num_places: int) -> list[Tile]:
    """Tiles in which each of the places 0 to `num_places` - 1 is a query once.

    Args:
        segments: which together cover all places, without overlap.
        num_places: length of the row.
    """
    ranges = sorted(_ranges(segments), key=lambda r: (r.end - r.start, r.num_keys), reverse=True)
    return [_tile(members, num_places) for members in _alike(ranges)]


@dataclass(frozen=True, slots=True)
class _Range:
    """The positions `start` to `end` of a segment as queries."""

    segment: Segment
    start: int
    end: int

    @property
    def num_keys(self) -> int:
        return self.segment.prompt_length + self.end


def _ranges(segments: Sequence[Segment]) -> Iterator[_Range]:
    for segment in segments:
        for start in range(0, segment.length, _TILE_QUERIES):
            yield _Range(segment, start, min(start + _TILE_QUERIES, segment.length))


def _alike(ranges: Sequence[_Range]) -> Iterator[list[_Range]]:
    """Ranges side by side that need little padding and are not too many scores."""
    tile: list[_Range] = []
    width = keys = 0
    for item in ranges:
        longest = max(keys, item.num_keys)
        full = (len(tile) + 1) * width * longest > _TILE_SCORES
        shorter = item.end - item.start < _LENGTH_RATIO * width
        sparse = min(item.num_keys, keys) < _LENGTH_RATIO * longest
        if tile and (full or shorter or sparse):
            yield tile
            tile = []
        if not tile:
            width, longest = item.end - item.start, item.num_keys
        keys = longest
        tile.append(item)
    if tile:
        yield tile


def _tile(members: Sequence[_Range], num_places: int) -> Tile:
    count = len(members)
    width = max(item.end - item.start for item in members)
    depth = max(item.num_keys for item in members)
    queries = torch.zeros(count, width, dtype=torch.long)
    results = torch.full((count, width), num_places)
    query_order = torch.full((count, width), _NEVER)
    keys = torch.zeros(count, depth, dtype=torch.long)
    key_order = torch.full((count, depth), _NEVER)
    for row, item in enumerate(members):
        segment, prompt = item.segment, item.segment.prompt_length
        taken = item.end - item.start
        places = torch.arange(segment.start + item.start, segment.start + item.end)
        queries[row, :taken] = places
        results[row, :taken] = places
        query_order[row, :taken] = torch.arange(prompt + item.start, prompt + item.end)
        first = segment.prompt_start
        keys[row, :prompt] = torch.arange(first, first + prompt)
        keys[row, prompt : item.num_keys] = torch.arange(segment.start, segment.start + item.end)
        key_order[row, : item.num_keys] = torch.arange(item.num_keys)
    return Tile(queries.flatten(), results.flatten(), keys.flatten(), query_order, key_order)
