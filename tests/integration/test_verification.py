"""The pool with well-behaved verifiers: order, threads, asyncio, batches, references, closing."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpo_core.errors import ConfigError, PluginError, VerifierError
from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Sample, Status
from grpo_core.verification.pool import VerifierPool, VerifierSpec
from integration.verification_pools import PLUGIN, open_pool, sample


@pytest.fixture(scope="module")
def pool():
    with open_pool("good", "Batch", "Fair", "Checked", "sleeps", deadline=5.0) as pool:
        yield pool


def test_verdicts_come_in_order_and_say_who_judged(pool):
    verdicts = pool.verify("good", [sample(word) for word in ("yes", "no") * 50])
    assert [verdict.is_correct for verdict in verdicts] == [True, False] * 50
    assert {(verdict.verifier, verdict.version) for verdict in verdicts} == {("good", "1.5")}
    assert all(verdict.seconds < 30 for verdict in verdicts)
    assert pool.verify("good", []) == []
    assert pool.describe() == {
        "good": "1.5", "Batch": "2", "Fair": "0", "Checked": "0", "sleeps": "0"
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "\ud800 lone", "nul \0", "é 漢 \U0001f600", "\u2028", "x" * 3_000_000]
)
def test_any_text_arrives_unchanged(pool, text):
    assert pool.verify("good", [sample(text, text)])[0].is_correct


def test_works_from_eight_threads(pool):
    def ask(number):
        return [pool.verify("good", [sample(str(number), str(number))])[0] for _ in range(25)]

    with ThreadPoolExecutor(8) as threads:
        verdicts = [verdict for part in threads.map(ask, range(8)) for verdict in part]
    assert len(verdicts) == 200
    assert all(verdict.is_correct for verdict in verdicts)


def test_works_from_asyncio_without_stalling_the_loop(pool):
    async def main():
        judging = asyncio.ensure_future(pool.averify("sleeps", [sample("", 0.3)]))
        ticks = 0
        while not judging.done():
            await asyncio.sleep(0.01)
            ticks += 1
        verdicts = await judging
        more = await pool.averify("good", [sample("yes"), sample("no")])
        return ticks, verdicts, more

    ticks, verdicts, more = asyncio.run(main())
    assert ticks > 10
    assert verdicts[0].is_correct
    assert [verdict.is_correct for verdict in more] == [True, False]


def test_cancelled_work_is_dropped(pool):
    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.averify("sleeps", [sample("", 0.3)] * 200), 0.1)

    asyncio.run(main())
    started = time.monotonic()
    assert pool.verify("good", [sample("yes")])[0].is_correct
    assert time.monotonic() - started < 15  # not 30: waiting samples were cancelled


def test_samples_are_judged_side_by_side_from_submission_on(pool):
    futures = [pool.submit("sleeps", sample("", 0.3)) for _ in range(2)]
    verdicts = [future.result() for future in futures]
    assert len({verdict.reason for verdict in verdicts}) == 2  # two processes
    assert all(verdict.seconds >= 0.3 for verdict in verdicts)


def test_unknown_verifier_is_refused_with_the_nearest_name(pool):
    with pytest.raises(PluginError, match="Did you mean 'good'"):
        pool.submit("god", sample("yes"))


@pytest.mark.parametrize("reference", [object(), {1, 2}, 10**5000], ids=["object", "set", "int"])
def test_a_sample_that_cannot_be_sent_gets_an_error_verdict(pool, reference):
    verdict = pool.verify("good", [Sample("?", "yes", reference)])[0]
    assert verdict.status is Status.ERROR
    assert "verifier 'good' of plugin 'hostile_verifiers'" in verdict.reason
    assert "not plain JSON" in verdict.reason


def test_waiting_samples_share_calls(pool):
    blockers = [pool.submit("sleeps", sample("", 0.2)) for _ in range(2)]
    verdicts = pool.verify("Batch", [sample("fine")] * 9)
    assert [blocker.result().is_correct for blocker in blockers] == [True, True]
    assert sorted(verdict.reason for verdict in verdicts) == ["1"] + ["4"] * 8


@pytest.mark.parametrize(
    ("word", "status"),
    [("raise", Status.ERROR), ("few", Status.ERROR), ("exit", Status.ERROR)],
)
def test_one_bad_sample_of_a_batch_costs_one_verdict(pool, word, status):
    blockers = [pool.submit("sleeps", sample("", 0.1)) for _ in range(2)]
    verdicts = pool.verify("Batch", [sample(w) for w in ("a", "b", word, "c", "d", "e", "f", "g")])
    assert [verdict.status for verdict in verdicts].count(Status.CORRECT) == 7
    assert verdicts[2].status is status
    assert all(blocker.result().is_correct for blocker in blockers)


def test_references_are_checked_in_a_worker(pool):
    assert pool.check_references("good", ["a", 3]) == [None, None]
    fine, wrong = pool.check_references("Checked", ["a", 3])
    assert fine is None
    assert "verifier 'Checked' of plugin 'hostile_verifiers'" in wrong
    assert "a reference must be text, got 3" in wrong
    assert "not plain JSON" in pool.check_references("Checked", [object()])[0]


def test_options_reach_the_verifier():
    with open_pool(VerifierSpec("good", {"ignore_case": True}), workers=1) as pool:
        assert pool.verify("good", [sample("YES")])[0].is_correct


def test_preload_runs_once_before_the_fork():
    with open_pool("Preloaded") as pool:
        assert pool.describe() == {"Preloaded": "weights-fine"}
        verdicts = pool.verify("Preloaded", [sample("")] * 10)
        assert {verdict.reason for verdict in verdicts} == {str(pool.pids[0])}


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (VerifierSpec("goood"), PluginError, "Unknown verifier 'goood'. Did you mean 'good'"),
        (VerifierSpec("good", {"case": 1}), ConfigError, "verifier 'good'.case: unknown setting"),
        (VerifierSpec("good", {"ignore_case": "x"}), ConfigError, "must be a valid boolean"),
        (VerifierSpec("good", {"ignore_case": object()}), ConfigError, "plain JSON"),
        (VerifierSpec("NoVerifyMethod"), PluginError, "has no method 'verify"),
        (VerifierSpec("Preloaded", {"mode": "constructor"}), PluginError, "LookupError: no such"),
        (VerifierSpec("Preloaded", {"mode": "preload"}), PluginError, "weights are missing"),
        (VerifierSpec("Preloaded", {"mode": "exit"}), PluginError, "SystemExit: 5"),
        (VerifierSpec("Preloaded", {"mode": "exit_hard"}), PluginError, "ended .exit code 5"),
        (VerifierSpec("Preloaded", {"mode": "hang"}), VerifierError, "took more than 1 s"),
    ],
)
def test_what_is_wrong_with_a_verifier_is_said_at_once(spec, kind, message):
    with pytest.raises(kind, match=message):
        open_pool("good" if spec.name == "" else spec, start_deadline=1.0)


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path):
    plugin = tmp_path / "broken_plugin.py"
    plugin.write_text("import nothing_of_this_name")
    with pytest.raises(PluginError, match=r"broken_plugin\.py cannot be imported.*nothing_of_this"):
        VerifierPool([VerifierSpec("good")], PluginSources((str(plugin),), False))


@pytest.mark.parametrize("settings", [{"workers": 0}, {"deadline": 0}, {"memory_mb": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match="must be positive"):
        open_pool("good", **settings)
    with pytest.raises(ConfigError, match="once each"):
        open_pool("good", "good")
    with pytest.raises(ConfigError, match="at least one"):
        open_pool()


def test_closing_resolves_what_is_pending():
    pool = open_pool("sleeps", workers=1, deadline=10.0)
    futures = [pool.submit("sleeps", sample("", 5)) for _ in range(4)]
    assert futures.pop().cancel()
    time.sleep(0.1)
    started = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - started < 10  # not 15, which judging them would take
    verdicts = [future.result(timeout=0) for future in futures]
    assert {verdict.status for verdict in verdicts} == {Status.ABSTAIN}
    assert "the verifier pool is closed" in verdicts[0].reason
    with pytest.raises(VerifierError, match="closed"):
        pool.submit("sleeps", sample("", 0))


def test_a_callback_may_use_and_close_the_pool():
    pool = open_pool("good")
    seen = []
    done = threading.Event()

    def use(future):
        seen.append(pool.submit("good", sample("no")))
        pool.close()
        done.set()

    pool.submit("good", sample("yes")).add_done_callback(use)
    assert done.wait(5)
    assert seen[0].result(timeout=5).status in (Status.ABSTAIN, Status.WRONG)
    pool.close()


def test_statistics_add_up():
    with open_pool("good", "hangs", "raises") as pool:
        pool.verify("good", [sample("yes"), sample("no"), sample("no")])
        pool.verify("hangs", [sample("")])
        pool.verify("raises", [sample("")])
        stats = pool.stats
    assert stats.counts["good"][Status.CORRECT] == 1
    assert stats.counts["good"][Status.WRONG] == 2
    assert stats.counts["hangs"][Status.TIMEOUT] == 1
    assert stats.counts["raises"][Status.ERROR] == 1
    assert (stats.kills, stats.restarts, stats.zygote_restarts) == (1, 1, 0)
    assert 0.4 <= stats.seconds["hangs"] < 0.8


SCRIPT = f"""
from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Sample
from grpo_core.verification.pool import VerifierPool, VerifierSpec
pool = VerifierPool([VerifierSpec("prints")], PluginSources(({str(PLUGIN)!r},), False))
print("verdict:", pool.verify("prints", [Sample("", "", "")])[0].status)
"""


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_scripts_need_no_main_guard_and_nothing_is_printed_in_between(how, tmp_path):
    """And a pool that nobody closes does not keep the interpreter from ending."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = {"file": [str(script)], "-c": ["-c", SCRIPT], "stdin": ["-"]}[how]
    done = subprocess.run(
        [sys.executable, *arguments],
        input=SCRIPT if how == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "verdict: correct\n", done.stderr[-2000:]
    assert "straight to stdout" in done.stderr
    assert "Traceback" not in done.stderr
