"""Writes a new plugin package from the templates."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from grpo_core import __version__
from grpo_core.errors import PluginError
from grpo_core.scaffold.names import PackageNames

Kind = Literal["verifier", "shaper", "task"]

# From where in the package to which template; {module} and {kind} are filled in.
_FILES = {
    ".github/workflows/ci.yml": "ci.yml.jinja",
    ".gitignore": "gitignore.jinja",
    "README.md": "README.md.jinja",
    "pyproject.toml": "pyproject.toml.jinja",
    "src/{module}/__init__.py": "init.py.jinja",
    "src/{module}/hooks.py": "hooks.py.jinja",
    "src/{module}/py.typed": "",
    "src/{module}/{kind}.py": "{kind}.py.jinja",
    "tests/test_{module}.py": "test_{kind}.py.jinja",
}


def render_package(names: PackageNames, kind: Kind) -> dict[str, str]:
    """The contents of a new package by path within its folder."""
    environment = Environment(
        loader=PackageLoader("grpo_core", "scaffold"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Python, TOML and Markdown; the names in them were checked
    )
    values = {"names": names, "kind": kind, "core_version": __version__}
    contents = {}
    for path, template in _FILES.items():
        text = template.format(kind=kind)
        rendered = environment.get_template(text).render(values) if text else ""
        contents[path.format(module=names.module, kind=kind)] = rendered
    return contents


def write_package(folder: Path, contents: dict[str, str]) -> None:
    """Write a package into a folder that does not exist yet, or is empty.

    Raises:
        PluginError: if anything is there already, or the folder cannot be written.
    """
    try:
        is_empty = folder.is_dir() and not any(folder.iterdir())
        if (folder.exists() or folder.is_symlink()) and not is_empty:
            raise PluginError(f"{folder} exists already. Move it, or give another --directory.")
        for path, text in contents.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise PluginError(f"cannot write {error.filename or folder}: {error.strerror}.") from error
