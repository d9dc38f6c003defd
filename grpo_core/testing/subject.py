"""The verifier under test, described so that other processes find the same one."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpo_core.errors import ConfigError, PluginError
from grpo_core.plugin_manager import Plugins, PluginSources, load_plugins
from grpo_core.registry import Registration
from grpo_core.testing.creation import create_instance

_PLUGIN = """
from grpo_core import hookimpl
from grpo_core.testing.subject import locate


@hookimpl
def grpo_register_verifiers(register):
    register({name!r}, locate({module!r}, {file!r}, {qualname!r}))
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A verifier and its options.

    Attributes:
        title: for people.
        name: under which `sources` register it; "" for one that only this process has.
        target: the class or instance that only this process has.
    """

    title: str
    name: str = ""
    sources: PluginSources = field(default_factory=PluginSources)
    options: Mapping[str, Any] = field(default_factory=dict)
    target: Any = None

    @property
    def is_everywhere(self) -> bool:
        """Whether other processes can find it."""
        return bool(self.name)

    def with_options(self, options: Mapping[str, Any]) -> Subject:
        """The same verifier with options over its own."""
        return replace(self, options={**self.options, **options})

    def create(self) -> Any:
        """An instance with its options; the one instance there is, where it is one.

        Raises:
            ConfigError: if an option is wrong. PluginError: if it cannot be created.
        """
        verifiers = _load(self.sources).verifiers
        if self.is_everywhere:
            return verifiers.create(self.name, self.options)
        if not isinstance(self.target, type):
            if self.options:
                raise ConfigError(
                    f"options {dict(self.options)!r:.80} were given for an instance of "
                    f"{self.title}, which has its options already. Give the class instead."
                )
            return self.target
        instance = create_instance(self.target, self.options)
        if callable(compose := getattr(instance, "compose", None)):
            compose(verifiers.create)
        return instance

    @property
    def registration(self) -> Registration | None:
        """Where it is registered."""
        return _load(self.sources).verifiers[self.name] if self.is_everywhere else None

    @property
    def definition(self) -> Any:
        """Its class, or the instance."""
        registration = self.registration
        return self.target if registration is None else registration.load()


@lru_cache(maxsize=8)
def _load(sources: PluginSources) -> Plugins:
    """Plugins, loaded once: instances are made many times."""
    return load_plugins(sources)


@contextmanager
def find_subject(
    verifier: Any, options: Mapping[str, Any], plugin_files: Sequence[str]
) -> Iterator[Subject]:
    """The subject for a registered name, a class, or an instance.

    Raises:
        PluginError: if no verifier of that name is registered.
    """
    sources = PluginSources(tuple(str(Path(file).absolute()) for file in plugin_files))
    if isinstance(verifier, str):
        load_plugins(sources).verifiers[verifier]
        yield Subject(verifier, verifier, sources, options)
        return
    kind = verifier if isinstance(verifier, type) else type(verifier)
    file = _source_file(verifier)
    if file is None:
        yield Subject(kind.__name__, "", sources, options, verifier)
        return
    name = f"{kind.__name__} under test"
    with tempfile.TemporaryDirectory(prefix="grpo-conformance-") as folder:
        plugin = Path(folder, "subject.py")
        plugin.write_text(
            _PLUGIN.format(
                name=name, module=kind.__module__, file=file, qualname=kind.__qualname__
            ),
            encoding="utf-8",
        )
        files = (*sources.files, str(plugin))
        yield Subject(kind.__name__, name, PluginSources(files), options)


def locate(module: str, file: str, qualname: str) -> Any:
    """Import a class by name, or from its file where the module has no importable name.

    Raises:
        PluginError: if the module does not have it.
    """
    found: Any = _import(module, file)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise PluginError(f"{file} has no '{qualname}'.")
    return found


def _source_file(verifier: Any) -> str | None:
    """The file of a class that can be imported from it; None for anything else."""
    if not isinstance(verifier, type) or "<locals>" in verifier.__qualname__:
        return None
    file = getattr(sys.modules.get(verifier.__module__), "__file__", None)
    if file is None or not inspect.getmodule(verifier):
        return None
    found: Any = sys.modules[verifier.__module__]
    for part in verifier.__qualname__.split("."):
        found = getattr(found, part, None)
    return str(Path(file).absolute()) if found is verifier else None


def _import(module: str, file: str) -> Any:
    if module in sys.modules and module != "__main__":
        return sys.modules[module]
    try:
        found = importlib.util.find_spec(module) if module != "__main__" else None
    except (ImportError, ValueError):
        found = None
    if found is not None and found.origin and Path(found.origin).absolute() == Path(file):
        return importlib.import_module(module)
    name = f"grpo_under_test_{Path(file).stem}"  # without dots, so that pickle can import it
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} is not a Python file.")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded
