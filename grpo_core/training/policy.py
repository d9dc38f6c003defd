"""Log-probabilities and entropies of completions under a transformers causal language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
from grpo_core.training.packing import MicroBatch, TrainingCompletion, pack

SCORE = "grpo_score"  # the method under which a model shared out among processes has `score`
_PROBE_TOLERANCE = 1e-3  # nats in float32; wiring mistakes show up as whole nats
_WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model may be computed.

    Attributes:
        share_prompts: it obeys a free attention mask, so that a group shares its prompt.
        plain_head: its logits are hidden states times the output embedding and nothing more, so
            that the head can be computed in chunks over completion tokens only.
    """

    share_prompts: bool
    plain_head: bool

    def describe(self) -> str:
        """One line for people."""
        prompts = "prompts shared" if self.share_prompts else "prompts repeated"
        head = "head in chunks" if self.plain_head else "full logits"
        return f"{prompts}, {head}"


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
    inputs = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": _mask(model, batch, layout),
        "use_cache": False,
    }
    settings = asdict(distribution)
    if not layout.plain_head:
        logits = model(**inputs).logits.flatten(0, 1)[batch.sources]
        return of_logits(logits, batch.targets, **settings)
    hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)[batch.sources]
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    return of_hidden(hidden, head.weight, batch.targets, bias=head.bias, **settings)


def _mask(model: PreTrainedModel, batch: MicroBatch, layout: Layout) -> Tensor:
    if not layout.share_prompts:
        return (batch.segments >= 0).long()
    allowed = batch.attention_mask()
    # Every transformers attention takes an additive mask; only some take a boolean one.
    zero = torch.zeros((), dtype=model.dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.finfo(model.dtype).min)


@contextmanager
def trainer_mode(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts the model computes what the sampler computes, with a fast backward pass.

    That is in evaluation mode: dropout, or the noise some routers of experts add in training, would
    make another policy of it than the one that sampled, and its gradient is wanted for that one.

    On CPU the backward pass of fused attention in bfloat16 is about six times slower than plain
    products (measured); on GPU the fused one is faster.
    """
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
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
        return completion_logprobs(model, batch.to(model.device), layout, Distribution())

    def agrees(layout: Layout) -> bool:
        try:
            return bool((logprobs(layout) - plain).abs().max() < _PROBE_TOLERANCE)
        except Exception:  # noqa: BLE001 - whatever a model says to it, it cannot be computed so
            return False

    is_linear = isinstance(model.get_output_embeddings(), nn.Linear)
    with trainer_mode(model):
        plain = logprobs(Layout(share_prompts=False, plain_head=False))
        shared = Layout(share_prompts=True, plain_head=False)
        chunked = Layout(share_prompts=False, plain_head=True)
        return Layout(
            share_prompts=not _looks_at_neighbours(model) and agrees(shared),
            plain_head=is_linear and agrees(chunked),
        )


def _looks_at_neighbours(model: PreTrainedModel) -> bool:
    """Whether some layer sees a window or a chunk of the row, or carries a state along it.

    Such a layer counts places in the row, where other completions lie in between.
    """
    config = model.config.get_text_config()
    if kinds := getattr(config, "layer_types", None):
        return any(kind != "full_attention" for kind in kinds)
    return any(getattr(config, name, None) is not None for name in _WINDOWS)
