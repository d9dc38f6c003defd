"""Python programs, run as `__main__` in a child of the sandbox's warm interpreter."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_verifiers.sandbox import CommandJob, Job, Limits, ScriptJob


class Python:
    """Built in: it needs no tools."""

    name = "python"
    tags = ("python", "py", "python3", "python-3", "python3.11", "ipython")
    tools: tuple[str, ...] = ()
    install = ""

    def compile_job(self, source: str, limits: Limits) -> CommandJob | None:
        """Nothing is compiled."""
        return None

    def run_job(self, source: str, built: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Job:
        """A script."""
        return ScriptJob(source=source, stdin=stdin, limits=limits)


PYTHON = Python()
