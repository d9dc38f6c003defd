"""A sampling server as `grpo serve` runs it, around a transformers model in place of vLLM."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.config import SamplingConfig
from grpo_core.errors import SamplingError
from grpo_core.protocols import SamplingParams
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.vllm.messages import Drawn, Order, model_facts
from grpo_core.sampling.vllm.server import create_app, create_server, listen
from grpo_core.types import Prompt
from tiny_model import tiny_model, tiny_tokenizer

TOKEN = "a-token-for-tests-only"
PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": text}], None)
    for n, text in enumerate(["a", "what is 2 + 2?"])
]
PARAMS = SamplingParams(max_new_tokens=6, seed=3)


class HfEngine:
    """An engine with weights of its own, which mean nothing before they are loaded."""

    max_length = 512

    def __init__(self) -> None:
        self.model: PreTrainedModel = tiny_model(seed=99)
        self.vocab_size = self.model.config.vocab_size
        self.weight_bytes = sum(p.nbytes for p in self.model.parameters())
        self.steps = 0
        self.pause = 0.0  # seconds a step
        self.left_out = ""  # weights with this in their name stay behind
        self.fault: Exception | None = None

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        own = dict(self.model.named_parameters())
        for name, tensor in weights:
            if name not in own or own[name].shape != tensor.shape:
                raise SamplingError(f"the model has no weight '{name}' of that shape")
            if not self.left_out or self.left_out not in name:
                own[name].copy_(tensor)

    def draw(self, order: Order) -> Generator[Drawn | None, None, None]:
        for at, draws in enumerate(order.prompts):
            for index, seed in enumerate(draws.seeds):
                generator = torch.Generator().manual_seed(seed)
                ids: list[int] = []
                logprobs: list[float] = []
                while len(ids) < order.max_new_tokens and not set(ids) & set(order.eos):
                    p = self._next([*draws.token_ids, *ids]).div(order.temperature).log_softmax(-1)
                    ids.append(int(torch.multinomial(p.exp(), 1, generator=generator)))
                    logprobs.append(p[ids[-1]].item())
                    yield None
                yield Drawn(
                    prompt=at,
                    index=index,
                    token_ids=tuple(ids),
                    logprobs=tuple(logprobs),
                    reason="length",
                )

    @torch.no_grad()
    def _next(self, ids: list[int]) -> Tensor:
        self.steps += 1
        time.sleep(self.pause)
        if self.fault is not None:
            raise self.fault
        return self.model(input_ids=torch.tensor([ids])).logits[0, -1]

    @torch.no_grad()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        rows = []
        for sequence in sequences:
            ids = torch.tensor([list(sequence)])
            logprobs = self.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            rows.append(logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist())
        return rows

    def wake(self) -> bool:
        return False

    def rest(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Served:
    """A server that runs in a thread."""

    address: str
    engine: HfEngine
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def served(engine: HfEngine | None = None) -> Iterator[Served]:
    """Real HTTP over loopback; the server ends with the context, or when `stop` is set."""
    engine = engine or HfEngine()
    with listen("127.0.0.1", 0) as listening:
        app = create_app(engine, model_facts(engine.model.config, engine.model.dtype), TOKEN)
        server = create_server(app)
        here = Served(f"http://127.0.0.1:{listening.getsockname()[1]}", engine)
        threads = [
            threading.Thread(target=server.run, kwargs={"sockets": [listening]}),
            threading.Thread(target=_stop_when_told, args=(server, here.stop)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield here
        finally:
            here.stop.set()
            for thread in threads:
                thread.join()


def _stop_when_told(server: Any, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True
    server.force_exit = True  # do not wait for answers under way


def context(address: str | None, **changes: Any) -> SamplerContext:
    config = SamplingConfig(engine="vllm_server", server=address)
    return SamplerContext(tiny_model(**changes), tiny_tokenizer(), "", config)
