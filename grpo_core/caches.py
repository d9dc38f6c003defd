"""Where what is made once and used again is kept: converted models, compiled passes, tokens."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """GRPO_CACHE, else grpo-core in the user's cache folder.

    Raises:
        RuntimeError: if neither is set and the user has no home folder.
    """
    if "GRPO_CACHE" in os.environ:
        return Path(os.environ["GRPO_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "grpo-core"
