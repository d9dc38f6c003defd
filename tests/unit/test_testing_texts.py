"""Odd and random texts."""

from __future__ import annotations

import importlib.util

import pytest

from grpo_core.testing.texts import ODD_TEXTS, for_any_text, for_random_texts


def texts(number: int = 100) -> list[str]:
    found: list[str] = []
    for_random_texts(found.append, number, 60.0)
    return found


def test_random_texts_are_the_same_every_time() -> None:
    assert texts() == texts() and len(set(texts())) > 50


def test_random_texts_hold_what_is_rare() -> None:
    everything = "".join(texts(300))
    assert any("\ud800" <= char <= "\udfff" for char in everything)
    assert any(ord(char) > 0xFFFF for char in everything)
    assert "\\boxed{" in everything and "<think>" in everything


def test_a_failure_is_shown_with_a_short_text() -> None:
    def no_digits(text: str) -> None:
        assert not any(char.isdigit() for char in text), f"found {text!r}"

    with pytest.raises(AssertionError, match=r"found '.'"):
        for_random_texts(no_digits, 100, 60.0)


def test_time_ends_it() -> None:
    assert for_random_texts(lambda text: None, 100, 0.0) == 0


def test_without_hypothesis_the_fixed_ones_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "hypothesis" else find(name)
    )
    found: list[str] = []
    assert for_any_text(found.append) == len(ODD_TEXTS)
    assert found == list(ODD_TEXTS)
