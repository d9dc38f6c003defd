"""Options of verifiers on the command line."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_core.errors import ConfigError


def parse_options(text: str, pairs: Sequence[str]) -> dict[str, Any]:
    """The verifier's options from --options, then --set-option over them.

    Raises:
        ConfigError: if either cannot be read.
    """
    options = parse_object("--options", text)
    for pair in pairs:
        key, value = _read_pair(pair)
        options[key] = value
    return options


def options_by_name(
    text: str, pairs: Sequence[str], names: Sequence[str]
) -> Mapping[str, Mapping[str, Any]]:
    """Each verifier's options from {"name": {...}}, then NAME.KEY=VALUE over them.

    Raises:
        ConfigError: if either cannot be read, or is for a verifier that is not in `names`.
    """
    given = parse_object("--options", text)
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name, options in given.items():
        if name not in found or not isinstance(options, dict):
            raise ConfigError(
                f"--options must be a JSON object of objects by verifier ({', '.join(names)}), "
                f"got '{text}'."
            )
        found[name] |= options
    for pair in pairs:
        path, value = _read_pair(pair)
        name, _, key = path.partition(".")
        if name not in found or not key:
            raise ConfigError(
                f"--set-option needs NAME.KEY=VALUE with a name out of {', '.join(names)}, "
                f"got '{pair}'."
            )
        found[name][key] = value
    return found


def parse_object(option: str, text: str) -> dict[str, Any]:
    """A JSON object given on the command line.

    Raises:
        ConfigError: naming the option, if the text is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{option} must be JSON, got '{text}': {error}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{option} must be a JSON object, got '{text}'.")
    return value


def _read_pair(pair: str) -> tuple[str, Any]:
    key, separator, value = pair.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set-option needs KEY=VALUE, got '{pair}'.")
    return key.strip(), _read_value(value)


def _read_value(text: str) -> Any:
    """TOML, or JSON of an object or a list, else the text itself."""
    with contextlib.suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(f"value = {text}")["value"]
    if text.lstrip().startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    return text
