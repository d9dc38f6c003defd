"""Places: private working directories, used by one job at a time and emptied between jobs."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping

from . import kernel

MAX_PLACES = 64
_BUFFER = ctypes.create_string_buffer(512)  # for the first few names in a folder
_NO_NAMES = 48  # bytes that "." and ".." take
_GETDENTS = {"x86_64": 217, "aarch64": 61}.get(os.uname().machine, -1)
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_files(files: Mapping[str, bytes], executable: tuple[str, ...], owner: int | None) -> None:
    """Put a job's files into the working directory. Called by the job before its code runs.

    Args:
        files: relative name -> content.
        executable: names of programs.
        owner: user id to give them to, or None.

    Raises:
        OSError: if one cannot be written.
    """
    for name, content in files.items():
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        mode = 0o700 if name in executable else 0o600
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        view = memoryview(content)
        while view:
            view = view[os.write(file, view) :]
        os.close(file)
    if owner is not None and files:
        for folder, _, names in os.walk("."):
            for path in (folder, *(os.path.join(folder, name) for name in names)):
                os.chown(path, owner, owner)


def open_result(place: str, name: str) -> int | None:
    """A file that a job left, opened without following links; None if there is no such file.

    Called when none of the job's processes is left.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return None
    *folders, last = parts
    os.chmod(place, 0o700)
    folder = os.open(place, _OPEN_FOLDER)
    try:
        for part in folders:
            inner = os.open(part, _OPEN_FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(last, flags, dir_fd=folder)
    except OSError:
        return None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        return None
    return file


def is_empty(place: str) -> bool:
    """Whether nothing is in a place, found out without learning any name.

    Called by the zygote, whose memory the next job inherits, and with it what was read before.
    """
    os.chmod(place, 0o700)
    folder = os.open(place, _OPEN_FOLDER)
    try:
        size = kernel.syscall(_GETDENTS, folder, _BUFFER, len(_BUFFER), what="getdents64")
        return size <= _NO_NAMES
    finally:
        ctypes.memset(_BUFFER, 0, len(_BUFFER))
        os.close(folder)


def empty(place: str) -> None:
    """Remove all in a place that nobody uses any more, however deep, whatever its modes.

    Folders in folders are first moved up, since their paths may be too long to name.

    Raises:
        OSError: if something cannot be removed.
    """
    root = os.open(place, _OPEN_FOLDER)
    try:
        os.fchmod(root, 0o700)
        while names := os.listdir(root):
            for name in names:
                if not _is_folder(name, root):
                    os.unlink(name, dir_fd=root)
                    continue
                os.chmod(name, 0o700, dir_fd=root)
                folder = os.open(name, _OPEN_FOLDER, dir_fd=root)
                try:
                    _flatten(folder, root)
                finally:
                    os.close(folder)
                os.rmdir(name, dir_fd=root)
    finally:
        os.close(root)


def _flatten(folder: int, root: int) -> None:
    """Remove a folder's files and move its folders to the root."""
    for name in os.listdir(folder):
        if _is_folder(name, folder):
            os.chmod(name, 0o700, dir_fd=folder)
            os.rename(name, secrets.token_hex(8), src_dir_fd=folder, dst_dir_fd=root)
        else:
            os.unlink(name, dir_fd=folder)


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)


def make_folder(parent: str, prefix: str) -> tuple[str, int]:
    """A folder for places, and a lock on it that tells others that it is in use."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    os.chmod(folder, 0o711)
    lock = os.open(folder, _OPEN_FOLDER)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return folder, lock


def sweep(parent: str, prefix: str) -> None:
    """Remove folders of this user that nobody has locked: their zygotes were killed."""
    with os.scandir(parent) as entries:
        names = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for path in names:
        with contextlib.suppress(OSError):  # another sweeps, too, or it is another user's
            lock = os.open(path, _OPEN_FOLDER)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(path)
            finally:
                os.close(lock)


def remove(folder: str) -> None:
    """Remove a folder of places, if it is still there.

    Raises:
        OSError: if something in it cannot be removed.
    """
    if not os.path.exists(folder):
        return
    for name in os.listdir(folder):
        empty(os.path.join(folder, name))
    empty(folder)
    os.rmdir(folder)
