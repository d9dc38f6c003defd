"""Checkpoints: a Hugging Face model folder, plus what an exact resume needs.

    checkpoints/step-000040/
        model.safetensors, config.json, tokenizer...   float32 master weights
        adapter_model.safetensors, adapter_config.json instead, with [lora], as peft has them
        optimizer.safetensors                          AdamW moments, by parameter name
        reference.safetensors                          where grpo.beta has one that moves
        ahead.parquet                                  the next batch, with selection.ahead
        trainer_state.json                             step, best evaluation so far
        run_config.json                                the settings of the run
        checksums.json                                 of all these, checked by a resume

Nothing is pickled. A checkpoint is written under another name and renamed when it is complete, so
one that can be seen is whole.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo_core.errors import CheckpointError
from grpo_core.models.adapter_files import save_adapter
from grpo_core.models.checksums import CHECKSUMS, STATE, find_damage, seal, write_checksums
from grpo_core.models.load import quiet_transformers
from grpo_core.records.files import dump_json, sync_folder, write_json
from grpo_core.records.rollouts import read_rollouts, write_rollouts
from grpo_core.training.kept_config import check_config, keep_config
from grpo_core.training.precision import MasterWeights
from grpo_core.training.reference import Reference
from grpo_core.training.shard import spread
from grpo_core.training.snapshot import Snapshot, take_snapshot
from grpo_core.training.world import World
from grpo_core.types import Json, RolloutGroup

_OPTIMIZER = "optimizer.safetensors"
_REFERENCE = "reference.safetensors"
_AHEAD = "ahead.parquet"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What the loop carries from step to step besides weights and moments.

    Attributes:
        step: the last one done, of grpo.num_iterations optimiser steps.
        best_step, best_pass_at_1: of the best evaluation so far by the binary verdict.
        tokens: completion tokens sampled for training so far.
        seconds: wall time spent so far, over all sittings.
        selection: what the source of prompts goes on from.
    """

    step: int = 0
    best_step: int = 0
    best_pass_at_1: float = -1.0
    tokens: int = 0
    seconds: float = 0.0
    selection: Mapping[str, Json] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    masters: MasterWeights,
    optimizer: torch.optim.Optimizer,
    state: TrainerState,
    moving_reference: Reference | None = None,
    world: World | None = None,
    ahead: Sequence[RolloutGroup] | None = None,
) -> Path:
    """Write `folder/step-NNNNNN` and return it; of one that exists only the state is renewed.

    All processes give their shares of the weights, and the leader writes what one process would.

    Raises:
        CheckpointError: if it cannot be written, for instance on a full disk. Older checkpoints
            are untouched. ProcessLost: if a process has died.
    """
    target = folder / _name(state.step)
    if target.exists():
        # One of an earlier version has no sums, and must not look as if it had lost them.
        values = _plain(state)
        write_json(target / STATE, seal(values) if (target / CHECKSUMS).exists() else values)
        return target
    partial = folder / f"{_PARTIAL}{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    with (world or World()).order("save"):
        snapshot = take_snapshot(model, masters, optimizer, moving_reference)
    try:
        _write_weights(partial, model, tokenizer, snapshot)
        save_file(snapshot.moments, partial / _OPTIMIZER)
        if snapshot.reference is not None:
            save_file(snapshot.reference, partial / _REFERENCE)
        if ahead is not None:
            write_rollouts(partial / _AHEAD, ahead)
        keep_config(folder.parent, partial)
        write_json(partial / STATE, seal(_plain(state)))
        write_checksums(partial)
        _sync(partial)
        partial.rename(target)
        sync_folder(folder)
    except (OSError, SafetensorError, CheckpointError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error  # safetensors has errors of its own
        raise CheckpointError(
            f"cannot write checkpoint {target}: {reason}. Free space or rights there, then "
            "resume; earlier checkpoints are intact."
        ) from error
    return target


def save_weights(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    masters: MasterWeights,
) -> None:
    """Write a folder that `from_pretrained` reads, with the float32 master weights.

    Of a model with adapters, a folder that peft's `from_pretrained` reads, with those alone.
    """
    _write_weights(folder, model, tokenizer, take_snapshot(model, masters))


def _write_weights(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    snapshot: Snapshot,
) -> None:
    tokenizer.save_pretrained(folder)
    if snapshot.base is not None:
        save_adapter(folder, model, snapshot.weights, snapshot.base)
        return
    quiet_transformers()
    model.save_pretrained(folder, state_dict=dict(snapshot.weights))
    # save_pretrained notes the compute dtype; what is stored is float32.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the latest step, or None."""
    return next(reversed(_checkpoints(folder)), None)


def read_state(checkpoint: Path) -> TrainerState:
    """The loop's state as saved, once every file beside it is found to be as it was saved.

    A checkpoint of an earlier version, which has no sums, is taken as it is.

    Raises:
        CheckpointError: naming the first file that is damaged, missing, or too much, and the way to
            go on from the newest whole checkpoint before this one.
        ConfigError: if the run's config.json has become that of another run.
    """
    state = _read(checkpoint)
    if isinstance(state, str):
        raise CheckpointError(f"{state}. {_way_on(checkpoint)}")
    check_config(checkpoint.parent.parent, checkpoint)
    return state


def _read(checkpoint: Path) -> TrainerState | str:
    """The state, or what is wrong with the checkpoint."""
    if damage := find_damage(checkpoint):
        return damage
    path = checkpoint / STATE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values.pop("sha256", None)
        state = TrainerState(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{path} cannot be read ({error})"
    if _name(state.step) != checkpoint.name:
        return f"{path} is of step {state.step}"
    return state


def _way_on(checkpoint: Path) -> str:
    """How to resume without a damaged checkpoint; it may still be of use, so it is not deleted."""
    older = _checkpoints(checkpoint.parent)
    older = older[: older.index(checkpoint)] if checkpoint in older else []
    damaged, whole = [checkpoint], None
    while older and whole is None:
        candidate = older.pop()
        if isinstance(_read(candidate), str):
            damaged.append(candidate)
        else:
            whole = candidate
    moves = [shlex.join(["mv", str(path), f"{path}.damaged"]) for path in damaged]
    resume = ["grpo", "train", "--resume", "--output", str(checkpoint.parent.parent)]
    goal = "There is no whole checkpoint before it, so the run can only begin again"
    if whole is not None:
        goal = f"The run can go on from {whole}, which is whole"
    return (
        f"Nothing was deleted. {goal}: move what is damaged away and resume, with the --plugin "
        f"files of before:\n  {' && '.join([*moves, shlex.join(resume)])}"
    )


def load_optimizer(
    checkpoint: Path, masters: MasterWeights, optimizer: torch.optim.Optimizer
) -> None:
    """Put the saved moments back.

    Raises:
        CheckpointError: if the file is missing, damaged, or of another model.
    """
    path = checkpoint / _OPTIMIZER
    try:
        saved = load_file(path)
        if strange := {key.rpartition("/")[0] for key in saved} - masters.parameters.keys():
            raise KeyError(min(strange))
        for name, parameter in masters.parameters.items():
            # A parameter that has not had a gradient yet has no moments.
            if f"{name}/step" in saved:
                optimizer.state[parameter] = {
                    key: spread(saved[f"{name}/{key}"].to(parameter.device), parameter)
                    for key in _MOMENTS
                }
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}). {_way_on(checkpoint)}"
        ) from error


def load_reference(checkpoint: Path, reference: Reference) -> None:
    """Put a reference that moves back to where it was.

    Raises:
        CheckpointError: if the file is missing, damaged, or of another model.
    """
    path = checkpoint / _REFERENCE
    try:
        reference.restore(load_file(path))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}). {_way_on(checkpoint)}"
        ) from error


def read_ahead(checkpoint: Path) -> list[RolloutGroup] | None:
    """The next batch, where it had been sampled already; errors as `read_rollouts`."""
    path = checkpoint / _AHEAD
    return read_rollouts(path) if path.exists() else None


def prune_checkpoints(folder: Path, keep: int, best_step: int) -> None:
    """Delete all but the `keep` newest checkpoints and the best one; and leftovers of a crash."""
    for checkpoint in _checkpoints(folder)[:-keep]:
        if checkpoint.name != _name(best_step):
            # Renamed first: a kill while files are being deleted leaves no half a checkpoint.
            with suppress(OSError):
                checkpoint.rename(folder / f"{_PARTIAL}{checkpoint.name}")
    for leftover in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _plain(state: TrainerState) -> dict[str, Any]:
    """The state as it is when it has been written and read again, which is what is summed."""
    values: dict[str, Any] = json.loads(dump_json(asdict(state)))
    return values


def _checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints, in order of step."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _sync(folder: Path) -> None:
    """Have the files on disk before the rename makes them visible."""
    for path in folder.rglob("*"):  # a tokenizer with several templates has a folder for them
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
