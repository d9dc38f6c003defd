"""What every policy loss returns."""

from __future__ import annotations

from typing import NamedTuple

import torch


class LossOutput(NamedTuple):
    """A loss, and what is worth knowing about it.

    Attributes:
        loss: scalar, to be differentiated; the parts of a batch sum to the loss of the whole.
        metrics: scalars without gradient. All of them are counts and sums, so they too add up over
            micro-batches and processes; a mean is a sum divided by `num_tokens`, at the very end.
    """

    loss: torch.Tensor
    metrics: dict[str, torch.Tensor]
