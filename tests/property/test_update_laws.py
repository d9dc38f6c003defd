"""What an update obeys, whatever the shapes of the groups: against a plain padded one in float64.

The oracle pads all completions into one batch, computes full logits and writes the loss out in
plain torch. Ours shares prompts, leaves out what cannot change the gradient, packs rows into
micro-batches and adds up their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo_core.masking import AGGREGATIONS
from grpo_core.types import Rollout, RolloutGroup
from whole_step import (
    MAX_LENGTH,
    RATE,
    Options,
    Outcome,
    Padded,
    Piece,
    make_groups,
    make_policy,
    moves,
    our_step,
    plain_scores,
    weights,
)

pieces = st.builds(Piece, st.integers(0, MAX_LENGTH), st.booleans(), st.integers(0, 4).map(bool))
micro_batches = st.sampled_from([1, 20, 40, 100_000])
few = settings(max_examples=8)


@st.composite
def samples(draw: st.DrawFn) -> list[RolloutGroup]:
    """Groups of any sizes; completions may be empty, cut off, or without a valid verdict."""
    group = st.tuples(st.integers(1, 9), st.lists(pieces, min_size=1, max_size=4))
    shapes = draw(st.lists(group, min_size=1, max_size=3))
    return make_groups(shapes, torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1))))


@st.composite
def options(draw: st.DrawFn, **fixed: Any) -> Options:
    """Any settings of the default loss."""
    drawn = {
        "aggregation": draw(st.sampled_from(AGGREGATIONS)),
        "beta": draw(st.sampled_from([0.0, 0.04])),
        "num_iterations": draw(st.integers(1, 3)),
        "entropy_bonus": draw(st.sampled_from([0.0, 0.02])),
        "mask_truncated": draw(st.booleans()),
        "mismatch": draw(st.sampled_from(["off", "token_truncate", "token_mask"])),
        "micro_batch_tokens": draw(micro_batches),
        "share_prompts": draw(st.booleans()),
        "loss_settings": {
            "epsilon_low": draw(st.sampled_from([0.0, 0.02, math.inf])),
            "epsilon_high": draw(st.sampled_from([0.01, 0.05, math.inf])),
        },
    }
    return Options(**drawn | fixed)


# ---- the plain padded update ---------------------------------------------------------------------


def oracle(groups: Sequence[RolloutGroup], options: Options) -> Outcome:
    model, reference, padded = make_policy(), make_policy(seed=1), Padded(groups)
    share, trained = token_shares(padded, options)
    with torch.no_grad():
        old, _ = plain_scores(model, *padded.sequences, padded.width)
        ref, _ = plain_scores(reference, *padded.sequences, padded.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    start, losses = weights(model), []
    for _ in range(options.num_iterations):
        logprobs, entropy = plain_scores(model, *padded.sequences, padded.width)
        policy_term = surrogate((logprobs - old).exp(), padded, options.loss_settings)
        policy_term = policy_term * sampler_weights(old - padded.sampler, options)
        kl = (ref - logprobs).exp() - (ref - logprobs) - 1
        per_token = options.beta * kl - policy_term - options.entropy_bonus * entropy
        loss = torch.where(trained, per_token * share, 0.0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Outcome(sum(losses) / len(losses), moves(start, model))


def token_shares(padded: Padded, options: Options) -> tuple[Tensor, Tensor]:
    """[B, T] the weight of each token, and whether it is trained on."""
    valid = torch.tensor([rollout.reward is not None for rollout in padded.rollouts])
    is_cut = [rollout.completion.finish_reason == "length" for rollout in padded.rollouts]
    kept = valid & ~(torch.tensor(is_cut) & options.mask_truncated)
    trained = padded.mask.bool() & kept.unsqueeze(1)
    count = max(1, int(valid.sum()))
    divisor = {
        "sequence_mean": count * trained.sum(-1, keepdim=True).clamp(min=1),
        "token_mean": trained.sum().clamp(min=1),
        "token_sum": torch.tensor(count),
        "constant": torch.tensor(count * MAX_LENGTH),
    }[options.aggregation]
    return trained.double() / divisor, trained


def surrogate(ratio: Tensor, padded: Padded, bounds: Any) -> Tensor:
    advantage = padded.advantages.unsqueeze(1)
    clipped = ratio.clamp(1 - bounds["epsilon_low"], 1 + bounds["epsilon_high"])
    return torch.minimum(ratio * advantage, clipped * advantage)


def sampler_weights(gap: Tensor, options: Options) -> Tensor:
    ratio, cap = gap.exp(), options.cap
    if options.mismatch == "token_truncate":
        return ratio.clamp(max=cap)
    if options.mismatch == "token_mask":
        return torch.where((ratio >= 1 / cap) & (ratio <= cap), ratio, 0.0)
    return torch.ones_like(ratio)


# ---- laws ----------------------------------------------------------------------------------------


@given(groups=samples(), options=options())
@settings(max_examples=20)
def test_an_update_is_the_plain_padded_one(groups: list[RolloutGroup], options: Options) -> None:
    """Micro-batches, shared prompts, packing, padding and accumulation change nothing."""
    our_step(groups, options).assert_close(oracle(groups, options), rtol=1e-5, atol=1e-6)


@given(groups=samples(), options=options(num_iterations=1))
@few
def test_float32_loses_digits_only(groups: list[RolloutGroup], options: Options) -> None:
    ours = our_step(groups, options, dtype=torch.float32)
    ours.assert_close(oracle(groups, options), rtol=1e-3, atol=2e-4)


@given(samples(), options(), st.integers(0, 2**32 - 1), micro_batches, st.booleans())
@few
def test_order_and_micro_batches_change_nothing(
    groups: list[RolloutGroup], one: Options, seed: int, tokens: int, share: bool
) -> None:
    other = replace(one, micro_batch_tokens=tokens, share_prompts=share)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [replace(groups[i], rollouts=groups[i].rollouts[::-1]) for i in order]
    # Attention has its softmax in float32, in a float64 model too.
    our_step(shuffled, other).assert_close(our_step(groups, one), rtol=1e-5, atol=1e-6)


@given(samples(), options())
@few
def test_what_is_not_trained_on_may_hold_anything(
    groups: list[RolloutGroup], options: Options
) -> None:
    """Log-probabilities of completions without a verdict, or masked because they were cut off."""

    def spoil(rollout: Rollout) -> Rollout:
        completion = rollout.completion
        if rollout.is_valid and not (options.mask_truncated and completion.is_truncated):
            return rollout
        nothing = [math.nan] * len(completion.token_ids)
        return replace(rollout, completion=replace(completion, sampler_logprobs=nothing))

    spoilt = [replace(group, rollouts=list(map(spoil, group.rollouts))) for group in groups]
    clean, dirty = our_step(groups, options), our_step(spoilt, options)
    assert clean.loss == dirty.loss
    assert all(torch.equal(move, dirty.moves[name]) for name, move in clean.moves.items())


@given(
    samples(), options(beta=0.0, entropy_bonus=0.0, num_iterations=1, mismatch="off"), micro_batches
)
@few
def test_a_single_iteration_is_reinforce(
    groups: list[RolloutGroup], options: Options, tokens: int
) -> None:
    """The policy that learns is the one that sampled: no ratio, and no epsilon, plays a part."""
    model, padded = make_policy(), Padded(groups)
    share, trained = token_shares(padded, options)
    logprobs, _ = plain_scores(model, *padded.sequences, padded.width)
    per_token = share * padded.advantages.unsqueeze(1) * logprobs
    torch.where(trained, -per_token, 0.0).sum().backward()
    ours = our_step(groups, options)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours.moves[name], parameter.grad, rtol=1e-5, atol=1e-6)


class Untouchable:
    """Raises on every access."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the reference was read: {name}")

    def __bool__(self) -> bool:
        raise AssertionError("the reference was tested for truth")


@pytest.mark.parametrize("entropy_bonus", [0.0, 0.02])
@given(groups=samples())
@few
def test_beta_zero_never_reads_the_reference(
    groups: list[RolloutGroup], entropy_bonus: float
) -> None:
    options = Options(entropy_bonus=entropy_bonus, num_iterations=2)
    ours = our_step(groups, options, reference=Untouchable())
    ours.assert_close(our_step(groups, options), rtol=0, atol=0)


def with_level_rewards(groups: list[RolloutGroup]) -> list[RolloutGroup]:
    """As if all completions of a group had got the same reward."""
    return [
        replace(group, rollouts=[replace(rollout, advantage=0.0) for rollout in group.rollouts])
        for group in groups
    ]


@given(samples(), options(beta=0.0, entropy_bonus=0.0))
@few
def test_without_advantages_no_weight_moves(groups: list[RolloutGroup], options: Options) -> None:
    outcome = our_step(with_level_rewards(groups), options)
    assert outcome.loss == 0
    assert all((move == 0).all() for move in outcome.moves.values())


@pytest.mark.parametrize("only", [{"beta": 0.04}, {"entropy_bonus": 0.02}], ids=str)
@given(groups=samples(), seed=st.integers(0, 2**32 - 1))
@few
def test_kl_and_entropy_bonus_reach_completions_without_advantage(
    only: dict[str, float], groups: list[RolloutGroup], seed: int
) -> None:
    options = Options(**only, loss_settings={"epsilon_low": 0.2, "epsilon_high": 0.2})
    whole = make_groups([(3, [Piece(4, False)])], torch.Generator().manual_seed(seed))
    level = with_level_rewards([*groups, *whole])
    outcome = our_step(level, options)
    outcome.assert_close(oracle(level, options), rtol=1e-5, atol=1e-6)
    assert outcome.length > 1e-4


@given(samples(), options(num_iterations=1), st.sampled_from([1e-3, 0.1, 100.0]))
@few
def test_a_long_gradient_is_shortened_and_reported_in_full(
    groups: list[RolloutGroup], options: Options, longest: float
) -> None:
    whole = our_step(groups, options)
    assert whole.metrics["grad_norm"] == pytest.approx(whole.length, rel=1e-6)
    clipped = our_step(groups, replace(options, max_grad_norm=longest))
    assert clipped.metrics["grad_norm"] == pytest.approx(whole.length, rel=1e-6)
    assert clipped.length == pytest.approx(min(whole.length, longest), rel=1e-4, abs=1e-9)
    share = clipped.length / max(whole.length, 1e-30)
    for name, move in whole.moves.items():
        torch.testing.assert_close(clipped.moves[name], share * move, rtol=1e-6, atol=1e-9)


@given(samples(), options(beta=0.04, num_iterations=3))
@few
def test_the_gap_is_that_of_the_sampler_and_the_first_policy(
    groups: list[RolloutGroup], options: Options
) -> None:
    padded = Padded(groups)
    with torch.no_grad():
        first, _ = plain_scores(make_policy(), *padded.sequences, padded.width)
    _, trained = token_shares(padded, options)
    expected = (first - padded.sampler).abs()[trained].mean().item()
    got = our_step(groups, options).metrics["sampler_logprob_gap"]
    assert got == pytest.approx(expected, abs=1e-6, nan_ok=True)
