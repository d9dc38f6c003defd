"""Writes one JSON line for each event to the file that GRPO_EXAMPLE_LOG names."""

from __future__ import annotations

import json
import os
from typing import Any


def record(event: str, **values: Any) -> None:
    """Append an event; do nothing when the variable is not set."""
    path = os.environ.get("GRPO_EXAMPLE_LOG")
    if not path:
        return
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, **values}) + "\n")
