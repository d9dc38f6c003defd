"""The conformance suite on learned verifiers, with tiny models that were taught what is good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grpo_core.testing import check_conformance
from grpo_core.testing.example import DEFAULT_PROMPT, Example
from tiny_model import tiny_tokenizer
from tiny_scorers import save_scorer, scorer_config, teach, tiny_scorer

PROMPT = f"<|user|>{DEFAULT_PROMPT}<|end|><|assistant|>"
LETTERS = "abcdxyz"
TEXTS = [f"{a}|{b}" for a in LETTERS for b in LETTERS]


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(f"{PROMPT}{text}<|end|>", add_special_tokens=False)["input_ids"]


def reward_model(folder: Path) -> dict[str, Any]:
    """Completions with an x are good."""
    model = tiny_scorer(scorer_config())
    teach(model, list(map(ids, TEXTS)), [float("x" in text) for text in TEXTS], steps=60)
    return {"path": str(save_scorer(folder, model))}


def process_reward(folder: Path) -> dict[str, Any]:
    """Steps of one letter are good, unless it is an x."""
    model = tiny_scorer(scorer_config(num_labels=2), tokens=True)
    before = [-100] * (len(ids("")) - 1)
    labels = [[*before, int(text[0] != "x"), -100, int(text[2] != "x"), -100] for text in TEXTS]
    teach(model, list(map(ids, TEXTS)), labels, steps=60)
    return {"path": str(save_scorer(folder, model)), "steps": {"separator": "|"}}


@pytest.mark.slow
@pytest.mark.parametrize("make", [reward_model, process_reward], ids=lambda make: make.__name__)
def test_the_suite_passes_but_for_the_taste_of_the_model(make: Any, tmp_path: Path) -> None:
    """Whether a model can be gamed is a question to the model; a tiny one surely can."""
    options = make(tmp_path)
    wants_x = make is reward_model
    examples = [
        Example(text, "", ("x" in text) == wants_x) for text in ("a|x", "x|b", "a|b", "d|c")
    ]
    examples += [Example(" ", "", False), Example("", "", "unparseable")]
    report = check_conformance(make.__name__, examples, options=options, max_gameability=1.0)
    assert report.passed
