"""Make an instance of whatever a plugin author hands over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_core.validation import build


def create_instance(target: Any, options: Mapping[str, Any] | None) -> Any:
    """A class's instance with checked options; an instance is itself."""
    if not isinstance(target, type):
        assert options is None, "options go with a class; this is an instance"
        return target
    config = getattr(target, "Config", None)
    if config is None:
        assert not options, f"{target.__name__} has no options"
        return target()
    return target(build(config, options or {}, target.__name__))
