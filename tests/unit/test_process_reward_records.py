"""Steps, and advantages of tokens, in recorded rollouts and on their way to other processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from grpo_core.records.rollouts import (
    read_rollouts,
    rollouts_from_bytes,
    rollouts_to_bytes,
    write_rollouts,
)
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Status, StepScore, Verdict
from grpo_core.verification.protocol import MAX_STEPS

STEPS = (StepScore(2, 0.25), StepScore(3, 1 / 3))
VERDICT = Verdict(Status.WRONG, 0.25, "weak", {"raw_steps": [0.25]}, 0.1, "prm", "1.0", STEPS)
COMPLETION = Completion((5, 6, 7), "abc", (-0.5, -1.0, -1.5), "eos", 0, (1, 2, 3))
ROLLOUT = Rollout(COMPLETION, {"prm": VERDICT}, {"prm": 0.25}, 0.25, 0.2, (0.1, 1 / 3, -0.7))
PLAIN = Rollout(replace(COMPLETION, index=1, token_ends=()), {"prm": Verdict.error()})
GROUP = RolloutGroup(
    Prompt("p", ({"role": "user", "content": "x"},), None), (1, 2), (ROLLOUT, PLAIN), 3
)


def test_recorded_rollouts_keep_steps_and_tokens(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "rollouts.parquet", [GROUP])
    assert read_rollouts(tmp_path / "rollouts.parquet") == [GROUP]


def test_other_processes_get_the_very_numbers() -> None:
    assert rollouts_from_bytes(rollouts_to_bytes([GROUP])) == [GROUP]


def test_rollouts_of_before_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.parquet"
    write_rollouts(path, [GROUP])
    table = pq.read_table(path).drop_columns(["token_ends", "token_advantages"])
    pq.write_table(table, path)
    first = read_rollouts(path)[0].rollouts[0]
    assert first.token_advantages == () and first.completion.token_ends == ()
    assert first.verdicts == ROLLOUT.verdicts


@pytest.mark.parametrize("ends", [(2, 2), (3, 2), (-1, 2)])
def test_steps_out_of_order_are_no_verdict(ends: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="one after the other"):
        Verdict(Status.WRONG, 0.5, steps=[StepScore(end, 0.5) for end in ends])


def test_a_verifier_may_have_as_many_steps_as_a_reply_holds() -> None:
    from grpo_verifiers.learned.process_reward import StepOptions

    field = StepOptions.model_fields["most"]
    limits = [item.le for item in field.metadata if hasattr(item, "le")]
    assert limits and limits[0] <= MAX_STEPS
