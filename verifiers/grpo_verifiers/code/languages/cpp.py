"""C++ programs, compiled by g++ inside the sandbox."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_verifiers.sandbox import CommandJob, Job, Limits


class Cpp:
    """C++ of the year 2020, optimised."""

    name = "cpp"
    tags = ("cpp", "c++", "cc", "cxx")
    tools = ("g++",)
    install = "apt-get install g++"

    def compile_job(self, source: str, limits: Limits) -> CommandJob | None:
        """g++ makes `program`."""
        argv = ("g++", "-std=c++20", "-O2", "-w", "-o", "program", "main.cpp")
        files = {"main.cpp": source.encode()}
        return CommandJob(argv=argv, files=files, fetch=("program",), limits=limits)

    def run_job(self, source: str, built: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Job:
        """What g++ made."""
        return CommandJob(
            argv=("./program",), files=built, executable=("program",), stdin=stdin, limits=limits
        )


CPP = Cpp()
