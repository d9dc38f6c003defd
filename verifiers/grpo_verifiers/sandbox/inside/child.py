"""A job's own process, from the fork to its end."""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NoReturn

from . import limits, privileges, script, wire
from .channel import Channel
from .command import supervise
from .confine import Place, Plan, confine
from .places import write_files
from .wire import Order, Payload

_CHANNEL, _PAYLOAD, _REPORT, _RULES, _ORDERS = 3, 4, 5, 6, 7
_TAKEN = b"taken"  # says that from now on the job is under way
_TARGETS = {
    "stdin": 0, "stdout": 1, "stderr": 2, "channel": _CHANNEL, "payload": _PAYLOAD,
    "report": _REPORT,
}  # fmt: skip


def run_spare(
    plan: Plan,
    place: Place,
    guests: Mapping[str, ModuleType],
    orders: socket.socket,
    parent: int,
) -> NoReturn:
    """Be confined, wait for a Python job, and become it; called right after the fork.

    What does not depend on the job is done before there is one, so that no job waits for it.
    """
    try:
        rules = _keep(orders.detach(), place.rulesets.get("python"))
        os.setsid()
        os.chdir(place.path)
        os.umask(0o077)
        confine(plan, rules, place.uid, "python", None, parent)
    except BaseException as error:  # noqa: BLE001 - our own failure, told to the zygote
        os.write(_ORDERS, _failure(error))
        os._exit(1)
    with socket.socket(fileno=_ORDERS) as connection:
        message, files, _, _ = socket.recv_fds(connection, wire.MAX_ORDER, len(wire.DESCRIPTORS))
        if not message:
            os._exit(0)
        connection.send(_TAKEN)
    try:
        _arrange(files, None)
        payload = _take_payload()
        write_files(payload.files, payload.executable, None)
        if plan.has_limits:
            job = limits.JobLimits(*wire.decode_order(message).limits)
            limits.apply(job, floor=plan.floor, num_foreign=plan.num_foreign)
        os.close(_REPORT)  # from here on nothing can be said any more
    except BaseException as error:  # noqa: BLE001 - our own failure, told to the caller
        os.write(_REPORT, _failure(error))
        os._exit(1)
    _become(payload, guests)


def run_command(
    plan: Plan, place: Place, order: Order, descriptors: Sequence[int], parent: int
) -> NoReturn:
    """Become the supervisor of a command; called right after the fork."""
    try:
        ruleset = place.rulesets.get("command")
        _arrange(descriptors, ruleset)
        os.setsid()
        privileges.die_with_parent(parent)
        rules = None if ruleset is None else _RULES
        supervise(plan, rules, place, order, _take_payload(), _REPORT)
    except BaseException as error:  # noqa: BLE001 - as in run_spare
        os.write(_REPORT, _failure(error))
        os._exit(1)


def _become(payload: Payload, guests: Mapping[str, ModuleType]) -> NoReturn:
    """Run a Python job to its end."""
    code = 1
    try:
        code = _run(payload, guests)
    except MemoryError:
        script.end_out_of_memory()
    except BaseException as error:  # noqa: BLE001 - of the guest; goes where its other output goes
        os.write(2, script.show_ours(error).encode("utf-8", "backslashreplace"))
    finally:
        script.finish(code)
    os._exit(code)


def _run(payload: Payload, guests: Mapping[str, ModuleType]) -> int:
    gc.enable()  # what the zygote has stays frozen: to look at it would copy it
    if payload.kind == "script":
        return script.run_source(payload.code)
    channel = Channel(_CHANNEL, payload.nonce, payload.frame_bytes)
    main = guests[payload.guest].main
    sys.path.insert(0, os.getcwd())
    main(channel, payload.code)
    return 0


def _arrange(descriptors: Sequence[int], ruleset: int | None) -> None:
    """Put a job's descriptors where they belong and close all others."""
    for name, file in zip(wire.DESCRIPTORS, descriptors, strict=False):
        target = _TARGETS[name]
        os.dup2(file, target, inheritable=target < 3)
    if len(descriptors) < len(wire.DESCRIPTORS):
        os.close(_CHANNEL)
    if ruleset is None:
        os.closerange(_RULES, 1 << 20)
    else:
        os.dup2(ruleset, _RULES, inheritable=False)
        os.closerange(_RULES + 1, 1 << 20)


def _keep(orders: int, ruleset: int | None) -> int | None:
    """Close all descriptors but these two and the reserved ones; the ruleset's new number."""
    os.dup2(orders, _ORDERS, inheritable=False)
    if ruleset is not None:
        os.dup2(ruleset, _RULES, inheritable=False)
    os.closerange(_ORDERS + 1, 1 << 20)
    return None if ruleset is None else _RULES


def reserve_descriptors() -> None:
    """Take the numbers that jobs use, so that no descriptor of the zygote's has one of them."""
    nothing = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for target in range(3, _ORDERS + 1):
        if target != nothing:
            os.dup2(nothing, target, inheritable=False)
    if nothing > _ORDERS:
        os.close(nothing)


def _take_payload() -> Payload:
    payload = wire.read_payload(_PAYLOAD)
    os.close(_PAYLOAD)
    return payload


def _failure(error: BaseException) -> bytes:
    return wire.encode_report({"failed": script.show_ours(error)})
