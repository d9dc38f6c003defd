"""The parts of a run under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpo_core.assembly import LoadedModel
from grpo_core.config import RunConfig
from grpo_core.plugin_manager import Plugins
from grpo_core.protocols import Sampler
from grpo_core.records.run_directory import RunDirectory
from grpo_core.rollout import Judge
from grpo_core.training.checkpoint import TrainerState, prune_checkpoints, save_checkpoint
from grpo_core.training.interruption import Interruption
from grpo_core.training.learner import Learner
from grpo_core.training.selection import PromptSource
from grpo_core.types import Prompt, RolloutGroup


@dataclass(slots=True)
class Session:
    """The parts of a run under way. Only `state` and `ahead` change, together, once a step."""

    config: RunConfig
    plugins: Plugins
    directory: RunDirectory
    loaded: LoadedModel
    learner: Learner
    sampler: Sampler
    judge: Judge
    train_prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    source: PromptSource
    interruption: Interruption
    state: TrainerState
    ahead: Sequence[RolloutGroup] | None = None  # of the next step, sampled already

    def save(self) -> None:
        """Write a checkpoint of the current state and drop those no longer wanted."""
        save_checkpoint(
            self.directory.checkpoints,
            self.learner.model,
            self.loaded.tokenizer,
            self.learner.masters,
            self.learner.optimizer,
            self.state,
            self.learner.reference if self.config.reference.sync_every else None,
            self.learner.world,
            self.ahead,
        )
        prune_checkpoints(
            self.directory.checkpoints, self.config.trainer.keep_checkpoints, self.state.best_step
        )

    def progress(self, phase: str, done: int, total: int) -> None:
        """Tell observers; and a moment at which Ctrl-C is safe, for nothing is being changed."""
        self.interruption.check()
        self.plugins.manager.hook.grpo_progress(phase=phase, done=done, total=total)
