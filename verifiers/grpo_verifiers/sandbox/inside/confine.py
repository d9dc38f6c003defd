"""Put a process under every layer, in the order in which they can be put on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache

from . import landlock, limits, privileges, seccomp
from .limits import JobLimits


@dataclass(frozen=True, slots=True)
class Plan:
    """What holds jobs in this zygote; decided once, at its start.

    Attributes:
        landlock_abi: 0 leaves Landlock out.
        rules: profile -> path -> rights, the place's own left out.
        machine: for seccomp; "" leaves it out.
        drops_rights: whether jobs give up capabilities and the way to new ones.
        has_uids: whether each place has a user id of its own.
        has_limits: whether rlimits are set.
        kill_any: whether commands' signals are confined by other means than seccomp.
        may_chmod: whether nothing that jobs can reach, but their places, belongs to their user.
        nests: whether commands get a process namespace of their own.
        num_foreign: see `limits.apply`.
        floor: bytes that are mapped in the zygote.
    """

    landlock_abi: int = 0
    rules: dict[str, dict[str, int]] = field(default_factory=dict)
    machine: str = ""
    drops_rights: bool = True
    has_uids: bool = False
    has_limits: bool = True
    kill_any: bool = False
    may_chmod: bool = False
    nests: bool = False
    num_foreign: int | None = None
    floor: int = 0


@dataclass(slots=True)
class Place:
    """A working directory and what belongs to it.

    Attributes:
        uid: of jobs in it; None keeps the zygote's.
        rulesets: profile -> Landlock ruleset as a descriptor, made on first use.
    """

    path: str
    uid: int | None
    rulesets: dict[str, int] = field(default_factory=dict)


def prepare(plan: Plan, place: Place, profile: str) -> None:
    """Do beforehand what need not be done for every job anew.

    Raises:
        OSError: if the kernel refuses.
    """
    if plan.landlock_abi and profile not in place.rulesets:
        own = landlock.CHANGE | (landlock.EXECUTE if profile == "command" else 0)
        rules = {**plan.rules[profile], place.path: own}
        place.rulesets[profile] = landlock.create(rules, plan.landlock_abi)
    if plan.machine:
        _filter(plan, profile)


def confine(
    plan: Plan,
    ruleset: int | None,
    uid: int | None,
    profile: str,
    job: JobLimits | None,
    parent: int,
) -> None:
    """Put this process under the layers of the plan; there is no way back.

    Args:
        plan: of the zygote.
        ruleset: of the place, as a descriptor.
        uid: of the place.
        profile: "python" or "command".
        job: its limits; None leaves them for later.
        parent: with which it shall end; asked for before the fork, since it may have ended already.

    Raises:
        OSError: if the kernel refuses.
    """
    if plan.has_limits and job is not None:
        limits.apply(job, floor=plan.floor, num_foreign=plan.num_foreign)
    if uid is not None:
        privileges.become(uid)
    if plan.drops_rights:
        privileges.drop_capabilities()
    privileges.die_with_parent(parent)  # a change of identity has taken that back
    if plan.drops_rights or plan.landlock_abi or plan.machine:
        privileges.no_new_privileges()
    if ruleset is not None:
        landlock.restrict(ruleset, plan.landlock_abi)
        os.close(ruleset)
    if plan.machine:
        _filter(plan, profile).install()


@cache
def _make_filter(machine: str, profile: str, kill_any: bool, may_chmod: bool) -> seccomp.Filter:
    program = seccomp.build(machine, profile, kill_any=kill_any, may_chmod=may_chmod)
    return seccomp.Filter(program)


def _filter(plan: Plan, profile: str) -> seccomp.Filter:
    return _make_filter(plan.machine, profile, plan.kill_any, plan.may_chmod)
