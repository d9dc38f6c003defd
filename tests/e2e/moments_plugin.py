"""A file plugin with which a test acts at an exact moment of a run.

GRPO_TEST_AT names the moment: "evaluate 0" and "sample 2" (when the first completion is there),
"update 2" (in the midst of a backward pass), "save 2" (when all files of a checkpoint are written
and it is not renamed yet), "step 2" (when the step is recorded). GRPO_TEST_DO is what happens then:

    pause      the file `reached` is made, and the run waits until it is deleted
    break      from here on the verifier "fragile" fails
    limit N    from here on no file can grow beyond N bytes
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from string import ascii_letters

from grpo_core import Sample, Verdict, hookimpl, verifier

_state = {"is_running": False, "step": 0, "is_over": False}


def _moment(name: str) -> None:
    if _state["is_over"] or not _state["is_running"] or name != os.environ.get("GRPO_TEST_AT"):
        return
    _state["is_over"] = True
    action, _, number = os.environ["GRPO_TEST_DO"].partition(" ")
    if action == "pause":
        Path("reached").touch()
        while Path("reached").exists():
            time.sleep(0.005)
    elif action == "break":
        Path("broken").touch()
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(number), resource.RLIM_INFINITY))


@verifier(version="7")
def fragile(sample: Sample, *, mood: str = "raise") -> Verdict:
    """Right with three ASCII letters. Misbehaves once the file `broken` exists.

    With another mood than "raise" it does so from the start, on one completion in four.
    """
    first = ord((sample.completion or "a")[0])
    if Path("broken").exists() or (mood != "raise" and first % 4 == 2):
        _misbehave(mood)
    found = sum(letter in ascii_letters for letter in sample.completion)
    return Verdict.correct() if found >= 3 else Verdict.wrong(f"{found} of 3")


def _misbehave(mood: str) -> None:
    if mood == "hang":
        time.sleep(600)
    if mood == "memory":
        bytearray(1 << 34)
    if mood == "exit":
        os._exit(3)
    raise RuntimeError("the reference server is gone")


def loss_at_moments(*args, **kwargs):
    from grpo_core.losses.grpo import grpo_loss

    _moment(f"update {_state['step'] + 1}")
    return grpo_loss(*args, **kwargs)


@hookimpl
def grpo_register_verifiers(register):
    register("fragile", fragile)


@hookimpl
def grpo_register_losses(register):
    register("grpo_at_moments", loss_at_moments)


@hookimpl
def grpo_run_started():
    from grpo_core.training import checkpoint

    _state["is_running"] = True
    real_sync = checkpoint._sync

    def sync(folder: Path) -> None:
        real_sync(folder)
        _moment(f"save {_state['step']}")

    checkpoint._sync = sync


@hookimpl
def grpo_progress(phase):
    step = _state["step"]
    _moment(f"{phase} {step if phase == 'evaluate' else step + 1}")


@hookimpl
def grpo_step_finished(step):
    _state["step"] = step
    _moment(f"step {step}")
