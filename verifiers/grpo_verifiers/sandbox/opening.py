"""`open_sandbox`: backends by name, and what they are made from."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from grpo_core.errors import ConfigError, unknown_name
from grpo_verifiers.sandbox.api import Level, Sandbox
from grpo_verifiers.sandbox.selftest import LAYERS


@dataclass(frozen=True, slots=True)
class Request:
    """What `open_sandbox` was asked; a backend is a function from it to a `Sandbox`."""

    level: Level
    allow_weaker: tuple[str, ...] = ()
    guests: Mapping[str, Path] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


Backend = Callable[[Request], Sandbox]

BACKENDS: dict[str, str] = {
    "zygote": "grpo_verifiers.sandbox.backends:zygote",
    "bubblewrap": "grpo_verifiers.sandbox.bubblewrap:bubblewrap",
    "sandbox_fusion": "grpo_verifiers.sandbox.sandbox_fusion:sandbox_fusion",
}


def open_sandbox(
    level: Level | str = Level.OS,
    backend: str = "zygote",
    allow_weaker: Collection[str] = (),
    *,
    guests: Mapping[str, Path] | None = None,
    preload: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Sandbox:
    """A sandbox, which starts on first use.

    Args:
        level: the isolation that must be there; what more the machine offers is used, too.
        backend: a name out of `BACKENDS`, or "module:attribute" of a function from a `Request`.
        allow_weaker: layers that may be missing or not hold; each has to be named.
        guests: module name -> file of our own modules that jobs may call.
        preload: packages that are imported once, and that jobs may use.
        options: the backend's own.

    Raises:
        ConfigError: for a level, backend, layer or option that does not exist.
    """
    if level not in list(Level):
        raise ConfigError(unknown_name("sandbox level", str(level), list(Level)))
    for name in allow_weaker:
        if name not in LAYERS:
            raise ConfigError(unknown_name("layer in allow_weaker", name, LAYERS))
    request = Request(
        Level(level), tuple(allow_weaker), guests or {}, tuple(preload), options or {}
    )
    return find_backend(backend)(request)


def find_backend(name: str) -> Backend:
    """A backend by name or "module:attribute".

    Raises:
        ConfigError: if there is none.
    """
    target = BACKENDS.get(name, name)
    module, _, attribute = target.partition(":")
    if not attribute:
        hint = "A backend of your own is named as 'module:attribute'."
        raise ConfigError(unknown_name("sandbox backend", name, BACKENDS, hint))
    try:
        return cast(Backend, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the sandbox backend '{name}' cannot be imported: {error}. It must be the "
            "'module:attribute' of a function that takes a Request and returns a Sandbox."
        ) from error
