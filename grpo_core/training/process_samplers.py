"""Sampling when several processes train one model.

The embedded engine works in all of them, each on its share of the prompts. Any other works from
the leader alone, which gathers the policy's weights whenever the engine may read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any

from transformers import PreTrainedModel

from grpo_core.assembly import LoadedModel, create_sampler
from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError
from grpo_core.models.load import choose_device
from grpo_core.plugin_manager import Plugins
from grpo_core.protocols import OnCompletion, ProbedSampler, Sampler, SamplingParams
from grpo_core.sampling.hf.sampler import describe_engine
from grpo_core.training.ahead_sampler import create_ahead_sampler
from grpo_core.training.learner import Learner
from grpo_core.training.shard import unsharded
from grpo_core.training.world import World
from grpo_core.types import Completion, Prompt

EMBEDDED = "hf"
_COLOCATED = "vllm"


def check_processes(config: RunConfig, world: World) -> None:
    """Refuse what several processes cannot do.

    Raises:
        ConfigError: at the first such setting.
    """
    if world.size == 1:
        return
    if config.selection.ahead:
        raise ConfigError(
            f"selection.ahead is {config.selection.ahead}, but there are {world.size} processes, "
            "which do one thing at a time together and cannot sample beside the update. Set "
            "selection.ahead = 0, or start one process."
        )
    if config.sampling.engine == _COLOCATED:
        raise ConfigError(
            f"sampling.engine is 'vllm', which lives in the trainer's process, but there are "
            f"{world.size} of them. Set sampling.engine = 'vllm_server' with a 'grpo serve' beside "
            "the run, or 'hf', which samples in every process."
        )
    device = choose_device(config.model.device)
    if device.type == "cuda":
        import torch

        if (found := torch.cuda.device_count()) < world.size:
            raise ConfigError(
                f"torchrun started {world.size} processes, but torch sees {found} CUDA devices, "
                f"and each process needs its own. Start it with --nproc-per-node {found}."
            )


def describe_sampling(config: RunConfig, model: PreTrainedModel) -> str:
    """Which engine samples, and how, in one line for people."""
    engine = f"engine '{config.sampling.engine}'"
    if config.sampling.engine != EMBEDDED:
        return engine
    return f"{engine}: {describe_engine(model)}"


def create_run_sampler(
    config: RunConfig, plugins: Plugins, loaded: LoadedModel, learner: Learner
) -> Sampler:
    """The engine of sampling.engine over the policy that all processes hold together.

    Raises:
        GrpoError: as `create_sampler`.
    """
    if config.selection.ahead:
        return create_ahead_sampler(config, plugins, loaded, learner)
    if learner.world.size == 1:
        return create_sampler(config, plugins, loaded)
    if config.sampling.engine == EMBEDDED:
        return SpreadSampler(create_sampler(config, plugins, loaded), learner)
    with whole_policy(learner):
        engine = create_sampler(config, plugins, loaded)
    if isinstance(engine, ProbedSampler):
        return ProbedLeaderSampler(engine, learner)
    return LeaderSampler(engine, learner)


@contextmanager
def whole_policy(learner: Learner) -> Iterator[PreTrainedModel]:
    """While it lasts the leader has all of the policy's weights, in compute precision."""
    with ExitStack() as stack:
        with learner.world.order("hand_over"):
            stack.enter_context(unsharded(learner.model))
        yield learner.model


class SpreadSampler:
    """Every process samples for its share of the prompts; see `grpo_core.protocols.Sampler`.

    A prompt's completions are all drawn in one process, also when it comes twice, so that they are
    those that a single process would draw, up to rounding.
    """

    def __init__(self, engine: Sampler, learner: Learner) -> None:
        self._engine = engine
        self._learner = learner

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """Token ids of a prompt, chat template applied."""
        return self._engine.encode(prompt)

    def update_weights(self) -> None:
        """Nothing to do: the policy's own weights are sampled from."""

    def close(self) -> None:
        """Free what the engine holds."""
        self._engine.close()

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> list[list[Completion]]:
        """Draw `num_samples` completions for each prompt; see `grpo_core.protocols.Sampler`.

        Those of the leader's share are handed to `on_completion` as soon as they are finished, the
        others when all are.
        """
        learner, world = self._learner, self._learner.world

        def work() -> bytes:
            places = shares([prompt.id for prompt in prompts], world.size)[world.rank]

            def hand_on(at: int, completion: Completion) -> None:
                world.check()
                if on_completion is not None:
                    on_completion(places[at], completion)

            own = [prompts[place] for place in places]
            groups = self._engine.sample(own, num_samples, params, hand_on) if own else []
            return _to_bytes(places, groups)

        plain = [asdict(replace(prompt, reference=None, meta={})) for prompt in prompts]
        arguments = {"prompts": plain, "num_samples": num_samples, "params": asdict(params)}
        order = world.order("sample", lambda: json.dumps(arguments).encode())
        with order, unsharded(learner.model):
            replies = world.gather(work)
        return _collected(replies, len(prompts), world.rank, on_completion)


class LeaderSampler:
    """An engine of the leader's alone; see `grpo_core.protocols.Sampler`."""

    def __init__(self, engine: Any, learner: Learner) -> None:
        self._engine = engine
        self._learner = learner

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """Token ids of a prompt, chat template applied."""
        encoded: Sequence[int] = self._engine.encode(prompt)
        return encoded

    def update_weights(self) -> None:
        """Sample from the new weights from here on."""
        with whole_policy(self._learner):
            self._engine.update_weights()

    def close(self) -> None:
        """Free what the engine holds."""
        self._engine.close()

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> Sequence[Sequence[Completion]]:
        """Draw `num_samples` completions for each prompt; see `grpo_core.protocols.Sampler`."""
        with whole_policy(self._learner):  # an engine may fetch weights that it had dropped
            drawn: Sequence[Sequence[Completion]] = self._engine.sample(
                prompts, num_samples, params, on_completion
            )
            return drawn


class ProbedLeaderSampler(LeaderSampler):
    """One that has weights of its own; see `grpo_core.protocols.ProbedSampler`."""

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Log-probability of every token but the first; see `grpo_core.protocols.ProbedSampler`."""
        with whole_policy(self._learner):
            found: Sequence[Sequence[float]] = self._engine.probe_logprobs(sequences)
            return found


def shares(prompt_ids: Sequence[str], size: int) -> list[list[int]]:
    """The positions of the prompts that each of `size` processes samples for.

    Distinct prompts are dealt in turn; one that comes again goes where it went before.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(prompt_ids))}
    places: list[list[int]] = [[] for _ in range(size)]
    for place, name in enumerate(prompt_ids):
        places[numbers[name] % size].append(place)
    return places


def _to_bytes(places: Sequence[int], groups: Sequence[Sequence[Completion]]) -> bytes:
    plain = [[asdict(completion) for completion in group] for group in groups]
    return json.dumps(list(zip(places, plain, strict=True))).encode()


def _collected(
    replies: Sequence[bytes], count: int, rank: int, on_completion: OnCompletion | None
) -> list[list[Completion]]:
    """The completions of all processes by prompt; the others' are handed on."""
    groups: list[list[Completion]] = [[] for _ in range(count)]
    for sender, reply in enumerate(replies):
        for place, plain in json.loads(reply):
            for values in plain:
                completion = _completion(values)
                groups[place].append(completion)
                if sender != rank and on_completion is not None:
                    on_completion(place, completion)
    return groups


def _completion(values: dict[str, Any]) -> Completion:
    sequences = {name: tuple(values[name]) for name in ("token_ids", "sampler_logprobs")}
    return Completion(**{**values, **sequences})
