"""How a run ended: what summary.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_core.config import RunConfig
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.checkpoint import TrainerState, newest_checkpoint
from grpo_core.training.health import count_alarms


def summarise(
    config: RunConfig,
    directory: RunDirectory,
    state: TrainerState,
    held_out_size: int,
    status: str,
    failure: Exception | None,
    seconds: float,
) -> dict[str, Any]:
    """The summary of a run that ends now.

    Args:
        config: of the run.
        directory: of the run.
        state: of the run.
        held_out_size: prompts of a full evaluation; one on fewer is not called "after".
        status: "finished", "interrupted" or "failed".
        failure: why it failed.
        seconds: wall time over all sittings, the download of the model aside.
    """
    evaluations = {result["step"]: result for result in directory.read_evaluations()}
    after = evaluations.get(state.step) if state.step else None
    is_full = after is not None and after["num_prompts"] == held_out_size
    saved, best = newest_checkpoint(directory.checkpoints), state.best_pass_at_1
    return {
        "status": status,
        "error": None if failure is None else str(failure),
        "model": config.model.path,
        "task": config.task.name,
        "seed": config.seed,
        "steps": state.step,
        "pass_at_1_before": _rate(evaluations.get(0)),
        "pass_at_1_after": _rate(after) if is_full else None,
        "best": {"step": state.best_step, "pass_at_1": best if best >= 0 else None},
        "alarms": count_alarms(directory.read_alarms()),
        "seconds": seconds,
        "tokens": state.tokens,
        "checkpoint": None if saved is None else str(saved),
    }


def _rate(result: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    return None if result is None else result["pass_at_1"]
