"""TRL's side of `learning.py`: a GRPOTrainer with our recipe, prompts, and reward."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from learning_recipe import Curve, HeldOut, Stopwatch, Verifier, training_prompts
from step.trl_side import TrlSettings, build_trainer
from torch import nn
from transformers import TrainerCallback

from grpo_core.assembly import load_policy
from grpo_core.config import RunConfig
from grpo_core.plugin_manager import Plugins
from grpo_core.training.optimizer import create_optimizer, learning_rate
from grpo_core.types import Prompt


class Rewards:
    """The reward function; keeps what it gave last."""

    def __init__(self, verifier: Verifier) -> None:
        self.scores: list[float | None] = []
        self._verifier = verifier

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        """One reward a completion, in order; TRL leaves out those that are None."""
        self.scores = self._verifier.scores(prompts, texts)
        return self.scores


class Recorder(TrainerCallback):
    """Writes every step down and evaluates, with the clock stopped meanwhile."""

    def __init__(
        self,
        config: RunConfig,
        curve: Curve,
        rewards: Rewards,
        held_out: HeldOut | None,
        is_enough: Callable[[float], bool],
    ) -> None:
        self._config, self._curve, self._rewards = config, curve, rewards
        self._held_out, self._is_enough = held_out, is_enough
        self._watch = Stopwatch()

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Evaluate the model as it is."""
        self._evaluate(0, parts["model"])
        self._watch.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Write down the step; every so often, evaluate."""
        self._watch.stop()
        size, scores = self._config.grpo.group_size, self._rewards.scores
        groups = [scores[start : start + size] for start in range(0, len(scores), size)]
        self._curve.step(state.global_step, groups, self._watch)
        if state.global_step % self._config.evaluation.every == 0:
            control.should_training_stop |= self._evaluate(state.global_step, parts["model"])
        self._watch.start()

    def _evaluate(self, step: int, model: nn.Module) -> bool:
        if self._held_out is None:
            return False
        rates = self._held_out.pass_rates(dict(model.named_parameters()))
        return self._is_enough(self._curve.evaluation(step, rates, self._watch))


def run(
    config: RunConfig,
    plugins: Plugins,
    curve: Curve,
    held_out: HeldOut | None,
    is_enough: Callable[[float], bool],
    *,
    micro_batch: int,
    checkpointing: bool,
) -> None:
    """Train with TRL, until an evaluation is enough or all steps are done."""
    rewards = Rewards(Verifier(config, plugins))
    model = load_policy(config).model  # float32
    model.set_attn_implementation("eager")  # in bfloat16 its backward is the faster one here
    optimizer = create_optimizer(dict(model.named_parameters()), config.trainer)
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            model,
            training_prompts(config, plugins),
            rewards,
            _settings(config, micro_batch, checkpointing),
            folder,
            callbacks=[Recorder(config, curve, rewards, held_out, is_enough)],
        )
        trainer.optimizer = optimizer
        trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda done: learning_rate(config.trainer, done + 1) / config.trainer.learning_rate,
        )
        trainer.train()


def _settings(config: RunConfig, micro_batch: int, checkpointing: bool) -> TrlSettings:
    """Our recipe in TRL's words."""
    return TrlSettings(
        steps=config.trainer.steps,
        group_size=config.grpo.group_size,
        prompts_per_step=config.grpo.prompts_per_step,
        max_new_tokens=config.sampling.max_new_tokens,
        micro_batch=micro_batch,
        temperature=config.sampling.temperature,
        beta=config.grpo.beta,
        num_iterations=config.grpo.num_iterations,
        loss_type="dapo",
        scale_rewards="group",
        gradient_checkpointing=checkpointing,
        max_grad_norm=config.trainer.max_grad_norm,
        seed=config.seed,
    )
