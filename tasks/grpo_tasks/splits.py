"""Which side of train and held-out a problem falls on, decided by its content alone.

The decision knows neither seeds nor row numbers, so a problem keeps its side in every run, and two
copies of one problem can never stand on different sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from grpo_core.errors import DataError, unknown_name


def is_held_out(content: str, share: float) -> bool:
    """True for about `share` of all contents; differences in white space do not count."""
    digest = hashlib.blake2b(" ".join(content.split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def check_split(split: str, splits: Iterable[str]) -> None:
    """Refuse a split the task does not have.

    Raises:
        DataError: naming the splits there are.
    """
    names = list(splits)
    if split not in names:
        raise DataError(unknown_name("split", split, names))
