"""What processes other than the first do: wait for an order, call the same function, wait again.

They have no run directory, no verifiers, and no terminal, and print nothing unless they fail.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grpo_core.config import RunConfig
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.protocols import Sampler, SamplingParams
from grpo_core.records.rollouts import rollouts_from_bytes
from grpo_core.training.kl_price import completion_kls
from grpo_core.training.learner import Learner
from grpo_core.training.learner_setup import load_together
from grpo_core.training.loop import move_reference
from grpo_core.training.process_samplers import EMBEDDED, create_run_sampler
from grpo_core.training.shard import unsharded
from grpo_core.training.snapshot import take_snapshot
from grpo_core.training.update import update
from grpo_core.training.world import Order, ProcessLost, World, is_stop
from grpo_core.types import Json, Prompt
from grpo_core.validation import build


@dataclass(slots=True)
class Follower:
    """What a follower holds once it has loaded the model."""

    learner: Learner
    sampler: Sampler | None


def follow(world: World) -> None:
    """Carry out the leader's orders until the last one.

    torchrun passes signals on to every process. The leader decides what is to be done about them;
    should it die, the connection breaks, and the others end as well.

    Raises:
        SystemExit: if the leader or another process has died.
        Exception: what goes wrong here and not in every process; the run ends then.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _follow(world)
    except ProcessLost:
        sys.exit(1)


def _follow(world: World) -> None:
    held: Follower | None = None
    while not is_stop(order := world.receive()):
        try:
            if order.name == "load":
                held = _load(world, order.values)
            else:
                assert held is not None, f"order '{order.name}' before 'load'"
                _ORDERS[order.name](held, order)
        except Exception as error:
            if not world.is_agreed(error):
                raise


def _load(world: World, values: Mapping[str, Json]) -> Follower:
    config = build(RunConfig, values["config"])
    sources = PluginSources(tuple(values["files"]), values["use_entry_points"])
    checkpoint = None if values["checkpoint"] is None else Path(values["checkpoint"])
    plugins, loaded, learner = load_together(
        config, lambda: load_plugins(sources), sources, checkpoint, world
    )
    is_embedded = config.sampling.engine == EMBEDDED
    sampler = create_run_sampler(config, plugins, loaded, learner) if is_embedded else None
    return Follower(learner, sampler)


def _sample(held: Follower, order: Order) -> None:
    assert held.sampler is not None
    arguments = json.loads(order.data)
    prompts: Sequence[Prompt] = [Prompt(**prompt) for prompt in arguments["prompts"]]
    params = SamplingParams(**arguments["params"])
    held.sampler.sample(prompts, arguments["num_samples"], params)


def _update(held: Follower, order: Order) -> None:
    update(held.learner, rollouts_from_bytes(order.data), order.values["step"])


def _completion_kls(held: Follower, order: Order) -> None:
    completion_kls(held.learner, rollouts_from_bytes(order.data))


def _move_reference(held: Follower, order: Order) -> None:
    move_reference(held.learner, order.values["step"])


def _save(held: Follower, order: Order) -> None:
    learner = held.learner
    moving = learner.reference if learner.config.reference.sync_every else None
    take_snapshot(learner.model, learner.masters, learner.optimizer, moving)


def _hand_over(held: Follower, order: Order) -> None:
    with unsharded(held.learner.model):
        pass  # the leader alone reads the weights


_ORDERS: Mapping[str, Callable[[Follower, Order], None]] = {
    "sample": _sample,
    "update": _update,
    "completion_kls": _completion_kls,
    "move_reference": _move_reference,
    "save": _save,
    "hand_over": _hand_over,
}
