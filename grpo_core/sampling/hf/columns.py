"""Keys and values of sequences that grow side by side, aligned at their last token.

All sequences end in one column, so that a new token is written to one column for all of them, and
the distance between two columns is the distance between two tokens in every row: masks of sliding
windows and biases by distance hold as they are. A sequence that joins is laid to the left of that
column; one that leaves gives its slot to the last one.

    slot 0  . . p p p c c c |
    slot 1  p p p p p p c c |  <- end
    slot 2  . . . . p p p c |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ROOM = 64  # columns at least that a new store has to grow into


@dataclass(frozen=True, slots=True)
class LayerStates:
    """What one layer has computed of some sequences, aligned at their last token.

    Attributes:
        keys, values: [B, heads, T, size]; sizes may differ between the two.
    """

    keys: Tensor
    values: Tensor


class Columns:
    """A store of keys and values that takes what it needs, growing by halves."""

    def __init__(self, slots: int, longest: int) -> None:
        """An empty store.

        Args:
            slots: sequences at most.
            longest: tokens that a sequence may grow to at most.
        """
        self._most = slots
        self._slots = 0
        self._longest = longest
        self._layers: list[LayerStates] = []
        self._end = 0
        self.spans: list[int] = []

    @property
    def num_layers(self) -> int:
        """Layers stored."""
        return len(self._layers)

    @property
    def _capacity(self) -> int:
        return self._layers[0].keys.shape[2] if self._layers else 0

    @property
    def width(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.spans, default=0)

    def mask(self, device: torch.device) -> Tensor | None:
        """[B, width] True where a row has a token; None if all rows are equally long."""
        width = self.width
        if width == min(self.spans):
            return None
        first = width - torch.tensor(self.spans, device=device)
        return torch.arange(width, device=device) >= first[:, None]

    def join(self, states: Sequence[LayerStates], index: Tensor, spans: Sequence[int]) -> None:
        """Add sequences.

        Args:
            states: of each layer. A layer that looks at a window only may have fewer columns than
                the longest sequence has tokens.
            index: [n] row of `states` of each.
            spans: [n] how many tokens each has.
        """
        width, start = max(spans), len(self.spans)
        count = start + len(spans)
        if not self.spans:
            self._end = width if self._slots >= count and width <= self._capacity else 0
        if width > self._end or count > self._slots:
            self._slots = max(count, min(2 * self._slots, self._most))
            self._relocate(states, end=max(width, self._end))
        self.spans.extend(spans)
        if width == 0:
            return
        for own, new in zip(self._layers, states, strict=True):
            kept = min(width, new.keys.shape[2])
            place = (slice(start, count), slice(None), slice(self._end - kept, self._end))
            own.keys[place] = new.keys[index, :, new.keys.shape[2] - kept :]
            own.values[place] = new.values[index, :, new.values.shape[2] - kept :]

    def grow(self) -> None:
        """Open a column for one more token of every sequence."""
        if self._end == self._capacity:
            self._relocate(self._layers, end=self.width)
        self._end += 1
        self.spans = [span + 1 for span in self.spans]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Set the last column of all rows to `keys`, `values` [B, heads, size]."""
        own, rows = self._layers[layer], len(self.spans)
        own.keys[:rows, :, self._end - 1] = keys
        own.values[:rows, :, self._end - 1] = values

    def read(self, layer: int) -> LayerStates:
        """All rows, [B, heads, width, size], in place; zeros or old numbers where masked."""
        own = self._layers[layer]
        place = (slice(len(self.spans)), slice(None), slice(self._end - self.width, self._end))
        return LayerStates(own.keys[place], own.values[place])

    def leave(self, rows: Sequence[int]) -> list[int]:
        """Take sequences out; the last ones move into their slots.

        Returns:
            for every slot still in use, the row that it had before.
        """
        count = len(self.spans)
        order = order_without(rows, count)
        moved = [(slot, row) for slot, row in enumerate(order) if slot != row]
        if moved and self.width:
            to, origin = torch.tensor(moved, device=self._layers[0].keys.device).T
            place = slice(self._end - self.width, self._end)
            for own in self._layers:
                for states in (own.keys, own.values):
                    states[to, :, place] = states[origin, :, place]
        self.spans = [self.spans[row] for row in order]
        return order

    def _relocate(self, like: Sequence[LayerStates], end: int) -> None:
        """Move all rows so that they end at column `end`, leaving room for what is to come.

        What stood to the left of the longest row is dropped, so that rows which leave and join for
        ever do not need columns for ever.
        """
        rows, width = len(self.spans), self.width
        # A quarter more than the longest row, or rows that started one after another would have to
        # be moved at every step once the first of them is nearly as long as it may be.
        most = max(self._longest + self._longest // 4, end + 1)
        capacity = min(end + max(_ROOM, end // 2), most)
        old_end, self._end = self._end, end
        layers: list[LayerStates | None] = [*self._layers] or [None] * len(like)
        for number, (own, example) in enumerate(zip(layers, like, strict=True)):
            made = LayerStates(
                *(
                    states.new_zeros(self._slots, states.shape[1], capacity, states.shape[3])
                    for states in (example.keys, example.values)
                )
            )
            if own is not None:
                old, new = slice(old_end - width, old_end), slice(end - width, end)
                made.keys[:rows, :, new] = own.keys[:rows, :, old]
                made.values[:rows, :, new] = own.values[:rows, :, old]
                self._layers[number] = made
            else:
                self._layers.append(made)


def order_without(rows: Sequence[int], count: int) -> list[int]:
    """Positions 0 to `count` without `rows`, the holes filled from the end."""
    gone = set(rows)
    kept = count - len(gone)
    movers = iter([row for row in range(kept, count) if row not in gone])
    return [next(movers) if slot in gone else slot for slot in range(kept)]
