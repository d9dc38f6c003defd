import math

import numpy as np
import pytest

from grpo_core import shaper
from grpo_core.config import VerificationConfig, VerifierConfig
from grpo_core.errors import ConfigError, PluginError, ShapeError
from grpo_core.rewards import WeightedShaper, score_group
from grpo_core.types import Completion, Prompt, Verdict

PROMPT = Prompt("p1", [{"role": "user", "content": "?"}], "42")
MATH = VerifierConfig(name="math", weight=1.0)
STYLE = VerifierConfig(name="style", weight=0.25)
EXCLUDE = VerificationConfig()


@shaper(range=(-1.0, 0.0))
def brevity(scored):
    return -len(scored.completion.token_ids) / scored.max_new_tokens


class Returns:
    range = (0.0, 1.0)

    def __init__(self, *values):
        self.values = values
        self.seen = None

    def shape(self, group):
        self.seen = group
        return self.values


def score(rows, verifiers=(MATH,), shapers=(), policies=EXCLUDE, lengths=None):
    lengths = lengths or [4] * len(rows)
    completions = [
        Completion([1] * length, "x", [0.0] * length, "eos", index)
        for index, length in enumerate(lengths)
    ]
    return score_group(PROMPT, completions, rows, verifiers, shapers, policies, 16)


def brief():
    return brevity(brevity.Config())


def test_scores_are_weighted_and_named():
    rows = [[Verdict.correct(), Verdict.wrong(score=0.5)], [Verdict.unparseable(), Verdict.wrong()]]
    first, second = score(rows, [MATH, STYLE])
    assert first == ({"math": 1.0, "style": 0.125}, 1.125)
    assert second == ({"math": 0.0, "style": 0.0}, 0.0)


def test_shapers_add_a_component_of_their_own():
    shapers = [WeightedShaper("brevity", 0.4, brief())]
    first, second = score([[Verdict.correct()], [Verdict.wrong()]], [MATH], shapers, lengths=[4, 0])
    assert first == ({"math": 1.0, "brevity": -0.1}, 0.9)
    assert second.components == {"math": 0.0, "brevity": 0.0}
    assert first.total == math.fsum(first.components.values())


@pytest.mark.parametrize("status", ["abstain", "timeout", "error"])
def test_each_status_has_its_policy(status):
    rows = [[getattr(Verdict, status)()], [Verdict.correct()]]
    assert score(rows)[0] == ({}, None)
    zero = VerificationConfig(**{f"on_{status}": "zero"})
    assert score(rows, policies=zero)[0] == ({"math": 0.0}, 0.0)
    assert score(rows, policies=zero)[1] == ({"math": 1.0}, 1.0)
    others = {"abstain", "timeout", "error"} - {status}
    zero = VerificationConfig(**{f"on_{other}": "zero" for other in others})
    assert score(rows, policies=zero)[0].total is None


def test_one_failed_verifier_of_two_makes_the_completion_invalid():
    rows = [[Verdict.correct(), Verdict.error()], [Verdict.error(), Verdict.correct()]]
    assert [reward.total for reward in score(rows, [MATH, STYLE])] == [None, None]


def test_shapers_see_valid_completions_only_with_the_first_verdict():
    seen = Returns(0.5, 1.0)
    rows = [[Verdict.correct()], [Verdict.error()], [Verdict.wrong()]]
    rewards = score(rows, [MATH], [WeightedShaper("bonus", 1.0, seen)])
    assert [scored.completion.index for scored in seen.seen] == [0, 2]
    assert [scored.verdict for scored in seen.seen] == [rows[0][0], rows[2][0]]
    assert [reward.total for reward in rewards] == [1.5, None, 1.0]


def test_shapers_are_not_asked_about_nobody():
    asked = Returns()
    rewards = score([[Verdict.error()]], [MATH], [WeightedShaper("bonus", 1.0, asked)])
    assert rewards == [({}, None)]
    assert asked.seen is None
    assert score([], [MATH], [WeightedShaper("bonus", 1.0, asked)]) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5], "'bonus' returned 1 values for 2 completions"),
        ([0.5, 0.5, 0.5], "returned 3 values for 2"),
        ([0.5, math.nan], r"returned nan, outside its declared range \[0, 1\]"),
        ([0.5, math.inf], "returned inf, outside"),
        ([1.5, 0.5], "returned 1.5, outside"),
        ([-1e-6, 0.5], "outside"),
        ([0.5, None], "returned None, which is no number"),
        ([0.5, "high"], "returned 'high', which is no number"),
    ],
)
def test_a_shaper_that_breaks_its_contract_is_named(values, message):
    rows = [[Verdict.correct()], [Verdict.wrong()]]
    with pytest.raises(PluginError, match=message):
        score(rows, [MATH], [WeightedShaper("bonus", 2.0, Returns(*values))])


def test_rounding_and_foreign_numbers_are_forgiven():
    values = [np.float32(0.5), 1.0 + 1e-12, True, 0]
    rewards = score([[Verdict.wrong()]] * 4, [MATH], [WeightedShaper("b", 1.0, Returns(*values))])
    assert [reward.total for reward in rewards] == [0.5, 1.0 + 1e-12, 1.0, 0.0]
    assert all(type(reward.components["b"]) is float for reward in rewards)


def test_a_shaper_that_raises_is_named():
    @shaper(range=(0, 1))
    def broken(scored):
        raise KeyError("meta")

    with pytest.raises(PluginError, match="shaper 'b' raised KeyError: 'meta' on prompt 'p1'"):
        score([[Verdict.correct()]], [MATH], [WeightedShaper("b", 1.0, broken(broken.Config()))])


@pytest.mark.parametrize("declared", [None, (1, 0), (0,), ("a", "b"), (math.nan, 1), 3])
def test_a_shaper_needs_a_range(declared):
    returns = Returns(0.5)
    returns.range = declared
    with pytest.raises(PluginError, match=r"must declare range = \(low, high\)"):
        score([[Verdict.correct()]], [MATH], [WeightedShaper("b", 1.0, returns)])


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ShapeError, match="verdicts for 0 of 1"):
        score_group(PROMPT, [Completion([], "", [], "eos")], [], [MATH], [], EXCLUDE, 16)
    with pytest.raises(ShapeError, match="1 verdicts of 2 verifiers"):
        score([[Verdict.correct()]], [MATH, STYLE])
    with pytest.raises(ConfigError, match="at least one verifier"):
        score([[]], [])
    with pytest.raises(ConfigError, match="'math' is used twice"):
        score([[Verdict.correct()]], [MATH], [WeightedShaper("math", 1.0, Returns(0.5))])
