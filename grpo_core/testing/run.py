"""Run the checks one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from grpo_core.errors import ConfigError, GrpoError, unknown_name
from grpo_core.testing.bench import Bench, CheckFailed, CheckSkipped, Settings
from grpo_core.testing.checks import CHECKS, Check
from grpo_core.testing.report import CheckResult, Outcome


def chosen_checks(settings: Settings) -> list[Check]:
    """The checks to run, in their order.

    Raises:
        ConfigError: if there is none of a name.
    """
    known = [check.name for check in CHECKS]
    for name in settings.checks:
        if name not in known:
            raise ConfigError(unknown_name("check", name, known))
    return [check for check in CHECKS if not settings.checks or check.name in settings.checks]


def run_checks(bench: Bench, outcomes: Mapping[str, Outcome]) -> Iterator[Check | CheckResult]:
    """Each check as it starts, and then its result.

    Args:
        bench: the verifier.
        outcomes: of the checks that are done already, by name.
    """
    so_far = dict(outcomes)
    for check in chosen_checks(bench.settings):
        if check.name in so_far:
            continue
        yield check
        result = _run(check, bench, so_far)
        so_far[check.name] = result.outcome
        yield result


def _run(check: Check, bench: Bench, outcomes: Mapping[str, Outcome]) -> CheckResult:
    failed = [name for name in check.needs if outcomes.get(name) == "failed"]
    if failed:
        message = f"would only fail again after '{failed[0]}'"
        return CheckResult(check.name, "skipped", check.rule, message)
    started = time.perf_counter()
    outcome: Outcome = "passed"
    message = ""
    try:
        evidence = check.run(bench)
    except CheckFailed as failure:
        outcome, message, evidence = "failed", str(failure), failure.evidence
    except CheckSkipped as reason:
        outcome, message, evidence = "skipped", str(reason), {}
    except GrpoError as error:  # a pool that does not start, say
        outcome, message, evidence = "failed", str(error), {}
    seconds = round(time.perf_counter() - started, 3)
    return CheckResult(check.name, outcome, check.rule, message, dict(evidence), seconds)
