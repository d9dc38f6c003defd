"""What a resumed run may change: how long it goes on and how it is watched, never what it is.

A checkpoint continues the run it was made by. With another temperature, task, or learning rate the
steps before and after it would belong to different experiments under one name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from grpo_core.config import RunConfig, resolved
from grpo_core.errors import ConfigError
from grpo_core.records.text import redact
from grpo_core.types import Json
from grpo_core.validation import build

_SECTIONS = ("evaluation", "verification", "trackers")
_SETTINGS = (
    "trainer.steps",
    "trainer.save_every",
    "trainer.keep_checkpoints",
    # These change where and how much is computed at once, and results by rounding only.
    "trainer.micro_batch_tokens",
    "sampling.batch_size",
    "sampling.kv_cache_gb",
    "sampling.server",
    "sampling.canary_limit",
    "model.device",
    "model.gradient_checkpointing",
)
_ABSENT = object()


def check_same_run(recorded: Mapping[str, Json], config: RunConfig) -> None:
    """Refuse to resume a run with settings that would make it another one.

    Args:
        recorded: the config stored with the run; settings it does not have are at their defaults.
        config: the settings to resume with.

    Raises:
        ConfigError: naming each setting with its value then and now.
    """
    then = dict(_leaves("", resolved(build(RunConfig, recorded))))
    now = dict(_leaves("", resolved(config)))
    lines = [
        redact(f"  {key}: {_text(then, key)} in the run, {_text(now, key)} now")
        for key in {**then, **now}
        if then.get(key, _ABSENT) != now.get(key, _ABSENT) and not _is_changeable(key, config)
    ]
    if lines:
        allowed = ", ".join([*_SETTINGS, *_SECTIONS])
        raise ConfigError(
            "a resumed run goes on as it began, but these settings differ:\n"
            + "\n".join(lines)
            + "\nLeave them as they were, or start a new run without --resume. "
            f"What may change: {allowed}; trainer.steps with a constant schedule only."
        )


def is_finished(summary: Mapping[str, Json], config: RunConfig) -> bool:
    """Whether the run that left this summary has done every step that `config` asks for."""
    return summary.get("status") == "finished" and summary.get("steps", 0) >= config.trainer.steps


def _is_changeable(key: str, config: RunConfig) -> bool:
    if key == "trainer.steps" and config.trainer.schedule != "constant":
        return False  # the rates of the steps already taken would have been others
    return key in _SETTINGS or key.partition(".")[0] in _SECTIONS


def _leaves(key: str, value: Json) -> Iterator[tuple[str, Json]]:
    """The plain values of nested settings, under the keys that `--set` takes."""
    inner: Mapping[str, Json] = {}
    if isinstance(value, Mapping):
        inner = value
    elif isinstance(value, list):
        inner = {str(position): item for position, item in enumerate(value)}
    if not inner:
        yield key, value
    for name, item in inner.items():
        yield from _leaves(f"{key}.{name}" if key else name, item)


def _text(leaves: Mapping[str, Json], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "nothing"
