"""Write the policy's weights over vLLM's, in place.

vLLM's own ways were tried on CPU (0.32). A plain `load_weights` fails, because its linear layers
keep nothing but a packed copy of their weight, made for the matrix unit. `reload_weights` runs,
but a head tied to the embedding stays as it was, and nothing says so. So packing is left out: the
layers multiply with the weight itself, at the same speed, and `load_weights` is all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from grpo_core.errors import SamplingError

_SHOWN = 3  # names of weights in a message


def hand_over(policy: PreTrainedModel, llm: Any) -> None:
    """Copy every weight of `policy` into `llm`.

    Raises:
        SamplingError: if vLLM does not take them, or some of its weights got none.
    """
    llm.apply_model(lambda model: _load(model, checkpoint_weights(policy)))


def checkpoint_weights(policy: PreTrainedModel) -> dict[str, Tensor]:
    """The weights by the names they have in a checkpoint, tied ones once."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in policy.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor.detach()
    # transformers computes some layers in another layout than they are stored in.
    return dict(revert_weight_conversion(policy, weights))


def _load(model: Any, weights: dict[str, Tensor]) -> None:
    try:
        loaded: Iterable[str] | None = model.load_weights(weights.items())
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
