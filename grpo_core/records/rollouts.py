"""Rollouts as Parquet: one row for each completion, with the whole audit trail of its reward.

The files can be read with `datasets.load_dataset("parquet", data_files=...)`, pandas, or DuckDB;
nested values are JSON text. Reading gives back the records that were written, log-probabilities
rounded to float32 and sequences as tuples.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from grpo_core.errors import CheckpointError
from grpo_core.records.files import MOVE_AWAY, atomic_writer
from grpo_core.types import Completion, Json, Prompt, Rollout, RolloutGroup, StepScore, Verdict

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("group", pa.int32()),  # position of the prompt in the step: one prompt may come twice
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("messages", pa.string()),
        ("reference", pa.string()),
        ("meta", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("index", pa.int32()),
        ("completion", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("sampler_logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("token_ends", pa.list_(pa.int32())),
        ("verdicts", pa.string()),
        ("status", pa.string()),
        ("score", pa.float64()),
        ("correct", pa.bool_()),
        ("components", pa.string()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("token_advantages", pa.list_(pa.float64())),  # exact, for other processes read them here
        ("valid", pa.bool_()),
        ("trained", pa.bool_()),  # False where the group was replaced for lack of signal
    ],
    metadata={"grpo_core_rollouts": "2"},
)


def write_rollouts(path: Path, groups: Sequence[RolloutGroup]) -> None:
    """Replace `path` by the rows of `groups`, whole or not at all.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    table = _table(groups)
    with atomic_writer(path) as stream:
        pq.write_table(table, stream, compression="zstd")


def rollouts_to_bytes(groups: Sequence[RolloutGroup]) -> bytes:
    """What `write_rollouts` writes, for another process."""
    stream = io.BytesIO()
    pq.write_table(_table(groups), stream, compression="zstd")
    return stream.getvalue()


def rollouts_from_bytes(data: bytes) -> list[RolloutGroup]:
    """The groups that `rollouts_to_bytes` was given."""
    return _groups(pq.read_table(io.BytesIO(data)).to_pylist())


def read_rollouts(path: Path) -> list[RolloutGroup]:
    """The groups of a file that `write_rollouts` wrote.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds something else.
    """
    try:
        with pq.ParquetFile(path) as file:
            rows = file.read().to_pylist()
        return _groups(rows)
    except FileNotFoundError as error:
        raise CheckpointError(f"cannot read {path}: no such file.") from error
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} holds no readable rollouts: {str(error).rstrip('.')}. {MOVE_AWAY}"
        ) from error


def _table(groups: Sequence[RolloutGroup]) -> pa.Table:
    rows = [row for position, group in enumerate(groups) for row in _rows(position, group)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _groups(rows: Iterable[Mapping[str, Any]]) -> list[RolloutGroup]:
    by_group = groupby(rows, key=lambda row: (row["step"], row["group"]))
    return [_group(list(members)) for _, members in by_group]


def _rows(position: int, group: RolloutGroup) -> Iterable[dict[str, Any]]:
    shared = {
        "step": group.step,
        "group": position,
        "prompt_id": _text(group.prompt.id),
        "prompt": _text(group.prompt.text),
        "messages": _json([dict(message) for message in group.prompt.messages]),
        "reference": _json(group.prompt.reference),
        "meta": _json(dict(group.prompt.meta)),
        "prompt_token_ids": list(group.prompt_token_ids),
        "trained": group.is_trained,
    }
    for rollout in group.rollouts:
        yield {**shared, **_completion_row(rollout.completion), **_judgement_row(rollout)}


def _completion_row(completion: Completion) -> dict[str, Any]:
    return {
        "index": completion.index,
        "completion": _text(completion.text),
        "token_ids": list(completion.token_ids),
        "sampler_logprobs": list(completion.sampler_logprobs),
        "finish_reason": completion.finish_reason,
        "token_ends": list(completion.token_ends),
    }


def _judgement_row(rollout: Rollout) -> dict[str, Any]:
    judgement = rollout.judgement if rollout.verdicts else None
    return {
        "verdicts": _json({name: asdict(verdict) for name, verdict in rollout.verdicts.items()}),
        "status": str(judgement.status) if judgement else None,
        "score": judgement.score if judgement else None,
        "correct": judgement.is_correct if judgement else False,
        "components": _json(dict(rollout.components)),
        "reward": rollout.reward,
        "advantage": rollout.advantage,
        "token_advantages": list(rollout.token_advantages),
        "valid": rollout.is_valid,
    }


def _group(rows: Sequence[Mapping[str, Any]]) -> RolloutGroup:
    first = rows[0]
    prompt = Prompt(
        first["prompt_id"],
        tuple(json.loads(first["messages"])),
        json.loads(first["reference"]),
        json.loads(first["meta"]),
    )
    rollouts = tuple(_rollout(row) for row in rows)
    return RolloutGroup(
        prompt, tuple(first["prompt_token_ids"]), rollouts, first["step"], first["trained"]
    )


def _rollout(row: Mapping[str, Any]) -> Rollout:
    completion = Completion(
        tuple(row["token_ids"]),
        row["completion"],
        tuple(row["sampler_logprobs"]),
        row["finish_reason"],
        row["index"],
        tuple(row.get("token_ends") or ()),  # runs of before have none
    )
    verdicts = {name: _verdict(fields) for name, fields in json.loads(row["verdicts"]).items()}
    components = json.loads(row["components"])
    token_advantages = tuple(row.get("token_advantages") or ())
    return Rollout(
        completion, verdicts, components, row["reward"], row["advantage"], token_advantages
    )


def _verdict(fields: Mapping[str, Any]) -> Verdict:
    steps = tuple(StepScore(**step) for step in fields.get("steps", ()))
    return Verdict(**{**fields, "steps": steps})


def _json(value: Json) -> str:
    return json.dumps(value)  # ASCII, so that any text survives; NaN is kept, unlike in metrics


def _text(text: str) -> str:
    """Lone surrogates, which no UTF-8 file can hold, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
