"""Load a causal language model, be it a base with an adapter, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grpo_core.errors import ConfigError, DataError
from grpo_core.models.adapter_files import attach
from grpo_core.models.find import model_chain, read_model_config

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from grpo_core.config import ModelConfig


def load_tokenizer(folder: Path, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a padding token and the chat template of the config.

    An adapter folder without one has its base's.

    Raises:
        DataError: if the tokenizer or model.chat_template cannot be read.
    """
    from transformers import AutoTokenizer

    chain = model_chain(folder)
    folder = next((part for part in chain if (part / "tokenizer_config.json").is_file()), chain[-1])
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


def load_model(
    folder: Path, config: ModelConfig, *, merge_adapter: bool = False
) -> PreTrainedModel:
    """The model in float32 on its device; the trainer derives the compute copy from it.

    Args:
        folder: of a model or of an adapter.
        config: section [model].
        merge_adapter: add the folder's adapter into the weights, to train all of them or new
            adapters; otherwise it is kept apart, frozen, and computed as it was in training.

    Raises:
        DataError: if the folder holds no causal language model that transformers knows, a
            quantised one, no whole safetensors files, or not all weights; or an adapter that does
            not fit its base.
    """
    *adapters, base = model_chain(folder)
    model: Any = _load_whole(base, config)
    for adapter in reversed(adapters):
        merge = merge_adapter or adapter != folder
        # Sums of merged weights may be rounded in another way elsewhere.
        model = attach(model, adapter, merge=merge, check_base=adapter is adapters[-1])
    return cast("PreTrainedModel", model.to(choose_device(config.device)))


def _load_whole(folder: Path, config: ModelConfig) -> PreTrainedModel:
    """The model of a folder, in float32 on the CPU."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if "quantization_config" in read_model_config(folder):
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
    return cast("PreTrainedModel", model)


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
