"""Everything grpo-core raises on purpose.

A message says what is wrong, the value, the rule, and the cure; the type says whose mistake it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GrpoError(Exception):
    """Base of all errors of grpo-core; the command line prints these without a traceback."""


class ConfigError(GrpoError, ValueError):
    """A setting is unknown, has the wrong type, or breaks a rule."""


class ShapeError(GrpoError, ValueError):
    """Tensors or sequences do not fit together."""


class DataError(GrpoError, ValueError):
    """A data set, reference or prompt cannot be used."""


class PluginError(GrpoError):
    """A plugin cannot be found, imported, or registered."""


class VerifierError(GrpoError):
    """A verifier failed; never the candidate's fault."""


class ErrorBudgetExceeded(VerifierError):
    """Too large a share of verdicts were the verifier's failures; the run stops here."""


class SamplingError(GrpoError, RuntimeError):
    """The sampler cannot produce completions."""


class TrainingError(GrpoError, RuntimeError):
    """Training cannot go on, for instance because the loss is not finite."""


class CheckpointError(GrpoError, RuntimeError):
    """A run or checkpoint cannot be written, read, or resumed."""


class MissingExtraError(GrpoError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs an optional dependency that is not installed. "
            f"Install it: pip install 'grpo-core[{extra}]'"
        )


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    parts = [f"Unknown {kind} '{name}'."]
    if near:
        parts.append(f"Did you mean '{near[0]}'?")
    parts.append(f"Available: {', '.join(names) if names else 'none'}.")
    if hint:
        parts.append(hint)
    return " ".join(parts)
