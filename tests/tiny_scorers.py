"""Tiny reward models with real weights, some of them taught what good is, saved for loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    set_seed,
)

from tiny_model import tiny_tokenizer

# In which section an option of a learned verifier is.
_SECTIONS = {
    "input": ("template", "drop_system", "max_tokens", "too_long"),
    "compute": ("device", "dtype", "batch_tokens"),
    "steps": ("split", "separator", "most"),
    "tags": ("step", "join", "good", "bad"),
    "server": ("url", "model", "api_key_env"),
}
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def scorer_config(family: str = "llama", num_labels: int = 1, **changes: Any) -> Any:
    """The config of a tiny model of a family; its padding token is no other token's."""
    common = {"vocab_size": len(tiny_tokenizer()), "num_labels": num_labels, "pad_token_id": 0}
    config = {
        "llama": lambda: LlamaConfig(
            **SMALL, **common, num_attention_heads=4, max_position_embeddings=512
        ),
        "gpt2": lambda: GPT2Config(
            **common, n_embd=32, n_layer=2, n_head=4, n_positions=512, resid_pdrop=0.0
        ),
        "bert": lambda: BertConfig(
            **SMALL, **common, num_attention_heads=4, max_position_embeddings=512
        ),
    }[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def tiny_scorer(config: Any, *, tokens: bool = False, seed: int = 0) -> PreTrainedModel:
    """A random model with a head for whole texts, or for tokens."""
    set_seed(seed)
    kind = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
    model = kind.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)
    return model.eval()


def save_scorer(folder: Path, model: PreTrainedModel, **tokenizer: Any) -> Path:
    """Write model and tokenizer; keywords are set on the tokenizer."""
    model.save_pretrained(folder)
    ours = tiny_tokenizer()
    for name, value in tokenizer.items():
        setattr(ours, name, value)
    ours.save_pretrained(folder)
    return folder


def teach(model: PreTrainedModel, texts: list[list[int]], targets: list[Any], steps: int) -> None:
    """Train until the model gives its targets: 0 or 1 for a text, or for each token (-100: none).

    Texts of one length, so that there is nothing to pad.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    inputs, wanted = torch.tensor(texts), torch.tensor(targets)
    for _ in range(steps):
        logits = model(input_ids=inputs).logits
        if model.config.num_labels == 1:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits.squeeze(-1), wanted.float()
            )
        else:
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def in_sections(**options: Any) -> dict[str, Any]:
    """Options of a learned verifier, each put into its section."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        section = next((key for key, names in _SECTIONS.items() if name in names), None)
        if section is None:
            nested[name] = value
        else:
            nested.setdefault(section, {})[name] = value
    return nested
