"""Which of the machine's files jobs can read: the interpreter's, system libraries, no packages.

Installed packages stay out, because tasks' expected answers are among them.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from grpo_core.errors import VerifierError

_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib")
_PYTHON = (*_LIBRARIES, "/usr/share/zoneinfo", "/etc/ld.so.cache")
_COMMAND = (
    *_LIBRARIES, "/bin", "/usr", "/etc/ld.so.cache", "/etc/alternatives",
    "/etc/ssl/openssl.cnf",  # node does not start where this is there and closed
)  # fmt: skip
_PACKAGES = ("site-packages", "dist-packages")


def standard_library() -> tuple[str, ...]:
    """Folders of the interpreter's own modules and libraries."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    paths = [sysconfig.get_path(name, vars=base) for name in ("stdlib", "platstdlib")]
    library = sysconfig.get_config_var("LIBDIR") or ""
    paths += [str(Path(os.__file__).parent), os.path.join(sys.base_prefix, "lib"), library]
    return tuple(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.isdir(path)))


def readable(preload: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Profile -> folders and files it reads.

    Args:
        preload: top-level packages that jobs may use besides the standard library.

    Raises:
        VerifierError: if one of them is not installed.
    """
    packages = [path for name in preload for path in package_paths(name)]
    return {
        "python": _existing([*_PYTHON, *standard_library(), *packages]),
        "command": _existing(_COMMAND),
    }


def package_folders() -> tuple[str, ...]:
    """Folders with installed packages, and this project's own code: closed to jobs."""
    found = set(site.getsitepackages()) | {site.getusersitepackages()}
    found |= {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    for root in (*_LIBRARIES, os.path.join(sys.base_prefix, "lib"), *standard_library()):
        for name in _PACKAGES:
            found |= set(glob.glob(f"{root}/{name}")) | set(glob.glob(f"{root}/python3*/{name}"))
    found.add(str(Path(__file__).parents[2]))
    return tuple(sorted({os.path.realpath(path) for path in found if os.path.isdir(path)}))


def package_paths(name: str) -> tuple[str, ...]:
    """Where a package and its bundled libraries are.

    Raises:
        VerifierError: if it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise VerifierError(
            f"the sandbox is asked to preload '{name}', which is not installed. "
            f"Install it: pip install {name}"
        )
    folders = list(spec.submodule_search_locations or [])
    own = folders or [spec.origin]
    return tuple(own + [path for folder in folders for path in glob.glob(f"{folder}.libs")])


def _existing(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.exists(path)))
