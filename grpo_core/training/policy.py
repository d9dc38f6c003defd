"""Log-probabilities of completions under a transformers causal language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo_core.logprobs import chunked_token_logprobs, token_logprobs
from grpo_core.training.packing import MicroBatch, TrainingCompletion, pack

_PROBE_TOLERANCE = 1e-3  # nats in float32; wiring mistakes show up as whole nats


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
    model: PreTrainedModel, batch: MicroBatch, layout: Layout, temperature: float
) -> Tensor:
    """Log-probability of every completion token, under softmax(logits / temperature).

    Returns:
        [B, T] float32 nats, 0 where masked; differentiable.
    """
    values = _flat_logprobs(model, batch, layout, temperature)
    return batch.scatter(values)


def _flat_logprobs(
    model: PreTrainedModel, batch: MicroBatch, layout: Layout, temperature: float
) -> Tensor:
    inputs = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": _mask(model, batch, layout),
        "use_cache": False,
    }
    if not layout.plain_head:
        logits = model(**inputs).logits
        return token_logprobs(logits.flatten(0, 1)[batch.sources], batch.targets, temperature)
    hidden = model.base_model(**inputs).last_hidden_state.flatten(0, 1)[batch.sources]
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    return chunked_token_logprobs(
        hidden, head.weight, batch.targets, bias=head.bias, temperature=temperature
    )


def _mask(model: PreTrainedModel, batch: MicroBatch, layout: Layout) -> Tensor:
    if not layout.share_prompts:
        return (batch.segments >= 0).long()
    allowed = batch.attention_mask()
    # Every transformers attention takes an additive mask; only some take a boolean one.
    zero = torch.zeros((), dtype=model.dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.finfo(model.dtype).min)


@torch.no_grad()
def find_layout(model: PreTrainedModel) -> Layout:
    """Try the fast layouts on a few tokens against the plain one, and keep those that agree.

    Models differ in what their attention does with a free mask (sliding windows, recurrent
    layers) and in what they do to their logits (scaling, soft caps); trying it tells for sure.
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
        return completion_logprobs(model, batch.to(model.device), layout, 1.0)

    training = model.training
    model.eval()
    plain = logprobs(Layout(share_prompts=False, plain_head=False))
    is_linear = isinstance(model.get_output_embeddings(), nn.Linear)

    def agrees(layout: Layout) -> bool:
        return bool((logprobs(layout) - plain).abs().max() < _PROBE_TOLERANCE)

    window = getattr(model.config, "sliding_window", None)
    result = Layout(
        share_prompts=window is None and agrees(Layout(share_prompts=True, plain_head=False)),
        plain_head=is_linear and agrees(Layout(share_prompts=False, plain_head=True)),
    )
    model.train(training)
    return result
