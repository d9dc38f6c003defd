"""The conformance suite: does a verifier keep the rules that training relies on?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_core.errors import ConfigError, unknown_name
from grpo_core.testing.attacks import KINDS
from grpo_core.testing.bench import Bench, Settings
from grpo_core.testing.example import Example
from grpo_core.testing.report import CheckResult, ConformanceReport
from grpo_core.testing.run import chosen_checks, run_checks
from grpo_core.testing.subject import Subject, find_subject
from grpo_core.testing.supervisor import supervise


def run_conformance(
    verifier: Any,
    examples: Sequence[Example] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    plugin_files: Sequence[str] = (),
    kinds: Sequence[str] = (),
    max_gameability: float | None = None,
    checks: Sequence[str] = (),
    silence: float | None = None,
    on_result: Callable[[CheckResult], None] = lambda result: None,
) -> ConformanceReport:
    """Run the suite on a verifier.

    Args:
        verifier: a registered name, a class, a function decorated with `grpo_core.verifier`, or an
            instance. An instance, and a class inside a function, cannot be found by another
            process: what needs one is skipped, and a hang is not stopped.
        examples: completions with the expected verdict; None takes those that it ships.
        options: the verifier's options.
        plugin_files: files to load plugins from, too.
        kinds: of attacks, out of "text", "math", "code", "judge"; () means all.
        max_gameability: share of attacks that may get credit; None takes what the verifier
            declares, which is 0 unless it says otherwise.
        checks: names of checks; () means all.
        silence: seconds without a sign of life after which a check has failed; None: 60, or more
            where the verifier's own deadline is longer.
        on_result: called with each result as it comes.

    Raises:
        ConfigError, PluginError, DataError: if there is no such verifier, it cannot be made with
            these options, or there are no examples.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(unknown_name("kind of attacks", kind, KINDS))
    settings = Settings(tuple(checks), tuple(kinds), max_gameability, silence)
    chosen_checks(settings)
    with find_subject(verifier, options or {}, plugin_files) as subject:
        if subject.is_everywhere:
            version, results = supervise(subject, examples or (), settings, on_result)
            return ConformanceReport(subject.title, version, results)
        return _run_here(subject, examples or (), settings, on_result)


def check_conformance(
    verifier: Any,
    examples: Sequence[Example] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    plugin_files: Sequence[str] = (),
    kinds: Sequence[str] = (),
    max_gameability: float | None = None,
    checks: Sequence[str] = (),
    silence: float | None = None,
) -> ConformanceReport:
    """As `run_conformance`, for tests.

    Raises:
        AssertionError: with every check that failed.
    """
    report = run_conformance(
        verifier,
        examples,
        options=options,
        plugin_files=plugin_files,
        kinds=kinds,
        max_gameability=max_gameability,
        checks=checks,
        silence=silence,
    )
    if not report.passed:
        raise AssertionError(str(report))
    return report


def _run_here(
    subject: Subject,
    examples: Sequence[Example],
    settings: Settings,
    on_result: Callable[[CheckResult], None],
) -> ConformanceReport:
    bench = Bench(subject, examples, settings)
    results = []
    try:
        for event in run_checks(bench, {}):
            if isinstance(event, CheckResult):
                results.append(event)
                on_result(event)
    finally:
        bench.close()
    version = str(getattr(bench.instance, "version", "0"))
    return ConformanceReport(subject.title, version, results)
