"""The backend "zygote", and the options that it shares with "bubblewrap"."""

from __future__ import annotations

from functools import partial

from pydantic import BaseModel, Field, ValidationError

from grpo_core.errors import ConfigError
from grpo_verifiers.sandbox.api import Sandbox
from grpo_verifiers.sandbox.opening import Request
from grpo_verifiers.sandbox.selftest import LAYERS, prove
from grpo_verifiers.sandbox.zygote_sandbox import ZygoteSandbox, make_setup


class ZygoteOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the backends "zygote" and "bubblewrap".

    Attributes:
        without: layers to leave out; each must be in `allow_weaker`, too, if the level demands it.
        landlock_abi: use no later version of Landlock than this.
        disk_mb: what all working directories hold together, where they lie in memory.
        total_memory_mb, total_processes: of the control group, for all jobs together.
    """

    without: tuple[str, ...] = ()
    landlock_abi: int = Field(7, ge=1)
    disk_mb: int = Field(256, ge=1)
    total_memory_mb: int = Field(4096, ge=64)
    total_processes: int = Field(1024, ge=8)


def zygote(request: Request) -> Sandbox:
    """Our zygote.

    Raises:
        ConfigError: for an unknown option or layer.
        VerifierError: if a package to preload is not installed.
    """
    options = read_options(request)
    setup = make_setup(guests=request.guests, preload=request.preload, **options.model_dump())
    proof = partial(prove, level=request.level, allow_weaker=request.allow_weaker)
    return ZygoteSandbox("zygote", setup, proof, allow_weaker=request.allow_weaker)


def read_options(request: Request) -> ZygoteOptions:
    """The options, checked.

    Raises:
        ConfigError: for an unknown option or layer.
    """
    try:
        options = ZygoteOptions(**request.options)
    except ValidationError as error:
        raise ConfigError(f"options of the sandbox: {error}") from error
    for name in options.without:
        if name not in LAYERS:
            raise ConfigError(f"without: no layer '{name}'; there are {', '.join(LAYERS)}.")
    return options
