"""Options, templates, cache, budget, rates, and retries of the judge."""

from __future__ import annotations

import asyncio
import datetime
import pickle
import sqlite3
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import ConfigError, VerifierError
from grpo_core.types import Sample, Verdict
from grpo_core.validation import build
from grpo_verifiers.judge.budget import Budget, BudgetSpent, Usage, read_usage
from grpo_verifiers.judge.cache import Outcome, OutcomeCache
from grpo_verifiers.judge.config import JudgeConfig, Limits
from grpo_verifiers.judge.request import Request, RequestWriter
from grpo_verifiers.judge.templates import fill, find_template
from grpo_verifiers.judge.verifier import JudgeVerifier
from grpo_verifiers.remote.address import is_local, read_key
from grpo_verifiers.remote.background import BackgroundLoop
from grpo_verifiers.remote.rates import RateLimit
from grpo_verifiers.remote.retries import backoff, is_passing, retry_after

BASE = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
CRITERION = {"name": "clarity", "description": "easy to follow"}


def config(**options: Any) -> JudgeConfig:
    return build(JudgeConfig, {**BASE, **options})


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "ftp://x/v1"}, "base_url.*no http address.*such as"),
        ({"base_url": "127.0.0.1:8000"}, "no http address"),
        ({"base_url": "http://me:secret@host/v1"}, "must not hold a password.*api_key_env"),
        ({"base_url": "http://host:port/v1"}, "no address"),
        ({"template": "corectness"}, "Unknown template 'corectness'. Did you mean 'correctness'"),
        ({"template": "Is {answer} right?"}, r"must contain \{completion\}"),
        ({"template": "rubric"}, "needs criteria"),
        ({"criteria": [CRITERION]}, "template = 'rubric'"),
        ({"template": "rubric", "criteria": [CRITERION, CRITERION]}, "names that differ"),
        ({"template": "rubric", "criteria": [{**CRITERION, "name": "Reasoning"}]}, "reasoning"),
        ({"template": "rubric", "criteria": [{**CRITERION, "name": "a b"}]}, "criteria.0.name"),
        ({"answering": {"votes": 3}}, "votes = 3 needs temperature > 0"),
        ({"limits": {"max_cost": 1.0}}, "needs prices"),
        ({"limits": {"timeout": float("inf")}}, "limits.timeout"),
        ({"correct_at": 0}, "correct_at"),
        ({"voets": 3}, "unknown setting"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(**options)
    assert "secret" not in str(caught.value)


def test_keys_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    options = config(api_key_env="JUDGE_KEY_FOR_TESTS")
    monkeypatch.delenv("JUDGE_KEY_FOR_TESTS", raising=False)
    with pytest.raises(ConfigError, match="JUDGE_KEY_FOR_TESTS, which is not set"):
        JudgeVerifier(options)
    monkeypatch.setenv("JUDGE_KEY_FOR_TESTS", "sk-secret\nx")
    with pytest.raises(ConfigError, match="characters that no key has") as caught:
        JudgeVerifier(options)
    assert "sk-secret" not in str(caught.value)
    monkeypatch.setenv("JUDGE_KEY_FOR_TESTS", " sk-secret\n")
    judge = JudgeVerifier(options)
    assert read_key("JUDGE_KEY_FOR_TESTS") == "sk-secret"
    shown = f"{judge!r} {judge.__dict__} {options!r} {pickle.dumps(judge)!r}"
    assert "sk-secret" not in shown
    assert isinstance(pickle.loads(pickle.dumps(judge)), JudgeVerifier)


def test_the_deadline_is_later_than_our_own_and_batches_fit_the_rate() -> None:
    judge = JudgeVerifier(config(limits={"deadline": 60}))
    assert judge.deadline > 60 and judge.batch_size == 128 and judge.placement == "process"
    slow = {"deadline": 60, "requests_per_minute": 20}
    assert JudgeVerifier(config(limits=slow)).batch_size == 10
    votes = {"votes": 5, "temperature": 1}
    assert JudgeVerifier(config(limits=slow, answering=votes)).batch_size == 2
    assert JudgeVerifier(config(limits={"requests_per_minute": 0.1})).batch_size == 1


def test_local_addresses_need_no_proxy() -> None:
    addresses = ["http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:1/"]
    assert all(map(is_local, addresses))
    assert not is_local("https://judge.example/v1")


# ---- templates and requests ---------------------------------------------------------------------


@given(st.text(), st.text(), st.text())
def test_values_are_filled_in_once(prompt: str, reference: str, completion: str) -> None:
    template = "{prompt}|{completion}|{reference}|{other}{"
    values = {
        "prompt": f"{{completion}}{prompt}",
        "completion": f"{{reference}}{{format}}{completion}",
        "reference": reference,
    }
    expected = f"{values['prompt']}|{values['completion']}|{reference}|{{other}}{{"
    assert fill(template, values) == expected


def test_own_templates_come_as_text_or_file(tmp_path: Path) -> None:
    assert find_template("Is {completion} so? {format}", None) == "Is {completion} so? {format}"
    assert find_template("Is {completion} so?", None).endswith("so?\n\n{format}")
    file = tmp_path / "mine.txt"
    file.write_text("{completion}: \\frac{1}{2}, {json: 1}")
    assert find_template("correctness", str(file)).startswith("{completion}: \\frac{1}{2}, {json:")
    with pytest.raises(ConfigError, match="Did you mean 'reference'"):
        find_template("{completion} {refrence}", None)
    file.write_text("nothing")
    with pytest.raises(ConfigError, match=r"has no \{completion\}"):
        find_template("correctness", str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        find_template("correctness", str(tmp_path / "none.txt"))


def test_what_is_asked_holds_all_and_the_answer_last() -> None:
    options = config(template="rubric", criteria=[CRITERION], guard={"screen": False})
    writer = RequestWriter(options)
    request = writer.write(Sample("Q{format}?", "<think>x</think> A {prompt}", {"a": [1]}))
    assert isinstance(request, Request)
    prompt = writer.prompt(request, as_json=True)
    for part in ("Q{format}?", '{"a": [1]}', "A {prompt}", "clarity (0 to 4 points): easy to"):
        assert part in prompt
    assert "<think>" not in prompt
    assert prompt.endswith('{"reasoning": "...", "clarity": "0 or 1 or 2 or 3 or 4"}')
    assert writer.prompt(request, as_json=True) != prompt  # another fence
    assert "End with this one line" in writer.prompt(request, as_json=False)


def test_requests_that_must_have_one_verdict_have_one_key() -> None:
    sample = Sample("Q?", "An answer of words.", "R")
    others = [
        (config(), Sample("Q?", "An answer of words!", "R")),
        (config(), Sample("P?", "An answer of words.", "R")),
        (config(), Sample("Q?", "An answer of words.", "S")),
        (config(model="n"), sample),
        (config(answering={"temperature": 0.1}), sample),
        (config(template="{prompt}{reference}{completion}"), sample),
        (config(template="rubric", criteria=[CRITERION]), sample),
    ]
    keys = [key_of(config(), sample), *(key_of(options, other) for options, other in others)]
    assert len(set(keys)) == len(keys)
    assert key_of(config(correct_at=0.5), sample) == keys[0]  # applied to what the judge said
    assert key_of(config(limits={"attempts": 1}), sample) == keys[0]


def key_of(options: JudgeConfig, sample: Sample) -> str:
    request = RequestWriter(options).write(sample)
    assert isinstance(request, Request)
    return request.key


@pytest.mark.parametrize(
    ("completion", "status", "reason"),
    [
        ("", "unparseable", "empty"),
        ("<think>hm</think> \n", "unparseable", "empty"),
        ("<think>it is 2", "unparseable", "before its reasoning does"),
        (":", "wrong", "neither a letter nor a digit"),
        ("<think>hm</think>Solution:", "wrong", "only the opening"),
        ("1 + 1?", "wrong", "repeats the question"),
    ],
)
def test_empty_answers_are_judged_without_a_call(completion: str, status: str, reason: str) -> None:
    verdict = RequestWriter(config()).write(Sample("1 + 1?", completion, "2"))
    assert isinstance(verdict, Verdict)
    assert verdict.status == status and reason in verdict.reason


def test_references_are_needed_where_they_are_shown() -> None:
    with pytest.raises(VerifierError, match="there is none"):
        JudgeVerifier(config()).check_reference(None)
    verdict = RequestWriter(config()).write(Sample("Q?", "An answer.", ""))
    assert isinstance(verdict, Verdict) and verdict.status == "error"
    JudgeVerifier(config()).check_reference(0)
    JudgeVerifier(config(template="Good? {completion}")).check_reference(None)
    JudgeVerifier(config(template="rubric", criteria=[CRITERION])).check_reference(None)


# ---- cache --------------------------------------------------------------------------------------


def outcome(score: float) -> Outcome:
    return Outcome(scores=(score,), choices=({"verdict": "CORRECT"},))


def test_the_cache_forgets_what_was_not_used_for_longest() -> None:
    cache = OutcomeCache(2, None)
    for key in "ab":
        cache.put(key, outcome(1.0))
    assert cache.get("a") is not None
    cache.put("c", outcome(0.5))
    assert cache.get("b") is None
    assert cache.get("a") == outcome(1.0) and cache.get("c") == outcome(0.5)
    assert OutcomeCache(0, None).get("a") is None


def test_a_file_keeps_all_from_run_to_run(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "cache.db")
    first, second = OutcomeCache(1, path), OutcomeCache(0, path)
    for n in range(5):
        first.put(str(n), outcome(n / 4))
    first.add_spent(3, 0.5)
    second.add_spent(1, 0.25)
    assert [second.get(str(n)) for n in range(5)] == [outcome(n / 4) for n in range(5)]
    assert first.spent() == (4, 0.75)
    first.close()
    second.close()
    with sqlite3.connect(path) as file:  # written by something else
        file.execute("UPDATE verdicts SET outcome = '{}' WHERE key = '1'")
    file.close()
    third = OutcomeCache(8, path)
    assert third.get("1") is None and third.get("2") is not None
    third.close()


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("my notes, " * 200)
    with pytest.raises(VerifierError, match=r"cache.path .*notes.txt' cannot be used"):
        OutcomeCache(8, str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "my notes, " * 200


# ---- budget -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 50_000)), max_size=30))
def test_calls_under_way_cannot_overrun_the_budget(calls: list[tuple[int, int]]) -> None:
    limits = Limits(max_cost=0.1, max_calls=12, input_price=1.0, output_price=5.0)
    budget = Budget(limits, OutcomeCache(0, None))
    spent, under_way = 0.0, []
    for prompt, answer in calls:
        try:
            under_way.append(budget.reserve(Usage(prompt, answer)))
        except BudgetSpent:
            continue
        if len(under_way) > 3:
            reserved = under_way.pop(0)
            budget.settle(reserved, reserved / 2)
            spent += reserved / 2
    assert spent + sum(under_way) <= 0.1 + 1e-9
    assert budget._calls <= 12


def test_a_budget_lasts_as_long_as_its_file(tmp_path: Path) -> None:
    path = str(tmp_path / "cache.db")
    limits = Limits(max_calls=3)
    ledger = OutcomeCache(8, path)
    for _ in range(3):
        Budget(limits, ledger).reserve(Usage(1, 1))
    with pytest.raises(BudgetSpent, match=r"3 calls of limits.max_calls = 3.*cache.path"):
        Budget(limits, ledger).reserve(Usage(1, 1))
    ledger.close()


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 2}, Usage(7, 2, 1)),
        ({"prompt_tokens": -7, "completion_tokens": 2}, None),
        ({"prompt_tokens": None, "completion_tokens": 2}, None),
        ({}, None),
        (None, None),
    ],
)
def test_usage_is_read_where_it_makes_sense(usage: Any, expected: Usage | None) -> None:
    assert read_usage({"usage": usage}) == expected


# ---- rates and retries --------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(
    st.floats(0.5, 20),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 30)), min_size=1, max_size=30),
)
def test_no_window_holds_more_than_the_rate(limit: float, takes: list[tuple[float, float]]) -> None:
    clock = Clock()
    taken: list[tuple[float, float]] = []

    async def run() -> None:
        rate = RateLimit(limit, 60.0, lambda: clock.now, clock.sleep)
        for pause, amount in takes:
            clock.now += pause
            before = clock.now
            got = await rate.take(amount)
            taken.append((got.at, amount))
            window = [a for at, a in taken[:-1] if at > before - 60.0]
            if sum(window) + amount <= limit:
                assert clock.now == before  # nobody waits without need

    asyncio.run(run())
    for start, _ in taken:
        inside = [amount for at, amount in taken if start <= at < start + 60.0]
        assert sum(inside) <= limit * (1 + 1e-9) or len(inside) == 1


def test_a_corrected_amount_makes_room() -> None:
    clock = Clock()

    async def run() -> None:
        rate = RateLimit(100, 60.0, lambda: clock.now, clock.sleep)
        first = await rate.take(90)
        rate.correct(first, 20)
        await rate.take(80)
        assert clock.now == 1000.0
        await rate.take(1)
        assert clock.now == pytest.approx(1060.0)

    asyncio.run(run())


def test_who_waits_notices_a_correction() -> None:
    async def run() -> None:
        rate = RateLimit(100, 60.0)
        first = await rate.take(90)
        waiting = asyncio.create_task(rate.take(80))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        rate.correct(first, 20)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(run())


@given(st.integers(1, 200))
def test_backoff_doubles_within_its_spread(attempt: int) -> None:
    seconds = backoff(attempt, 0.5, 30.0)
    middle = min(30.0, 0.5 * 2 ** (attempt - 1))
    assert 0.5 * middle <= seconds <= 1.5 * middle


def test_retry_after_is_a_number_or_a_date() -> None:
    now = datetime.datetime(2026, 11, 22, 8, 0, 0, tzinfo=datetime.UTC)
    cases = {
        "7": 7.0,
        "0.5": 0.5,
        "-3": 0.0,
        "inf": 0.0,
        "nan": 0.0,
        "": 0.0,
        "soon": 0.0,
        "Sun, 22 Nov 2026 08:00:30 GMT": 30.0,
        "Sun, 22 Nov 2026 07:00:00 GMT": 0.0,
        "Sun, 22 Nov 2026 09:00:30 +0100": 30.0,
        "Sun, 22 Nov 2026 08:00:30 -0000": 30.0,
    }
    assert {header: retry_after(header, now) for header in cases} == cases
    assert retry_after(None) == 0.0
    assert [s for s in (200, 400, 401, 404, 408, 422, 429, 500, 503, 529) if is_passing(s)] == [
        408, 429, 500, 503, 529,
    ]  # fmt: skip


def test_a_background_loop_serves_threads_and_loops_alike() -> None:
    loop = BackgroundLoop()
    closed: list[bool] = []

    async def note() -> None:
        closed.append(True)

    async def work() -> int:
        loop.resources.push_async_callback(note)
        return 7

    async def inside() -> int:
        return loop.run(work())

    async def fail() -> None:
        raise ValueError("so")

    assert loop.run(work()) == 7
    assert asyncio.run(inside()) == 7
    with pytest.raises(ValueError, match="so"):
        loop.run(fail())
    loop.close()
    assert closed == [True, True]
    assert loop.run(work()) == 7  # a new one
    loop.close()
    loop.close()


def test_the_documented_options_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "k")
    text = (Path(__file__).parents[2] / "verifiers/README.md").read_text()
    blocks = [tomllib.loads(block.split("```")[0]) for block in text.split("```toml")[1:]]
    found = [v for block in blocks for v in block["verifiers"] if v["name"] == "judge"]
    assert found
    for verifier in found:
        judge = JudgeVerifier(build(JudgeConfig, verifier["options"]))
        assert judge.config.guard.canaries[0].correct is False


def test_code_in_the_readme_runs() -> None:
    text = (Path(__file__).parents[2] / "verifiers/README.md").read_text()
    (code,) = [b.split("```")[0] for b in text.split("```python")[1:] if "from_trl(" in b]
    names: dict[str, Any] = {}
    exec(code, names)
    registered: dict[str, Any] = {}
    names["grpo_register_verifiers"](registered.__setitem__)
    kind = registered["accuracy"]
    samples = [Sample("Q?", text, "72") for text in ("so 72", "so 71")]
    assert [v.score for v in kind(kind.Config()).verify(samples)] == [1.0, 0.0]
