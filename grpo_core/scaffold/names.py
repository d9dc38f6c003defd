"""The names of a new plugin package, all made from the one that the user gives."""

from __future__ import annotations

import importlib.util
import keyword
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

from packaging.utils import InvalidName, canonicalize_name

from grpo_core.errors import PluginError
from grpo_core.plugin_manager import Plugins

MAX_CHARS = 36  # so that no line of the templates is longer than 100 columns
_RESERVED = ("src", "test", "tests", "build", "dist", "docs")


@dataclass(frozen=True, slots=True)
class PackageNames:
    """What a new package is called.

    Attributes:
        distribution: what pip installs, in PEP 503's form, such as "unit-check".
        module: what Python imports, and the name that is registered, such as "unit_check".
        class_name: such as "UnitCheck".
    """

    distribution: str
    module: str
    class_name: str


def package_names(name: str) -> PackageNames:
    """The names made from `name`.

    Raises:
        PluginError: if it is no name of a distribution, or no module could be called so.
    """
    try:
        canonical = canonicalize_name(name, validate=True)
    except InvalidName as error:
        raise PluginError(
            f"'{name}' cannot name a package: a name is made of letters, digits, '-', '_' and '.', "
            "and begins and ends with a letter or digit (PEP 503). Try 'unit-check'."
        ) from error
    if len(canonical) > MAX_CHARS:
        raise PluginError(
            f"'{name}' has {len(canonical)} characters; a name may have {MAX_CHARS}. Shorten it."
        )
    module = canonical.replace("-", "_")
    if not module.isidentifier() or keyword.iskeyword(module) or module in _RESERVED:
        raise PluginError(
            f"'{name}' cannot name a package: Python could not import a module '{module}', or "
            "would find another. Begin with a letter, and avoid Python's own words. Try 'my-check'."
        )
    return PackageNames(canonical, module, "".join(map(str.capitalize, module.split("_"))))


def check_free(names: PackageNames, kind: str, plugins: Plugins) -> None:
    """Refuse names that are taken.

    Args:
        names: of the new package.
        kind: of thing it will register.
        plugins: what is installed.

    Raises:
        PluginError: naming who has the name.
    """
    cure = "Choose another name."
    if names.module in sys.stdlib_module_names:
        raise PluginError(f"'{names.module}' is a module of Python itself. {cure}")
    for registry in plugins.registries:
        if registry.kind == kind and names.module in registry:
            owner = registry[names.module].plugin
            raise PluginError(
                f"{kind} '{names.module}' is registered already, by plugin '{owner.name}' "
                f"({owner.origin}). {cure}"
            )
    for info in plugins.infos:
        if info.name == names.module:
            raise PluginError(f"a plugin '{info.name}' is installed ({info.origin}). {cure}")
    try:
        version = distribution(names.distribution).version
    except PackageNotFoundError:
        pass
    else:
        raise PluginError(f"'{names.distribution}' {version} is installed already. {cure}")
    spec = importlib.util.find_spec(names.module)
    if spec is not None and spec.origin is not None:
        raise PluginError(
            f"a module '{names.module}' exists already, in {spec.origin}; the new package would "
            f"hide it, or be hidden. {cure}"
        )
