"""Which tokens stay when a distribution is truncated to top_k, then to top_p.

One rule for the sampler, which draws from what stays, and for the trainer, which scores under it: a
token stays if its logit is not below a border. So the kept set depends on the logits alone. Tokens
exactly as likely as the least likely kept one stay with it, where a sort would choose among them by
accident; in bfloat16 such ties are common.

The border lies halfway between the lowest kept logit and the next, so that logits computed once
more, with other rounding, are divided in the same way.
"""

from __future__ import annotations

import torch

# Most borders lie among so few tokens, and finding these takes a thirtieth of sorting the row.
_FIRST_COUNT = 64
_GROWTH = 4


def find_border(logits: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """The border of each row, below which nothing stays; the likeliest token always does.

    Args:
        logits: [..., V] divided by the temperature and shifted so that each row's highest is 0.
        top_p: keep the smallest set of likeliest tokens whose probability, renormalised after
            top_k, reaches it; 1 keeps all.
        top_k: keep this many; 0 keeps all.

    Returns:
        [..., 1], -infinity where everything stays, NaN where the logits are no numbers.
    """
    vocabulary = logits.shape[-1]
    top_k = min(top_k, vocabulary)
    mass = torch.full_like(logits[..., :1], torch.inf)
    if top_p < 1 and not top_k:
        mass = logits.exp().sum(-1, keepdim=True)
    count = min(max(_FIRST_COUNT, top_k + 1), vocabulary)
    return _find_border(logits, top_p, top_k, mass.double(), count)


def _find_border(
    logits: torch.Tensor, top_p: float, top_k: int, mass: torch.Tensor, count: int
) -> torch.Tensor:
    """Look among the `count` likeliest tokens, and among more in the rows that need more."""
    vocabulary = logits.shape[-1]
    likeliest = logits.topk(count).values
    stays = likeliest > -torch.inf
    if top_k:
        stays &= likeliest >= likeliest[..., top_k - 1 : top_k]
    is_whole = ~stays[..., -1] if top_k else torch.ones_like(stays[..., -1])
    if top_p < 1:
        masses = likeliest.double().exp() * stays
        mass = masses.sum(-1, keepdim=True) if top_k else mass
        stays &= masses.cumsum(-1) - masses < top_p * mass
    # NaN is below nothing and above nothing: of such a row no token stays by these rules.
    last = stays.sum(-1, keepdim=True).clamp(min=1) - 1
    lowest = likeliest.gather(-1, last)
    num_kept = (likeliest >= lowest).sum(-1, keepdim=True)
    following = likeliest.gather(-1, num_kept.clamp(max=count - 1))
    border = (lowest + following) / 2
    if count == vocabulary:
        return torch.where(num_kept == count, -torch.inf, border)
    runs_on = (num_kept == count).squeeze(-1) | ~is_whole
    if runs_on.any():
        more = min(_GROWTH * count, vocabulary)
        border[runs_on] = _find_border(logits[runs_on], top_p, top_k, mass[runs_on], more)
    return border


def is_dropped(logits: torch.Tensor, border: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Which tokens have no chance: those below the border, save the one that was drawn.

    Args:
        logits: [..., V]
        border: [..., 1] of `find_border`.
        token_ids: [..., 1]

    Returns:
        [..., V] bool.
    """
    return (logits < border).scatter_(-1, token_ids, False)
