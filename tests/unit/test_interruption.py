"""A signal is noted at any moment and acted on at a safe one."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from grpo_core.training.interruption import StopRequested, ctrl_c


@pytest.fixture(autouse=True)
def ordinary_signals() -> Iterator[None]:
    """As in a terminal, also where the tests were started by nohup or in the background."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_only(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with ctrl_c() as interruption:
        interruption.check()
        signal.raise_signal(number)
        with pytest.raises(StopRequested):
            interruption.check()
    assert "once more forces it" in capsys.readouterr().err


def test_the_second_ctrl_c_is_a_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), ctrl_c():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with ctrl_c():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


class Broken(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Broken(), None])
def test_nothing_is_raised_when_nobody_reads(
    stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be raised in the middle of an optimiser step."""
    monkeypatch.setattr(sys, "stderr", stream)
    with ctrl_c() as interruption:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(StopRequested):
            interruption.check()


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ctrl_c() as interruption:
            signal.raise_signal(signal.SIGHUP)
            interruption.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_installed() -> None:
    found = []

    def run() -> None:
        with ctrl_c() as interruption:
            interruption.check()
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]
