"""A plugin file with a verifier that hangs, eats memory, or crashes on request.

The doctor loads it into a pool of its own, to see what the pool does about it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from grpo_core import Sample, Verdict, hookimpl, verifier

NAME = "doctor_misbehaving"
_TOO_MUCH = 1 << 36  # bytes


@verifier(version="1")
def misbehaving(sample: Sample) -> Verdict:
    """Does what the completion says."""
    if sample.completion == "hang":
        time.sleep(3600)
    elif sample.completion == "memory":
        bytearray(_TOO_MUCH)
    elif sample.completion == "crash":
        os._exit(9)
    return Verdict.correct()


@hookimpl
def grpo_register_verifiers(register: Callable[[str, Any], None]) -> None:
    """The one above."""
    register(NAME, misbehaving)
