"""What adapters of Python functions have in common: the function itself, and how it is called."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.adapters.loading import find_source, load_function, source_hash
from grpo_verifiers.adapters.options import AdapterOptions, pick
from grpo_verifiers.remote.background import BackgroundLoop

FunctionName = Annotated[
    str,
    Field(min_length=1, description="As 'package.module:name' or 'path/to/file.py:name'."),
]


class FunctionAdapter:
    """Calls a function that is named in the options, or that its class was made for.

    Raises:
        ConfigError: if the named module or file does not exist.
    """

    version = "1.0"
    reads: ClassVar[tuple[str, ...]] = ()
    default_name: ClassVar[str] = ""  # of the function, where only a file is named
    function: ClassVar[Any] = None
    Options: ClassVar[type[AdapterOptions]] = AdapterOptions  # all but the function's name

    def __init__(self, config: Any) -> None:
        self.config = config
        self.placement = config.placement
        self.batch_size = config.batch_size
        self._loop = BackgroundLoop()
        self._loaded: list[Any] | None = None
        if self.function is None:
            sources = [find_source(name, self.default_name) for name in self.names]
            self.version = "-".join([type(self).version, *map(source_hash, sources)])

    @property
    def names(self) -> list[str]:
        """Of the functions, as the options have them."""
        named = getattr(self.config, "function", "")
        return [named] if isinstance(named, str) else list(named)

    def preload(self) -> None:
        """Import the functions, once, before workers are forked."""
        _ = self.functions

    @property
    def functions(self) -> list[Any]:
        """The functions themselves, imported when first needed."""
        if self._loaded is None:
            self._loaded = (
                [load_function(name, self.default_name) for name in self.names]
                if self.function is None
                else [self.function]
            )
        return self._loaded

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Its result; a coroutine runs on our loop, everything else here."""
        result = function(*args, **kwargs)
        return self._loop.run(_awaited(result)) if inspect.isawaitable(result) else result

    def each(
        self, samples: Sequence[Sample], judge: Callable[[Sample], Verdict | Awaitable[Verdict]]
    ) -> list[Verdict]:
        """Judge samples one by one, or together where `judge` is a coroutine.

        What it raises is raised, where there is one sample; the pool attributes it. Of several
        samples only the one that failed gets the error.
        """
        if len(samples) == 1:
            return [self.run(judge, samples[0])]

        async def together(awaitables: list[Awaitable[Verdict]]) -> list[Any]:
            return await asyncio.gather(*awaitables, return_exceptions=True)

        results: list[Any] = []
        for sample in samples:
            try:
                results.append(judge(sample))
            except Exception as error:  # noqa: BLE001 - a stranger's function may raise anything
                results.append(error)
        waiting = [at for at, result in enumerate(results) if inspect.isawaitable(result)]
        if waiting:
            finished = self._loop.run(together([results[at] for at in waiting]))
            for at, result in zip(waiting, finished, strict=True):
                results[at] = result
        return [_failed(r) if isinstance(r, BaseException) else r for r in results]

    def pick(self, sample: Sample, argument: str, default: str) -> Json:
        """An argument's value: from where `columns` says, or from where it is by default."""
        return pick(sample, self.config.columns.get(argument, default))

    def extra(self, sample: Sample, known: Sequence[str]) -> dict[str, Json]:
        """The further columns of a sample that the options ask for."""
        columns = self.config.columns.items()
        return {name: pick(sample, path) for name, path in columns if name not in known}

    def close(self) -> None:
        """End the loop's thread."""
        self._loop.close()


def accepted(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the function has parameters for."""
    parameters = _parameters(function)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(arguments)
    names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return {name: value for name, value in arguments.items() if name in names}


def required(function: Callable[..., Any]) -> set[str]:
    """Names of the parameters without a default."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name for p in _parameters(function) if p.default is p.empty and p.kind in named}


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _failed(error: BaseException) -> Verdict:
    """The verdict of the one sample of a batch that a function failed on."""
    if not isinstance(error, Exception):
        raise error
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    where = "".join(f"{f.filename}:{f.lineno} in {f.name}: {f.line}" for f in frames)
    message = " ".join(str(error).split())
    return Verdict.error(
        f"raised {type(error).__name__}: {message}",
        {"exception": type(error).__name__, "message": str(error), "where": where},
    )


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Of a function, or of an object that can be called; none where Python cannot tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some built-in ones have no signature
        return [inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)]
