"""Load tokenizers and models of learned verifiers: safetensors only, and all weights there."""

from __future__ import annotations

from typing import Any

from grpo_core.errors import VerifierError
from grpo_verifiers.learned.options import ModelOptions

_WHOLE_TEXTS = "AutoModelForSequenceClassification"
# A Llama's head for tokens is called `score`, as its head for texts is: nothing would be missing.
_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")


def preload(*, models: bool = True) -> None:
    """Import what loading needs, which takes seconds, and compute nothing."""
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401

    if models:
        import torch  # noqa: F401
        from transformers import AutoModelForSequenceClassification  # noqa: F401


def load_tokenizer(options: ModelOptions) -> Any:
    """The model's own tokenizer.

    Raises:
        VerifierError: if it cannot be read, or is one of those that cannot tell where tokens lie.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(options.path, **_source(options))
    except Exception as error:  # transformers and tokenizers raise all sorts
        raise _unreadable("tokenizer", options, error) from error


def read_config(options: ModelOptions) -> Any:
    """The model's config.

    Raises:
        VerifierError: if it cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(options.path, **_source(options))
    except Exception as error:  # as above
        raise _unreadable("model", options, error) from error


def load_model(options: ModelOptions, kind: str) -> Any:
    """The model in evaluation mode on its device.

    Args:
        options: which one.
        kind: name of a class of transformers, such as "AutoModelForSequenceClassification".

    Raises:
        VerifierError: if it cannot be read, scores something else, or lacks weights: a head of
            random numbers gives scores like any other.
    """
    import torch
    import transformers
    from transformers.utils import logging

    if kind == _WHOLE_TEXTS:
        _check_scores_whole_texts(read_config(options), options.path)
    logging.disable_progress_bar()
    device = _device(options)
    dtype = _dtype(options, device)
    # While transformers builds a model, its dtype is the default of the whole process, trainer and
    # sampler included.
    built_in = torch.float32 if options.runs_in == "trainer" else dtype
    try:
        model, report = getattr(transformers, kind).from_pretrained(
            options.path,
            dtype=built_in,
            use_safetensors=True,
            output_loading_info=True,
            **_source(options),
        )
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # as above
        raise _unreadable("model", options, error) from error
    if missing := sorted(report["missing_keys"]):
        raise VerifierError(
            f"'{options.path}' lacks {len(missing)} weights of a {type(model).__name__}, such as "
            f"'{missing[0]}': it was not trained to score. Give a reward model."
        )
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")  # fused attention leaves the cap out
    _cast(model, dtype)
    return model.to(device).eval().requires_grad_(False)


def _check_scores_whole_texts(config: Any, path: str) -> None:
    """Refuse a model whose head has the right name and was trained for something else."""
    names = list(getattr(config, "architectures", None) or ())
    has_own_class = _WHOLE_TEXTS in (getattr(config, "auto_map", None) or {})
    if not has_own_class and any(name.endswith(_OTHER_HEADS) for name in names):
        raise VerifierError(
            f"'{path}' is a {', '.join(names)}, which does not score whole texts. Give a "
            "sequence-classification model; models that score steps are for process_reward."
        )


def _cast(model: Any, dtype: Any) -> None:
    """`model.to(dtype)`, save for the frequencies of rotary positions, as transformers loads it."""
    exact = {name: kept for name, kept in model.named_buffers() if name.endswith("inv_freq")}
    model.to(dtype)
    for name, kept in exact.items():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, kept)


def _source(options: ModelOptions) -> dict[str, Any]:
    return {"revision": options.revision, "trust_remote_code": options.trust_remote_code}


def _device(options: ModelOptions) -> Any:
    import torch

    has_cuda = torch.cuda.is_available()
    if options.compute.device == "cuda" and not has_cuda:
        raise VerifierError(
            "compute.device is 'cuda', but torch sees no CUDA device. Set it to 'auto'."
        )
    return torch.device("cuda" if has_cuda and options.compute.device != "cpu" else "cpu")


def _dtype(options: ModelOptions, device: Any) -> Any:
    import torch

    if options.compute.dtype != "auto":
        return getattr(torch, options.compute.dtype)
    is_fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if is_fast else torch.float32


def _unreadable(what: str, options: ModelOptions, error: Exception) -> VerifierError:
    return VerifierError(
        f"the {what} of '{options.path}' cannot be read: {type(error).__name__}: {error} "
        "It must be a folder or a hub id that is in the cache or can be fetched, with weights in "
        "safetensors, and trust_remote_code must be set where it brings code of its own."
    )
