"""Verifier classes made of functions, in code: `from_trl(function)` and its like."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, overload

from pydantic import Field, create_model

from grpo_verifiers.adapters.function import FunctionAdapter
from grpo_verifiers.adapters.options import AdapterOptions


class Wrapping:
    """Makes verifier classes of functions of one framework; a decorator, too.

        register("my_reward", from_trl(my_reward, low=-1.0))

        @from_trl(low=-1.0, version="2")
        def my_reward(completions, **kwargs): ...

    Args:
        base: the adapter of that framework, whose module says what its functions look like.
    """

    def __init__(self, base: type[FunctionAdapter]) -> None:
        self._base = base

    @overload
    def __call__(
        self, function: Callable[..., Any] | type, *, version: str = "0", **options: Any
    ) -> type[FunctionAdapter]: ...
    @overload
    def __call__(
        self, function: None = None, *, version: str = "0", **options: Any
    ) -> Callable[[Any], type[FunctionAdapter]]: ...
    def __call__(self, function: Any = None, *, version: str = "0", **options: Any) -> Any:
        """A verifier class of a function, or what makes one of the function it decorates.

        Args:
            function: see the adapter's module.
            version: raise it when rewards change.
            options: defaults of the adapter's options; the config can still set them.

        Raises:
            ValueError: if an option is wrong.
        """
        if function is None:
            return lambda later: adapter_class(self._base, later, options, version)
        return adapter_class(self._base, function, options, version)


def adapter_class(
    base: type[FunctionAdapter], function: Any, defaults: Mapping[str, Any], version: str
) -> type[FunctionAdapter]:
    """A verifier class around one function; `defaults` are its options' defaults.

    Raises:
        ValueError: if a default is no option, or breaks its rule.
    """
    options: type[AdapterOptions] = base.Options
    options(**defaults)
    fields: dict[str, Any] = {}
    for name, default in defaults.items():
        field = options.model_fields[name]
        kind = (
            Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        )
        fields[name] = (kind, Field(default=default, description=field.description))
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", __name__)
    namespace = {
        "Config": create_model("Config", __base__=options, __module__=module, **fields),
        "function": staticmethod(function),
        "version": version,
        "__doc__": inspect.getdoc(function) or f"The function {name}, adapted.",
        "__module__": module,
        "__qualname__": getattr(function, "__qualname__", name),
    }
    return type(name, (base,), namespace)
