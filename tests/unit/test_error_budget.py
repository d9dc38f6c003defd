import pytest

from grpo_core.errors import ConfigError, ErrorBudgetExceeded
from grpo_core.types import Completion, Prompt, Verdict
from grpo_core.verification.budget import ErrorBudget

PROMPT = Prompt("gsm8k-17", [{"role": "user", "content": "6 * 7?"}], {"answer": "42"})


def verdict(kind="error", verifier="math"):
    make = getattr(Verdict, kind)
    made = make(f"it was {kind}")
    object.__setattr__(made, "verifier", verifier)
    return made


def observe(budget, kinds, verifier="math", text="It is 42."):
    """The number of the verdict that was too many, or None."""
    for number, kind in enumerate(kinds, 1):
        try:
            budget.observe(verdict(kind, verifier), PROMPT, Completion([1], text, [0.0], "eos"))
        except ErrorBudgetExceeded:
            return number
    return None


@pytest.mark.parametrize(
    ("limit", "kinds", "stops_at"),
    [
        (0.1, ["error", "correct", "wrong"], None),  # 1 of 3, but 1 of at least 20
        (0.1, ["error", "timeout", "correct"] + ["wrong"] * 50, None),
        (0.1, ["correct"] * 5 + ["error"] * 3, 8),
        (0.1, ["error"] * 10, 3),
        (0.1, ["timeout"] * 10, 3),
        (0.5, ["error"] * 50, 11),
        (0.0, ["correct", "error"], 2),
        (1.0, ["error"] * 1000, None),
        (0.1, ["correct", "wrong", "unparseable", "abstain"] * 100, None),
        (0.1, (["correct"] * 9 + ["error"]) * 100, None),  # exactly the limit, for ever
        (0.1, (["correct"] * 8 + ["error"]) * 100, 27),  # 3 of 27
    ],
)
def test_stops_when_the_share_of_failures_is_too_large(limit, kinds, stops_at):
    assert observe(ErrorBudget(limit), kinds) == stops_at


def test_only_the_window_counts():
    budget = ErrorBudget(0.1, window=50)
    assert observe(budget, ["correct"] * 10_000) is None
    assert observe(budget, ["error"] * 50) == 6  # of the last 50
    budget = ErrorBudget(0.1, window=50)
    for _ in range(20):
        assert observe(budget, ["error"] * 2 + ["correct"] * 48) is None


def test_a_healthy_verifier_does_not_hide_a_broken_one():
    budget = ErrorBudget(0.1)
    assert observe(budget, ["correct"] * 200, "math") is None
    assert observe(budget, ["error"] * 3, "judge") == 3


def test_the_message_names_plugin_input_and_cure():
    budget = ErrorBudget(0.1)
    observe(budget, ["correct", "timeout", "timeout"])
    with pytest.raises(ErrorBudgetExceeded) as caught:
        budget.observe(
            verdict("error"), PROMPT, Completion([1], "x" * 5000 + "\n\ud800", [], "eos")
        )
    message = str(caught.value)
    assert "verifier 'math' (version 0) failed on 3 of its last 4 verdicts (75.0%" in message
    assert "2 timeouts, 1 errors" in message
    assert "The error budget is 10.0%" in message
    assert "error on prompt 'gsm8k-17': it was error" in message
    assert '{"answer": "42"}' in message
    assert "characters ..." in message
    assert "verification.error_budget" in message
    assert "Raise verification.deadline" in message
    assert len(message.encode()) < 1500


def test_the_cure_fits_the_failures():
    budget = ErrorBudget(0.0)
    with pytest.raises(ErrorBudgetExceeded, match="Repair the verifier"):
        budget.observe(verdict("error"), PROMPT, Completion([], "", [], "eos"))


@pytest.mark.parametrize(
    "settings", [{"limit": -0.1}, {"limit": 1.1}, {"limit": float("nan")},
                 {"limit": 0.1, "window": 10}, {"limit": 0.1, "minimum": 0}],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError):
        ErrorBudget(**settings)
