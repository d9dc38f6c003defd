"""Registries: from the names users write to the classes and functions plugins offer."""

from __future__ import annotations

import errno
import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from grpo_core.errors import GrpoError, PluginError, unknown_name
from grpo_core.validation import build


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """Where a plugin comes from.

    Attributes:
        name: its entry-point name, or the stem of its file.
        origin: for people, such as "grpo-core 0.1.0" or the path of the file.
        version: of the distribution; "" for a file.
        source_hash: sha256 of its Python files, so that a changed plugin is noticed.
    """

    name: str
    origin: str
    version: str
    source_hash: str


@dataclass(frozen=True, slots=True)
class Registration:
    """One name a plugin registered."""

    kind: str
    name: str
    target: Any
    plugin: PluginInfo

    def load(self) -> Any:
        """The class or function itself; a "module:attribute" target is imported here.

        Raises:
            PluginError: if the import fails, naming plugin and cure.
        """
        if not isinstance(self.target, str):
            return self.target
        module_name, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except Exception as error:  # a stranger's module may raise anything; we attribute it
            raise PluginError(
                f"{self.kind} '{self.name}' of plugin '{self.plugin.name}' "
                f"({self.plugin.origin}) cannot be loaded from '{self.target}': "
                f"{type(error).__name__}: {error}. Install what it needs, "
                f"or set GRPO_DISABLED_PLUGINS={self.plugin.name}."
            ) from error

    @property
    def version(self) -> str:
        """The version the target declares, or its distribution's."""
        return str(getattr(self.load(), "version", "") or self.plugin.version or "0")

    @property
    def config_type(self) -> type[BaseModel] | None:
        """The pydantic model of its options, or None when it has none."""
        return getattr(self.load(), "Config", None)

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.load()) or "").partition("\n")[0]

    def create(self, options: Mapping[str, Any]) -> Any:
        """An instance with checked options.

        Raises:
            ConfigError: if an option is unknown or wrong.
            PluginError: if it cannot be created, naming plugin and cause.
        """
        target = self.load()
        title = f"{self.kind} '{self.name}'"
        checked = build(self.config_type or _NoOptions, options, title)
        with self.attributed("created"):
            return target() if self.config_type is None else target(checked)

    @contextmanager
    def attributed(self, done: str) -> Iterator[None]:
        """Have what goes wrong within say whose code it was, and what could not be `done`.

        Raises:
            PluginError: in place of anything but our own errors.
        """
        try:
            yield
        except GrpoError:
            raise
        except Exception as error:  # as in load
            raise PluginError(
                f"{self.kind} '{self.name}' of plugin '{self.plugin.name}' ({self.plugin.origin}) "
                f"cannot be {done}: {type(error).__name__}: {error}. {cure_of(error)}"
            ) from error


def cure_of(error: Exception) -> str:
    """What to do about an error of a plugin: a full disk is not the plugin's fault."""
    # tempfile tells only in words that it found no folder to write to.
    is_disk = isinstance(error, OSError) and (
        error.errno in (errno.ENOSPC, errno.EDQUOT) or "usable temporary directory" in str(error)
    )
    if is_disk:
        return "Free space on the disk, or set TMPDIR to a folder that can be written to."
    return "Repair the plugin or its options."


class _NoOptions(BaseModel, extra="forbid"):
    pass


@dataclass(slots=True)
class Registry:
    """All names of one kind ("verifier", "task", ...)."""

    kind: str
    _items: dict[str, Registration] = field(default_factory=dict)

    def add(self, name: str, target: Any, plugin: PluginInfo) -> None:
        """Register `target` under `name`.

        Raises:
            PluginError: if the name is taken, naming both plugins.
        """
        if name in self._items:
            other = self._items[name].plugin
            raise PluginError(
                f"{self.kind} '{name}' is registered twice: by plugin '{other.name}' "
                f"({other.origin}) and by plugin '{plugin.name}' ({plugin.origin}). "
                f"Rename one, or set GRPO_DISABLED_PLUGINS={plugin.name}."
            )
        self._items[name] = Registration(self.kind, name, target, plugin)

    def create(self, name: str, options: Mapping[str, Any]) -> Any:
        """An instance with checked options, and with its parts where it is made of others.

        Raises:
            ConfigError: if an option is unknown or wrong.
            PluginError: if there is none of that name or it cannot be created.
        """
        registration = self[name]
        created = registration.create(options)
        if callable(compose := getattr(created, "compose", None)):
            with registration.attributed("put together"):
                compose(self.create)
        return created

    def __getitem__(self, name: str) -> Registration:
        """The registration of `name`.

        Raises:
            PluginError: if there is none; the message offers the nearest name.
        """
        if name not in self._items:
            hint = "Is its plugin installed? See 'grpo plugins list'."
            raise PluginError(unknown_name(self.kind, name, self._items, hint))
        return self._items[name]

    def __iter__(self) -> Iterator[Registration]:
        return iter(self._items.values())

    def __contains__(self, name: str) -> bool:
        return name in self._items
