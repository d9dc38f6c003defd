"""Start of the zygote's process: load modules, leave namespaces, report, serve.

Started as `python -S -s -P -c ...` with a scrubbed environment and two descriptors: the control
connection and the setup as a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import select
import signal
import socket
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from . import cgroups, limits, places, privileges, script, setup, wire
from .child import reserve_descriptors
from .confine import Place
from .namespaces import Namespaces
from .setup import Found, Setup, Start
from .zygote import Zygote, quit_now

# What programs for contests and tests import; each is then there without a look at the disk.
_WARM = (
    "abc", "array", "ast", "base64", "bisect", "calendar", "cmath", "collections", "copy",
    "contextlib", "ctypes", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools",
    "hashlib", "heapq", "inspect", "io", "itertools", "json", "linecache", "math", "numbers",
    "operator", "os", "pprint", "queue", "random", "re", "secrets", "signal", "statistics",
    "string", "struct", "sys", "tempfile", "textwrap", "threading", "time", "traceback", "typing",
    "unicodedata", "unittest", "uuid", "zlib",
)  # fmt: skip


def main(control_file: int, setup_file: int) -> NoReturn:
    """Become the zygote."""
    os.environ.pop("PWD", None)  # of a wrapper that changed the folder
    control = _above_reserved(control_file)
    try:
        asked = _read_setup(setup_file)
        reserve_descriptors()
        caller = -1 if asked.wrapped else os.pidfd_open(os.getppid())
        guests = _load(asked)
        found = Found()
        parent = os.path.realpath(asked.folder)
        _sweep(parent)
        folder, _ = places.make_folder(parent, setup.PREFIX)
        start = Start(limits.address_space(), Path("/proc/self/uid_map").read_text(), folder)
        group = setup.enter_groups(asked, found)
        made = setup.leave_namespaces(asked, found)
        if made.made:
            first = os.fork()
            if first:
                _stand_by(first, caller, folder, group)
            privileges.die_with_parent(0)
        _serve(asked, start, found, made, guests, control, -1 if made.made else caller, group)
    except OSError as error:
        with contextlib.suppress(OSError):
            control.send(wire.encode_report({"failed": f"the zygote cannot go on: {error}"}))
        traceback.print_exc()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        quit_now(1)
    quit_now(0)


def _serve(
    asked: Setup,
    start: Start,
    found: Found,
    made: Namespaces,
    guests: dict[str, ModuleType],
    control: socket.socket,
    caller: int,
    group: cgroups.Cgroup,
) -> None:
    folder = setup.private_files(asked, made, found, start)
    plan = setup.make_plan(asked, made, found, start)

    def make_place(index: int) -> Place:
        return setup.make_place(plan, asked, folder, index, start)

    zygote = Zygote(control, caller, plan, guests, make_place)
    script.fresh_streams()
    script.usual_builtins()
    random.seed(0)  # as with the order of sets: the same program does the same again
    gc.collect()
    gc.disable()
    gc.freeze()  # keeps the collector from touching pages that jobs share
    control.send(wire.encode_report(asdict(found)))
    zygote.serve()
    if not made.made:
        _tidy(folder, group)


def _above_reserved(file: int) -> socket.socket:
    """A connection at a number that jobs do not use."""
    moved = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 16)
    os.close(file)
    return socket.socket(fileno=moved)


def _sweep(parent: str) -> None:
    """Remove what zygotes that were killed have left, beside our start: it may be much."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:  # a grandchild, which others reap
            os.closerange(3, 1 << 16)
            places.sweep(parent, setup.PREFIX)
    finally:
        quit_now(0)


def _stand_by(first: int, caller: int, folder: str, group: cgroups.Cgroup) -> NoReturn:
    """Wait outside of the namespaces: when we end, the kernel ends everything in them."""
    handle = os.pidfd_open(first)
    for file in range(3, max(handle, caller)):
        if file not in (handle, caller):
            os.closerange(file, file + 1)
    poll = select.poll()
    for file in (handle, caller):
        poll.register(file, select.POLLIN)
    poll.poll()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    _tidy(folder, group)
    quit_now(0)


def _tidy(folder: str, group: cgroups.Cgroup) -> None:
    """Leave nothing behind."""
    places.remove(folder)
    cgroups.remove(group.folders)


def _read_setup(file: int) -> Setup:
    with open(file, "rb") as stream:
        fields = json.load(stream)
    for name in ("without", "preload", "path", "hidden", "wrapped"):
        fields[name] = tuple(fields[name])
    fields["guests"] = tuple(tuple(guest) for guest in fields["guests"])
    fields["roots"] = {profile: tuple(roots) for profile, roots in fields["roots"].items()}
    return Setup(**fields)


def _load(asked: Setup) -> dict[str, ModuleType]:
    """Import what jobs are likely to, then our guests."""
    for name in _WARM:
        importlib.import_module(name)
    before = list(sys.path)
    sys.path += asked.path
    for name in asked.preload:
        importlib.import_module(name)
    sys.path[:] = [os.path.realpath(path) for path in before[1:]]  # the first is our own folder
    sys.path_importer_cache.clear()
    guests = {}
    for name, path, source in asked.guests:
        module = ModuleType(name)
        module.__file__ = path
        sys.modules[name] = guests[name] = module
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    for module in guests.values():
        if hasattr(module, "warm_up"):
            module.warm_up()
    return guests
