"""The gradient must not depend on how completions are laid out: tried on the user's own model.

One batch of sampled completions, with random advantages, is computed in one micro-batch, in many
small ones, and with each completion in a row of its own; where there is memory, also in float32.
Differences are of whole gradients, |a - b| / |b|.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grpo_core.models.load import cast_model
from grpo_core.training.dealing import pack
from grpo_core.training.doctor.finding import (
    Bench,
    Check,
    Finding,
    ok,
    problem,
    skipped,
    warning,
)
from grpo_core.training.doctor.model import flat_gradient, gradient_reach
from grpo_core.training.doctor.weights import free_memory
from grpo_core.training.learner import Learner
from grpo_core.training.objective import (
    BatchCounts,
    Known,
    micro_batch_loss,
    reference_logprobs,
)
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.packing import TrainingCompletion
from grpo_core.training.policy import trainer_mode
from grpo_core.training.precision import MasterWeights

# Measured with SmolLM2 and tiny models of 9 families: 2e-7 to 5e-6 in float32, 0.002 to 0.07 in
# bfloat16, whose whole gradient is 0.006 to 0.07 off. A window that counts places in a shared row
# made 0.4 to 0.5 in both.
_FLOAT32_LIMIT = 1e-3
_BFLOAT16_LIMIT = 0.1
_ROUNDING = 2.0  # layouts may differ by this multiple of the error of rounding itself
_SMALL, _LARGE = 1, 1 << 30  # tokens a micro-batch: one row each, or all in one
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Gradient:
    """What a layout gives: the loss, and the gradient of all trained weights, [N] float32."""

    loss: float
    values: Tensor


@dataclass(frozen=True, slots=True)
class Layouts:
    """A batch in one micro-batch, in many, and with a prompt for each completion.

    `apart` is None where prompts are never shared.
    """

    whole: Gradient
    parts: Gradient
    apart: Gradient | None


def check_invariance(bench: Bench) -> Iterator[Finding]:
    """The same gradient by any layout, and every weight has one."""
    learner = bench.learner
    batch = _with_advantages(bench.completions)
    computed = _layouts(learner, batch)
    silent, share = gradient_reach(learner.masters.parameters)
    twin = _exact_twin(bench)
    exact = None if twin is None else _layouts(twin, batch)
    learner.optimizer.zero_grad(set_to_none=True)
    if bench.config.lora.rank > 0:  # the first factor has none while the second is zero
        silent = [name for name in silent if "lora_A" not in name]
    yield _reach(silent, share, len(learner.masters.parameters))
    values = computed.whole.values
    if not bool(values.isfinite().all()) or not bool(values.any()):
        yield problem(
            "micro-batches",
            "the gradient of the batch is not finite, or zero",
            "Try trainer.dtype = 'float32'. If that does not help, the model cannot be trained.",
        )
        return
    dtype = learner.model.dtype
    error = None if exact is None else difference(values, exact.whole.values)
    yield from _compare(computed, "", _limit(dtype, error))
    if exact is not None:
        yield from _compare(exact, ", float32", _FLOAT32_LIMIT)
    yield _rounding(dtype, error)


def _layouts(learner: Learner, batch: Sequence[TrainingCompletion]) -> Layouts:
    shared = learner.layout.share_prompts
    parts = gradient(learner, batch, _SMALL, share_prompts=shared)
    apart = gradient(learner, batch, _LARGE, share_prompts=False) if shared else None
    # Last, so that its gradients are those that are left behind.
    return Layouts(gradient(learner, batch, _LARGE, share_prompts=shared), parts, apart)


def _compare(layouts: Layouts, where: str, limit: float) -> Iterator[Finding]:
    whole = layouts.whole
    text = "many small micro-batches against one"
    yield _verdict(f"micro-batches{where}", text, whole, layouts.parts, limit)
    if layouts.apart is None:
        yield skipped(f"shared prompts{where}", "the layout of this model does not share them")
        return
    text = "a prompt for each completion against a shared one"
    yield _verdict(f"shared prompts{where}", text, whole, layouts.apart, limit)


def gradient(
    learner: Learner,
    batch: Sequence[TrainingCompletion],
    max_tokens: int,
    *,
    share_prompts: bool,
) -> Gradient:
    """Loss and gradient of a batch by the trainer's own code, in one layout.

    Args:
        learner: whose gradients are left behind.
        batch: completions with advantages.
        max_tokens: of a micro-batch.
        share_prompts: whether completions of a prompt share it.
    """
    fused = learner.layout.fused and share_prompts  # fused attention takes packed rows only
    layout = replace(learner.layout, share_prompts=share_prompts, fused=fused)
    learner = replace(learner, layout=layout)
    counts = BatchCounts(len(batch), sum(len(item.token_ids) for item in batch))
    learner.optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    with trainer_mode(learner.model, learner.layout):
        for item in pack(batch, max_tokens, share_prompts=share_prompts):
            here = item.to(learner.model.device)
            known = Known(reference=reference_logprobs(learner, here))
            part = micro_batch_loss(learner, here, counts, known)
            part.loss.backward()
            loss += part.loss.item()
    return Gradient(loss, flat_gradient(learner.masters.parameters.values()))


def difference(one: Tensor, other: Tensor) -> float:
    """|one - other| / |other|."""
    return ((one - other).norm() / other.norm()).item()


def _with_advantages(completions: Sequence[TrainingCompletion]) -> list[TrainingCompletion]:
    """Random advantages, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(len(completions), generator=generator).tolist()
    return [replace(c, advantage=a) for c, a in zip(completions, values, strict=True)]


def _exact_twin(bench: Bench) -> Learner | None:
    """The learner in float32; None where it computes so already, or the memory does not suffice."""
    learner = bench.learner
    if learner.model.dtype == torch.float32:
        return None
    # Weights and gradients, and two gradients more to compare.
    needed = 4 * 4 * sum(weight.numel() for weight in learner.model.parameters())
    free = free_memory(learner.model.device)
    if free is None or needed > free / 2:
        return None
    model = copy.deepcopy(learner.model)
    cast_model(model, torch.float32)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, master in learner.masters.parameters.items():
            weights[name].copy_(master)
    masters = MasterWeights(model, torch.float32)
    optimizer = create_optimizer(masters.parameters, bench.config.trainer)
    return replace(learner, model=model, masters=masters, optimizer=optimizer)


def _limit(dtype: torch.dtype, error: float | None) -> float:
    if dtype == torch.float32:
        return _FLOAT32_LIMIT
    return _BFLOAT16_LIMIT if error is None else max(_BFLOAT16_LIMIT, _ROUNDING * error)


def _verdict(name: str, what: str, one: Gradient, other: Gradient, limit: float) -> Finding:
    apart = difference(other.values, one.values)
    found = (
        f"{what}: the gradient differs by {apart:.2g} of its norm ({limit:.2g} allowed), the loss "
        f"of {one.loss:.4g} by {abs(other.loss - one.loss):.1g}"
    )
    numbers = {"difference": apart, "limit": limit, "loss": one.loss, "other_loss": other.loss}
    if apart <= limit:
        return ok(name, found, **numbers)
    return problem(
        name,
        found,
        "What is learnt would depend on what is computed side by side. Try trainer.dtype = "
        "'float32'; if it stays, do not train this model with this version, and report its name: "
        "its attention or its layers look across rows.",
        **numbers,
    )


def _rounding(dtype: torch.dtype, error: float | None) -> Finding:
    name = "rounding"
    if error is None:
        what = "float32 is what is computed in"
        return skipped(name, what if dtype == torch.float32 else "no memory to compare in float32")
    found = f"against float32 the gradient differs by {error:.2g} of its norm"
    if error <= 2 * _BFLOAT16_LIMIT:
        return ok(name, found, difference=error)
    cure = "More than bfloat16 usually costs. Compare a run with trainer.dtype = 'float32'."
    return warning(name, found, cure, difference=error)


def _reach(silent: Sequence[str], share: float, count: int) -> Finding:
    name = "gradient reach"
    if not silent:
        return ok(name, f"it reaches all {count} trained tensors", without=0)
    return warning(
        name,
        f"{len(silent)} of {count} trained tensors ({share:.1%} of the weights) have no gradient: "
        f"{', '.join(silent[:_SHOWN])}",
        "Experts that no token was sent to have none, and get one later. Other parts would not be "
        "trained: look at what the model's code detaches.",
        without=len(silent),
    )


CHECKS = (Check("micro-batch invariance", check_invariance, needs=("sampling",), is_slow=True),)
