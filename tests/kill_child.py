"""The killed side of tests/kill_trials.py: forks runs of a tiny model that die at exact moments.

A moment is the k-th event of a kind in a step. What the kinds are:

    sampling, update, evaluation    a layer of the network is called, or a completion is done
    scoring                         a completion is handed to its verifier, or a verdict comes in
    optimiser                       a parameter has its new value, and those after it have not
    checkpoint, records             a file is opened, synced, or renamed (records: of metrics,
                                    completions and results; a half-written one is left behind)
    pruning                         a checkpoint is renamed away, or one of its files is deleted
    resume                          as records, while a resumed run puts its folder in order
    checkpoint bytes, metrics bytes, rollouts bytes     a file has grown to k bytes

At all but the last the process sends itself SIGKILL. At the last the kernel ends it in the midst of
a write: with SIGXFSZ, which no handler sees either.

The server imports torch once, computes nothing, and starts no thread, so it can fork: a run costs
two or three seconds. It reads one order a line, as JSON, and answers each with a line.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from grpo_core.config import RunConfig
from grpo_core.evaluation.run import evaluate
from grpo_core.hookspecs import hookimpl
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training import checkpoint
from grpo_core.training.run import train
from grpo_core.validation import build
from grpo_core.verification.budget import ErrorBudget
from grpo_core.verification.pool import VerifierPool

LETTERS = Path(__file__).parent / "integration" / "letter_plugin.py"
SOURCES = PluginSources((str(LETTERS),), use_entry_points=False)
FAULTS = ("no moments", "old step", "no selection")
_TIMEOUT = 120.0
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans become children of the server
_OF_LAST_STEP = ("checkpoint", "checkpoint bytes", "pruning", "evaluation")


class Moments:
    """An observer that counts events, and dies at one of them.

    Args:
        run: the run's folder.
        moment: kind, step and k; None to count only.
        last_step: the step of the checkpoint that the run is resumed from.
    """

    def __init__(self, run: Path, moment: tuple[str, int, int] | None, last_step: int) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self._run, self._moment, self._last_step = str(run), moment, last_step
        self._phase = "resume"
        self._has_limit = False
        torch.nn.modules.module.register_module_forward_pre_hook(lambda *_: self._note(self._phase))
        sys.addaudithook(self._on_audit)
        _before(ErrorBudget, "observe", lambda: self._note(self._scoring()))
        _before(VerifierPool, "submit", lambda: self._note(self._scoring()))
        _replace_everywhere(evaluate, self._in_evaluation(evaluate))
        self._sync, os.fsync = os.fsync, self._fsync
        self._adamw, torch._fused_adamw_ = torch._fused_adamw_, self._fused_adamw

    def key(self, kind: str) -> tuple[str, int]:
        """The kind of an event with its step: the one done last, or the one under way."""
        return kind, self._last_step + (kind not in _OF_LAST_STEP)

    def _note(self, kind: str) -> None:
        key = self.key(kind)
        if self._moment == (*key, self.counts[key]):
            os.kill(os.getpid(), signal.SIGKILL)
        self.counts[key] += 1

    def _scoring(self) -> str:
        return "evaluation" if self._phase == "evaluation" else "scoring"

    @hookimpl
    def grpo_run_started(self) -> None:
        self._phase = "sampling"

    @hookimpl
    def grpo_progress(self) -> None:
        self._note(self._phase)

    @hookimpl
    def grpo_rollouts_scored(self) -> None:
        self._phase = "update"

    @hookimpl
    def grpo_step_finished(self, step: int) -> None:
        self._last_step = step
        self._phase = "sampling"

    def _in_evaluation(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._phase, before = "evaluation", self._phase
            result = real(*args, **kwargs)
            self._phase = before
            return result

        return wrapped

    def _fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(self._run):
            self._note(self._kind_of_file(path))
        self._sync(descriptor)

    def _fused_adamw(self, *lists: list[Any], **options: Any) -> None:
        """The update of all parameters at once; the last one before the kill is done alone."""
        for done in range(len(lists[0])):
            if self._moment == (*self.key("optimiser"), self.counts[self.key("optimiser")] + done):
                if done:
                    self._adamw(*(items[:done] for items in lists), **options)
                os.kill(os.getpid(), signal.SIGKILL)
        self.counts[self.key("optimiser")] += len(lists[0])
        self._adamw(*lists, **options)

    def _on_audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str) and args[1] is not None:
            if args[0].startswith(self._run) and set(args[1]) & set("wa"):
                self._limit(args[0])
                self._note(self._kind_of_file(args[0]))
        elif event == "os.mkdir" and self._is_inside(args[0]):
            self._limit(str(args[0]))
            self._note(self._kind_of_file(str(args[0])))
        elif event == "os.rename" and self._is_inside(args[1]):
            source = Path(os.fsdecode(args[0])).name
            is_pruned = source.startswith("step-") and "checkpoints" in str(args[0])
            self._note("pruning" if is_pruned else self._kind_of_file(str(args[1])))
        elif event in ("os.remove", "os.rmdir") and (args[1] != -1 or self._is_inside(args[0])):
            is_pruned = args[1] != -1 or "checkpoints" in str(args[0])  # rmtree works in folders
            self._note("pruning" if is_pruned else self._kind_of_file(str(args[0])))

    def _is_inside(self, path: Any) -> bool:
        return os.fsdecode(path).startswith(self._run)

    def _kind_of_file(self, path: str) -> str:
        if self._phase == "resume":
            return "resume"
        return "checkpoint" if "/checkpoints/" in path else "records"

    def _limit(self, path: str) -> None:
        """From here on no file can grow beyond the k of a moment in bytes."""
        if self._moment is None or self._phase == "resume":
            return
        kind, step, size = self._moment
        parts = {
            "checkpoint bytes": "checkpoints/.partial",
            "metrics bytes": "metrics.jsonl",
            "rollouts bytes": "rollouts/.step",
        }
        if kind in parts and parts[kind] in path and self.key(kind)[1] == step:
            if kind == "metrics bytes" and os.path.exists(path):
                size += os.path.getsize(path)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _before(owner: type, name: str, act: Callable[[], None]) -> None:
    """Have `act` called before a method."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        act()
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def _replace_everywhere(function: Callable[..., Any], other: Callable[..., Any]) -> None:
    """Put `other` under all names by which the core knows a function."""
    found = [
        (module, name)
        for module in list(sys.modules.values())
        if getattr(module, "__name__", "").startswith("grpo_core")
        for name, value in list(vars(module).items())
        if value is function
    ]
    assert found, function
    for module, name in found:
        setattr(module, name, other)


def _plant(fault: str) -> None:
    """Break the resume, so that the trials can be seen to notice."""
    if fault == "no moments":
        _replace_everywhere(checkpoint.load_optimizer, lambda *_: None)
        return
    read_state = checkpoint.read_state
    forgotten = {
        "old step": lambda state: {"step": max(0, state.step - 1)},
        "no selection": lambda _: {"selection": {}},
    }[fault]

    def forgetful(path: Path) -> checkpoint.TrainerState:
        state = read_state(path)
        return dataclasses.replace(state, **forgotten(state))

    _replace_everywhere(read_state, forgetful)


def _sit(order: dict[str, Any]) -> None:
    """One sitting of a run, in a child. Never returns."""
    path = Path(order["run"])
    sys.stdout = sys.stderr = open(order["log"], "a", buffering=1)  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        newest = checkpoint.newest_checkpoint(path / "checkpoints")
        last_step = int(newest.name[5:]) if newest else 0
        moment = order["moment"] and tuple(order["moment"])
        moments = Moments(path, moment, last_step)
        if order["fault"] is not None:
            _plant(order["fault"])
        # Killed before its config was written, a run has not begun: a user starts it anew.
        resume = (path / "config.json").is_file()
        directory = RunDirectory.open(path) if resume else RunDirectory.create(path, base="")
        config = build(RunConfig, order["config"])
        train(config, load_plugins(SOURCES, extra=[moments]), SOURCES, directory, resume=resume)
        counts = [[kind, step, number] for (kind, step), number in sorted(moments.counts.items())]
        Path(order["counts"]).write_text(json.dumps(counts))
        code = 0
    except BaseException:  # noqa: BLE001 - the log is all that the parent sees
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    """Run a sitting; when `delay` is a number it is killed that many seconds after its start."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _sit(order)
    limit = _TIMEOUT if order["delay"] is None else order["delay"]
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - started > limit:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    return {
        "returncode": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - started,
        "orphans": _orphans() if order["is_last"] else 0,
    }


def _orphans(seconds: float = 10.0) -> int:
    """Worker processes of killed runs that do not end by themselves; they are ended here."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
            time.sleep(0.02)
            continue
        return 0
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in children:
        os.kill(int(pid), signal.SIGKILL)
        os.waitpid(int(pid), 0)
    return len(children)


def serve() -> None:
    """Answer orders until the input ends."""
    import pyarrow.parquet  # noqa: F401 - so that the children need not
    import transformers.models.llama.modeling_llama  # noqa: F401

    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
