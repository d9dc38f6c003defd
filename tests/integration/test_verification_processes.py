"""No process outlives its pool, however the pool, the zygote, or the trainer ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from grpo_core.errors import VerifierError
from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Status
from grpo_core.verification.pool import VerifierPool, VerifierSpec
from integration.verification_pools import PLUGIN, is_alive, open_pool, sample, wait_until

TRAINER = f"""
import sys, time
from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Sample
from grpo_core.verification.pool import VerifierPool, VerifierSpec
names = ["spawns", "hangs"]
pool = VerifierPool(
    [VerifierSpec(name) for name in names], PluginSources(({str(PLUGIN)!r},), False), deadline=60
)
with pool:
    pool.verify("spawns", [Sample("", "", sys.argv[1])])
    pool.submit("hangs", Sample("", "", ""))
    try:
        print(*pool.pids, flush=True)
        pool.verify("hangs", [Sample("", "", "")] * 2)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
ORDINARY_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.fixture
def trainer(tmp_path):
    """A process with a busy pool, and the ids of all processes below it."""
    process = subprocess.Popen(
        # Where the tests run in the background, Ctrl-C is switched off for their children.
        [sys.executable, "-c", ORDINARY_CTRL_C + TRAINER, str(tmp_path / "pids")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    with process:
        below = [int(pid) for pid in process.stdout.readline().split()]
        below += [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert len(below) == 5  # zygote, two workers, two children of a verifier
        assert all(map(is_alive, below))
        yield process, below
        process.kill()
        for pid in filter(is_alive, below):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_trainer_leaves_no_orphans(trainer, number):
    process, below = trainer
    process.send_signal(number)
    process.wait(5)
    wait_until(lambda: not any(map(is_alive, below)), 3.0)


def test_a_killed_zygote_takes_its_workers_along(trainer):
    """And what they have started, unless it went into a session of its own."""
    _, below = trainer
    os.kill(below[0], signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, below[:4])), 3.0)


def test_workers_do_not_outlive_a_zygote_and_a_trainer_that_end_together(trainer):
    process, below = trainer
    process.send_signal(signal.SIGSTOP)
    os.kill(below[0], signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, below[:3])), 3.0)
    process.send_signal(signal.SIGCONT)


def test_ctrl_c_interrupts_the_trainer_and_nobody_else(trainer):
    process, below = trainer
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.stdout.readline() == "interrupted\n"
    assert process.wait(5) == 0
    assert not any(map(is_alive, below))


def test_after_close_no_process_remains():
    with open_pool("good", "hangs", workers=3) as pool:
        pool.verify("good", [sample("yes")])
        wait_until(lambda: len(pool.pids) == 4)
        pool.submit("hangs", sample(""))
        pids = pool.pids
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))
    assert not [thread for thread in threading.enumerate() if "grpo" in thread.name]


def test_workers_hold_no_files_of_the_trainer(tmp_path):
    with open(tmp_path / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        with open_pool("good") as pool:
            pool.verify("good", [sample("yes")])
            wait_until(lambda: len(pool.pids) == 3)
            for pid in pool.pids:
                names = os.listdir(f"/proc/{pid}/fd")
                targets = [os.readlink(f"/proc/{pid}/fd/{name}") for name in names]
                assert str(tmp_path / "secret") not in targets
                assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
            for pid in pool.pids[1:]:  # 0, 1, 2, and the connection, once the fork is finished
                wait_until(lambda pid=pid: len(os.listdir(f"/proc/{pid}/fd")) == 4)
            # out of the terminal's reach, likewise
            wait_until(lambda: [os.getsid(pid) for pid in pool.pids] == pool.pids)


def test_a_zygote_that_ends_is_replaced():
    with open_pool("good", "hangs") as pool:
        hanging = pool.submit("hangs", sample(""))
        wait_until(pool._dispatcher._crew.unanswered)
        zygote = pool.pids[0]
        os.kill(zygote, signal.SIGKILL)
        verdict = hanging.result(timeout=5)
        assert verdict.status is Status.ERROR
        assert "lost its worker" in verdict.reason
        assert pool.verify("good", [sample("yes")])[0].is_correct
        assert pool.pids[0] != zygote
        assert pool.stats.zygote_restarts == 1


def test_a_plugin_file_is_found_again_after_the_trainer_has_moved(tmp_path, monkeypatch):
    monkeypatch.chdir(PLUGIN.parent)
    sources = PluginSources((PLUGIN.name,), use_entry_points=False)
    with VerifierPool([VerifierSpec("good")], sources) as pool:
        monkeypatch.chdir(tmp_path)
        os.kill(pool.pids[0], signal.SIGKILL)
        wait_until(lambda: pool.stats.zygote_restarts == 1)
        assert pool.verify("good", [sample("yes")])[0].is_correct


def test_an_answer_that_overtakes_the_kill_counts_and_nobody_else_is_blamed():
    with open_pool("sleeps", workers=1) as pool:
        wait_until(lambda: len(pool.pids) == 2)
        pool._dispatcher._mean_seconds = 0.0  # so that calls are sent ahead
        futures = [pool.submit("sleeps", sample("", seconds)) for seconds in (0.7, 0.3, 0.0)]
        os.kill(pool.pids[0], signal.SIGSTOP)
        time.sleep(0.8)
        os.kill(pool.pids[0], signal.SIGCONT)
        assert all(future.result(timeout=5).is_correct for future in futures)
        assert (pool.stats.kills, pool.stats.restarts) == (1, 1)


def test_a_zygote_that_ends_again_breaks_the_pool_and_no_future_hangs():
    with open_pool("good", "kills_parent") as pool:
        futures = [pool.submit("kills_parent", sample("")) for _ in range(8)]
        verdicts = [future.result(timeout=10) for future in futures]
        assert {verdict.status for verdict in verdicts} == {Status.ERROR}
        with pytest.raises(VerifierError, match=r"broken down.*'good', 'kills_parent'"):
            pool.submit("good", sample("yes"))
        with pytest.raises(VerifierError, match="broken down"):
            pool.verify("good", [sample("yes")])
    assert not any(map(is_alive, pool.pids))


@pytest.mark.parametrize("num_samples", [0, 30])
def test_workers_that_end_at_once_are_not_replaced_for_ever(num_samples):
    with open_pool("StillBorn") as pool:
        try:
            futures = [pool.submit("StillBorn", sample("")) for _ in range(num_samples)]
        except VerifierError:
            futures = []
        for future in futures:
            assert future.result(timeout=10).status is Status.ERROR
        wait_until(lambda: pool._dispatcher._refusal)
        with pytest.raises(VerifierError, match=r"'StillBorn' ended in a row before"):
            pool.submit("StillBorn", sample(""))
        assert pool.stats.restarts < num_samples + 20


def test_a_zygote_that_does_not_do_as_told_is_replaced(monkeypatch):
    monkeypatch.setattr("grpo_core.verification.crew._KILL_LIMIT", 0.5)
    with open_pool("good", "hangs") as pool:
        wait_until(lambda: len(pool.pids) == 3)
        hanging = pool.submit("hangs", sample(""))
        os.kill(pool.pids[0], signal.SIGSTOP)
        assert hanging.result(timeout=5).status is Status.ERROR
        assert pool.verify("good", [sample("yes")])[0].is_correct


def test_a_forked_child_of_the_trainer_does_not_close_the_pool():
    with open_pool("good") as pool:
        pid = os.fork()
        if pid == 0:
            pool.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert pool.verify("good", [sample("yes")])[0].is_correct


def test_a_bug_in_the_dispatcher_hangs_nobody(monkeypatch, capfd):
    def stumble(*_):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("threading.excepthook", lambda arguments: None)
    with open_pool("good", "sleeps") as pool:
        waiting = pool.submit("sleeps", sample("", 30))
        time.sleep(0.05)
        monkeypatch.setattr(pool._dispatcher, "_assign", stumble)
        asked = pool.submit("good", sample("yes"))
        for future in (waiting, asked):
            assert future.result(timeout=5).status is Status.ERROR
        with pytest.raises(VerifierError, match="broken down"):
            pool.submit("good", sample("yes"))
    assert not any(map(is_alive, pool.pids))
