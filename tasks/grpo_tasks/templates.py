r"""Prompt templates with `{name}` placeholders.

Not str.format: a value is never read as a template again, no attribute or item can be reached from
a placeholder, and the empty braces of `\boxed{}` stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from grpo_core.errors import ConfigError, unknown_name

_TOKEN = re.compile(r"\{\{|\}\}|\{\}|\{([^{}]+)\}")
_LITERALS = {"{{": "{", "}}": "}", "{}": "{}"}


def placeholders(template: str) -> list[str]:
    """The names between braces, each once, in order."""
    names = (match.group(1) for match in _TOKEN.finditer(template))
    return list(dict.fromkeys(name for name in names if name))


def check_template(template: str, known: Iterable[str], kind: str = "placeholder") -> str:
    """Return the template if every placeholder is known.

    Args:
        template: `{name}` stands for a value, `{{` and `}}` for braces, `{}` for itself.
        known: the names that have a value.
        kind: what the names are, for the message.

    Raises:
        ConfigError: naming the first unknown placeholder, the nearest name, and all names.
    """
    names = list(known)
    for name in placeholders(template):
        if name not in names:
            hint = "Write literal braces twice: '{{' and '}}'."
            raise ConfigError(f"prompt_template: {unknown_name(kind, name, names, hint)}")
    return template


def render(template: str, values: Mapping[str, str]) -> str:
    """Fill in the values of a checked template."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        return values[name] if name else _LITERALS[match.group()]

    return _TOKEN.sub(fill, template)
