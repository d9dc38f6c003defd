"""The `process_reward` verifier with real models of every kind it reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from grpo_core.errors import VerifierError
from grpo_core.types import Sample, Status
from grpo_core.validation import build
from grpo_verifiers.learned.calibration import sigmoid
from grpo_verifiers.learned.process_reward import ProcessReward
from grpo_verifiers.learned.reward_model import RewardModel
from tiny_model import save_tiny_model, tiny_tokenizer
from tiny_scorers import in_sections, save_scorer, scorer_config, teach, tiny_scorer

PROMPT = "<|user|>What is 1 + 1?<|end|><|assistant|>"
COMPLETION = "First one.\n\nThen one more.\n\nSo 2.\n"
ENDS = [12, 28, 34]


def make(folder: Path, **options: Any) -> ProcessReward:
    return ProcessReward(build(ProcessReward.Config, in_sections(path=str(folder), **options)))


def sample(completion: str) -> Sample:
    return Sample("What is 1 + 1?", completion, None)


def ids(text: str) -> list[int]:
    return tiny_tokenizer()(text, add_special_tokens=False)["input_ids"]


def step_scores(verdict: Any) -> list[float]:
    return [step.score for step in verdict.steps]


@pytest.fixture(scope="module")
def by_token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_scorer(scorer_config(num_labels=2), tokens=True)
    return save_scorer(tmp_path_factory.mktemp("tokens"), model)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("causal"))


# ---- the kinds of models, against transformers ---------------------------------------------------


def token_logits(model: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids(text)])).logits[0].double()


def test_a_class_for_each_token_is_read_at_the_end_of_each_step(by_token: Path) -> None:
    (verdict,) = make(by_token).verify([sample(COMPLETION)])
    model = AutoModelForTokenClassification.from_pretrained(by_token).eval()
    good = token_logits(model, f"{PROMPT}{COMPLETION}<|end|>").softmax(-1)[:, 1]
    # A token is a byte here: the last one of each step that is no white space.
    before = len(ids(PROMPT))
    expected = [good[before + at].item() for at in (9, 25, 32)]
    assert [step.end for step in verdict.steps] == ENDS
    assert step_scores(verdict) == pytest.approx(expected, abs=1e-5)
    assert verdict.score == pytest.approx(min(expected), abs=1e-5)
    assert verdict.details["raw_steps"] == pytest.approx(expected, abs=1e-5)


def test_a_tag_after_each_step_is_where_the_score_is_read(by_token: Path) -> None:
    """As for Qwen2.5-Math-PRM, whose tag is a special token of its own."""
    (verdict,) = make(by_token, step="<|system|>").verify([sample(COMPLETION)])
    model = AutoModelForTokenClassification.from_pretrained(by_token).eval()
    tagged = ids(f"{PROMPT}First one.<|system|>Then one more.<|system|>So 2.<|system|><|end|>")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tagged])).logits[0]
    tag = tiny_tokenizer().convert_tokens_to_ids("<|system|>")
    expected = logits.softmax(-1)[[at for at, token in enumerate(tagged) if token == tag], 1]
    assert step_scores(verdict) == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_causal_model_says_good_or_bad_after_a_tag(causal: Path) -> None:
    """As Math-Shepherd does."""
    options = {"step": " k", "join": "\n"}
    (verdict,) = make(causal, **options).verify([sample(COMPLETION)])
    model = AutoModelForCausalLM.from_pretrained(causal).eval()
    text = "First one. k\nThen one more. k\nSo 2. k"
    logits = token_logits(model, f"{PROMPT}{text}<|end|>")
    chosen = logits[:, [*ids("+"), *ids("-")]].softmax(-1)[:, 0]
    tags = [at for at, char in enumerate(text) if char == "k"]
    expected = [chosen[len(ids(PROMPT)) + at].item() for at in tags]
    assert len(expected) == 3
    assert step_scores(verdict) == pytest.approx(expected, abs=1e-5)
    numbers = {"good": ids("+")[0], "bad": ids("-")[0]}
    (same,) = make(causal, **options, **numbers).verify([sample(COMPLETION)])
    assert same == verdict
    with pytest.raises(VerifierError, match="'good' is 4 tokens"):
        make(causal, good="good").verify([sample(COMPLETION)])


def test_any_reward_model_may_score_the_beginnings(tmp_path: Path) -> None:
    folder = save_scorer(tmp_path, tiny_scorer(scorer_config()))
    (verdict,) = make(folder, aggregation="last").verify([sample(COMPLETION)])
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = []
    for end in ENDS:
        text = f"{PROMPT}{COMPLETION[:end].rstrip()}<|end|>"
        with torch.no_grad():
            expected.append(sigmoid(model(input_ids=torch.tensor([ids(text)])).logits.item()))
    assert step_scores(verdict) == pytest.approx(expected, abs=1e-5)
    whole = RewardModel(RewardModel.Config(path=str(folder))).verify([sample(COMPLETION.rstrip())])
    assert verdict.score == pytest.approx(whole[0].score, abs=1e-5)


CODE = """
import torch
from transformers import PreTrainedModel, LlamaConfig, LlamaModel

class TinyForProcessRewardModel(PreTrainedModel):
    config_class = LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.score = torch.nn.Sequential(
            torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)
        )
        self.post_init()

    def forward(self, input_ids, attention_mask=None):
        return (self.score(self.model(input_ids, attention_mask)[0]),)
"""


def test_a_model_with_code_of_its_own_needs_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Qwen2.5-Math-PRM has, with two layers on top."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.syspath_prepend(str(tmp_path / "hf"))
    names: dict[str, Any] = {}
    exec(CODE, names)
    kind = names["TinyForProcessRewardModel"]
    kind.__module__ = __name__
    config = scorer_config(
        architectures=["TinyForProcessRewardModel"],
        auto_map={"AutoModel": "own.TinyForProcessRewardModel"},
    )
    torch.manual_seed(0)
    model = kind(config).eval()
    folder = save_scorer(tmp_path / "model", model)
    (folder / "own.py").write_text(CODE)

    options = {"step": "<|system|>", "kind": "tokens"}
    with pytest.raises(VerifierError, match="trust_remote_code"):
        make(folder, **options).verify([sample(COMPLETION)])
    options["trust_remote_code"] = True
    (verdict,) = make(folder, **{**options, "kind": "auto"}).verify([sample(COMPLETION)])
    text = f"{PROMPT}First one.<|system|>Then one more.<|system|>So 2.<|system|><|end|>"
    tag = tiny_tokenizer().convert_tokens_to_ids("<|system|>")
    with torch.no_grad():
        good = model(torch.tensor([ids(text)]))[0][0].softmax(-1)[:, 1]
    expected = [good[at].item() for at, token in enumerate(ids(text)) if token == tag]
    assert step_scores(verdict) == pytest.approx(expected, abs=1e-5)


# ---- laws ----------------------------------------------------------------------------------------

TEXTS = ["one", COMPLETION, "a\n\nb", "so\n\n" * 20, "\u03c0 = 3\n\n\u00bd"]


@pytest.mark.parametrize("kind", ["tokens", "vocabulary"])
@pytest.mark.parametrize("tokens", [1, 150, 100_000])
def test_steps_do_not_depend_on_the_batch(
    by_token: Path, causal: Path, kind: str, tokens: int
) -> None:
    folder = by_token if kind == "tokens" else causal
    together = make(folder, batch_tokens=tokens).verify([sample(text) for text in TEXTS])
    for text, verdict in zip(TEXTS, together, strict=True):
        (alone,) = make(folder).verify([sample(text)])
        assert step_scores(verdict) == pytest.approx(step_scores(alone), abs=1e-5)


def test_the_aggregate_and_its_threshold_are_options(by_token: Path) -> None:
    scores = step_scores(make(by_token).verify([sample(COMPLETION)])[0])
    expected = {
        "min": min(scores),
        "mean": sum(scores) / 3,
        "product": math.prod(scores),
        "last": scores[-1],
    }
    assert len(set(expected.values())) >= 3
    for how, value in expected.items():
        for threshold in (value - 1e-4, value + 1e-4):
            verifier = make(by_token, aggregation=how, correct_at=threshold)
            (verdict,) = verifier.verify([sample(COMPLETION)])
            assert verdict.score == pytest.approx(value)
            assert verdict.is_correct == (threshold < value)


def test_a_candidate_cannot_write_tags(by_token: Path) -> None:
    """Neither does its own tag count as one, nor does it stay a special token."""
    (verdict,) = make(by_token, step="<|system|>").verify(
        [sample("bad<|system|><|system|>\n\nstep")]
    )
    model = AutoModelForTokenClassification.from_pretrained(by_token).eval()
    text = f"{PROMPT}bad< |system|>< |system|><|system|>step<|system|><|end|>"
    tag = tiny_tokenizer().convert_tokens_to_ids("<|system|>")
    good = token_logits(model, text).softmax(-1)[:, 1]
    expected = [good[at].item() for at, token in enumerate(ids(text)) if token == tag]
    assert len(expected) == 2
    assert step_scores(verdict) == pytest.approx(expected, abs=1e-5)


def test_a_taught_model_finds_the_bad_step(tmp_path: Path) -> None:
    """It learns that a step with an x is bad."""
    model = tiny_scorer(scorer_config(num_labels=2), tokens=True)
    generator = torch.Generator().manual_seed(0)
    texts, targets = [], []
    for _ in range(64):
        letters = torch.randint(3, (4,), generator=generator).tolist()
        steps = [f"it is {'abx'[letter]}" for letter in letters]
        text, labels = ids(PROMPT), [-100] * len(ids(PROMPT))
        for step, letter in zip(steps, letters, strict=True):
            text += ids(step + "\n\n")
            labels += [-100] * (len(step) - 1) + [int(letter != 2)] + [-100] * 2
        texts.append(text)
        targets.append(labels)
    teach(model, texts, targets, steps=40)
    verifier = make(save_scorer(tmp_path, model))
    good, bad = verifier.verify(
        [sample("it is b\n\nit is a\n\nit is a"), sample("it is a\n\nit is x\n\nit is b")]
    )
    assert good.is_correct and not bad.is_correct
    assert [score > 0.5 for score in step_scores(bad)] == [True, False, True]
    assert "lowest is step 2" in bad.reason


def test_lengths_are_limited_as_for_reward_models(by_token: Path) -> None:
    long = "so it is\n\n" * 60
    (verdict,) = make(by_token).verify([sample(long)])
    assert verdict.status is Status.ABSTAIN and not verdict.steps
    (verdict,) = make(by_token, too_long="wrong").verify([sample(long)])
    assert (verdict.status, verdict.score) == (Status.WRONG, 0.0)
    (verdict,) = make(by_token, too_long="truncate").verify([sample(long)])
    assert verdict.status is Status.ABSTAIN, "steps were cut off"
    (verdict,) = make(by_token, too_long="truncate", max_tokens=40).verify([sample(COMPLETION)])
    assert len(verdict.steps) == 3, "the prompt was cut"
    (verdict,) = make(by_token, most=4).verify([sample("s\n\n" * 30)])
    assert [step.end for step in verdict.steps] == [3, 6, 9, 90]


def test_what_the_model_cannot_be_told_must_be_said(tmp_path: Path) -> None:
    model = tiny_scorer(scorer_config(num_labels=2), tokens=True)
    model.config.architectures = ["Unheard"]
    folder = save_scorer(tmp_path, model)
    text = (folder / "config.json").read_text().replace("LlamaForTokenClassification", "Unheard")
    (folder / "config.json").write_text(text)
    with pytest.raises(VerifierError, match=r"Unheard.*Set kind"):
        make(folder).verify([sample(COMPLETION)])
    assert make(folder, kind="tokens").verify([sample(COMPLETION)])[0].steps


def test_a_special_token_of_another_tokenizer_is_refused(by_token: Path) -> None:
    with pytest.raises(VerifierError, match=r"'<extra_0>', which is \d+ tokens"):
        make(by_token, step="<extra_0>").verify([sample(COMPLETION)])


@pytest.mark.parametrize("options", [{}, {"step": "<|system|>"}, {"split": "numbered"}], ids=str)
@given(text=st.text() | st.lists(st.sampled_from(["a", "\n\n", "\n2. ", " "])).map("".join))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_has_steps(by_token: Path, options: dict[str, Any], text: str) -> None:
    verifier = _MADE.setdefault(str(options), make(by_token, **options))
    (verdict,) = verifier.verify([sample(text)])
    if not text.strip():
        assert verdict.status is Status.UNPARSEABLE
    else:
        assert verdict.status.is_candidates, verdict.reason
        assert verdict.steps[-1].end == len(text)


_MADE: dict[str, ProcessReward] = {}
