"""Our own plugins, attached as a stranger's are; and what helps to test any plugin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import grpo_plugins.hooks
import grpo_tasks.hooks
import grpo_verifiers.hooks
from grpo_core import Sample, Status, Verdict, shaper, verifier
from grpo_core.errors import VerifierError
from grpo_core.plugin_manager import Plugins, PluginSources, load_plugins
from grpo_core.testing import check_shaper, check_task, check_verifier, make_scored

ROOT = Path(__file__).parents[2]
OURS = (grpo_plugins.hooks, grpo_tasks.hooks, grpo_verifiers.hooks)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins(PluginSources(use_entry_points=False), extra=OURS)


def test_names(plugins: Plugins) -> None:
    assert {"exact", "math"} <= {item.name for item in plugins.verifiers}
    assert {"arithmetic", "gsm8k", "dataset"} <= {item.name for item in plugins.tasks}
    shapers = {"format_bonus", "length_penalty", "overlong", "repetition"}
    assert shapers <= {item.name for item in plugins.shapers}


@pytest.mark.parametrize("kind", ["verifiers", "shapers", "tasks"])
def test_each_loads_and_describes_itself(plugins: Plugins, kind: str) -> None:
    for item in getattr(plugins, kind):
        assert item.summary, item.name
        assert re.fullmatch(r"\d+(\.\d+)*", str(item.load().version)), item.name
        fields = item.config_type.model_fields if item.config_type else {}
        assert len(fields) <= 12, item.name
        for name, field in fields.items():
            assert field.description, f"option '{name}' of {item.kind} '{item.name}'"


def test_each_task_names_a_verifier_that_exists(plugins: Plugins) -> None:
    for item in plugins.tasks:
        task = item.load()
        assert task.default_verifier in plugins.verifiers
        assert task.evaluation_split in task.splits and "train" in task.splits


def test_arithmetic_and_its_verifier_fit_together(plugins: Plugins) -> None:
    task = plugins.tasks["arithmetic"].create({"levels": ["add2", "chain3"]})
    judge = plugins.verifiers[task.default_verifier].create({})
    for prompt in task.load("test")[:10]:
        wrong = str(int(prompt.reference) + 1)
        samples = [
            Sample(prompt.text, f"The answer is {text}.", prompt.reference)
            for text in (prompt.reference, wrong)
        ]
        assert [v.is_correct for v in judge.verify(samples)] == [True, False]


# ---- the READMEs --------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["verifiers", "plugins", "tasks"])
def test_add_your_own_works(tmp_path: Path, folder: str) -> None:
    """The Python blocks of "Add your own", written one after the other into a file plugin."""
    text = (ROOT / folder / "README.md").read_text(encoding="utf-8").split("## Add your own")[1]
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    code = "\n".join(re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in blocks)
    path = tmp_path / "own.py"
    path.write_text(code)
    plugins = load_plugins(PluginSources((str(path),), use_entry_points=False))
    added = [item for registry in plugins.registries for item in registry]
    [own] = [item for item in added if item.plugin.name == "own"]
    match folder:
        case "verifiers":
            check_verifier(own.load(), accept=[("Yes", "yes")], options={"ignore_case": True})
        case "plugins":
            assert check_shaper(own.load(), [make_scored("!!"), make_scored("!")]) == [-1.0, 0.0]
        case "tasks":
            assert len(check_task(own.load(), {"size": 5})["test"]) == 5


@pytest.mark.parametrize("folder", ["verifiers", "plugins", "tasks"])
def test_folders_are_no_packages(folder: str) -> None:
    """An __init__.py here would shadow the well-known package `verifiers`, for one."""
    assert not (ROOT / folder / "__init__.py").exists()


# ---- grpo_core.testing --------------------------------------------------------------------------


class Faulty:
    """A verifier that does one thing wrong."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.calls = 0

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        self.calls += 1
        if self.fault == "drops" and len(samples) > 1:
            samples = samples[1:]
        verdicts = [self.judge(sample) for sample in samples]
        return verdicts[::-1] if self.fault == "reorders" else verdicts

    def judge(self, sample: Sample) -> Any:
        match self.fault:
            case "raises" if sample.completion == "":
                raise ZeroDivisionError
            case "errs" if "\x00" in sample.completion:
                return Verdict.error("no")
            case "changes" if self.calls > 3:
                return Verdict.wrong(score=0.5)
            case "bools":
                return True
        right = sample.completion == sample.reference
        return Verdict.correct() if right else Verdict.wrong()


PAIRS: dict[str, Any] = {"accept": [("a", "a")], "reject": [("b", "a")]}


def test_check_verifier_passes_a_good_one() -> None:
    check_verifier(Faulty, **PAIRS)
    check_verifier(Faulty(), **PAIRS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("drops", "1 verdicts for 2 samples"),
        ("reorders", "is correct alone and wrong in batch 1"),
        ("errs", "made the verifier fail: error: no"),
        ("changes", "is correct alone and wrong in batch 2"),
        ("bools", "got True, not a Verdict"),
    ],
)
def test_check_verifier_finds_faults(fault: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_verifier(Faulty(fault), **PAIRS)


def test_check_verifier_lets_exceptions_through() -> None:
    with pytest.raises(ZeroDivisionError):
        check_verifier(Faulty("raises"), **PAIRS)


def test_check_verifier_names_the_pair() -> None:
    with pytest.raises(AssertionError, match="completion 'b' with reference 'a' must be correct"):
        check_verifier(Faulty, accept=[("b", "a")])
    with pytest.raises(AssertionError, match="'a' must be wrong or unparseable, is correct"):
        check_verifier(Faulty, reject=[("a", "a")])
    with pytest.raises(AssertionError, match="at least one pair"):
        check_verifier(Faulty)


def test_check_verifier_asks_for_the_reference() -> None:
    class Picky(Faulty):
        def check_reference(self, reference: Any) -> None:
            raise VerifierError("cannot be read")

    with pytest.raises(VerifierError, match="cannot be read"):
        check_verifier(Picky, **PAIRS)


def test_verifier_that_abstains_on_odd_texts_is_fine() -> None:
    @verifier()
    def careful(sample: Sample) -> Verdict:
        if sample.completion not in ("a", "b"):
            return Verdict.abstain()
        return Verdict.correct() if sample.completion == "a" else Verdict.wrong()

    check_verifier(careful, **PAIRS)
    with pytest.raises(AssertionError, match="must be wrong or unparseable, is abstain"):
        check_verifier(careful, reject=[("c", "a")])


def test_check_shaper_finds_values_outside_of_the_range() -> None:
    @shaper(range=(0.0, 1.0))
    def length(scored: Any) -> float:
        return len(scored.completion.text) / 10

    with pytest.raises(AssertionError, match=r"is outside of \[0.0, 1.0\]"):
        check_shaper(length)


def test_check_task_finds_overlap_and_change(plugins: Plugins) -> None:
    from grpo_tasks.arithmetic import Arithmetic

    class Leaking(Arithmetic):
        def load(self, split: str) -> Sequence[Any]:
            return super().load("train")

    class Restless(Arithmetic):
        seed = 0

        def load(self, split: str) -> Sequence[Any]:
            self.seed += 1
            return type(self)(self.Config(seed=self.seed))._plain(split)

        def _plain(self, split: str) -> Sequence[Any]:
            return super().load(split)

    with pytest.raises(AssertionError, match="of 'test' stands in 'train', too"):
        check_task(Leaking)
    with pytest.raises(AssertionError, match="split 'train' changed when reloaded"):
        check_task(Restless)


def test_made_completions() -> None:
    scored = make_scored("ab", num_tokens=5, verdict=Verdict.wrong(), finish_reason="length")
    assert len(scored.completion.token_ids) == len(scored.completion.sampler_logprobs) == 5
    assert scored.completion.is_truncated and scored.verdict.status is Status.WRONG
    assert make_scored("").completion.token_ids == ()
