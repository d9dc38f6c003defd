"""What the sandbox adds to `grpo doctor`: one finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grpo_verifiers.sandbox.api import Level
from grpo_verifiers.sandbox.examine import examine


def check_sandbox(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Whether programs could be run here at the default level, and by what they would be held."""
    found = examine()
    numbers = {
        "layers": {layer.name: layer.used and layer.proved for layer in found.layers},
        "job_ms": found.job_ms[0],
    }
    if not found.reaches(Level.OS):
        yield {
            "status": "warning",
            "found": "programs cannot be run here: " + found.refusals[Level.OS],
            "cure": "do that before verifying code; see 'grpo sandbox doctor'",
            "numbers": numbers,
        }
        return
    held = [layer.name for layer in found.layers if layer.used]
    missing = [layer.name for layer in found.layers if not layer.used]
    text = f"{len(held)} of {len(found.layers)} proved: {', '.join(held)}"
    text += f"; not used: {', '.join(missing)}" if missing else ""
    yield {"status": "ok", "found": text, "numbers": numbers}
