"""Hypothesis strategies that several test modules share.

Shape letters: P prompts, G completions of one prompt, B completions, T tokens of a completion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st

# Multiples of 1/16 in [-1, 1]: exact in every float dtype, so different means clearly different.
grid_rewards = st.integers(-16, 16).map(lambda sixteenths: sixteenths / 16)


@st.composite
def reward_groups(
    draw: st.DrawFn,
    *,
    min_group: int = 2,
    max_group: int = 10,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """[P, G] rewards on a grid, of some magnitude; groups may be constant."""
    num_prompts = draw(st.integers(1, 4))
    group_size = draw(st.integers(min_group, max_group))
    group = st.lists(grid_rewards, min_size=group_size, max_size=group_size)
    rows = draw(st.lists(group, min_size=num_prompts, max_size=num_prompts))
    magnitude = draw(st.sampled_from([1e-6, 1.0, 1e6]))
    return torch.tensor(rows, dtype=dtype) * magnitude


@st.composite
def bool_matrices(draw: st.DrawFn, shape: tuple[int, int]) -> torch.Tensor:
    """A bool tensor of the given shape, each entry drawn on its own."""
    rows, columns = shape
    flags = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(flags, dtype=torch.bool).reshape(shape)


@st.composite
def completion_masks(
    draw: st.DrawFn, *, max_completions: int = 6, max_tokens: int = 7
) -> torch.Tensor:
    """[B, T] bool; completions are ragged, may be empty, and may have untrained tokens inside."""
    num_completions = draw(st.integers(1, max_completions))
    num_positions = draw(st.integers(1, max_tokens))
    length = st.integers(0, num_positions)
    lengths = draw(st.lists(length, min_size=num_completions, max_size=num_completions))
    mask = torch.arange(num_positions) < torch.tensor(lengths).unsqueeze(1)
    if draw(st.booleans()):
        mask &= draw(bool_matrices((num_completions, num_positions)))
    return mask


@dataclass(frozen=True)
class Batch:
    """What a policy loss is given, in float64."""

    logprobs: torch.Tensor  # [B, T]
    old_logprobs: torch.Tensor  # [B, T]
    ref_logprobs: torch.Tensor  # [B, T]
    advantages: torch.Tensor  # [B]
    mask: torch.Tensor  # [B, T]

    @property
    def counts(self) -> dict[str, Any]:
        """The denominators of `token_weights`, for this batch as a whole."""
        return {"num_completions": len(self.mask), "num_tokens": int(self.mask.sum())}

    def rows(self, index: torch.Tensor | slice) -> Batch:
        """Some of the completions."""
        return Batch(
            self.logprobs[index],
            self.old_logprobs[index],
            self.ref_logprobs[index],
            self.advantages[index],
            self.mask[index],
        )

    def with_masked(self, value: float) -> Batch:
        """`value` in every masked position of every tensor."""
        fill = {
            name: getattr(self, name).masked_fill(~self.mask, value)
            for name in ("logprobs", "old_logprobs", "ref_logprobs")
        }
        return replace(self, **fill)

    def padded(self, left: int, right: int, value: float) -> Batch:
        """The same completions in longer rows, `value` in the padding."""

        def pad(tensor: torch.Tensor, filler: float) -> torch.Tensor:
            return torch.nn.functional.pad(tensor, (left, right), value=filler)

        return Batch(
            pad(self.logprobs, value),
            pad(self.old_logprobs, value),
            pad(self.ref_logprobs, value),
            self.advantages,
            pad(self.mask, False),
        )


@st.composite
def ragged_batches(draw: st.DrawFn) -> Batch:
    """A batch whose ratios lie inside, below and above every usual clip range."""
    mask = draw(completion_masks())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old_logprobs = -normal(*mask.shape).abs() - 1
    return Batch(
        logprobs=old_logprobs + 0.4 * normal(*mask.shape),
        old_logprobs=old_logprobs,
        ref_logprobs=old_logprobs + 0.4 * normal(*mask.shape),
        advantages=normal(len(mask)),
        mask=mask,
    )
