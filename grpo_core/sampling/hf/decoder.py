"""Plain decoders, computed by a forward pass made for decoding.

The same numbers as the model's own forward gives, up to rounding, in a third of the operations:
products that share an input are one, what follows a product is part of it, and keys and values are
written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation

from grpo_core.kernels.rotary import turn
from grpo_core.sampling.hf.attention import NewestToken
from grpo_core.sampling.hf.columns import LayerStates
from grpo_core.sampling.hf.memory import Memory
from grpo_core.sampling.hf.passes import Prefilled, pad_left
from grpo_core.sampling.hf.plain import DecoderLayer, Norm, PlainDecoder
from grpo_core.sampling.hf.products import Product

# oneDNN makes a program for every number of rows; rows up to the next multiple cost next to nothing
_ROW_MULTIPLE = 8

Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]


class _Layer:
    """One layer, its weights ready to multiply with."""

    def __init__(self, numbers: DecoderLayer) -> None:
        self.numbers = numbers
        self.query_key_value = Product([numbers.query, numbers.key, numbers.value])
        self.output = Product([numbers.output])
        self.gate = Product([numbers.gate])
        self.up = Product([numbers.up])
        self.down = Product([numbers.down])
        self.is_silu = isinstance(numbers.activation, SiLUActivation | nn.SiLU)

    def mlp(self, x: Tensor, residual: Tensor) -> Tensor:
        """What the layer has so far, and its MLP of x, added up."""
        gate = self.gate.silu(x) if self.is_silu else self.numbers.activation(self.gate(x))
        return self.down.plus(self.up.times(x, gate), residual)


class DecoderPasses:
    """Passes of a plain decoder; see `grpo_core.sampling.hf.passes.Passes`."""

    def __init__(self, model: PlainDecoder, *, prompts_apart: bool) -> None:
        """Lay out the weights; what is changed in the model later on is not seen.

        Args:
            model: the numbers.
            prompts_apart: keep a prompt once for all rows that follow it.
        """
        self.prompts_apart = prompts_apart and model.embedding.device.type == "cpu"
        self._model = model
        self._layers = [_Layer(numbers) for numbers in model.layers]
        self._head = Product([model.head])

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        """Compute prompts side by side."""
        model = self._model
        ids, mask, positions = pad_left(prompts, 0, model.embedding.device)
        num_prompts, width = ids.shape
        allowed = _causal(mask, model.embedding.dtype)
        states: list[LayerStates] = []

        def attend(
            layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float
        ) -> Tensor:
            queries, keys, values = (
                part.view(num_prompts, width, -1, model.head_size).transpose(1, 2)
                for part in (queries, keys, values)
            )
            states.append(LayerStates(keys, values))
            return F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=allowed,
                is_causal=allowed is None,
                scale=scaling,
                enable_gqa=True,
            ).transpose(1, 2)

        x = self._forward(ids.flatten(), positions.flatten(), num_prompts * width, attend)
        logits = self._logits(x.view(num_prompts, width, -1)[:, -1])
        return Prefilled(logits, states, [len(prompt) for prompt in prompts])

    def step(self, tokens: Sequence[int], positions: Sequence[int], memory: Memory) -> Tensor:
        """Compute one token more of every row, and add it to `memory`."""
        embedding = self._model.embedding
        rows = len(tokens)
        padding = [0] * (-rows % _ROW_MULTIPLE)
        ids = torch.tensor([*tokens, *padding], device=embedding.device)
        places = torch.tensor([*positions, *padding], device=embedding.device)
        attend = NewestToken(memory, embedding.dtype, embedding.device)
        x = self._forward(ids, places, rows, attend)
        return self._logits(x)[:rows]

    def _forward(self, ids: Tensor, positions: Tensor, rows: int, attend: Attend) -> Tensor:
        """Hidden states after the last layer.

        Args:
            ids: [N] tokens, of which those after the first `rows` are padding.
            positions: [N]
            rows: how many take part in attention.
            attend: attention, which remembers keys and values.

        Returns:
            [N, hidden]
        """
        model = self._model
        x = F.embedding(ids, model.embedding)
        cosines, sines = model.rotary(x, positions[None])
        rotation = cosines[0], sines[0]
        attended = x.new_zeros(len(ids), model.heads * model.head_size)
        for number, layer in enumerate(self._layers):
            numbers = layer.numbers
            projected = layer.query_key_value(_normalised(x, numbers.attention_norm))
            queries, keys, values = self._heads(projected, numbers, rotation)
            result = attend(number, queries[:rows], keys[:rows], values[:rows], numbers.scaling)
            attended[:rows].view(result.shape).copy_(result)
            x = layer.output.plus(attended, x)
            x = layer.mlp(_normalised(x, numbers.mlp_norm), x)
        return x

    def _heads(
        self, projected: Tensor, numbers: DecoderLayer, rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [N, heads, size], turned by their positions."""
        model = self._model
        heads = projected.view(len(projected), -1, model.head_size)
        turned = heads[:, : model.heads + model.kv_heads]
        values = heads[:, model.heads + model.kv_heads :]
        if numbers.query_norm is not None and numbers.key_norm is not None:
            parts = turned.split([model.heads, model.kv_heads], dim=1)
            norms = numbers.query_norm, numbers.key_norm
            pairs = zip(parts, norms, strict=True)
            turned = torch.cat([_normalised(part, norm) for part, norm in pairs], dim=1)
        turned = turn(turned, *rotation)
        return turned[:, : model.heads], turned[:, model.heads :], values

    def _logits(self, x: Tensor) -> Tensor:
        return self._head(_normalised(x, self._model.norm))


def _normalised(x: Tensor, norm: Norm) -> Tensor:
    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return F.rms_norm(x, norm.weight.shape, norm.weight, norm.epsilon)
    # On the CPU torch makes it of eight operations, each of which starts with cold caches after a
    # product; these are four: x * weight * sqrt(H) / hypot(|x|, sqrt(H epsilon)).
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scaled = x / torch.hypot(size, norm.least_size)
    return torch.mul(scaled, norm.scaled_weight, out=torch.empty_like(x))


def _causal(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """[P, 1, T, T] 0 where a token sees another, else very low; None if there is no padding.

    Not minus infinity: padding sees nothing, and its softmax would be no number.
    """
    if bool(mask.all()):
        return None
    width = mask.shape[1]
    seen = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
    allowed = seen & mask[:, None].bool()
    zeros = torch.zeros(allowed.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
