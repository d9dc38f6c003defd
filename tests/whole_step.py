"""A whole update of one tiny model, and the same samples as plain padded tensors for oracles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.config import RunConfig
from grpo_core.losses.grpo import grpo_loss
from grpo_core.masking import Aggregation
from grpo_core.training.learner import Learner
from grpo_core.training.policy import Layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.reference import Reference
from grpo_core.training.update import update
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict
from grpo_core.validation import build
from tiny_model import tiny_model

MAX_LENGTH = 8  # of a completion
EOS = 0
RATE = 0.05  # of plain descent


@dataclass(frozen=True)
class Options:
    """Settings of an update.

    Attributes:
        loss_settings: arguments of the loss beside those that the config has.
    """

    loss: Any = grpo_loss
    loss_settings: Mapping[str, Any] = field(default_factory=dict)
    aggregation: Aggregation = "sequence_mean"
    beta: float = 0.0
    num_iterations: int = 1
    entropy_bonus: float = 0.0
    mask_truncated: bool = False
    mismatch: Any = "off"
    cap: float = 1.2
    micro_batch_tokens: int = 40
    share_prompts: bool = True
    max_grad_norm: float = 1e9


@dataclass(frozen=True)
class Outcome:
    """What came of an update.

    Attributes:
        loss: mean over iterations.
        moves: the way each weight went, divided by the rate; after one iteration, the gradient.
        metrics: what our update reports besides.
    """

    loss: float
    moves: dict[str, Tensor]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def length(self) -> float:
        """Of all moves as one vector."""
        return math.sqrt(sum(move.square().sum().item() for move in self.moves.values()))

    def distance(self, other: Outcome) -> tuple[float, float]:
        """Largest difference of the losses, and of the moves."""
        pairs = [(self.moves[name], other.moves[name]) for name in self.moves]
        moves = max((one - two).abs().max().item() for one, two in pairs)
        return abs(self.loss - other.loss), moves

    def assert_close(self, other: Outcome, rtol: float, atol: float) -> None:
        """Fail unless loss and every move agree."""
        torch.testing.assert_close(self.loss, other.loss, rtol=rtol, atol=atol)
        for name, move in other.moves.items():
            torch.testing.assert_close(self.moves[name].double(), move, rtol=rtol, atol=atol)


def make_policy(seed: int = 0, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """A tiny model; EOS is an ordinary token of its embedding."""
    model = tiny_model(seed=seed).to(dtype)
    model.get_input_embeddings().padding_idx = None
    return model


# ---- samples -------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Of a completion: its length, whether it was cut off, and whether its verifier failed."""

    length: int
    is_cut: bool
    is_valid: bool = True


def make_groups(
    shapes: Sequence[tuple[int, Sequence[Piece]]], generator: torch.Generator
) -> list[RolloutGroup]:
    """Groups of random tokens; for each its prompt's length and its completions.

    The sampler is off by up to half a nat a token. All numbers are exact in float32, as recorded.
    """

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def rollout(index: int, piece: Piece) -> Rollout:
        ids = torch.randint(5, 200, (piece.length,), generator=generator).tolist()
        ids[-1:] = ids[-1:] if piece.is_cut else [EOS] * len(ids[-1:])
        gaps = [integer(-64, 64) / 128 for _ in ids]
        completion = Completion(ids, "", gaps, "length" if piece.is_cut else "eos", index)
        if not piece.is_valid:
            return Rollout(completion, {"v": Verdict.error()})
        return Rollout(completion, {"v": Verdict.correct()}, {}, 1.0, integer(-3, 3) / 2)

    groups = [
        RolloutGroup(
            Prompt(f"p{n}", [{"role": "user", "content": ""}], None),
            # Few different tokens: a short prompt may well come twice.
            torch.randint(5, 8, (length,), generator=generator).tolist(),
            [rollout(index, piece) for index, piece in enumerate(pieces)],
        )
        for n, (length, pieces) in enumerate(shapes)
    ]
    padded = Padded(groups)
    with torch.no_grad():
        logprobs, _ = plain_scores(make_policy(), *padded.sequences, padded.width)
    rows = iter((logprobs + padded.sampler).float())

    def record(rollout: Rollout) -> Rollout:
        values = next(rows)[: len(rollout.completion.token_ids)].tolist()
        return replace(rollout, completion=replace(rollout.completion, sampler_logprobs=values))

    return [replace(group, rollouts=list(map(record, group.rollouts))) for group in groups]


def random_groups(generator: torch.Generator) -> list[RolloutGroup]:
    """Two groups of 2 to 4 completions, some cut off."""
    size, *prompts = torch.randint(2, 5, (3,), generator=generator).tolist()
    lengths = torch.randint(1, MAX_LENGTH + 1, (2, size), generator=generator).tolist()
    cuts = (torch.rand(2, size, generator=generator) < 0.3).tolist()
    pieces = [list(map(Piece, *row)) for row in zip(lengths, cuts, strict=True)]
    return make_groups(list(zip(prompts, pieces, strict=True)), generator)


# ---- ours ----------------------------------------------------------------------------------------


def our_step(
    groups: Sequence[RolloutGroup],
    options: Options,
    *,
    dtype: torch.dtype = torch.float64,
    reference: Any = None,
) -> Outcome:
    """Through `update`, with plain descent. The reference: a model of another seed, if any."""
    model = make_policy(dtype=dtype)
    if options.beta:
        reference = Reference(make_policy(seed=1, dtype=dtype))

    def loss(*arguments: Any, **settings: Any) -> Any:
        return options.loss(*arguments, **{**settings, **options.loss_settings})

    masters = MasterWeights(model, torch.float32)
    optimizer = torch.optim.SGD(masters.parameters.values(), lr=RATE)
    layout = Layout(options.share_prompts, plain_head=True, fused=options.share_prompts)
    learner = Learner(model, masters, optimizer, layout, loss, _config(options), reference)
    start = weights(model)
    result = update(learner, groups, step=1)
    metrics = {**result.metrics, "grad_norm": result.grad_norm}
    return Outcome(result.loss, moves(start, model), metrics)


def _config(options: Options) -> RunConfig:
    names = ("aggregation", "beta", "num_iterations", "entropy_bonus")
    values = {
        "sampling": {
            "max_new_tokens": MAX_LENGTH,
            "mismatch": options.mismatch,
            "mismatch_cap": options.cap,
        },
        "grpo": {name: getattr(options, name) for name in names},
        "selection": {"mask_truncated": options.mask_truncated},
        "trainer": {
            "learning_rate": RATE,
            "warmup_steps": 0,
            "max_grad_norm": options.max_grad_norm,
            "micro_batch_tokens": options.micro_batch_tokens,
        },
    }
    return build(RunConfig, values)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of them."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moves(start: Mapping[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """The way each weight went against the gradient, divided by the rate."""
    return {name: (start[name] - p.detach()) / RATE for name, p in model.named_parameters()}


# ---- for oracles ---------------------------------------------------------------------------------


class Padded:
    """Samples as plain tensors: prompts padded on the left, completions on the right."""

    def __init__(self, groups: Sequence[RolloutGroup]) -> None:
        pairs = [(group, rollout) for group in groups for rollout in group.rollouts]
        prompts = [list(group.prompt_token_ids) for group, _ in pairs]
        self.rollouts = [rollout for _, rollout in pairs]
        self.completions = [list(rollout.completion.token_ids) for rollout in self.rollouts]
        self.width = max(1, *map(len, self.completions))
        longest = max(map(len, prompts))
        self.prompt_ids = torch.tensor([[EOS] * (longest - len(p)) + p for p in prompts])
        self.prompt_mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        self.completion_ids = torch.tensor([c + [EOS] * self._gap(c) for c in self.completions])
        self.mask = torch.tensor([[1] * len(c) + [0] * self._gap(c) for c in self.completions])
        advantages = [rollout.advantage for rollout in self.rollouts]
        self.advantages = torch.tensor(advantages, dtype=torch.float64)
        recorded = [list(rollout.completion.sampler_logprobs) for rollout in self.rollouts]
        rows = [values + [0.0] * self._gap(values) for values in recorded]
        self.sampler = torch.tensor(rows, dtype=torch.float64)

    @property
    def sequences(self) -> tuple[Tensor, Tensor]:
        """[B, L] tokens and mask."""
        ids = torch.cat([self.prompt_ids, self.completion_ids], dim=1)
        return ids, torch.cat([self.prompt_mask, self.mask], dim=1)

    def _gap(self, values: list[Any]) -> int:
        return self.width - len(values)


def plain_scores(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, width: int, **_: Any
) -> tuple[Tensor, Tensor]:
    """[B, T] log-probabilities and entropies of the last `width` tokens, as differentiable."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    table = logits[:, -width - 1 : -1].log_softmax(-1)
    logprobs = table.gather(-1, ids[:, -width:, None]).squeeze(-1)
    return logprobs, -(table.exp() * table).sum(-1)
