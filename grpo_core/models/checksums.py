"""Checksums of a checkpoint: what is read is what was written, to the last bit.

    checksums.json        {"files": {"model.safetensors": {"bytes": 538090408, "sha256": "..."}},
                           "sha256": "..."}
    trainer_state.json    {"step": 40, ..., "sha256": "..."}

The sums cover every file but these two, which carry a sum of their own content. So the state can be
replaced by a single rename, and no kill makes a whole checkpoint look like a damaged one.

Folders without sums are taken as they are: models from elsewhere, and checkpoints of versions that
wrote none, whose state has no sum either.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

from grpo_core.errors import CheckpointError
from grpo_core.types import Json

CHECKSUMS = "checksums.json"
STATE = "trainer_state.json"
# Only a resume reads them; a checkpoint that is used as a model may do without.
_FOR_RESUME = frozenset(
    {STATE, "optimizer.safetensors", "reference.safetensors", "ahead.parquet", "run_config.json"}
)
_SUM = "sha256"
# What transformers, tokenizers and peft may read; a note or a .DS_Store changes nothing.
_READ = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".bin"})
_THREADS = 4  # hashing releases the interpreter's lock


def seal(values: Mapping[str, Json]) -> dict[str, Json]:
    """`values` and the SHA-256 of their JSON text."""
    return {**values, _SUM: _text_digest(values)}


def is_sealed(values: Json) -> bool:
    """Whether `values` are a JSON object with the sum that belongs to it."""
    if not isinstance(values, dict):
        return False
    rest = {key: value for key, value in values.items() if key != _SUM}
    return values.get(_SUM) == _text_digest(rest)


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` for all files that are in `folder` now.

    Raises:
        OSError: if one cannot be read, or the sums cannot be written.
    """
    names = sorted(_names(folder) - {CHECKSUMS, STATE})
    with ThreadPoolExecutor(_THREADS) as threads:
        sums = threads.map(lambda name: _digest(folder / name), names)
        files = {
            name: {"bytes": (folder / name).stat().st_size, _SUM: digest}
            for name, digest in zip(names, sums, strict=True)
        }
    text = json.dumps(seal({"files": files}), indent=2)
    (folder / CHECKSUMS).write_text(text + "\n", encoding="utf-8")


def find_damage(folder: Path, not_needed: Collection[str] = ()) -> str | None:
    """The first file of a folder that is not as it was saved, and what is wrong with it, or None.

    Args:
        folder: of a model or a checkpoint. Nothing is said about one without sums.
        not_needed: files that are not looked at.
    """
    sums, state = _object(folder / CHECKSUMS), _object(folder / STATE)
    if not is_sealed(sums) and _SUM not in state:
        return None
    saved = sums.get("files")
    if not is_sealed(sums) or not _is_table(saved):
        return _unlike(folder / CHECKSUMS)
    if STATE not in not_needed and not is_sealed(state):
        return _unlike(folder / STATE)
    files = {name: sum_ for name, sum_ in saved.items() if name not in not_needed}
    try:
        return next(_differences(folder, files, {*not_needed, CHECKSUMS, STATE}), None)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"


def _is_table(value: Json) -> TypeGuard[dict[str, dict[str, Json]]]:
    return isinstance(value, dict) and all(isinstance(entry, dict) for entry in value.values())


def _unlike(path: Path) -> str:
    return f"{path} is {'damaged' if path.exists() else 'missing'}"


def check_model_files(folder: Path) -> None:
    """Refuse a checkpoint as a model when files that make up the model are damaged.

    Raises:
        CheckpointError: naming the file, what differs, and the newest whole checkpoint beside it.
    """
    damage = find_damage(folder, _FOR_RESUME)
    if damage is None:
        return
    steps = folder.parent.glob("step-*[0-9]")
    others = (path for path in sorted(steps, key=_age) if path.name != folder.name)
    whole = next((path for path in others if find_damage(path, _FOR_RESUME) is None), None)
    cure = f"give {whole}, which is whole" if whole else "give another model"
    raise CheckpointError(
        f"{damage}. Copy it again from where it came from, or {cure}. A model that you have "
        f"changed yourself is a copy without {CHECKSUMS} and {STATE}."
    )


def _age(checkpoint: Path) -> tuple[int, str]:
    """Sorts the newest first; numbers of steps have any length."""
    return -int(re.sub(r"\D", "", checkpoint.name)), checkpoint.name


def _differences(folder: Path, files: Mapping[str, Json], known: Collection[str]) -> Iterator[str]:
    """What is missing, too much, or of another content, the quickest to find out first."""
    found = _names(folder)
    for name in sorted(files.keys() - found):
        yield f"{folder / name} is missing"
    for name in sorted(found - files.keys() - set(known)):
        if Path(name).suffix in _READ:
            yield f"{folder / name} does not belong to the checkpoint"
    for name, saved in files.items():
        size = (folder / name).stat().st_size
        if size != saved.get("bytes"):
            bytes_ = saved.get("bytes")
            yield f"{folder / name} is damaged: it has {size} bytes, {bytes_} were saved"
    with ThreadPoolExecutor(_THREADS) as threads:
        sums = threads.map(lambda name: _known_digest(folder / name), files)
        for (name, saved), digest in zip(files.items(), sums, strict=True):
            if digest != saved.get(_SUM):
                yield (
                    f"{folder / name} is damaged: its content is not what was saved "
                    f"(sha256 {digest[:8]}..., saved {str(saved.get(_SUM))[:8]}...)"
                )


def _names(folder: Path) -> set[str]:
    """All files of a folder and those in it, but hidden ones: those are left by writers."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in files if not path.name.startswith(".")}


def _object(path: Path) -> dict[str, Json]:
    """The JSON object in a file; empty when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text_digest(values: Mapping[str, Json]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _known_digest(path: Path) -> str:
    """As `_digest`; a file that has not been touched is read once in a process."""
    status = path.stat()
    return _digest_of(path.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=256)
def _digest_of(path: Path, size: int, modified: int, changed: int) -> str:
    return _digest(path)
