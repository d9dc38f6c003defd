"""Log-probabilities and entropies through the output layer, never holding [N, V] logits.

Both passes take a few rows at a time; the backward pass computes their logits z again. With the
softmax p over the kept tokens, its entropy H, and the incoming gradients g of log p(token) and h
of H, the gradient is

    d / d z[v] = g onehot(token)[v] - p[v] (g + h (log p[v] + H)),     z = logits / temperature

See `grpo_core.logprobs` for the functions to call. N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpo_core.truncation import find_border, is_dropped

# In place of log(0), lower than the log of any positive number: 0 times it is 0, not NaN.
NEVER = -1e4


def precise(dtype: torch.dtype) -> torch.dtype:
    """The type a softmax is computed in: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def chunked_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    token_ids: Tensor,
    *,
    temperature: float,
    top_p: float,
    top_k: int,
    chunk_size: int,
    with_entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [N], and entropies [N] or None; arguments as in `grpo_core.logprobs`."""
    settings = temperature, top_p, top_k, chunk_size, with_entropy
    scores = _ChunkedScores.apply(hidden, weight, bias, token_ids, *settings)
    return cast(tuple[Tensor, Tensor | None], scores)


class _ChunkedScores(torch.autograd.Function):
    """Saves three numbers a row in place of V probabilities.

    They are the normaliser log(sum(exp(z))), the entropy, and the border between kept and dropped.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token_ids: Tensor,
        temperature: float,
        top_p: float,
        top_k: int,
        chunk_size: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        logprobs = hidden.new_empty(len(hidden), dtype=precise(hidden.dtype))
        normaliser = torch.empty_like(logprobs)
        entropy = torch.empty_like(logprobs) if with_entropy else None
        border = torch.empty_like(logprobs) if top_p < 1 or top_k else None
        for start in range(0, len(hidden), chunk_size):
            rows = slice(start, start + chunk_size)
            tokens = token_ids[rows, None]
            z = _scaled_logits(hidden[rows], weight, bias, temperature)
            highest = z.amax(-1, keepdim=True)
            z.sub_(highest)
            if border is not None:
                found = find_border(z, top_p, top_k)
                z.masked_fill_(is_dropped(z, found, tokens), -torch.inf)
                border[rows] = (highest + found).squeeze(-1)
            at_token = z.gather(-1, tokens).squeeze(-1)
            if entropy is None:
                log_sum = z.exp_().sum(-1).log_()
            else:
                log_sum, entropy[rows] = _log_sum_and_entropy(z)
            logprobs[rows] = at_token - log_sum
            normaliser[rows] = highest.squeeze(-1) + log_sum
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, bias, token_ids, normaliser, entropy, border)
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, token_ids, normaliser, entropy, border = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=normaliser.dtype) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=normaliser.dtype) if needs_bias else None
        grad = torch.zeros_like(normaliser) if grad is None else grad
        needed = grad != 0 if grad_entropy is None else (grad != 0) | (grad_entropy != 0)
        for rows in needed.nonzero().squeeze(-1).split(ctx.chunk_size):
            tokens = token_ids[rows, None]
            z = _scaled_logits(hidden[rows], weight, bias, ctx.temperature)
            if border is not None:
                z.masked_fill_(is_dropped(z, border[rows, None], tokens), -torch.inf)
            log_p = z.sub_(normaliser[rows, None])
            share = grad[rows, None] / ctx.temperature
            if grad_entropy is None:
                grad_z = log_p.exp_().mul_(-share)
            else:
                entropy_share = grad_entropy[rows, None] / ctx.temperature
                grad_z = _grad_of_both(log_p, entropy[rows, None], share, entropy_share)
            grad_z.scatter_add_(-1, tokens, share)
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
            *[None] * 6,
        )


def _scaled_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float
) -> Tensor:
    """[rows, V] logits / temperature, a new tensor of at least float32."""
    # Autocast is on in the forward pass alone; the backward pass must find the same logits.
    with torch.autocast(hidden.device.type, enabled=False):
        logits = torch.nn.functional.linear(hidden, weight, bias)
    logits = logits.to(precise(logits.dtype))
    return logits if temperature == 1 else logits.div_(temperature)


def _log_sum_and_entropy(z: Tensor) -> tuple[Tensor, Tensor]:
    """[rows] log(sum(exp(z))), and the entropy of softmax(z); overwrites z."""
    weights = z.exp()
    total = weights.sum(-1)
    log_sum = total.log()
    return log_sum, log_sum - z.clamp_(min=NEVER).mul_(weights).sum(-1).div_(total)


def _grad_of_both(log_p: Tensor, entropy: Tensor, share: Tensor, entropy_share: Tensor) -> Tensor:
    """-p (share + entropy_share (log p + H)); overwrites log_p."""
    p = log_p.exp()
    return log_p.clamp_(min=NEVER).add_(entropy).mul_(entropy_share).add_(share).mul_(p).neg_()
