"""Checkpoints: a Hugging Face model folder, plus what an exact resume needs.

    checkpoints/step-000040/
        model.safetensors, config.json, tokenizer...   float32 master weights
        optimizer.safetensors                          AdamW moments, by parameter name
        trainer_state.json                             step, best evaluation so far

Nothing is pickled. A checkpoint is written under another name and renamed when it is complete, so
one that can be seen is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grpo_core.errors import CheckpointError
from grpo_core.models.load import quiet_transformers
from grpo_core.records.files import write_json
from grpo_core.training.precision import MasterWeights

_STATE = "trainer_state.json"
_OPTIMIZER = "optimizer.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_PARTIAL = ".partial-"


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What the loop carries from step to step besides weights and moments.

    Attributes:
        step: optimiser steps done.
        best_step, best_pass_at_1: of the best evaluation so far by the binary verdict.
        tokens: completion tokens sampled for training so far.
        seconds: wall time spent so far, over all sittings.
    """

    step: int = 0
    best_step: int = 0
    best_pass_at_1: float = -1.0
    tokens: int = 0
    seconds: float = 0.0


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    masters: MasterWeights,
    optimizer: torch.optim.Optimizer,
    state: TrainerState,
) -> Path:
    """Write `folder/step-NNNNNN` and return it; of one that exists only the state is renewed.

    Raises:
        CheckpointError: if it cannot be written, for instance on a full disk. Older checkpoints
            are untouched.
    """
    target = folder / f"step-{state.step:06d}"
    if target.exists():
        write_json(target / _STATE, asdict(state))
        return target
    partial = folder / f"{_PARTIAL}{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_weights(partial, model, tokenizer, masters)
        save_file(_moments(masters, optimizer), partial / _OPTIMIZER)
        write_json(partial / _STATE, asdict(state))
        _sync(partial)
        partial.rename(target)
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
    """Write a folder that `from_pretrained` reads, with the float32 master weights."""
    weights: dict[str, Tensor] = dict(model.state_dict())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for alias, parameter in model.named_parameters(remove_duplicate=False):  # tied ones come twice
        master = masters.parameters.get(names[id(parameter)])
        if master is not None:
            weights[alias] = master.detach()
    quiet_transformers()
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    # save_pretrained notes the compute dtype; what is stored is float32.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the latest step, or None."""
    return next(reversed(_checkpoints(folder)), None)


def read_state(checkpoint: Path) -> TrainerState:
    """The loop's state as saved.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    path = checkpoint / _STATE
    try:
        return TrainerState(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Delete {checkpoint} to resume from the one before."
        ) from error


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
                    key: saved[f"{name}/{key}"].to(parameter.device) for key in _MOMENTS
                }
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Delete {checkpoint} to "
            "resume from the one before."
        ) from error


def prune_checkpoints(folder: Path, keep: int, best_step: int) -> None:
    """Delete all but the `keep` newest checkpoints and the best one; and leftovers of a crash."""
    for checkpoint in _checkpoints(folder)[:-keep]:
        if checkpoint.name != f"step-{best_step:06d}":
            # Renamed first: a kill while files are being deleted leaves no half a checkpoint.
            with suppress(OSError):
                checkpoint.rename(folder / f"{_PARTIAL}{checkpoint.name}")
    for leftover in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints, in order of step."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _moments(masters: MasterWeights, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    moments: dict[str, Any] = {}
    for name, parameter in masters.parameters.items():
        for key, value in optimizer.state[parameter].items():
            moments[f"{name}/{key}"] = value.contiguous()
    return moments


def _sync(folder: Path) -> None:
    """Have the files on disk before the rename makes them visible."""
    for path in folder.rglob("*"):  # a tokenizer with several templates has a folder for them
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
