"""Whole runs with a tiny model, a real verifier pool, and a file plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grpo_core.config import RunConfig
from grpo_core.errors import ErrorBudgetExceeded, TrainingError
from grpo_core.hookspecs import hookimpl
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.preflight import preflight
from grpo_core.training.run import train
from grpo_core.types import Status
from grpo_core.validation import build
from tiny_model import save_tiny_model

PLUGIN = str(Path(__file__).with_name("letter_plugin.py"))
SOURCES = PluginSources(files=(PLUGIN,), use_entry_points=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def make_config(model_folder: Path, /, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": {"path": str(model_folder)},
        "task": {"name": "letters"},
        "sampling": {"max_new_tokens": 8},
        "grpo": {"group_size": 4, "prompts_per_step": 4},
        "trainer": {"dtype": "float32", "steps": 4, "learning_rate": 1e-2, "warmup_steps": 0},
        "verification": {"deadline": 2.0},
        "evaluation": {"num_prompts": 8, "num_samples": 2},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return build(RunConfig, values)


def run(config: RunConfig, path: Path, *, resume: bool = False, extra: tuple = ()) -> dict:
    plugins = load_plugins(SOURCES, extra=extra)
    directory = RunDirectory.open(path) if resume else RunDirectory.create(path, base="")
    return train(config, plugins, SOURCES, directory, resume=resume)


def weights(path: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(path / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def test_a_run_learns_and_leaves_everything(model: Path, tmp_path: Path) -> None:
    config = make_config(
        model,
        trainer={"steps": 25},
        grpo={"prompts_per_step": 8, "group_size": 8},
        shapers=[{"name": "brevity", "weight": 0.1}],
        evaluation={"every": 10, "every_num_prompts": 4},
    )
    summary = run(config, tmp_path / "run")

    assert summary["status"] == "finished"
    before, after = summary["pass_at_1_before"], summary["pass_at_1_after"]
    assert before["low"] <= before["mean"] <= before["high"]
    assert after["mean"] > before["mean"] + 0.3, (before, after)
    assert summary["seconds"] > 0
    directory = RunDirectory.open(tmp_path / "run")
    lines = directory.read_metrics()
    assert [line["step"] for line in lines] == list(range(1, 26))
    gaps = [line["sampler_logprob_gap"] for line in lines if line["trained_tokens"]]
    assert max(gaps) < 1e-4  # the sampler's probabilities are exact
    assert [result["step"] for result in directory.read_evaluations()] == [0, 10, 20, 25]
    assert {result["split"] for result in directory.read_evaluations()} == {"test"}
    manifest = directory.read_manifest()
    assert manifest["verifiers"] == [{"name": "many_letters", "version": "1"}]
    assert manifest["train_test_overlap"] == 0
    assert (tmp_path / "run" / "report.html").is_file()
    group = directory.read_rollouts(3)[0]
    for rollout in group.rollouts:
        assert set(rollout.components) == {"many_letters", "brevity"}
        assert rollout.reward == pytest.approx(sum(rollout.components.values()))
    assert abs(sum(rollout.advantage for rollout in group.rollouts)) < 1e-5
    trained = AutoModelForCausalLM.from_pretrained(summary["checkpoint"], dtype="auto")
    assert trained.dtype == torch.float32
    assert summary["best"]["pass_at_1"] >= before["mean"]


def test_runs_are_reproducible_and_resume_exactly(model: Path, tmp_path: Path) -> None:
    config = make_config(model, trainer={"steps": 6, "save_every": 3, "keep_checkpoints": 9})
    run(config, tmp_path / "whole")
    first = make_config(model, trainer={"steps": 3, "save_every": 3, "keep_checkpoints": 9})
    run(first, tmp_path / "halves")
    run(config, tmp_path / "halves", resume=True)

    whole, halves = weights(tmp_path / "whole", 6), weights(tmp_path / "halves", 6)
    assert whole.keys() == halves.keys()
    for name in whole:
        assert torch.equal(whole[name], halves[name]), name
    one, two = (RunDirectory.open(tmp_path / name).read_metrics() for name in ("whole", "halves"))
    timeless = [
        [{k: v for k, v in line.items() if "second" not in k} for line in lines]
        for lines in (one, two)
    ]
    assert timeless[0] == timeless[1]


def test_bfloat16_compute_keeps_float32_masters(model: Path, tmp_path: Path) -> None:
    """A step of 1e-5 is below bfloat16's resolution; the masters must take it all the same."""
    config = make_config(
        model,
        trainer={"dtype": "bfloat16", "steps": 1, "learning_rate": 1e-5},
        grpo={"prompts_per_step": 8},
    )
    run(config, tmp_path / "run")
    start = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    moved = weights(tmp_path / "run", 1)
    name = "model.layers.0.mlp.up_proj.weight"
    change = (moved[name] - start[name]).abs()
    assert moved[name].dtype == torch.float32
    assert change.max() == pytest.approx(1e-5, rel=0.2)
    assert torch.equal(moved[name].bfloat16(), start[name].bfloat16()) or (change > 0).all()


def test_a_reference_is_used_when_beta_is_positive(model: Path, tmp_path: Path) -> None:
    run(make_config(model, grpo={"beta": 0.1}), tmp_path / "run")
    lines = RunDirectory.open(tmp_path / "run").read_metrics()
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6)  # the policy starts as the reference
    assert lines[-1]["kl"] > 1e-4


def test_a_pass_rate_that_nobody_measured_is_none(model: Path, tmp_path: Path) -> None:
    config = make_config(
        model,
        trainer={"steps": 1},
        verifiers=[{"name": "silent"}],
        evaluation={"num_prompts": 2, "num_samples": 1},
    )
    silent = tmp_path / "silent.py"
    silent.write_text(
        "from grpo_core import Verdict, hookimpl, verifier\n"
        "@verifier(version='1')\n"
        "def silent(sample):\n    return Verdict.abstain()\n"
        "@hookimpl\ndef grpo_register_verifiers(register):\n    register('silent', silent)\n"
    )
    sources = PluginSources(files=(PLUGIN, str(silent)), use_entry_points=False)
    directory = RunDirectory.create(tmp_path / "run", base="")
    summary = train(config, load_plugins(sources), sources, directory)
    assert summary["pass_at_1_after"] is None
    assert summary["best"] == {"step": 0, "pass_at_1": None}
    line = directory.read_metrics()[0]
    assert line["pass_rate"] is None and line["reward_mean"] is None
    assert line["status_abstain"] == 16


@pytest.mark.parametrize("mood", ["raise", "hang", "nan", "exit", "memory"])
def test_a_failing_verifier_costs_its_verdicts_only(model: Path, tmp_path: Path, mood: str) -> None:
    config = make_config(
        model,
        trainer={"steps": 1},
        verifiers=[{"name": "moody", "options": {"mood": mood}}],
        verification={"deadline": 0.3, "error_budget": 1.0},
        evaluation={"num_prompts": 2, "num_samples": 2},
    )
    summary = run(config, tmp_path / "run")
    assert summary["status"] == "finished"
    groups = RunDirectory.open(tmp_path / "run").read_rollouts(1)
    failed = 0
    for rollout in (rollout for group in groups for rollout in group.rollouts):
        status = rollout.judgement.status
        if len(rollout.completion.text) % 2:
            assert status in (Status.CORRECT, Status.WRONG)
        else:
            failed += 1
            assert status is (Status.TIMEOUT if mood == "hang" else Status.ERROR)
            assert rollout.judgement.reason
            assert rollout.reward is None and rollout.advantage == 0
    assert failed


def test_past_the_error_budget_the_run_stops_with_a_checkpoint(model: Path, tmp_path: Path) -> None:
    class BreakLater:
        """Makes the verifier fail from the third step on, by way of what it has to judge."""

        @hookimpl
        def grpo_step_finished(self, step: int) -> None:
            if step == 2:
                (tmp_path / "broken").touch()

    plugin = tmp_path / "fragile.py"
    plugin.write_text(f"""
from pathlib import Path
from grpo_core import hookimpl, verifier

@verifier(version="7")
def fragile(sample):
    if Path({str(tmp_path / "broken")!r}).exists():
        raise RuntimeError("the reference server is gone")
    return "e" in sample.completion

@hookimpl
def grpo_register_verifiers(register):
    register("fragile", fragile)
""")
    sources = PluginSources(files=(PLUGIN, str(plugin)), use_entry_points=False)
    config = make_config(model, trainer={"steps": 5}, verifiers=[{"name": "fragile"}])
    directory = RunDirectory.create(tmp_path / "run", base="")
    with pytest.raises(ErrorBudgetExceeded) as caught:
        train(config, load_plugins(sources, extra=(BreakLater(),)), sources, directory)

    message = str(caught.value)
    for part in ("fragile", "version 7", "the reference server is gone", "train-"):
        assert part in message
    summary = directory.read_summary()
    assert summary["status"] == "failed" and summary["steps"] == 2
    assert Path(summary["checkpoint"], "trainer_state.json").is_file()

    (tmp_path / "broken").unlink()
    resumed = train(config, load_plugins(sources), sources, directory, resume=True)
    assert resumed["status"] == "finished" and resumed["steps"] == 5


def test_a_loss_that_is_not_finite_stops_before_the_step(model: Path, tmp_path: Path) -> None:
    class Poison:
        """A loss that turns to NaN."""

        @hookimpl
        def grpo_register_losses(self, register: Any) -> None:
            from grpo_core.losses.grpo import grpo_loss
            from grpo_core.losses.output import LossOutput

            def poisoned(*args: Any, **kwargs: Any) -> LossOutput:
                loss, metrics = grpo_loss(*args, **kwargs)
                return LossOutput(loss * float("nan"), metrics)

            register("poisoned", poisoned)

    config = make_config(model, grpo={"loss": "poisoned"})
    with pytest.raises(TrainingError, match=r"not finite.*train-"):
        run(config, tmp_path / "run", extra=(Poison(),))
    assert RunDirectory.open(tmp_path / "run").read_summary()["status"] == "failed"


def test_hook_observers_are_called_in_order(model: Path, tmp_path: Path) -> None:
    calls: list[str] = []

    class Observer:
        @hookimpl
        def grpo_run_started(self, run_directory: str, config: dict) -> None:
            calls.append(f"started {Path(run_directory).name} {config['seed']}")

        @hookimpl
        def grpo_progress(self, phase: str, done: int, total: int) -> None:
            if done == total:
                calls.append(f"{phase} {total}")

        @hookimpl
        def grpo_rollouts_scored(self, step: int, groups: list) -> None:
            calls.append(f"scored {step} {len(groups)}")

        @hookimpl
        def grpo_step_finished(self, step: int, metrics: dict) -> None:
            calls.append(f"step {step} {metrics['step']}")

        @hookimpl
        def grpo_evaluation_finished(self, step: int, result: dict) -> None:
            calls.append(f"evaluated {step} {result['num_prompts']}")

        @hookimpl
        def grpo_run_finished(self, summary: dict) -> None:
            calls.append(f"finished {summary['status']}")

    run(make_config(model, trainer={"steps": 1}), tmp_path / "run", extra=(Observer(),))
    assert calls == [
        "started run 0",
        "evaluate 16",
        "evaluated 0 8",
        "sample 16",
        "scored 1 4",
        "step 1 1",
        "evaluate 16",
        "evaluated 1 8",
        "finished finished",
    ]


def test_hook_trackers_get_every_step(model: Path, tmp_path: Path) -> None:
    logged: list[Any] = []

    class Tracker:
        def __init__(self, run_directory: str, config: dict) -> None:
            logged.append(Path(run_directory).name)

        def log(self, step: int, metrics: dict) -> None:
            logged.append((step, metrics["step"]))

        def close(self) -> None:
            logged.append("closed")

    class Plugin:
        @hookimpl
        def grpo_register_trackers(self, register: Any) -> None:
            register("list", Tracker)

    config = make_config(model, trainer={"steps": 2}, trackers=["list"])
    run(config, tmp_path / "run", extra=(Plugin(),))
    assert logged == ["run", (1, 1), (2, 2), "closed"]


def test_preflight_passes_and_says_what_it_saw(model: Path) -> None:
    config = make_config(model)
    checks = preflight(config, load_plugins(SOURCES), SOURCES)
    assert all(check.ok for check in checks), checks
    assert [check.name for check in checks][-1] == "rehearsal"


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"grpo": {"group_size": 1}}, "grpo.group_size must be >= 2, got 1"),
        ({"grpo": {"loss": "grpoo"}}, "Unknown loss 'grpoo'. Did you mean 'grpo'?"),
        ({"grpo": {"advantage": "sdt"}}, "Did you mean 'std'?"),
        ({"task": {"name": "leters"}}, "Unknown task 'leters'. Did you mean 'letters'?"),
        ({"task": {"options": {"size": 3}}}, "unknown setting"),
        ({"verifiers": [{"name": "many"}]}, "Did you mean 'many_letters'?"),
        (
            {"verifiers": [{"name": "many_letters", "options": {"lest": 3}}]},
            "Did you mean 'least'?",
        ),
        ({"shapers": [{"name": "brevty"}]}, "Did you mean 'brevity'?"),
        ({"sampling": {"engine": "hff"}}, "Did you mean 'hf'?"),
        ({"sampling": {"max_new_tokens": 600}}, "exceeds the model's context of 512"),
        ({"evaluation": {"split": "tset"}}, "Did you mean 'test'?"),
        ({"trackers": ["wandbb"]}, "Unknown tracker 'wandbb'"),
        ({"model": {"path": "/nonexistent/model"}}, "it has no config.json"),
        ({"verifiers": [{"name": "wrong_count"}]}, "wrong_count"),
    ],
)
def test_preflight_finds(model: Path, sections: dict[str, Any], expected: str) -> None:
    checks = preflight(make_config(model, **sections), load_plugins(SOURCES), SOURCES)
    assert not checks[-1].ok
    assert expected in checks[-1].message
    assert all(check.ok for check in checks[:-1])


def test_preflight_refuses_a_template_that_opens_a_think_tag(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    path = folder / "chat_template.jinja"
    path.write_text(
        path.read_text().replace("<|assistant|>{% endif", "<|assistant|><think>{% endif")
    )
    checks = preflight(make_config(folder), load_plugins(SOURCES), SOURCES)
    assert not checks[-1].ok
    assert "prefills <think>" in checks[-1].message


def test_preflight_refuses_a_limit_too_short_for_any_answer(model: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "long_answers.py"
    source = Path(PLUGIN).read_text().replace('"abc")\n', '"a whole sentence of an answer")\n')
    plugin.write_text(source)
    sources = PluginSources(files=(str(plugin),), use_entry_points=False)
    checks = preflight(make_config(model), load_plugins(sources), sources)
    assert not checks[-1].ok
    assert "so it could never be right" in checks[-1].message


def test_preflight_finds_a_long_prompt_wherever_it_is(model: Path, tmp_path: Path) -> None:
    """The sampler would meet it in the middle of the run."""
    plugin = tmp_path / "long_prompt.py"
    source = Path(PLUGIN).read_text()
    words = 'f"{first + n} " + "x" * (600 if first + n == 299 else 9)'
    source = source.replace('f"speak {first + n}"', words)
    plugin.write_text(source.replace("range(40)", "range(300)"))
    sources = PluginSources(files=(str(plugin),), use_entry_points=False)
    checks = preflight(make_config(model), load_plugins(sources), sources)
    assert not checks[-1].ok
    assert "exceeds the model's context of 512" in checks[-1].message


def test_a_reference_of_several_lines_is_no_bare_answer(model: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "solutions.py"
    solution = '"first this,\\nthen that, and so\\n#### 7")\n'
    plugin.write_text(Path(PLUGIN).read_text().replace('"abc")\n', solution))
    sources = PluginSources(files=(str(plugin),), use_entry_points=False)
    assert all(check.ok for check in preflight(make_config(model), load_plugins(sources), sources))


def test_the_summary_is_plain_json(model: Path, tmp_path: Path) -> None:
    summary = run(make_config(model, trainer={"steps": 1}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(
        json.dumps(summary)
    )
