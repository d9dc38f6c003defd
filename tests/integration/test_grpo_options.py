"""Every option of [grpo] through real training of a tiny model, and what it must change."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from grpo_core.advantage import group_advantages
from grpo_core.advantages.kl_penalty import subtract_kl
from grpo_core.config import RunConfig, SamplingConfig
from grpo_core.errors import TrainingError
from grpo_core.hookspecs import hookimpl
from grpo_core.kl import k1, k2, k3
from grpo_core.losses.grpo import grpo_loss
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.protocols import SamplingParams
from grpo_core.records.run_directory import RunDirectory
from grpo_core.rollout import with_advantages
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import create_sampler
from grpo_core.training.dealing import deal
from grpo_core.training.kl_price import completion_kls, with_kl_price
from grpo_core.training.learner import Learner
from grpo_core.training.offenders import offenders
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.policy import find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.reference import Reference
from grpo_core.training.run import train
from grpo_core.training.update import (
    UpdateResult,
    _trained_completions,
    batch_counts,
    update,
)
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict
from grpo_core.validation import build
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
PLUGIN = str(Path(__file__).with_name("letter_plugin.py"))
SOURCES = PluginSources(files=(PLUGIN,), use_entry_points=False)
PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": text}], None) for n, text in enumerate("ab")
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def run(
    model_folder: Path, path: Path, sections: dict[str, Any], *plugins: object
) -> list[dict[str, float]]:
    """Two steps of training; the lines of metrics.jsonl."""
    values: dict[str, Any] = {
        "model": {"path": str(model_folder)},
        "task": {"name": "letters"},
        "sampling": {"max_new_tokens": 8},
        "trainer": {"dtype": "float32", "steps": 2, "learning_rate": 1e-2, "warmup_steps": 0},
        "verification": {"deadline": 2.0},
        "evaluation": {"num_prompts": 2, "num_samples": 1},
        "grpo": {"group_size": 6, "prompts_per_step": 3, **sections.pop("grpo", {})},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    config = build(RunConfig, values)
    directory = RunDirectory.create(path, base="")
    summary = train(config, load_plugins(SOURCES, extra=plugins), SOURCES, directory)
    assert summary["status"] == "finished"
    lines = directory.read_metrics()
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["entropy"]) for line in lines)
    assert any(line["grad_norm"] > 0 for line in lines)
    return lines


def names(kind: str) -> list[str]:
    registry = getattr(load_plugins(PluginSources(use_entry_points=False)), kind)
    return [item.name for item in registry]


@pytest.mark.parametrize("advantage", names("advantages"))
def test_every_advantage_trains(model_folder: Path, tmp_path: Path, advantage: str) -> None:
    size = 9 if advantage == "pass_at_8" else 6
    run(model_folder, tmp_path / "run", {"grpo": {"advantage": advantage, "group_size": size}})


@pytest.mark.parametrize("loss", names("losses"))
def test_every_loss_trains(model_folder: Path, tmp_path: Path, loss: str) -> None:
    run(model_folder, tmp_path / "run", {"grpo": {"loss": loss, "beta": 0.05}})


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs/recipes").glob("*.toml")), ids=str)
def test_every_recipe_trains(model_folder: Path, tmp_path: Path, recipe: Path) -> None:
    values = tomllib.loads(recipe.read_text())
    sections = {name: values.get(name, {}) for name in ("grpo", "reference", "selection", "lora")}
    run(model_folder, tmp_path / "run", sections)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("place", ["loss", "reward", "advantage"])
def test_every_kl_trains(model_folder: Path, tmp_path: Path, estimator: str, place: str) -> None:
    settings = {"beta": 0.1, "kl_in": place, "kl_estimator": estimator}
    first, second = run(model_folder, tmp_path / "run", {"grpo": settings})
    assert first["kl"] == pytest.approx(0, abs=1e-6)  # the policy starts as the reference
    assert abs(second["kl"]) > 1e-6


@pytest.mark.parametrize(
    "mismatch", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_every_mismatch_correction_trains(
    model_folder: Path, tmp_path: Path, mismatch: str
) -> None:
    for line in run(model_folder, tmp_path / "run", {"sampling": {"mismatch": mismatch}}):
        if line["trained_tokens"]:  # the embedded engine's probabilities are exact
            assert line["mismatch_weight"] == pytest.approx(1, abs=1e-3)
            assert line["mismatch_masked_share"] == 0


@pytest.mark.parametrize(
    "cut", [{"top_p": 0.7}, {"top_k": 9}, {"top_p": 0.8, "top_k": 40}], ids=str
)
def test_under_top_p_and_top_k_the_trained_policy_is_the_one_that_sampled(
    model_folder: Path, tmp_path: Path, cut: dict[str, Any]
) -> None:
    sampling = {**cut, "temperature": 0.8, "mismatch": "token_mask", "mismatch_cap": 1.01}
    lines = run(model_folder, tmp_path / "run", {"sampling": sampling})
    assert sum(line["trained_tokens"] for line in lines) > 0
    for line in lines:
        if line["trained_tokens"]:
            assert line["sampler_logprob_gap"] < 1e-4
            assert line["mismatch_weight"] == pytest.approx(1, abs=1e-4)
            assert line["mismatch_masked_share"] == 0


def test_truncated_completions_can_be_left_out(model_folder: Path, tmp_path: Path) -> None:
    for line in run(model_folder, tmp_path / "run", {"selection": {"mask_truncated": True}}):
        assert line["trained_tokens"] <= line["tokens"]
        assert line["truncated_share"] > 0


# ---- one update, number by number ----------------------------------------------------------------


def make_learner(
    model: PreTrainedModel, sampling: Any = None, selection: Any = None, **grpo: Any
) -> Learner:
    sampling = {"max_new_tokens": 12, **(sampling or {})}
    values = {"sampling": sampling, "selection": selection or {}, "grpo": grpo}
    config = build(RunConfig, values)
    masters = MasterWeights(model, torch.float32)
    reference = Reference(tiny_model(seed=1)) if config.grpo.beta > 0 else None
    return Learner(
        model,
        masters,
        create_optimizer(masters.parameters, config.trainer),
        find_layout(model),
        grpo_loss,
        config,
        reference,
    )


LENGTHS = (12, 3, 7, 5)  # neither equal nor in the order in which they are packed
REASONS = ("length", "stop", "stop", "length")


def judged_groups(model: PreTrainedModel) -> list[RolloutGroup]:
    """Completions of several lengths, half of them right and half of them cut off."""
    engine = create_sampler(SamplerContext(model, tiny_tokenizer(), "", SamplingConfig()))
    sampled = engine.sample(PROMPTS, 4, SamplingParams(max_new_tokens=12, seed=1))
    verdicts = [Verdict.correct(), Verdict.wrong()]

    def judge(completion: Completion) -> Rollout:
        length, verdict = LENGTHS[completion.index], verdicts[completion.index % 2]
        cut = replace(
            completion,
            token_ids=completion.token_ids[:length],
            sampler_logprobs=completion.sampler_logprobs[:length],
            finish_reason=REASONS[completion.index],
        )
        return Rollout(cut, {"v": verdict}, {}, verdict.score)

    return [
        RolloutGroup(prompt, engine.encode(prompt), [judge(completion) for completion in group])
        for prompt, group in zip(PROMPTS, sampled, strict=True)
    ]


def step(groups: list[RolloutGroup], **settings: Any) -> UpdateResult:
    return update(make_learner(tiny_model(), **settings), groups, step=1)


def shifted(groups: list[RolloutGroup], nats: float) -> list[RolloutGroup]:
    """As if the sampler had recorded other log-probabilities."""

    def change(rollout: Rollout) -> Rollout:
        logprobs = tuple(p - nats for p in rollout.completion.sampler_logprobs)
        return replace(rollout, completion=replace(rollout.completion, sampler_logprobs=logprobs))

    return [replace(group, rollouts=[change(r) for r in group.rollouts]) for group in groups]


@pytest.mark.parametrize(
    ("mismatch", "nats", "weight"),
    [
        ("off", 0.5, 1.0),
        ("token_truncate", 0.5, math.exp(0.5)),
        ("token_truncate", 3.0, 2.0),
        ("sequence_truncate", -0.5, math.exp(-0.5)),
        ("token_mask", 0.5, math.exp(0.5)),
        ("token_mask", 3.0, 0.0),
        ("sequence_mask", -3.0, 0.0),
    ],
)
def test_the_mismatch_weight_scales_the_loss(mismatch: str, nats: float, weight: float) -> None:
    groups = with_advantages(judged_groups(tiny_model()), mean_advantages_of_one_half)
    plain = step(groups)
    result = step(shifted(groups, nats), sampling={"mismatch": mismatch})
    assert plain.loss != 0
    assert result.loss == pytest.approx(weight * plain.loss, rel=1e-3, abs=1e-9)
    assert result.grad_norm == pytest.approx(weight * plain.grad_norm, rel=1e-3, abs=1e-9)
    if mismatch != "off":
        assert result.metrics["mismatch_weight"] == pytest.approx(weight, abs=1e-3)
        assert result.metrics["mismatch_masked_share"] == (weight == 0)


def mean_advantages_of_one_half(rewards: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """All positive, so that loss and gradient do not cancel to nearly nothing."""
    return torch.where(valid, rewards + 0.5, 0.0)


def test_masked_truncated_completions_count_as_empty_ones() -> None:
    groups = with_advantages(judged_groups(tiny_model()), mean_advantages_of_one_half)
    assert [r.completion.is_truncated for r in groups[0].rollouts] == [True, False, False, True]

    def emptied(rollout: Rollout) -> Rollout:
        if not rollout.completion.is_truncated:
            return rollout
        empty = replace(rollout.completion, token_ids=(), sampler_logprobs=())
        return replace(rollout, completion=empty)

    empty = [replace(group, rollouts=[emptied(r) for r in group.rollouts]) for group in groups]
    for aggregation in ("sequence_mean", "token_mean", "token_sum", "constant"):
        masked = step(groups, selection={"mask_truncated": True}, aggregation=aggregation)
        expected = step(empty, aggregation=aggregation)
        assert (masked.loss, masked.grad_norm) == (expected.loss, expected.grad_norm)
        assert masked.loss != 0 and masked.grad_norm > 0
        assert masked.metrics["trained_tokens"] == expected.metrics["trained_tokens"]


@pytest.mark.parametrize(("name", "estimator"), [("k1", k1), ("k2", k2), ("k3", k3)])
def test_the_kl_of_a_completion_is_the_sum_over_its_tokens(name: str, estimator: Any) -> None:
    model = tiny_model()
    groups = judged_groups(model)
    learner = make_learner(model, beta=0.1, kl_in="reward", kl_estimator=name)
    got = completion_kls(learner, groups)
    assert got.shape == (2, 4)
    for row, group in zip(got, groups, strict=True):
        for kl, rollout in zip(row.tolist(), group.rollouts, strict=True):
            tokens = rollout.completion.token_ids
            ids = torch.tensor([[*group.prompt_token_ids, *tokens]])

            def score(scorer: Any, ids: torch.Tensor = ids, n: int = len(tokens)) -> torch.Tensor:
                with torch.no_grad():
                    table = scorer(ids).logits[0, -n - 1 : -1].log_softmax(-1)
                return table.gather(-1, ids[0, -n:, None]).squeeze(-1)

            expected = estimator(score(model), score(learner.reference.model)).sum().item()
            assert kl == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_kl_that_is_no_number_is_told_as_what_it_is() -> None:
    model = tiny_model()
    groups = judged_groups(model)
    learner = make_learner(model, beta=0.1, kl_in="reward")
    assert learner.reference is not None
    with torch.no_grad():
        learner.reference.model.get_output_embeddings().weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"KL to the reference of completions of p0, p1 is not"):
        with_kl_price(learner, groups, group_advantages)


@pytest.mark.parametrize("place", ["reward", "advantage"])
def test_the_kl_is_subtracted_where_it_is_told_to(place: str) -> None:
    model = tiny_model()
    groups = judged_groups(model)
    learner = make_learner(model, beta=0.2, kl_in=place)
    estimate, metrics = with_kl_price(learner, groups, group_advantages)
    rewards = torch.tensor([[r.reward for r in group.rollouts] for group in groups])
    valid, kl = torch.ones(2, 4, dtype=torch.bool), completion_kls(learner, groups)
    expected = (
        group_advantages(subtract_kl(rewards, kl, 0.2))
        if place == "reward"
        else subtract_kl(group_advantages(rewards), kl, 0.2)
    )
    torch.testing.assert_close(estimate(rewards, valid), expected)
    tokens = sum(len(r.completion.token_ids) for g in groups for r in g.rollouts)
    assert metrics["kl"] == pytest.approx(kl.sum().item() / tokens)
    # and the loss does not subtract it once more
    priced = with_advantages(groups, estimate)
    result = update(learner, priced, step=1)
    assert "kl" not in result.metrics
    assert result.loss == pytest.approx(step(priced).loss, abs=1e-6)


def test_without_beta_nothing_is_scored_twice() -> None:
    learner = make_learner(tiny_model(), kl_in="reward")
    estimate, metrics = with_kl_price(learner, [], group_advantages)
    assert estimate is group_advantages and metrics == {}


# ---- several optimiser steps on one batch --------------------------------------------------------


def ratio_of_later_iterations(learner: Learner, groups: list[RolloutGroup]) -> list[torch.Tensor]:
    """What the loss was given as ratios, one tensor a micro-batch and iteration."""
    ratios = []

    def loss(logprobs: torch.Tensor, old: torch.Tensor, *rest: Any, **settings: Any) -> Any:
        ratios.append((logprobs.detach() - old)[settings["completion_mask"]].exp())
        return grpo_loss(logprobs, old, *rest, **settings)

    update(replace(learner, loss=loss), groups, step=1)
    return ratios


def test_the_ratio_is_one_at_first_and_moves_in_later_iterations() -> None:
    groups = with_advantages(judged_groups(tiny_model()), group_advantages)
    learner = make_learner(tiny_model(), num_iterations=3)
    first, *later = ratio_of_later_iterations(learner, groups)
    assert (first == 1).all()
    assert len(later) == 2
    moved = [(ratio - 1).abs().max().item() for ratio in later]
    assert 0 < moved[0] < moved[1]


def test_iterations_are_steps_with_the_first_policy_as_the_old_one() -> None:
    """Against plain steps, one at a time, in which the first policy's log-probabilities stay."""
    groups = with_advantages(judged_groups(tiny_model()), group_advantages)
    whole = make_learner(tiny_model(), num_iterations=2)
    update(whole, groups, step=1)
    plain = make_learner(tiny_model())
    old: list[torch.Tensor] = []

    def loss(logprobs: torch.Tensor, given: torch.Tensor, *rest: Any, **settings: Any) -> Any:
        old.append(given)
        return grpo_loss(logprobs, old[0], *rest, **settings)

    for _ in range(2):
        update(replace(plain, loss=loss), groups, step=1)
    for name, weight in whole.masters.parameters.items():
        torch.testing.assert_close(weight, plain.masters.parameters[name], rtol=0, atol=0)


def clips_what_has_moved(
    logprobs: torch.Tensor, old: torch.Tensor, *rest: Any, **settings: Any
) -> Any:
    output = grpo_loss(logprobs, old, *rest, **settings)
    has_moved = bool((logprobs.detach() != old).any())
    clipped = settings["completion_mask"].sum() * has_moved
    metrics = {"clipped_low_tokens": clipped * 0, "clipped_high_tokens": clipped}
    return output._replace(metrics={**output.metrics, **metrics})


def test_clipping_acts_in_later_iterations() -> None:
    groups = with_advantages(judged_groups(tiny_model()), group_advantages)
    wide, tight = (
        update(
            make_learner(tiny_model(), num_iterations=4, epsilon_low=e, epsilon_high=e), groups, 1
        )
        for e in (1.0, 1e-7)
    )
    assert wide.metrics["clipped_share"] == 0
    assert tight.metrics["clipped_share"] > 0.1
    # The first iteration, in which nothing can be clipped, does not dilute the share.
    late = replace(make_learner(tiny_model(), num_iterations=2), loss=clips_what_has_moved)
    assert update(late, groups, 1).metrics["clipped_share"] == 1
    assert step(groups, epsilon_low=0, epsilon_high=0).metrics["clipped_share"] == 0


def test_a_failure_between_iterations_leaves_no_checkpoint_of_half_a_step(
    model_folder: Path, tmp_path: Path
) -> None:
    """The second iteration of step 2 breaks; what is kept is step 1, and a resume repeats 2."""
    calls = []

    def broken(logprobs: torch.Tensor, old: torch.Tensor, *rest: Any, **settings: Any) -> Any:
        output = grpo_loss(logprobs, old, *rest, **settings)
        calls.append(bool((logprobs.detach() != old).any()))
        if calls.count(True) == 2:
            return output._replace(loss=output.loss * math.nan)
        return output

    class Plugin:
        @hookimpl
        def grpo_register_losses(self, register: Any) -> None:
            register("broken", broken)

    settings = {
        "grpo": {"num_iterations": 2, "loss": "broken", "advantage": "reinforce_pp"},
        "trainer": {"save_every": 1, "steps": 3, "micro_batch_tokens": 100_000},
    }
    with pytest.raises(TrainingError, match="in iteration 2"):
        run(model_folder, tmp_path / "run", settings, Plugin())
    directory = RunDirectory.open(tmp_path / "run")
    assert [path.name for path in directory.checkpoints.iterdir()] == ["step-000001"]
    assert directory.read_summary()["steps"] == 1


def test_a_failure_after_the_update_does_not_save_new_weights_under_the_old_number(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(learner: Learner, step: int) -> None:
        if step == 2:
            raise RuntimeError("out of memory")

    monkeypatch.setattr("grpo_core.training.loop.move_reference", break_down)
    settings = {"trainer": {"save_every": 5, "steps": 3}, "grpo": {"advantage": "reinforce_pp"}}
    with pytest.raises(RuntimeError, match="out of memory"):
        run(model_folder, tmp_path / "run", settings)
    directory = RunDirectory.open(tmp_path / "run")
    assert list(directory.checkpoints.iterdir()) == []
    assert [line["step"] for line in directory.read_metrics()] == [1]


def test_the_prompt_whose_ratio_overflows_is_named() -> None:
    """The sampler had given the tokens of one prompt e^90 times less probability."""
    groups = with_advantages(judged_groups(tiny_model()), group_advantages)
    groups = [groups[0], *shifted(groups[1:], 90)]
    learner = make_learner(tiny_model())
    batches = [
        (group.prompt.id, deal(_trained_completions([group], learner.config), 4096, 0, 1))
        for group in groups
    ]
    counts = batch_counts(groups, learner.config)
    assert offenders(learner, batches, counts) == []
    assert offenders(learner, batches, counts, has_moved=True) == [groups[1].prompt.id]


# ---- the reference, entropy, and selection, in whole runs ----------------------------------------


def test_a_synced_reference_is_the_policy_again(model_folder: Path, tmp_path: Path) -> None:
    settings = {
        "grpo": {"beta": 0.1},
        "trainer": {"steps": 4},
        "reference": {"sync_every": 2, "sync_rate": 1.0},
    }
    kls = [line["kl"] for line in run(model_folder, tmp_path / "run", settings)]
    assert kls[0] == pytest.approx(0, abs=1e-6) and abs(kls[1]) > 1e-5
    assert kls[2] == pytest.approx(0, abs=1e-6) and abs(kls[3]) > 1e-5


def test_a_reference_moves_by_its_rate() -> None:
    policy, start = tiny_model(seed=0), tiny_model(seed=1)
    reference = Reference(tiny_model(seed=1))
    reference.follow(dict(policy.named_parameters()), 0.25)
    for (name, moved), old in zip(
        reference.model.named_parameters(), start.parameters(), strict=True
    ):
        expected = 0.25 * policy.get_parameter(name) + 0.75 * old
        torch.testing.assert_close(moved, expected)


def test_small_moves_of_a_bfloat16_reference_are_not_lost() -> None:
    policy = {name: p.detach() + 1e-3 for name, p in tiny_model().named_parameters()}
    reference, resumed = (Reference(tiny_model().to(torch.bfloat16)) for _ in range(2))
    for at in range(400):
        if at == 200:
            resumed.restore({name: w.clone() for name, w in reference.weights().items()})
        for moving in (reference, resumed)[: 1 + (at >= 200)]:
            moving.follow(policy, 0.02)
    for name, weight in reference.model.named_parameters():
        assert weight.dtype == torch.bfloat16
        nearest = policy[name].to(torch.bfloat16)
        torch.testing.assert_close(weight, nearest, rtol=2**-7, atol=1e-5)
        assert torch.equal(weight, resumed.model.get_parameter(name))


def test_an_entropy_bonus_raises_entropy() -> None:
    groups = with_advantages(judged_groups(tiny_model()), group_advantages)
    constant = [replace(group, rollouts=[replace(r, advantage=0.0) for r in group.rollouts])
                for group in groups]  # fmt: skip
    model = tiny_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4)  # far from uniform
    learner = make_learner(model, entropy_bonus=1.0, aggregation="token_mean")
    results = [update(learner, constant, step=4) for _ in range(5)]
    entropies = [result.metrics["trained_entropy"] for result in results]
    assert entropies == sorted(entropies) and entropies[-1] > entropies[0]
    assert results[0].loss == pytest.approx(-entropies[0])


def test_an_entropy_bonus_is_a_part_of_the_loss() -> None:
    groups = with_advantages(judged_groups(tiny_model()), group_advantages)
    plain, bonus = (
        step(groups, aggregation="token_mean"),
        step(groups, aggregation="token_mean", entropy_bonus=0.5),
    )
    expected = plain.loss - 0.5 * bonus.metrics["trained_entropy"]
    assert bonus.loss == pytest.approx(expected, abs=1e-6)


def test_dynamic_sampling_and_the_curriculum_train(model_folder: Path, tmp_path: Path) -> None:
    settings = {
        "selection": {"refill_budget": 6, "curriculum": "middling"},
        "trainer": {"steps": 3},
        "grpo": {"group_size": 2},
    }
    lines = run(model_folder, tmp_path / "run", settings)
    replaced = [line["groups_replaced"] for line in lines]
    assert sum(replaced) > 0 and max(replaced) <= 6
    directory = RunDirectory.open(tmp_path / "run")
    for line in lines:
        groups = directory.read_rollouts(line["step"])
        dropped = [group for group in groups if not group.is_trained]
        assert len(dropped) == line["groups_replaced"] and len(groups) - len(dropped) == 3
        assert all(r.advantage == 0 for group in dropped for r in group.rollouts)
