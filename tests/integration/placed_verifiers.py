"""A plugin file whose verifiers ask for a place, a deadline, and fields of the sample."""

import os
import sys
import time

from pydantic import BaseModel

from grpo_core import Verdict, hookimpl
from grpo_core.errors import VerifierError


class Telling:
    """Says where it runs and what it got."""

    version = "2"

    def __init__(self):
        self.calls = 0

    def check_reference(self, reference):
        if reference == "bad":
            raise VerifierError("a bad reference")
        if reference == "exit":
            sys.exit("enough")

    def verify(self, samples):
        self.calls += 1
        return [self.tell(sample, len(samples)) for sample in samples]

    def tell(self, sample, size):
        if sample.completion == "raise":
            raise ZeroDivisionError("seven by nothing")
        if sample.completion == "exit":
            sys.exit("enough")
        if sample.completion == "set":
            return Verdict.correct(details={"found": {1, 2}})
        if sample.completion == "sleep":
            time.sleep(0.8)
        if sample.completion == "eat":
            return Verdict.correct(str(len(bytearray(100 << 20))))
        return Verdict.correct(
            details={
                "pid": os.getpid(),
                "size": size,
                "calls": self.calls,
                "messages": list(sample.messages),
                "token_ids": list(sample.token_ids),
            }
        )


class Shared(Telling):
    pass


class Own(Telling):
    placement = "process"
    batch_size = 64
    deadline = 2.0
    memory_mb = 256
    reads = ("messages",)


class Here(Telling):
    placement = "trainer"
    batch_size = 4
    reads = ("token_ids",)
    loaded = False

    def preload(self):
        self.loaded = True

    def verify(self, samples):
        assert self.loaded
        return super().verify(samples)


class Chosen(Telling):
    class Config(BaseModel, extra="forbid"):
        placement: str = "workers"
        deadline: float | None = None
        reads: tuple[str, ...] | None = ()
        batch_size: int | float | None = 1

    def __init__(self, config):
        super().__init__()
        self.placement, self.deadline, self.reads = config.placement, config.deadline, config.reads
        self.batch_size = config.batch_size


class Both:
    """Correct if two others say so."""

    def compose(self, create):
        self.members = [create("own", {}), create("chosen", {"deadline": 1.0})]

    def verify(self, samples):
        rows = zip(*(member.verify(samples) for member in self.members), strict=True)
        return [Verdict.correct(str(all(v.is_correct for v in row))) for row in rows]


class Broken:
    def compose(self, create):
        raise ZeroDivisionError("no parts")

    def verify(self, samples):
        return []


@hookimpl
def grpo_register_verifiers(register):
    for target in (Shared, Own, Here, Chosen, Both, Broken):
        register(target.__name__.lower(), target)
