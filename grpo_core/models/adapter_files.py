"""Adapters in folders: read, put on their model, and written, in the format of peft.

    adapter_config.json          kind, rank, alpha, layers, and the base: its hub id or folder
    adapter_model.safetensors    float32 weights, no others
    base_model.json              fingerprint of the base's weights; ours, others do not read it

The base lies elsewhere and may be replaced; with another one the adapters mean nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.errors import CheckpointError, DataError
from grpo_core.models.adapters import ADAPTER, check_installed

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of every name in the file; peft's own model has the base in there
_BASE = "base_model.json"
_SAMPLE = 64  # numbers of each weight in the fingerprint


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter; transformers, too, takes it for one then."""
    return (folder / _CONFIG).is_file()


def base_name(folder: Path) -> str:
    """Hub id or folder of the model that an adapter folder is put on.

    Raises:
        DataError: if the folder does not tell, or holds an adapter of another kind.
    """
    path = folder / _CONFIG
    config = _read_json(path)
    if (kind := config.get("peft_type")) != "LORA":
        raise DataError(f"{folder} holds an adapter of kind {kind!r}; only LORA can be read.")
    name = config.get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        raise DataError(
            f"{path} does not name the model its adapter belongs to. Set base_model_name_or_path "
            "in it to a hub id or a folder."
        )
    return name


def attach(
    model: PreTrainedModel, folder: Path, *, merge: bool, check_base: bool
) -> PreTrainedModel:
    """Put the adapter of a folder on `model`, which is in float32, in place.

    Args:
        model: the adapter's base.
        folder: of the adapter.
        merge: add it into the weights, all of which can be trained then, instead of keeping it
            apart, frozen.
        check_base: compare the model's fingerprint with the one noted in the folder.

    Raises:
        DataError: if the folder cannot be read or belongs to another model.
        MissingExtraError: if peft is not installed.
    """
    check_installed(f"the adapter in {folder}")
    from peft import PeftConfig, PeftModel, set_peft_model_state_dict

    values = _read(folder, model if check_base else None)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        with torch.random.fork_rng(devices=[]):  # peft starts them at random
            wrapper = PeftModel(model, config, ADAPTER)
        found = set_peft_model_state_dict(wrapper, values, ADAPTER)
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(
            f"the adapter in {folder} does not fit a {type(model).__name__}: {error}"
        ) from error
    missing = [name for name in found.missing_keys if f".{ADAPTER}" in name]
    _refuse_difference(folder, missing, found.unexpected_keys)
    if not merge:
        return cast("PreTrainedModel", wrapper.get_base_model())
    merged: Any = wrapper.merge_and_unload()
    return cast("PreTrainedModel", merged.requires_grad_(True))


@torch.no_grad()
def restore_adapter(model: PreTrainedModel, checkpoint: Path, *, check_base: bool) -> None:
    """Put the adapters of a checkpoint back into `model`, which has some, to the bit.

    Args:
        model: in float32.
        checkpoint: of the same run.
        check_base: compare the base's fingerprint with the one noted in the checkpoint.

    Raises:
        CheckpointError: if it cannot be read, or has other adapters or another base.
    """
    try:
        _restore(model, checkpoint, check_base)
    except DataError as error:
        raise CheckpointError(
            f"{error} Or delete {checkpoint} to resume from the one before."
        ) from error


def _restore(model: PreTrainedModel, folder: Path, check_base: bool) -> None:
    parameters = _stored_names(dict(model.named_parameters()))
    values = _read(folder, model if check_base else None)
    _refuse_difference(folder, parameters.keys() - values.keys(), values.keys() - parameters.keys())
    for name, parameter in parameters.items():
        if parameter.shape != values[name].shape:
            raise DataError(
                f"{folder / _WEIGHTS}: '{name}' has shape {tuple(values[name].shape)}, the "
                f"adapter {tuple(parameter.shape)}. It is of another run."
            )
        parameter.copy_(values[name])


def save_adapter(
    folder: Path, model: PreTrainedModel, masters: Mapping[str, Tensor], base: str
) -> None:
    """Write the adapters of `model` so that peft reads them.

    Args:
        folder: is made if need be.
        model: has adapters.
        masters: their float32 weights by parameter name.
        base: fingerprint of the model they are on.

    Raises:
        OSError, SafetensorError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().float().contiguous() for name, value in _stored_names(masters).items()
    }
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    _write_json(folder / _BASE, {"fingerprint": base})
    peft_config: Any = model.peft_config
    config = copy.copy(peft_config[ADAPTER])
    config.inference_mode = True
    values = {
        # peft writes sets in the order they happen to have in memory.
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }
    _write_json(folder / _CONFIG, values)


def fingerprint(model: PreTrainedModel) -> str:
    """Tells base models apart, by a few numbers of each weight; adapters do not count.

    The numbers are rounded to bfloat16, so that it is the same before and after a cast.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_" not in name:
            # A copy: numpy pins the memory it shows, and a sharded model must free its own.
            sample = parameter.detach().flatten()[:_SAMPLE].to("cpu", torch.bfloat16, copy=True)
            digest.update(name.replace(".base_layer.", ".").encode())
            digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _stored_names(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Adapter parameters by the names they have in the file."""
    return {
        _PREFIX + name.replace(f".{ADAPTER}.weight", ".weight"): parameter
        for name, parameter in parameters.items()
        if ".lora_" in name
    }


def _read(folder: Path, base: PreTrainedModel | None) -> dict[str, Tensor]:
    """The weights of an adapter folder, once the base is seen to be the right one."""
    if base is not None and (folder / _BASE).is_file():
        noted = _read_json(folder / _BASE).get("fingerprint")
        if noted != fingerprint(base):
            _refuse_base(folder)
    path = folder / _WEIGHTS
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _refuse_base(folder: Path) -> NoReturn:
    raise DataError(
        f"the adapter in {folder} was trained on other weights than those of its base model "
        f"'{base_name(folder)}' as it is now, so together they are no model that anybody "
        "trained. Put the base model back, or correct base_model_name_or_path in "
        f"{folder / _CONFIG}."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no JSON object.")
    return values


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=2, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _refuse_difference(folder: Path, missing: Any, unexpected: Any) -> None:
    for what, names in (("lacks", sorted(missing)), ("has unknown", sorted(unexpected))):
        if names:
            raise DataError(
                f"{folder / _WEIGHTS} {what} {len(names)} weights of the adapter that "
                f"{_CONFIG} describes, such as '{names[0]}'. Copy or train it again."
            )
