"""Every hook once, called as grpo-core calls it, answered by the minimal plugin of its docs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from grpo_core import Sample, hookimpl
from grpo_core.config import RunConfig, resolved
from grpo_core.plugin_manager import Plugins, PluginSources, load_plugins
from grpo_core.protocols import SamplingParams
from grpo_core.testing import check_shaper, check_task, check_verifier, make_scored
from grpo_core.training.doctor.finding import Bench, Grade
from grpo_core.training.doctor.plugin_checks import collect_checks
from grpo_core.types import Rollout, RolloutGroup, Verdict

DOCS = Path(__file__).parents[2] / "docs" / "hooks.md"


@pytest.fixture
def plugins(tmp_path: Path, request: pytest.FixtureRequest) -> Plugins:
    """The plugin that the docs show for the hook in the test's name."""
    hook = request.node.name.removeprefix("test_hook_")
    text = DOCS.read_text(encoding="utf-8").split(f"### `{hook}(", 1)[1]
    path = tmp_path / "minimal.py"
    path.write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])
    return load_plugins(PluginSources((str(path),), use_entry_points=False))


def rollout_group() -> RolloutGroup:
    scored = [make_scored("two", verdict=Verdict.wrong()), make_scored("2")]
    rollouts = [
        Rollout(
            replace(one.completion, index=index),
            {"exact": one.verdict},
            {"exact": float(index)},
            float(index),
            2.0 * index - 1,
        )
        for index, one in enumerate(scored)
    ]
    return RolloutGroup(scored[0].prompt, [1, 2, 3], rollouts, step=4)


# ---- registering --------------------------------------------------------------------------------


def test_hook_grpo_register_verifiers(plugins: Plugins) -> None:
    item = plugins.verifiers["starts_with"]
    assert (item.kind, item.version, item.plugin.name) == ("verifier", "1.0", "minimal")
    check_verifier(item.load(), accept=[("yes!", "yes")], reject=[("Yes!", "yes")])
    [verdict] = item.create({"ignore_case": True}).verify([Sample("", "Yes!", "yes")])
    assert verdict.is_correct


def test_hook_grpo_register_shapers(plugins: Plugins) -> None:
    target = plugins.shapers["no_digits"].load()
    group = [make_scored("a1"), make_scored("a12")]
    assert check_shaper(target, group, {"free": 1}) == [0.0, -1.0]


def test_hook_grpo_register_tasks(plugins: Plugins) -> None:
    prompts = check_task(plugins.tasks["capitals"].load(), {"question": "{country}?"})
    assert [(p.text, p.reference) for p in prompts["test"]] == [("Japan?", "Tokyo")]


def test_hook_grpo_register_samplers(plugins: Plugins) -> None:
    class Tokenizer:
        eos_token_id = 0
        chat_template = None

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(char) for char in text]}

    sampler = plugins.samplers["counting"].load()(SimpleNamespace(tokenizer=Tokenizer()))
    prompt = make_scored("").prompt
    [group] = sampler.sample([prompt], 3, SamplingParams(max_new_tokens=8))
    assert [completion.text for completion in group] == ["0", "1", "2"]
    assert len(sampler.encode(prompt)) == len(prompt.text)


def test_hook_grpo_register_advantages(plugins: Plugins) -> None:
    torch = pytest.importorskip("torch")
    rewards = torch.tensor([[1.0, 0.0, 0.5, float("nan")], [1.0, 9.0, 9.0, 9.0]])
    valid = torch.tensor([[True, True, True, False], [True, False, False, False]])
    advantages = plugins.advantages["above_average"].load()(rewards, valid)
    assert advantages.tolist() == [[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


def test_hook_grpo_register_losses(plugins: Plugins) -> None:
    """Its gradient is that of grpo_loss on the policy that sampled, where every ratio is 1."""
    torch = pytest.importorskip("torch")
    mask = torch.tensor([[True, True, False], [True, False, False]])
    weights = torch.full((2, 3), 1 / 3)
    gradients = []
    for name in ("reinforce", "grpo"):
        logprobs = torch.tensor([[-1.0, -2.0, torch.nan], [-0.5, 7.0, 7.0]], requires_grad=True)
        output = plugins.losses[name].load()(
            logprobs,
            logprobs.detach(),
            torch.tensor([1.0, -2.0]),
            weights,
            completion_mask=mask,
            epsilon_low=0.2,
            epsilon_high=0.2,
            beta=0.0,
            ref_logprobs=None,
        )
        output.loss.backward()
        assert output.metrics["num_tokens"] == 3
        gradients.append(logprobs.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_hook_grpo_register_trackers(plugins: Plugins, tmp_path: Path) -> None:
    tracker = plugins.trackers["reward_file"].load()(str(tmp_path), resolved(RunConfig()))
    tracker.log(1, {"reward_mean": 0.5})
    tracker.log(2, {"reward_mean": 0.75})
    tracker.close()
    assert (tmp_path / "rewards.txt").read_text() == "1 0.5\n2 0.75\n"


# ---- commands -----------------------------------------------------------------------------------


def test_hook_grpo_add_cli(plugins: Plugins) -> None:
    group = click.Group("grpo")
    plugins.manager.hook.grpo_add_cli(group=group)
    result = CliRunner().invoke(group, ["hello", "world"])
    assert (result.exit_code, result.output) == (0, "hello, world\n")


def test_hook_grpo_doctor_checks(plugins: Plugins) -> None:
    [check] = collect_checks(plugins.manager)
    [finding] = check.look(Bench(RunConfig(), PluginSources()))
    assert (check.name, finding.name) == ("disk", "disk")
    assert finding.grade in (Grade.OK, Grade.WARNING) and finding.numbers["gb"] > 0


# ---- observers ----------------------------------------------------------------------------------

Captured = pytest.CaptureFixture[str]


def test_hook_grpo_run_started(plugins: Plugins, capsys: Captured) -> None:
    config = resolved(RunConfig())
    plugins.manager.hook.grpo_run_started(run_directory="runs/x", config=config)
    assert capsys.readouterr().out == "100 steps into runs/x\n"


def test_hook_grpo_rollouts_scored(plugins: Plugins, capsys: Captured) -> None:
    plugins.manager.hook.grpo_rollouts_scored(step=4, groups=[rollout_group()])
    assert capsys.readouterr().out == "step 4, test:0: '2' correct\n"


def test_hook_grpo_progress(plugins: Plugins, capsys: Captured) -> None:
    for done in (1, 2, 3):
        plugins.manager.hook.grpo_progress(phase="sample", done=done, total=3)
    assert capsys.readouterr().out == "sample: 3 completions\n"


def test_hook_grpo_step_finished(plugins: Plugins, capsys: Captured) -> None:
    plugins.manager.hook.grpo_step_finished(step=4, metrics={"reward_mean": 0.25})
    assert capsys.readouterr().out == "step 4: reward 0.250\n"


def test_hook_grpo_alarm_raised(plugins: Plugins, capsys: Captured) -> None:
    plugins.manager.hook.grpo_alarm_raised(step=4, name="clipping", message="60%. Lower it.")
    assert capsys.readouterr().out == "step 4: clipping! 60%. Lower it.\n"


def test_hook_grpo_evaluation_finished(plugins: Plugins, capsys: Captured) -> None:
    result = {"num_prompts": 128}
    plugins.manager.hook.grpo_evaluation_finished(step=10, result=result)
    assert capsys.readouterr().out == "after 10 steps: 128 prompts evaluated\n"


def test_hook_grpo_run_finished(plugins: Plugins, capsys: Captured) -> None:
    plugins.manager.hook.grpo_run_finished(summary={"status": "interrupted"})
    assert capsys.readouterr().out == "the run interrupted\n"


def test_hook_is_called_in_every_plugin_that_has_it() -> None:
    calls: list[tuple[str, int]] = []

    class First:
        @hookimpl
        def grpo_step_finished(self, step: int) -> None:  # leaves out an argument
            calls.append(("first", step))

    class Second:
        @hookimpl
        def grpo_step_finished(self, metrics: Any, step: int) -> None:  # another order
            calls.append(("second", step))

        @hookimpl
        def grpo_run_finished(self) -> None:
            calls.append(("finished", 0))

    sources = PluginSources(use_entry_points=False)
    hook = load_plugins(sources, extra=[First(), Second()]).manager.hook
    hook.grpo_step_finished(step=1, metrics={})
    hook.grpo_run_finished(summary={})
    assert sorted(calls) == [("finished", 0), ("first", 1), ("second", 1)]
