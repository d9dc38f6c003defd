"""A plugin file whose verifiers misbehave on purpose, and some that behave."""

import ctypes
import functools
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from grpo_core import Verdict, hookimpl, verifier
from grpo_core.errors import VerifierError

HELD = []


@verifier(version="1.5")
def good(sample, *, ignore_case: bool = False):
    """Compares text."""
    if ignore_case:
        return sample.completion.lower() == sample.reference.lower()
    return sample.completion == sample.reference


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raises(sample):
    raise ZeroDivisionError("seven by nothing")


def raises_unprintable(sample):
    raise Unprintable


def raises_memory_error(sample):
    raise MemoryError


def interrupts(sample):
    raise KeyboardInterrupt


def exits(sample):
    sys.exit("enough")


def recurses(sample):
    return recurses(sample)


def exits_hard(sample):
    os._exit(3)


def segfaults(sample):
    ctypes.string_at(0)


def aborts(sample):
    os.abort()


def is_killed(sample):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(sample):
    time.sleep(60)


def holds_the_gil(sample):
    return 9**9**9 == 1


def ignores_signals(sample):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)


def stops_itself(sample):
    os.kill(os.getpid(), signal.SIGSTOP)


def eats_memory(sample):
    return len([bytearray(16 << 20) for _ in range(10_000)]) == 1


def eats_one_block(sample):
    return len(bytearray(1 << 40)) == 1


def nan_score(sample):
    return float("nan")


def high_score(sample):
    return 1.5


def forged_nan(sample):
    verdict = Verdict.wrong()
    object.__setattr__(verdict, "score", float("nan"))
    return verdict


def forged_score(sample):
    verdict = Verdict.wrong()
    object.__setattr__(verdict, "score", 7.0)
    return verdict


def strange_details(sample):
    return Verdict.correct(details={"what": object()})


def text(sample):
    return "correct"


def closes_everything(sample):
    os.closerange(0, 1000)
    time.sleep(60)


def closes_and_returns(sample):
    os.closerange(0, 1000)
    return True


def babbles(sample):
    """Writes into the connection to the trainer, which it digs out of the garbage collector."""
    connection = next(o for o in gc.get_objects() if isinstance(o, socket.socket))
    connection.setblocking(True)
    connection.sendall(BABBLE[sample.reference])
    return True


def frame(text):
    return struct.pack(">I", len(text)) + text.encode()


BABBLE = {
    "yes": b"hello world",
    "huge": struct.pack(">I", 1 << 31),
    "empty": frame("{}"),
    "no json": frame("{"),
    "deep": frame("[" * 100_000),
    "list": frame("[1]"),
    "stale": frame('{"id":0,"seconds":0,"verdicts":[["correct",1,"",{}]]}'),
    "endless": frame('{"id":0,"seconds":NaN,"verdicts":[["correct",1,"",{}]]}'),
}


HOSTILE = {
    f.__name__: verifier()(f)
    for f in (
        raises, raises_unprintable, raises_memory_error, interrupts, exits, recurses, exits_hard,
        segfaults, aborts, is_killed, hangs, holds_the_gil, ignores_signals, stops_itself,
        eats_memory, eats_one_block, nan_score, high_score, forged_nan, forged_score,
        strange_details, text, closes_everything, closes_and_returns, babbles,
    )
}  # fmt: skip


class WrongCount:
    def verify(self, samples):
        return [Verdict.correct()] * 2


class ReturnsNothing:
    def verify(self, samples):
        return None


class NoVerdict:
    def verify(self, samples):
        return [1.0 for _ in samples]


@verifier()
def huge_details(sample):
    return Verdict.correct("r" * 10_000, {"log": "x" * 10_000_000})


@verifier()
def prints(sample):
    print("to stdout " * 1000)
    os.write(1, b"straight to stdout\n")
    sys.stdout.flush()
    return True


@verifier()
def spawns(sample):
    """Starts a process in its group and one in a session of its own, then does as it is told."""
    children = [
        subprocess.Popen(["sleep", "300"]),
        subprocess.Popen(["sleep", "300"], start_new_session=True),
    ]
    HELD.extend(children)
    Path(sample.reference).write_text(" ".join(str(child.pid) for child in children))
    if sample.completion == "hang":
        time.sleep(60)
    return True


@verifier()
def leaves(sample):
    """Leaves the process in a bad state."""
    os.chdir("/")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    return True


@verifier()
def where(sample):
    time.sleep(0.1)
    return Verdict.correct(os.getcwd())


@verifier()
def leaks(sample):
    HELD.append(bytearray(15 << 20))
    return True


@verifier()
def kills_parent(sample):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


@verifier()
def sleeps(sample):
    time.sleep(sample.reference)
    return Verdict.correct(str(os.getpid()))


class Batch:
    """Four at a time; a completion "raise", "hang" or "exit" spoils the whole call."""

    version = "2"
    batch_size = 4

    def verify(self, samples):
        words = {sample.completion for sample in samples}
        if "raise" in words:
            raise RuntimeError("spoilt")
        if "hang" in words:
            time.sleep(60)
        if "exit" in words:
            os._exit(9)
        if "few" in words:
            return []
        return [Verdict.correct(str(len(samples))) for _ in samples]


class Fair:
    """Does with the completion, and with the reference, what they say."""

    candidate_bears_limits = True

    def verify(self, samples):
        return [self._do(sample.completion) for sample in samples]

    def check_reference(self, reference):
        self._do(reference)

    def _do(self, word):
        actions = {
            "hang": functools.partial(time.sleep, 60),
            "eat": lambda: eats_memory(None),
            "abort": os.abort,
            "raise": lambda: raises(None),
            "killed": lambda: is_killed(None),
            "unreadable": self._refuse,
        }
        actions.get(word, lambda: None)()
        return Verdict.correct()

    def _refuse(self):
        raise VerifierError("a number was expected")


class Checked:
    """Can check references, but answers for its own limits."""

    def verify(self, samples):
        return [hangs(sample) for sample in samples]

    def check_reference(self, reference):
        if not isinstance(reference, str):
            raise VerifierError(f"a reference must be text, got {reference!r}")
        if reference == "hang":
            time.sleep(60)


@verifier(candidate_bears_limits=True)
def fair_function(sample):
    time.sleep(60)


class Preloaded:
    class Config(BaseModel):
        mode: str = "fine"

    def __init__(self, config):
        self.mode = config.mode
        if self.mode == "constructor":
            raise LookupError("no such model")
        self.version = f"weights-{self.mode}"
        self.loaded_in = 0

    def preload(self):
        if self.mode == "preload":
            raise OSError("weights are missing")
        if self.mode == "exit":
            sys.exit(5)
        if self.mode == "exit_hard":
            os._exit(5)
        if self.mode == "hang":
            time.sleep(60)
        self.loaded_in = os.getpid()

    def verify(self, samples):
        return [Verdict.correct(str(self.loaded_in)) for _ in samples]


class StillBorn:
    """No worker survives its fork."""

    def preload(self):
        os.register_at_fork(after_in_child=lambda: os._exit(1))

    def verify(self, samples):
        return [Verdict.correct() for _ in samples]


class NoVerifyMethod:
    pass


@hookimpl
def grpo_register_verifiers(register):
    classes = (
        WrongCount, ReturnsNothing, NoVerdict, huge_details, prints, spawns, leaves, where, leaks,
        kills_parent, sleeps, good, Batch, Fair, Checked, fair_function, Preloaded, StillBorn,
        NoVerifyMethod,
    )  # fmt: skip
    for target in (*classes, *HOSTILE.values()):
        register(target.__name__, target)
