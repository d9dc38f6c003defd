"""One optimiser step on tiny models: the policy that learns is the policy that sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo_core.advantage import group_advantages
from grpo_core.config import RunConfig, SamplingConfig
from grpo_core.errors import ConfigError, TrainingError
from grpo_core.losses.grpo import grpo_loss
from grpo_core.losses.output import LossOutput
from grpo_core.protocols import SamplingParams
from grpo_core.rollout import with_advantages
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import create_sampler
from grpo_core.training.learner import Learner
from grpo_core.training.metrics import StepTimes, step_metrics
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.policy import find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.recompute import recompute_activations
from grpo_core.training.update import update
from grpo_core.types import Prompt, Rollout, RolloutGroup, Verdict
from grpo_core.validation import build
from tiny_model import tiny_model, tiny_tokenizer

PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": text}], None)
    for n, text in enumerate(["a", "what is 2 + 2?", "tell me more about it"])
]
GPT2_DROPOUT = {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}


def make_learner(model: PreTrainedModel, loss: Any = grpo_loss, **grpo: Any) -> Learner:
    config = build(RunConfig, {"sampling": {"max_new_tokens": 12}, "grpo": grpo})
    layout = find_layout(model)
    masters = MasterWeights(model, torch.float32)
    optimizer = create_optimizer(masters.parameters, config.trainer)
    return Learner(model, masters, optimizer, layout, loss, config)


def with_plain_descent(learner: Learner) -> Learner:
    """Its steps are as large as the gradient; those of AdamW hide all but its sign."""
    trainer = learner.config.trainer.model_copy(update={"learning_rate": 1.0, "warmup_steps": 0})
    config = learner.config.model_copy(update={"trainer": trainer})
    optimizer = torch.optim.SGD(learner.masters.parameters.values())
    return replace(learner, optimizer=optimizer, config=config)


def sampled_groups(model: PreTrainedModel, size: int = 4) -> list[RolloutGroup]:
    """Completions of the model itself, every other one of which is right."""
    engine = create_sampler(SamplerContext(model, tiny_tokenizer(), "", SamplingConfig()))
    groups = engine.sample(PROMPTS, size, SamplingParams(max_new_tokens=12, seed=1))
    verdicts = [Verdict.correct(), Verdict.wrong()]
    judged = [
        RolloutGroup(
            prompt,
            engine.encode(prompt),
            [
                Rollout(c, {"v": verdicts[c.index % 2]}, {}, verdicts[c.index % 2].score)
                for c in group
            ],
        )
        for prompt, group in zip(PROMPTS, groups, strict=True)
    ]
    return with_advantages(judged, group_advantages)


def weights(model: PreTrainedModel) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("family", "changes"), [("gpt2", GPT2_DROPOUT), ("opt", {}), ("phimoe", {})]
)
def test_dropout_and_routing_noise_stay_out_of_training(family: str, changes: dict) -> None:
    """In training mode these three models are other policies, by half a nat a token."""
    model = tiny_model(family, **changes)
    groups = sampled_groups(model)
    result = update(make_learner(model.train()), groups, step=1)
    assert result.metrics["trained_tokens"] > 50
    assert result.metrics["sampler_logprob_gap"] < 1e-5


@pytest.mark.parametrize(
    ("family", "changes"), [("llama", {}), ("gpt2", GPT2_DROPOUT), ("opt", {})]
)
def test_recomputed_activations_give_the_same_step(family: str, changes: dict) -> None:
    plain, sparing = tiny_model(family, **changes), tiny_model(family, **changes)
    groups = sampled_groups(plain)
    update(with_plain_descent(make_learner(plain)), groups, step=1)

    learner = with_plain_descent(make_learner(sparing))
    recompute_activations(sparing)
    layers = [part for part in sparing.modules() if isinstance(part, GradientCheckpointingLayer)]
    calls: list[int] = []
    layers[0].register_forward_hook(lambda *_: calls.append(1))
    inner = next(iter(layers[0].children()))
    inner.register_forward_hook(lambda *_: calls.append(2))
    update(learner, groups, step=1)

    assert calls.count(2) == 2 * calls.count(1)  # what is inside a layer runs once more, backward
    start = weights(tiny_model(family, **changes))
    for before, one, other in zip(start, weights(plain), weights(sparing), strict=True):
        torch.testing.assert_close(one - before, other - before)
    assert any((one != before).any() for before, one in zip(start, weights(plain), strict=True))
    assert sampled_groups(sparing)  # and the sampler still has its cache


def test_a_model_without_marked_layers_cannot_recompute() -> None:
    model = tiny_model()
    model.base_model.layers = torch.nn.ModuleList()
    with pytest.raises(ConfigError, match=r"gradient_checkpointing is not possible with a Llama"):
        recompute_activations(model)


def test_a_step_without_any_valid_completion_changes_nothing_and_reports_no_number() -> None:
    model, failed = tiny_model(), Verdict.error("gone")
    groups = [
        replace(group, rollouts=[Rollout(r.completion, {"v": failed}) for r in group.rollouts])
        for group in sampled_groups(model)
    ]
    before = weights(model)
    result = update(make_learner(model), groups, step=1)
    assert all(map(torch.equal, before, weights(model)))
    assert result.loss == 0 and result.grad_norm == 0
    metrics = step_metrics(1, groups, result, StepTimes(1.0, 0.5, 0.2, 0.3))
    for name in ("reward_mean", "reward_std", "pass_rate", "sampler_logprob_gap", "clipped_share"):
        assert math.isnan(metrics[name]), name
    assert metrics["status_error"] == 12 and metrics["valid_share"] == 0


def test_the_gap_does_not_rest_on_what_a_loss_reports() -> None:
    def bare_loss(*args: Any, **kwargs: Any) -> LossOutput:
        return LossOutput(grpo_loss(*args, **kwargs).loss, {})

    model = tiny_model()
    groups = sampled_groups(model)
    result = update(make_learner(model, bare_loss), groups, step=1)
    assert result.metrics["trained_tokens"] == sum(lengths(groups))
    assert result.metrics["sampler_logprob_gap"] < 1e-5


def lengths(groups: Sequence[RolloutGroup]) -> list[int]:
    return [len(rollout.completion.token_ids) for g in groups for rollout in g.rollouts]


def test_two_groups_of_one_prompt_count_as_two() -> None:
    """They share a row when packed, and nothing else: each has its own baseline."""
    model = tiny_model()
    groups = sampled_groups(model)
    one, other = groups[0], groups[1]
    twin = replace(other, prompt_token_ids=one.prompt_token_ids)
    together = update(make_learner(tiny_model()), [one, twin], step=1)
    apart = [update(make_learner(tiny_model()), [group], step=1) for group in (one, twin)]
    expected = sum(len(g.rollouts) * r.loss for g, r in zip([one, twin], apart, strict=True)) / 8
    assert together.loss == pytest.approx(expected, abs=1e-6)
    assert together.metrics["trained_tokens"] == sum(r.metrics["trained_tokens"] for r in apart)


def test_the_prompts_that_break_a_gradient_are_named() -> None:
    """One token's embedding is infinite; only completions of the middle prompt hold that token."""
    model = tiny_model()
    groups = with_advantages(sampled_groups(model), group_advantages)
    used = {t for group in groups for r in group.rollouts for t in r.completion.token_ids}
    used |= {token for group in groups for token in group.prompt_token_ids}
    strange = next(token for token in range(model.config.vocab_size) if token not in used)

    def poisoned(rollout: Rollout) -> Rollout:
        ids = (strange, *rollout.completion.token_ids[1:])
        return replace(rollout, completion=replace(rollout.completion, token_ids=ids))

    first, middle, last = groups
    middle = replace(middle, rollouts=[poisoned(rollout) for rollout in middle.rollouts])
    untied = tiny_model(tie_word_embeddings=False)
    with torch.no_grad():
        untied.get_input_embeddings().weight[strange] = math.inf
    before = {name: p.clone() for name, p in untied.named_parameters()}
    with pytest.raises(TrainingError, match=r"Prompts at fault: p1\. "):
        update(make_learner(untied), [first, middle, last], step=1)
    assert all(torch.equal(p, before[name]) for name, p in untied.named_parameters())


def test_where_no_prompt_alone_is_at_fault_all_are_named() -> None:
    """Each gradient is finite, but not their sum."""
    model = tiny_model()
    groups = with_advantages(sampled_groups(model), group_advantages)

    def huge(logprobs: Any, old: Any, advantages: Any, weights: Any, **settings: Any) -> LossOutput:
        output = grpo_loss(logprobs, old, advantages, weights, **settings)
        scale = 1.0 if len(logprobs) < 12 else math.inf
        return output._replace(loss=output.loss * scale)

    with pytest.raises(TrainingError, match=r"None of these prompts does it alone: p0, p1, p2\."):
        update(make_learner(model, loss=huge), groups, step=1)
