"""Do settings, task and verifiers fit together: are right answers right, and nonsense wrong?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from statistics import median

from grpo_core.assembly import create_task, evaluation_prompts, load_prompts, open_judge
from grpo_core.rollout import Judge
from grpo_core.training.doctor.finding import Bench, Check, Finding, ok, problem, skipped, warning
from grpo_core.training.preflight import check_references, check_settings
from grpo_core.training.selection import check_difficulty_key
from grpo_core.types import Prompt, Sample, Status, Verdict

_PROMPTS = 8  # of each split, judged with their own reference
_REFERENCES = 2000  # of each split, only read
# How answers are written; a verifier need only know one of them.
_WRITINGS = ("{}", "The answer is \\boxed{{{}}}.", "#### {}", "<answer>{}</answer>")
_NONSENSE = ("", "I do not know.")
_NEAR = 0.5  # share of the deadline that should not be needed


def check_all_settings(bench: Bench) -> Iterator[Finding]:
    """Rules between settings and all names in them, as before a run.

    Raises:
        ConfigError, PluginError, MissingExtraError: at the first problem.
    """
    check_settings(bench.config, bench.plugins)
    yield ok("settings", "consistent; every name in them is registered")


def check_task(bench: Bench) -> Iterator[Finding]:
    """The prompts of both splits.

    Raises:
        ConfigError, DataError, PluginError: if they cannot be had.
    """
    config = bench.config
    bench.task = create_task(config, bench.plugins)
    bench.train = load_prompts(bench.task, "train")
    bench.held_out = evaluation_prompts(config, bench.task)
    check_difficulty_key(config, bench.train)
    found = f"'{config.task.name}': {len(bench.train)} training prompts, {len(bench.held_out)} held"
    yield ok("task", f"{found} out", train=len(bench.train), held_out=len(bench.held_out))


def check_verifiers(bench: Bench) -> Iterator[Finding]:
    """The pool starts, reads every reference, and judges answers and nonsense.

    Raises:
        PluginError, ConfigError, VerifierError: if the pool does not start.
        DataError: if a reference cannot be read.
    """
    started = time.perf_counter()
    with open_judge(bench.config, bench.plugins, bench.sources, bench.task) as judge:
        seconds = time.perf_counter() - started
        versions = ", ".join(f"{name} {text}" for name, text in judge.pool.describe().items())
        workers = bench.config.verification.workers
        yield ok(
            "verifier pool",
            f"{versions}; {workers} workers, ready after {seconds:.1f} s",
            seconds_to_start=seconds,
        )
        counts = [
            check_references(judge, prompts[:_REFERENCES])
            for prompts in (bench.train, bench.held_out)
        ]
        yield ok("references", f"{counts[0]} training and {counts[1]} held-out ones read")
        prompts = [*bench.train[:_PROMPTS], *bench.held_out[:_PROMPTS]]
        for position, verifier in enumerate(judge.verifiers):
            yield from _judge_answers(judge, verifier.name, prompts, is_judge=position == 0)


def _judge_answers(
    judge: Judge, name: str, prompts: Sequence[Prompt], *, is_judge: bool
) -> Iterator[Finding]:
    """What a verifier says about the references themselves, and about nonsense."""
    title = f"verdicts of '{name}'"
    asked = [prompt for prompt in prompts if _answer(prompt) is not None]
    right = [_sample(p, writing.format(_answer(p))) for p in asked for writing in _WRITINGS]
    wrong = [_sample(p, text) for p in prompts for text in _NONSENSE]
    verdicts = judge.pool.verify(name, [*right, *wrong])
    accepted = _accepted(verdicts, len(asked))
    nonsense = verdicts[len(asked) * len(_WRITINGS) :]
    yield from _failures(title, verdicts)
    yield from _reference_verdicts(title, asked, accepted, verdicts, is_judge=is_judge)
    yield _nonsense_verdicts(title, nonsense, is_judge=is_judge)
    yield _duration(title, verdicts, judge)


def _answer(prompt: Prompt) -> str | None:
    """The reference as an answer; None where it is none, such as tests of a program."""
    reference = prompt.reference
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        return None
    return str(reference) if str(reference).strip() else None


def _sample(prompt: Prompt, completion: str) -> Sample:
    return Sample(prompt.text, completion, prompt.reference, prompt.meta)


def _accepted(verdicts: Sequence[Verdict], count: int) -> list[bool]:
    """Of each reference, whether one of its writings was judged correct."""
    size = len(_WRITINGS)
    groups = [verdicts[at * size : (at + 1) * size] for at in range(count)]
    return [any(verdict.is_correct for verdict in group) for group in groups]


def _failures(title: str, verdicts: Sequence[Verdict]) -> Iterator[Finding]:
    failed = [v for v in verdicts if v.status in (Status.ERROR, Status.TIMEOUT)]
    if failed:
        yield problem(
            f"{title}: failures",
            f"{len(failed)} of {len(verdicts)} calls failed: {failed[0].status}: "
            f"{failed[0].reason}",
            "Repair the verifier; 'grpo verify' shows single calls. For timeouts raise "
            "verification.deadline.",
            failed=len(failed),
        )


def _reference_verdicts(
    title: str,
    asked: Sequence[Prompt],
    accepted: Sequence[bool],
    verdicts: Sequence[Verdict],
    *,
    is_judge: bool,
) -> Iterator[Finding]:
    name = f"{title}: references"
    if not asked:
        yield skipped(name, "the references are no text, so none can be given as an answer")
        return
    share = sum(accepted) / len(asked)
    if all(accepted):
        yield ok(name, f"{len(asked)} of {len(asked)} judged correct", accepted=share)
        return
    at = accepted.index(False)
    verdict = verdicts[at * len(_WRITINGS)]
    found = (
        f"{sum(accepted)} of {len(asked)} judged correct, written in {len(_WRITINGS)} ways; not so "
        f"{json.dumps(asked[at].reference)[:60]} of prompt '{asked[at].id}': {verdict.status}: "
        f"{verdict.reason}"
    )
    cure = "Check with 'grpo verify --completion ... --reference ...'. If the verifier asks for "
    cure += "another form, tell the model in the prompt; else verifier and data do not fit together"
    make = problem if is_judge else warning
    yield make(name, found, cure, accepted=share)


def _nonsense_verdicts(title: str, verdicts: Sequence[Verdict], *, is_judge: bool) -> Finding:
    name = f"{title}: nonsense"
    passed = sum(verdict.is_correct for verdict in verdicts)
    if not passed:
        texts = " and ".join(map(repr, _NONSENSE))
        return ok(name, f"{texts} never judged correct", accepted=0)
    found = f"{passed} of {len(verdicts)} completions that say nothing were judged correct"
    cure = "A policy would learn to say nothing. Use a verifier that compares with the reference"
    make = problem if is_judge and passed == len(verdicts) else warning
    return make(name, found, cure, accepted=passed / len(verdicts))


def _duration(title: str, verdicts: Sequence[Verdict], judge: Judge) -> Finding:
    name = f"{title}: time"
    seconds = [verdict.seconds for verdict in verdicts]
    deadline = judge.settings.deadline
    found = f"median {median(seconds) * 1000:.2g} ms, longest {max(seconds) * 1000:.2g} ms; the "
    found += f"deadline is {deadline:g} s"
    numbers = {"median": median(seconds), "longest": max(seconds), "deadline": deadline}
    if max(seconds) > _NEAR * deadline:
        return warning(name, found, "Raise verification.deadline.", **numbers)
    return ok(name, found, **numbers)


CHECKS = (
    Check("settings", check_all_settings, needs=("plugins",)),
    Check("task", check_task, needs=("plugins",)),
    Check("verifier pool", check_verifiers, needs=("plugins", "task")),
)
