"""The command itself: quick help, exit codes, plugins' commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from grpo_core import __version__
from grpo_core.cli.exit_codes import exit_code
from grpo_core.cli.main import COMMANDS, GrpoGroup, cli
from grpo_core.errors import CheckpointError, ConfigError, GrpoError, PluginError, TrainingError

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "vllm", "datasets", "sympy", "pyarrow", "jinja2", "numpy")


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """A child process sees our packages, installed or not, and `folders` first."""
    ours = [ROOT, ROOT / "plugins", ROOT / "verifiers", ROOT / "tasks"]
    path = os.pathsep.join(map(str, (*folders, *ours)))
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "100", **variables}


def grpo(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "grpo_core", *arguments],
        env=dict(env or environment()),
        capture_output=True,
        text=True,
        timeout=120,
    )


def install(folder: Path, distribution: str, entry_points: str, **modules: str) -> None:
    """Put a distribution into `folder` as pip would."""
    info = folder / f"{distribution}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[grpo_core]\n{entry_points}\n")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)


GREETER = """
import click
from grpo_core import hookimpl

@hookimpl
def grpo_add_cli(group):
    @group.command()
    def greet():
        "Say hello."
        click.echo("hello from a plugin")
"""


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom grpo_core.cli.main import cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "finally:\n    print('LOADED', *sorted(set(m.partition('.')[0] for m in sys.modules)))\n"
    )
    for command in ([], *([name] for name in COMMANDS), ["plugins", "describe"]):
        result = subprocess.run(
            [sys.executable, "-c", code, *command, "--help"],
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        help_text, _, loaded = result.stdout.partition("LOADED")
        assert "Usage: grpo" in help_text
        heavy = HEAVY if not command else HEAVY[:5]
        assert not set(heavy) & set(loaded.split()), command


def test_command_table_agrees_with_the_commands() -> None:
    context = click.Context(cli)
    for name, (_, summary) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None and (command.help or "").startswith(summary)


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert result.exit_code == 0 and __version__ in result.stdout


def test_misspelt_command_offers_the_nearest() -> None:
    result = CliRunner().invoke(cli, ["trian"])
    assert result.exit_code == 2
    assert "No such command 'trian'. Did you mean 'train'?" in result.stderr


@pytest.mark.parametrize(
    "error, code",
    [
        (ConfigError("x"), 2),
        (PluginError("x"), 2),
        (TrainingError("x"), 1),
        (CheckpointError("x"), 1),
        (GrpoError("x"), 1),
    ],
)
def test_errors_are_messages_without_traceback(error: GrpoError, code: int) -> None:
    assert exit_code(error) == code
    group = GrpoGroup("grpo")

    @click.command()
    def fail() -> None:
        raise error

    group.add_command(fail)
    group._plugins_loaded = True
    result = CliRunner().invoke(group, ["fail"])
    assert (result.exit_code, result.stderr) == (code, "error: x\n")


def test_ctrl_c_ends_with_130() -> None:
    group = GrpoGroup("grpo")

    @click.command()
    def interrupt() -> None:
        raise KeyboardInterrupt

    group.add_command(interrupt)
    group._plugins_loaded = True
    assert CliRunner().invoke(group, ["interrupt"]).exit_code == 130


def test_plugin_adds_a_command(tmp_path: Path) -> None:
    install(tmp_path, "acme", "acme = acme_hooks", acme_hooks=GREETER)
    env = environment(tmp_path)
    assert "Say hello." in grpo("--help", env=env).stdout
    assert grpo("greet", env=env).stdout == "hello from a plugin\n"
    assert grpo("greet", env={**env, "GRPO_DISABLED_PLUGINS": "acme"}).returncode == 2


def test_plugin_must_not_replace_a_command(tmp_path: Path) -> None:
    install(tmp_path, "acme", "acme = acme_hooks", acme_hooks=GREETER.replace("greet", "train"))
    result = grpo("nothing", env=environment(tmp_path))
    assert result.returncode == 2
    assert "plugin 'acme' cannot add its commands: there is a command 'train'" in result.stderr
    assert "GRPO_DISABLED_PLUGINS=acme" in result.stderr


def test_broken_plugin_does_not_hide_the_help(tmp_path: Path) -> None:
    install(tmp_path, "acme", "acme = acme_hooks", acme_hooks="import nothing_of_this_name")
    env = environment(tmp_path)
    result = grpo("--help", env=env)
    assert result.returncode == 0 and "train" in result.stdout
    assert "warning: commands of plugins are missing: plugin 'acme' of acme 1.5" in result.stderr

    listing = grpo("plugins", "list", env=env)
    assert listing.returncode == 2
    assert "acme_hooks" in listing.stdout and "acme 1.5" in listing.stdout
    assert "GRPO_DISABLED_PLUGINS=acme" in listing.stderr
    assert "Traceback" not in listing.stderr


def test_reading_only_the_first_line_is_no_error() -> None:
    command = f"{sys.executable} -m grpo_core --help | head -1"
    result = subprocess.run(
        command, shell=True, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert result.stdout.startswith("Usage") and "Traceback" not in result.stderr
