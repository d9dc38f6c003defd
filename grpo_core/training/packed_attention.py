"""Packed rows for any transformers model whose attention goes through the attention interface.

transformers looks an attention function up by name and hands it what the model was called with, so
the tiles of a micro-batch travel from the call to every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from grpo_core.errors import ConfigError
from grpo_core.kernels.packed_attention import packed_attention
from grpo_core.kernels.tiles import Tile

PACKED = "grpo_packed"  # the name transformers looks the function up by
# What other attentions do to their scores; None or False where they do not.
_FOREIGN = ("sliding_window", "softcap", "s_aux", "head_mask", "position_bias")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_tiles: Sequence[Tile] = (),
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention function of transformers' interface over one packed row.

    Args:
        module: whose attention it is; not looked at.
        query: [1, H, N, D]
        key: [1, J, N, D]
        value: [1, J, N, D]
        attention_mask: must be None: the tiles say who sees whom.
        scaling: of the scores; None: D ** -0.5.
        dropout: must be 0.
        packed_tiles: of the row.
        others: what else the model says; refused where it would change the scores.

    Returns:
        [1, N, H, D], and no weights.

    Raises:
        ConfigError: if the model asks for something else than causal attention over the row.
    """
    asked = [name for name in _FOREIGN if others.get(name) is not None]
    if not packed_tiles or dropout or asked or attention_mask is not None:
        raise ConfigError(
            f"packed rows are not possible with a {type(module).__name__}: its attention "
            f"{'uses ' + ', '.join(asked) if asked else 'was not told what the row holds'}."
        )
    queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    factor = query.shape[-1] ** -0.5 if scaling is None else scaling
    return packed_attention(queries, keys, values, packed_tiles, factor)[None], None


AttentionInterface.register(PACKED, attend)
