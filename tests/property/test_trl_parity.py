"""Where an option claims to be TRL's, it is: against its formulas, and against TRL where installed.

The formulas are written once more here, in plain torch and in TRL's own order of steps. TRL itself
comes with the extra `bench` and is left out where it is missing: `GRPOTrainer._compute_loss` is
called with a stand-in for the trainer that hands it our log-probabilities.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.advantage import mean_advantages, zero_signal_groups
from grpo_core.advantages.trl import trl_advantages, trl_batch_advantages
from grpo_core.losses.cispo import cispo_loss
from grpo_core.losses.dual_clip import dual_clip_loss
from grpo_core.losses.grpo import grpo_loss
from grpo_core.losses.gspo import gspo_loss
from grpo_core.masking import Aggregation, token_weights
from strategies import Batch, bool_matrices, ragged_batches, reward_groups

MAX_COMPLETION_LENGTH = 8


@dataclass(frozen=True)
class Setting:
    """One setting of TRL's, and ours that claims to equal it."""

    loss_type: str
    loss: Any
    aggregation: Aggregation
    level: str = "token"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.28
    delta: float | None = None

    @property
    def ours(self) -> dict[str, Any]:
        if self.loss is cispo_loss:  # theirs is the cap itself, without a lower bound
            return {"epsilon_low": 1.0, "epsilon_high": self.epsilon_high - 1}
        bounds = {"epsilon_low": self.epsilon_low, "epsilon_high": self.epsilon_high}
        return bounds if self.delta is None else {**bounds, "ratio_cap": self.delta}


SETTINGS = {
    "grpo": Setting("grpo", grpo_loss, "sequence_mean"),
    "bnpo": Setting("bnpo", grpo_loss, "token_mean"),
    "dapo": Setting("dapo", grpo_loss, "token_mean"),
    "dr_grpo": Setting("dr_grpo", grpo_loss, "constant"),
    "gspo": Setting(
        "grpo", gspo_loss, "sequence_mean", "sequence", epsilon_low=0.03, epsilon_high=0.04
    ),
    "delta": Setting("grpo", dual_clip_loss, "sequence_mean", delta=1.5),
    "cispo": Setting("cispo", cispo_loss, "token_mean", epsilon_high=1.3),
}
settings = pytest.mark.parametrize("name", SETTINGS)


def our_loss(setting: Setting, batch: Batch, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = batch.logprobs.clone().requires_grad_()
    weights = token_weights(
        batch.mask,
        setting.aggregation,
        **batch.counts,
        max_new_tokens=MAX_COMPLETION_LENGTH,
        dtype=torch.float64,
    )
    output = setting.loss(
        logprobs,
        batch.old_logprobs,
        batch.advantages,
        weights,
        completion_mask=batch.mask,
        beta=beta,
        ref_logprobs=batch.ref_logprobs,
        **setting.ours,
    )
    output.loss.backward()
    assert logprobs.grad is not None
    return output.loss.detach(), logprobs.grad


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
@given(batch=ragged_batches(), beta=st.sampled_from([0.0, 0.04]))
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


@pytest.mark.parametrize(
    ("scale", "estimate"),
    [("group", trl_advantages), ("batch", trl_batch_advantages), ("none", mean_advantages)],
)
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
def trainer() -> Any:
    """The class GRPOTrainer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("trl", reason="TRL is not installed: pip install 'grpo-core[bench]'")
        module = pytest.importorskip("trl.trainer.grpo_trainer")
    return module.GRPOTrainer


class Accelerator:
    """A world of one process."""

    num_processes = 1
    sync_gradients = True

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def their_loss(
    trainer: Any, setting: Setting, batch: Batch, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs = batch.logprobs.clone().requires_grad_()
    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, logprobs.detach(), None),
        args=SimpleNamespace(
            delta=setting.delta, use_bias_correction_kl=False, steps_per_generation=1
        ),
        model=SimpleNamespace(training=False),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=setting.level,
        beta=beta,
        loss_type=setting.loss_type,
        epsilon_low=setting.epsilon_low,
        epsilon_high=setting.epsilon_high,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_COMPLETION_LENGTH,
        _entropy_bonus_enabled=False,
        _metrics={"eval": defaultdict(list)},
    )
    ids = torch.zeros(batch.mask.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": batch.mask.long(),
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old_logprobs,
        "ref_per_token_logps": batch.ref_logprobs,
        "num_items_in_batch": batch.mask.sum(),
    }
    loss = trainer._compute_loss(stand_in, None, inputs)
    loss.backward()
    assert logprobs.grad is not None
    return loss.detach(), logprobs.grad


@settings
@given(batch=ragged_batches(), beta=st.sampled_from([0.0, 0.04]))
def test_loss_and_gradient_equal_trl(trainer: Any, name: str, batch: Batch, beta: float) -> None:
    for ours, theirs in zip(
        our_loss(SETTINGS[name], batch, beta),
        their_loss(trainer, SETTINGS[name], batch, beta),
        strict=True,
    ):
        assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@given(data=st.data())
def test_the_deviation_is_that_of_trl(trainer: Any, data: st.DataObject) -> None:
    from trl.trainer.utils import nanstd as theirs

    rewards = data.draw(reward_groups(max_group=6))
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    scored = rewards.masked_fill(~valid, math.nan)
    assert_close(nanstd(scored, 1).squeeze(1), theirs(scored, dim=1), equal_nan=True)
    assert_close(nanstd(scored).squeeze(), theirs(scored), equal_nan=True)
