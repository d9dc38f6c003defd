"""Options of the code verifier, and the limits that follow from them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_verifiers.sandbox import Limits

# The sandbox starts, compilers run, and the verdict is written, within this.
_OVERHEAD = 5.0
_COMPILE_SECONDS = 20.0
_INTERPRETER_MB = 256  # of a runtime that runs beside the program: node, the C++ compiler


class CodeOptions(BaseModel):
    """Options of the code verifier."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout: float = Field(
        default=4.0, gt=0, le=600, description="Seconds for one test: a call, or a program's run."
    )
    total_timeout: float = Field(
        default=20.0, gt=0, le=3600, description="Seconds for all tests of one completion."
    )
    memory_mb: int = Field(default=512, ge=64, description="Memory of the candidate's process.")
    max_output: int = Field(
        default=1 << 20, ge=1024, description="Bytes that a program may write to stdout."
    )
    partial: bool = Field(
        default=False,
        description="Run all tests, and give a wrong program the share it passes as its score. "
        "Otherwise the first failure ends the run, and a wrong program scores 0.",
    )
    blocks: Literal["last", "all"] = Field(
        default="last", description="Which fenced blocks of a completion make the program."
    )
    level: Literal["process", "os", "ns", "cgroup"] = Field(
        default="os", description="Isolation that is demanded; less is refused."
    )
    backend: str = Field(
        default="zygote", description="Sandbox: zygote, bubblewrap, or 'module:attribute'."
    )
    backend_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the sandbox backend, such as its url."
    )
    allow_weaker: tuple[str, ...] = Field(
        default=(), description="Names of isolation layers that may be missing."
    )
    preload: tuple[str, ...] = Field(
        default=(), description="Modules that Python programs may import beside the standard ones."
    )
    languages: dict[str, str] = Field(
        default_factory=dict, description="Further languages: name to 'module:attribute'."
    )

    @property
    def deadline(self) -> float:
        """Seconds for one verdict; whoever needs longer is not held by the sandbox's limits."""
        return self.total_timeout + self.timeout + _COMPILE_SECONDS + _OVERHEAD

    def limits(self, seconds: float) -> Limits:
        """Of a process of the candidate that may take this long."""
        return Limits(wall_seconds=seconds, memory_mb=self.memory_mb, output_bytes=self.max_output)

    def compile_limits(self) -> Limits:
        """Of a compiler."""
        return Limits(
            wall_seconds=_COMPILE_SECONDS,
            memory_mb=max(1024, self.memory_mb),
            file_mb=64,
        )
