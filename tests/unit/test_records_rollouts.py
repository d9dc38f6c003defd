"""Rollouts survive a round trip through Parquet, and others can read the files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpo_core.errors import CheckpointError
from grpo_core.records.rollouts import read_rollouts, write_rollouts
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Status, Verdict


def verdict(status: Status, score: float | None = None) -> Verdict:
    details = {"parsed": ["1/2", None, {"deep": 0.1}], "text": "\ud800 \x00 é"}
    return Verdict(status, score, "because\x1b", details, 0.1 + 0.2, "math", "1.0")


def rollout(index: int, verdicts: dict[str, Verdict], reward: float | None) -> Rollout:
    logprobs = tuple(float(np.float32(value)) for value in (-0.1, -math.pi))
    completion = Completion((5, 2**31 - 1), f"text {index}\x00\n½", logprobs, "stop", index)
    components = {} if reward is None else {"math": reward, "length": -0.0}
    return Rollout(completion, verdicts, components, reward, 0.1 * index)


def groups() -> list[RolloutGroup]:
    prompt = Prompt(
        "p/1",
        ({"role": "system", "content": "s"}, {"role": "user", "content": "q é"}),
        {"cases": [{"call": "f(1)", "equals": 3}]},
        {"level": 2, "tags": ["a"]},
    )
    rollouts = (
        rollout(0, {"math": verdict(Status.CORRECT, 1.0), "b": verdict(Status.WRONG, 0.25)}, 1.25),
        rollout(1, {"math": verdict(Status.ERROR), "b": verdict(Status.TIMEOUT)}, None),
        rollout(2, {"math": verdict(Status.UNPARSEABLE, 0.0)}, 0.1 + 0.2),
        Rollout(Completion((), "", (), "eos", 3), {"math": verdict(Status.ABSTAIN)}),
    )
    group = RolloutGroup(prompt, (1, 2, 3), rollouts, 7)
    other = RolloutGroup(Prompt("p/2", prompt.messages, None), (), rollouts[:1], 7)
    return [group, group, other]  # one prompt may come twice in a step


def test_round_trip_is_exact(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a.parquet", groups())
    assert read_rollouts(tmp_path / "a.parquet") == groups()


def test_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_rollouts(path, groups())
    rows = pq.read_table(path).to_pylist()
    assert [row["status"] for row in rows[:4]] == ["correct", "error", "unparseable", "abstain"]
    assert [row["score"] for row in rows[:4]] == [1.0, None, 0.0, None]
    assert [row["valid"] for row in rows[:4]] == [True, False, True, False]
    assert [row["correct"] for row in rows[:4]] == [True, False, False, False]
    assert json.loads(rows[0]["verdicts"])["b"]["details"]["parsed"][2] == {"deep": 0.1}
    assert rows[0]["prompt"] == "q é"
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_readable_with_datasets(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_rollouts(path, groups())
    dataset: Any = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(dataset) == 9
    assert dataset[0]["token_ids"] == [5, 2**31 - 1]
    assert dataset[1]["reward"] is None
    assert dataset.features["sampler_logprobs"].feature.dtype == "float32"


def test_no_groups(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a.parquet", [])
    assert read_rollouts(tmp_path / "a.parquet") == []


def test_unjudged_rollouts(tmp_path: Path) -> None:
    bare = Rollout(Completion((1,), "x", (0.0,), "length"), {})
    group = RolloutGroup(Prompt("p", ({"role": "user", "content": "q"},), 1), (1,), (bare,))
    write_rollouts(tmp_path / "a.parquet", [group])
    assert read_rollouts(tmp_path / "a.parquet") == [group]


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*none\.parquet"):
        read_rollouts(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("nothing of the kind")
    with pytest.raises(CheckpointError, match=r"text\.parquet holds no readable rollouts"):
        read_rollouts(tmp_path / "text.parquet")
    pq.write_table(pa.table({"step": [1], "group": [0]}), tmp_path / "foreign.parquet")
    with pytest.raises(CheckpointError, match="no readable rollouts"):
        read_rollouts(tmp_path / "foreign.parquet")


SCORES = st.floats(0, 1)
TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def any_group(draw: st.DrawFn) -> RolloutGroup:
    members = []
    for index in range(draw(st.integers(1, 3))):
        tokens = tuple(draw(st.lists(st.integers(0, 2**31 - 1), max_size=4)))
        logprobs = tuple(draw(st.floats(-50, 0, width=32)) for _ in tokens)
        completion = Completion(tokens, draw(TEXT), logprobs, "eos", index)
        verdicts = {
            name: Verdict.wrong(draw(TEXT), {"x": draw(JSON)}, draw(SCORES))
            for name in draw(st.lists(TEXT, max_size=2, unique=True))
        }
        reward = draw(st.none() | st.floats(allow_nan=False))
        members.append(Rollout(completion, verdicts, {"a": 1.0}, reward, draw(st.floats(-5, 5))))
    prompt = Prompt(draw(TEXT), ({"role": "user", "content": draw(TEXT)},), draw(JSON))
    return RolloutGroup(prompt, (1,), tuple(members), draw(st.integers(0, 2**40)))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(any_group(), max_size=3))
def test_any_group_round_trips(tmp_path_factory: pytest.TempPathFactory, written: Any) -> None:
    path = tmp_path_factory.mktemp("rollouts") / "a.parquet"
    write_rollouts(path, written)
    assert read_rollouts(path) == written
