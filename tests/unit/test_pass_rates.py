"""Pass rates of judged groups."""

from __future__ import annotations

import pytest

from grpo_core.evaluation.pass_rates import pass_rates
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict


def group(name: str, verdicts: list[Verdict], **meta: str) -> RolloutGroup:
    prompt = Prompt(name, [{"role": "user", "content": name}], "1", meta)
    rollouts = [
        Rollout(
            Completion((1, 2), "x", (0.0, 0.0), "length" if n == 0 else "eos", n), {"v": verdict}
        )
        for n, verdict in enumerate(verdicts)
    ]
    return RolloutGroup(prompt, (1,), tuple(rollouts))


RIGHT, WRONG, ERROR = Verdict.correct(), Verdict.wrong(score=0.9), Verdict.error("broken")


def test_pass_at_1_is_the_mean_of_the_prompts_rates() -> None:
    result = pass_rates([group("a", [RIGHT, WRONG]), group("b", [WRONG, WRONG])])
    assert result["pass_at_1"]["mean"] == pytest.approx(0.25)
    assert result["pass_at_1"]["low"] < 0.25 < result["pass_at_1"]["high"]
    assert result["pass_at_k"]["2"]["mean"] == pytest.approx(0.5)
    assert result["truncated_share"] == 0.5


def test_partial_scores_do_not_count_as_passes() -> None:
    assert pass_rates([group("a", [WRONG, WRONG])])["pass_at_1"]["mean"] == 0


def test_errors_are_neither_right_nor_wrong() -> None:
    groups = [group("a", [RIGHT, ERROR]), group("b", [ERROR, ERROR]), group("c", [RIGHT, WRONG])]
    result = pass_rates(groups)
    assert result["pass_at_1"]["mean"] == pytest.approx(0.75)  # a: 1 of 1, c: 1 of 2, b: nothing
    assert result["pass_at_k"]["2"]["mean"] == 1  # only c has two judged completions
    assert result["num_judged"] == 3
    assert result["statuses"]["error"] == 3


def test_nothing_judged_gives_no_rate() -> None:
    result = pass_rates([group("a", [ERROR, ERROR])])
    assert result["pass_at_1"] is None


def test_rates_by_level() -> None:
    groups = [group("a", [RIGHT, RIGHT], level="easy"), group("b", [WRONG, WRONG], level="hard")]
    levels = pass_rates(groups)["by_level"]
    assert levels["easy"]["mean"] == 1 and levels["hard"]["mean"] == 0


@pytest.mark.parametrize(("count", "ks"), [(1, "1"), (4, "124"), (6, "1246"), (8, "1248")])
def test_every_power_of_two_and_the_number_of_samples(count: int, ks: str) -> None:
    assert "".join(pass_rates([group("a", [RIGHT] * count)])["pass_at_k"]) == ks
