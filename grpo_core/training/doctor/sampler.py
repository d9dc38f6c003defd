"""Do sampler and trainer compute the same policy, now and after the weights have moved?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grpo_core.assembly import create_sampler
from grpo_core.errors import SamplingError
from grpo_core.protocols import ProbedSampler, Sampler
from grpo_core.training.canary import Canary, create_canary, trainer_logprobs
from grpo_core.training.dealing import pack
from grpo_core.training.doctor.finding import Bench, Check, Finding, ok, problem, skipped
from grpo_core.training.loop import sampling_params
from grpo_core.training.packing import TrainingCompletion
from grpo_core.training.policy import completion_logprobs, trainer_mode
from grpo_core.training.process_samplers import describe_sampling

_PROMPTS, _SAMPLES, _TOKENS = 4, 4, 48
_MOVED = 0.5  # nats on average; so much is missed by no rule of the canary
_FIRST_SHARE, _DOUBLINGS = 0.01, 8  # of a tensor's root mean square


def check_sampling(bench: Bench) -> Iterator[Finding]:
    """Sample, and have the trainer score the same tokens.

    Raises:
        SamplingError, MissingExtraError: if the engine fails.
    """
    config = bench.config
    bench.sampler = create_sampler(config, bench.plugins, bench.loaded)
    params = sampling_params(config, 1)
    limit_tokens = min(params.max_new_tokens, _TOKENS)
    params = replace(params, max_new_tokens=limit_tokens)
    groups = bench.sampler.sample(bench.train[:_PROMPTS], _SAMPLES, params)
    bench.completions = [
        TrainingCompletion(
            list(bench.sampler.encode(prompt)),
            list(completion.token_ids),
            0.0,
            list(completion.sampler_logprobs),
        )
        for prompt, group in zip(bench.train, groups, strict=False)
        for completion in group
        if completion.token_ids
    ]
    ended = sum(not completion.is_truncated for group in groups for completion in group)
    total = sum(len(group) for group in groups)
    if not bench.completions:
        raise SamplingError(f"all {total} completions are empty: the model ends at once.")
    engine = describe_sampling(config, bench.loaded.model)
    found = (
        f"{engine}; {total} completions, {ended} ended by themselves within {limit_tokens} tokens"
    )
    yield ok("sampling", found, completions=total, ended=ended)
    yield _compare(bench)


def _compare(bench: Bench) -> Finding:
    """The sampler's log-probabilities of its own tokens, against the trainer's."""
    gaps = _gaps(bench)
    limit = create_canary(bench.learner, _sampler(bench), bench.train).limit
    mean, most = gaps.mean().item(), gaps.max().item()
    found = f"{len(gaps)} sampled tokens differ by {mean:.3g} nats on average, {most:.3g} at most; "
    found += f"on average {limit:.3g} are allowed"
    numbers = {"mean": mean, "max": most, "limit": limit}
    if mean <= limit:
        return ok("sampler gap", found, **numbers)
    return problem(
        "sampler gap",
        found,
        "The sampler draws from another policy than the one that is trained. Set sampling.engine = "
        "'hf', which samples from the trainer's own weights; trainer.dtype = 'float32' tells "
        "whether it is rounding.",
        **numbers,
    )


@torch.no_grad()
def _gaps(bench: Bench) -> Tensor:
    """[N] float64, |sampler - trainer| of each sampled token."""
    learner, found = bench.learner, []
    most = bench.config.trainer.micro_batch_tokens
    with trainer_mode(learner.model, learner.layout):
        for item in pack(bench.completions, most, share_prompts=learner.layout.share_prompts):
            batch = item.to(learner.model.device)
            logprobs = completion_logprobs(
                learner.model, batch, learner.layout, learner.distribution
            )
            gap = (logprobs - batch.sampler_logprobs)[batch.completion_mask]
            found.append(gap.double().abs().cpu())
    return torch.cat(found)


def check_hand_over(bench: Bench) -> Iterator[Finding]:
    """Move the trainer's weights a little, hand them over, and let the canary look."""
    name, sampler = "hand-over of weights", _sampler(bench)
    if not isinstance(sampler, ProbedSampler):
        yield skipped(
            name,
            f"engine '{bench.config.sampling.engine}' samples from the trainer's own weights, or "
            "does not let itself be probed (grpo_core.protocols.ProbedSampler)",
        )
        return
    canary = create_canary(bench.learner, sampler, bench.train)
    start = canary.check()
    if start.failure is not None:
        yield problem(name, f"before any step: {start.failure}", "")
        return
    parameters = bench.learner.masters.parameters.values()
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        moved = _perturb(bench, canary.probe, kept)
        handed = canary.hand_over()
    finally:
        _restore(bench, kept)
        back = canary.hand_over()
    yield _judge_hand_over(name, canary, moved, handed.failure or back.failure, handed.metrics)


def _judge_hand_over(
    name: str,
    canary: Canary,
    moved: float,
    failure: SamplingError | None,
    metrics: dict[str, float],
) -> Finding:
    if failure is not None:
        return problem(name, str(failure), "", moved=moved, **metrics)
    found = f"weights moved so that the probe moved by {moved:.2g} nats: the sampler followed, the "
    found += f"gap is {metrics['canary_gap']:.3g} nats, {canary.limit:.3g} are allowed"
    return ok(name, f"{found}; then back again", moved=moved, **metrics)


@torch.no_grad()
def _perturb(bench: Bench, probe: Sequence[Sequence[int]], kept: Sequence[Tensor]) -> float:
    """Move every trained weight up or down, until the probe has moved far enough; by how much."""
    learner = bench.learner
    before = trainer_logprobs(learner, probe)
    share, moved = _FIRST_SHARE, 0.0
    for _ in range(_DOUBLINGS):
        generator = torch.Generator().manual_seed(0)
        for parameter, start in zip(learner.masters.parameters.values(), kept, strict=True):
            signs = torch.randint(2, start.shape, generator=generator) * 2 - 1
            size = start.square().mean().sqrt()
            size = torch.where(size > 0, size, 1.0)  # adapters start with zeros
            parameter.copy_(start + share * size * signs.to(start.device))
        learner.masters.publish()
        moved = (trainer_logprobs(learner, probe) - before).abs().mean().item()
        if moved >= _MOVED:
            break
        share *= 2
    return moved


@torch.no_grad()
def _restore(bench: Bench, kept: Sequence[Tensor]) -> None:
    for parameter, start in zip(bench.learner.masters.parameters.values(), kept, strict=True):
        parameter.copy_(start)
    bench.learner.masters.publish()


def _sampler(bench: Bench) -> Sampler:
    assert bench.sampler is not None
    return bench.sampler


CHECKS = (
    Check("sampling", check_sampling, needs=("settings", "task", "model"), is_slow=True),
    Check("hand-over of weights", check_hand_over, needs=("sampling",), is_slow=True),
)
