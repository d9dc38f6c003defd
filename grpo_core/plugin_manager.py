"""Find plugins, load them, and collect what they register.

pluggy alone skips a second entry point of the same name in silence, accepts misspelt hooks, and
lets a failing import end the program without saying whose it was. All three are refused here with
an error that names the plugin, where it came from, and the cure.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from grpo_core import hookspecs
from grpo_core.errors import PluginError, unknown_name
from grpo_core.registry import PluginInfo, Registry

DISABLED_VARIABLE = "GRPO_DISABLED_PLUGINS"
KINDS = ("verifier", "shaper", "task", "sampler", "advantage", "loss", "tracker")
_PLURALS = {"loss": "losses"}
_CORE_PLUGIN = "grpo_core.builtin"
_FILE_PREFIX = "grpo_file_plugin_"


@dataclass(frozen=True, slots=True)
class PluginSources:
    """Where plugins come from; small and serialisable, so that a worker process loads the same.

    Attributes:
        files: paths of single-file plugins.
        use_entry_points: whether installed plugins are loaded.
    """

    files: tuple[str, ...] = ()
    use_entry_points: bool = True


@dataclass(frozen=True, slots=True)
class Plugins:
    """Loaded plugins: the pluggy manager and one registry for each kind of thing."""

    manager: pluggy.PluginManager
    infos: Sequence[PluginInfo]
    verifiers: Registry
    shapers: Registry
    tasks: Registry
    samplers: Registry
    advantages: Registry
    losses: Registry
    trackers: Registry

    @property
    def registries(self) -> Sequence[Registry]:
        """All registries, in a fixed order."""
        return [getattr(self, _plural(kind)) for kind in KINDS]


def create_plugin_manager(
    plugins: Iterable[Any] = (), entry_points: bool = True
) -> pluggy.PluginManager:
    """A pluggy manager with the given plugin objects or files, the core's own, and installed ones.

    Args:
        plugins: modules or objects with hook implementations, or paths of Python files.
        entry_points: also load every installed entry point of the group `grpo_core`, except
            those named in the environment variable GRPO_DISABLED_PLUGINS.

    Raises:
        PluginError: on a duplicate name, a failing import, a hook that does not exist, wrong hook
            arguments, or a plugin without any hook.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    _register(manager, importlib.import_module(_CORE_PLUGIN), _CORE_PLUGIN, "grpo-core itself")
    if entry_points:
        for entry_point in _installed_entry_points():
            _register(
                manager, _import(entry_point), entry_point.name, _distribution_text(entry_point)
            )
    for plugin in plugins:
        if isinstance(plugin, str | Path):
            path = Path(plugin)
            _register(manager, _import_file(path), path.stem, str(path))
        else:
            name = getattr(plugin, "__name__", type(plugin).__name__)
            _register(manager, plugin, name, f"object {plugin!r:.80}")
    return manager


def load_plugins(sources: PluginSources = PluginSources(), extra: Iterable[Any] = ()) -> Plugins:
    """Load plugins and build the registries.

    Args:
        sources: files and entry points.
        extra: plugin objects of this process; worker processes do not see them.

    Raises:
        PluginError: as `create_plugin_manager`, or if two plugins register one name.
    """
    manager = create_plugin_manager((*sources.files, *extra), sources.use_entry_points)
    infos = {plugin: _describe(manager, plugin) for plugin in manager.get_plugins()}
    registries = {kind: Registry(kind) for kind in KINDS}
    for registry in registries.values():
        for plugin, info in sorted(infos.items(), key=lambda item: item[1].name):
            others = [other for other in infos if other is not plugin]
            _collect(manager, others, registry, info)
    return Plugins(
        manager,
        sorted(infos.values(), key=lambda info: info.name),
        **{_plural(kind): registry for kind, registry in registries.items()},
    )


def _collect(
    manager: pluggy.PluginManager, others: Iterable[Any], registry: Registry, info: PluginInfo
) -> None:
    """Let the one plugin that is not among `others` fill a registry."""
    hook = f"grpo_register_{_plural(registry.kind)}"

    def register(name: str, target: Any) -> None:
        registry.add(name, target, info)

    try:
        manager.subset_hook_caller(hook, others)(register=register)
    except PluginError:
        raise
    except Exception as error:  # as in _import
        raise PluginError(
            f"plugin '{info.name}' ({info.origin}) failed in {hook}: {type(error).__name__}: "
            f"{error}. Repair or remove it; an installed one can be left out with "
            f"{DISABLED_VARIABLE}={info.name}."
        ) from error


def _plural(kind: str) -> str:
    return _PLURALS.get(kind, f"{kind}s")


def _installed_entry_points() -> list[EntryPoint]:
    """Entry points of our group, disabled ones left out, duplicates refused."""
    disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
    found: dict[str, EntryPoint] = {}
    for entry_point in entry_points(group=hookspecs.ENTRY_POINT_GROUP):
        if entry_point.name in disabled:
            continue
        if entry_point.name in found:
            first, second = found[entry_point.name], entry_point
            raise PluginError(
                f"two installed distributions offer a plugin named '{entry_point.name}': "
                f"{_distribution_text(first)} ('{first.value}') and "
                f"{_distribution_text(second)} ('{second.value}'). Uninstall one of them, or set "
                f"{DISABLED_VARIABLE}={entry_point.name} to leave out both."
            )
        found[entry_point.name] = entry_point
    return sorted(found.values(), key=lambda entry_point: entry_point.name)


def _distribution_text(entry_point: EntryPoint) -> str:
    if entry_point.dist is None:
        return "an unknown distribution"
    return f"{entry_point.dist.name} {entry_point.dist.version}"


def _import(entry_point: EntryPoint) -> Any:
    try:
        return entry_point.load()
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything
        raise PluginError(
            f"plugin '{entry_point.name}' of {_distribution_text(entry_point)} cannot be imported "
            f"from '{entry_point.value}': {type(error).__name__}: {error}. Repair or uninstall "
            f"it, or set {DISABLED_VARIABLE}={entry_point.name}."
        ) from error


def _import_file(path: Path) -> ModuleType:
    """Import a single-file plugin under a name that cannot shadow anything."""
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist.")
    place = hashlib.sha256(bytes(path.resolve())).hexdigest()[:8]
    name = f"{_FILE_PREFIX}{path.stem}_{place}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin file {path} is not a Python file (its name must end in .py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # as in _import
        del sys.modules[name]
        raise PluginError(
            f"plugin file {path} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    return module


def _register(manager: pluggy.PluginManager, plugin: Any, name: str, origin: str) -> None:
    known = [spec for spec in vars(hookspecs) if spec.startswith("grpo_")]
    try:
        registered = manager.register(plugin, name)
        manager.check_pending()
    except ValueError as error:
        raise PluginError(f"plugin '{name}' ({origin}) is loaded twice: {error}.") from error
    except pluggy.PluginValidationError as error:
        marked = [n for n in dir(plugin) if manager.parse_hookimpl_opts(plugin, n) is not None]
        wrong = " ".join(unknown_name("hook", hook, known) for hook in marked if hook not in known)
        raise PluginError(f"plugin '{name}' ({origin}): {wrong or error}") from error
    implemented = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
    unmarked = [hook for hook in known if hasattr(plugin, hook) and hook not in implemented]
    if unmarked:
        raise PluginError(
            f"plugin '{name}' ({origin}) defines {', '.join(unmarked)} without the @hookimpl "
            "marker, so it would never be called. Add '@hookimpl' (from grpo_core) above it."
        )
    if registered is not None and not implemented:
        raise PluginError(
            f"plugin '{name}' ({origin}) implements no hook. Define at least one of "
            f"{', '.join(known)}, marked with @hookimpl; or remove the plugin."
        )


def _describe(manager: pluggy.PluginManager, plugin: Any) -> PluginInfo:
    name = manager.get_name(plugin) or repr(plugin)
    file = Path(getattr(plugin, "__file__", None) or "")
    if getattr(plugin, "__name__", "").startswith(_FILE_PREFIX):
        return PluginInfo(name, str(file.resolve()), "", _hash(file))
    if name == _CORE_PLUGIN:
        from grpo_core import __version__

        return PluginInfo(name, "grpo-core itself", __version__, _hash(file.parent))
    for entry_point in entry_points(group=hookspecs.ENTRY_POINT_GROUP):
        if entry_point.name == name and entry_point.dist is not None:
            origin, version = _distribution_text(entry_point), entry_point.dist.version
            return PluginInfo(name, origin, version, _hash(_sources(entry_point.module)))
    return PluginInfo(name, f"object {plugin!r:.80}", "", _hash(file) if file.is_file() else "")


def _sources(module_name: str) -> Path:
    """The folder of the package a module belongs to, or the file of a module without package."""
    top = sys.modules[module_name.partition(".")[0]]
    file = Path(getattr(top, "__file__", None) or sys.modules[module_name].__file__ or "")
    return file.parent if hasattr(top, "__path__") else file


def _hash(path: Path) -> str:
    """sha256 over the Python files of a folder, or over one file."""
    digest = hashlib.sha256()
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path.parent)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
