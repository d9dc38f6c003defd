"""Load the model as a run does, and look at what was loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from grpo_core.errors import DataError
from grpo_core.training.doctor.finding import Bench, Check, Finding, ok
from grpo_core.training.learner_setup import load_learner

_SHOWN = 3


def check_model(bench: Bench) -> Iterator[Finding]:
    """It loads, its weights are numbers; how many there are, and how it may be computed.

    The reference model is left out: at the start it is the policy.

    Raises:
        DataError, ConfigError: if it does not load. DataError: if weights are not finite.
    """
    config = bench.config
    config = config.model_copy(update={"grpo": config.grpo.model_copy(update={"beta": 0.0})})
    bench.loaded, bench.learner = load_learner(config, bench.plugins, None)
    model, learner = bench.loaded.model, bench.learner
    bad = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if bad:
        raise DataError(
            f"{len(bad)} weights of the {type(model).__name__} hold NaN or infinity: "
            f"{', '.join(bad[:_SHOWN])}. Fetch the model again, or go back to an earlier "
            "checkpoint."
        )
    total = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in learner.masters.parameters.values())
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embedding.weight
    dtype = str(bench.loaded.dtype).removeprefix("torch.")
    yield ok(
        "model",
        f"{type(model).__name__}, {total:,} weights, {trained:,} of them trained, all finite; "
        f"computes in {dtype}; head {'tied to the embedding' if tied else 'of its own'}",
        weights=total,
        trained=trained,
        tied=tied,
        dtype=dtype,
    )
    yield _layout(bench)


def _layout(bench: Bench) -> Finding:
    layout = bench.learner.layout
    meaning = []
    if not layout.share_prompts:
        meaning.append(
            "its attention cannot be told what a packed row holds, so each completion computes its "
            "prompt anew"
        )
    if not layout.plain_head:
        meaning.append(
            "its logits are more than hidden states times a matrix, so all of them are kept at once"
        )
    found = f"{bench.learner.describe_layout()}: " + (
        "the fast way" if not meaning else f"{'; '.join(meaning)}; slower, and right"
    )
    return ok("layout", found, share_prompts=layout.share_prompts, plain_head=layout.plain_head)


def gradient_reach(parameters: Mapping[str, nn.Parameter]) -> tuple[list[str], float]:
    """Names of trained weights that have no gradient now, and their share of all."""
    silent = [n for n, p in parameters.items() if p.grad is None or not bool(p.grad.any())]
    total = sum(parameter.numel() for parameter in parameters.values())
    return silent, sum(parameters[name].numel() for name in silent) / max(total, 1)


def flat_gradient(parameters: Iterable[nn.Parameter]) -> Tensor:
    """[N] float32, the gradients of all weights one after the other; zeros where there are none."""
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    return torch.cat([part.detach().float().flatten() for part in parts])


CHECKS = (Check("model", check_model, needs=("plugins", "tokenizer", "memory"), is_slow=True),)
