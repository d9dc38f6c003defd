"""The sandbox: strangers' programs, run in a way that they can harm nobody.

`open_sandbox()` gives one; `api.py` says what it takes and returns. Design and measurements that
led to it: a zygote (a warm interpreter) forks a child for every job, and the child puts itself
under every layer that the kernel offers before any of the job's code runs.
"""

from grpo_verifiers.sandbox.api import (
    CommandJob,
    Guest,
    GuestJob,
    Job,
    Layer,
    Level,
    Limits,
    Reply,
    Sandbox,
    SandboxUnavailable,
    ScriptJob,
    Status,
)
from grpo_verifiers.sandbox.opening import open_sandbox

__all__ = [
    "CommandJob",
    "Guest",
    "GuestJob",
    "Job",
    "Layer",
    "Level",
    "Limits",
    "Reply",
    "Sandbox",
    "SandboxUnavailable",
    "ScriptJob",
    "Status",
    "open_sandbox",
]
