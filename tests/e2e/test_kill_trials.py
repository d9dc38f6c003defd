"""kill -9 at moments that hypothesis draws: the resumed run equals the undisturbed one.

Few trials here; `python tests/kill_trials.py` makes as many as are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kill_trials import QUIET, configs, table
from kill_workshop import Kill, Plan, Workshop

slow = pytest.mark.slow
ONCE = settings(QUIET, phases=[Phase.generate])  # a trial takes seconds, too long to simplify
# Whatever the loop remembers between steps, in one config, so that one undisturbed run will do.
ALL = "all"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="files are told apart and orphans found in /proc"
)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    variants = configs()
    everything = {
        **variants["curriculum"],
        "grpo": {**variants["curriculum"]["grpo"], "num_iterations": 2, "beta": 0.1},
        "reference": {"sync_every": 2},
    }
    with Workshop(tmp_path_factory.mktemp("kills"), {ALL: everything}) as workshop:
        yield workshop


@settings(ONCE, max_examples=2)
@given(data=st.data())
def test_a_killed_run_ends_as_if_nothing_had_been(workshop: Workshop, data: st.DataObject) -> None:
    assert workshop.run(data.draw(workshop.plans(max_kills=2))).differences == ()


def test_every_kind_of_moment_can_be_drawn(workshop: Workshop) -> None:
    """And every step learns, or the weights of a run that began anew would be right by chance."""
    counts = workshop.reference(ALL).counts
    kinds = {kind for kind, _ in counts}
    assert kinds == {
        "sampling", "scoring", "update", "optimiser", "evaluation", "records", "checkpoint",
        "pruning", "resume", "metrics bytes", "rollouts bytes", "checkpoint bytes",
    }  # fmt: skip
    assert {step for kind, step in counts if kind == "optimiser"} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("fault", "different"),
    [
        ("no moments", "model.safetensors differs"),
        pytest.param("old step", "metrics.jsonl differs", marks=slow),
        pytest.param("no selection", "rollouts/step-000004.parquet differs", marks=slow),
    ],
)
def test_a_resume_that_forgets_something_is_noticed(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, fault: str, different: str
) -> None:
    monkeypatch.setattr(workshop, "fault", fault)
    trial = workshop.run(Plan(ALL, (Kill("scoring", 3, 5),)))
    assert trial.killed == (True,)
    assert any(different in found for found in trial.differences), trial.differences
    assert "not equal\nscoring                 1                1              0          1" in (
        table([trial])
    )


@slow
def test_many_kills_of_all_variants(tmp_path: Path) -> None:
    with Workshop(tmp_path, configs()) as workshop:
        trials = []

        @settings(ONCE, max_examples=25)
        @given(plan=workshop.plans(max_kills=2))
        def attempt(plan: Plan) -> None:
            trials.append(workshop.run(plan))
            assert trials[-1].differences == ()

        attempt()
    assert sum(sum(trial.killed) for trial in trials) >= len(trials)
