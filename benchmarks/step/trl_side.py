"""TRL's GRPOTrainer, built from a model, prompts, a reward function, and settings.

Nothing of TRL's is patched: completions from outside go in through its own `rollout_func`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel

from grpo_core.types import Prompt

MISSING = "TRL is not installed: pip install -e '.[bench,test]'"

Reward = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float | None]]
"""Rewards of completions' texts, each with its prompt; None for one that could not be scored."""


@dataclass(frozen=True, slots=True)
class TrlSettings:
    """Options of GRPOConfig that benchmarks set; the rest keeps TRL's defaults.

    Attributes:
        micro_batch: completions computed at once in training (`per_device_train_batch_size`).
        attention: `attn_implementation` of the model.
        weights: dtype of the weights. bf16: whether to compute under bfloat16 autocast.
        gradient_checkpointing: TRL's default is True.
        max_grad_norm: 0 leaves the gradient unclipped.
        scale_rewards: "group" divides by the group's deviation, "none" does not.
    """

    steps: int = 1
    group_size: int = 8
    prompts_per_step: int = 8
    max_new_tokens: int = 64
    micro_batch: int = 64
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    temperature: float = 1.0
    beta: float = 0.0
    num_iterations: int = 1
    loss_type: str = "dapo"
    scale_rewards: str = "group"
    attention: str = "sdpa"
    weights: str = "float32"
    bf16: bool = True
    gradient_checkpointing: bool = True
    max_grad_norm: float = 1.0
    seed: int = 0

    def describe(self) -> str:
        """One line for people."""
        compute = "bf16 autocast" if self.bf16 else "no autocast"
        again = "checkpointing" if self.gradient_checkpointing else "no checkpointing"
        return (
            f"{self.weights} weights, {compute}, {self.attention} attention, {again}, "
            f"micro-batches of {self.micro_batch}"
        )


def require_trl() -> None:
    """End the program with the way to install TRL, if it is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import trl  # noqa: F401
        except ModuleNotFoundError:
            raise SystemExit(MISSING) from None


def build_trainer(
    model: str | Path | PreTrainedModel,
    prompts: Sequence[Prompt],
    reward: Reward,
    settings: TrlSettings,
    folder: str | Path,
    *,
    callbacks: Sequence[Any] = (),
    rollout: Callable[..., Any] | None = None,
) -> Any:
    """A GRPOTrainer that is ready for `train()`.

    It takes `prompts` in order, `settings.prompts_per_step` a step, `settings.steps` times.

    Args:
        model: a folder (loaded by TRL, in `settings.weights` with `settings.attention`), or a model
            as it is.
        prompts: at least as many as the steps need; further ones are not used.
        reward: called once a step, on all completions.
        settings: see `TrlSettings`.
        folder: where TRL may write; also its tokenizer's folder, if `model` is a loaded model
            without a folder of its own.
        callbacks: of transformers' Trainer.
        rollout: TRL's `rollout_func`, which then makes the completions.

    Raises:
        SystemExit: if TRL is missing. ValueError: if there are too few prompts, or micro-batches do
            not divide a step.
    """
    require_trl()
    completions = settings.group_size * settings.prompts_per_step
    needed = settings.prompts_per_step * settings.steps
    if len(prompts) < needed:
        raise ValueError(f"{settings.steps} steps need {needed} prompts, got {len(prompts)}.")
    if completions % settings.micro_batch:
        raise ValueError(
            f"micro_batch must divide the {completions} completions of a step, got "
            f"{settings.micro_batch}."
        )
    is_path = isinstance(model, str | Path)
    source = str(model) if isinstance(model, str | Path) else model.name_or_path or str(folder)
    rows = [{"prompt": list(p.messages), "place": at} for at, p in enumerate(prompts[:needed])]
    logging.getLogger("trl").setLevel(logging.ERROR)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import GRPOConfig, GRPOTrainer

        config = GRPOConfig(**_arguments(settings, folder, is_path))
        return GRPOTrainer(
            model=str(model) if is_path else model,
            reward_funcs=_reward_function(prompts, reward),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(source, padding_side="left"),
            callbacks=list(callbacks),
            rollout_func=rollout,
        )


def _arguments(settings: TrlSettings, folder: str | Path, loads_model: bool) -> dict[str, Any]:
    completions = settings.group_size * settings.prompts_per_step
    kwargs = {"dtype": settings.weights, "attn_implementation": settings.attention}
    return {
        "output_dir": str(folder),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": settings.bf16,
        "model_init_kwargs": kwargs if loads_model else None,
        "max_steps": settings.steps,
        "num_generations": settings.group_size,
        "per_device_train_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": completions // settings.micro_batch,
        "max_completion_length": settings.max_new_tokens,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "num_iterations": settings.num_iterations,
        "loss_type": settings.loss_type,
        "scale_rewards": settings.scale_rewards,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if settings.warmup_steps else "constant",
        "warmup_steps": settings.warmup_steps,
        "max_grad_norm": settings.max_grad_norm,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "shuffle_dataset": False,
        "seed": settings.seed,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _reward_function(prompts: Sequence[Prompt], reward: Reward) -> Callable[..., Any]:
    def reward_function(completions: Any, place: Sequence[int], **_: Any) -> list[float | None]:
        texts = [
            completion if isinstance(completion, str) else str(completion[0]["content"])
            for completion in completions
        ]
        return list(reward([prompts[at] for at in place], texts))

    return reward_function
