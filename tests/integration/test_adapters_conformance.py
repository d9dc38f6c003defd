"""Adapted functions keep the rules of verifiers as well as those written for us."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from grpo_core.testing import Example, check_conformance

pytestmark = pytest.mark.slow

FUNCTIONS = {
    "trl": """
        def reward(completions, solution, **kwargs):
            pairs = zip(completions, solution, strict=True)
            return [1.0 if c[0]["content"].strip() == s else -1.0 for c, s in pairs]
        """,
    "verl": """
        async def reward(data_source, solution_str, ground_truth, extra_info=None):
            return {"score": 1.0 if solution_str.strip() == ground_truth else -1.0, "n": 1}
        """,
    "openrlhf": """
        def reward(queries, prompts, labels, **kwargs):
            triples = zip(queries, prompts, labels, strict=True)
            return [1.0 if q[len(p):].strip() == l else -1.0 for q, p, l in triples]
        """,
    "open_instruct": """
        class reward:
            def __init__(self, verifier_config=None):
                pass

            def __call__(self, tokenized_prediction, prediction, label, query=None):
                return 1.0 if prediction.strip() == label else -1.0
        """,
}
EXAMPLES = [
    Example("72", "72", "correct"),
    Example(" blue\n", "blue", "correct"),
    Example("71", "72", "wrong"),
    Example("blue or red", "blue", "wrong"),
    Example("", "72", "wrong"),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_adapters_conform(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(FUNCTIONS[name]))
    options = {"function": f"{file}:reward", "low": -1.0}
    check_conformance(name, EXAMPLES, options=options, kinds=["text"])
