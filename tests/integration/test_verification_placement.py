"""Where verifiers run: in shared workers, in a process of their own, or in the trainer."""

import os
from concurrent.futures import wait
from pathlib import Path

import pytest

from grpo_core.errors import ConfigError, PluginError, VerifierError
from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Sample, Status
from grpo_core.verification.pool import VerifierPool, VerifierSpec
from integration.verification_pools import wait_until

PLUGIN = Path(__file__).with_name("placed_verifiers.py")
SOURCES = PluginSources((str(PLUGIN),), use_entry_points=False)
MESSAGES = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "?"})


def open_pool(*specs, **settings):
    specs = [spec if isinstance(spec, VerifierSpec) else VerifierSpec(spec) for spec in specs]
    return VerifierPool(specs, SOURCES, **{"deadline": 0.4, "memory_mb": 64, **settings})


def ask(completion="fine"):
    return Sample("?", completion, "yes", {}, MESSAGES, (7, 8))


def details_of(verdicts):
    assert {verdict.status for verdict in verdicts} == {Status.CORRECT}, verdicts
    return [verdict.details for verdict in verdicts]


def test_a_verifier_in_a_process_of_its_own_gets_everything_in_batches():
    with open_pool("shared", "own", workers=2) as pool:
        own = details_of(pool.verify("own", [ask()] * 100))
        shared = details_of(pool.verify("shared", [ask()] * 100))
        pids = set(pool.pids[1:])
    assert len({told["pid"] for told in own}) == 1
    assert {told["pid"] for told in own + shared} <= pids and len(pids) == 3
    assert not {told["pid"] for told in own} & {told["pid"] for told in shared}
    assert max(told["size"] for told in own) > 8 and own[-1]["calls"] < 50
    assert {told["size"] for told in shared} == {1}


def test_fields_of_the_sample_travel_on_wish():
    with open_pool("shared", "own", "here") as pool:
        (shared,), (own,), (here,) = (
            details_of(pool.verify(name, [ask()])) for name in ("shared", "own", "here")
        )
    assert (shared["messages"], shared["token_ids"]) == ([], [])
    assert (own["messages"], own["token_ids"]) == (list(MESSAGES), [])
    assert here["token_ids"] == [7, 8]


def test_a_verifier_has_the_deadline_and_the_memory_it_asks_for():
    with open_pool("shared", "own") as pool:
        slept = [pool.verify(name, [ask("sleep")])[0] for name in ("shared", "own")]
        ate = [pool.verify(name, [ask("eat")])[0] for name in ("shared", "own")]
        assert [verdict.status for verdict in slept] == [Status.TIMEOUT, Status.CORRECT]
        assert [verdict.status for verdict in ate] == [Status.ERROR, Status.CORRECT]
        assert "limit 64 MB" in ate[0].reason
        details_of(pool.verify("shared", [ask()]))


def test_the_users_deadline_comes_before_the_verifiers_own():
    with open_pool(VerifierSpec("own", deadline=0.3)) as pool:
        (verdict,) = pool.verify("own", [ask("sleep")])
        assert verdict.status is Status.TIMEOUT and "0.3 s" in verdict.reason
        assert pool.verify("own", [ask()])[0].is_correct  # its process was replaced
        assert pool.stats.kills == 1
    with pytest.raises(ConfigError, match="must be positive"):
        open_pool(VerifierSpec("own", deadline=-1.0))


def test_a_process_of_its_own_is_replaced_when_it_is_killed_from_outside():
    with open_pool("own") as pool:
        (before,) = details_of(pool.verify("own", [ask()]))
        os.kill(before["pid"], 9)
        wait_until(lambda: pool.stats.restarts == 1)
        (after,) = details_of(pool.verify("own", [ask()]))
        assert after["pid"] != before["pid"]


def test_a_verifier_in_the_trainer_is_attributed_and_counted():
    with open_pool("here", "shared") as pool:
        told = details_of(pool.verify("here", [ask()] * 10))
        assert {row["pid"] for row in told} == {os.getpid()}
        (verdict,) = pool.verify("here", [ask("raise")])
        assert verdict.status is Status.ERROR
        assert "verifier 'here' of plugin 'placed_verifiers' raised ZeroDivisionError" in (
            verdict.reason
        )
        assert (verdict.verifier, verdict.version) == ("here", "2")
        assert pool.stats.counts["here"][Status.CORRECT] == 10
        assert pool.check_references("here", ["good", "bad"])[0] is None
        assert "a bad reference" in pool.check_references("here", ["bad"])[0]


@pytest.mark.parametrize(
    ("completion", "reason"),
    [("exit", "raised SystemExit: enough"), ("set", "raised TypeError: Object of type set")],
)
def test_nothing_a_verifier_in_the_trainer_does_stops_its_thread(completion, reason):
    with open_pool("here") as pool:
        (verdict,) = pool.verify("here", [ask(completion)])
        assert verdict.status is Status.ERROR and reason in verdict.reason
        details_of(pool.verify("here", [ask()]))
        assert "SystemExit: enough" in pool.check_references("here", ["exit"])[0]


def test_a_process_that_hangs_on_everything_is_not_asked_about_the_rest():
    with open_pool(VerifierSpec("own", deadline=0.3)) as pool:
        verdicts = pool.verify("own", [ask("sleep")] * 40)
        assert {verdict.status for verdict in verdicts} == {Status.TIMEOUT}
        assert pool.stats.kills <= 8  # the first calls, and three alone; not all forty
        assert pool.verify("own", [ask()])[0].is_correct


def test_a_deadline_of_years_is_no_problem():
    with open_pool(VerifierSpec("chosen", {"deadline": 1e9})) as pool:
        details_of(pool.verify("chosen", [ask()]))


def test_closing_resolves_what_waits_for_the_trainers_thread():
    pool = open_pool("here")
    futures = [pool.submit("here", ask("sleep")) for _ in range(12)]
    pool.close()
    wait(futures, timeout=0)
    statuses = [future.result(timeout=0).status for future in futures]
    assert statuses[-1] is Status.ABSTAIN and set(statuses) <= {Status.CORRECT, Status.ABSTAIN}
    with pytest.raises(VerifierError, match="closed"):
        pool.submit("here", ask())


def test_a_verifier_is_put_together_from_others():
    with open_pool("both") as pool:
        (verdict,) = pool.verify("both", [ask()])
        assert verdict.reason == "True"
    with pytest.raises(PluginError, match=r"'broken' of plugin.*cannot be put together: ZeroDiv"):
        open_pool("broken")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "moon"}, "placement = 'moon'; it must be one of workers, process, trainer"),
        ({"deadline": 0.0}, "deadline = 0.0; it must be a positive number"),
        ({"deadline": float("inf")}, "deadline = inf"),
        ({"batch_size": 0.5}, "batch_size = 0.5; it must be a whole number above 0"),
        ({"batch_size": None}, "batch_size = None"),
        ({"reads": None}, "reads = None; it must be a tuple"),
        ({"reads": ["prompt"]}, "reads = .*out of messages, token_ids"),
    ],
)
def test_what_a_verifier_asks_for_is_checked(options, message):
    with pytest.raises((PluginError, ConfigError), match=message):
        open_pool(VerifierSpec("chosen", options))
