"""How long the phases of a step take."""

from __future__ import annotations

import time
from collections import defaultdict

import torch


class PhaseClock:
    """Adds up the seconds between calls by the name of the phase that ends.

    Attributes:
        seconds: of each phase so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = device
        self._last = time.perf_counter()

    def ends(self, phase: str) -> None:
        """What was done since the last call was this phase."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # a GPU works on after the call returns
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now
