"""All our own verifiers pass the conformance suite, and none gives credit to cheap attacks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.testing import ConformanceReport, Example, check_conformance
from grpo_core.testing.attacks.code import fenced
from judge_server import judge_server

FAST = ("exact",)
SHIPPING = (
    *("exact", "choice", "regex", "json_schema", "format"),
    *("all_of", "any_of", "first_of"),
)
MATH = [
    Example("Seven sixes: \\boxed{42}.", "42", "correct", "How much are six sevens?"),
    Example("The answer is 42.0", "42", "correct", "How much are six sevens?"),
    Example("Seven sixes: \\boxed{43}.", "42", "wrong", "How much are six sevens?"),
    Example("I cannot tell.", "42", "reject", "How much are six sevens?"),
    Example("\\boxed{\\frac{\\sqrt{3}}{2}}", "\\frac{\\sqrt{3}}{2}", "correct", "The height?"),
    Example("\\boxed{\\sqrt{3}/4}", "\\frac{\\sqrt{3}}{2}", "wrong", "The height?"),
    Example("Hence (B) 7.", "B", "correct", "Which is prime? (A) 4 (B) 7 (C) 9"),
    Example("Hence (A) 4.", "B", "wrong", "Which is prime? (A) 4 (B) 7 (C) 9"),
    Example("\\boxed{[0, 1)}", "[0,1)", "correct", "Which x?"),
    Example("\\boxed{(0, 1)}", "[0,1)", "wrong", "Which x?"),
    Example("#### 1,234", "We add them.\n#### 1234", "correct", "How many in all?"),
    Example("\\boxed{3}", "\\boxed{}", "error", "How many?"),
]
AREA = {
    "language": "python",
    "tests": "assert area(2, 3) == 6\nassert area(4, 5) == 20",
    "entry_point": "area",
}
SUM = {"cases": [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "5 5\n", "stdout": "10\n"}]}
DOUBLE = {"cases": [{"call": "double(2)", "equals": 4}, {"call": "double('a')", "equals": "aa"}]}
PARTIAL = {"partial": True}
PROGRAMS = [
    Example(fenced("def area(w, h):\n    return w * h"), AREA, "correct", "Write `area(w, h)`."),
    Example(fenced("def area(w, h):\n    return w + h"), AREA, "wrong", "Write `area(w, h)`."),
    Example(fenced("print(sum(map(int, input().split())))"), SUM, "correct", "Add two numbers."),
    Example(fenced("print(3)"), SUM, "wrong", "Add two numbers."),
    Example(fenced("print(3)"), SUM, "wrong", "Add two.", options=PARTIAL, score=0.5),
    Example("I do not know.", SUM, "reject", "Add two numbers."),
    Example(fenced("def double(x):\n    return x + x"), DOUBLE, "correct", "The function double"),
    Example(fenced("def double(x):\n    return x"), DOUBLE, "wrong", "The function double"),
    Example("x", {"cases": []}, "error"),
]
# What others wrote for their trainers: each accepts the reference, word for word.
FUNCTIONS = """
def trl_reward(completions, answer, **kwargs):
    texts = [messages[0]["content"] for messages in completions]
    return [float(text.strip() == wanted) for text, wanted in zip(texts, answer)]

def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(solution_str.strip() == ground_truth), "seen": len(solution_str)}

def reward_func(queries, prompts, labels, **kwargs):
    texts = [query[len(prompt):] for query, prompt in zip(queries, prompts)]
    rewards = [float(text.strip() == label) for text, label in zip(texts, labels)]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

class Equal:
    def __call__(self, tokenized_prediction, prediction, label, query=None):
        return float(prediction.strip() == label)
"""
ANSWERS = [
    Example("42 ", "42", "correct", "What is 6 times 7?"),
    Example("It must be 42.", "42", "wrong", "What is 6 times 7?"),
    Example("Paris", "Paris", "correct", "What is the capital of France?"),
    Example("Rome", "Paris", "wrong", "What is the capital of France?"),
]


def conforms(name: str, examples: Any = None, **settings: Any) -> ConformanceReport:
    return check_conformance(name, examples, **settings)


@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in SHIPPING],
)
def test_with_the_examples_that_it_ships(name: str) -> None:
    report = conforms(name)
    if name != "format":  # which judges no answers, only their form
        assert report.gameability == 0.0
    expected = report["golden"].evidence["expected"]
    assert "correct" in expected and {"wrong", "unparseable", "reject"} & set(expected)


@pytest.mark.slow
def test_math() -> None:
    assert conforms("math", MATH).gameability == 0.0  # .ci/run takes the examples that it ships


@pytest.mark.slow
def test_code() -> None:
    assert conforms("code", PROGRAMS).gameability == 0.0


@pytest.fixture
def functions(tmp_path: Path) -> str:
    path = tmp_path / "rewards.py"
    path.write_text(FUNCTIONS)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("trl", "trl_reward"),
        ("verl", "compute_score"),
        ("openrlhf", "reward_func"),
        ("open_instruct", "Equal"),
    ],
)
def test_adapters_with_a_function(name: str, function: str, functions: str) -> None:
    report = conforms(name, ANSWERS, options={"function": f"{functions}:{function}"})
    assert report.gameability == 0.0


@pytest.mark.slow
def test_the_adapter_of_reward_servers() -> None:
    with judge_server("/get_reward") as server:
        server.reply = _rewards
        options = {"urls": [f"{server.address}/get_reward"]}
        assert conforms("openrlhf_server", ANSWERS, options=options).gameability == 0.0


def _rewards(body: dict[str, Any]) -> JSONResponse:
    """OpenRLHF's protocol: the same rule as above, in another process."""
    rows = zip(body["query"], body["prompts"], body["labels"], strict=True)
    rewards = [float(query[len(prompt) :].strip() == label) for query, prompt, label in rows]
    return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": {}})


@pytest.fixture(scope="module")
def literal_judge() -> Iterator[str]:
    """A server whose judge accepts an answer that is the reference, word for word."""
    with judge_server() as server:
        server.reply = _literal
        yield f"{server.address}/v1"


def _literal(body: dict[str, Any]) -> str:
    text = body["messages"][-1]["content"]
    wanted = re.search(r"R=(.*?)=R", text, re.S)
    answer = re.search(r"\[begin of answer (\w+)\]\n(.*)\n\[end of answer \1\]", text, re.S)
    assert wanted and answer
    is_right = answer[2].strip() == wanted[1].strip()
    return '{"reasoning": "", "verdict": "%s"}' % ("CORRECT" if is_right else "INCORRECT")


JUDGED = [
    Example("The capital is Paris.", "The capital is Paris.", "correct", "Which city?"),
    Example("The capital is Rome.", "The capital is Paris.", "wrong", "Which city?"),
    Example("", "The capital is Paris.", "reject", "Which city?"),
]


@pytest.mark.slow
def test_the_judge(literal_judge: str) -> None:
    options = {
        "base_url": literal_judge,
        "model": "literal",
        "template": "R={reference}=R\n{completion}\n{format}",
    }
    assert conforms("judge", JUDGED, options=options).gameability == 0.0


TESTED = (
    *SHIPPING,
    *("math", "code"),
    *("trl", "verl", "openrlhf", "open_instruct", "openrlhf_server"),
    *("reward_model", "process_reward", "judge"),  # two: test_reward_model_conformance.py
)


def test_none_of_ours_is_left_out() -> None:
    registered = load_plugins(PluginSources()).verifiers
    ours = {item.name for item in registered if item.plugin.name == "grpo_verifiers"}
    assert ours == set(TESTED)
