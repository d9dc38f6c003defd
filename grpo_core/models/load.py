"""Find a causal language model by hub id or folder, and load it and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grpo_core.errors import ConfigError, DataError
from grpo_core.models.bundled import HUB_ID, bundled_smollm2

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from grpo_core.config import ModelConfig

_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]


def find_model(path: str) -> Path:
    """The local folder of a model, downloaded if need be.

    Args:
        path: a folder with a config.json, a run directory's checkpoint, or a hub id.

    Raises:
        DataError: if it is neither, or the hub does not answer.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        _read_config(folder)
        return folder
    if folder.exists() or path.startswith((".", "/", "~")):
        raise DataError(
            f"model.path '{path}' is not a model folder: it has no config.json. Give a folder "
            "written by save_pretrained, a checkpoint of a run, or a hub id such as " + HUB_ID
        )
    return _from_hub(path)


def _read_config(folder: Path) -> dict[str, Any]:
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


def load_tokenizer(folder: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a padding token and the chat template of the config.

    Raises:
        DataError: if the tokenizer or model.chat_template cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # transformers and tokenizers raise all sorts
        raise DataError(
            f"{folder} holds no tokenizer that can be read: {type(error).__name__}: {error}"
        ) from error
    if config.chat_template is not None:
        try:
            tokenizer.chat_template = Path(config.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"model.chat_template '{config.chat_template}' cannot be read: {error.strerror}."
            ) from error
    if tokenizer.pad_token_id is None:
        # Padding is always masked, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def load_model(folder: Path, config: ModelConfig) -> PreTrainedModel:
    """The model in float32 on its device; the trainer derives the compute copy from it.

    Raises:
        DataError: if the folder holds no causal language model that transformers knows, a
            quantised one, no whole safetensors files, or not all weights.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if "quantization_config" in _read_config(folder):
        raise DataError(
            f"{folder} holds quantised weights, which cannot be trained or saved. Give the "
            "unquantised model."
        )
    quiet_transformers()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            trust_remote_code=config.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except ValueError as error:
        raise DataError(f"{folder} holds no causal language model: {error}") from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"the weights in {folder} cannot be read: {error}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise DataError(
            f"{folder} lacks {len(missing)} weights of a {type(model).__name__}, such as "
            f"'{missing[0]}'; random numbers would stand in for them. Give a complete model."
        )
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")  # fused attention leaves the cap out
    _mend_generation_config(model)
    return cast("PreTrainedModel", model.to(choose_device(config.device)))


def _mend_generation_config(model: PreTrainedModel) -> None:
    """Drop generation defaults that contradict each other, such as greedy with a temperature.

    transformers loads them but refuses to save them, and no checkpoint shall fail because of
    settings that are never read here.
    """
    from transformers import GenerationConfig

    given = model.generation_config
    if given is None:
        return
    try:
        given.validate(strict=True)
    except ValueError:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        kept = {name: getattr(given, name) for name in names}
        model.generation_config = GenerationConfig(**kept)


def cast_model(model: nn.Module, dtype: torch.dtype) -> None:
    """`model.to(dtype)`, save that the frequencies of rotary positions stay in float32.

    transformers keeps them so when it loads a model in bfloat16. Rounded to it they are off by up
    to 0.2 %, which at position 1000 is more than a radian for the fast ones.
    """
    exact = {name: b for name, b in model.named_buffers() if name.endswith("inv_freq")}
    model.to(dtype)
    for name, buffer in exact.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, buffer)


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


def quiet_transformers() -> None:
    """Keep its progress bars, which last a second or two, out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def choose_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda".

    Raises:
        ConfigError: if cuda is asked for and not there.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError("model.device is 'cuda', but torch sees no CUDA device. Use 'auto'.")
    return torch.device("cuda" if name != "cpu" and has_cuda else "cpu")


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype forward and backward run in, for "auto", "bfloat16" or "float32".

    "auto" is bfloat16 where the hardware multiplies it natively; emulated bfloat16 is slower than
    float32.
    """
    import torch

    if name != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bfloat16 else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def eos_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The *set* of tokens that end a completion: many chat models have more than one.

    Raises:
        DataError: if neither the generation config nor the tokenizer names any.
    """
    ids: set[int] = set()
    for source in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if source is not None:
            ids.update([source] if isinstance(source, int) else source)
    if not ids:
        raise DataError("the model names no end-of-sequence token, so completions cannot end.")
    return frozenset(ids)
