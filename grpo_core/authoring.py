"""Decorators that turn one plain function into a verifier or a reward shaper.

    @verifier(version="1.0")
    def starts_with(sample, *, ignore_case: bool = False):
        ...
        return True

Keyword-only parameters become the typed options of the plugin: they can be set in the config, are
checked before anything runs, and are shown by `grpo plugins describe`. Bounds and a description
go into the type: `depth: Annotated[int, pydantic.Field(ge=1, description="...")] = 3`.

A plugin that keeps state or wants whole batches is a class with a `verify` (or `shape`) method
instead; see `grpo_core.protocols`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from grpo_core.errors import PluginError
from grpo_core.types import Sample, ScoredCompletion, Verdict

VerifyFunction = Callable[..., "Verdict | bool | float"]
ShapeFunction = Callable[..., float]


def verifier(
    *,
    version: str = "0",
    candidate_bears_limits: bool = False,
    examples: Sequence[Any] | Callable[[], Sequence[Any]] = (),
) -> Callable[[VerifyFunction], type]:
    """Make a verifier of `f(sample, *, option=default, ...) -> Verdict | bool | float`.

    A bool means correct or wrong; a number in [0, 1] is a score, correct only when it is 1.

    Args:
        version: recorded with every verdict; raise it when verdicts change.
        candidate_bears_limits: True when running out of time or memory is the completion's fault.
        examples: `grpo_core.testing.Example`s with known verdicts, or a function that returns
            them; `grpo plugins test` checks them.

    Raises:
        PluginError: if the function takes more than one positional parameter or an option has no
            default.
    """

    def decorate(function: VerifyFunction) -> type:
        def verify(self: Any, samples: Sequence[Sample]) -> list[Verdict]:
            return [as_verdict(function(sample, **self.options)) for sample in samples]

        namespace = {
            "version": version,
            "candidate_bears_limits": candidate_bears_limits,
            "examples": staticmethod(examples) if callable(examples) else examples,
            "verify": verify,
        }
        return _plugin_class(function, namespace)

    return decorate


def shaper(*, range: tuple[float, float], version: str = "0") -> Callable[[ShapeFunction], type]:
    """Make a reward shaper of `f(scored_completion, *, option=default, ...) -> float`.

    Args:
        range: lowest and highest value the function may return, before its weight.
        version: recorded in the manifest.

    Raises:
        PluginError: as `verifier`, or if the range is not ascending.
    """
    if not range[0] <= range[1]:
        raise PluginError(f"a shaper's range must be (low, high), got {range}")

    def decorate(function: ShapeFunction) -> type:
        def shape(self: Any, group: Sequence[ScoredCompletion]) -> list[float]:
            return [float(function(scored, **self.options)) for scored in group]

        return _plugin_class(function, {"version": version, "range": range, "shape": shape})

    return decorate


def as_verdict(value: Verdict | bool | float) -> Verdict:
    """Read what a verifier function returned.

    Raises:
        TypeError: for anything but a Verdict, a bool, or a number.
        ValueError: for a number outside [0, 1] or not finite.
    """
    if isinstance(value, Verdict):
        return value
    if isinstance(value, bool):
        return Verdict.correct() if value else Verdict.wrong()
    if isinstance(value, int | float):
        return Verdict.correct() if value == 1 else Verdict.wrong(score=float(value))
    raise TypeError(
        f"a verifier must return a Verdict, a bool, or a score in [0, 1], got {value!r:.80}"
    )


def _plugin_class(function: Callable[..., Any], namespace: dict[str, Any]) -> type:
    """A class named after `function` whose Config holds the function's keyword-only options."""
    # pydantic is imported here so that `import grpo_core` stays light.
    from pydantic import ConfigDict, create_model

    parameters = list(inspect.signature(function).parameters.values())
    if len([p for p in parameters if p.kind is not p.KEYWORD_ONLY]) != 1:
        raise PluginError(
            f"{function.__qualname__} must take exactly one positional parameter, "
            f"got ({', '.join(map(str, parameters))}). Make options keyword-only: put '*' first."
        )
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option.default is option.empty:
            raise PluginError(f"option '{option.name}' of {function.__qualname__} has no default")
    hints = _option_types(function, options)
    fields: dict[str, Any] = {p.name: (hints.get(p.name, Any), p.default) for p in options}
    config = create_model(
        "Config",
        __config__=ConfigDict(extra="forbid", frozen=True),
        __module__=function.__module__,
        **fields,
    )
    config.__qualname__ = f"{function.__qualname__}.Config"  # where pickle finds it

    def init(self: Any, config: Any) -> None:
        self.options = dict(config)

    return type(
        function.__name__,
        (),
        {
            **namespace,
            "__init__": init,
            "__doc__": function.__doc__,
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "Config": config,
            "function": staticmethod(function),
        },
    )


def _option_types(
    function: Callable[..., Any], options: Sequence[inspect.Parameter]
) -> dict[str, Any]:
    """The options' annotations alone: the sample's may be known to type checkers only."""
    written = {p.name: p.annotation for p in options if p.annotation is not p.empty}
    try:
        return typing.get_type_hints(
            SimpleNamespace(__annotations__=written),
            globalns=getattr(function, "__globals__", {}),
            include_extras=True,
        )
    except NameError as error:
        raise PluginError(
            f"an option of {function.__qualname__} has a type that cannot be found: {error}. "
            "Import it at the top of the module, not under TYPE_CHECKING."
        ) from error
