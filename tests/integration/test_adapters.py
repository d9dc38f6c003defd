"""Adapters as a run uses them: functions from files in a pool, TRL's own, and reward servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from grpo_core.errors import ConfigError
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.types import Sample, Status, Verdict
from grpo_core.verification.pool import VerifierPool, VerifierSpec
from grpo_verifiers.adapters import from_trl
from grpo_verifiers.adapters.openrlhf_server import OpenRlhfServer
from grpo_verifiers.remote import endpoint
from judge_server import JudgeServer, judge_server

FILES = {
    "trl": """
        import re

        def accuracy(completions, answer, **kwargs):
            contents = [completion[0]["content"] for completion in completions]
            numbers = [re.findall(r"-?\\d+", content) for content in contents]
            return [1.0 if n and n[-1] == a else 0.0 for n, a in zip(numbers, answer)]
        """,
    "verl": """
        def compute_score(data_source, solution_str, ground_truth, extra_info=None):
            if data_source != "sums":
                raise NotImplementedError(f"Reward function is not implemented for {data_source=}")
            return {"score": 1.0 if ground_truth in solution_str else 0.0, "len": len(solution_str)}
        """,
    "openrlhf": """
        import torch

        def reward_func(queries, prompts, labels, **kwargs):
            rewards = []
            for query, prompt, label in zip(queries, prompts, labels):
                response = query[len(prompt):] if prompt in query else query
                rewards.append(1.0 if label in response else 0.0)
            rewards = torch.tensor(rewards, dtype=torch.float)
            print("[reward]", rewards)
            return {"rewards": rewards, "scores": rewards, "extra_logs": {"acc": rewards.mean()}}
        """,
    "open_instruct": """
        from dataclasses import dataclass

        @dataclass
        class VerificationResult:
            score: float
            cost: float = 0.0
            reasoning: str | None = None

        class StringMatcher:
            def __init__(self, verifier_config=None):
                self.name = "string_matcher"

            def __call__(self, tokenized_prediction, prediction, label, query=None):
                return VerificationResult(score=float(label in prediction))
        """,
}
NAMES = {"trl": ":accuracy", "verl": "", "openrlhf": "", "open_instruct": ":StringMatcher"}
COMPLETIONS = ["36 + 36 = 72", "36 + 36 = 71", ""]


def samples(*completions: str, meta: dict[str, Any] | None = None) -> list[Sample]:
    meta = {"data_source": "sums"} if meta is None else meta
    return [Sample("What is 36 + 36?", text, "72", meta) for text in completions]


def statuses(verdicts: list[Verdict]) -> list[str]:
    return [str(verdict.status) for verdict in verdicts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import textwrap

    folder = tmp_path_factory.mktemp("functions")
    for name, text in FILES.items():
        (folder / f"{name}_reward.py").write_text(textwrap.dedent(text))
    return folder


def test_functions_from_files_run_in_a_pool(folder: Path) -> None:
    specs = [
        VerifierSpec(name, {"function": f"{folder}/{name}_reward.py{NAMES[name]}"})
        for name in FILES
    ]
    with VerifierPool(specs, PluginSources()) as pool:
        for name in FILES:
            verdicts = pool.verify(name, samples(*COMPLETIONS))
            assert statuses(verdicts) == ["correct", "wrong", "wrong"], name
            assert {verdict.version[:4] for verdict in verdicts} == {"1.0-"}
        (verdict,) = pool.verify("verl", samples("72", meta={"data_source": "other"}))
        assert verdict.status is Status.ERROR
        assert "raised NotImplementedError" in verdict.reason and "'other'" in verdict.reason
        assert "verl_reward.py" in verdict.details["where"]


def test_a_file_that_cannot_be_imported_is_found_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def reward_func(")
    spec = VerifierSpec("openrlhf", {"function": f"{tmp_path}/broken.py"})
    with pytest.raises(Exception, match=r"importing .*broken.py' failed: SyntaxError"):
        VerifierPool([spec], PluginSources()).close()
    with pytest.raises(ConfigError, match="no file"):
        load_plugins(PluginSources()).verifiers["openrlhf"].create({"function": "nowhere.py"})


# ---- TRL itself ---------------------------------------------------------------------------------


@pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed")
def test_trls_own_rewards() -> None:
    from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

    registration = load_plugins(PluginSources()).verifiers["trl"]
    verifier = registration.create({"function": "trl.rewards:think_format_reward"})
    verdicts = verifier.verify(samples("<think>a</think>72", "<think>72", "72"))
    assert statuses(verdicts) == ["correct", "wrong", "wrong"]

    tokens = [Sample("Q?", "A", None, {}, (), ids) for ids in [(1, 2, 3, 4), (5,) * 6, ()]]
    kind = from_trl(get_repetition_penalty_reward(), low=-1.0, high=0.0)
    verdicts = kind(kind.Config()).verify(tokens)
    assert [verdict.score for verdict in verdicts] == [1.0, pytest.approx(0.25), 1.0]
    kind = from_trl(get_soft_overlong_punishment(5, 3), low=-1.0, high=0.0)
    verdicts = kind(kind.Config()).verify(tokens)
    assert [v.score for v in verdicts] == [pytest.approx(1 - 2 / 3), 0.0, 1.0]


@pytest.mark.skipif(
    find_spec("trl") is None or find_spec("math_verify") is None,
    reason="trl or math-verify is not installed",
)
def test_trls_accuracy_reward_in_a_pool() -> None:
    spec = VerifierSpec("trl", {"function": "trl.rewards:accuracy_reward"})
    boxed = [r"So \boxed{\frac{1}{3}}.", r"So \boxed{\frac{1}{2}}.", "no idea"]
    pairs = [(text, r"\frac{1}{3}") for text in boxed] + [(boxed[0], "no formula here")]
    with VerifierPool([spec], PluginSources(), deadline=60, memory_mb=8192) as pool:
        verdicts = pool.verify("trl", [Sample("Q?", text, gold) for text, gold in pairs])
    assert statuses(verdicts) == ["correct", "wrong", "wrong", "abstain"]
    assert verdicts[0].details["log_extra"]["solution"] == r"\frac{1}{3}"


# ---- reward servers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def running() -> Iterator[list[JudgeServer]]:
    with judge_server("/get_reward") as one, judge_server("/get_reward") as other:
        yield [one, other]


def rewards(body: dict[str, Any]) -> JSONResponse:
    triples = zip(body["query"], body["prompts"], body["labels"], strict=True)
    values = [float(label in query[len(prompt) :]) for query, prompt, label in triples]
    return JSONResponse({"rewards": values, "scores": values, "extra_logs": {"acc": values}})


@pytest.fixture
def servers(running: list[JudgeServer], monkeypatch: pytest.MonkeyPatch) -> list[JudgeServer]:
    monkeypatch.setattr(endpoint, "backoff", lambda attempt, base, ceiling: 0.001 * attempt)
    for server in running:
        server.reset()
        server.reply = rewards
    return running


@pytest.fixture
def asked(servers: list[JudgeServer]) -> Iterator[Any]:
    made: list[OpenRlhfServer] = []

    def make(**options: Any) -> OpenRlhfServer:
        urls = [f"{server.address}/get_reward" for server in servers]
        made.append(OpenRlhfServer(OpenRlhfServer.Config(**{"urls": urls, **options})))
        return made[-1]

    yield make
    for verifier in made:
        verifier.close()


def test_reward_servers_share_a_batch(servers: list[JudgeServer], asked: Any) -> None:
    verdicts = asked().verify(samples("72", "7", "is 72", "", "72!"))
    assert statuses(verdicts) == ["correct", "wrong", "correct", "wrong", "correct"]
    assert verdicts[0].details == {"reward": 1.0, "scores": 1.0, "extra_logs": {"acc": 1.0}}
    assert [len(server.bodies[0]["query"]) for server in servers] == [3, 2]
    assert servers[0].bodies[0]["query"][0] == "What is 36 + 36?72"
    assert set(servers[0].bodies[0]) == {"query", "prompts", "labels"}


def test_a_part_goes_to_another_server_when_its_own_fails(
    servers: list[JudgeServer], asked: Any
) -> None:
    servers[0].reply = lambda body: JSONResponse({}, 500)
    verifier = asked()
    assert statuses(verifier.verify(samples("72", "7", "72"))) == ["correct", "wrong", "correct"]
    assert (len(servers[0].bodies), len(servers[1].bodies)) == (1, 2)


@pytest.mark.parametrize(
    ("reply", "status", "reason"),
    [
        (JSONResponse({}, 503), "error", "status 503"),
        (JSONResponse({"detail": "no such route"}, 404), "error", "no such route"),
    ],
)
def test_servers_that_fail_are_errors(
    servers: list[JudgeServer], asked: Any, reply: Any, status: str, reason: str
) -> None:
    for server in servers:
        server.reply = lambda body: reply
    verdicts = asked(attempts=3).verify(samples("72", "7"))
    assert statuses(verdicts) == [status] * 2 and reason in verdicts[0].reason


def test_servers_that_hang_are_timeouts(servers: list[JudgeServer], asked: Any) -> None:
    for server in servers:
        server.faults = ["hang", "hang"]
    verdicts = asked(attempts=2, timeout=0.2).verify(samples("72"))
    assert statuses(verdicts) == ["timeout"]


@pytest.mark.parametrize(
    "answer", [{"rewards": [1.0]}, {"reward": [1.0, 0.0]}, {"rewards": ["a", "b"]}, {}]
)
def test_answers_that_are_no_rewards_are_no_scores(
    servers: list[JudgeServer], asked: Any, answer: dict[str, Any]
) -> None:
    servers[0].reply = lambda body: JSONResponse(answer)
    with pytest.raises(Exception, match="reward server returned"):
        asked(urls=[f"{servers[0].address}/get_reward"]).verify(samples("72", "7"))


def test_a_reward_server_in_a_pool(
    servers: list[JudgeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARD_KEY_FOR_TESTS", "sk-secret")
    options = {
        "urls": [f"{server.address}/get_reward" for server in servers],
        "api_key_env": "REWARD_KEY_FOR_TESTS",
    }
    texts = [str(n) for n in range(60, 80)]
    with VerifierPool([VerifierSpec("openrlhf_server", options)], PluginSources()) as pool:
        verdicts = pool.verify("openrlhf_server", samples(*texts))
    assert [text for text, v in zip(texts, verdicts, strict=True) if v.is_correct] == ["72"]
    assert {h["authorization"] for server in servers for h in server.headers} == {
        "Bearer sk-secret"
    }
    assert "sk-secret" not in json.dumps([dict(verdict.details) for verdict in verdicts])
