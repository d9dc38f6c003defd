"""An update whose tokens have advantages of their own, against a plain padded one in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grpo_core.losses.gspo import gspo_loss
from grpo_core.masking import AGGREGATIONS
from grpo_core.training.dealing import pack
from grpo_core.training.packing import TrainingCompletion
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

few = settings(max_examples=4)
pieces = st.builds(Piece, st.integers(0, MAX_LENGTH), st.booleans(), st.integers(0, 4).map(bool))


@st.composite
def samples(draw: st.DrawFn) -> list[RolloutGroup]:
    """Groups of any sizes; of some completions each token has an advantage, of others all one."""
    group = st.tuples(st.integers(1, 9), st.lists(pieces, min_size=1, max_size=4))
    shapes = draw(st.lists(group, min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    always = draw(st.booleans())

    def weigh(rollout: Rollout) -> Rollout:
        count = len(rollout.completion.token_ids)
        if not rollout.is_valid or not (always or torch.rand(1, generator=generator) < 0.7):
            return rollout
        drawn = (torch.randint(-3, 4, (count,), generator=generator) / 2).tolist()
        return replace(rollout, advantage=sum(drawn) / max(count, 1), token_advantages=tuple(drawn))

    return [
        replace(group, rollouts=tuple(map(weigh, group.rollouts)))
        for group in make_groups(shapes, generator)
    ]


def options(**fixed: Any) -> st.SearchStrategy[Options]:
    return st.builds(
        Options,
        aggregation=st.sampled_from(AGGREGATIONS),
        num_iterations=st.integers(1, 2),
        mask_truncated=st.booleans(),
        mismatch=st.sampled_from(["off", "token_truncate"]),
        micro_batch_tokens=st.sampled_from([1, 20, 40, 100_000]),
        share_prompts=st.booleans(),
        loss_settings=st.just({"epsilon_low": 0.02, "epsilon_high": 0.03}),
        **{name: st.just(value) for name, value in fixed.items()},
    )


def token_table(padded: Padded) -> Tensor:
    """[B, T] written down one by one."""
    table = torch.zeros(padded.mask.shape, dtype=torch.float64)
    for b, rollout in enumerate(padded.rollouts):
        for t in range(len(rollout.completion.token_ids)):
            own = rollout.token_advantages
            table[b, t] = own[t] if own else rollout.advantage
    return table


def oracle(groups: Sequence[RolloutGroup], options: Options) -> Outcome:
    model, padded = make_policy(), Padded(groups)
    advantages = token_table(padded)
    valid = torch.tensor([rollout.reward is not None for rollout in padded.rollouts])
    is_cut = torch.tensor([r.completion.finish_reason == "length" for r in padded.rollouts])
    trained = padded.mask.bool() & (valid & ~(is_cut & options.mask_truncated)).unsqueeze(1)
    count = max(1, int(valid.sum()))
    divisor = {
        "sequence_mean": count * trained.sum(-1, keepdim=True).clamp(min=1),
        "token_mean": trained.sum().clamp(min=1),
        "token_sum": torch.tensor(count),
        "constant": torch.tensor(count * MAX_LENGTH),
    }[options.aggregation]
    with torch.no_grad():
        old, _ = plain_scores(model, *padded.sequences, padded.width)
    factor = (old - padded.sampler).exp().clamp(max=options.cap)
    if options.mismatch != "off":
        advantages = advantages * factor
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    start, losses = weights(model), []
    for _ in range(options.num_iterations):
        logprobs, _ = plain_scores(model, *padded.sequences, padded.width)
        ratio = (logprobs - old).exp()
        bounds = options.loss_settings
        clipped = ratio.clamp(1 - bounds["epsilon_low"], 1 + bounds["epsilon_high"])
        gain = torch.minimum(ratio * advantages, clipped * advantages) / divisor
        loss = -torch.where(trained, gain, 0.0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Outcome(sum(losses) / len(losses), moves(start, model))


@given(samples(), options())
@settings(max_examples=10)
def test_an_update_is_the_plain_padded_one(groups: list[RolloutGroup], options: Options) -> None:
    """Micro-batches, shared prompts, packing, padding and accumulation change nothing."""
    our_step(groups, options).assert_close(oracle(groups, options), rtol=1e-5, atol=1e-6)


@given(samples(), options(), st.integers(0, 2**32 - 1), st.sampled_from([1, 30, 100_000]))
@few
def test_order_and_micro_batches_change_nothing(
    groups: list[RolloutGroup], one: Options, seed: int, tokens: int
) -> None:
    other = replace(one, micro_batch_tokens=tokens, share_prompts=not one.share_prompts)
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()
    shuffled = [replace(groups[i], rollouts=groups[i].rollouts[::-1]) for i in order]
    our_step(shuffled, other).assert_close(our_step(groups, one), rtol=1e-5, atol=1e-6)


def test_completions_with_and_without_share_a_batch() -> None:
    items = [
        TrainingCompletion([5], [6, 7], 0.5, [0.0, 0.0]),
        TrainingCompletion([5], [8, 9, 6], (1.0, -2.0, 3.0), [0.0] * 3),
    ]
    (batch,) = pack(items, 1000)
    table = {tuple(row) for row in batch.advantages.tolist()}
    assert table == {(0.5, 0.5, 0.0), (1.0, -2.0, 3.0)}
    (plain,) = pack(items[:1], 1000)
    assert plain.advantages.tolist() == [0.5]


@given(samples(), options(beta=0.0, entropy_bonus=0.0), st.booleans())
@few
def test_equal_tokens_are_an_advantage_of_the_completion(
    groups: list[RolloutGroup], options: Options, gspo: bool
) -> None:
    """Of every loss; gspo has one ratio for all tokens."""
    if gspo:
        options = replace(options, loss=gspo_loss, loss_settings={})

    def level(rollout: Rollout, *, spread: bool) -> Rollout:
        own = (rollout.advantage,) * len(rollout.completion.token_ids) if spread else ()
        return replace(rollout, token_advantages=own)

    one, other = (
        [replace(g, rollouts=[level(r, spread=spread) for r in g.rollouts]) for g in groups]
        for spread in (True, False)
    )
    our_step(one, options).assert_close(our_step(other, options), rtol=1e-6, atol=1e-9)


@given(st.integers(0, 2**32 - 1))
@few
def test_advantages_that_cancel_in_the_mean_still_teach(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    (group,) = make_groups([(3, [Piece(4, False)] * 2)], generator)
    rollouts = [
        replace(r, advantage=0.0, token_advantages=(1.0, -1.0, 1.0, -1.0)) for r in group.rollouts
    ]
    groups = [replace(group, rollouts=rollouts)]
    outcome = our_step(groups, Options())
    assert outcome.length > 1e-4
    bounds = {"epsilon_low": math.inf, "epsilon_high": math.inf}
    outcome.assert_close(oracle(groups, Options(loss_settings=bounds)), rtol=1e-5, atol=1e-6)
