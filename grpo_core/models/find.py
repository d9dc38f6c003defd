"""Find the files of a causal language model, or of an adapter for one, by hub id or folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grpo_core.errors import DataError
from grpo_core.models.adapter_files import base_name, is_adapter
from grpo_core.models.adapters import check_installed
from grpo_core.models.bundled import HUB_ID, bundled_smollm2
from grpo_core.models.checksums import check_model_files

_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]


def find_model(path: str) -> Path:
    """The local folder of a model or an adapter, downloaded if need be.

    Args:
        path: a folder with a config.json or an adapter_config.json, such as a run's checkpoint, or
            a hub id.

    Raises:
        DataError: if it is neither, or the hub does not answer. CheckpointError: if it is a
            checkpoint whose files are not as they were saved.
    """
    folder = Path(path).expanduser()
    check_model_files(folder)
    if is_adapter(folder):
        return folder
    if (folder / "config.json").is_file():
        read_model_config(folder)
        return folder
    if folder.exists() or path.startswith((".", "/", "~")):
        raise DataError(
            f"model.path '{path}' is not a model folder: it has no config.json. Give a folder "
            "written by save_pretrained, a checkpoint of a run, or a hub id such as " + HUB_ID
        )
    return _from_hub(path)


def absolute_name(path: str) -> str:
    """A folder's absolute path, by which it is found from everywhere; a hub id as it is."""
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.exists() else path


def model_chain(folder: Path) -> list[Path]:
    """The folder, and for an adapter what it is put on: perhaps another adapter; at last a model.

    Raises:
        DataError: if an adapter's base cannot be found. MissingExtraError: if there is an adapter
            and no peft.
    """
    chain = [folder]
    while is_adapter(chain[-1]):
        last = chain[-1]
        check_installed(f"the adapter in {last}")
        name = base_name(last)
        try:
            base = find_model(name)
        except DataError as error:
            raise DataError(
                f"the adapter in {last} is for the model '{name}', which is not found: {error} If "
                f"it was moved, correct base_model_name_or_path in {last / 'adapter_config.json'}."
            ) from error
        if base.resolve() in [part.resolve() for part in chain]:
            raise DataError(f"the adapter in {last} is, by way of its base, its own base.")
        chain.append(base)
    return chain


def read_model_config(folder: Path) -> dict[str, Any]:
    """The model's config.json; a run has a file of that name too."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if isinstance(config, dict) and "model_type" in config:
        return config
    if (folder / "checkpoints").is_dir():
        raise DataError(
            f"{folder} is the folder of a run, not of a model. Give one of its checkpoints: "
            f"{', '.join(map(str, sorted(folder.glob('checkpoints/step-*')))) or 'it has none'}."
        )
    raise DataError(f"{path} describes no model: it has no model_type.")


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_MODEL_FILES))
    except HFValidationError as error:
        raise DataError(f"model.path '{hub_id}' is no folder and no hub id: {error}") from error
    except GatedRepoError as error:
        raise DataError(
            f"'{hub_id}' is gated: ask for access on its page, then run 'hf auth login'."
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"the hub has no model '{hub_id}', or it is private ('hf auth login')."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if hub_id == HUB_ID:
            return bundled_smollm2()
        raise DataError(
            f"'{hub_id}' is not in the local cache and the hub does not answer "
            f"({type(error).__name__}). Connect to the network, or give a local folder."
        ) from error


def check_weights(folder: Path) -> int:
    """The number of weight files, whose headers are read: they tell of files that are cut short.

    Raises:
        DataError: if there are none, or one is damaged.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(
            f"{folder} holds no weights: no *.safetensors file. Other formats are not read, for "
            "they can run code."
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise DataError(f"{file} is damaged: {error}. Fetch or copy it again.") from error
    return len(files)
