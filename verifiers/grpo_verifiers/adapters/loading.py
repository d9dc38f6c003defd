"""Find a function by name: "package.module:name" or "path/to/file.py:name"."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from grpo_core.errors import ConfigError, PluginError

_EXAMPLE = "Write it as 'package.module:name' or 'path/to/file.py:name'."


def find_source(target: str, default_name: str = "") -> Path | None:
    """The file that holds the function; nothing is imported. None where it is no file.

    Raises:
        ConfigError: if there is no such module or file.
    """
    place, _ = _split(target, default_name)
    if place.endswith(".py"):
        path = Path(place)
        if not path.is_file():
            raise ConfigError(
                f"function '{target}': there is no file '{path.absolute()}'. {_EXAMPLE}"
            )
        return path
    search: Sequence[str] | None = None
    name = ""
    for part in place.split("."):
        name = f"{name}.{part}" if name else part
        spec = _find_spec(name, search)
        if spec is None:
            raise ConfigError(
                f"function '{target}': there is no module '{name}'. Install its package. {_EXAMPLE}"
            )
        search = spec.submodule_search_locations or []
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


def source_hash(source: Path | None) -> str:
    """A short hash of a file, so that a changed function is noticed in manifests."""
    if source is None:
        return "unknown"
    return hashlib.sha256(source.read_bytes()).hexdigest()[:10]


def load_function(target: str, default_name: str = "") -> Any:
    """Import the module or file, and take the name out of it.

    Raises:
        ConfigError: if there is no such module, file, or name.
        PluginError: if importing it fails.
    """
    find_source(target, default_name)
    place, name = _split(target, default_name)
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    except Exception as error:  # a stranger's module may raise anything; we attribute it
        raise PluginError(
            f"function '{target}': importing '{place}' failed: {type(error).__name__}: {error}. "
            "Install what it needs, or repair it."
        ) from error
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise ConfigError(f"function '{target}': '{place}' has no '{name}'. {_EXAMPLE}")
        value = getattr(value, part)
    return value


def _split(target: str, default_name: str) -> tuple[str, str]:
    place, colon, name = target.rpartition(":")
    if not colon:
        place, name = target, default_name
    if not place or not name:
        raise ConfigError(f"function '{target}' names no function. {_EXAMPLE}")
    return place, name


def _find_spec(name: str, search: Sequence[str] | None) -> ModuleSpec | None:
    """As Python's import finds it, but without importing the packages it is in."""
    for finder in sys.meta_path:
        if (spec := finder.find_spec(name, search)) is not None:
            return spec
    return None


def _import_module(name: str) -> ModuleType:
    return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    """Import a file once; modules beside it can be imported by it, as when it is run itself."""
    path = path.resolve()
    name = f"grpo_adapted_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:10]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"'{path}' is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
