"""What both sides of `learning.py` share: recipe, prompts in their order, reward, held-out test."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from grpo_core.assembly import create_sampler, create_task, load_policy, load_prompts
from grpo_core.cli.train import MAIN_JOB
from grpo_core.config import RunConfig, load_config
from grpo_core.models.load import cast_model
from grpo_core.plugin_manager import Plugins
from grpo_core.protocols import SamplingParams
from grpo_core.rollout import sample_of
from grpo_core.sampling.base import derive_seed
from grpo_core.training.prompt_order import EpochOrder
from grpo_core.types import Completion, Prompt, Sample


def recipe(seed: int, steps: int, overrides: Sequence[str] = ()) -> RunConfig:
    """The main job of `grpo train`, with another seed and number of steps."""
    return load_config(MAIN_JOB, [f"seed={seed}", f"trainer.steps={steps}", *overrides])


def training_prompts(config: RunConfig, plugins: Plugins) -> list[Prompt]:
    """The prompts of all steps, one step after the other, in the order in which we train."""
    prompts = load_prompts(create_task(config, plugins), "train")
    order = EpochOrder(len(prompts), config.seed)
    count = config.trainer.steps * config.grpo.prompts_per_step
    return [prompts[index] for index in order.draw(count)]


class Verifier:
    """Our `math` verifier, called in this process."""

    def __init__(self, config: RunConfig, plugins: Plugins) -> None:
        (chosen,) = config.verifiers
        self._verifier = plugins.verifiers[chosen.name].create(chosen.options)

    def scores(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
        """The reward of a completion of each prompt; None where the verifier has no opinion."""
        samples = [
            Sample(prompt.text, text, prompt.reference, prompt.meta, prompt.messages)
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        return [verdict.score for verdict in self._verifier.verify(samples)]

    def num_correct(self, prompt: Prompt, completions: Sequence[Completion]) -> int:
        """How many completions of a prompt the binary verdict calls correct."""
        samples = [sample_of(prompt, completion) for completion in completions]
        return sum(verdict.is_correct for verdict in self._verifier.verify(samples))


class HeldOut:
    """Sampled pass@1 on held-out prompts, measured in the same way whatever is trained.

    It has a model of its own, in bfloat16, into which the weights are copied, and samples from it
    with our embedded engine. The random numbers depend on the seed and the prompt alone, so
    evaluations of one seed differ by the weights only, on both sides.
    """

    def __init__(self, config: RunConfig, plugins: Plugins, num_prompts: int) -> None:
        task = create_task(config, plugins)
        self._prompts = load_prompts(task, task.evaluation_split)[:num_prompts]
        self._samples = config.evaluation.num_samples
        self._verifier = Verifier(config, plugins)
        loaded = load_policy(config)
        cast_model(loaded.model, torch.bfloat16)
        self._parameters = dict(loaded.model.named_parameters())
        self._sampler = create_sampler(config, plugins, loaded)
        self._params = SamplingParams(
            max_new_tokens=config.sampling.max_new_tokens,
            temperature=config.evaluation.temperature,
            seed=derive_seed(config.seed, "evaluation"),
        )

    @torch.no_grad()
    def pass_rates(self, weights: Mapping[str, Tensor]) -> list[float]:
        """For each prompt, the share of its completions that are correct, under `weights`."""
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])
        self._sampler.update_weights()
        groups = self._sampler.sample(self._prompts, self._samples, self._params)
        return [
            self._verifier.num_correct(prompt, group) / self._samples
            for prompt, group in zip(self._prompts, groups, strict=True)
        ]


@dataclass(slots=True)
class Stopwatch:
    """Wall and CPU seconds of this process, added up while it runs."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    _started: tuple[float, float] = field(default=(0.0, 0.0))

    def start(self) -> None:
        """Go on counting."""
        self._started = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """Pause."""
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]


class Curve:
    """Writes a run down as it goes on: settings.json, steps.jsonl, and evaluations.jsonl."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True)  # never over another run
        self._folder = folder
        (folder / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")

    def step(
        self,
        step: int,
        rewards: Sequence[Sequence[float | None]],
        watch: Stopwatch,
    ) -> None:
        """Note the rewards [P][G] of a step, and the training time up to its end."""
        judged = [[reward for reward in row if reward is not None] for row in rewards]
        row = {
            "step": step,
            "prompt_rewards": [sum(group) / len(group) if group else None for group in judged],
            "seconds": watch.seconds,
            "cpu_seconds": watch.cpu_seconds,
        }
        self._append("steps.jsonl", row)

    def evaluation(self, step: int, rates: Sequence[float], watch: Stopwatch) -> float:
        """Note an evaluation after a step; returns pass@1."""
        mean = sum(rates) / len(rates)
        row = {
            "step": step,
            "pass_at_1": mean,
            "seconds": watch.seconds,
            "cpu_seconds": watch.cpu_seconds,
            "rates": rates,
        }
        self._append("evaluations.jsonl", row)
        print(f"step {step}: held-out pass@1 {mean:.3f}, {watch.cpu_seconds:.0f} CPU s", flush=True)
        return mean

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        with (self._folder / name).open("a") as file:
            file.write(json.dumps(row) + "\n")


def canary(repeats: int = 9) -> float:
    """Median milliseconds of a bfloat16 matrix product; more than usual on a noisy machine."""
    one, other = (torch.randn(shape).bfloat16() for shape in ((4096, 576), (576, 1536)))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - started)
    return 1000 * median(times)


def machine() -> dict[str, Any]:
    """What the numbers were made on."""
    packages = ("torch", "transformers", "accelerate", "trl", "grpo-core")
    return {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None
