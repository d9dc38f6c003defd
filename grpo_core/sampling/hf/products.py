"""Products with the weights of linear layers, fast for the few rows of a decoding step.

On the CPU weights are copied once into the blocked form in which oneDNN multiplies (for 64 rows
1.5 to 2 times faster than reordering them in every product), and what follows a product
(activation, sum, product by element) is done while its result is in registers. Elsewhere the
layers' own weights are used.

Low-rank adapters are computed apart, as the policy computes them: added into the weights they would
be rounded with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ROWS = 64  # the form is chosen for so many; it serves any number


@dataclass(frozen=True, slots=True)
class LowRank:
    """An adapter: it adds scaling * B A x (Hu et al. 2021, arXiv 2106.09685)."""

    a: Tensor
    b: Tensor
    scaling: float


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer as its numbers: weight [out, in], bias [out] or None, and adapters."""

    weight: Tensor
    bias: Tensor | None = None
    adapters: tuple[LowRank, ...] = ()


def read_linear(layer: nn.Module) -> Linear | None:
    """The numbers of a layer, or None if it computes more than a linear one with plain adapters."""
    if type(layer) is nn.Linear:
        return Linear(layer.weight, layer.bias)
    base = getattr(layer, "base_layer", None)
    if type(base) is not nn.Linear or not _is_plain_lora(layer):
        return None
    adapted: Any = layer
    names = [name for name in adapted.active_adapters if name in adapted.lora_A]
    adapters = [
        LowRank(adapted.lora_A[name].weight, adapted.lora_B[name].weight, adapted.scaling[name])
        for name in names
    ]
    return Linear(base.weight, base.bias, () if adapted.disable_adapters else tuple(adapters))


def _is_plain_lora(layer: Any) -> bool:
    """Whether a layer is a base and low-rank products, without dropout that acts and the like."""
    from peft.tuners.lora import Linear as LoraLinear

    if type(layer) is not LoraLinear or layer.merged or layer.lora_variant:
        return False
    parts = [*layer.lora_A.values(), *layer.lora_B.values()]
    return all(type(part) is nn.Linear and part.bias is None for part in parts)


class Product:
    """x W^T + b of linear layers that read the same x, results side by side."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        self._weights = [layer.weight for layer in layers]
        self._biases = [layer.bias for layer in layers]
        self._sizes = [len(weight) for weight in self._weights]
        self._adapters = [layer.adapters for layer in layers]
        self._is_plain = not any(self._adapters)
        self._packed: Any = None
        if can_pack(self._weights[0]):
            weight = self._weights[0] if len(layers) == 1 else torch.cat(self._weights)
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
            self._bias = _side_by_side(self._biases, self._weights)
            self._weights = []

    def __call__(self, x: Tensor) -> Tensor:
        """The product, for x of [..., in]."""
        if self._packed is not None:
            result: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._packed, self._bias, "none", [], ""
            )
            return self._adapted(x, result)
        pairs = zip(self._weights, self._biases, strict=True)
        results = [F.linear(x, weight, bias) for weight, bias in pairs]
        return self._adapted(x, results[0] if len(results) == 1 else torch.cat(results, dim=-1))

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the product."""
        if self._packed is None or not self._is_plain:
            return F.silu(self(x), inplace=True)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "swish", [], ""
        )
        return result

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product and `other`, added up."""
        return self._adapted(x, self._with(x, other, "add"))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product times `other`, element by element."""
        return self._with(x, other, "mul") if self._is_plain else self(x).mul_(other)

    def _with(self, x: Tensor, other: Tensor, operation: str) -> Tensor:
        if self._packed is not None:
            result: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
                x, other, self._packed, self._bias, operation
            )
            return result
        (weight,), (bias,) = self._weights, self._biases
        plain = F.linear(x, weight, bias)
        return plain.add_(other) if operation == "add" else plain.mul_(other)

    def _adapted(self, x: Tensor, result: Tensor) -> Tensor:
        """`result` with what the adapters add to it."""
        if self._is_plain:
            return result
        for part, adapters in zip(result.split(self._sizes, dim=-1), self._adapters, strict=True):
            for adapter in adapters:
                low = F.linear(x.to(adapter.a.dtype), adapter.a)
                part.add_(F.linear(low, adapter.b), alpha=adapter.scaling)
        return result


def _side_by_side(biases: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor | None:
    if all(bias is None for bias in biases):
        return None
    return torch.cat(
        [
            weight.new_zeros(len(weight)) if bias is None else bias
            for bias, weight in zip(biases, weights, strict=True)
        ]
    )


def can_pack(weight: Tensor) -> bool:
    """Whether this machine multiplies with packed weights of this kind."""
    return weight.device.type == "cpu" and _packing_works(weight.dtype)


@cache
def _packing_works(dtype: torch.dtype) -> bool:
    """Try it: which formats and operations there are depends on processor and build."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    x, weight, other = (torch.ones(shape, dtype=dtype) for shape in ((2, 8), (4, 8), (2, 4)))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        found = [
            torch.ops.mkldnn._linear_pointwise(x, packed, None, "swish", [], ""),
            torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, None, "mul"),
            torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, None, "add"),
        ]
    except (AttributeError, RuntimeError):
        return False
    return all(
        torch.allclose(result.float(), torch.full((2, 4), value), rtol=0.02)
        for result, value in zip(found, (7.9973, 8.0, 9.0), strict=True)
    )
