"""Calls of the candidate where a sandbox runs scripts only, such as one behind an HTTP service.

The guest's modules and its order become one script, and its frames become lines of its output that
begin with a mark. As with a guest, all that such a line can do is to state a value.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from grpo_verifiers.code.session import Lost, how_it_ended, read_message
from grpo_verifiers.code.shown import excerpt
from grpo_verifiers.sandbox import Limits, Sandbox, ScriptJob

_SCRIPT = """
import os, sys, types

def load(name, source):
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
    return module

class Channel:
    def send(self, frame):
        data = b"\\n" + {mark!r} + frame + b"\\n"
        while data:
            data = data[os.write(1, data):]

    def receive(self):
        return None

for name, source in {sources!r}:
    module = load(name, source)
module.main(Channel(), {payload!r})
"""


class ScriptedSession:
    """As `session.Session`, for an order of calls without any conversation."""

    def __init__(
        self,
        sandbox: Sandbox,
        guests: Mapping[str, Path],
        order: Mapping[str, Any],
        limits: Limits,
    ) -> None:
        """Prepare the script.

        Args:
            sandbox: to run it in.
            guests: the modules up to the one that is run, by name.
            order: its payload, plain JSON.
            limits: of the whole job.
        """
        self._sandbox = sandbox
        self._mark = secrets.token_hex(16).encode()
        sources = [(name, path.read_text(encoding="utf-8")) for name, path in guests.items()]
        payload = json.dumps(order).encode()
        script = _SCRIPT.format(mark=self._mark, sources=sources, payload=payload)
        self._job = ScriptJob(source=script, limits=limits)
        self._frames: Iterator[bytes] = iter(())
        self._end = ""
        self.stderr = ""

    def __enter__(self) -> ScriptedSession:
        reply = self._sandbox.run(self._job)
        self._end = how_it_ended(reply)
        self.stderr = excerpt(reply.stderr)
        lines = reply.stdout.split(b"\n")
        self._frames = (
            line.removeprefix(self._mark) for line in lines if line.startswith(self._mark)
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is left to be ended."""

    def receive(self) -> dict[str, Any]:
        """The next message.

        Raises:
            Lost: if there is none, or it is no message.
        """
        frame = next(self._frames, None)
        if frame is None:
            raise Lost(self._end)
        return read_message(frame)
