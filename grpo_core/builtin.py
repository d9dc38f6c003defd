"""The core's own plugin: engines, estimators, and losses, attached as a stranger's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo_core.hookspecs import hookimpl


@hookimpl
def grpo_register_samplers(register: Callable[[str, Any], None]) -> None:
    """The embedded engine, and the scripted one for rehearsals and tests."""
    register("hf", "grpo_core.sampling.hf:create_sampler")


@hookimpl
def grpo_register_advantages(register: Callable[[str, Any], None]) -> None:
    """Group-relative advantage estimators."""
    register("std", "grpo_core.advantage:group_advantages")
    register("mean", "grpo_core.advantage:mean_advantages")


@hookimpl
def grpo_register_losses(register: Callable[[str, Any], None]) -> None:
    """Policy losses."""
    register("grpo", "grpo_core.losses.grpo:grpo_loss")
