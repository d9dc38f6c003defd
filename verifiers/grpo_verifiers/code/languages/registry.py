"""Languages by name: the built-in ones, and those of the option `languages`."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Mapping
from typing import Any

from grpo_core.errors import PluginError, unknown_name
from grpo_verifiers.code.cases import UnreadableReference
from grpo_verifiers.code.languages.base import Language

BUILT_IN = {
    "python": "grpo_verifiers.code.languages.python:PYTHON",
    "cpp": "grpo_verifiers.code.languages.cpp:CPP",
    "javascript": "grpo_verifiers.code.languages.javascript:JAVASCRIPT",
}
ALIASES = {"c++": "cpp", "js": "javascript", "python3": "python", "py": "python"}
# Where the sandbox looks for programs.
_PATH = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/bin"))


def find_language(name: str, more: Mapping[str, str]) -> Language:
    """The language of a reference.

    Raises:
        UnreadableReference: if there is none of this name, or its tools are not installed.
        PluginError: if a stranger's cannot be imported.
    """
    key = name.lower()
    known = {**BUILT_IN, **more}
    target = known.get(key) or known.get(ALIASES.get(key, ""))
    if target is None:
        hint = "A language of your own goes into the option languages, as 'module:attribute'."
        raise UnreadableReference(unknown_name("language", name, known, hint))
    language = _load(target)
    for tool in language.tools:
        if shutil.which(tool, path=_PATH) is None:
            raise UnreadableReference(
                f"{language.name} needs the program {tool}, which is not in {_PATH}. "
                f"Install it: {language.install}"
            )
    return language


def _load(target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginError(
            f"the language '{target}' cannot be imported: {error}. "
            "Write it as 'package.module:attribute'."
        ) from error
