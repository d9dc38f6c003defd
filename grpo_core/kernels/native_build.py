"""`native.c` as a loaded library: built by gcc on first use, kept for the next process.

It takes a second of one core once a machine, which is what a single training step of SmolLM2 gains.
torch.compile could build the same, but takes 40 s, and 16 s in every later process (measured).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from grpo_core.caches import cache_directory

_SOURCE = Path(__file__).with_name("native.c")
_SWITCH = "GRPO_NATIVE"  # "0" switches it off
# Threads by OpenMP without linking its library: torch has loaded it, and a second one would bring
# threads of its own.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
_TIMEOUT_SECONDS = 120
_lock = Lock()


class Native(NamedTuple):
    """The library, or None and why there is none."""

    library: ctypes.CDLL | None
    reason: str


def load_native() -> Native:
    """Build `native.c`, or find it built, and load it; the same answer all through a process."""
    with _lock:
        return _load()


@cache
def _load() -> Native:
    if os.environ.get(_SWITCH) == "0":
        return Native(None, f"{_SWITCH}=0")
    if sys.platform != "linux":
        return Native(None, f"for Linux only, this is {sys.platform}")
    compiler = shutil.which("gcc")
    if compiler is None:
        return Native(None, "there is no gcc")
    try:
        return Native(_built(compiler, cache_directory() / "native"), "built by gcc")
    except subprocess.SubprocessError as error:
        return Native(None, _cause(error))
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return _load_from_scratch(compiler)


def _load_from_scratch(compiler: str) -> Native:
    """Where nothing can be kept. What is loaded lives on when its file is gone."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            return Native(_built(compiler, Path(folder)), "built by gcc, not kept")
    except (OSError, subprocess.SubprocessError) as error:
        return Native(None, _cause(error))


def _built(compiler: str, folder: Path) -> ctypes.CDLL:
    """The library in `folder`, put there if it is not.

    Raises:
        OSError: if the folder cannot be written or the library not loaded.
        RuntimeError: see `cache_directory`.
        SubprocessError: if the compiler fails.
    """
    target = folder / f"{_fingerprint(compiler)}.so"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as scratch:
            _compile(compiler, Path(scratch))
            # At once, so that no other process finds half a library.
            (Path(scratch) / "native.so").replace(target)
    return ctypes.CDLL(str(target))


def _compile(compiler: str, scratch: Path) -> None:
    made, linked = scratch / "native.o", scratch / "native.so"
    environment = os.environ | {"TMPDIR": str(scratch)}
    for command in (
        [compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(made)],
        [compiler, "-shared", str(made), "-o", str(linked), "-lm"],
    ):
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env=environment,
            timeout=_TIMEOUT_SECONDS,
        )


def _fingerprint(compiler: str) -> str:
    """Of all that decides what is built; folders may be shared by machines that differ."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=20)
    parts = (_SOURCE.read_bytes(), " ".join(_FLAGS).encode(), version.stdout, _processor())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _processor() -> bytes:
    lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    kinds = {line for line in lines if line.startswith((b"flags", b"Features", b"model"))}
    return platform.machine().encode() + b"\n".join(sorted(kinds))


def _cause(error: OSError | subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or "").strip().splitlines()
        return f"gcc failed: {said[0] if said else f'exit code {error.returncode}'}"
    return f"{type(error).__name__}: {error}"
