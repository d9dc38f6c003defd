"""Files that are either whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from grpo_core.errors import CheckpointError
from grpo_core.types import Json

# The cure for a damaged file that the run can do without.
MOVE_AWAY = "Put the whole file back, or move it away to go on without what is in it."
_TEMPORARY = ".tmp"
_CURES = {
    errno.ENOSPC: "Free some space, or choose another --output.",
    errno.EDQUOT: "Free some space, or choose another --output.",
    errno.EACCES: "Choose another --output.",
    errno.EPERM: "Choose another --output.",
    errno.EROFS: "Choose another --output.",
    errno.ENOTDIR: "A part of the path is a file. Choose another --output.",
}


def write_error(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that cannot be written: path, reason, cure."""
    reason = error.strerror or str(error)
    cure = _CURES.get(error.errno or 0, "")
    return CheckpointError(f"cannot write {path}: {reason}. {cure}".rstrip())


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content replaces `path` once the block ends without an error.

    A crash at any moment leaves the old file, or none; never half of the new one.

    Raises:
        CheckpointError: if the disk is full, the folder is not writable, and the like.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # the error above is the one that matters
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed have left in `folder` and the folders in it."""
    for path in folder.rglob(f".*{_TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


def is_leftover(path: Path) -> bool:
    """Whether the name is one that `atomic_writer` writes under."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system allows it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all."""
    with atomic_writer(path) as stream:
        stream.write(text.encode("utf-8", "replace"))


def write_json(path: Path, value: Json) -> None:
    """Replace `path` by indented JSON, whole or not at all; see `dump_json`."""
    write_text(path, dump_json(value, indent=2) + "\n")


def read_json(path: Path) -> Json:
    """The content of a JSON file.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def dump_json(value: Json, indent: int | None = None) -> str:
    """JSON text that any parser reads: numbers that are not finite become null."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, str | int | float | None) and hasattr(value, "item"):
        value = value.item()  # a numpy scalar
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
