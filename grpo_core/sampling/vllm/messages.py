"""What passes between a sampler and an engine, in this process or over HTTP.

An engine knows token ids, seeds and weights. Prompts, chat templates and texts are the sampler's
business, so a server needs no tokenizer of the run and both ways give the same completions.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

PROTOCOL = 1  # of messages and addresses; raised when either changes
SESSION_HEADER = "x-grpo-session"

# Bounds of what a run can sensibly ask for; a server refuses the rest before it computes anything.
_MOST_TOKENS = 1 << 22
_MOST_SEQUENCES = 1 << 20

TokenIds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=_MOST_TOKENS)]


class Message(BaseModel):
    """Base of all messages: frozen, nothing unknown in them, NaN allowed in numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Draws(Message):
    """A prompt, and the seed of each completion to draw for it."""

    token_ids: TokenIds = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(max_length=_MOST_SEQUENCES)


class Order(Message):
    """A batch of completions to draw; see `grpo_core.protocols.SamplingParams`.

    `eos` is the set of tokens that end a completion: what the trainer knows of, and nothing the
    engine may have read elsewhere.
    """

    prompts: tuple[Draws, ...] = Field(max_length=_MOST_SEQUENCES)
    eos: TokenIds
    max_new_tokens: int = Field(ge=1, le=_MOST_TOKENS)
    temperature: float = Field(ge=0, allow_inf_nan=False)
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=0, le=_MOST_TOKENS)
    stop: tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...] = Field(max_length=100)


class Drawn(Message):
    """A finished completion: the one for the seed `index` of the prompt `prompt` of an order.

    Log-probabilities are those of the drawn tokens under the distribution they were drawn from,
    NaN where the weights are broken. `reason` is the engine's word for why it ended.
    """

    prompt: int
    index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: str


class Probe(Message):
    """Sequences to score."""

    sequences: tuple[Annotated[TokenIds, Field(min_length=2)], ...] = Field(max_length=256)


class Scores(Message):
    """For each sequence of a probe, the log-probability of every token but the first."""

    logprobs: tuple[tuple[float, ...], ...]


class Line(Message):
    """One line of a server's answer to an order; an empty line says that it is still at work.

    The last one has `done` or `error`.
    """

    drawn: Drawn | None = None
    error: str = ""
    done: bool = False


class Hello(Message):
    """The first thing a client says: what it speaks, and which model it trains."""

    protocol: int
    facts: dict[str, str | int | bool | None] = Field(max_length=50)


class Welcome(Message):
    """The answer: the id of the session, and the longest sequence there is room for."""

    session: str
    max_length: int


class Engine(Protocol):
    """A copy of the policy that draws and scores token ids."""

    max_length: int  # of prompt and completion together

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite all weights, in place, and forget what was computed with the old ones.

        Raises:
            SamplingError: if they do not fit, or some weight gets none.
        """
        ...

    def draw(self, order: Order) -> Generator[Drawn | None, None, None]:
        """Yield completions as they finish, and None often, when none has.

        Those still running when the caller closes the generator are dropped.
        """
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability, in nats at temperature 1, of every token but the first."""
        ...

    def wake(self) -> bool:
        """Get ready to work; True when the weights were dropped in sleep and must come anew."""
        ...

    def rest(self) -> None:
        """Leave the memory to others until the next wake, where that can be."""
        ...

    def close(self) -> None:
        """Stop, and free all memory."""
        ...


class HostedEngine(Engine, Protocol):
    """An engine that a server can put before strangers: it knows what to refuse."""

    vocab_size: int
    weight_bytes: int  # of all its weights, about


_FACTS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
)


def model_facts(config: Any, dtype: Any) -> dict[str, str | int | bool | None]:
    """What two models must agree in for one to take the other's weights.

    Args:
        config: of a transformers model.
        dtype: torch's, the one it computes in.
    """
    text = config.get_text_config()
    facts: dict[str, str | int | bool | None] = {"dtype": str(dtype).removeprefix("torch.")}
    for name in _FACTS:
        value = getattr(text, name, None)
        facts[name] = value if isinstance(value, str | int | bool) else None
    return facts
