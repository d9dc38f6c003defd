"""The rules of `grpo_core.training.health`: when a run's numbers give cause for an alarm.

A rule gets the lines of metrics.jsonl up to a step and returns a finding while its condition holds
there, else None. It compares a run with its own past where it can, since what is normal differs
between models and tasks, and asks for several steps in a row where one odd step means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from grpo_core.types import Json

Line = Mapping[str, Json]

_NORM_WINDOW = 50  # earlier steps the gradient norm is compared with
_NORM_HISTORY = 8  # fewer tell nothing: norms rise by a factor of 5 over the first steps
_NORM_FACTOR = 10.0  # over the median; healthy runs stay below 4 (SmolLM2, arithmetic, 5 runs)
_NORM_SPREADS = 6.0  # for runs whose norms scatter widely by nature: robust deviations of the log
_DEVIATION = 1.4826  # of a normal distribution, over its median absolute deviation

_START = 5  # first steps, whose median is how the run began
_PERSISTENT = 5  # steps in a row

_ENTROPY_SHARE = 0.1  # of the entropy at the start
_SUCCESS = 0.5  # pass rate from which on low entropy and cut answers are no trouble

_NO_SIGNAL_STEPS = 10

_GAP_FACTOR, _GAP_LEAST = 3.0, 0.1  # nats a token; rounding alone makes 0.05 in bfloat16

_KL_WINDOW, _KL_HISTORY = 30, 10
_KL_FACTOR, _KL_LEAST, _KL_STEPS = 10.0, 1.0, 3  # nats a token; a step alone may be one odd token

_TRUNCATED, _TRUNCATED_MORE, _TRUNCATED_LITTLE = 0.95, 0.5, 0.25
_TRUNCATED_STEPS = 10  # a policy may learn within five to come to an end

_CLIPPED = 0.5

_PASS_WINDOW, _PASS_LEAST, _PASS_DROP = 10, 0.2, 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured, the bound it crossed, and what to tell people."""

    value: float
    threshold: float
    message: str


Rule = Callable[[Sequence[Line]], Finding | None]


def _gradient_explosion(history: Sequence[Line]) -> Finding | None:
    """The norm is far above the running median of the steps before, on a scale of its own.

    Steps without any gradient are left out of the median, and a step whose groups have a signal is
    compared with such steps only: what the KL alone makes is a hundredth of it. The bound is a
    factor of the median and of the scatter around it, both of logarithms, so no unit of the norm
    enters.
    """
    norm = _last(history, "grad_norm")
    kind = _has_signal(history[-1])
    earlier = [
        value
        for line in history[-_NORM_WINDOW - 1 : -1]
        if (value := number(line.get("grad_norm"))) and value > 0 and _has_signal(line) == kind
    ]
    if norm is None or len(earlier) < _NORM_HISTORY:
        return None
    usual = median(earlier)
    spread = _DEVIATION * median(abs(math.log(value / usual)) for value in earlier)
    threshold = usual * max(_NORM_FACTOR, math.exp(min(_NORM_SPREADS * spread, 100.0)))
    if norm <= threshold:
        return None
    return Finding(
        norm,
        threshold,
        f"the gradient norm is {norm:.3g}, {norm / usual:.0f} times its usual {usual:.3g}. Look at "
        "this step's completions and advantages. If it goes on, lower trainer.learning_rate or "
        "trainer.max_grad_norm, and go back to an earlier checkpoint.",
    )


def _has_signal(line: Line) -> bool:
    share = number(line.get("zero_signal_share"))
    return share is None or share < 1


def _entropy_collapse(history: Sequence[Line]) -> Finding | None:
    """The policy became sure of itself without becoming right.

    Entropy falls in a healthy run, too, once the answer is known, and on short answers to almost
    nothing. So it must have stayed below a tenth of the start's for several steps, while less
    than half of the completions are right, and no more than in as many steps before.
    """
    start = [v for v in _values(history[:_START], "entropy") if v is not None]
    recent = _recent(history[_START:], "entropy", _PERSISTENT)
    passed = _mean(history, "pass_rate", _PERSISTENT)
    before = _mean(history[:-_PERSISTENT], "pass_rate", _PERSISTENT)
    if len(start) < _START or median(start) <= 0 or passed is None or before is None:
        return None
    threshold = _ENTROPY_SHARE * median(start)
    if not _persists(recent, lambda value: value < threshold):
        return None
    if passed >= _SUCCESS or passed > before:
        return None
    entropy = _mean(history, "entropy", _PERSISTENT) or 0.0
    return Finding(
        entropy,
        threshold,
        f"entropy fell to {entropy:.3g} nats a token, {entropy / median(start):.1%} of what it was "
        f"at the start, while only {passed:.0%} of the completions are right and no more than "
        "before: the policy stopped exploring too early. Go back to an earlier checkpoint with a "
        "smaller trainer.learning_rate, a positive grpo.entropy_bonus or grpo.beta, or a larger "
        "grpo.epsilon_high.",
    )


def _no_signal(history: Sequence[Line]) -> Finding | None:
    """No group has taught anything for many steps in a row."""
    recent = _recent(history, "zero_signal_share", _NO_SIGNAL_STEPS)
    if not _persists(recent, lambda value: value >= 1, _NO_SIGNAL_STEPS):
        return None
    passed = _mean(history, "pass_rate", _NO_SIGNAL_STEPS)
    if passed is None:
        cause = "nothing could be judged. Look at the verdicts"
    elif passed >= _SUCCESS:
        cause = f"{passed:.0%} of the completions are right. The prompts are solved: end the run, "
        cause += "or give harder ones"
    else:
        cause = f"{passed:.0%} of the completions are right. The prompts are too hard, or their "
        cause += "answers are not understood: try easier ones, a larger grpo.group_size, a reward "
        cause += "with more than two values, and 'grpo doctor'"
    return Finding(
        1.0,
        1.0,
        f"all completions of each group had equal rewards for {_NO_SIGNAL_STEPS} steps, so nothing "
        f"was learnt; {cause}.",
    )


def _sampler_gap(history: Sequence[Line]) -> Finding | None:
    """Sampler and trainer drift apart: the gap is a multiple of what it was at the start."""
    start = [v for v in _values(history, "sampler_logprob_gap")[: 2 * _START] if v is not None]
    if len(start) < _START:
        return None
    threshold = max(_GAP_FACTOR * median(start[:_START]), _GAP_LEAST)
    recent = _recent(history[_START:], "sampler_logprob_gap", _PERSISTENT)
    if not _persists(recent, lambda value: value > threshold):
        return None
    gap = _mean(history, "sampler_logprob_gap", _PERSISTENT) or 0.0
    return Finding(
        gap,
        threshold,
        f"sampler and trainer differ by {gap:.3g} nats a token, at the start it was "
        f"{median(start[:_START]):.3g}: the completions are less and less the policy's own. Try "
        "'grpo doctor', sampling.engine = 'hf', or sampling.mismatch.",
    )


def _kl_blow_up(history: Sequence[Line]) -> Finding | None:
    """The KL to the reference is far above its running median, for some steps in a row."""
    earlier = _recent(history[:-_KL_STEPS], "kl", _KL_WINDOW)
    known = [value for value in earlier if value is not None]
    if len(known) < _KL_HISTORY:
        return None
    threshold = max(_KL_FACTOR * median(known), _KL_LEAST)
    recent = _recent(history, "kl", _KL_STEPS)
    if not _persists(recent, lambda value: value > threshold, _KL_STEPS):
        return None
    kl = _mean(history, "kl", _KL_STEPS) or 0.0
    return Finding(
        kl,
        threshold,
        f"the KL to the reference is {kl:.3g} nats a token, usual was {median(known):.3g}: the "
        "policy left the model it started from. Look at its completions. Lower "
        "trainer.learning_rate or raise grpo.beta, and go back to an earlier checkpoint.",
    )


def _truncation(history: Sequence[Line]) -> Finding | None:
    """Nearly all completions are cut off; or most of them, in a run where few were at first.

    Where half of them are right in spite of it, the answers come early and nothing is lost.
    """
    start = [v for v in _values(history[:_START], "truncated_share") if v is not None]
    passed = _mean(history, "pass_rate", _PERSISTENT)
    if not start or (passed is not None and passed >= _SUCCESS):
        return None
    threshold = _TRUNCATED_MORE if median(start) <= _TRUNCATED_LITTLE else _TRUNCATED
    recent = _recent(history, "truncated_share", _TRUNCATED_STEPS)
    if not _persists(recent, lambda value: value >= threshold, _TRUNCATED_STEPS):
        return None
    share = _mean(history, "truncated_share", _TRUNCATED_STEPS) or 0.0
    return Finding(
        share,
        threshold,
        f"{share:.0%} of the completions were cut off at the token limit for {_TRUNCATED_STEPS} "
        f"steps, {median(start):.0%} at the start: answers are lost. Raise "
        "sampling.max_new_tokens, or add a length shaper; if completions never end, see "
        "'grpo doctor' on end-of-sequence tokens.",
    )


def _clipping(history: Sequence[Line]) -> Finding | None:
    """Most tokens are clipped: the policy has run away from the one that sampled."""
    recent = _recent(history, "clipped_share", _PERSISTENT)
    if not _persists(recent, lambda value: value > _CLIPPED):
        return None
    share = _mean(history, "clipped_share", _PERSISTENT) or 0.0
    return Finding(
        share,
        _CLIPPED,
        f"{share:.0%} of the trained tokens are clipped and teach nothing. Lower "
        "grpo.num_iterations or trainer.learning_rate, or widen grpo.epsilon_low and epsilon_high.",
    )


def _pass_rate_collapse(history: Sequence[Line]) -> Finding | None:
    """The pass rate, averaged over some steps, fell to a third of the best it was."""
    rates = _values(history, "pass_rate")
    windows = [
        fmean(known)
        for end in range(_PASS_WINDOW, len(rates) + 1)
        if (known := [v for v in rates[end - _PASS_WINDOW : end] if v is not None])
    ]
    now = _mean(history, "pass_rate", _PASS_WINDOW)
    if len(windows) < 2 or now is None or max(windows) < _PASS_LEAST:
        return None
    threshold = max(windows) / _PASS_DROP
    if now >= threshold:
        return None
    return Finding(
        now,
        threshold,
        f"the pass rate of the last {_PASS_WINDOW} steps is {now:.1%}, it had been "
        f"{max(windows):.1%}: the policy broke. Start a new run whose model.path is the best "
        "checkpoint (summary.json names its step), with a smaller trainer.learning_rate.",
    )


RULES: Mapping[str, Rule] = {
    "gradient_explosion": _gradient_explosion,
    "entropy_collapse": _entropy_collapse,
    "no_signal": _no_signal,
    "sampler_gap": _sampler_gap,
    "kl_blow_up": _kl_blow_up,
    "truncation": _truncation,
    "clipping": _clipping,
    "pass_rate_collapse": _pass_rate_collapse,
}


def number(value: Json) -> float | None:
    """The value as a float; None where it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _values(history: Sequence[Line], key: str) -> list[float | None]:
    return [number(line.get(key)) for line in history]


def _last(history: Sequence[Line], key: str) -> float | None:
    return number(history[-1].get(key)) if history else None


def _recent(history: Sequence[Line], key: str, steps: int) -> list[float | None]:
    return _values(history[-steps:], key)


def _mean(history: Sequence[Line], key: str, steps: int) -> float | None:
    known = [value for value in _recent(history, key, steps) if value is not None]
    return fmean(known) if known else None


def _persists(
    values: Sequence[float | None], holds: Callable[[float], bool], steps: int = _PERSISTENT
) -> bool:
    """Whether all of the last `steps` values are known and fulfil a condition."""
    return len(values) >= steps and all(v is not None and holds(v) for v in values)
