"""Log-probabilities and entropies through the output layer, never holding [N, V] logits.

Both passes take a part of the vocabulary at a time; the backward pass computes its logits z again.
The normaliser is summed as the parts come by, against the highest logit so far (Milakov &
Gimelshein 2018, "Online normalizer calculation for softmax", arXiv 1805.02867). With the softmax p
over the kept tokens, its entropy H, and the incoming gradients g of log p(token) and h of H, the
gradient is

    d / d z[v] = g onehot(token)[v] - p[v] (g + h (log p[v] + H)),     z = logits / temperature

so each part gives its rows of the output layer's gradient at once. Where tokens are dropped by
top-k or top-p the forward pass takes whole rows, a few at a time, because only these tell which.

See `grpo_core.logprobs` for the functions to call. N tokens, V vocabulary, C columns of a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpo_core.truncation import find_border, is_dropped

# In place of log(0), lower than the log of any positive number: 0 times it is 0, not NaN.
NEVER = -1e4
_ALIGNED = 64  # columns: matrix products of other widths take up to three times as long on CPUs


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
    chunk_logits: int,
    with_entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [N], and entropies [N] or None; arguments as in `grpo_core.logprobs`."""
    settings = temperature, top_p, top_k, chunk_logits, with_entropy
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
        chunk_logits: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        layer = _OutputLayer(weight, bias, temperature, chunk_logits)
        if top_p < 1 or top_k:
            scores = _truncated_scores(hidden, layer, token_ids, top_p, top_k, with_entropy)
        else:
            scores = _scores(hidden, layer, token_ids, with_entropy)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(
            hidden, weight, bias, token_ids, scores.normaliser, scores.entropy, scores.border
        )
        ctx.temperature, ctx.chunk_logits = temperature, chunk_logits
        return scores.logprobs, scores.entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, token_ids, normaliser, entropy, border = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad = torch.zeros_like(normaliser) if grad is None else grad
        needed = grad != 0 if grad_entropy is None else (grad != 0) | (grad_entropy != 0)
        layer = _OutputLayer(weight, bias, ctx.temperature, ctx.chunk_logits)
        rows = needed.nonzero().squeeze(-1)
        inputs, tokens = hidden[rows], token_ids[rows]
        share = grad[rows, None] / ctx.temperature
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_bias = torch.empty_like(bias) if needs_bias else None
        grad_inputs = torch.zeros_like(inputs, dtype=normaliser.dtype) if needs_hidden else None
        for part, z in layer.parts(inputs):
            here, at_token = part.members(tokens)
            if border is not None:
                dropped = z < border[rows, None]
                dropped[here, at_token] = False
                z.masked_fill_(dropped, -torch.inf)
            log_p = z.sub_(normaliser[rows, None])
            if grad_entropy is None:
                grad_z = log_p.exp_().mul_(-share)
            else:
                entropy_share = grad_entropy[rows, None] / ctx.temperature
                grad_z = _grad_of_both(log_p, entropy[rows, None], share, entropy_share)
            grad_z[here, at_token] += share[here, 0]
            if grad_bias is not None:
                grad_bias[part.columns] = grad_z.sum(0)
            grad_z = grad_z.to(hidden.dtype)
            if grad_inputs is not None:
                grad_inputs += grad_z @ weight[part.columns]
            if grad_weight is not None:
                torch.mm(grad_z.T, inputs, out=grad_weight[part.columns])
        grad_hidden = None
        if grad_inputs is not None:
            grad_hidden = torch.zeros_like(hidden).index_copy_(
                0, rows, grad_inputs.to(hidden.dtype)
            )
        return grad_hidden, grad_weight, grad_bias, *[None] * 6


class _Scores(NamedTuple):
    """[N] each; entropy and border where they are wanted."""

    logprobs: Tensor
    normaliser: Tensor
    entropy: Tensor | None
    border: Tensor | None


class _Part(NamedTuple):
    """Some consecutive columns of the logits."""

    columns: slice

    def members(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows' tokens lie in it, and at which of its columns."""
        here = (token_ids >= self.columns.start) & (token_ids < self.columns.stop)
        rows = here.nonzero().squeeze(-1)
        return rows, token_ids[rows] - self.columns.start


class _OutputLayer(NamedTuple):
    """logits = hidden @ weight.T + bias, divided by the temperature; so many of them at once."""

    weight: Tensor
    bias: Tensor | None
    temperature: float
    chunk_logits: int

    def parts(self, hidden: Tensor) -> Iterator[tuple[_Part, Tensor]]:
        """Parts of the vocabulary with their [N, C] logits, float32 at least.

        They may be overwritten, and are with the next part.
        """
        vocabulary = len(self.weight)
        width = max(1, self.chunk_logits // max(1, len(hidden)))
        width -= width % _ALIGNED if width > _ALIGNED else 0
        scratch = hidden.new_empty(0)
        for start in range(0, vocabulary, width):
            columns = slice(start, min(start + width, vocabulary))
            logits = self._logits(hidden, columns)
            if len(scratch) != logits.numel():
                scratch = logits.new_empty(logits.numel(), dtype=precise(logits.dtype))
            z = scratch.view(logits.shape).copy_(logits)
            yield _Part(columns), z if self.temperature == 1 else z.div_(self.temperature)

    def rows(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Parts of the rows with their whole [rows, V] logits, float32 at least."""
        count = max(1, self.chunk_logits // len(self.weight))
        for start in range(0, len(hidden), count):
            rows = slice(start, start + count)
            logits = self._logits(hidden[rows], slice(None))
            z = logits.to(precise(logits.dtype))
            yield rows, z if self.temperature == 1 else z.div_(self.temperature)

    def _logits(self, hidden: Tensor, columns: slice) -> Tensor:
        bias = None if self.bias is None else self.bias[columns]
        # Autocast is on in the forward pass alone; the backward pass must find the same logits.
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.nn.functional.linear(hidden, self.weight[columns], bias)


def _scores(hidden: Tensor, layer: _OutputLayer, token_ids: Tensor, with_entropy: bool) -> _Scores:
    number = precise(hidden.dtype)
    highest = hidden.new_full((len(hidden),), -torch.inf, dtype=number)
    total = torch.zeros_like(highest)
    weighted = torch.zeros_like(highest) if with_entropy else None  # sum of exp(z - highest) z
    at_token = torch.zeros_like(highest)
    for part, z in layer.parts(hidden):
        here, column = part.members(token_ids)
        at_token[here] = z[here, column]
        new_highest = torch.maximum(highest, z.amax(-1))
        kept = (highest - new_highest).exp_()
        highest = new_highest
        z.sub_(highest[:, None])
        if weighted is None:
            total.mul_(kept).add_(z.exp_().sum(-1))
        else:
            weights = z.exp()
            # The sums so far are of z - the highest before: moved along with it.
            weighted = kept * (weighted + total * kept.log().clamp_(min=NEVER))
            weighted += z.clamp_(min=NEVER).mul_(weights).sum(-1)
            total.mul_(kept).add_(weights.sum(-1))
    log_sum = total.log()
    normaliser = highest + log_sum
    entropy = None if weighted is None else log_sum - weighted / total
    return _Scores(at_token - normaliser, normaliser, entropy, None)


def _truncated_scores(
    hidden: Tensor,
    layer: _OutputLayer,
    token_ids: Tensor,
    top_p: float,
    top_k: int,
    with_entropy: bool,
) -> _Scores:
    logprobs = hidden.new_empty(len(hidden), dtype=precise(hidden.dtype))
    normaliser, border = torch.empty_like(logprobs), torch.empty_like(logprobs)
    entropy = torch.empty_like(logprobs) if with_entropy else None
    for rows, z in layer.rows(hidden):
        tokens = token_ids[rows, None]
        highest = z.amax(-1, keepdim=True)
        z.sub_(highest)
        found = find_border(z, top_p, top_k)
        z.masked_fill_(is_dropped(z, found, tokens), -torch.inf)
        border[rows] = (highest + found).squeeze(-1)
        at_token = z.gather(-1, tokens).squeeze(-1)
        weights = z.exp()
        total = weights.sum(-1)
        log_sum = total.log()
        if entropy is not None:
            entropy[rows] = log_sum - z.clamp_(min=NEVER).mul_(weights).sum(-1).div_(total)
        logprobs[rows] = at_token - log_sum
        normaliser[rows] = highest.squeeze(-1) + log_sum
    return _Scores(logprobs, normaliser, entropy, border)


def _grad_of_both(log_p: Tensor, entropy: Tensor, share: Tensor, entropy_share: Tensor) -> Tensor:
    """-p (share + entropy_share (log p + H)); overwrites log_p."""
    p = log_p.exp()
    return log_p.clamp_(min=NEVER).add_(entropy).mul_(entropy_share).add_(share).mul_(p).neg_()
