"""Any model with attention in every layer, computed by its own forward function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from grpo_core.errors import ConfigError
from grpo_core.sampling.hf.columns import Columns, LayerStates
from grpo_core.sampling.hf.memory import Memory
from grpo_core.sampling.hf.passes import Prefilled, pad_left


def check_served(model: PreTrainedModel) -> None:
    """Refuse models whose memory of the past is more than keys and values.

    Raises:
        ConfigError: for a model with recurrent layers, or with attention that stores other things.
    """
    layers = DynamicCache(config=model.config).layers
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    if not model._is_stateful and all(type(layer) in known for layer in layers):
        return
    strange = next((type(layer).__name__ for layer in layers if type(layer) not in known), "")
    is_indexed = isinstance(next(iter(layers), None), DynamicLayer) and not model._is_stateful
    kind = (
        f"layers that store more than keys and values ({strange})"
        if is_indexed
        else ("recurrent layers, whose state cannot be shared out like a key-value cache")
    )
    raise ConfigError(
        f"sampling.engine 'hf' cannot sample from a {type(model).__name__}: it has {kind}. Choose "
        "a model with attention in every layer, or another engine."
    )


class OwnForward:
    """Passes through the model itself; see `grpo_core.sampling.hf.passes.Passes`."""

    prompts_apart = False

    def __init__(self, model: PreTrainedModel, pad: int) -> None:
        self._model: Any = model
        self._pad = pad

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        """Compute prompts side by side."""
        cache: Any = DynamicCache(config=self._model.config)
        logits = self._forward(*pad_left(prompts, self._pad, self._model.device), cache)
        # Where layers share keys and values, those that read another's have none.
        states = [LayerStates(x.keys, x.values) for x in cache.layers if x.is_initialized]
        return Prefilled(logits, states, [len(prompt) for prompt in prompts])

    def step(self, tokens: Sequence[int], positions: Sequence[int], memory: Memory) -> Tensor:
        """Compute one token more of every row, and add it to `memory`."""
        columns, device = memory.columns, self._model.device
        mask = columns.mask(device)
        if mask is None:
            mask = torch.ones((len(tokens), columns.width), device=device)
        layers: Any = [_ColumnsLayer(columns, number) for number in range(columns.num_layers)]
        return self._forward(
            torch.tensor(tokens, device=device)[:, None],
            mask.long(),
            torch.tensor(positions, device=device)[:, None],
            Cache(layers=layers),
        )

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Logits of the last position, [B, V]."""
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


class _ColumnsLayer(DynamicLayer):
    """One layer of `Columns`, as transformers' attention sees it."""

    def __init__(self, columns: Columns, number: int) -> None:
        super().__init__()
        self._columns = columns
        self._number = number
        self._seen = columns.width - 1
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new token's, [B, heads, 1, size]; return all."""
        self._columns.write(self._number, key_states[:, :, 0], value_states[:, :, 0])
        states = self._columns.read(self._number)
        return states.keys, states.values

    def get_seq_length(self) -> int:
        """Columns before the new token's."""
        return self._seen
