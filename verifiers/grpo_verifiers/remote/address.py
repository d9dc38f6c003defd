"""Addresses and keys, checked before anything is sent; a key is never part of a message."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from grpo_core.errors import ConfigError


def check_address(address: str, option: str) -> str:
    """The address, unchanged.

    Raises:
        ValueError: if it is no http address, or holds a password.
    """
    example = "Set it to an address such as 'http://127.0.0.1:8000/v1'."
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{option} is no address: {error}. {example}") from error
    if parts.username or parts.password:
        raise ValueError(
            f"{option} must not hold a password, which would be written to the run's folder. "
            "Name an environment variable with api_key_env."
        )
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() for c in address):
        raise ValueError(f"{option} is '{address}', no http address. {example}")
    return address


def read_key(variable: str | None) -> str:
    """The key in an environment variable; "" where none is named.

    Raises:
        ConfigError: if the variable is not set, or holds what no header can.
    """
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(
            f"api_key_env names the environment variable {variable}, which is not set. Set it to "
            "the endpoint's key, or remove api_key_env if it needs none."
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"the key in the environment variable {variable} holds characters that no key has. "
            "Set it again; it may have been copied with a line break."
        )
    return key


def is_local(address: str) -> bool:
    """Whether the server is on this machine, so that no proxy stands between."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
