"""The canary, with samplers whose hand-over of weights is broken in different ways."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from grpo_core.config import RunConfig, SamplingConfig
from grpo_core.errors import SamplingError
from grpo_core.hookspecs import hookimpl
from grpo_core.losses.grpo import grpo_loss
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.protocols import ProbedSampler
from grpo_core.records.run_directory import RunDirectory
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import HfSampler
from grpo_core.training.canary import Canary, Reading, arrived_share, create_canary
from grpo_core.training.learner import Learner
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.policy import find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.run import train
from grpo_core.types import Prompt
from grpo_core.validation import build
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer

PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": text}], None)
    for n, text in enumerate(["what is 2 + 2?", "count the letters of tree", "1 7 3 9", "why?"])
]
Copying = Callable[[nn.Module, nn.Module], None]


def copy_all(policy: nn.Module, own: nn.Module) -> None:
    own.load_state_dict(policy.state_dict())


def copy_nothing(policy: nn.Module, own: nn.Module) -> None:
    pass


def copy_all_but_the_embedding(policy: nn.Module, own: nn.Module) -> None:
    kept = {n: p.clone() for n, p in own.named_parameters() if "embed" in n}
    own.load_state_dict(policy.state_dict())
    with torch.no_grad():
        for name, value in kept.items():
            own.get_parameter(name).copy_(value)


class CopyingSampler(HfSampler):
    """An engine with weights of its own, as vLLM has them."""

    def __init__(self, context: SamplerContext, copying: Copying) -> None:
        self.policy, self.copying = context.model, copying
        super().__init__(
            SamplerContext(copy.deepcopy(context.model), context.tokenizer, "", context.config)
        )

    def update_weights(self) -> None:
        self.copying(self.policy, self._model)

    @torch.no_grad()
    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        rows = []
        for sequence in sequences:
            ids = torch.tensor([sequence])
            logprobs = self._model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            rows.append(logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist())
        return rows


def setup(
    copying: Copying, dtype: torch.dtype = torch.float32, **sampling: Any
) -> tuple[PreTrainedModel, Canary]:
    model = tiny_model()
    config = build(RunConfig, {"sampling": sampling})
    layout = find_layout(model)
    masters = MasterWeights(model, dtype)
    optimizer = create_optimizer(masters.parameters, config.trainer)
    learner = Learner(model, masters, optimizer, layout, grpo_loss, config)
    context = SamplerContext(model, tiny_tokenizer(), "", SamplingConfig())
    sampler = CopyingSampler(context, copying)
    return model, create_canary(learner, sampler, PROMPTS)


@torch.no_grad()
def train_a_little(model: nn.Module, size: float, only: str = "") -> None:
    """What optimiser steps do: every weight moves by about the same amount."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if only in name:
            signs = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
            parameter += size * signs.to(parameter.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_hand_over_passes_step_after_step(dtype: torch.dtype) -> None:
    model, canary = setup(copy_all, dtype)
    gaps = [canary.check().metrics["canary_gap"]]
    for _ in range(10):
        train_a_little(model, 3e-3)
        handed = canary.hand_over()
        assert handed.failure is None
        gaps.append(handed.metrics["canary_gap"])
    assert max(gaps) < (1e-4 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hand_over_that_does_nothing_is_caught_at_the_first_step(dtype: torch.dtype) -> None:
    model, canary = setup(copy_nothing, dtype)
    assert canary.check().failure is None
    train_a_little(model, 1e-3)
    handed = canary.hand_over()
    assert 0 < handed.metrics["canary_gap"] < canary.limit  # too little for the gap to tell
    message = str(handed.failure)
    assert "the sampler is stale: since the first hand-over" in message
    assert "by 0; 0% of the movement arrived" in message and "sampling.engine = 'hf'" in message


def test_one_that_ceases_to_work_is_caught_at_the_next_step() -> None:
    model, canary = setup(copy_all)
    canary.check()
    for _ in range(5):
        train_a_little(model, 3e-3)
        assert canary.hand_over().failure is None
    canary.sampler.copying = copy_nothing  # type: ignore[attr-defined]
    train_a_little(model, 1e-3)
    assert "is stale: since the last one" in str(canary.hand_over().failure)


def test_a_tied_head_left_behind_is_caught() -> None:
    model, canary = setup(copy_all_but_the_embedding)
    assert canary.check().failure is None
    train_a_little(model, 1e-3, only="embed")
    assert "is stale" in str(canary.hand_over().failure)


def test_a_tied_head_left_behind_is_caught_while_all_else_moves() -> None:
    model, canary = setup(copy_all_but_the_embedding)
    assert canary.check().failure is None
    train_a_little(model, 5e-3)
    failure = canary.hand_over().failure
    assert "is stale" in str(failure) or "disagree" in str(failure)


def test_rounding_is_not_taken_for_a_fault() -> None:
    """In bfloat16 most of a small step's movement is rounding, and differs between the two."""
    torch.manual_seed(0)
    start, jitter = torch.randn(4, 200, dtype=torch.float64), 0.1
    past = Reading(start[0], start[0] + jitter * start[1])
    now = Reading(start[0] + jitter * start[2], start[0] + jitter * start[3])
    assert arrived_share(past, now, jitter) is None


def test_weights_that_are_wrong_from_the_start_are_caught() -> None:
    _, canary = setup(copy_all)
    train_a_little(canary.sampler._model, 0.05)  # type: ignore[attr-defined]
    start = canary.check()
    assert "sampler and trainer disagree" in str(start.failure)
    assert "where 0.02 on average are allowed" in str(start.failure)
    assert canary.hand_over().failure is None


def test_weights_that_are_no_numbers_are_caught() -> None:
    _, canary = setup(copy_all)
    with torch.no_grad():
        canary.sampler._model.lm_head.weight[5, 3] = float("nan")  # type: ignore[attr-defined]
    assert "disagree" in str(canary.check().failure)


def test_the_limit_is_a_setting() -> None:
    _, canary = setup(copy_all, canary_limit=100.0)
    train_a_little(canary.sampler._model, 0.05)  # type: ignore[attr-defined]
    assert canary.check().failure is None


def test_a_trainer_that_stands_still_is_no_fault() -> None:
    """As it does in a step without signal."""
    _, canary = setup(copy_nothing)
    assert [canary.hand_over().failure for _ in range(3)] == [None] * 3


def test_an_engine_that_samples_from_the_policy_itself_is_not_asked() -> None:
    model, canary = setup(copy_all)
    context = SamplerContext(model, tiny_tokenizer(), "", SamplingConfig())
    embedded = create_canary(canary.learner, HfSampler(context), PROMPTS)
    assert isinstance(canary.sampler, ProbedSampler)
    assert not isinstance(embedded.sampler, ProbedSampler)
    assert "canary_gap" not in embedded.hand_over().metrics


def test_an_engine_that_refuses_the_weights_fails_the_hand_over() -> None:
    def refuse(policy: nn.Module, own: nn.Module) -> None:
        raise SamplingError("no")

    _, canary = setup(refuse)
    assert str(canary.hand_over().failure) == "no"


def test_the_share_that_arrived() -> None:
    torch.manual_seed(0)
    zero = torch.zeros(200, dtype=torch.float64)
    moved, noise = torch.randn_like(zero), 0.1 * torch.randn_like(zero)
    past = Reading(zero, zero)
    assert arrived_share(past, Reading(moved, moved), 0.0) == pytest.approx(1)
    assert arrived_share(past, Reading(moved, 0.3 * moved), 0.0) == pytest.approx(0.3)
    assert arrived_share(past, Reading(moved, moved + noise), 0.1) == pytest.approx(1, abs=0.03)
    assert arrived_share(past, Reading(moved, zero), 0.1) == 0
    assert arrived_share(past, Reading(noise * 0.1, noise), 0.1) is None  # drowned in the noise
    assert arrived_share(past, Reading(zero, noise), 0.1) is None
    assert arrived_share(past, Reading(zero + 1e-6, zero), 0.1) is None


def test_a_run_stops_with_a_checkpoint_of_the_step_that_was_sound(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def grpo_register_samplers(self, register: Callable[[str, Any], None]) -> None:
            register("lazy", lambda context: CopyingSampler(context, copy_nothing))

    folder = save_tiny_model(tmp_path / "model")
    values = {
        "model": {"path": str(folder)},
        "task": {"name": "letters"},
        "sampling": {"engine": "lazy", "max_new_tokens": 8},
        "grpo": {"group_size": 4, "prompts_per_step": 4},
        "trainer": {"dtype": "float32", "steps": 4, "learning_rate": 1e-2, "warmup_steps": 0},
        "evaluation": {"num_prompts": 4, "num_samples": 1},
    }
    file = str(Path(__file__).with_name("letter_plugin.py"))
    sources = PluginSources(files=(file,), use_entry_points=False)
    plugins = load_plugins(sources, extra=[Plugin()])
    directory = RunDirectory.create(tmp_path / "run", base="")
    with pytest.raises(SamplingError, match=r"is stale|disagree"):
        train(build(RunConfig, values), plugins, sources, directory)

    summary = directory.read_summary()
    assert summary["status"] == "failed" and "sampling.engine = 'hf'" in summary["error"]
    assert summary["steps"] == 1 and summary["checkpoint"].endswith("step-000001")
    (line,) = directory.read_metrics()
    assert line["canary_gap"] > 0
    assert [evaluation["step"] for evaluation in directory.read_evaluations()] == [0]
    assert json.loads((directory.path / "summary.json").read_text())["status"] == "failed"
