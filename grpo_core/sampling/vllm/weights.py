"""Write the policy's weights over vLLM's, in place.

vLLM's own ways were tried on CPU (0.32). A plain `load_weights` fails, because its linear layers
keep nothing but a packed copy of their weight, made for the matrix unit. `reload_weights` runs,
but a head tied to the embedding stays as it was, and nothing says so. So packing is left out: the
layers multiply with the weight itself, at the same speed, and `load_weights` is all that is needed.

LoRA adapters are added into the weights, W + (alpha / rank) B A. vLLM's own LoRA runs on CPU (0.32,
without an adapter on the head, which crashes where prompts are scored), and a hand-over takes
0.1 s in place of 0.35 s; but sampling takes three times as long (SmolLM2, rank 16, all linear
layers: 80 to 120 tokens a second against 310 to 450 in bfloat16, 95 to 105 against 200 to 230 in
float32), and it takes neither every layer nor every rank. In float32 the sums are exact. In
bfloat16 they are rounded: what that adds, up to 0.02 nats, is below what bfloat16 makes of the
logits anyway (0.06 to 0.1), and an adapter's first few steps, of less than 0.002 nats, reach the
engine in part: a quarter of the first at a learning rate of 1e-4, five sixths from the tenth on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from grpo_core.errors import GrpoError, SamplingError
from grpo_core.models.adapters import merged_weights

_SHOWN = 3  # names of weights in a message


def checkpoint_weights(policy: PreTrainedModel) -> dict[str, Tensor]:
    """The weights by the names they have in a checkpoint, tied ones once, adapters added in.

    They are the policy's own tensors, save those that an adapter changes or that transformers
    computes in another layout than they are stored in.

    Raises:
        ConfigError: if the policy has adapters of another kind than LoRA.
    """
    seen: set[int] = set()
    weights = {}
    for name, tensor in merged_weights(policy).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor.detach()
    return dict(revert_weight_conversion(policy, weights))


def load_into(llm: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy weights, by their names in a checkpoint, over all those of a vllm.LLM.

    Raises:
        SamplingError: if vLLM does not take them, or some of its weights got none.
    """
    llm.apply_model(lambda model: _load(model, weights))


def _load(model: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    try:
        loaded: Iterable[str] | None = model.load_weights(weights)
    except GrpoError:
        raise  # the weights stopped coming
    except Exception as error:  # whatever vLLM's model says to it, it does not take the weights
        raise SamplingError(
            f"vLLM's {type(model).__name__} does not take the policy's weights: "
            f"{type(error).__name__}: {error}. Set sampling.engine = 'hf'."
        ) from error
    if loaded is None:  # some models do not tell; the canary will
        return
    stale = sorted({name for name, _ in model.named_parameters()} - set(loaded))
    if stale:
        raise SamplingError(
            f"{len(stale)} weights of vLLM's {type(model).__name__} get none from the policy, "
            f"such as {', '.join(stale[:_SHOWN])}. Set sampling.engine = 'hf'."
        )


@contextmanager
def plain_cpu_weights() -> Iterator[None]:
    """While it lasts, vLLM models are loaded on CPU without packing the weights away."""
    from vllm.model_executor.layers import utils

    original = utils.dispatch_cpu_unquantized_gemm

    def keep(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim == 2:
            layer.cpu_linear = nn.functional.linear
        else:
            original(layer, remove_weight)

    utils.dispatch_cpu_unquantized_gemm = keep
    try:
        yield
    finally:
        utils.dispatch_cpu_unquantized_gemm = original
