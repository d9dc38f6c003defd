"""Where an option claims to be TRL's, it is: against its formulas, and against TRL where installed.

The formulas are written once more here, in plain torch and in TRL's own order of steps. TRL itself
comes with the extra `bench` and is left out where it is missing; how it is called stands in
tests/trl_oracle.py (functions) and tests/trl_whole_step.py (a whole update of a tiny model).
`python benchmarks/trl_parity.py` prints the same comparisons as a table.

What has a counterpart in TRL but another meaning makes no claim, and is not here: its sequence
modes of the importance ratio (a sum over tokens, ours a mean), its entropy bonus beside any loss
but a token mean (always a token mean, ours follows grpo.aggregation), and its denominators of
several micro-batches (a mean of means for grpo and bnpo, ours are those of the whole batch).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.advantage import mean_advantages, zero_signal_groups
from grpo_core.advantages.trl import trl_advantages, trl_batch_advantages
from grpo_core.mismatch import Mismatch, mismatch_weights
from grpo_core.training.reference import Reference
from grpo_plugins.overlong import soft_overlong
from strategies import Batch, bool_matrices, ragged_batches, reward_groups
from tiny_model import tiny_model
from trl_oracle import (
    MAX_COMPLETION_LENGTH,
    MISSING,
    SETTINGS,
    Setting,
    our_loss,
    trl_advantages_of,
    trl_loss,
    trl_module,
    trl_sampler_ratio,
)
from trl_whole_step import WholeStep
from whole_step import random_groups

settings = pytest.mark.parametrize("name", SETTINGS)
betas = st.sampled_from([0.0, 0.04])
scales = pytest.mark.parametrize(
    ("scale", "estimate"),
    [("group", trl_advantages), ("batch", trl_batch_advantages), ("none", mean_advantages)],
)
modes = pytest.mark.parametrize("how", ["token_truncate", "token_mask"])


# ---- the formulas (PEERS.md section 2; trl/trainer/grpo_trainer.py) ------------------------------


def their_formula(setting: Setting, batch: Batch, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, mask = batch.logprobs.clone().requires_grad_(), batch.mask.double()
    advantages = batch.advantages.unsqueeze(1)
    log_ratio = logprobs - batch.old_logprobs
    if setting.level == "sequence":
        log_ratio = ((log_ratio * mask).sum(-1) / mask.sum(-1).clamp(min=1.0)).unsqueeze(-1)
    coefficient = log_ratio.exp()
    if setting.loss_type == "cispo":
        capped = coefficient.clamp(max=setting.epsilon_high).detach()
        per_token = -capped * advantages * logprobs
    else:
        clipped = coefficient.clamp(1 - setting.epsilon_low, 1 + setting.epsilon_high)
        if setting.delta is not None:
            coefficient = coefficient.clamp(max=setting.delta)
        per_token = -torch.min(coefficient * advantages, clipped * advantages)
    if beta:
        d = batch.ref_logprobs - logprobs
        per_token = per_token + beta * (d.exp() - d - 1)
    masked = per_token * mask
    match setting.loss_type:
        case "grpo":
            loss = (masked.sum(-1) / mask.sum(-1).clamp(min=1.0)).mean()
        case "dr_grpo":
            loss = masked.sum() / (len(mask) * MAX_COMPLETION_LENGTH)
        case _:
            loss = masked.sum() / mask.sum().clamp(min=1.0)
    loss.backward()
    assert logprobs.grad is not None
    return loss.detach(), logprobs.grad


@settings
@given(batch=ragged_batches(), beta=betas)
def test_loss_and_gradient_equal_the_formula(name: str, batch: Batch, beta: float) -> None:
    for ours, theirs in zip(
        our_loss(SETTINGS[name], batch, beta),
        their_formula(SETTINGS[name], batch, beta),
        strict=True,
    ):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def nanstd(rewards: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """With Bessel's correction, NaN for fewer than two."""
    mean = torch.nanmean(rewards, dim=dim, keepdim=True)
    count = (~rewards.isnan()).sum(dim=dim, keepdim=True)
    variance = torch.nanmean((rewards - mean) ** 2, dim=dim, keepdim=True) * count / (count - 1)
    return torch.where(count > 1, variance, math.nan).sqrt()


def their_advantages(rewards: torch.Tensor, valid: torch.Tensor, scale: str) -> torch.Tensor:
    scored = rewards.masked_fill(~valid, math.nan)
    advantages = scored - torch.nanmean(scored, dim=1, keepdim=True)
    if scale != "none":
        std = nanstd(scored, 1) if scale == "group" else nanstd(scored)
        advantages = advantages / (std + 1e-4)
    return torch.nan_to_num(advantages, nan=0.0)


@scales
@given(data=st.data())
def test_advantages_equal_the_formula(scale: str, estimate: Any, data: st.DataObject) -> None:
    rewards = data.draw(reward_groups())
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    expected = their_advantages(rewards, valid, scale)
    # Where rewards are equal they leave rounding errors; ours are 0.
    expected[zero_signal_groups(rewards, valid)] = 0
    assert_close(estimate(rewards, valid), expected, rtol=1e-8, atol=1e-8)


# ---- TRL itself --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl() -> Any:
    """The module of GRPOTrainer."""
    if (module := trl_module()) is None:
        pytest.skip(MISSING)
    return module


@settings
@given(batch=ragged_batches(), beta=betas)
def test_loss_and_gradient_equal_trl(trl: Any, name: str, batch: Batch, beta: float) -> None:
    setting = SETTINGS[name]
    for ours, theirs in zip(
        our_loss(setting, batch, beta), trl_loss(setting, batch, beta), strict=True
    ):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@scales
@given(data=st.data())
def test_advantages_equal_trl(trl: Any, scale: str, estimate: Any, data: st.DataObject) -> None:
    rewards = data.draw(reward_groups(max_group=6))
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    theirs = trl_advantages_of(rewards, valid, scale)  # Bessel's correction is float32 there
    assert_close(their_advantages(rewards, valid, scale), theirs, rtol=1e-6, atol=1e-8)
    # Where rewards are equal they leave rounding errors; ours are 0.
    theirs[zero_signal_groups(rewards, valid)] = 0
    assert_close(estimate(rewards, valid), theirs, rtol=1e-6, atol=1e-8)


@modes
@settings
@given(batch=ragged_batches(), beta=betas, cap=st.sampled_from([1.05, 1.2, 2.0, 3.0]))
def test_the_sampler_correction_equals_trl(
    trl: Any, how: Mismatch, name: str, batch: Batch, beta: float, cap: float
) -> None:
    """Its default cap is 3, ours 2; the reference stands in for a sampler that is off."""
    setting, sampler = SETTINGS[name], batch.ref_logprobs
    weights = mismatch_weights(batch.old_logprobs, sampler, batch.mask, how, cap=cap)
    ratio = trl_sampler_ratio(batch, sampler, how, cap)
    assert_close(weights[batch.mask], ratio[batch.mask], rtol=1e-12, atol=0)
    for ours, theirs in zip(
        our_loss(setting, batch, beta, weights), trl_loss(setting, batch, beta, ratio), strict=True
    ):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_synced_reference_equals_trl(trl: Any) -> None:
    from trl.trainer.callbacks import SyncRefModelCallback

    for alpha in (0.05, 0.6, 1.0):
        policy, theirs = tiny_model(seed=0), tiny_model(seed=1)
        ours = Reference(tiny_model(seed=1))
        for _ in range(3):
            ours.follow(dict(policy.named_parameters()), alpha)
            SyncRefModelCallback._sync_target_model(policy, theirs, alpha)
        for one, other in zip(ours.model.parameters(), theirs.parameters(), strict=True):
            assert_close(one, other, rtol=1e-6, atol=1e-7)


@given(l_max=st.integers(1, 60), data=st.data())
def test_soft_overlong_punishment_equals_trl(trl: Any, l_max: int, data: st.DataObject) -> None:
    from trl.rewards import get_soft_overlong_punishment

    cache = data.draw(st.integers(1, l_max))
    lengths = range(l_max + 5)
    theirs = get_soft_overlong_punishment(l_max, cache)([[1] * length for length in lengths])
    assert [soft_overlong(length, l_max, cache) for length in lengths] == theirs


WHOLE_STEPS = {
    "plain": WholeStep("grpo"),
    "kl": WholeStep("dapo", beta=0.04),
    "iterations": WholeStep("delta", beta=0.04, num_iterations=3),
    "iterations of gspo": WholeStep("gspo", num_iterations=2),
    "token_truncate": WholeStep("dr_grpo", beta=0.04, mismatch="token_truncate"),
    "token_mask": WholeStep("cispo", mismatch="token_mask", num_iterations=2),
    "entropy bonus": WholeStep("dapo", entropy_bonus=0.05, num_iterations=2),
    "entropy bonus of bnpo": WholeStep("bnpo", entropy_bonus=0.05, mask_truncated=True),
    **{f"truncated {name}": WholeStep(name, mask_truncated=True) for name in SETTINGS},
}


@pytest.mark.parametrize("name", WHOLE_STEPS)
@given(seed=st.integers(0, 2**32 - 1))
@effort(max_examples=5)
def test_a_whole_update_equals_trl(trl: Any, name: str, seed: int) -> None:
    """Loss, and the way of every weight; ours has its token weights in float32.

    A truncated completion that is masked counts in TRL as in ours: as an empty one, among the
    completions of grpo and dr_grpo, and with no tokens in the token means. What is truncated is
    told by the sampler here and by the last token in TRL; they differ after a stop string.
    """
    groups, step = random_groups(torch.Generator().manual_seed(seed)), WHOLE_STEPS[name]
    step.ours(groups).assert_close(step.theirs(groups), rtol=1e-5, atol=1e-6)
