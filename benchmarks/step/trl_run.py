"""A few steps of TRL's GRPOTrainer in this process, its phases timed: `python -m step.trl_run`.

    python -m step.trl_run WORKLOAD_JSON SETTINGS_JSON STEPS_FILE

Its methods are wrapped by stopwatches and otherwise left as they are.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from grpo_core.types import Prompt
from step.probe import Meter
from step.rewards import hash_reward
from step.trl_side import TrlSettings, build_trainer
from step.workload import Workload


class Stopwatches:
    """Seconds of a trainer's phases since the last reset, and token counts of its samples."""

    def __init__(self, trainer: Any) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = {}
        self._scoring = False
        self._group_size = trainer.num_generations
        for name, phase in (
            ("_generate", "sample"),
            ("_calculate_rewards", "verify"),
            ("compute_loss", "forward"),
        ):
            self._wrap(trainer, name, phase)
        self._wrap(trainer.accelerator, "backward", "backward")
        self._wrap(trainer.accelerator, "clip_grad_norm_", "optimizer")
        self._count_samples(trainer)
        self._tell_scoring_apart(trainer)

    def watch_optimizer(self, optimizer: Any) -> None:
        """The optimiser exists only once training has begun."""
        self._wrap(optimizer, "step", "optimizer")
        self._wrap(optimizer, "zero_grad", "optimizer")

    def reset(self) -> None:
        """A new step begins."""
        self.seconds.clear()

    def _wrap(self, owner: Any, name: str, phase: str) -> None:
        original = getattr(owner, name)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*arguments, **keywords)
            finally:
                self.seconds[phase] += time.perf_counter() - start

        setattr(owner, name, timed)

    def _count_samples(self, trainer: Any) -> None:
        generate = trainer._generate

        def counted(*arguments: Any, **keywords: Any) -> Any:
            result = generate(*arguments, **keywords)
            prompts, completions = result[0], result[1]
            lengths = [len(ids) for ids in completions]
            self.counts = {
                "completion_tokens": sum(lengths),
                "prompt_tokens": sum(len(ids) for ids in prompts[:: self._group_size]),
                "longest": max(lengths),
            }
            return result

        trainer._generate = counted

    def _tell_scoring_apart(self, trainer: Any) -> None:
        """Log-probabilities that are computed beside the samples: old ones and the reference's."""
        make = trainer._generate_and_score_completions
        compute = trainer._get_per_token_logps_and_entropies

        def making(*arguments: Any, **keywords: Any) -> Any:
            self._scoring = True
            try:
                return make(*arguments, **keywords)
            finally:
                self._scoring = False

        def computing(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            result = compute(*arguments, **keywords)
            if self._scoring:
                self.seconds["logprobs"] += time.perf_counter() - start
            return result

        trainer._generate_and_score_completions = making
        trainer._get_per_token_logps_and_entropies = computing


class Watcher(TrainerCallback):
    """Writes down each step; the canary runs between them."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.watches: Stopwatches | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        assert self.watches is not None
        self.watches.watch_optimizer(parts["optimizer"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        assert self.watches is not None
        self.watches.reset()
        self.meter.restart()

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        assert self.watches is not None
        counts = self.watches.counts
        trained = float(counts["completion_tokens"])
        self.meter.finish(state.global_step, self.watches.seconds, **counts, trained_tokens=trained)


def rewards(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    """The hash of every text."""
    return [hash_reward(text) for text in texts]


def run(workload: Workload, settings: TrlSettings, steps_file: str) -> None:
    """Train, and write a line a step."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    meter = Meter(steps_file)
    watcher = Watcher(meter)
    with tempfile.TemporaryDirectory() as folder, meter.counting_positions():
        prompts = workload.train_prompts()
        trainer = build_trainer(
            workload.model, prompts, rewards, settings, folder, callbacks=[watcher]
        )
        watcher.watches = Stopwatches(trainer)
        trainer.train()


if __name__ == "__main__":
    run(Workload(**json.loads(sys.argv[1])), TrlSettings(**json.loads(sys.argv[2])), sys.argv[3])
