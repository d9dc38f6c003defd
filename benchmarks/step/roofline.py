"""The least time the counted work of a step can take on a machine of given limits.

Each phase is bound by its arithmetic or by its memory traffic, whichever takes longer. What is
counted is what the mathematics needs: every prompt once, every completion token once, no padding.

    sample            2 FLOP a weight and token (the head for completion tokens only); and all
                      weights read once for every token of the longest completion
    forward_backward  6 FLOP a weight and trained token; 8 for the head, whose logits are too many
                      to keep and are computed twice
    optimizer         AdamW in float32: weight, gradient and two moments read, three of them
                      written, and the weight once more as the one that computes

Left out, which makes the bound stricter: attention itself, keys and values read in decoding,
everything elementwise, all traffic of forward and backward, verification, and the hand-over, for
a sampler can read the trainer's weights where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

PHASES = ("sample", "forward_backward", "optimizer")


@dataclass(frozen=True, slots=True)
class Machine:
    """TFLOP/s of the best matrix product, and GB/s of the best memory traffic."""

    tflops: float
    gbs: float


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers of weights: of the layers, and of the head; and of all that are trained."""

    layers: int
    head: int
    total: int


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of a step: sampled ones, those of distinct prompts, and those of the backward pass."""

    completion_tokens: float
    prompt_tokens: float
    longest: float
    trained_tokens: float
    trained_prompt_tokens: float


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds a phase takes at least, by arithmetic and by memory traffic."""

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """The larger one."""
        return max(self.compute, self.memory)


def bounds(machine: Machine, weights: Weights, work: Work, bytes_each: int = 2) -> dict[str, Bound]:
    """The bound of each of PHASES; `bytes_each` of a weight that computes."""
    flop = 1e-12 / machine.tflops
    tokens = work.completion_tokens + work.prompt_tokens
    sampled = 2 * (weights.layers * tokens + weights.head * work.completion_tokens)
    trained_tokens = work.trained_tokens + work.trained_prompt_tokens
    trained = 6 * weights.layers * trained_tokens + 8 * weights.head * work.trained_tokens
    read = bytes_each * (weights.layers + weights.head) * work.longest
    return {
        "sample": Bound(flop * sampled, 1e-9 * read / machine.gbs),
        "forward_backward": Bound(flop * trained, 0.0),
        "optimizer": Bound(0.0, 1e-9 * (7 * 4 + bytes_each) * weights.total / machine.gbs),
    }
