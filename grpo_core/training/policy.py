"""Log-probabilities and entropies of completions under a transformers causal language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo_core.logprobs import (
    Distribution,
    chunked_logprobs_and_entropy,
    chunked_token_logprobs,
    token_logprobs,
    token_logprobs_and_entropy,
)
from grpo_core.training.dealing import pack
from grpo_core.training.fused_layers import fused_layers, has_fused_layers
from grpo_core.training.packed_attention import PACKED
from grpo_core.training.packing import MicroBatch, TrainingCompletion

SCORE = "grpo_score"  # the method under which a model shared out among processes has `score`
_PROBE_TOLERANCE = 1e-3  # nats in float32; wiring mistakes show up as whole nats
_WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model may be computed.

    Attributes:
        share_prompts: its attention can be told what a packed row holds, so that a group shares its
            prompt and nothing is padded.
        plain_head: its logits are hidden states times the output embedding and nothing more, so
            that the head can be computed in chunks over completion tokens only.
        fused: its layers can be computed by `grpo_core.training.fused_layers`; only where prompts
            are shared.
    """

    share_prompts: bool
    plain_head: bool
    fused: bool = False

    def describe(self) -> str:
        """One line for people."""
        rows = "prompts shared" if self.share_prompts else "prompts repeated, rows padded"
        head = "head in chunks" if self.plain_head else "full logits"
        layers = "fused layers" if self.fused else "the model's own layers"
        return f"{rows}, {head}, {layers}"


def completion_logprobs(
    model: PreTrainedModel, batch: MicroBatch, layout: Layout, distribution: Distribution
) -> Tensor:
    """Log-probability of every completion token, under the distribution that draws from the logits.

    Returns:
        [B, T] float32 nats, 0 where masked; differentiable.
    """
    functions = token_logprobs, chunked_token_logprobs
    return batch.scatter(_scorer(model)(batch, layout, distribution, *functions))


def completion_logprobs_and_entropy(
    model: PreTrainedModel, batch: MicroBatch, layout: Layout, distribution: Distribution
) -> tuple[Tensor, Tensor]:
    """`completion_logprobs`, and the entropy of the distribution each token was drawn from.

    Returns:
        two of [B, T] float32 nats, 0 where masked; both differentiable.
    """
    functions = token_logprobs_and_entropy, chunked_logprobs_and_entropy
    logprobs, entropies = _scorer(model)(batch, layout, distribution, *functions)
    return batch.scatter(logprobs), batch.scatter(entropies)


def _scorer(model: PreTrainedModel) -> Callable[..., Any]:
    return getattr(model, SCORE, partial(score, model))


def score(
    model: PreTrainedModel,
    batch: MicroBatch,
    layout: Layout,
    distribution: Distribution,
    of_logits: Callable[..., Any],
    of_hidden: Callable[..., Any],
) -> Any:
    """What a function of logits gives, or the same function of hidden states and the head."""
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
    if layout.share_prompts:
        assert model.config._attn_implementation == PACKED, "packed rows need trainer_mode"
        inputs["packed_tiles"] = batch.tiles
    else:
        inputs["attention_mask"] = (batch.segments >= 0).long()
    settings = asdict(distribution)
    if not layout.plain_head:
        logits = model(**inputs).logits.flatten(0, 1)[batch.sources]
        return of_logits(logits, batch.targets, **settings)
    hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)[batch.sources]
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    return of_hidden(hidden, head.weight, batch.targets, bias=head.bias, **settings)


@contextmanager
def trainer_mode(model: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """While it lasts the model computes what the sampler computes, the fast way it is able to.

    That is in evaluation mode: dropout, or the noise some routers of experts add in training, would
    make another policy of it than the one that sampled, and its gradient is wanted for that one.
    """
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    if not model._can_set_attn_implementation():
        pass  # transformers would warn
    elif layout.share_prompts:
        model.set_attn_implementation(PACKED)
    elif model.device.type == "cpu":
        # The backward pass of fused attention in bfloat16 is about six times slower than plain
        # products there (measured); on GPU the fused one is faster.
        model.set_attn_implementation("eager")
    try:
        with fused_layers(model) if layout.fused else nullcontext():
            yield
    finally:
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
        model.train(training)


@torch.no_grad()
def find_layout(model: PreTrainedModel) -> Layout:
    """Try the fast layouts on a few tokens against the plain one, and keep those that agree.

    Models differ in what their attention does with a free mask and in what they do to their logits
    (scaling, soft caps); trying it tells for sure, save of a window that a few tokens do not fill.
    The model must be in float32.
    """
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    vocabulary = embeddings.num_embeddings
    generator = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()

    prompt = tokens(9)
    members = [TrainingCompletion(prompt, tokens(n), 0.0, [0.0] * n) for n in (4, 6)]

    def logprobs(layout: Layout) -> Tensor:
        (batch,) = pack(members, 10_000, share_prompts=layout.share_prompts)
        with trainer_mode(model, layout):
            return completion_logprobs(model, batch.to(model.device), layout, Distribution())

    plain = logprobs(Layout(share_prompts=False, plain_head=False))

    def agrees(layout: Layout) -> bool:
        try:
            return bool((logprobs(layout) - plain).abs().max() < _PROBE_TOLERANCE)
        except Exception:  # noqa: BLE001 - whatever a model says to it, it cannot be computed so
            return False

    is_linear = isinstance(model.get_output_embeddings(), nn.Linear)
    chunked = is_linear and agrees(Layout(share_prompts=False, plain_head=True))
    if _looks_at_neighbours(model) or not agrees(Layout(share_prompts=True, plain_head=chunked)):
        return Layout(share_prompts=False, plain_head=chunked)
    fused = Layout(share_prompts=True, plain_head=chunked, fused=True)
    return replace(fused, fused=has_fused_layers(model) and agrees(fused))


def _looks_at_neighbours(model: PreTrainedModel) -> bool:
    """Whether some layer sees a window or a chunk of the row, or carries a state along it.

    Such a layer counts places in the row, where other completions lie in between.
    """
    config = model.config.get_text_config()
    if kinds := getattr(config, "layer_types", None):
        return any(kind != "full_attention" for kind in kinds)
    return any(getattr(config, name, None) is not None for name in _WINDOWS)
