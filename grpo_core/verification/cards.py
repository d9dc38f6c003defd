"""What a verifier says of itself, checked: the card by which the trainer knows it."""

from __future__ import annotations

import math
from typing import Any, cast, get_args

from grpo_core.errors import PluginError
from grpo_core.registry import Registration
from grpo_core.verification.calls import Placement, VerifierCard
from grpo_core.verification.protocol import MAX_BATCH

_READABLE = ("messages", "token_ids")
_MOST_MEMORY = 1 << 40  # megabytes; more bytes than that are no number to the operating system


def make_card(
    verifier: Any,
    registration: Registration,
    deadline: float | None,
    default_deadline: float,
    default_memory_mb: int,
) -> VerifierCard:
    """The card of a verifier.

    Args:
        verifier: an instance.
        registration: where it comes from.
        deadline: what the user has set for it; None: what it asks for itself, or the default.
        default_deadline: where it asks for none; and
        default_memory_mb: likewise.

    Raises:
        PluginError: if it cannot verify, or an attribute makes no sense.
    """
    title = f"verifier '{registration.name}' of plugin '{registration.plugin.name}'"
    if not callable(getattr(verifier, "verify", None)):
        raise PluginError(
            f"{title} has no method 'verify(samples)'. Register a class that has one, or decorate "
            "the function with @grpo_core.verifier(...)."
        )
    own = deadline if deadline is not None else getattr(verifier, "deadline", None)
    memory = getattr(verifier, "memory_mb", None)
    placement = getattr(verifier, "placement", "workers")
    reads = getattr(verifier, "reads", ())
    if placement not in get_args(Placement):
        raise _wrong(title, "placement", placement, f"one of {', '.join(get_args(Placement))}")
    is_several = isinstance(reads, tuple | list | set | frozenset)
    if not is_several or not set(reads) <= set(_READABLE):
        raise _wrong(title, "reads", reads, f"a tuple out of {', '.join(_READABLE)}")
    batch_size = getattr(verifier, "batch_size", 1)
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise _wrong(title, "batch_size", batch_size, "a whole number above 0")
    for name, value in (("deadline", own), ("memory_mb", memory)):
        if value is not None and not _is_positive(value):
            raise _wrong(title, name, value, "a positive number, or None")
    return VerifierCard(
        name=registration.name,
        version=str(getattr(verifier, "version", "") or registration.version),
        plugin=registration.plugin.name,
        placement=cast("Placement", placement),
        batch_size=min(batch_size, MAX_BATCH),
        deadline=default_deadline if own is None else float(own),
        memory_mb=min(default_memory_mb if memory is None else math.ceil(memory), _MOST_MEMORY),
        reads=tuple(reads),
        candidate_bears_limits=bool(getattr(verifier, "candidate_bears_limits", False)),
        checks_references=callable(getattr(verifier, "check_reference", None)),
    )


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0  # type: ignore[arg-type, operator]


def _wrong(title: str, name: str, value: object, rule: str) -> PluginError:
    return PluginError(f"{title} has {name} = {value!r:.80}; it must be {rule}. Repair the plugin.")
