"""Names of the standard library that tests use without an import.

Many published tests say `math.isclose` or `Counter` and count on the program to have imported it.
Such names are the tests' own: a candidate that could supply them would supply the judge.
"""

from __future__ import annotations

import ast
import collections
import itertools
import math
import sys
from collections.abc import Collection

from grpo_verifiers.code.naming import CANDIDATE_MODULES, called_names, free_names

Source = tuple[str, str]  # a module, and the name in it; an empty one is the module itself

_NAMES: dict[str, Collection[str]] = {
    "math": [name for name in dir(math) if not name.startswith("_")],
    "itertools": [name for name in dir(itertools) if not name.startswith("_")],
    "collections": collections.__all__,
    "functools": ("reduce", "partial", "cmp_to_key", "lru_cache", "cache", "wraps"),
    "copy": ("deepcopy",),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "datetime": ("datetime", "date", "timedelta", "timezone"),
    "statistics": ("mean", "median", "mode", "stdev", "pstdev", "variance", "fmean"),
    "heapq": ("heapify", "heappush", "heappop", "nlargest", "nsmallest"),
    "bisect": ("bisect_left", "bisect_right", "insort"),
    "operator": ("itemgetter", "attrgetter"),
    "random": ("randint", "choice", "shuffle", "uniform", "randrange"),
    "string": ("ascii_lowercase", "ascii_uppercase", "ascii_letters", "digits", "punctuation"),
    "typing": ("Any", "Callable", "Dict", "Iterable", "List", "Optional", "Set", "Tuple", "Union"),
    "dataclasses": ("dataclass", "asdict", "is_dataclass"),
    "enum": ("Enum", "IntEnum"),
    "json": ("loads", "dumps"),
    "cmath": ("phase",),
    "contextlib": ("redirect_stdout", "suppress"),
    "io": ("StringIO", "BytesIO"),
}
_SOURCES: dict[str, Source] = {
    name: (module, name) for module, names in _NAMES.items() for name in names
}
_PACKAGES = {
    "np": "numpy", "numpy": "numpy", "pd": "pandas", "pandas": "pandas", "scipy": "scipy",
    "sympy": "sympy", "torch": "torch", "nx": "networkx", "tf": "tensorflow", "pytest": "pytest",
}  # fmt: skip


class Ambiguous(Exception):
    """Tests do not say which of the names that they call is the candidate's."""


def library_names(tests: ast.Module, entry_point: str | None) -> dict[str, Source]:
    """The names that tests use unbound and that are a library's, with where they come from.

    A name that is called and is no function of a known module is the candidate's, and so is the
    entry point. Tests that call no such name test what shares its name with the library, such as
    `gcd`.

    Raises:
        Ambiguous: if there are several of those.
    """
    free = free_names(tests) - {entry_point}
    called = called_names(tests) - {entry_point}
    found = {name: _source(name, name in called) for name in free}
    known = {name: source for name, source in found.items() if source is not None}
    if entry_point or called - known.keys() or _imports_the_candidate(tests):
        return known
    tested = sorted(called & known.keys())
    if len(tested) > 1:
        raise Ambiguous(
            f"the tests call {' and '.join(tested)}, all of which the standard library has; name "
            "the candidate's function in entry_point"
        )
    return {name: source for name, source in known.items() if name not in tested}


def _source(name: str, is_called: bool) -> Source | None:
    """Where a name comes from; a module cannot be called."""
    if is_called:
        return _SOURCES.get(name)
    if name in _PACKAGES:
        return _PACKAGES[name], ""
    return (name, "") if name in sys.stdlib_module_names else _SOURCES.get(name)


def _imports_the_candidate(tests: ast.Module) -> bool:
    for node in ast.walk(tests):
        if isinstance(node, ast.ImportFrom) and node.module in CANDIDATE_MODULES:
            return any(item.name != "*" for item in node.names)
        if isinstance(node, ast.Import):
            return any(item.name in CANDIDATE_MODULES for item in node.names)
    return False
