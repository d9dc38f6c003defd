"""What the code verifier needs to know of a language.

A language is an object with these attributes; a stranger's is named in the option `languages`, such
as `{"rust": "my_package.rust:RUST"}`. Only programs that read and write are asked of it; one that
can also make calls has `call_program`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

from grpo_verifiers.sandbox import CommandJob, Job, Limits


class Language(Protocol):
    """How to run programs of one language.

    Attributes:
        name: as references give it.
        tags: what fenced blocks of it are marked with, in lower case.
        tools: programs that must be installed, such as `g++`.
        install: how to install them, for people.
    """

    name: str
    tags: tuple[str, ...]
    tools: tuple[str, ...]
    install: str

    def compile_job(self, source: str, limits: Limits) -> CommandJob | None:
        """The compiler's run, whose `fetch` names what it makes; None if nothing is compiled."""

    def run_job(self, source: str, built: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Job:
        """The program's run, with what the compiler made."""


@runtime_checkable
class CallingLanguage(Protocol):
    """A language in which single functions can be called with JSON values."""

    def call_program(self, source: str, functions: tuple[str, ...]) -> str:
        """A program that makes calls.

        It reads `{"mark": text, "calls": [{"function": name, "arguments": [...]}]}` from stdin. For
        each call, in order, it writes one line to stdout that starts with the mark, with
        `{"value": ...}` or `{"error": text}` after it. It may know nothing else.
        """


def of_processes(limits: Limits, num: int) -> Limits:
    """The limits with room for this many threads and processes."""
    return replace(limits, processes=num)
