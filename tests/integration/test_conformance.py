"""The conformance suite: a good verifier passes, and each bad one fails the check made for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import conformance_cases as cases
from grpo_core import Sample, verifier
from grpo_core.errors import ConfigError, DataError, PluginError
from grpo_core.testing import ConformanceReport, Example, check_conformance, run_conformance
from grpo_core.testing.attacks import KINDS
from grpo_core.testing.checks import CHECKS, any_text
from gullible_verifiers import FOOLED_BY, AnyNumber


def names(report: ConformanceReport, outcome: str) -> set[str]:
    return {result.name for result in report.results if result.outcome == outcome}


def known_here_only(cls: type) -> type:
    """A subclass that no other process can find."""

    class Local(cls):  # type: ignore[misc, valid-type]
        pass

    return Local


@pytest.mark.parametrize("cls", cases.EVERYWHERE, ids=lambda cls: cls.__name__)
def test_each_fault_is_caught_by_its_check(cls: type, monkeypatch: pytest.MonkeyPatch) -> None:
    if cls is not cases.RaisesOnRareTexts:
        monkeypatch.setattr(any_text, "NUM_RANDOM", 5)  # for speed
    report = run_conformance(known_here_only(cls))
    assert names(report, "failed") == cases.EVERYWHERE[cls], str(report)
    assert {"hash_seed", "process", "constructor"} <= names(report, "skipped")


# Of those that are caught everywhere, the ones that processes of their own could hide or change.
BOTH = (
    *(cases.RandomScores, cases.CountsCalls, cases.RemembersTheLast, cases.DropsFromBatches),
    *(cases.LeaksMemory, cases.LeaksFiles, cases.ElsewherePlaced, cases.FunctionInOptions),
)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [*BOTH, *cases.IN_PROCESSES], ids=lambda cls: cls.__name__)
def test_each_fault_is_caught_in_processes(cls: type) -> None:
    silence = 6.0 if cls is cases.HangsHere else None
    report = run_conformance(cls, silence=silence)
    expected = (cases.EVERYWHERE | cases.IN_PROCESSES)[cls]
    assert names(report, "failed") == expected, str(report)


def test_a_good_verifier_passes_every_check() -> None:
    report = check_conformance(cases.Good)
    assert names(report, "passed") == {check.name for check in CHECKS}
    assert report.gameability == 0.0 and report.version == "1.0"


def test_needed_checks_keep_others_from_failing_again() -> None:
    report = run_conformance(known_here_only(cases.RandomScores))
    assert report["batch"].outcome == report["thread"].outcome == "skipped"
    assert "would only fail again after 'determinism'" in report["batch"].message


def test_the_report_says_what_failed() -> None:
    with pytest.raises(AssertionError) as caught:
        check_conformance(known_here_only(cases.RejectsEverything))
    message = str(caught.value)
    assert "Local 1.0 does not conform:\n  golden: 3 of 6 examples: completion '42'" in message
    report = run_conformance(known_here_only(cases.FindsItAnywhere))
    evidence = report["gameability"].evidence
    assert report.gameability == evidence["score"] == round(evidence["won"] / evidence["tried"], 6)
    won = {win["attack"] for win in evidence["won_by"]}
    assert {"text: many answers", "text: two answers"} <= won


def test_a_report_is_plain_json() -> None:
    report = run_conformance(known_here_only(cases.Good), checks=["golden", "gameability"])
    again = ConformanceReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report and [result.name for result in again.results] == [
        "golden",
        "gameability",
    ]


def test_a_share_of_attacks_may_be_allowed() -> None:
    wanted: dict[str, Any] = {"checks": ["gameability"]}
    spray = known_here_only(cases.FindsItAnywhere)
    assert not run_conformance(spray, **wanted).passed
    assert run_conformance(spray, max_gameability=0.9, **wanted).passed
    spray.max_gameability = 1.0  # type: ignore[attr-defined]
    assert run_conformance(spray, **wanted).passed
    assert not run_conformance(spray, max_gameability=0.01, **wanted).passed
    report = run_conformance(spray, kinds=["code", "judge"], **wanted)
    assert report.gameability == 0.0
    assert set(report["gameability"].evidence["by_kind"]) == {"code", "judge"}


def test_examples_may_have_options_and_scores() -> None:
    examples = [
        Example("paris", "Paris", "wrong", score=0.0),
        Example("paris", "Paris", "correct", options={"ignore_case": True}, score=1.0),
        Example("x", "", "error"),
        Example("y", "Paris", "any"),
    ]
    good = known_here_only(cases.Good)
    report = run_conformance(good, examples)
    assert report.passed, str(report)
    report = run_conformance(good, [Example("x", "Paris", "wrong", score=0.5)], checks=["golden"])
    assert "must be wrong with score 0.5, is wrong 0" in report["golden"].message
    report = run_conformance(good, [Example("x", "Paris", "error")], checks=["references"])
    assert "'Paris' is unreadable, and check_reference accepts it" in report["references"].message


def test_options_that_every_example_has_are_those_of_the_suite() -> None:
    options = {"ignore_case": True}
    examples = [
        Example("paris", "Paris", True, options=options),
        Example("rome", "Paris", False, options=options),
    ]
    report = run_conformance(cases.Good, examples, checks=["golden", "process", "config"])
    assert report.passed and report["config"].evidence["options"] == options


def test_an_instance_is_tested_in_this_process() -> None:
    instance = cases.Good(cases.Good.Config(ignore_case=True))
    examples = [Example("PARIS", "Paris", "correct"), Example("Rome", "Paris", "wrong")]
    report = run_conformance(instance, examples)
    assert report.passed and "it is an instance" in report["process"].message
    with pytest.raises(ConfigError, match="Give the class instead"):
        run_conformance(instance, examples, options={"ignore_case": False})


def test_a_decorated_function_ships_examples() -> None:
    report = check_conformance(starts_with, checks=["golden", "config", "process", "gameability"])
    assert report["golden"].evidence["examples"] == 2
    assert report.verifier == "starts_with"


@verifier(
    version="2.0",
    examples=lambda: [Example("yes, sir", "yes,", True), Example("no", "yes,", "wrong")],
)
def starts_with(sample: Sample, *, ignore_case: bool = False) -> bool:
    """Correct if the completion starts with the reference and a space."""
    return sample.completion.startswith(f"{sample.reference} s")


def test_a_heavy_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jax.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    report = run_conformance(cases.ImportsModels, checks=["constructor"])
    assert "making an instance imports jax. Import them in preload()" in str(report)


def test_a_hang_where_nothing_kills_it_is_found_by_silence() -> None:
    report = run_conformance(cases.HangsHere, checks=["thread", "inputs"], silence=1.0)
    assert report["inputs"].outcome == "passed"  # a new process went on
    assert "no sign of life for 1 s; it was last asked about" in report["thread"].message


def test_a_crash_of_the_suites_process_costs_one_check(tmp_path: Path) -> None:
    plugin = tmp_path / "quits.py"
    plugin.write_text(QUITS)
    report = run_conformance("quits", plugin_files=[str(plugin)], checks=["references", "details"])
    assert report["details"].outcome == "passed"
    assert "its process ended with exit code 7" in report["references"].message


QUITS = """
import os
from grpo_core import Verdict, hookimpl
from grpo_core.testing import Example

class Quits:
    version = "1"
    examples = [Example("a", "a", True)]
    def verify(self, samples):
        return [Verdict.correct() for sample in samples]
    def check_reference(self, reference):
        os._exit(7)

@hookimpl
def grpo_register_verifiers(register):
    register("quits", Quits)
"""


def with_method(method: str) -> str:
    return QUITS.replace("    def verify", f"    def {method}\n    def verify")


def test_a_verifier_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    plugin = tmp_path / "quits.py"
    plugin.write_text(with_method("__init__(self): os._exit(6)"))
    with pytest.raises(PluginError, match=r"verifier quits cannot be tested: .* exit code 6"):
        run_conformance("quits", plugin_files=[str(plugin)])
    plugin.write_text(with_method("__init__(self): 1 / 0"))
    with pytest.raises(PluginError, match="cannot be created: ZeroDivisionError"):
        run_conformance("quits", plugin_files=[str(plugin)])


def test_a_failing_preload_is_a_failure(tmp_path: Path) -> None:
    plugin = tmp_path / "quits.py"
    plugin.write_text(with_method("preload(self): 1 / 0"))
    report = run_conformance("quits", plugin_files=[str(plugin)], checks=["latency"])
    assert "failed in preload(): ZeroDivisionError" in report["latency"].message


def test_wrong_input_is_refused() -> None:
    with pytest.raises(PluginError, match="Unknown verifier 'exakt'"):
        run_conformance("exakt")
    with pytest.raises(ConfigError, match="unknown setting"):
        run_conformance(cases.Good, options={"ignore_kase": True})
    with pytest.raises(ConfigError, match=r"Unknown check 'gold'. Did you mean 'golden'"):
        run_conformance(cases.Good, checks=["gold"])
    with pytest.raises(ConfigError, match=r"Unknown kind of attacks 'maths'. Did you mean 'math'"):
        run_conformance(cases.Good, kinds=["maths"])

    class NoExamples(cases.Good):
        examples = ()

    with pytest.raises(DataError, match="ships no examples, and none were given"):
        run_conformance(NoExamples)
    with pytest.raises(DataError, match=r"must be grpo_core.testing.Example, got \('a', 'a'\)"):
        NoExamples.examples = (("a", "a"),)  # type: ignore[assignment]
        run_conformance(NoExamples)


@pytest.mark.parametrize(
    "cls",
    [cls if cls is AnyNumber else pytest.param(cls, marks=pytest.mark.slow) for cls in FOOLED_BY],
)
def test_attacks_fool_who_can_be_fooled(cls: type) -> None:
    """In processes: some attacks are programs that would end this one."""
    report = run_conformance(cls, checks=["golden", "gameability"])
    assert report["golden"].outcome == "passed", str(report)
    evidence = report["gameability"].evidence
    won = set(evidence["won_attacks"])
    assert FOOLED_BY[cls] <= won, won
    assert report["gameability"].outcome == "failed" and 0 < evidence["score"] < 0.6


def test_the_documentation_is_complete_and_runs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
    for name in (*(check.name for check in CHECKS), *KINDS):
        assert f"`{name}`" in text, name
    _, plugin = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "equal.py"
    path.write_text(plugin)
    report = run_conformance("equal", plugin_files=[str(path)], checks=["golden", "gameability"])
    assert report.passed and report["golden"].evidence["examples"] == 5
