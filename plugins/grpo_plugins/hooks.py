"""The reward shapers of this package, attached as any plugin attaches its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo_core import hookimpl


@hookimpl
def grpo_register_shapers(register: Callable[[str, Any], None]) -> None:
    """Names that a run can use in `[[shapers]]`; each module is imported on use."""
    register("format_bonus", "grpo_plugins.format_bonus:format_bonus")
    register("length_penalty", "grpo_plugins.length_penalty:LengthPenalty")
    register("overlong", "grpo_plugins.overlong:overlong")
    register("repetition", "grpo_plugins.repetition:repetition")
