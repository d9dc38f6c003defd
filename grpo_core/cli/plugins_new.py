"""`grpo plugins new`: a plugin package to begin with, whose own tests pass at once."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from grpo_core.plugin_manager import load_plugins


@click.command("new")
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the folder NAME is made; by default here.",
)
@click.option(
    "--kind",
    type=click.Choice(["verifier", "shaper", "task"]),
    default="verifier",
    show_default=True,
    help="What the package registers.",
)
def new_plugin(name: str, directory: Path, kind: str) -> None:
    """Make a pip-installable package NAME with a plugin, tests and CI, ready to publish."""
    # Here, not above: no other command needs jinja2.
    from grpo_core.scaffold.names import check_free, package_names
    from grpo_core.scaffold.package import Kind, render_package, write_package

    names = package_names(name)
    check_free(names, kind, load_plugins())
    folder = directory / name
    contents = render_package(names, cast(Kind, kind))
    write_package(folder, contents)
    for path in sorted(contents):
        click.echo(folder / path)
    click.echo(
        f"\nNext:\n  cd {folder}\n  pip install -e '.[test]'\n  pytest\n"
        f"  grpo plugins describe {names.module}"
    )
