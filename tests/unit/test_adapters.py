"""Adapters: rewards to verdicts, functions by name, and classes made in code."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import ConfigError, PluginError, VerifierError
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.registry import PluginInfo, Registry
from grpo_core.testing import check_verifier
from grpo_core.types import Sample, Status, Verdict
from grpo_verifiers.adapters import from_open_instruct, from_openrlhf, from_trl, from_verl
from grpo_verifiers.adapters.function import accepted, required
from grpo_verifiers.adapters.loading import find_source, load_function, source_hash
from grpo_verifiers.adapters.options import AdapterOptions, pick, reward_verdict
from grpo_verifiers.adapters.values import as_json, as_number, as_numbers, item_of

SAMPLE = Sample(
    "What is 36 + 36?",
    "It is 72",
    "72",
    {"level": 3, "extra_info": {"index": 7}, "data_source": "sums"},
    ({"role": "system", "content": "Be short."}, {"role": "user", "content": "What is 36 + 36?"}),
    (5, 6, 7),
)


def samples(*completions: str, reference: Any = "72") -> list[Sample]:
    return [Sample("What is 36 + 36?", text, reference) for text in completions]


def statuses(verdicts: Sequence[Verdict]) -> list[str]:
    return [str(verdict.status) for verdict in verdicts]


# ---- rewards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reward", "status", "score"),
    [
        ({}, 1.0, "correct", 1.0),
        ({}, 0.0, "wrong", 0.0),
        ({}, 0.5, "wrong", 0.5),
        ({"correct_at": 0.5}, 0.5, "correct", 0.5),
        ({"low": -1.0, "high": 2.0}, 2.0, "correct", 1.0),
        ({"low": -1.0, "high": 2.0}, 0.5, "wrong", 0.5),
        ({"low": -1.0, "high": 2.0, "correct_at": 0.2}, 0.5, "correct", 0.5),
        ({}, 1.0000001, "correct", 1.0),
        ({}, None, "abstain", None),
    ],
)
def test_rewards_become_verdicts(
    options: dict[str, float], reward: float | None, status: str, score: float | None
) -> None:
    verdict = reward_verdict(reward, AdapterOptions.model_validate(options), {"a": 1})
    assert (verdict.status, verdict.score) == (status, pytest.approx(score))
    assert verdict.details["a"] == 1 and verdict.details.get("reward") == reward


@pytest.mark.parametrize("reward", [1.1, -0.1, math.nan, math.inf])
def test_rewards_outside_of_the_range_are_errors_of_the_options(reward: float) -> None:
    with pytest.raises(VerifierError, match=r"options low and high|no number"):
        reward_verdict(reward, AdapterOptions(), {})


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1), st.floats(0, 1))
def test_scores_are_bounded_and_keep_the_order(
    low: float, width: float, one: float, other: float
) -> None:
    options = AdapterOptions(low=low, high=low + width)
    scores = [reward_verdict(low + x * width, options, {}).score for x in sorted((one, other))]
    assert scores[0] is not None and scores[1] is not None
    assert 0 <= scores[0] <= scores[1] <= 1


def test_ranges_that_make_no_sense_are_refused() -> None:
    for wrong in ({"low": 1.0}, {"correct_at": 0.0}, {"correct_at": 1.5}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=r"low|correct_at|batch_size"):
            AdapterOptions.model_validate(wrong)


# ---- plain values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [1.5, torch.tensor(1.5), torch.tensor([[1.5]]), np.float32(1.5), np.array([1.5]), [1.5]],
)
def test_numbers_of_any_make(value: Any) -> None:
    assert as_number(value, "it") == 1.5


@pytest.mark.parametrize(
    "value",
    [
        [1, None, 0.5],
        (1, None, 0.5),
        [torch.tensor(1.0), None, np.float64(0.5)],
        np.array([1, None, 0.5], dtype=object),
    ],
)
def test_lists_of_any_make(value: Any) -> None:
    assert as_numbers(value, 3, "it") == [1.0, None, 0.5]


def test_what_is_no_number_is_said() -> None:
    for wrong in ("1.0", None, [1, 2], {}, object()):
        with pytest.raises(VerifierError, match=r"it returned .* where a number was expected"):
            as_number(wrong, "it")
    with pytest.raises(VerifierError, match="returned 2 rewards for 3 samples"):
        as_numbers([1, 0], 3, "it")
    with pytest.raises(VerifierError, match="where a list of 3 rewards was expected"):
        as_numbers(torch.tensor(1.0), 3, "it")
    assert as_numbers(torch.tensor(True), 1, "it") == [1.0]


def test_details_are_plain_json() -> None:
    value = {1: torch.tensor([1.5]), "b": {"c": (np.int64(2), math.nan)}, "d": object}
    assert as_json(value) == {
        "1": [1.5],
        "b": {"c": [2, "float nan"]},
        "d": "type <class 'object'>",
    }
    assert item_of(torch.tensor([1.0, 2.0]), 1, 2) == 2.0
    assert item_of(0.5, 1, 2) == 0.5
    loop: list[Any] = []
    loop.append(loop)
    assert isinstance(as_json(loop), list)


def test_columns_lead_into_a_sample() -> None:
    assert pick(SAMPLE, "reference") == "72"
    assert pick(SAMPLE, "meta.extra_info.index") == 7
    assert pick(SAMPLE, "meta") == dict(SAMPLE.meta)
    for path in ("meta.nothing", "refrence", "reference.x", "meta.level.x"):
        with pytest.raises(VerifierError, match=f"columns names '{path}'"):
            pick(SAMPLE, path)


# ---- functions by name --------------------------------------------------------------------------


def test_functions_are_found_without_being_imported(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise SystemError('imported')")
    assert find_source(f"{file}:f") == file
    assert find_source("json.decoder:JSONDecoder") == Path(
        str(__import__("json").__file__)
    ).with_name("decoder.py")
    assert source_hash(file) != source_hash(None)
    for target, message in [
        (f"{tmp_path}/none.py:f", "no file"),
        ("no_such_package_x.y:f", "no module 'no_such_package_x'"),
        ("json.nothing:f", "no module 'json.nothing'"),
        ("json", "names no function"),
        (":f", "names no function"),
    ]:
        with pytest.raises(ConfigError, match=message):
            find_source(target)


def test_functions_are_loaded_from_files_and_modules(tmp_path: Path) -> None:
    (tmp_path / "beside_adapted.py").write_text("VALUE = 7")
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "import beside_adapted\n@dataclass\nclass Box:\n    value: int\n"
        "def f(): return Box(beside_adapted.VALUE)\n"
    )
    assert load_function(f"{file}:f")().value == 7
    assert load_function(f"{file}:f") is load_function(f"{file}:f")
    assert load_function("math:sqrt") is math.sqrt
    assert load_function("json.decoder:JSONDecoder.decode")
    with pytest.raises(ConfigError, match="has no 'g'"):
        load_function(f"{file}:g")
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_package_x")
    with pytest.raises(PluginError, match=r"importing .*broken.py' failed: ModuleNotFoundError"):
        load_function(f"{broken}:f")


def test_arguments_follow_the_signature() -> None:
    def some(a: int, /, b: int, *, c: int = 1) -> None: ...
    def many(b: int, **rest: int) -> None: ...

    given_ = {"a": 1, "b": 2, "d": 3}
    assert accepted(some, given_) == {"b": 2}
    assert accepted(many, given_) == given_
    assert required(some) == {"b"} and required(many) == {"b"}
    assert accepted(min, {"a": 1}) == {"a": 1}


def test_every_adapter_names_the_version_of_its_function(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    registries = load_plugins(PluginSources()).verifiers
    for name in ("trl", "verl", "openrlhf", "open_instruct"):
        file.write_text("def f(): return 1")
        first = registries[name].create({"function": f"{file}:f"}).version
        file.write_text("def f(): return 2")
        second = registries[name].create({"function": f"{file}:f"}).version
        assert first.startswith("1.0-") and second.startswith("1.0-") and first != second
        with pytest.raises(ConfigError, match="no file"):
            registries[name].create({"function": f"{tmp_path}/none.py:f"})


# ---- classes made in code -----------------------------------------------------------------------


def test_a_trl_function_becomes_a_class() -> None:
    @from_trl(low=-1.0, version="2.1")
    def ends_in_answer(completions: Any, answer: Any, **kwargs: Any) -> list[float]:
        """1 where it ends in the answer."""
        pairs = zip(completions, answer, strict=True)
        return [1.0 if c[0]["content"].endswith(a) else -1.0 for c, a in pairs]

    kind: Any = ends_in_answer
    registry = Registry("verifier")
    registry.add("mine", kind, PluginInfo("test", "here", "", ""))
    assert (registry["mine"].version, registry["mine"].summary) == (
        "2.1",
        "1 where it ends in the answer.",
    )
    verifier = registry["mine"].create({})
    assert statuses(verifier.verify(samples("72", "71"))) == ["correct", "wrong"]
    assert verifier.reads == ("messages", "token_ids") and verifier.placement == "process"
    assert registry["mine"].create({"low": -3.0}).verify(samples("71"))[0].score == 0.5
    for wrong in ({"function": "x:y"}, {"weights": [1]}):
        with pytest.raises(ConfigError, match="unknown setting"):
            registry["mine"].create(wrong)
    with pytest.raises(ValueError, match="low must be less"):
        from_trl(low=7.0)(lambda completions: [])
    check_verifier(kind, accept=[("so 72", "72")], reject=[("71", "72"), ("", "72")])


def test_a_trl_function_gets_all_that_trl_gives() -> None:
    seen: dict[str, Any] = {}

    async def reward(**kwargs: Any) -> list[float | None]:
        seen.update(kwargs)
        await asyncio.sleep(0)
        kwargs["log_extra"]("parsed", ["a", "b"])
        kwargs["log_metric"]("accuracy", 0.5)
        return [1.0, None]

    other = Sample("Q?", "B", "r", {"level": 4})
    kind = from_trl(reward, columns={"tag": "meta.level"}, arguments={"k": 2})
    verdicts = kind(kind.Config()).verify([SAMPLE, other])
    assert statuses(verdicts) == ["correct", "abstain"]
    assert seen["prompts"] == [list(SAMPLE.messages), [{"role": "user", "content": "Q?"}]]
    assert seen["completions"][0] == [{"role": "assistant", "content": "It is 72"}]
    assert seen["completion_ids"] == [[5, 6, 7], []]
    assert seen["solution"] == ["72", "r"] and seen["level"] == [3, 4] and seen["tag"] == [3, 4]
    assert seen["data_source"] == ["sums", None] and seen["k"] == 2
    with pytest.raises(AttributeError, match="global_step is not known to a verifier"):
        _ = seen["trainer_state"].global_step
    assert verdicts[1].details == {"log_extra": {"parsed": "b"}, "log_metric": {"accuracy": 0.5}}


def test_a_plain_trl_function_gets_texts() -> None:
    def reward(prompts: list[str], completions: list[str], solution: list[str]) -> list[float]:
        assert prompts == ["What is 36 + 36?"]
        return [float(s in c) for c, s in zip(completions, solution, strict=True)]

    kind = from_trl(reward, form="plain")
    assert statuses(kind(kind.Config()).verify([SAMPLE])) == ["correct"]


def test_trl_nan_is_no_opinion_and_none_needs_no_sum(tmp_path: Path) -> None:
    file = tmp_path / "two.py"
    file.write_text(
        "def length(completions, **kw):\n"
        "    return [min(len(c[0]['content']), 4) / 4 for c in completions]\n"
        "def sure(completions, **kw):\n"
        "    return [None if '?' in c[0]['content'] else float('nan') if '!' in c[0]['content']"
        " else 1.0 for c in completions]\n"
    )
    registration = load_plugins(PluginSources()).verifiers["trl"]
    options = {"function": [f"{file}:length", f"{file}:sure"], "weights": [1, 3], "high": 4}
    verdicts = registration.create(options).verify(samples("yes.", "y?", "y!", ""))
    assert [verdict.details["reward"] for verdict in verdicts] == [4.0, 0.5, 0.5, 3.0]
    assert verdicts[0].is_correct and verdicts[1].details["rewards"] == {
        f"{file}:length": 0.5,
        f"{file}:sure": None,
    }
    (verdict,) = registration.create({"function": f"{file}:sure"}).verify(samples("?"))
    assert verdict.status is Status.ABSTAIN
    with pytest.raises(ConfigError, match="1 weights for 2"):
        registration.create({**options, "weights": [1]})


def test_what_a_trl_function_needs_is_said() -> None:
    def reward(completions: Any, target: Any) -> list[float]:
        return [float(t == 3) for t in target]

    kind = from_trl(reward)
    with pytest.raises(VerifierError, match=r"needs target.*columns = \{target = 'reference'\}"):
        kind(kind.Config()).verify([SAMPLE])
    verifier = kind(kind.Config(columns={"target": "meta.level"}))
    assert statuses(verifier.verify([SAMPLE])) == ["correct"]


# ---- verl ---------------------------------------------------------------------------------------


def test_a_verl_function_gets_its_four_arguments() -> None:
    def compute_score(
        data_source: str,
        solution_str: str,
        ground_truth: str,
        extra_info: dict[str, Any],
        bonus: int,
    ) -> dict[str, Any]:
        assert (data_source, ground_truth, extra_info) == ("sums", "72", {"index": 7})
        extra_info["index"] = 8
        return {"score": float(ground_truth in solution_str) + bonus, "pred": "72", "acc": True}

    kind = from_verl(compute_score, low=1.0, high=2.0, arguments={"bonus": 1})
    for _ in range(2):  # what it writes into extra_info does not come back
        (verdict,) = kind(kind.Config()).verify([SAMPLE])
    assert verdict.is_correct and verdict.details == {"reward": 2.0, "pred": "72", "acc": True}


def test_a_verl_function_without_data_source() -> None:
    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Any
    ) -> Any:
        return data_source == "mine" and ground_truth == 5 and extra_info == {"gold": {"x": 5}}

    kind = from_verl(compute_score)
    sample = Sample("Q?", "A", None, {"gold": {"x": 5}})
    verifier = kind(
        kind.Config(arguments={"data_source": "mine"}, columns={"ground_truth": "meta.gold.x"})
    )
    assert statuses(verifier.verify([sample])) == ["correct"]


def test_only_the_sample_that_failed_gets_the_error() -> None:
    def compute_score(solution_str: str, **kwargs: Any) -> float:
        return 1 / len(solution_str)

    kind = from_verl(compute_score, batch_size=8)
    verdicts = kind(kind.Config()).verify(samples("a", "", "abcd"))
    assert statuses(verdicts) == ["correct", "error", "wrong"]
    assert verdicts[1].reason == "raised ZeroDivisionError: division by zero"
    assert "test_adapters.py" in verdicts[1].details["where"]
    with pytest.raises(ZeroDivisionError):
        kind(kind.Config()).verify(samples(""))


@pytest.mark.parametrize("result", ["1.0", None, {"acc": 1.0}, {"score": "high"}, 3.0, math.nan])
def test_verl_results_that_are_no_score(result: Any) -> None:
    kind = from_verl(lambda solution_str, **kwargs: result)
    with pytest.raises(VerifierError):
        kind(kind.Config()).verify([SAMPLE])


def test_coroutines_run_together_on_one_loop() -> None:
    loops, running, most = set(), 0, 0

    async def compute_score(solution_str: str, **kwargs: Any) -> float:
        nonlocal running, most
        loops.add(asyncio.get_running_loop())
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return 1 / len(solution_str)

    kind = from_verl(compute_score, batch_size=8)
    verifier = kind(kind.Config())
    expected = ["correct", "wrong", "error"]
    assert statuses(verifier.verify(samples("a", "ab", ""))) == expected

    async def inside() -> list[Verdict]:
        return verifier.verify(samples("a", "ab", ""))

    assert statuses(asyncio.run(inside())) == expected
    assert most == 3 and len(loops) == 1


def test_a_verl_function_of_a_batch() -> None:
    def compute_score_batched(
        data_sources: Any, solution_strs: Any, ground_truths: Any, extra_infos: Any
    ) -> Any:
        assert len(data_sources) == len(extra_infos) == 2
        return np.array([s == g for s, g in zip(solution_strs, ground_truths, strict=True)])

    kind = from_verl(compute_score_batched, batch_size=8)
    assert statuses(kind(kind.Config()).verify(samples("72", "71"))) == ["correct", "wrong"]
    short = from_verl(lambda solution_strs: [1.0])
    with pytest.raises(VerifierError, match="list of 2"):
        short(short.Config()).verify(samples("72", "71"))


# ---- OpenRLHF -----------------------------------------------------------------------------------


def test_an_openrlhf_function_returns_tensors() -> None:
    def reward_func(queries: Any, prompts: Any, labels: Any, **kwargs: Any) -> dict[str, Any]:
        responses = [q[len(p) :] for q, p in zip(queries, prompts, strict=True)]
        rewards = torch.tensor([float(r == v) for r, v in zip(responses, labels, strict=True)])
        logs = {"accuracy": rewards.mean(), "length": torch.tensor([len(r) for r in responses])}
        return {"rewards": 2 * rewards - 1, "scores": rewards, "extra_logs": logs}

    kind = from_openrlhf(reward_func, low=-1.0)
    verdicts = kind(kind.Config()).verify(samples("72", "7"))
    assert statuses(verdicts) == ["correct", "wrong"]
    assert verdicts[1].details == {
        "reward": -1.0,
        "scores": 0.0,
        "extra_logs": {"accuracy": 0.5, "length": 1},
    }
    kind = from_openrlhf(reward_func, key="scores")
    assert kind(kind.Config()).verify(samples("72"))[0].details["reward"] == 1.0


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"reward": [1, 0]}, "mapping without 'rewards': \\['reward'\\]"),
        (torch.tensor([1.0]), "1 rewards for 2 samples"),
        (None, "without 'rewards'"),
        ("11", "list of 2 rewards"),
    ],
)
def test_openrlhf_results_that_are_no_rewards(result: Any, message: str) -> None:
    kind = from_openrlhf(lambda queries, prompts, labels: result)
    with pytest.raises(VerifierError, match=message):
        kind(kind.Config()).verify(samples("72", "71"))


def test_a_list_is_enough_for_openrlhf() -> None:
    kind = from_openrlhf(lambda queries, prompts, labels, level: [x / 4 for x in level])
    verifier = kind(kind.Config(columns={"level": "meta.level"}))
    assert verifier.verify([SAMPLE])[0].score == 0.75


# ---- open-instruct ------------------------------------------------------------------------------


class VerifierFunction:
    """As open-instruct's base class is written."""

    def __init__(self, name: str, weight: float = 1.0, verifier_config: Any = None) -> None:
        self.name, self.weight, self.verifier_config = name, weight, verifier_config

    @classmethod
    def get_config_class(cls) -> type:
        return SimpleNamespace

    async def async_call(
        self, tokenized_prediction: list[int], prediction: str, label: Any, query: str | None = None
    ) -> Any:
        loop = asyncio.get_event_loop()
        return await loop.run_in_executor(
            None,
            lambda: self(tokenized_prediction, prediction, label, query),  # type: ignore[operator]
        )


class LastNumber(VerifierFunction):
    def __init__(self, verifier_config: Any = None) -> None:
        super().__init__("last_number", verifier_config=verifier_config)

    def __call__(
        self, tokenized_prediction: list[int], prediction: str, label: str, query: str | None = None
    ) -> Any:
        assert query == "What is 36 + 36?"
        bonus = getattr(self.verifier_config, "bonus", 0.0)
        return SimpleNamespace(score=(prediction.split()[-1] == label) / 2 + bonus, cost=0.0)


class AskedFor(VerifierFunction):
    def __init__(self, verifier_config: Any = None) -> None:
        super().__init__("asked_for")

    async def async_call(
        self,
        tokenized_prediction: list[int],
        prediction: str,
        label: str,
        query: str | None = None,
        rollout_state: Any = None,
    ) -> Any:
        await asyncio.sleep(0)
        score = float(len(tokenized_prediction) == 3)
        return SimpleNamespace(score=score, cost=0.02, reasoning="three tokens")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("Cannot call synchronous __call__ method from within an async context.")


def test_open_instruct_classes_and_instances() -> None:
    kind = from_open_instruct(LastNumber, high=0.5)
    assert statuses(kind(kind.Config()).verify(samples("It is 72", "71"))) == ["correct", "wrong"]
    kind = from_open_instruct(LastNumber)
    arguments = {"verifier_config": {"bonus": 0.5}}
    assert kind(kind.Config(arguments=arguments)).verify(samples("72"))[0].is_correct
    kind = from_open_instruct(LastNumber(), correct_at=0.5)
    assert kind(kind.Config()).verify(samples("72"))[0].is_correct


def test_an_asynchronous_open_instruct_verifier() -> None:
    kind = from_open_instruct(AskedFor, batch_size=4)
    verifier = kind(kind.Config())
    verdicts = verifier.verify([SAMPLE, *samples("72")])
    assert statuses(verdicts) == ["correct", "wrong"] and verifier.reads == ("token_ids",)
    assert verdicts[0].details == {"reward": 1.0, "cost": 0.02, "reasoning": "three tokens"}


def test_arguments_are_for_classes() -> None:
    kind = from_open_instruct(LastNumber())
    with pytest.raises(ConfigError, match="names one that is made already"):
        kind(kind.Config(arguments={"weight": 2})).verify([SAMPLE])
