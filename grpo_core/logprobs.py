"""Log-probabilities of given tokens and entropies, exact, in float32 at least.

    log p(token) = z[token] - log(sum over kept v of exp(z[v])),     z = logits / temperature
    H            = - sum over kept v of p[v] log p[v]

`token_logprobs` reads logits that exist already. `chunked_token_logprobs` goes from hidden states
to log-probabilities through the output layer a part of the vocabulary at a time and computes the
logits again in the backward pass, so that neither pass holds [N, V] logits, the largest tensor of a
training step. Each has a sibling that gives the entropy too.

Temperature, top_k and top_p act as they do when sampling: the ratio of policy to sampler is 1 only
if both mean the same distribution. The token that was drawn counts as kept whatever the trainer's
rounding makes of the border, and the gradient takes the kept set as given.

Shape letters: N tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from grpo_core.chunked_scores import NEVER, chunked_scores, precise
from grpo_core.errors import ConfigError, ShapeError
from grpo_core.truncation import find_border, is_dropped

# Logits that exist at once: 16 MB in float32. Larger tensors leave the caches, and from 32 MB on
# glibc gets them from the system each time, zeroed page by page.
CHUNK_LOGITS = 1 << 22


@dataclass(frozen=True, slots=True)
class Distribution:
    """How tokens are drawn from logits, in the order of `grpo_core.sampling.distribution.draw`.

    Attributes:
        temperature: divides the logits, > 0.
        top_p: keep the smallest set of likeliest tokens whose probability reaches it; 1 keeps all.
        top_k: keep this many, before top_p; 0 keeps all.

    Raises:
        ConfigError: if one of them is out of its range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(
                f"temperature must be > 0 and finite, got {self.temperature}: logits are divided "
                "by it. Score greedy completions at temperature 1."
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(
                f"top_p must be in (0, 1], got {self.top_p}: it is the probability that is kept. "
                "Set 1 to keep all."
            )
        if self.top_k < 0:
            raise ConfigError(
                f"top_k must be >= 0, got {self.top_k}: it counts tokens. Set 0 to keep all."
            )

    @property
    def is_truncated(self) -> bool:
        """Whether some tokens may have no chance."""
        return self.top_p < 1 or self.top_k > 0


def token_logprobs(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    temperature: float = 1.0,
    *,
    top_p: float = 1.0,
    top_k: int = 0,
) -> torch.Tensor:
    """Log-probability of each given token.

    Args:
        logits: [..., V] of any float dtype.
        token_ids: [...] integers in [0, V), the tokens drawn.
        temperature: the one sampling used, > 0.
        top_p: the one sampling used, in (0, 1].
        top_k: the one sampling used, >= 0; 0 is off.

    Returns:
        [...] nats, float32 (float64 for float64 logits).

    Raises:
        ShapeError: if `token_ids` has not the leading shape of `logits`, or holds no integers.
        ConfigError: if a setting of the distribution is out of its range.
    """
    z, chosen = _kept_logits(logits, token_ids, Distribution(temperature, top_p, top_k))
    # torch.logsumexp does the same, several times slower on CPUs.
    return chosen - z.exp().sum(-1).log()


def token_logprobs_and_entropy(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    temperature: float = 1.0,
    *,
    top_p: float = 1.0,
    top_k: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`token_logprobs`, and the entropy of the distribution of each row, [...] nats."""
    z, chosen = _kept_logits(logits, token_ids, Distribution(temperature, top_p, top_k))
    weights = z.exp()
    total = weights.sum(-1)
    mean = (weights * z.clamp(min=NEVER)).sum(-1) / total
    return chosen - total.log(), total.log() - mean


def _kept_logits(
    logits: torch.Tensor, token_ids: torch.Tensor, distribution: Distribution
) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., V] z with each row's highest at 0, -infinity where not kept; and [...] the tokens'."""
    _check_token_ids(token_ids, logits.shape[:-1])
    token_ids = token_ids.unsqueeze(-1)
    scaled = logits.to(precise(logits.dtype)) / distribution.temperature
    z = scaled - scaled.detach().amax(-1, keepdim=True)
    if distribution.is_truncated:
        border = find_border(z.detach(), distribution.top_p, distribution.top_k)
        z = z.masked_fill(is_dropped(z, border, token_ids), -torch.inf)
    return z, z.gather(-1, token_ids).squeeze(-1)


def chunked_token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    token_ids: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    chunk_logits: int = CHUNK_LOGITS,
) -> torch.Tensor:
    """Log-probability of each given token under logits = hidden @ weight.T + bias.

    Matrix products run in the dtype of `hidden`, the softmax in float32 (float64 for float64). The
    gradient of `weight` and `bias` is summed over the chunks in that precision and rounded to their
    dtype once. Rows whose incoming gradient is 0 cost nothing in the backward pass.

    Args:
        hidden: [N, H] final hidden states at the positions that predict the tokens.
        weight: [V, H] output layer, of the dtype of `hidden`.
        token_ids: [N] integers in [0, V), the tokens drawn.
        bias: [V] or None.
        temperature: the one sampling used, > 0.
        top_p: the one sampling used, in (0, 1].
        top_k: the one sampling used, >= 0; 0 is off.
        chunk_logits: logits that exist at once, about; changes memory and speed only.

    Returns:
        [N] nats, float32 (float64 for float64 `hidden`).

    Raises:
        ShapeError: if shapes or dtypes do not fit together.
        ConfigError: if a setting of the distribution or `chunk_logits` is out of its range.
    """
    distribution = Distribution(temperature, top_p, top_k)
    return _chunked(hidden, weight, bias, token_ids, distribution, chunk_logits, False)[0]


def chunked_logprobs_and_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    token_ids: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`chunked_token_logprobs`, and the entropy of the distribution of each row, [N] nats."""
    distribution = Distribution(temperature, top_p, top_k)
    return _chunked(hidden, weight, bias, token_ids, distribution, chunk_logits, True)


def _chunked(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    token_ids: torch.Tensor,
    distribution: Distribution,
    chunk_logits: int,
    with_entropy: bool,
) -> Any:
    if chunk_logits < 1:
        raise ConfigError(f"chunk_logits must be >= 1, got {chunk_logits}: it counts logits.")
    _check_output_layer(hidden, weight, bias)
    _check_token_ids(token_ids, hidden.shape[:1])
    return chunked_scores(
        hidden,
        weight,
        bias,
        token_ids,
        **asdict(distribution),
        chunk_logits=chunk_logits,
        with_entropy=with_entropy,
    )


def _check_token_ids(token_ids: torch.Tensor, shape: torch.Size) -> None:
    if token_ids.shape != shape:
        raise ShapeError(
            f"token_ids must be {list(shape)}, got {list(token_ids.shape)}: one token for each row "
            "of logits. Drop the last position of the logits and the first token."
        )
    if token_ids.dtype != torch.int64:
        raise ShapeError(f"token_ids must be int64, got {token_ids.dtype}. Use token_ids.long().")


def _check_output_layer(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ShapeError(
            f"hidden and weight must be [N, H] and [V, H], got {list(hidden.shape)} and "
            f"{list(weight.shape)}. Select the trained rows first: hidden[mask]."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"bias must be [{weight.shape[0]}], got {list(bias.shape)}.")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != hidden.dtype:
            raise ShapeError(
                f"{name} must have the dtype of hidden, {hidden.dtype}, got {tensor.dtype}: the "
                f"matrix products run in one. Pass {name}.to(hidden.dtype)."
            )
