"""Verifiers that misbehave in every way we could think of: each costs one verdict."""

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpo_core.types import Sample, Status
from integration.verification_pools import is_alive, open_pool, sample, wait_until

FAULTS = {
    "raises": (Status.ERROR, "raised ZeroDivisionError: seven by nothing"),
    "raises_unprintable": (Status.ERROR, "raised Unprintable: .its text cannot be printed"),
    "raises_memory_error": (Status.ERROR, "ran out of memory .limit 64 MB"),
    "interrupts": (Status.ERROR, "raised KeyboardInterrupt"),
    "exits": (Status.ERROR, "raised SystemExit: enough"),
    "recurses": (Status.ERROR, "raised RecursionError: maximum recursion depth"),
    "exits_hard": (Status.ERROR, "ended its worker process .exit code 3"),
    "segfaults": (Status.ERROR, "was killed by SIGSEGV"),
    "aborts": (Status.ERROR, "was killed by SIGABRT"),
    "is_killed": (Status.ERROR, "was killed by SIGKILL, perhaps because the machine is out"),
    "hangs": (Status.TIMEOUT, "did not answer within 0.4 s"),
    "holds_the_gil": (Status.TIMEOUT, "did not answer within 0.4 s"),
    "ignores_signals": (Status.TIMEOUT, "did not answer within 0.4 s"),
    "stops_itself": (Status.TIMEOUT, "did not answer within 0.4 s"),
    "eats_memory": (Status.ERROR, "ran out of memory .limit 64 MB"),
    "eats_one_block": (Status.ERROR, "ran out of memory .limit 64 MB"),
    "nan_score": (Status.ERROR, "raised ValueError: score must be a finite number"),
    "high_score": (Status.ERROR, "raised ValueError: score must be a finite number"),
    "forged_nan": (Status.ERROR, "returned a verdict that is not plain JSON"),
    "forged_score": (Status.ERROR, "score must be a finite number in .0, 1., got 7.0"),
    "strange_details": (Status.ERROR, "returned a verdict that is not plain JSON.*object"),
    "text": (Status.ERROR, "raised TypeError: a verifier must return a Verdict"),
    "closes_everything": (Status.ERROR, "closed its connection"),
    "closes_and_returns": (Status.ERROR, "closed its connection"),
    "babbles": (Status.ERROR, "confused its worker process"),
    "WrongCount": (Status.ERROR, "returned 2 verdicts for 1 sample"),
    "ReturnsNothing": (Status.ERROR, "returned None where a list of verdicts"),
    "NoVerdict": (Status.ERROR, "returned 1.0 where a Verdict was expected"),
}


@pytest.fixture(scope="module")
def pool():
    names = ["good", "huge_details", "prints", "spawns", "leaves", "where", "leaks", *FAULTS]
    with open_pool(*names, workers=2) as pool:
        yield pool


def still_works(pool):
    """Both workers are there and judge well."""
    wait_until(lambda: len(pool.pids) == 3)
    verdicts = pool.verify("good", [sample("yes"), sample("no")] * 5)
    return [verdict.is_correct for verdict in verdicts] == [True, False] * 5


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_one_typed_verdict(pool, name):
    zygote = pool.pids[0]
    status, message = FAULTS[name]
    verdict = pool.verify(name, [sample("")])[0]
    assert (verdict.status, verdict.score) == (status, None)
    assert (verdict.verifier, verdict.version) == (name, "0")
    assert 0 < verdict.seconds < 30  # those that never end were killed
    assert f"verifier '{name}' of plugin 'hostile_verifiers'" in verdict.reason
    assert re.search(message, verdict.reason), verdict.reason
    assert still_works(pool)
    assert pool.pids[0] == zygote


def test_an_exception_is_told_with_its_place(pool):
    details = pool.verify("raises", [sample("")])[0].details
    assert details["exception"] == "ZeroDivisionError"
    assert details["message"] == "seven by nothing"
    assert re.search(r"hostile_verifiers\.py:\d+ in raises: raise Zero", details["where"])


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("huge", "a message of 2147483648 bytes"),
        ("empty", "KeyError"),
        ("no json", "Expecting property name"),
        ("deep", "RecursionError"),
        ("list", "TypeError"),
        ("stale", "an answer to another call"),
        ("endless", "an answer to another call"),
    ],
)
def test_a_reply_that_is_none_is_not_believed(pool, what, problem):
    verdict = pool.verify("babbles", [sample("", what)])[0]
    assert verdict.status is Status.ERROR
    assert f"confused its worker process, which sent {problem}" in verdict.reason
    assert still_works(pool)


def test_huge_details_are_left_out_and_the_verdict_kept(pool):
    verdict = pool.verify("huge_details", [sample("")])[0]
    assert verdict.is_correct
    assert "details of 100" in verdict.details["left_out"]
    assert len(verdict.reason) == 2000


def test_what_is_printed_disturbs_nothing(pool):
    assert all(verdict.is_correct for verdict in pool.verify("prints", [sample("")] * 5))


def test_a_changed_directory_and_a_forgotten_alarm_do_not_hit_the_next_call(pool):
    pool.verify("leaves", [sample("")] * 4)
    restarts = pool.stats.restarts
    verdicts = pool.verify("where", [sample("")] * 4)
    assert {verdict.reason for verdict in verdicts} == {os.getcwd()}
    assert pool.stats.restarts == restarts


def test_a_leak_costs_a_worker_now_and_then_but_no_verdict(pool):
    restarts = pool.stats.restarts
    verdicts = pool.verify("leaks", [sample("")] * 20)
    assert all(verdict.is_correct for verdict in verdicts)
    assert pool.stats.restarts > restarts


@pytest.mark.parametrize("word", ["return", "hang"])
def test_children_of_a_verifier_end_with_its_worker(word, tmp_path):
    with open_pool("spawns", workers=1) as pool:
        pool.verify("spawns", [sample(word, str(tmp_path / "pids"))])
        children = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(children) == 2
        if word == "hang":
            wait_until(lambda: not any(map(is_alive, children)), 1.0)
        else:
            assert all(map(is_alive, children))
    assert not any(map(is_alive, children))


def test_a_worker_that_does_not_read_blocks_nobody():
    """More than a socket holds waits behind a hanging call."""
    with open_pool("hangs", "good", workers=1) as pool:
        hanging = pool.submit("hangs", sample(""))
        big = pool.submit("good", sample("x" * 5_000_000))
        assert hanging.result(timeout=5).status is Status.TIMEOUT
        assert big.result(timeout=5).status is Status.WRONG


def test_a_storm_of_faults_from_threads_and_asyncio():
    """Good answers stay good, the crew stays complete, and nothing piles up."""
    quick = ["raises", "exits_hard", "segfaults", "exits", "text", "closes_and_returns"]
    with open_pool("good", "hangs", *quick, workers=2) as pool:
        pool.verify("good", [sample("yes")] * 10)
        before = len(os.listdir("/proc/self/fd"))

        def ask(number):
            futures = [pool.submit(name, sample("")) for name in quick * 6]
            good = pool.verify("good", [sample("yes"), sample("no")] * 10)
            return good, [future.result() for future in futures]

        async def ask_too():
            one = pool.averify("hangs", [sample("")] * 2)
            two = pool.averify("good", [sample("yes"), sample("no")] * 10)
            return await asyncio.gather(one, two)

        with ThreadPoolExecutor(9) as threads:
            parts = [threads.submit(ask, number) for number in range(8)]
            hung, good = threads.submit(asyncio.run, ask_too()).result()
            results = [part.result() for part in parts]
        for verdicts in (good, *(good for good, _ in results)):
            assert [verdict.is_correct for verdict in verdicts] == [True, False] * 10
        assert {verdict.status for verdict in hung} == {Status.TIMEOUT}
        bad = [verdict for _, verdicts in results for verdict in verdicts]
        assert len(bad) == 8 * 36
        assert {verdict.status for verdict in bad} == {Status.ERROR}
        assert still_works(pool)
        assert len(os.listdir("/proc/self/fd")) == before
        zygote_fds = os.listdir(f"/proc/{pool.pids[0]}/fd")
        assert len(zygote_fds) <= 6  # 0, 1, 2, control, and the two ends of its alarm


@pytest.mark.parametrize(
    ("completion", "reference", "status", "message"),
    [
        ("hang", "fine", Status.WRONG, "the answer could not be evaluated within 0.4 s"),
        ("eat", "fine", Status.WRONG, "could not be evaluated within 64 MB of memory"),
        ("abort", "fine", Status.WRONG, "could not be evaluated within 64 MB of memory"),
        ("raise", "fine", Status.ERROR, "raised ZeroDivisionError"),
        ("killed", "fine", Status.ERROR, "killed by SIGKILL"),
        ("hang", "hang", Status.TIMEOUT, "its reference cannot be used either.*within 0.4 s"),
        ("eat", "eat", Status.ERROR, "its reference cannot be used either.*ran out of memory"),
        ("hang", "unreadable", Status.TIMEOUT, "cannot be used either.*a number was expected"),
    ],
)
def test_limits_are_the_completions_fault_if_the_reference_keeps_them(
    fair, completion, reference, status, message
):
    verdict = fair.verify("Fair", [sample(completion, reference)])[0]
    assert verdict.status is status
    assert verdict.score == (0.0 if status is Status.WRONG else None)
    assert re.search(message, verdict.reason), verdict.reason
    assert verdict.verifier == "Fair"
    if completion == "hang":
        assert 0.4 <= verdict.seconds < 30
    assert fair.verify("Fair", [sample("fine", "fine")])[0].is_correct


@pytest.fixture(scope="module")
def fair():
    with open_pool("Fair", "fair_function", "Checked") as pool:
        yield pool


def test_a_function_that_bears_limits_needs_no_reference_check(fair):
    assert fair.verify("fair_function", [sample("")])[0].status is Status.WRONG


def test_a_verifier_that_does_not_say_so_leaves_limits_to_the_surroundings(fair):
    assert fair.verify("Checked", [sample("")])[0].status is Status.TIMEOUT


def test_a_reference_that_cannot_be_checked_in_time_is_said_so(fair):
    fine, hanging = fair.check_references("Checked", ["fine", "hang"])
    assert fine is None
    assert "did not answer within 0.4 s" in hanging


def test_a_hanging_batch_is_taken_apart():
    with open_pool("Batch", "sleeps", workers=1) as pool:
        pool.submit("sleeps", Sample("", "", 0.1))
        verdicts = pool.verify("Batch", [sample(word) for word in ("a", "hang", "b", "c")])
        statuses = [verdict.status for verdict in verdicts]
    assert statuses == [Status.CORRECT, Status.TIMEOUT, Status.CORRECT, Status.CORRECT]
