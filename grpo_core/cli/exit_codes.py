"""What the command's exit code says."""

from __future__ import annotations

from grpo_core.errors import ConfigError, DataError, GrpoError, MissingExtraError, PluginError

FAILED = 1
WRONG_INPUT = 2
INTERRUPTED = 130


def exit_code(error: GrpoError) -> int:
    """2 when the user's config, plugin, or data has to change; 1 when the run failed."""
    wrong_input = (ConfigError, DataError, MissingExtraError, PluginError)
    return WRONG_INPUT if isinstance(error, wrong_input) else FAILED
