"""Load the models that score steps, however they are built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from grpo_core.errors import VerifierError
from grpo_verifiers.learned.loading import load_model
from grpo_verifiers.learned.options import ModelOptions
from grpo_verifiers.learned.reader import Reader
from grpo_verifiers.learned.scorer import ModelScorer

Kind = Literal["tokens", "vocabulary", "prefix"]

# By the end of the class's name in config.json.
_KINDS: tuple[tuple[str, Kind], ...] = (
    ("ForTokenClassification", "tokens"),
    ("RewardModel", "tokens"),  # Qwen2ForProcessRewardModel and its like, which bring their code
    ("ForCausalLM", "vocabulary"),
    ("LMHeadModel", "vocabulary"),
    ("ForSequenceClassification", "prefix"),
)
_CLASSES: dict[Kind, str] = {
    "tokens": "AutoModelForTokenClassification",
    "vocabulary": "AutoModelForCausalLM",
    "prefix": "AutoModelForSequenceClassification",
}


def open_step_model(
    options: ModelOptions, kind: str, reader: Reader, tokens: Sequence[str | int]
) -> tuple[Kind, ModelScorer]:
    """The model, and how it scores steps.

    Args:
        options: which one.
        kind: "auto" or a `Kind`.
        reader: its tokenizer and config.
        tokens: the bad one and the good one, as texts or ids, for kind "vocabulary".

    Raises:
        VerifierError: if it cannot be loaded, its kind cannot be told, or a token is none.
    """
    config = reader.model_config
    chosen = _kind(config, options.path) if kind == "auto" else kind
    if chosen == "vocabulary":
        ids = [_token_id(reader.conversation.tokenizer, token) for token in tokens]
        model = load_model(options, _CLASSES["vocabulary"])
        return "vocabulary", ModelScorer(model, "vocabulary", options.compute.batch_tokens, ids)
    if chosen == "prefix":
        model = load_model(options, _CLASSES["prefix"])
        return "prefix", ModelScorer(model, "pooled", options.compute.batch_tokens)
    model = load_model(options, _tokens_class(config, options))
    return "tokens", ModelScorer(model, "tokens", options.compute.batch_tokens)


def _kind(config: Any, path: str) -> Kind:
    names = list(getattr(config, "architectures", None) or ())
    for name in names:
        for ending, kind in _KINDS:
            if name.endswith(ending):
                return kind
    raise VerifierError(
        f"'{path}' is a {', '.join(names) or 'model without a class'}, which does not tell how it "
        "scores steps. Set kind to 'tokens', 'vocabulary' or 'prefix'."
    )


def _tokens_class(config: Any, options: ModelOptions) -> str:
    """Models that bring their own class name it for `AutoModel`."""
    if "AutoModel" not in (getattr(config, "auto_map", None) or {}):
        return _CLASSES["tokens"]
    if not options.trust_remote_code:  # what is built in under this name has no head
        raise VerifierError(
            f"'{options.path}' scores with code of its own, which is not run unless you allow it: "
            "read it, then set trust_remote_code."
        )
    return "AutoModel"


def _token_id(tokenizer: Any, token: str | int) -> int:
    if isinstance(token, int):
        return token
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        raise VerifierError(
            f"'{token}' is {len(ids)} tokens of the model, and one is needed. Set tags.good and "
            "tags.bad to tokens, or to their ids."
        )
    return int(ids[0])
