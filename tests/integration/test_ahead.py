"""Runs whose batches are sampled while the one before is trained on (selection.ahead)."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel

from grpo_core.config import RunConfig, SamplingConfig
from grpo_core.errors import ErrorBudgetExceeded
from grpo_core.hookspecs import hookimpl
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import create_sampler
from grpo_core.training import loop
from grpo_core.training.loop import sampling_params
from grpo_core.training.run import train
from grpo_core.types import RolloutGroup
from grpo_core.validation import build
from kill_trials import configs
from kill_workshop import Kill, Plan, Workshop
from run_outcome import compare, outcome
from tiny_model import save_tiny_model, tiny_tokenizer

LETTERS = str(Path(__file__).with_name("letter_plugin.py"))
SOURCES = PluginSources((LETTERS,), use_entry_points=False)
THREAD = "grpo-ahead"
EVERYTHING: dict[str, Any] = {
    "selection": {"curriculum": "middling", "refill_budget": 3},
    "grpo": {"group_size": 2, "num_iterations": 2, "beta": 0.1},
    "reference": {"sync_every": 2},
    "trainer": {"dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def config(model: Path, /, **sections: dict[str, Any]) -> RunConfig:
    values: dict[str, Any] = {
        "model": {"path": str(model)},
        "task": {"name": "letters"},
        "sampling": {"max_new_tokens": 8, "mismatch": "token_truncate"},
        "selection": {"ahead": 1},
        "grpo": {"group_size": 4, "prompts_per_step": 4},
        "trainer": {
            "dtype": "float32",
            "steps": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "save_every": 1,
            "keep_checkpoints": 9,
        },
        "verifiers": [{"name": "many_letters", "options": {"least": 2}}],
        "evaluation": {"num_prompts": 8, "num_samples": 2, "every": 2},
    }
    for name, section in sections.items():
        changed = isinstance(section, dict)
        values[name] = {**values.get(name, {}), **section} if changed else section
    return build(RunConfig, values)


def run(
    config: RunConfig,
    path: Path,
    *extra: object,
    resume: bool = False,
    sources: PluginSources = SOURCES,
) -> dict[str, Any]:
    plugins = load_plugins(sources, extra=extra)
    directory = RunDirectory.open(path) if resume else RunDirectory.create(path, base="")
    try:
        return train(config, plugins, sources, directory, resume=resume)
    finally:
        assert not [t for t in threading.enumerate() if t.name.startswith(THREAD)]


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    run(config(model), path)
    return path


@pytest.fixture(scope="module")
def whole_of_everything(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "everything"
    run(config(model, **EVERYTHING), path)
    return path


# ---- what is trained on -------------------------------------------------------------------------


def drawn_by(model: PreTrainedModel, step: int, groups: list[RolloutGroup]) -> list[Any]:
    """What these weights would have sampled in the place of `groups`."""
    settings = build(RunConfig, {"sampling": {"max_new_tokens": 8}})
    engine = create_sampler(SamplerContext(model, tiny_tokenizer(), "", SamplingConfig()))
    found = engine.sample([group.prompt for group in groups], 4, sampling_params(settings, step))
    return [[(c.token_ids, c.sampler_logprobs) for c in group] for group in found]


def test_a_batch_is_one_update_old_and_weighted_for_it(model: Path, whole: Path) -> None:
    directory = RunDirectory.open(whole)
    for step in (1, 2, 3, 4):
        groups = directory.read_rollouts(step)
        recorded = [
            [(r.completion.token_ids, r.completion.sampler_logprobs) for r in group.rollouts]
            for group in groups
        ]
        folders = [model, *sorted((whole / "checkpoints").iterdir())]
        sampled_after = max(step - 2, 0)
        policy = AutoModelForCausalLM.from_pretrained(folders[sampled_after])
        assert drawn_by(policy, step, groups) == recorded
        newer = AutoModelForCausalLM.from_pretrained(folders[sampled_after + 1])
        assert drawn_by(newer, step, groups) != recorded

    lines = directory.read_metrics()
    assert [line["staleness"] for line in lines] == [0, 1, 1, 1]
    assert lines[0]["sampler_logprob_gap"] < 1e-4 < lines[1]["sampler_logprob_gap"]
    assert lines[0]["mismatch_weight"] == pytest.approx(1, abs=1e-4)
    assert all(line["seconds_hidden"] >= 0 for line in lines)
    assert all(line["canary_gap"] < 1e-5 for line in lines)


def test_without_it_nothing_is_said_of_staleness(model: Path, tmp_path: Path) -> None:
    run(config(model, selection={"ahead": 0}), tmp_path / "run")
    (line, *_) = RunDirectory.open(tmp_path / "run").read_metrics()
    assert not {"staleness", "seconds_hidden"} & line.keys()
    assert not list((tmp_path / "run").glob("checkpoints/*/ahead.parquet"))


def test_the_next_batch_is_sampled_during_the_update(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update waits for the first completion of the next batch, and the other way round."""
    sampled, updating = threading.Event(), threading.Event()

    class Watch:
        @hookimpl
        def grpo_progress(self) -> None:
            if threading.current_thread().name.startswith(THREAD):
                assert updating.wait(60)
                sampled.set()

    def update(*args: Any) -> Any:
        updating.set()
        assert args[2] == 3 or sampled.wait(60)  # there is no step 4
        result = loop_update(*args)
        updating.clear()
        sampled.clear()
        return result

    loop_update = loop.update
    monkeypatch.setattr(loop, "update", update)
    assert run(config(model, trainer={"steps": 3}), tmp_path / "run", Watch())["steps"] == 3


# ---- recovery -----------------------------------------------------------------------------------


class Disturb:
    """Presses Ctrl-C, or fails, at a moment of a step."""

    def __init__(self, moment: str, step: int) -> None:
        self.moment, self.step, self.done = moment, step, 0

    def _at(self, moment: str, step: int) -> None:
        if (moment, step) == (self.moment, self.step):
            self.moment = ""
            if moment == "scored":
                raise ZeroDivisionError("observer")
            signal.raise_signal(signal.SIGINT)

    @hookimpl
    def grpo_rollouts_scored(self, step: int) -> None:
        self._at("scored", step)

    @hookimpl
    def grpo_step_finished(self, step: int) -> None:
        self.done = step
        self._at("finished", step)

    @hookimpl
    def grpo_progress(self, phase: str) -> None:
        is_ahead = threading.current_thread().name.startswith(THREAD)
        self._at("ahead" if is_ahead else phase, self.done + 1)


@pytest.mark.parametrize(
    ("moment", "step", "done"),
    [
        ("sample", 1, 0),
        ("ahead", 2, 2),
        ("scored", 2, 1),
        ("finished", 3, 3),
        pytest.param("ahead", 1, 1, marks=pytest.mark.slow),
        pytest.param("finished", 1, 1, marks=pytest.mark.slow),
        pytest.param("evaluate", 3, 2, marks=pytest.mark.slow),
        pytest.param("scored", 4, 3, marks=pytest.mark.slow),
        pytest.param("finished", 4, 4, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    model: Path, whole: Path, tmp_path: Path, moment: str, step: int, done: int
) -> None:
    path = tmp_path / "run"
    if moment == "scored":
        with pytest.raises(ZeroDivisionError):
            run(config(model), path, Disturb(moment, step))
    else:
        assert run(config(model), path, Disturb(moment, step))["status"] == "interrupted"
    assert RunDirectory.open(path).read_summary()["steps"] == done
    run(config(model), path, resume=True)
    assert compare(outcome(whole), outcome(path)) == []


@pytest.mark.parametrize(("moment", "step"), [("ahead", 2), ("finished", 3), ("scored", 3)])
def test_so_does_one_that_remembers_everything(
    model: Path, whole_of_everything: Path, tmp_path: Path, moment: str, step: int
) -> None:
    settings, path = config(model, **EVERYTHING), tmp_path / "run"
    if moment == "scored":
        with pytest.raises(ZeroDivisionError):
            run(settings, path, Disturb(moment, step))
    else:
        run(settings, path, Disturb(moment, step))
    run(settings, path, resume=True)
    assert compare(outcome(whole_of_everything), outcome(path)) == []


def test_a_checkpoint_without_its_batch_is_damaged(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(config(model), path, Disturb("finished", 2))
    (path / "checkpoints" / "step-000002" / "ahead.parquet").unlink()
    with pytest.raises(Exception, match=r"ahead\.parquet is missing"):
        run(config(model), path, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill",
    [
        Kill("scoring", 2, 5),
        Kill("update", 2, 3),
        Kill("optimiser", 3, 2),
        Kill("checkpoint", 2, 9),
    ],
    ids=lambda kill: kill.kind,
)
def test_a_killed_run_too(tmp_path: Path, kill: Kill) -> None:
    with Workshop(tmp_path, {"ahead": configs()["ahead"]}) as workshop:
        trial = workshop.run(Plan("ahead", (kill,)))
    assert trial.killed == (True,)
    assert trial.differences == ()


# ---- failures -----------------------------------------------------------------------------------


def test_a_failing_verifier_stops_the_run_after_the_step(model: Path, tmp_path: Path) -> None:
    """The batch ahead is lost with the failure; a resume samples it anew, from newer weights."""
    broken, plugin = tmp_path / "broken", tmp_path / "fragile.py"
    plugin.write_text(f"""
from pathlib import Path
from grpo_core import hookimpl, verifier

@verifier(version="1")
def fragile(sample):
    if Path({str(broken)!r}).exists():
        raise RuntimeError("the reference server is gone")
    return "e" in sample.completion

@hookimpl
def grpo_register_verifiers(register):
    register("fragile", fragile)
""")

    class Break:
        @hookimpl
        def grpo_rollouts_scored(self, step: int) -> None:
            if step == 2:
                broken.touch()

    sources = PluginSources((LETTERS, str(plugin)), use_entry_points=False)
    settings = config(model, verifiers=[{"name": "fragile"}], trainer={"save_every": 0})
    path = tmp_path / "run"
    with pytest.raises(ErrorBudgetExceeded, match="the reference server is gone"):
        run(settings, path, Break(), sources=sources)
    directory = RunDirectory.open(path)
    assert (directory.read_summary()["status"], directory.read_summary()["steps"]) == ("failed", 2)
    assert [len(directory.read_rollouts(step)) for step in (1, 2)] == [4, 4]

    broken.unlink()
    assert run(settings, path, resume=True, sources=sources)["status"] == "finished"
    assert [line["staleness"] for line in directory.read_metrics()] == [0, 1, 0, 1]
    prompts = [g.prompt.id for step in (1, 2, 3, 4) for g in directory.read_rollouts(step)]
    assert len(set(prompts)) == 16  # none was left out, and none came twice


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
def test_a_failing_update_leaves_no_thread_behind(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    """`run` looks for one."""

    def update(*args: Any) -> Any:
        if args[2] == 3:
            raise failure
        return loop_update(*args)

    loop_update = loop.update
    monkeypatch.setattr(loop, "update", update)
    path = tmp_path / "run"
    with pytest.raises(failure):
        run(config(model), path)
    monkeypatch.undo()
    run(config(model), path, resume=True)
    assert RunDirectory.open(path).read_summary()["status"] == "finished"
