"""The checks of the conformance suite, in the order in which they run. One rule a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from grpo_core.testing.bench import Bench
from grpo_core.testing.checks.any_text import check_any_text
from grpo_core.testing.checks.callers import check_asyncio, check_thread
from grpo_core.testing.checks.declared import check_config, check_constructor, check_declared
from grpo_core.testing.checks.gameability import check_gameability
from grpo_core.testing.checks.golden import check_golden
from grpo_core.testing.checks.inputs import check_inputs
from grpo_core.testing.checks.latency import check_latency
from grpo_core.testing.checks.memory import check_memory
from grpo_core.testing.checks.processes import check_hash_seed, check_process
from grpo_core.testing.checks.references import check_references
from grpo_core.testing.checks.repeats import check_batch, check_determinism, check_order
from grpo_core.testing.checks.verdicts import check_bounds, check_details
from grpo_core.types import Json


@dataclass(frozen=True, slots=True)
class Check:
    """A rule.

    Attributes:
        rule: what holds for a verifier that passes, for people.
        run: returns evidence, or raises CheckFailed or CheckSkipped.
        needs: checks that must not have failed, because this one would only fail again.
    """

    name: str
    rule: str
    run: Callable[[Bench], Mapping[str, Json]]
    needs: tuple[str, ...] = ()


_SOUND = ("declared",)
_JUDGES = (*_SOUND, "bounds", "details", "batch")
_STEADY = (*_SOUND, "determinism", "order")

CHECKS = (
    Check("constructor", "the constructor is light: no model, no heavy import", check_constructor),
    Check("declared", "version, deadline, placement and the like make sense", check_declared),
    Check("config", "options survive JSON and pickle", check_config, _SOUND),
    Check("latency", "every call ends before the deadline, none crashes", check_latency, _SOUND),
    Check("bounds", "scores are in [0, 1], steps within the text", check_bounds, _SOUND),
    Check("details", "reason and details are plain JSON, of bounded size", check_details, _SOUND),
    Check("determinism", "two instances give the same verdicts", check_determinism, _SOUND),
    Check("order", "earlier calls do not change later verdicts", check_order, _STEADY[:-1]),
    Check("golden", "every example gets the verdict that it expects", check_golden, _STEADY),
    Check("batch", "a batch of n gives the n verdicts of single calls", check_batch, _STEADY),
    Check("thread", "the verdicts are the same in another thread", check_thread, _STEADY),
    Check("asyncio", "the verdicts are the same under asyncio", check_asyncio, _STEADY),
    Check("process", "the verdicts are the same in a pool's worker", check_process, _STEADY),
    Check("hash_seed", "the order of hashes does not matter", check_hash_seed, _STEADY),
    Check("inputs", "samples are left as they were", check_inputs, _SOUND),
    Check("references", "unreadable references are refused", check_references, _SOUND),
    Check("any_text", "no text makes it raise or fail", check_any_text, _SOUND),
    Check("memory", "calls leave no memory, files or processes behind", check_memory, _SOUND),
    Check("gameability", "who knows nothing gets no credit", check_gameability, _JUDGES),
)
