"""The tasks of this package, attached as any plugin attaches its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo_core import hookimpl


@hookimpl
def grpo_register_tasks(register: Callable[[str, Any], None]) -> None:
    """Names that a run can use as `task.name`; each module is imported on use."""
    register("arithmetic", "grpo_tasks.arithmetic:Arithmetic")
    register("dataset", "grpo_tasks.dataset:Dataset")
    register("gsm8k", "grpo_tasks.gsm8k:Gsm8k")
