"""Log-probabilities of given tokens, exact, in float32 at least.

    log p(token) = z[token] - log(sum over v of exp(z[v])),          z = logits / temperature

`token_logprobs` reads logits that exist already. `chunked_token_logprobs` goes from hidden states
to log-probabilities through the output layer a few rows at a time and computes the logits again in
the backward pass, so that neither pass holds [N, V] logits, the largest tensor of a training step.

Temperature divides the logits because it does so when sampling: the ratio of policy to sampler is 1
only if both mean the same distribution. Truncated sampling (top_p, top_k) is not mirrored here.

Shape letters: N tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

from grpo_core.errors import ConfigError, ShapeError

# Rows of logits that exist at once: 100 MB in float32 for a vocabulary of 49152. Each chunk also
# reads and writes the whole [V, H] gradient once, so much smaller chunks make backward slow.
CHUNK_SIZE = 512


def token_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probability of each given token.

    Args:
        logits: [..., V] of any float dtype.
        token_ids: [...] integers in [0, V).
        temperature: the one sampling used, > 0.

    Returns:
        [...] nats, float32 (float64 for float64 logits).

    Raises:
        ShapeError: if `token_ids` has not the leading shape of `logits`, or holds no integers.
        ConfigError: if `temperature` is not positive and finite.
    """
    _check_temperature(temperature)
    _check_token_ids(token_ids, logits.shape[:-1])
    scaled = logits.to(_precise(logits.dtype)) / temperature
    shifted = scaled - scaled.detach().amax(-1, keepdim=True)
    chosen = shifted.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    # torch.logsumexp does the same, several times slower on CPUs.
    return chosen - shifted.exp().sum(-1).log()


def chunked_token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    token_ids: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    chunk_size: int = CHUNK_SIZE,
) -> torch.Tensor:
    """Log-probability of each given token under logits = hidden @ weight.T + bias.

    Matrix products run in the dtype of `hidden`, the softmax in float32 (float64 for float64). The
    gradient of `weight` and `bias` is summed over the chunks in that precision and rounded to their
    dtype once. Rows whose incoming gradient is 0 cost nothing in the backward pass.

    Args:
        hidden: [N, H] final hidden states at the positions that predict the tokens.
        weight: [V, H] output layer, of the dtype of `hidden`.
        token_ids: [N] integers in [0, V).
        bias: [V] or None.
        temperature: the one sampling used, > 0.
        chunk_size: rows of logits that exist at once; changes memory and speed only.

    Returns:
        [N] nats, float32 (float64 for float64 `hidden`).

    Raises:
        ShapeError: if shapes or dtypes do not fit together.
        ConfigError: if `temperature` or `chunk_size` is not positive.
    """
    _check_temperature(temperature)
    if chunk_size < 1:
        raise ConfigError(f"chunk_size must be >= 1, got {chunk_size}: it counts rows of logits.")
    _check_output_layer(hidden, weight, bias)
    _check_token_ids(token_ids, hidden.shape[:1])
    return cast(
        torch.Tensor,
        _ChunkedTokenLogprobs.apply(hidden, weight, bias, token_ids, temperature, chunk_size),
    )


class _ChunkedTokenLogprobs(torch.autograd.Function):
    """Saves one normaliser a row, log(sum(exp(z))), in place of V probabilities."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        token_ids: torch.Tensor,
        temperature: float,
        chunk_size: int,
    ) -> torch.Tensor:
        chosen = hidden.new_empty(len(hidden), dtype=_precise(hidden.dtype))
        normaliser = torch.empty_like(chosen)
        for start in range(0, len(hidden), chunk_size):
            rows = slice(start, start + chunk_size)
            z = _scaled_logits(hidden[rows], weight, bias, temperature)
            highest = z.amax(-1, keepdim=True)
            z.sub_(highest)
            at_token = z.gather(-1, token_ids[rows, None]).squeeze(-1)
            log_sum = z.exp_().sum(-1).log_()
            chosen[rows] = at_token - log_sum
            normaliser[rows] = highest.squeeze(-1) + log_sum
        ctx.save_for_backward(hidden, weight, bias, token_ids, normaliser)
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        return chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, token_ids, normaliser = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=grad.dtype) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=grad.dtype) if needs_bias else None
        for rows in grad.nonzero().squeeze(-1).split(ctx.chunk_size):
            z = _scaled_logits(hidden[rows], weight, bias, ctx.temperature)
            # d log p(token) / d z = onehot(token) - softmax(z)
            share = grad[rows, None] / ctx.temperature
            grad_z = z.sub_(normaliser[rows, None]).exp_().mul_(-share)
            grad_z.scatter_add_(-1, token_ids[rows, None], share)
            if grad_bias is not None:
                grad_bias += grad_z.sum(0)
            grad_z = grad_z.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_z @ weight
            if grad_weight is not None:
                grad_weight += grad_z.T @ hidden[rows]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
        )


def _scaled_logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    """[rows, V] logits / temperature, a new tensor of at least float32."""
    # Autocast is on in the forward pass alone; the backward pass must find the same logits.
    with torch.autocast(hidden.device.type, enabled=False):
        logits = torch.nn.functional.linear(hidden, weight, bias)
    logits = logits.to(_precise(logits.dtype))
    return logits if temperature == 1 else logits.div_(temperature)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ConfigError(
            f"temperature must be > 0 and finite, got {temperature}: logits are divided by it. "
            "Score greedy completions at temperature 1."
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
