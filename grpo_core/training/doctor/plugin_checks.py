"""Checks that plugins bring along, for what they rest on themselves."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pluggy

from grpo_core.config import resolved
from grpo_core.errors import PluginError
from grpo_core.plugin_manager import create_plugin_manager
from grpo_core.training.doctor.finding import Bench, Check, Finding, Grade, skipped

_HOOK = "grpo_doctor_checks"
Look = Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]]


def plugin_checks(bench: Bench) -> list[Check]:
    """One check for each that a plugin has registered; none where plugins cannot be loaded.

    Args:
        bench: says where plugins come from.
    """
    try:
        manager = create_plugin_manager(bench.sources.files, bench.sources.use_entry_points)
    except PluginError:
        reason = "plugins cannot be loaded"
        return [Check("checks of plugins", lambda _: iter([skipped("checks of plugins", reason)]))]
    return collect_checks(manager)


def collect_checks(manager: pluggy.PluginManager) -> list[Check]:
    """What the plugins of a manager register."""
    checks: list[Check] = []
    for implementation in manager.hook.grpo_doctor_checks.get_hookimpls():
        others = [p for p in manager.get_plugins() if p is not implementation.plugin]
        owner = str(implementation.plugin_name)

        def register(name: str, look: Look | str, owner: str = owner) -> None:
            checks.append(Check(name, _as_check(name, look, owner)))

        manager.subset_hook_caller(_HOOK, others)(register=register)
    return checks


def _as_check(name: str, look: Look | str, owner: str) -> Callable[[Bench], Iterator[Finding]]:
    """A plugin's function as one of ours."""

    def check(bench: Bench) -> Iterator[Finding]:
        function = _load(look, owner) if isinstance(look, str) else look
        for given in function(resolved(bench.config)):
            yield read_finding(name, given, owner)

    return check


def read_finding(name: str, given: Mapping[str, Any], owner: str) -> Finding:
    """A finding as a plugin states it.

    Raises:
        PluginError: if it is not one.
    """
    try:
        grade, found = Grade(given["status"]), str(given["found"])
        return Finding(name, grade, found, str(given.get("cure", "")), given.get("numbers", {}))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise PluginError(
            f"the check '{name}' of plugin '{owner}' yielded {given!r:.200}, which is no finding: "
            f"it needs 'status' ({', '.join(Grade)}) and 'found'. Repair the plugin."
        ) from error


def _load(target: str, owner: str) -> Look:
    module, _, attribute = target.partition(":")
    try:
        look: Look = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"plugin '{owner}' names '{target}' as a check, which cannot be imported: {error}."
        ) from error
    return look
