"""The verifiers of this package, attached as any plugin attaches its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo_core import hookimpl


@hookimpl
def grpo_register_verifiers(register: Callable[[str, Any], None]) -> None:
    """Names that a run can use in `[[verifiers]]`; each module is imported on use."""
    register("exact", "grpo_verifiers.exact:exact")
    register("math", "grpo_verifiers.math.verifier:MathVerifier")
