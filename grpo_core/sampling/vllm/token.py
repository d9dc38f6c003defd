"""The token that a sampling server and its client share. It belongs in no config and no log."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grpo_core.caches import cache_directory
from grpo_core.errors import ConfigError

TOKEN_VARIABLE = "GRPO_SERVER_TOKEN"
_LEAST = 16  # characters; one that is generated has 43


def given_token() -> str | None:
    """The token in the environment, if there is one.

    Raises:
        ConfigError: if it is too short, or no plain text.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    if len(token) < _LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the token in the variable {TOKEN_VARIABLE} must have at least {_LEAST} characters, "
            "all of them letters, digits or signs; blanks and line ends are none. Unset the "
            "variable and 'grpo serve' makes a token."
        )
    return token


def client_token() -> str:
    """The token of the server to connect to.

    Raises:
        ConfigError: if there is none in the environment, or it cannot be one.
    """
    token = given_token()
    if token is None:
        raise ConfigError(
            f"the variable {TOKEN_VARIABLE} is not set, and a sampling server answers nobody "
            "without its token. Set it to what is in the file that 'grpo serve' named when it "
            "started."
        )
    return token


@contextmanager
def server_token(port: int) -> Iterator[tuple[str, Path | None]]:
    """A token for a server: the one in the environment, or else a new one, left in a file.

    The file can be read by this user alone, and is removed at the end.

    Raises:
        ConfigError: if the token in the environment cannot be one, or the file cannot be written.
    """
    token = given_token()
    if token is not None:
        yield token, None
        return
    token = secrets.token_urlsafe(32)
    path = cache_directory() / f"server-{port}.token"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of a server that was killed
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(token)
    except OSError as error:
        raise ConfigError(
            f"cannot write the server's token to {path}: {error.strerror}. Set GRPO_CACHE to a "
            f"folder that can be written, or {TOKEN_VARIABLE} to a token of your own."
        ) from error
    try:
        yield token, path
    finally:
        path.unlink(missing_ok=True)
