"""`grpo plugins`: what is loaded, where it comes from, and which options it takes."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding

from grpo_core.cli.common import json_option, plain_table, plugin_option, plugin_sources, safe
from grpo_core.cli.exit_codes import WRONG_INPUT
from grpo_core.cli.option_text import option_fields
from grpo_core.cli.plugins_new import new_plugin
from grpo_core.cli.plugins_test import test_plugin
from grpo_core.errors import PluginError, unknown_name
from grpo_core.hookspecs import ENTRY_POINT_GROUP
from grpo_core.plugin_manager import DISABLED_VARIABLE, KINDS, Plugins, load_plugins
from grpo_core.registry import Registration

# Only these declare a version of their own; loading engines and losses would import torch.
_VERSIONED = ("verifier", "shaper", "task")


@click.group()
def plugins() -> None:
    """Show what plugins are loaded and offer."""


plugins.add_command(new_plugin)
plugins.add_command(test_plugin)


@plugins.command("list")
@plugin_option
@json_option
def list_plugins(plugin_files: tuple[str, ...], as_json: bool) -> None:
    """List everything that plugins registered."""
    try:
        loaded = load_plugins(plugin_sources(plugin_files))
    except PluginError as error:
        _show_installed()
        click.echo(f"error: {error}", err=True)
        raise click.exceptions.Exit(WRONG_INPUT) from error
    rows = [*_registered(loaded), *_observers(loaded)]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = plain_table("kind", "name", "version", "plugin", "origin")
    for row in rows:
        table.add_row(*(safe(row[key]) for key in ("kind", "name", "version", "plugin", "origin")))
    Console().print(table)


@plugins.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS), help="Where several kinds share the name.")
@plugin_option
@json_option
def describe(name: str, kind: str | None, plugin_files: tuple[str, ...], as_json: bool) -> None:
    """Show what NAME does, its options with types and defaults, and where it comes from."""
    loaded = load_plugins(plugin_sources(plugin_files))
    registries = [r for r in loaded.registries if kind in (None, r.kind)]
    found = [registry[name] for registry in registries if name in registry]
    if not found:
        known = [registration.name for registry in registries for registration in registry]
        raise PluginError(unknown_name(kind or "name", name, known, "See 'grpo plugins list'."))
    descriptions = [_description(registration) for registration in found]
    if as_json:
        click.echo(json.dumps(descriptions))
        return
    for description in descriptions:
        _show(description)


def _registered(loaded: Plugins) -> Iterator[dict[str, str]]:
    for registry in loaded.registries:
        for registration in sorted(registry, key=lambda item: item.name):
            yield {
                "kind": registration.kind,
                "name": registration.name,
                "version": _version(registration),
                "plugin": registration.plugin.name,
                "origin": registration.plugin.origin,
            }


def _version(registration: Registration) -> str:
    """Its version; one that cannot be loaded must not hide the others."""
    if registration.kind not in _VERSIONED:
        return registration.plugin.version
    try:
        return registration.version
    except PluginError:
        return "cannot be loaded, see 'describe'"


def _observers(loaded: Plugins) -> Iterator[dict[str, str]]:
    """Plugins that register nothing but answer other hooks."""
    busy = {item.plugin.name for registry in loaded.registries for item in registry}
    for plugin in loaded.manager.get_plugins():
        name = loaded.manager.get_name(plugin)
        info = next((info for info in loaded.infos if info.name == name), None)
        if info is None or name in busy:
            continue
        hooks = [caller.name for caller in loaded.manager.get_hookcallers(plugin) or ()]
        yield {
            "kind": "hooks",
            "name": ", ".join(hooks),
            "version": info.version,
            "plugin": info.name,
            "origin": info.origin,
        }


def _show_installed() -> None:
    """What is installed, for when loading it failed; nothing is imported."""
    disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
    table = plain_table("plugin", "distribution", "module", "state")
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name):
        dist = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        state = f"disabled by {DISABLED_VARIABLE}" if point.name in disabled else "installed"
        table.add_row(safe(point.name), safe(dist), safe(point.value), state)
    Console().print(table)


def _description(registration: Registration) -> dict[str, Any]:
    target = registration.load()
    plugin = registration.plugin
    return {
        "kind": registration.kind,
        "name": registration.name,
        "version": registration.version,
        "docstring": inspect.getdoc(target) or "",
        "signature": "" if inspect.isclass(target) else _signature(target),
        "options": option_fields(registration.config_type),
        "plugin": plugin.name,
        "origin": plugin.origin,
        "source_hash": plugin.source_hash,
    }


def _signature(target: Any) -> str:
    try:
        return str(inspect.signature(target))
    except (TypeError, ValueError):
        return ""


def _show(description: dict[str, Any]) -> None:
    console = Console()
    title = safe(f"{description['kind']} {description['name']}", "bold")
    console.print(title, safe(f"version {description['version']}", "dim"))
    if description["docstring"]:
        console.print(safe(f"\n{description['docstring']}"), soft_wrap=True)
    if description["signature"]:
        console.print(safe(f"\ncalled as {description['signature']}"), soft_wrap=True)
    if not description["options"]:
        console.print(safe("\nIt takes no options."))
    for option in description["options"]:
        default = ", required" if option["required"] else f" = {option['default']}"
        line = safe(f"\n{option['name']}", "bold").append(f": {option['type']}{default}")
        console.print(line, soft_wrap=True)
        if option["description"]:
            console.print(Padding(safe(option["description"], "dim"), (0, 0, 0, 4)))
    plugin = f"{description['plugin']}, {description['origin']}"
    console.print(safe(f"\nplugin       {plugin}"), soft_wrap=True)
    console.print(safe(f"source hash  {description['source_hash'] or 'none'}"))
