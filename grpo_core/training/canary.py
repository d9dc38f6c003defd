"""After every hand-over of weights, compare sampler and trainer on a fixed probe.

A sampler with weights of its own can go stale, wholly or in part, without any sign of it: losses
stay finite, rewards stay plausible, and nothing is learnt. So both score the same tokens, and two
things must hold.

    gap      mean |sampler - trainer| is below a limit
    arrived  <sampler moved, trainer moved> / <trainer moved, trainer moved> is at least a half

The gap finds wrong weights, but the movement of one step is far below its noise. The second rule
looks at movements, since the last hand-over and since the first. Right ones agree up to rounding,
and a sampler that answers to the last bit as before, while the trainer does not, got nothing.
Where rounding is as large as the movement, as in bfloat16 early on, the rule has no more to say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grpo_core.errors import SamplingError
from grpo_core.protocols import ProbedSampler, Sampler
from grpo_core.sampling.agreement import describe_gap, gap_limit, probe_sequences
from grpo_core.training.learner import Learner
from grpo_core.training.probe import sequence_logprobs
from grpo_core.training.process_samplers import whole_policy
from grpo_core.types import Prompt

_LEAST_ARRIVED = 0.5
_LEAST_MOVED = 1e-3  # nats; less may vanish in the rounding of one and not of the other
_LEAST_SIGNAL = 4.0  # movement over noise at which rounding takes 6 % off the share, not a half


@dataclass(frozen=True, slots=True)
class Reading:
    """Log-probabilities of the probe's tokens by both sides, [N] float64."""

    trainer: Tensor
    sampler: Tensor


@dataclass(frozen=True, slots=True)
class HandOver:
    """What came of passing the weights on: numbers for metrics.jsonl, and what went wrong."""

    metrics: dict[str, float]
    failure: SamplingError | None = None


@dataclass(slots=True)
class Canary:
    """The probe, and the readings later ones are compared with.

    Without a probe, for a sampler that has no weights of its own, it never objects. Nothing of it
    is needed to resume: a new one starts from where the run goes on.
    """

    learner: Learner
    sampler: Sampler
    probe: Sequence[Sequence[int]]
    limit: float
    _past: tuple[Reading, ...] = field(default=(), init=False)

    def hand_over(self) -> HandOver:
        """Pass the trainer's weights to the sampler, and look whether they arrived."""
        started = time.perf_counter()
        try:
            self.sampler.update_weights()
            seconds = {"seconds_hand_over": time.perf_counter() - started}
            handed = self.check()
        except SamplingError as error:
            return HandOver({}, error)
        return HandOver(handed.metrics | seconds, handed.failure)

    def check(self) -> HandOver:
        """Compare both sides as they are."""
        if not self.probe:
            return HandOver({})
        now = self._read()
        gap = (now.sampler - now.trainer).abs().mean().item()
        failure = self._find_failure(now, gap)
        self._past = (self._past[0] if self._past else now, now)
        return HandOver({"canary_gap": gap}, failure)

    def _find_failure(self, now: Reading, gap: float) -> SamplingError | None:
        if not gap <= self.limit:  # NaN is not, either
            found = describe_gap(now.trainer, now.sampler, self.limit)
            return SamplingError(f"after a hand-over of weights, {found}")
        for past, since in zip(self._past, ("the first hand-over", "the last one"), strict=False):
            first = self._past[0]
            arrived = arrived_share(past, now, _rms(first.sampler - first.trainer))
            if arrived is not None and arrived < _LEAST_ARRIVED:
                return SamplingError(self._describe_stale(past, now, arrived, since))
        return None

    def _read(self) -> Reading:
        assert isinstance(self.sampler, ProbedSampler)
        sampler = self.sampler.probe_logprobs(self.probe)
        return Reading(
            trainer_logprobs(self.learner, self.probe),
            torch.tensor([value for row in sampler for value in row], dtype=torch.float64),
        )

    def _describe_stale(self, past: Reading, now: Reading, arrived: float, since: str) -> str:
        moved = (now.trainer - past.trainer).abs().mean().item()
        followed = (now.sampler - past.sampler).abs().mean().item()
        return (
            f"the sampler is stale: since {since} the trainer's log-probabilities on a fixed "
            f"probe of {len(now.trainer)} tokens moved by {moved:.3g} nats on average, the "
            f"sampler's by {followed:.3g}; {max(arrived, 0):.0%} of the movement arrived, and at "
            f"least {_LEAST_ARRIVED:.0%} must. Some or all weights are not handed over. Set "
            "sampling.engine = 'hf', which samples from the trainer's own weights, in a new run "
            "with model.path set to the last checkpoint."
        )


def create_canary(learner: Learner, sampler: Sampler, prompts: Sequence[Prompt]) -> Canary:
    """A canary that probes with the ends of the first prompts, whatever the run's seed."""
    probe = probe_sequences(sampler, prompts)
    with whole_policy(learner) as model:  # otherwise it may be seen in the masters' precision
        limit = gap_limit(model.dtype, learner.config.sampling)
    return Canary(learner, sampler, probe, limit)


def trainer_logprobs(learner: Learner, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Log-probability of every token but each first, by the trainer's own code, [N] float64."""
    most = learner.config.trainer.micro_batch_tokens
    with whole_policy(learner) as model:
        return torch.cat(sequence_logprobs(model, learner.layout, sequences, most))


def arrived_share(past: Reading, now: Reading, noise: float) -> float | None:
    """How much of the trainer's movement from `past` to `now` the sampler made, 1 being all of it.

    Args:
        past: a reading of the probe.
        now: a later one.
        noise: root mean square, in nats, of what rounding alone makes of the difference between
            the two sides.

    Returns:
        the regression coefficient of one movement on the other, or None where the movement is too
        small to tell.
    """
    trainer, sampler = now.trainer - past.trainer, now.sampler - past.sampler
    if not trainer.abs().mean() >= _LEAST_MOVED:
        return None
    if not sampler.any():
        return 0.0  # not even noise: it computed with the weights of before
    if _rms(trainer) < _LEAST_SIGNAL * noise:
        return None
    return (torch.dot(sampler, trainer) / torch.dot(trainer, trainer)).item()


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()
