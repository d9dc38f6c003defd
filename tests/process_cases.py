"""Two processes that share a model against a single one, over all that an update can be.

Run by torchrun, which `compare` does. Process 0 makes orders as in a real run, through the very
functions of one; the others follow. It prints a line of JSON for each case, and for each check by
the name in `CHECKS`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.fsdp import FSDPModule

from grpo_core.advantage import group_advantages
from grpo_core.config import RunConfig
from grpo_core.errors import GrpoError, SamplingError
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.protocols import SamplingParams
from grpo_core.rollout import with_advantages
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import create_sampler
from grpo_core.training.checkpoint import TrainerState, save_checkpoint
from grpo_core.training.ending import run_to_the_end
from grpo_core.training.follower import follow
from grpo_core.training.kl_price import completion_kls
from grpo_core.training.learner import Learner
from grpo_core.training.learner_setup import load_together
from grpo_core.training.loop import move_reference
from grpo_core.training.shard import local
from grpo_core.training.snapshot import Snapshot, take_snapshot
from grpo_core.training.update import update
from grpo_core.training.world import World, open_world
from grpo_core.types import Prompt, Rollout, RolloutGroup, Verdict
from grpo_core.validation import build
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SOURCES = PluginSources(use_entry_points=False)
STEPS = 3
TEXTS = ["a", "what is 2 + 2?", "tell me more about it", "longer " * 9, "z"]
PROMPTS = [Prompt(f"p{n}", [{"role": "user", "content": t}], None) for n, t in enumerate(TEXTS)]

Sections = Mapping[str, Mapping[str, Any]]
CASES: Mapping[str, Sections] = {
    "grpo": {},
    "clipped gradient": {"trainer": {"max_grad_norm": 0.01}},
    "gspo": {"grpo": {"loss": "gspo", "num_iterations": 2}},
    "cispo": {"grpo": {"loss": "cispo", "num_iterations": 2}},
    "dual_clip": {"grpo": {"loss": "dual_clip", "num_iterations": 2}},
    "three iterations": {"grpo": {"num_iterations": 3}},
    "kl in the loss": {"grpo": {"beta": 0.1}},
    "kl, reference moves": {
        "grpo": {"beta": 0.1},
        "reference": {"sync_every": 2, "sync_rate": 0.5},
    },
    "entropy bonus": {"grpo": {"entropy_bonus": 0.05}},
    "top-k 20": {"sampling": {"top_k": 20}},
    "token_mean": {"grpo": {"aggregation": "token_mean"}},
    "token_sum": {"grpo": {"aggregation": "token_sum"}},
    "constant": {"grpo": {"aggregation": "constant"}},
    "token_truncate": {"sampling": {"mismatch": "token_truncate"}},
    "sequence_mask": {"sampling": {"mismatch": "sequence_mask"}},
    "truncated masked": {
        "selection": {"mask_truncated": True},
        # One process makes as many of it as two, so both round alike in bfloat16.
        "trainer": {"micro_batch_tokens": 126},
    },
    "one micro-batch": {"trainer": {"micro_batch_tokens": 100_000}},
    "recomputed": {"model": {"gradient_checkpointing": True}},
    "lora": {"lora": {"rank": 4}, "grpo": {"beta": 0.1}},
    "qwen2, untied": {"model": {"path": "qwen2"}},
    "gpt2": {"model": {"path": "gpt2"}},
}
FEW = ("grpo", "clipped gradient", "three iterations", "kl, reference moves", "lora")


def compare(
    folder: Path, *names: str, size: int = 2, timeout: float = 500, **variables: str
) -> list[dict[str, Any]]:
    """Run this file in `size` processes; what it prints.

    Args:
        folder: for models and checkpoints.
        names: of cases and checks; "DTYPE:NAME" for one dtype only.
    """
    for family in ("llama", "qwen2", "gpt2"):
        if not (folder / family).exists():
            save_tiny_model(folder / family, family, tied=family == "llama")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ours = [ROOT, ROOT / "plugins", ROOT / "verifiers", ROOT / "tasks"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, ours)),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        **variables,
    }
    result = subprocess.run(
        [*command, "--nproc-per-node", str(size), __file__, *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


# ---- what both sides are given -------------------------------------------------------------------


def make_config(sections: Sections, dtype: str = "float32") -> RunConfig:
    values: dict[str, dict[str, Any]] = {
        "model": {"path": "llama", "device": "cpu"},
        "sampling": {"max_new_tokens": 12},
        "grpo": {},
        "trainer": {
            "dtype": dtype,
            "micro_batch_tokens": 60,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "max_grad_norm": 1e9,
        },
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return build(RunConfig, values)


def sampled_groups(seed: int) -> list[RolloutGroup]:
    """Completions of a tiny model; a third of them is right, and now and then a verifier fails."""
    config = make_config({}).sampling
    engine = create_sampler(SamplerContext(tiny_model(), tiny_tokenizer(), "", config))
    params = SamplingParams(max_new_tokens=12, seed=seed)
    right, wrong = Verdict.correct(), Verdict.wrong()
    groups = []
    for prompt, completions in zip(PROMPTS, engine.sample(PROMPTS, 4, params), strict=True):
        scores = [float((c.index + seed) % 3 == 0) for c in completions]
        # A random model seldom ends; say that some did.
        completions = [replace(c, finish_reason="eos") if c.index % 2 else c for c in completions]
        if seed == 2 and prompt.id == "p1":
            scores[0] = None
        rollouts = [
            Rollout(c, {"v": right if score else wrong}, {}, score)
            for c, score in zip(completions, scores, strict=True)
        ]
        groups.append(RolloutGroup(prompt, engine.encode(prompt), rollouts, seed))
    return with_advantages(groups, group_advantages)


# ---- the comparison ------------------------------------------------------------------------------


def trained(learner: Learner) -> Iterator[tuple[dict[str, float], Snapshot]]:
    """What each of a few updates reports, and what it makes of weights and moments."""
    for step in range(1, STEPS + 1):
        groups = sampled_groups(step)
        started = time.perf_counter()
        result = update(learner, groups, step)
        seconds = time.perf_counter() - started
        move_reference(learner, step)
        numbers = {"loss": result.loss, "norm": result.grad_norm, "seconds": seconds}
        metrics = {f"metric {name}": value for name, value in result.metrics.items()}
        if learner.reference is not None:
            metrics["metric kls"] = completion_kls(learner, groups).abs().sum().item()
        yield {**numbers, **metrics}, snapshot(learner)


def snapshot(learner: Learner) -> Snapshot:
    moving = learner.reference if learner.config.reference.sync_every else None
    with learner.world.order("save"):
        found = take_snapshot(learner.model, learner.masters, learner.optimizer, moving)
    copies = ({n: t.clone() for n, t in part.items()} for part in (found.weights, found.moments))
    return Snapshot(*copies, found.reference, found.base)


def load(config: RunConfig, world: World, checkpoint: Path | None = None) -> Learner:
    plugins = load_plugins(SOURCES)
    return load_together(config, lambda: plugins, SOURCES, checkpoint, world)[2]


def differences(name: str, config: RunConfig, world: World) -> dict[str, Any]:
    """The largest differences over all updates; the gradient's and weights' are relative."""
    found: dict[str, Any] = {"case": name, "dtype": config.trainer.dtype, "metrics": 0.0}
    found |= {"loss": 0.0, "norm": 0.0, "gradient": 0.0, "weights": 0.0, "seconds": [[], []]}
    one, two = load(config, World()), load(config, world)
    for (a, before), (b, after) in zip(trained(one), trained(two), strict=True):
        assert a.keys() == b.keys(), a.keys() ^ b.keys()
        found["loss"] = max(found["loss"], abs(a["loss"] - b["loss"]))
        found["norm"] = max(found["norm"], abs(a["norm"] - b["norm"]) / a["norm"])
        gaps = [abs(a[key] - b[key]) for key in a if key.startswith("metric")]
        found["metrics"] = max([found["metrics"], *(gap for gap in gaps if gap == gap)])
        found["gradient"] = max(found["gradient"], distance(before.moments, after.moments))
        found["weights"] = max(found["weights"], distance(before.weights, after.weights))
        if before.reference is not None and after.reference is not None:
            found["weights"] = max(found["weights"], distance(before.reference, after.reference))
        assert before.base == after.base
        found["seconds"][0].append(a["seconds"])
        found["seconds"][1].append(b["seconds"])
    return found


def distance(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> float:
    """The largest difference, over the largest value of the same kind."""
    assert one.keys() == two.keys(), one.keys() ^ two.keys()
    kinds: dict[str, list[str]] = {}
    for name in one:
        kinds.setdefault(name.rpartition("/")[2] if "/" in name else "", []).append(name)
    worst = 0.0
    for names in kinds.values():
        size = max(one[name].float().abs().max().item() for name in names)
        gap = max((one[name].float() - two[name].float()).abs().max().item() for name in names)
        worst = max(worst, gap / (size or 1.0))
    return worst


# ---- checks that are no cases --------------------------------------------------------------------


def check_fault(world: World) -> dict[str, Any]:
    """Gradients are averaged over the processes instead of added up."""
    Path("averaged").touch()
    try:
        return differences("averaged gradients", make_config({}), world)
    finally:
        Path("averaged").unlink()


def check_shapes(world: World) -> dict[str, Any]:
    """Groups of any shape, weights that stay: the largest differences of loss and norm."""
    settings_ = {"trainer": {"learning_rate": 1e-30}}
    config = make_config(settings_)
    one, two = load(config, World()), load(config, world)
    worst = {"loss": 0.0, "norm": 0.0}
    count = 0
    lengths = st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=4), max_size=5)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(lengths, st.integers(1, 99), st.sampled_from([1, 30, 10_000]))
    def run(shapes: list[list[int]], seed: int, micro_batch_tokens: int) -> None:
        nonlocal count
        generator = torch.Generator().manual_seed(seed)
        groups = [random_group(n, shape, generator) for n, shape in enumerate(shapes)]
        a, b = update(one, groups, 1), update(two, groups, 1)
        worst["loss"] = max(worst["loss"], abs(a.loss - b.loss))
        worst["norm"] = max(worst["norm"], abs(a.grad_norm - b.grad_norm) / (a.grad_norm or 1))
        assert a.metrics.keys() == b.metrics.keys()
        count += 1

    run()
    return {"check": "shapes", "examples": count, **worst}


def random_group(number: int, lengths: Sequence[int], generator: torch.Generator) -> RolloutGroup:
    from grpo_core.types import Completion

    def tokens(count: int) -> list[int]:
        return torch.randint(5, 200, (count,), generator=generator).tolist()

    advantages = torch.randint(-2, 3, (len(lengths),), generator=generator).tolist()
    rollouts = [
        Rollout(
            Completion(tokens(n), "", [-5.0] * n, "eos", at), {}, {}, 1.0, float(advantages[at])
        )
        for at, n in enumerate(lengths)
    ]
    return RolloutGroup(PROMPTS[number], tokens(3 + number), rollouts)


def check_checkpoints(world: World) -> dict[str, Any]:
    """A checkpoint is the one that a single process writes, and can be taken up by both."""
    from grpo_core.models.load import load_tokenizer

    config = make_config({"grpo": {"beta": 0.1}, "reference": {"sync_every": 1, "sync_rate": 0.5}})
    tokenizer = load_tokenizer(Path("llama"), config.model)
    folders, differ = {}, []
    for name, here in (("one", World()), ("two", world)):
        learner = load(config, here)
        update(learner, sampled_groups(1), 1)
        move_reference(learner, 1)
        Path(name).mkdir(exist_ok=True)
        (Path(name) / "config.json").write_text("{}")
        parts = (learner.model, tokenizer, learner.masters, learner.optimizer)
        folders[name] = save_checkpoint(
            Path(name) / "checkpoints", *parts, TrainerState(step=1), learner.reference, here
        )
    files = {name: sorted(p.name for p in folder.iterdir()) for name, folder in folders.items()}
    for file in files["one"]:
        if file.endswith(".json") and file != "checksums.json":
            texts = [(folder / file).read_text() for folder in folders.values()]
            if texts[0] != texts[1]:
                differ.append(file)
    # Each goes on from the other's.
    one, two = load(config, World(), folders["two"]), load(config, world, folders["two"])
    same = distance(snapshot(one).moments, snapshot(two).moments)
    same += distance(snapshot(one).weights, snapshot(two).weights)
    a, b = update(one, sampled_groups(2), 2), update(two, sampled_groups(2), 2)
    again = load(config, world, folders["two"])
    c = update(again, sampled_groups(2), 2)
    return {
        "check": "checkpoints",
        "files": files["one"] == files["two"],
        "differ": differ,
        "loaded": same,
        "loss": abs(a.loss - b.loss),
        "repeated": [c.loss, c.grad_norm] == [b.loss, b.grad_norm],
        "exact": distance(snapshot(again).weights, snapshot(two).weights),
    }


def check_failures(world: World) -> dict[str, Any]:
    """A failure that all meet leaves them in step; a configuration that cannot be loaded, too."""
    found: dict[str, Any] = {"check": "failures"}
    learner = load(make_config({}), world)
    start = snapshot(learner).weights
    groups = sampled_groups(1)
    broken = [RolloutGroup(g.prompt, g.prompt_token_ids, _endless(g.rollouts)) for g in groups]
    found["not finite"] = _message(lambda: update(learner, broken, 1))
    found["unmoved"] = distance(start, snapshot(learner).weights)
    found["no model"] = _message(lambda: load(make_config({"model": {"path": "./none"}}), world))
    found["in step"] = update(load(make_config({}), world), groups, 1).loss
    return found


def _endless(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [Rollout(r.completion, r.verdicts, {}, 1.0, float("inf")) for r in rollouts]


def _message(call: Callable[[], object]) -> str:
    try:
        call()
    except GrpoError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def check_speed(world: World) -> dict[str, Any]:
    """Seconds an update of the model in the folder `large` takes."""
    config = make_config(
        {"model": {"path": "large"}, "trainer": {"micro_batch_tokens": 2048}}, "float32"
    )
    learner = load(config, world)
    generator = torch.Generator().manual_seed(1)
    groups = [random_group(n, [100] * 8, generator) for n in range(4)]
    seconds = []
    for step in range(1, 5):
        started = time.perf_counter()
        update(learner, groups, step)
        seconds.append(time.perf_counter() - started)
    weights = sum(p.numel() for p in learner.masters.parameters.values())
    here = sum(local(p).numel() for p in learner.masters.parameters.values())
    tokens = sum(len(r.completion.token_ids) for g in groups for r in g.rollouts)
    return {
        "check": "speed",
        "seconds": median(seconds[1:]),
        "weights": weights,
        "held by the leader": here,
        "tokens": tokens,
    }


CHECKS = {
    "fault": check_fault,
    "shapes": check_shapes,
    "checkpoints": check_checkpoints,
    "failures": check_failures,
}
MEASUREMENTS = {"speed": check_speed}


# ---- the processes -------------------------------------------------------------------------------


def _speak_in_turn(world: World) -> dict[str, Any]:
    """Before any order: sums, and failures of one process, which all must meet."""
    found: dict[str, Any] = {"check": "talk", "sum": world.sum({"b": world.rank + 1.0, "a": 1e9})}
    found["gather"] = [part.decode() for part in world.gather(lambda: b"x" * (world.rank + 1))]

    def fail() -> None:
        if world.rank == 1:
            raise SamplingError("no luck")

    def fail_here() -> None:
        if world.rank == 0:
            raise ValueError("mine")

    def wait() -> None:
        fail()
        while True:  # until it is called off
            world.check()

    found["failure"] = _message(lambda: world.together(fail))
    found["called off"] = _message(lambda: world.together(wait))
    try:
        world.together(fail_here)
    except (ValueError, GrpoError) as error:
        found["own"] = f"{type(error).__name__}: {error}"
    found["after"] = world.together(lambda: 7)
    return found


@contextmanager
def _fault_can_be_planted() -> Iterator[None]:
    add_up = FSDPModule.set_gradient_divide_factor

    def set_factor(part: FSDPModule, factor: float) -> None:
        add_up(part, 2.0 if Path("averaged").exists() else factor)

    FSDPModule.set_gradient_divide_factor = set_factor  # type: ignore[method-assign]
    try:
        yield
    finally:
        FSDPModule.set_gradient_divide_factor = add_up  # type: ignore[method-assign]


def main(names: Sequence[str]) -> None:
    with open_world() as world, _fault_can_be_planted():
        talk = _speak_in_turn(world) if world.size > 1 else {"check": "talk"}
        if world.rank:
            follow(world)
            return
        print(json.dumps(talk), flush=True)
        for name in names:
            dtype, _, case = name.rpartition(":")
            if check := (CHECKS | MEASUREMENTS).get(case):
                print(json.dumps(check(world)), flush=True)
                continue
            for kind in (dtype,) if dtype else ("float32", "bfloat16"):
                found = differences(case, make_config(CASES[case], kind), world)
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    run_to_the_end(partial(main, sys.argv[1:]))
