"""all_of, any_of and first_of: truth tables, scores, who is asked, and what members need."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import grpo_verifiers.hooks
from grpo_core import Sample, Status, hookimpl
from grpo_core.errors import ConfigError, PluginError, VerifierError
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.registry import Registry
from grpo_core.testing import check_conformance
from grpo_core.types import Json, StepScore, Verdict
from grpo_core.verification.pool import VerifierPool, VerifierSpec
from grpo_verifiers.combinators import AllOf, AnyOf

SCORES = {"correct": 1.0, "wrong": 0.0, "unparseable": 0.0}
NAMES = ("correct", "wrong", "unparseable", "abstain", "timeout", "error")
asked: list[tuple[str, list[str]]] = []


class Says:
    """Says what its options tell it; a completion that names it ("a=wrong") overrules them."""

    version = "1.0"

    class Config(BaseModel, frozen=True, extra="forbid"):
        name: str = "a"
        says: str = "correct"
        score: float | None = None
        steps: bool = False
        unreadable: str | None = None
        raises: bool = False
        too_few: bool = False
        details: int = 0
        attributes: dict[str, Any] = {}

    def __init__(self, config: Config) -> None:
        self.config = config
        for name, value in config.attributes.items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)

    def check_reference(self, reference: Json) -> None:
        if reference == self.config.unreadable:
            raise VerifierError(f"{self.config.name} cannot read it")

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        asked.append((self.config.name, [sample.completion for sample in samples]))
        if self.config.raises and any("raise" in sample.completion for sample in samples):
            raise RuntimeError("no mood")
        return [self.judge(sample) for sample in samples][self.config.too_few :]

    def judge(self, sample: Sample) -> Verdict:
        if sample.reference == self.config.unreadable and self.config.unreadable is not None:
            return Verdict.error("cannot read it")
        said = dict(part.split("=") for part in sample.completion.split() if "=" in part)
        status = said.get(self.config.name, self.config.says)
        score = SCORES.get(status) if self.config.score is None else self.config.score
        steps = (StepScore(1, 0.5),) if self.config.steps else ()
        details = {"text": "x" * self.config.details}
        return Verdict(Status(status), score, f"{status}!", details, steps=steps)


class Plugin:
    @hookimpl
    def grpo_register_verifiers(self, register: Any) -> None:
        register("says", Says)


@pytest.fixture(scope="module")
def registry() -> Registry:
    plugins = load_plugins(PluginSources(use_entry_points=False), [grpo_verifiers.hooks, Plugin()])
    return plugins.verifiers


@pytest.fixture(autouse=True)
def nobody_was_asked() -> None:
    asked.clear()


def says(*members: dict[str, Any] | str, **options: Any) -> dict[str, Any]:
    """Options of a combinator with members called a, b, c, ..."""
    rows = []
    for name, member in zip("abcdef", members, strict=False):
        own: dict[str, Any] = {"says": member} if isinstance(member, str) else dict(member)
        weight = own.pop("weight", 1.0)
        rows.append({"name": "says", "options": {"name": name, **own}, "weight": weight})
    return {"members": rows, **options}


def judge(verifier: Any, *completions: str, reference: Json = "r") -> list[Verdict]:
    samples = [Sample("", completion, reference) for completion in completions]
    verdicts: list[Verdict] = verifier.verify(samples)
    return verdicts


# ---- truth tables -------------------------------------------------------------------------------


def truth(status: str) -> float:
    """Kleene's truth value: conjunction is the minimum, disjunction the maximum."""
    return {"correct": 1.0, "wrong": 0.0, "unparseable": 0.0}.get(status, 0.5)


@pytest.mark.parametrize(("name", "choose"), [("all_of", min), ("any_of", max)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_kleenes_tables(registry: Registry, name: str, choose: Any, size: int) -> None:
    for statuses in itertools.product(NAMES, repeat=size):
        verifier = registry.create(name, says(*statuses))
        [verdict] = judge(verifier, "x")
        assert truth(verdict.status) == choose(map(truth, statuses)), (statuses, verdict)
        assert (verdict.score is None) == (truth(verdict.status) == 0.5)
        assert verdict.status in statuses


def test_which_of_several_statuses(registry: Registry) -> None:
    def status(name: str, *statuses: str) -> str:
        return judge(registry.create(name, says(*statuses)), "x")[0].status

    assert status("all_of", "correct", "unparseable", "wrong") == "unparseable"
    assert status("all_of", "correct", "wrong", "unparseable") == "wrong"
    assert status("any_of", "unparseable", "wrong") == "wrong"
    assert status("any_of", "unparseable", "unparseable") == "unparseable"
    for name, other in (("all_of", "correct"), ("any_of", "wrong")):
        assert status(name, other, "abstain", "timeout", "error") == "error"
        assert status(name, "timeout", other, "abstain") == "timeout"
        assert status(name, "abstain", other) == "abstain"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_first_of(registry: Registry, size: int) -> None:
    for statuses in itertools.product(NAMES, repeat=size):
        [verdict] = judge(registry.create("first_of", says(*statuses)), "x")
        decided = [status for status in statuses if status != "abstain"]
        assert verdict.status == (decided[0] if decided else "abstain")


def test_first_of_can_pass_on_more(registry: Registry) -> None:
    passed = ["abstain", "unparseable", "timeout", "error"]
    for statuses in itertools.product(NAMES, repeat=3):
        [verdict] = judge(registry.create("first_of", says(*statuses, pass_on=passed)), "x")
        decided = [status for status in statuses if status not in passed]
        gravest = [s for s in ("error", "timeout", "unparseable", "abstain") if s in statuses]
        assert verdict.status == (decided[0] if decided else gravest[0])


# ---- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all_of", "any_of"])
@pytest.mark.parametrize(
    ("rule", "score"), [("min", 0.25), ("max", 0.75), ("product", 0.1875), ("mean", 0.625)]
)
def test_scores(registry: Registry, name: str, rule: str, score: float) -> None:
    members = [{"says": "wrong", "score": 0.25}, {"says": "wrong", "score": 0.75, "weight": 3}]
    verifier = registry.create(name, says(*members, score=rule))
    [verdict] = judge(verifier, "x")
    assert (verdict.status, verdict.score) == ("wrong", score)


def test_members_without_a_score_are_left_out(registry: Registry) -> None:
    verifier = registry.create("any_of", says("abstain", "wrong", "correct", score="mean"))
    assert judge(verifier, "x")[0].score == 0.5


@given(
    st.lists(st.tuples(st.sampled_from(NAMES[:3]), st.integers(0, 4)), min_size=1, max_size=4),
    st.sampled_from(["min", "max", "product", "mean"]),
    st.sampled_from([AllOf, AnyOf]),
)
def test_stopping_early_changes_nothing(
    told: list[tuple[str, int]], rule: str, combinator: Any
) -> None:
    """Status and score are those that all members together would give."""
    members = [{"says": s, "score": 1.0 if s == "correct" else n / 4} for s, n in told]
    options = says(*members, score=rule)
    verifier = combinator(combinator.Config(**options))
    verifier.compose(lambda name, values: Says(Says.Config(**values)))
    [verdict] = judge(verifier, "x")
    statuses, scores = zip(*((m["says"], m["score"]) for m in members), strict=True)
    product = 1.0
    for score in scores:
        product *= score
    every = {"min": min(scores), "max": max(scores), "product": product}
    assert verdict.score == every.get(rule, sum(scores) / len(scores))
    kind = min if combinator is AllOf else max
    assert truth(verdict.status) == kind(map(truth, statuses))


# ---- who is asked -------------------------------------------------------------------------------


def test_members_see_only_what_is_open(registry: Registry) -> None:
    judge(
        registry.create("all_of", says("correct", "correct")), "x", "a=wrong", "a=error", "b=wrong"
    )
    assert asked == [
        ("a", ["x", "a=wrong", "a=error", "b=wrong"]),
        ("b", ["x", "a=error", "b=wrong"]),
    ]
    asked.clear()
    judge(registry.create("any_of", says("wrong", "wrong", "wrong")), "a=correct", "b=correct", "x")
    assert [count for _, seen in asked for count in [len(seen)]] == [3, 2, 1]
    asked.clear()
    judge(registry.create("first_of", says("abstain", "correct", "wrong")), "a=wrong", "x")
    assert asked == [("a", ["a=wrong", "x"]), ("b", ["x"])]


def test_a_mean_needs_everybody(registry: Registry) -> None:
    judge(registry.create("all_of", says("wrong", "correct", score="mean")), "x")
    assert [name for name, _ in asked] == ["a", "b"]


def test_every_answer_is_in_the_details(registry: Registry) -> None:
    [verdict] = judge(registry.create("any_of", says("wrong", "correct", "correct")), "x")
    assert verdict.reason == "says: correct!"
    first, second = verdict.details["members"]  # the third was not asked
    assert first["status"] == "wrong" and second["status"] == "correct"
    assert first["verifier"] == "says" and first["version"] == "1.0" and first["score"] == 0
    [verdict] = judge(registry.create("first_of", says("abstain", "wrong")), "x")
    assert verdict.details["decided_by"] == "says" and len(verdict.details["members"]) == 2


def test_details_stay_small(registry: Registry) -> None:
    large = {"says": "wrong", "details": 60_000}
    [verdict] = judge(registry.create("any_of", says(large, {"says": "wrong", "details": 9})), "x")
    assert len(json.dumps(verdict.details)) < 50_000
    first, second = verdict.details["members"]
    assert "left_out" in first["details"] and second["details"] == {"text": "x" * 9}


def test_steps_of_the_only_one_who_has_them(registry: Registry) -> None:
    one = says({"steps": True}, "correct")
    for name in ("all_of", "any_of", "first_of"):
        assert judge(registry.create(name, one), "x")[0].steps == (StepScore(1, 0.5),)
    two = says({"steps": True}, {"steps": True})
    assert judge(registry.create("all_of", two), "x")[0].steps == ()


# ---- members that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"raises": True}, {"too_few": True}])
def test_a_member_that_fails_is_an_error_of_its_own(
    registry: Registry, fault: dict[str, Any]
) -> None:
    completions = ("raise", "b=wrong raise")
    alone = judge(registry.create("all_of", says(fault)), *completions)
    assert [verdict.status for verdict in alone] == ["error", "error"]
    both = judge(registry.create("all_of", says(fault, "correct")), *completions)
    assert [verdict.status for verdict in both] == ["error", "wrong"]
    either = judge(registry.create("any_of", says(fault, "correct")), *completions)
    assert [verdict.status for verdict in either] == ["correct", "error"]


def test_one_sample_does_not_spoil_the_batch(registry: Registry) -> None:
    verifier = registry.create("all_of", says({"raises": True}))
    statuses = [verdict.status for verdict in judge(verifier, "x", "raise", "a=wrong")]
    assert statuses == ["correct", "error", "wrong"]


def test_running_out_of_memory_is_not_contained(registry: Registry) -> None:
    class Greedy:
        def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
            raise MemoryError

    verifier = AnyOf(AnyOf.Config(**says("correct")))
    verifier.compose(lambda name, options: Greedy())
    with pytest.raises(MemoryError):
        judge(verifier, "x")


# ---- references ---------------------------------------------------------------------------------


def test_all_must_read_the_reference(registry: Registry) -> None:
    verifier = registry.create("all_of", says("wrong", {"unreadable": "r"}))
    with pytest.raises(VerifierError, match="b cannot read it"):
        verifier.check_reference("r")
    verifier.check_reference("other")
    assert judge(verifier, "x")[0].status == "error" and not asked
    assert judge(verifier, "x", reference="other")[0].status == "wrong"


@pytest.mark.parametrize("name", ["any_of", "first_of"])
def test_one_must_read_the_reference(registry: Registry, name: str) -> None:
    verifier = registry.create(name, says({"unreadable": "r"}, "wrong"))
    verifier.check_reference("r")
    [verdict] = judge(verifier, "x")
    assert verdict.status == "wrong"
    assert verdict.details["members"][0]["status"] == "not applicable"
    neither = registry.create(name, says({"unreadable": "r"}, {"unreadable": "r"}))
    with pytest.raises(VerifierError, match=r"no member.*a cannot read it.*b cannot read it"):
        neither.check_reference("r")
    assert judge(neither, "x")[0].status == "error"


def test_members_of_one_name_are_told_apart(registry: Registry) -> None:
    twice = {"members": [{"name": "exact"}, {"name": "exact", "options": {"part": "boxed"}}]}
    verifier = registry.create("any_of", twice)
    assert [v.status for v in judge(verifier, "r", "\\boxed{r}", "s")] == [
        "correct",
        "correct",
        "wrong",
    ]


# ---- what they need together --------------------------------------------------------------------


def test_attributes(registry: Registry) -> None:
    members = [
        {"attributes": {"deadline": 2, "memory_mb": 4000, "reads": ["token_ids"], "batch_size": 8}},
        {"attributes": {"placement": "process", "batch_size": 4, "candidate_bears_limits": True}},
        {"attributes": {"reads": ["messages"], "batch_size": 16, "deadline": None}},
    ]
    verifier = registry.create("all_of", says(*members))
    assert verifier.deadline == 2 + 5 + 5 and verifier.memory_mb == 4000
    assert verifier.placement == "process" and verifier.batch_size == 4
    assert verifier.reads == ("messages", "token_ids") and not verifier.candidate_bears_limits
    borne = {"attributes": {"candidate_bears_limits": True, "placement": "trainer"}}
    verifier = registry.create("any_of", says(borne, borne))
    assert verifier.candidate_bears_limits and verifier.placement == "trainer"
    plain = registry.create("first_of", says("correct"))
    assert (plain.deadline, plain.memory_mb, plain.batch_size) == (None, None, 1)
    assert plain.placement == "workers" and plain.reads == ()


def test_the_version_tells_the_members(registry: Registry) -> None:
    older = says("correct", {"attributes": {"version": "1.1"}})
    newer = says("correct", {"attributes": {"version": "1.2"}})
    assert registry.create("any_of", older).version == "1.0(says 1.0, says 1.1)"
    nested = [{"members": [{"name": "any_of", "options": each}]} for each in (older, newer)]
    versions = {registry.create("all_of", each).version for each in nested}
    assert versions == {
        "1.0(any_of 1.0(says 1.0, says 1.1))",
        "1.0(any_of 1.0(says 1.0, says 1.2))",
    }


def test_members_are_preloaded(registry: Registry) -> None:
    loaded: list[str] = []

    class Heavy(Says):
        def preload(self) -> None:
            loaded.append(self.config.name)

    verifier = AllOf(AllOf.Config(**says("correct", "correct")))
    verifier.compose(lambda name, options: Heavy(Says.Config(**options)))
    verifier.preload()
    assert loaded == ["a", "b"]
    registry.create("any_of", says("correct")).preload()


def test_unknown_members_and_options_are_refused(registry: Registry) -> None:
    with pytest.raises(PluginError, match="Did you mean 'exact'"):
        registry.create("all_of", {"members": [{"name": "exactt"}]})
    with pytest.raises(ConfigError, match="ignore_case"):
        registry.create("all_of", {"members": [{"name": "exact", "options": {"ignore": True}}]})
    for wrong in ({"members": []}, {}, says({"weight": 0}), says("correct", score="median")):
        with pytest.raises(ConfigError):
            registry.create("any_of", wrong)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        (["math", "exact"], r'is a table such as \{name = "math"\}, got the plain name'),
        ([{"name": "exact"}, "math"], r'is a table such as \{name = "math"\}'),
        ([], "must have a member"),
        ([{"nam": "exact"}], "nam: unknown setting"),
    ],
)
def test_wrong_members_are_named_and_not_counted(
    registry: Registry, members: list[Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        registry.create("any_of", {"members": members})
    assert "at least" not in str(caught.value)
    assert str(caught.value).count("table such as") <= 1


def test_without_members_it_says_so() -> None:
    verifier = AnyOf(AnyOf.Config(**says("correct")))
    with pytest.raises(VerifierError, match="has no members yet"):
        judge(verifier, "x")


# ---- as the pool runs them ----------------------------------------------------------------------

FORM_AND_ANSWER: dict[str, Any] = {
    "members": [
        {"name": "format"},
        {
            "name": "any_of",
            "options": {
                "members": [
                    {"name": "exact", "options": {"part": "answer_tag"}},
                    {"name": "choice"},
                ]
            },
        },
    ]
}


def test_nested_combinators_in_worker_processes() -> None:
    form = "<think>hm</think><answer>{}</answer>"
    texts = [form.format("B"), form.format("The answer is B."), form.format("C"), "B"]
    spec = VerifierSpec("all_of", FORM_AND_ANSWER)
    with VerifierPool([spec], PluginSources(), workers=1) as pool:
        futures = [pool.submit("all_of", Sample("", text, "B")) for text in texts]
        verdicts = [future.result() for future in futures]
    assert [v.status for v in verdicts] == ["correct", "correct", "wrong", "unparseable"]
    assert verdicts[0].version == "1.0(format 1.0, any_of 1.0(exact 1.1, choice 1.0))"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all_of", "any_of", "first_of"])
def test_conformance(name: str) -> None:
    check_conformance(name)
