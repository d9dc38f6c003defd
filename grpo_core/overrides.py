"""`--set KEY=VALUE`: one setting changed in nested values."""

from __future__ import annotations

import tomllib
from typing import Any

from grpo_core.errors import ConfigError


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in nested `values`, in place.

    The value is read as TOML (`3`, `true`, `[1, 2]`, `{a = 1}`), and as plain text where it is
    none. List items go by number: `verifiers.0.weight=0.5`.

    Raises:
        ConfigError: if there is no '=' or the path leads through a plain value.
    """
    path, separator, text = override.partition("=")
    if not separator or not path.strip():
        raise ConfigError(f"--set needs KEY=VALUE, got '{override}'. Example: trainer.steps=50")
    *parents, last = path.strip().split(".")
    node: Any = values
    for part in parents:
        node = _child(node, part, override)
    _assign(node, last, _parse_value(text.strip()), override)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        child = node[_index(node, part, override)]
    else:
        child = node.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set {override}: '{part}' holds {child!r}, not a section.")
    return child


def _assign(node: Any, part: str, value: Any, override: str) -> None:
    if isinstance(node, list):
        node[_index(node, part, override)] = value
    else:
        node[part] = value


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(
            f"--set {override}: '{part}' must be an item number below {len(node)} of that list."
        )
    return int(part)
