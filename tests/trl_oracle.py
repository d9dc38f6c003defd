"""TRL's own code for GRPO, called outside of its trainer, and our settings that claim to equal it.

`GRPOTrainer._compute_loss`, `_prepare_inputs` and the callback that moves the reference are called
as they stand, with a stand-in for the trainer that hands them log-probabilities. What TRL computes
in the middle of a long method (advantages, the sampler's importance ratio, the mask of truncated
completions) is cut out of its source and run: see `run_statement`.
"""

from __future__ import annotations

import ast
import inspect
import math
import warnings
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from grpo_core.losses.cispo import cispo_loss
from grpo_core.losses.dual_clip import dual_clip_loss
from grpo_core.losses.grpo import grpo_loss
from grpo_core.losses.gspo import gspo_loss
from grpo_core.masking import Aggregation, token_weights
from grpo_core.mismatch import Mismatch
from strategies import Batch

MAX_COMPLETION_LENGTH = 8
MISSING = "TRL is not installed: pip install -e '.[bench,test]'"


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
        """Arguments of our loss."""
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


@cache
def trl_module() -> Any:
    """The module trl.trainer.grpo_trainer; None where TRL is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import trl  # noqa: F401
        except ModuleNotFoundError:
            return None
        from trl.trainer import grpo_trainer

    return grpo_trainer


def our_loss(
    setting: Setting, batch: Batch, beta: float, factor: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our loss and its gradient with respect to logprobs.

    Args:
        factor: [B, T] weights of the policy gradient, as `mismatch_weights` gives them.
    """
    logprobs = batch.logprobs.clone().requires_grad_()
    weights = token_weights(
        batch.mask,
        setting.aggregation,
        **batch.counts,
        max_new_tokens=MAX_COMPLETION_LENGTH,
        dtype=torch.float64,
    )
    advantages = batch.advantages
    output = setting.loss(
        logprobs,
        batch.old_logprobs,
        advantages if factor is None else advantages.unsqueeze(1) * factor,
        weights,
        completion_mask=batch.mask,
        beta=beta,
        ref_logprobs=batch.ref_logprobs,
        **setting.ours,
    )
    output.loss.backward()
    assert logprobs.grad is not None
    return output.loss.detach(), logprobs.grad


class Accelerator:
    """A world of one process."""

    num_processes = 1
    sync_gradients = True

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        """The sum over all of them."""
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Of all of them."""
        return tensor


def stand_in(setting: Setting, score: Any, *, beta: float, **changes: Any) -> SimpleNamespace:
    """What the methods of GRPOTrainer read of `self`.

    Args:
        setting: the loss.
        score: in place of `_get_per_token_logps_and_entropies`.
        beta: weight of the KL.
        changes: further attributes.
    """
    arguments = {
        "delta": setting.delta,
        "use_bias_correction_kl": False,
        "steps_per_generation": 1,
    }
    attributes = {
        "_get_per_token_logps_and_entropies": score,
        "args": SimpleNamespace(**arguments),
        "model": SimpleNamespace(training=True),
        "accelerator": Accelerator(),
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": setting.level,
        "beta": beta,
        "loss_type": setting.loss_type,
        "epsilon_low": setting.epsilon_low,
        "epsilon_high": setting.epsilon_high,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,  # read with vLLM only
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": MAX_COMPLETION_LENGTH,
        "entropy_coef": 0.0,
        "_entropy_bonus_enabled": False,
        "use_adaptive_entropy": False,
        "_metrics": {"train": defaultdict(list)},
    }
    return SimpleNamespace(**attributes | changes)


def trl_loss(
    setting: Setting, batch: Batch, beta: float, ratio: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """TRL's loss and its gradient with respect to logprobs.

    Args:
        ratio: [B, T] the sampler's importance ratio, as `trl_sampler_ratio` gives it.
    """
    logprobs = batch.logprobs.clone().requires_grad_()

    def score(*_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor, None]:
        return logprobs, logprobs.detach(), None

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
        "importance_sampling_ratio": ratio,
    }
    trainer = stand_in(setting, score, beta=beta, use_vllm=ratio is not None)
    loss = trl_module().GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    assert logprobs.grad is not None
    return loss.detach(), logprobs.grad


# ---- statements out of the middle of a method --------------------------------------------------


@cache
def _statement(test: str, sets: str) -> Any:
    source = inspect.getsource(trl_module())
    methods = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    (method,) = (node for node in methods if node.name == "_generate_and_score_completions")
    (found,) = (
        node
        for node in ast.walk(method)
        if isinstance(node, ast.If)
        and ast.unparse(node.test) == test
        and any(f"{sets} = " in ast.unparse(line) for line in node.body)
    )
    found.orelse = [] if test.startswith("self.use_vllm") else found.orelse
    return compile(ast.Module([found], []), "trl", "exec")


def run_statement(test: str, sets: str, **values: Any) -> torch.Tensor:
    """Run an `if` statement of TRL's `_generate_and_score_completions`.

    Args:
        test: its condition, as it stands in the source.
        sets: a variable that it sets.
        values: the variables that it reads.

    Returns:
        the variable. Fails if TRL's source has no such statement, or more than one.
    """
    scope = {**vars(trl_module()), **values}
    exec(_statement(test, sets), scope)  # the source of an installed package
    return scope[sets]


def trl_sampler_ratio(batch: Batch, sampler: torch.Tensor, how: Mismatch, cap: float) -> Any:
    """[B, T] TRL's ratio of trainer and sampler, in the mode that `how` claims to equal.

    truncate: clip_max = cap and no clip_min; mask: clip_max = cap and clip_min = 1 / cap.
    """
    trainer = SimpleNamespace(
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=how,
        vllm_importance_sampling_clip_max=cap,
        vllm_importance_sampling_clip_min=1 / cap if how.endswith("mask") else None,
    )
    return run_statement(
        "self.use_vllm and self.vllm_importance_sampling_correction",
        "vllm_importance_sampling_ratio",
        self=trainer,
        old_per_token_logps=batch.old_logprobs,
        sampling_per_token_logps=sampler,
        completion_mask=batch.mask.long(),
        tool_mask=None,
    )


def trl_advantages_of(rewards: torch.Tensor, valid: torch.Tensor, scale: str) -> torch.Tensor:
    """[P, G] TRL's advantages; a reward that is not valid is NaN there, as of a reward None."""
    scored = rewards.masked_fill(~valid, math.nan).reshape(-1, 1)
    trainer = SimpleNamespace(
        multi_objective_aggregation="sum_then_normalize",
        scale_rewards=scale,
        reward_weights=torch.ones(1, dtype=rewards.dtype),
    )
    advantages = run_statement(
        "self.multi_objective_aggregation == 'sum_then_normalize'",
        "advantages",
        self=trainer,
        rewards_per_func=scored,
        unscorable_mask=scored.isnan().all(dim=1),
        num_generations=rewards.shape[1],
        device=rewards.device,
    )
    return torch.nan_to_num(advantages, nan=0.0).reshape(rewards.shape)


def trl_truncation_mask(completions: list[list[int]], mask: torch.Tensor, eos: int) -> Any:
    """[B, T] TRL's completion mask with mask_truncated_completions."""
    trainer = SimpleNamespace(
        mask_truncated_completions=True,
        eos_token_ids=[eos],
        _tokenizer=SimpleNamespace(pad_token_id=eos),
    )
    return run_statement(
        "self.mask_truncated_completions",
        "completion_mask",
        self=trainer,
        completion_ids_list=completions,
        completion_mask=mask,
        tool_mask=None,
        device=mask.device,
    )
