"""The fixed workload, said once for all sides: model, prompts, sizes, settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpo_core.config import RunConfig
from grpo_core.models.find import find_model
from grpo_core.plugin_manager import load_plugins
from grpo_core.training.prompt_order import EpochOrder
from grpo_core.types import Prompt
from grpo_core.validation import build

TRAIN_SIZE = 4096
HASH, MATH = "hash", "math"


@dataclass(frozen=True, slots=True)
class Workload:
    """One GRPO step: `prompts` prompts, `group_size` completions of each, on-policy, no KL.

    Attributes:
        model: folder of the model.
        reward: HASH gives nearly all groups signal, MATH is the task's own.
        steps: of a run, the warm-up step included.
        filler: letters in front of every question. micro_batch_tokens: None for the default.
    """

    model: str
    prompts: int = 8
    group_size: int = 8
    max_new_tokens: int = 64
    reward: str = HASH
    steps: int = 3
    seed: int = 0
    filler: int = 0
    micro_batch_tokens: int | None = None

    def config(self) -> RunConfig:
        """The run of ours."""
        math = {"name": "math", "weight": 1.0 if self.reward == MATH else 0.0}
        template = "x" * self.filler + "{question} Answer with the number only."
        most = self.micro_batch_tokens
        bound = {} if most is None else {"micro_batch_tokens": most}
        rewards = [] if self.reward == MATH else [{"name": "benchmark_hash", "weight": 1.0}]
        sections = {
            "seed": self.seed,
            "model": {"path": self.model},
            "task": {
                "name": "arithmetic",
                "options": {
                    "levels": ["add2"],
                    "train_size": TRAIN_SIZE,
                    "test_size": 8,
                    "prompt_template": template,
                },
            },
            "sampling": {"max_new_tokens": self.max_new_tokens, "temperature": 1.0},
            "grpo": {
                "group_size": self.group_size,
                "prompts_per_step": self.prompts,
                "aggregation": "token_mean",
                "beta": 0.0,
            },
            "trainer": {
                "steps": self.steps,
                "learning_rate": 1e-5,
                "warmup_steps": 0,
                "save_every": 0,
                **bound,
            },
            "evaluation": {"num_prompts": 1, "num_samples": 1},
            "verifiers": [math, *rewards],
        }
        return build(RunConfig, sections)

    def train_prompts(self) -> Sequence[Prompt]:
        """All prompts of the run, in the order in which ours takes them."""
        config = self.config()
        task = load_plugins().tasks["arithmetic"].create(config.task.options)
        prompts: Sequence[Prompt] = task.load("train")
        order = EpochOrder(len(prompts), config.seed)
        return [prompts[at] for at in order.draw(self.prompts * self.steps)]


def model_folder(name: str | None) -> str:
    """The folder of a model; of the default one if there is no name."""
    return str(find_model(name or RunConfig().model.path))
