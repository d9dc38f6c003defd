"""The `grpo` command: finds subcommands, and turns errors into messages and exit codes.

Exit codes: 0 done; 1 the run failed; 2 the command, config, plugin, or data is wrong; 130 Ctrl-C.
A subcommand's module is imported only when it is used, so that `grpo --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import click

from grpo_core import __version__
from grpo_core.cli.exit_codes import INTERRUPTED, exit_code
from grpo_core.cli.process import prepare_process
from grpo_core.errors import GrpoError, PluginError
from grpo_core.plugin_manager import create_plugin_manager
from grpo_core.training.ending import run_to_the_end

# name: ("module:attribute", what --help says)
COMMANDS: Mapping[str, tuple[str, str]] = {
    "train": ("grpo_core.cli.train:train", "Train a model with GRPO against verifiers."),
    "eval": ("grpo_core.cli.eval:evaluate", "Measure the held-out pass rate of a model."),
    "verify": ("grpo_core.cli.verify:verify", "Judge completions with a verifier."),
    "plugins": ("grpo_core.cli.plugins:plugins", "Show what plugins are loaded and offer."),
    "doctor": (
        "grpo_core.cli.doctor:doctor",
        "Check installation, model, template, verifiers, sandbox layers and sampler.",
    ),
    "serve": ("grpo_core.cli.serve:serve", "Host a vLLM engine for a run elsewhere."),
    "report": ("grpo_core.cli.report:report", "Build a run's report.html anew."),
    "explain": ("grpo_core.cli.explain:explain", "Show how completions came by their advantages."),
    "rescore": (
        "grpo_core.cli.rescore:rescore",
        "Judge a run's completions again, and list the advantages that flip.",
    ),
}


class GrpoGroup(click.Group):
    """A click group whose own commands load on use; plugins add theirs with `grpo_add_cli`."""

    _plugins_loaded = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our own commands in their order, then those of plugins."""
        try:
            self._load_plugin_commands()
        except PluginError as error:
            click.echo(f"warning: commands of plugins are missing: {error}", err=True)
        return [*COMMANDS, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one of our own commands, or ask plugins for it."""
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        self._load_plugin_commands()
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest name offered for one that does not exist."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, [*COMMANDS, *self.commands], n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else " See 'grpo --help'."
            raise click.UsageError(f"No such command '{name}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing ours."""
        names = self.list_commands(ctx)
        width = formatter.width - 6 - max(map(len, names))
        rows = []
        for name in names:
            if name in COMMANDS:
                rows.append((name, COMMANDS[name][1]))
            elif not self.commands[name].hidden:
                rows.append((name, self.commands[name].get_short_help_str(width)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Called by plugins.

        Raises:
            PluginError: if there is a command of that name.
        """
        name = name or cmd.name
        if name in COMMANDS or name in self.commands:
            raise PluginError(f"there is a command '{name}' already; choose another name.")
        super().add_command(cmd, name)

    def invoke(self, ctx: click.Context) -> None:
        """As click's; what a command returns is no exit code."""
        super().invoke(ctx)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line and exit; errors of grpo-core are one message without traceback."""
        settings = {"prog_name": "grpo", **extra, "standalone_mode": False}
        try:
            code = super().main(*args, **settings)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except click.Abort:  # what click makes of Ctrl-C
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        except GrpoError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(exit_code(error))
        sys.exit(code if isinstance(code, int) else 0)

    def _load_plugin_commands(self) -> None:
        """Ask every plugin once, one by one, so that a failure can be attributed."""
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        manager = create_plugin_manager()
        for implementation in manager.hook.grpo_add_cli.get_hookimpls():
            others = [p for p in manager.get_plugins() if p is not implementation.plugin]
            try:
                manager.subset_hook_caller("grpo_add_cli", others)(group=self)
            except Exception as error:
                raise PluginError(
                    f"plugin '{implementation.plugin_name}' cannot add its commands: "
                    f"{error or type(error).__name__} "
                    f"Set GRPO_DISABLED_PLUGINS={implementation.plugin_name} to go without it."
                ) from error


@click.group(cls=GrpoGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="grpo-core")
def cli() -> None:
    """Train reasoning models with GRPO against verifiers that are plugins."""


def main() -> None:
    """The entry point."""
    prepare_process()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # odd text must not end a run
    run_to_the_end(cli.main)


if __name__ == "__main__":
    main()
