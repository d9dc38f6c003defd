"""Each option that claims to be TRL's, against TRL's own code, on random batches.

    python benchmarks/trl_parity.py                 200 batches an option, a few minutes
    python benchmarks/trl_parity.py --batches 1000

Prints a table: TRL's setting, ours, the number of batches, and the largest absolute differences of
the loss (or of what else is compared) and of its gradient, in float64. The same comparisons are
tested by tests/property/test_trl_parity.py, with which this shares its code. Needs the extras
`bench` (TRL) and `test`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch

from grpo_core.advantage import mean_advantages, zero_signal_groups
from grpo_core.advantages.trl import trl_advantages, trl_batch_advantages
from grpo_core.mismatch import Mismatch, mismatch_weights
from grpo_core.training.reference import Reference
from grpo_plugins.overlong import soft_overlong
from strategies import Batch
from tiny_model import tiny_model
from trl_oracle import (
    MISSING,
    SETTINGS,
    our_loss,
    trl_advantages_of,
    trl_loss,
    trl_module,
    trl_sampler_ratio,
)
from trl_whole_step import WholeStep
from whole_step import random_groups

Compare = Callable[[torch.Generator], tuple[float, float | None]]
"""The differences of two values, and of two gradients where there are any, on one random batch."""


class Row(NamedTuple):
    """An option, and how to compare it."""

    theirs: str
    ours: str
    what: str
    compare: Compare


def random_batch(generator: torch.Generator) -> Batch:
    """Up to 8 completions of up to 8 tokens; ratios lie inside, below and above the clip range."""
    size, width = torch.randint(1, 9, (2,), generator=generator).tolist()
    lengths = torch.randint(0, width + 1, (size, 1), generator=generator)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = -normal(size, width).abs() - 1
    return Batch(
        logprobs=old + 0.4 * normal(size, width),
        old_logprobs=old,
        ref_logprobs=old + 0.4 * normal(size, width),
        advantages=normal(size),
        mask=torch.arange(width) < lengths,
    )


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference; 0 of nothing."""
    return (one - other).abs().max().item() if one.numel() else 0.0


def compare_loss(name: str, beta: float) -> Compare:
    """Loss and gradient of given log-probabilities."""

    def compare(generator: torch.Generator) -> tuple[float, float]:
        batch = random_batch(generator)
        ours, theirs = our_loss(SETTINGS[name], batch, beta), trl_loss(SETTINGS[name], batch, beta)
        return largest(ours[0], theirs[0]), largest(ours[1], theirs[1])

    return compare


def compare_correction(how: Mismatch, name: str, cap: float) -> Compare:
    """Loss and gradient with the sampler's importance weights."""

    def compare(generator: torch.Generator) -> tuple[float, float]:
        batch = random_batch(generator)
        sampler = batch.ref_logprobs
        factor = mismatch_weights(batch.old_logprobs, sampler, batch.mask, how, cap=cap)
        ratio = trl_sampler_ratio(batch, sampler, how, cap)
        ours = our_loss(SETTINGS[name], batch, 0.04, factor)
        theirs = trl_loss(SETTINGS[name], batch, 0.04, ratio)
        return largest(ours[0], theirs[0]), largest(ours[1], theirs[1])

    return compare


def compare_whole(step: WholeStep) -> Compare:
    """Loss of a whole update, and the way of every weight divided by the learning rate."""

    def compare(generator: torch.Generator) -> tuple[float, float]:
        groups = random_groups(generator)
        return step.ours(groups).distance(step.theirs(groups))

    return compare


def compare_advantages(scale: str, estimate: Callable[..., torch.Tensor]) -> Compare:
    """Advantages of groups, some of whose rewards are missing."""

    def compare(generator: torch.Generator) -> tuple[float, None]:
        prompts, size = torch.randint(2, 9, (2,), generator=generator).tolist()
        rewards = torch.randint(-16, 17, (prompts, size), generator=generator).double() / 16
        valid = torch.rand(prompts, size, generator=generator) < 0.9
        theirs = trl_advantages_of(rewards, valid, scale)
        theirs[zero_signal_groups(rewards, valid)] = 0  # they leave a residue of rounding
        return largest(estimate(rewards, valid), theirs), None

    return compare


def compare_reference(generator: torch.Generator) -> tuple[float, None]:
    """Weights of a reference that has followed a policy, in float32."""
    from trl.trainer.callbacks import SyncRefModelCallback

    first, second = torch.randint(10_000, (2,), generator=generator).tolist()
    alpha = torch.rand((), generator=generator).item()
    policy, theirs = tiny_model(seed=first), tiny_model(seed=second)
    ours = Reference(tiny_model(seed=second))
    ours.follow(dict(policy.named_parameters()), alpha)
    SyncRefModelCallback._sync_target_model(policy, theirs, alpha)
    pairs = zip(ours.model.parameters(), theirs.parameters(), strict=True)
    return max(largest(one.detach(), other.detach()) for one, other in pairs), None


def compare_overlong(generator: torch.Generator) -> tuple[float, None]:
    """The punishment of every length."""
    from trl.rewards import get_soft_overlong_punishment

    l_max = int(torch.randint(1, 4097, (1,), generator=generator))
    cache = int(torch.randint(1, l_max + 1, (1,), generator=generator))
    lengths = range(0, l_max + 10, 1 + l_max // 100)
    theirs = get_soft_overlong_punishment(l_max, cache)([[1] * length for length in lengths])
    ours = [soft_overlong(length, l_max, cache) for length in lengths]
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True)), None


def rows() -> Iterator[Row]:
    """All options that make a claim."""
    for scale, estimate in (
        ("group", trl_advantages),
        ("batch", trl_batch_advantages),
        ("none", mean_advantages),
    ):
        name = {"group": "trl", "batch": "trl_batch", "none": "mean"}[scale]
        compare = compare_advantages(scale, estimate)
        yield Row(f"scale_rewards={scale}", f"advantage={name}", "advantages", compare)
    for name, setting in SETTINGS.items():
        theirs = {
            "gspo": "grpo, importance_sampling_level=sequence",
            "delta": "grpo, delta=1.5",
            "cispo": "cispo, epsilon_high=1.3",
        }.get(name, name)
        ours = f"loss={setting.loss.__name__.removesuffix('_loss')}, {setting.aggregation}"
        for beta in (0.0, 0.04):
            with_kl = f", beta={beta}" if beta else ""
            compare = compare_loss(name, beta)
            yield Row(f"loss_type={theirs}{with_kl}", ours + with_kl, "loss", compare)
    for how in ("token_truncate", "token_mask"):
        bounds = "clip_max=2" + (", clip_min=0.5" if how == "token_mask" else "")
        for name in ("grpo", "dapo", "gspo", "cispo"):
            theirs = f"{name}, vllm_importance_sampling_mode={how}, {bounds}"
            ours = f"{name}, mismatch={how}, mismatch_cap=2"
            yield Row(theirs, ours, "loss", compare_correction(how, name, 2.0))
    yield from whole_rows()
    yield Row("ref_model_mixup_alpha", "reference.sync_rate", "weights", compare_reference)
    yield Row("get_soft_overlong_punishment", "shaper overlong", "rewards", compare_overlong)


def whole_rows() -> Iterator[Row]:
    """Options that act in a whole update."""
    for theirs, ours, step in (
        ("loss_type=grpo", "sequence_mean", WholeStep("grpo")),
        ("loss_type=grpo, beta=0.04", "sequence_mean, beta=0.04", WholeStep("grpo", beta=0.04)),
        (
            "loss_type=grpo, num_iterations=3",
            "sequence_mean, num_iterations=3",
            WholeStep("grpo", num_iterations=3),
        ),
        (
            "loss_type=dapo, num_iterations=3, beta=0.04",
            "token_mean, num_iterations=3, beta=0.04",
            WholeStep("dapo", num_iterations=3, beta=0.04),
        ),
        (
            "loss_type=dapo, entropy_coef=0.05",
            "token_mean, entropy_bonus=0.05",
            WholeStep("dapo", entropy_bonus=0.05),
        ),
        *(
            (
                f"loss_type={name}, mask_truncated_completions",
                f"{SETTINGS[name].aggregation}, mask_truncated",
                WholeStep(name, mask_truncated=True),
            )
            for name in ("grpo", "bnpo", "dapo", "dr_grpo")
        ),
        (
            "vllm_importance_sampling_mode=token_truncate, clip_max=1.2",
            "mismatch=token_truncate, mismatch_cap=1.2",
            WholeStep("grpo", mismatch="token_truncate"),
        ),
        (
            "vllm_importance_sampling_mode=token_mask, clip_max=1.2, clip_min=1/1.2",
            "mismatch=token_mask, mismatch_cap=1.2",
            WholeStep("grpo", mismatch="token_mask"),
        ),
    ):
        yield Row(theirs, ours, "update", compare_whole(step))


def describe_machine() -> str:
    """What the numbers were made on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("trl", "torch", "transformers"))
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{system}; Python {platform.python_version()}, {packages}"


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=200, help="random batches an option")
    batches = parser.parse_args().batches
    if trl_module() is None:
        print(MISSING)
        return 1
    torch.set_num_threads(1)
    print(describe_machine(), end="\n\n")
    print("| TRL | ours | batches | compared | largest difference | of the gradient |")
    print("|---|---|---:|---|---:|---:|")
    for row in rows():
        generator = torch.Generator().manual_seed(0)
        found = [row.compare(generator) for _ in range(batches)]
        value = max(difference for difference, _ in found)
        slopes = [difference for _, difference in found if difference is not None]
        slope = f"{max(slopes):.1e}" if slopes else ""
        print(
            f"| {row.theirs} | {row.ours} | {batches} | {row.what} | {value:.1e} | {slope} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
