"""Is it the precision? Gradients of one batch in three precisions, beside those of another batch.

Along a run of our side, after given steps, two batches of fresh prompts are sampled. The gradient
of the first is computed by the trainer in bfloat16, and in the plain padded way in float32 and as
TRL computes it, with float32 weights under bfloat16 autocast. How far the second batch's gradient
is from the first's says how much noise there is in a gradient anyway: rounding that adds little to
it cannot be seen in what is learned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from learning_recipe import recipe
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo_core.assembly import create_estimator, create_task, load_policy, load_prompts, open_judge
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.rollout import collect, with_advantages
from grpo_core.sampling.base import derive_seed
from grpo_core.training.learner import Learner
from grpo_core.training.learner_setup import load_together
from grpo_core.training.loop import grpo_steps, sampling_params
from grpo_core.training.process_samplers import create_run_sampler
from grpo_core.training.selection import create_prompt_source
from grpo_core.training.update import update
from grpo_core.training.world import World
from grpo_core.types import RolloutGroup

ROWS = 16  # completions computed side by side in the plain way

Gradient = dict[str, Tensor]


class Measure(NamedTuple):
    """One policy's gradients compared.

    Attributes:
        step: after which the policy was taken.
        completions: that have an advantage, of those of the first batch.
        agreement: cosine of the gradients of two independent batches, in float32.
        ours, autocast: what each precision makes of the first batch.
    """

    step: int
    completions: int
    agreement: float
    ours: Error
    autocast: Error


class Error(NamedTuple):
    """A gradient beside the exact one.

    Attributes:
        relative: length of the difference over that of the exact one.
        along: the part of it that lies along the exact one, as a share; 1 is unbiased.
        added_variance: squared length of the difference over the variance between batches.
    """

    relative: float
    along: float
    added_variance: float


class _Catch(torch.optim.Optimizer):
    """Keeps the gradient of a step, and takes none."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__(list(parameters.values()), {"lr": 0.0})
        self._parameters = parameters
        self.caught: Gradient = {}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.caught = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
            for name, p in self._parameters.items()
        }


def measure(seed: int, after: Sequence[int], plugins: Plugins) -> Iterator[Measure]:
    """Train our side, and compare gradients after the given steps."""
    config = recipe(seed, max(1, *after), ["trainer.dtype=bfloat16"])
    task, sources = create_task(config, plugins), PluginSources()
    prompts = load_prompts(task, "train")
    with open_judge(config, plugins, sources, task) as judge:
        plugins, loaded, learner = load_together(config, lambda: plugins, sources, None, World())
        estimate = create_estimator(config, plugins, judge, loaded.tokenizer)
        plain = load_policy(config).model  # float32
        plain.set_attn_implementation("eager")
        with closing(create_run_sampler(config, plugins, loaded, learner)) as sampler:

            def batch(step: int, which: int) -> list[RolloutGroup]:
                size = config.grpo.prompts_per_step
                other = create_prompt_source(
                    config.model_copy(update={"seed": derive_seed(seed, "batch", step, which)}),
                    prompts,
                    {},
                )
                chosen = [prompts[index] for index in other.draw(size)]
                params = replace(
                    sampling_params(config, step),
                    seed=derive_seed(seed, "batch completions", step, which),
                )
                found = collect(chosen, sampler, judge, config.grpo.group_size, params)
                return with_advantages(found.groups, estimate)

            def compare(step: int) -> Measure:
                first, second = batch(step, 1), batch(step, 2)
                _copy(learner.masters.parameters, plain)
                return _compare(step, learner, plain, first, second)

            if 0 in after:
                yield compare(0)
            source = create_prompt_source(config, prompts, {})
            for step in grpo_steps(learner, sampler, judge, prompts, source, estimate, 1):
                if step.number in after:
                    yield compare(step.number)


def _compare(
    step: int,
    learner: Learner,
    plain: PreTrainedModel,
    first: Sequence[RolloutGroup],
    second: Sequence[RolloutGroup],
) -> Measure:
    exact, other = plain_gradient(plain, first), plain_gradient(plain, second)
    variance = _squared(_minus(exact, other)) / 2
    signal = [r for group in first for r in group.rollouts if r.has_signal]
    return Measure(
        step,
        len(signal),
        _dot(exact, other) / (_squared(exact) * _squared(other)) ** 0.5,
        _error(trainer_gradient(learner, first), exact, variance),
        _error(plain_gradient(plain, first, autocast=True), exact, variance),
    )


def trainer_gradient(learner: Learner, groups: Sequence[RolloutGroup]) -> Gradient:
    """The gradient our trainer would take a step along, before clipping."""
    catch = _Catch(learner.masters.parameters)
    settings = learner.config.trainer.model_copy(update={"max_grad_norm": 1e9})
    config = learner.config.model_copy(update={"trainer": settings})
    update(replace(learner, optimizer=catch, config=config), groups, 1)
    return catch.caught


def plain_gradient(
    model: PreTrainedModel, groups: Sequence[RolloutGroup], *, autocast: bool = False
) -> Gradient:
    """The same, of the token-mean loss at the policy that sampled, in the plain padded way.

    There the ratio is 1, and the loss's gradient that of -sum(A log p) / tokens.
    """
    valid = [(g, r) for g in groups for r in g.rollouts if r.is_valid]
    tokens = sum(len(rollout.completion.token_ids) for _, rollout in valid)
    rows = [
        (list(group.prompt_token_ids), list(rollout.completion.token_ids), rollout.advantage)
        for group, rollout in valid
        if rollout.has_signal
    ]
    model.zero_grad(set_to_none=True)
    model.train()
    for start in range(0, len(rows), ROWS):
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            objective = _plain_objective(model, rows[start : start + ROWS])
        torch.autograd.backward(-objective / tokens)
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        for name, p in model.named_parameters()
    }
    model.zero_grad(set_to_none=True)
    return found


def _plain_objective(
    model: PreTrainedModel, rows: Sequence[tuple[list[int], list[int], float]]
) -> Tensor:
    """Sum of A log p over the completions' tokens."""
    width = max(len(prompt) + len(completion) for prompt, completion, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    weights = torch.zeros(len(rows), width)
    for at, (prompt, completion, advantage) in enumerate(rows):
        length = len(prompt) + len(completion)
        ids[at, :length] = torch.tensor(prompt + completion)
        mask[at, :length] = 1
        weights[at, len(prompt) : length] = advantage
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    scores = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return (scores * weights[:, 1:]).sum()


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def _error(found: Gradient, exact: Gradient, variance: float) -> Error:
    difference = _squared(_minus(found, exact))
    length = _squared(exact)
    return Error((difference / length) ** 0.5, _dot(found, exact) / length, difference / variance)


def _minus(one: Gradient, other: Gradient) -> Gradient:
    return {name: one[name] - other[name] for name in one}


def _dot(one: Gradient, other: Gradient) -> float:
    return sum(float((one[name].double() * other[name].double()).sum()) for name in one)


def _squared(gradient: Gradient) -> float:
    return _dot(gradient, gradient)


def table(measures: Iterator[Measure]) -> Iterator[str]:
    """The measures, line by line."""
    yield (
        "| after step | completions with an advantage | cosine of two batches "
        "| ours, bfloat16: relative error | along the exact one | added variance "
        "| TRL's autocast: relative error | along the exact one | added variance |"
    )
    yield "|---" * 9 + "|"
    for row in measures:
        errors = (f"{value:.4f}" for error in (row.ours, row.autocast) for value in error)
        cells = (row.step, row.completions, f"{row.agreement:.3f}", *errors)
        yield "| " + " | ".join(map(str, cells)) + " |"
