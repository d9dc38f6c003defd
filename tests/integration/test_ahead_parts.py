"""What selection.ahead is made of: the batches, and the sampler that stands still."""

from __future__ import annotations

import threading
from itertools import chain
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from adapted_models import adapted
from grpo_core.config import RunConfig, SamplingConfig
from grpo_core.errors import ConfigError
from grpo_core.losses.grpo import grpo_loss
from grpo_core.protocols import SamplingParams
from grpo_core.rollout import Collection, OnProgress
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import create_sampler
from grpo_core.training import ahead_sampler
from grpo_core.training.ahead import Batches
from grpo_core.training.ahead_sampler import AheadSampler, standing_copy
from grpo_core.training.canary import create_canary
from grpo_core.training.interruption import StopRequested
from grpo_core.training.learner import Learner
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.policy import find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.process_samplers import check_processes
from grpo_core.training.prompt_order import EpochOrder
from grpo_core.training.recompute import recompute_activations
from grpo_core.training.world import World
from grpo_core.types import Prompt
from grpo_core.validation import build
from tiny_model import tiny_model, tiny_tokenizer

PROMPTS = [Prompt(f"p{n}", [{"role": "user", "content": "tell me" * n}], None) for n in (1, 2, 3)]
AHEAD = {"selection": {"ahead": 1}, "sampling": {"mismatch": "token_truncate"}}


# ---- batches ------------------------------------------------------------------------------------


def batches(make: Any, source: EpochOrder, on_progress: OnProgress | None = None) -> Batches:
    return Batches(make, source, build(RunConfig, AHEAD), on_progress, None)


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
def test_a_batch_beside_a_failed_update_is_called_off(failure: type[BaseException]) -> None:
    """Its making would go on for ever."""
    ended = []

    def make(step: int, on_progress: OnProgress | None) -> Collection:
        assert on_progress is not None
        try:
            while True:
                on_progress(1, 2)
        finally:
            ended.append(step)

    with pytest.raises(failure), batches(make, EpochOrder(9, 0)) as under_way:
        under_way.begin(2)
        raise failure
    assert ended == [2]
    assert not [t for t in threading.enumerate() if t.name.startswith("grpo-ahead")]


def test_a_failed_batch_leaves_the_source_where_it_was() -> None:
    source = EpochOrder(9, 0)

    def make(step: int, on_progress: OnProgress | None) -> Collection:
        source.draw(4)
        if step == 3:
            raise ZeroDivisionError
        return Collection([], 1.0, 0.5)

    with batches(make, source) as under_way:
        assert under_way.take(1).metrics["staleness"] == 0
        under_way.begin(2)
        assert under_way.finish() is None
        assert (under_way.kept, under_way.selection) == ([], {"position": 8})
        assert under_way.take(2).metrics["staleness"] == 1
        under_way.begin(3)
        assert isinstance(under_way.finish(), ZeroDivisionError)
        assert (under_way.kept, under_way.selection) == (None, {"position": 8})


def test_a_wish_to_stop_waits_for_the_batch() -> None:
    asked = []

    def stop(done: int, total: int) -> None:
        asked.append(done)
        raise StopRequested

    def make(step: int, on_progress: OnProgress | None) -> Collection:
        assert on_progress is not None
        on_progress(step, 9)
        return Collection([], 1.0, 0.5)

    with batches(make, EpochOrder(9, 0), stop) as under_way:
        under_way.begin(2)
        assert under_way.finish() is None
        with pytest.raises(StopRequested):
            Batches.take(batches(make, EpochOrder(9, 0), stop), 1)
    assert asked == [2, 1]


def test_what_cannot_be_done_is_refused() -> None:
    config = build(RunConfig, AHEAD)
    check_processes(config, World())
    with pytest.raises(ConfigError, match=r"selection\.ahead is 1, but there are 2 processes"):
        check_processes(config, World(0, 2))


# ---- the sampler --------------------------------------------------------------------------------


def make_sampler(
    model: PreTrainedModel, dtype: torch.dtype = torch.float32
) -> tuple[Learner, AheadSampler]:
    config = build(RunConfig, {**AHEAD, "sampling": {**AHEAD["sampling"], "max_new_tokens": 8}})
    layout = find_layout(model)
    masters = MasterWeights(model, dtype)
    optimizer = create_optimizer(masters.parameters, config.trainer)
    learner = Learner(model, masters, optimizer, layout, grpo_loss, config)
    standing = standing_copy(model)
    context = SamplerContext(standing, tiny_tokenizer(), "", SamplingConfig())
    return learner, AheadSampler(create_sampler(context), standing, learner)


def draws(sampler: Any) -> list[Any]:
    groups = sampler.sample(PROMPTS, 4, SamplingParams(max_new_tokens=8, seed=1))
    return [[(c.token_ids, c.sampler_logprobs) for c in group] for group in groups]


@torch.no_grad()
def train_a_little(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.02 * noise.to(parameter.dtype)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", [False, True])
def test_it_samples_from_the_weights_of_the_last_hand_over(
    family: str, dtype: torch.dtype, recompute: bool
) -> None:
    model = tiny_model(family)
    if recompute:
        recompute_activations(model)
    _, sampler = make_sampler(model, dtype)
    before = draws(sampler)
    train_a_little(model)
    assert draws(sampler) == before
    sampler.update_weights()
    after = draws(sampler)
    own = draws(create_sampler(SamplerContext(model, tiny_tokenizer(), "", SamplingConfig())))
    assert before != after
    for (tokens, logprobs), (own_tokens, own_logprobs) in zip(
        chain(*after), chain(*own), strict=True
    ):
        assert tokens == own_tokens
        assert logprobs == pytest.approx(own_logprobs, abs=1e-5)  # copies may round differently


def test_frozen_weights_are_shared() -> None:
    model = adapted()
    _, sampler = make_sampler(model)
    before = draws(sampler)
    copies = dict(sampler._standing.named_parameters())
    for name, weight in model.named_parameters():
        assert (copies[name].data_ptr() == weight.data_ptr()) == (not weight.requires_grad), name
    train_a_little(model)
    assert draws(sampler) == before
    sampler.update_weights()
    assert draws(sampler) != before


def test_the_canary_sees_a_copy_that_is_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    learner, sampler = make_sampler(model)
    canary = create_canary(learner, sampler, PROMPTS)
    assert canary.check().metrics["canary_gap"] == 0
    train_a_little(model)
    assert canary.hand_over().failure is None

    monkeypatch.setattr(ahead_sampler, "refresh", lambda *_: None)
    train_a_little(model)
    handed = canary.hand_over()
    assert handed.failure is not None and "stale" in str(handed.failure)
