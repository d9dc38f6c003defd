"""What goes wrong is said in one message with the right exit code, and costs what it must."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli_process import (
    PLUGINS,
    Desk,
    assert_same_outcome,
    has_user_namespaces,
    read_json,
    snapshot,
)
from grpo_core.cli.main import cli
from grpo_core.records.run_directory import RunDirectory

slow = pytest.mark.slow
goes_on = pytest.mark.parametrize("goes_on", [False, pytest.param(True, marks=slow)])

# Verifiers that fail


@goes_on
def test_past_the_error_budget_the_run_stops(desk: Desk, whole_run: Path, goes_on: bool) -> None:
    result = desk.train("--output", "run", GRPO_TEST_AT="step 2", GRPO_TEST_DO="break")
    run = desk.path / "run"
    assert result.returncode == 1 and "Traceback" not in result.stderr
    error = result.stderr.partition("error: ")[2]
    for part in (
        "verifier 'fragile' (version 7)", "plugin 'moments_plugin'", "the reference server is gone",
        "on prompt 't", 'reference:  "abc"', "completion: ", "error_budget",
    ):  # fmt: skip
        assert part in error, part
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["steps"]) == ("failed", 2)
    assert "the reference server is gone" in summary["error"]
    assert summary["checkpoint"] == "run/checkpoints/step-000002"

    if not goes_on:
        return
    (desk.path / "broken").unlink()
    (command,) = re.findall(r"go on with: (.*)$", result.stderr, re.M)
    resumed = desk.run("sh", "-c", command)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_outcome(run, whole_run)


@slow
@pytest.mark.parametrize(
    ("mood", "status"), [("hang", "timeout"), ("memory", "error"), ("exit", "error")]
)
def test_a_verifier_that_misbehaves_costs_its_verdicts(desk: Desk, mood: str, status: str) -> None:
    settings = (
        f"verifiers.0.options.mood={mood}", "verification.error_budget=1",
        "verification.deadline=0.4", "trainer.steps=2", "evaluation.num_prompts=4",
    )  # fmt: skip
    result = desk.train("--output", "run", *(p for s in settings for p in ("--set", s)))
    assert result.returncode == 0, result.stderr
    lines = RunDirectory.open(desk.path / "run").read_metrics()
    assert sum(line[f"status_{status}"] for line in lines) > 0
    for line in lines:
        total = sum(value for key, value in line.items() if key.startswith("status_"))
        assert total == 16
        assert line["valid_share"] == pytest.approx(1 - line[f"status_{status}"] / 16)
    assert re.search(rf"^step \d/2 .* {status} \d+$", result.stdout, re.M)
    assert f"&#39;{status}&#39;" in (desk.path / "run" / "report.html").read_text()


# What is wrong before the run

FILES = {
    "imports.py": "import nothing_of_this_name",
    "syntax.py": "def verify(:",
    "exits.py": "raise SystemExit(3)",
    "misspelt.py": "from grpo_core import hookimpl\n"
    "@hookimpl\ndef grpo_register_verifier(register):\n    pass\n",
    "unmarked.py": "def grpo_register_verifiers(register):\n    pass\n",
    "arguments.py": "from grpo_core import hookimpl\n"
    "@hookimpl\ndef grpo_register_verifiers(registre):\n    pass\n",
    "hookless.py": "x = 1",
    "twice.py": "from grpo_core import hookimpl, verifier\n"
    "@verifier()\ndef fragile(sample):\n    return True\n"
    "@hookimpl\ndef grpo_register_verifiers(register):\n    register('fragile', fragile)\n",
    "raises.py": "from grpo_core import hookimpl\n"
    "@hookimpl\ndef grpo_register_verifiers(register):\n    1 / 0\n",
    "unborn.py": "from grpo_core import hookimpl\n"
    "class Unborn:\n    def __init__(self):\n        raise LookupError('no weights')\n"
    "@hookimpl\ndef grpo_register_verifiers(register):\n    register('unborn', Unborn)\n",
    "tasks.py": "from grpo_core import hookimpl\n"
    "class Offline:\n    default_verifier, splits = 'fragile', ('train', 'test')\n"
    "    evaluation_split = 'test'\n"
    "    def load(self, split):\n        raise OSError('no network')\n"
    "@hookimpl\ndef grpo_register_tasks(register):\n    register('offline', Offline)\n",
    "broken.toml": "[trainer\nsteps = 3",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plugin", "imports.py"], "imports.py cannot be imported: ModuleNotFoundError"),
        (["--plugin", "syntax.py"], "syntax.py cannot be imported"),
        (["--plugin", "exits.py"], "exits.py cannot be imported"),
        (["--plugin", "misspelt.py"], "Did you mean 'grpo_register_verifiers'?"),
        (["--plugin", "unmarked.py"], "without the @hookimpl marker"),
        (["--plugin", "arguments.py"], "registre"),
        (["--plugin", "hookless.py"], "implements no hook"),
        (["--plugin", "twice.py"], "verifier 'fragile' is registered twice"),
        (["--plugin", "raises.py"], "failed in grpo_register_verifiers"),
        (["--plugin", "nowhere.py"], "nowhere.py does not exist"),
        (["--set", "trainer.step=5"], "Did you mean 'steps'?"),
        (["--set", "trainer.steps=-5"], "trainer.steps: must be greater than 0, got -5"),
        (["--set", "sampling.temperature=hot"], "sampling.temperature"),
    ],
)
def test_a_wrong_command_is_refused_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    expect_refusal(desk, monkeypatch, arguments, message, checks=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("verifiers.0.name=fragil", "Did you mean 'fragile'?"),
        ("grpo.group_size=1", "must be >= 2, got 1"),
        ("grpo.loss=gropo", "Unknown loss 'gropo'"),
        ("task.name=leters", "Did you mean 'letters'?"),
        ("task.name=offline", "OSError: no network"),
        ("verifiers.0.name=unborn", "LookupError: no weights"),
        ("verifiers.0.options.mod=x", "Did you mean 'mood'?"),
        ("model.path=./nowhere", "it has no config.json"),
        ("model.path=cut", "model.safetensors is damaged"),
        ("model.path=mute", "holds no tokenizer"),
        ("sampling.max_new_tokens=2", "takes 3 tokens"),
        ("sampling.max_new_tokens=600", "model's context of 512"),
        ("trackers=['wandbb']", "Unknown tracker 'wandbb'"),
    ],
)
def test_a_dry_run_finds_what_is_wrong(
    desk: Desk, tiny: Path, monkeypatch: pytest.MonkeyPatch, setting: str, message: str
) -> None:
    for name in ("cut", "mute"):
        shutil.copytree(tiny, desk.path / name)
    weights = desk.path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    for file in (desk.path / "mute").glob("tokenizer*"):
        file.unlink()
    plugins = ["--plugin", "tasks.py", "--plugin", "unborn.py"]
    expect_refusal(desk, monkeypatch, [*plugins, "--set", setting], message, checks=True)


def expect_refusal(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, *, checks: bool
) -> None:
    """The command runs here, which spares it the import of torch; others start it as a process."""
    for name, text in FILES.items():
        desk.put(name, text)
    monkeypatch.chdir(desk.path)
    command = ["train", "run.toml", *PLUGINS, "--dry-run", "--output", "run", *arguments]
    found = CliRunner().invoke(cli, command)
    code, errors = found.exit_code, found.stderr
    assert code == 2, errors
    assert message in errors
    assert "Traceback" not in errors
    assert ("checking the run" in errors) is checks
    assert errors.count("error:") == 1
    assert not (desk.path / "run").exists() and not (desk.path / "runs").exists()


def test_a_dry_run_finds_nothing_wrong(desk: Desk) -> None:
    result = desk.train("--dry-run", "--output", "run")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "checking the run\n"
    assert [line.split()[0] for line in result.stdout.splitlines()[2:] if line[0] != " "] == (
        ["ok"] * 8
    )
    assert "rehearsal" in result.stdout
    assert not (desk.path / "run").exists() and not (desk.path / "runs").exists()


def test_config_files_that_cannot_be_read(desk: Desk) -> None:
    desk.put("broken.toml", FILES["broken.toml"])
    desk.put("list.json", "[1, 2]")
    for name, message in (
        ("broken.toml", "is not valid TOML"),
        ("none.toml", "cannot read"),
        ("list.json", "list.json holds no settings: it must be a JSON object, got [1, 2]."),
    ):
        result = desk.grpo("train", name, "--dry-run")
        assert result.returncode == 2 and message in result.stderr
        assert "Traceback" not in result.stderr


# Disks


@goes_on
def test_a_checkpoint_that_cannot_be_written(desk: Desk, whole_run: Path, goes_on: bool) -> None:
    """From step 2 on no file may grow beyond 100 kB, and the optimiser's does."""
    every = ("--set", "trainer.save_every=1")
    limit = {"GRPO_TEST_AT": "step 2", "GRPO_TEST_DO": "limit 100000"}
    result = desk.train("--output", "run", *every, **limit)
    run = desk.path / "run"
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: cannot write checkpoint run/checkpoints/step-000002:" in result.stderr
    assert "File too large" in result.stderr and "earlier checkpoints are intact" in result.stderr
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000001"]
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["steps"]) == ("failed", 2)
    assert summary["checkpoint"] == "run/checkpoints/step-000001"
    if not goes_on:
        return

    resumed = desk.grpo("train", "--resume", "--output", "run", *PLUGINS)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_outcome(run, whole_run)


@slow
def test_nothing_can_be_written_any_more(desk: Desk, whole_run: Path) -> None:
    every = ("--set", "trainer.save_every=1")
    limit = {"GRPO_TEST_AT": "update 3", "GRPO_TEST_DO": "limit 0"}
    result = desk.train("--output", "run", *every, **limit)
    run = desk.path / "run"
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: cannot write run/metrics.jsonl: File too large." in result.stderr
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]

    resumed = desk.grpo("train", "--resume", "--output", "run", *PLUGINS)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_outcome(run, whole_run)


@slow
def test_a_full_disk(desk: Desk, whole_run: Path) -> None:
    """The run's disk has room for the first checkpoint, not for two."""
    if not has_user_namespaces():
        pytest.skip("this system lets nobody mount a small disk in a namespace of their own")
    (desk.path / "disk").mkdir()
    arguments = " ".join(["--set", "trainer.save_every=1", *PLUGINS])
    script = f"""
        mount -t tmpfs -o size=700k none disk || exit 77
        "{sys.executable}" -m grpo_core train run.toml --output disk/run {arguments}
        code=$?
        cp -r disk/run kept
        exit $code
    """
    result = desk.run("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script)
    if result.returncode == 77:
        pytest.skip("mounting a tmpfs is not allowed here")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "No space left on device" in result.stderr
    (checkpoint,) = (desk.path / "kept" / "checkpoints").iterdir()
    assert {"model.safetensors", "optimizer.safetensors", "trainer_state.json"} <= set(
        snapshot(checkpoint)
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param("/proc/nobody/run", "cannot write /proc/nobody/run: No such", marks=slow),
        ("run.toml", "run.toml is a file, not a folder"),
        pytest.param("run.toml/run", "A part of the path is a file", marks=slow),
    ],
)
def test_a_folder_that_cannot_be_made(desk: Desk, output: str, message: str) -> None:
    result = desk.train("--output", output)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert message in result.stderr and result.stderr.count("error:") == 1
