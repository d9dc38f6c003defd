"""A command, imported when the command line starts."""

from __future__ import annotations

import click


@click.command()
@click.argument("word")
def example(word: str) -> None:
    """Print WORD backwards."""
    click.echo(word[::-1])
