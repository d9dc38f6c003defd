"""Atomic files, text for showing, and the run directory."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grpo_core.errors import CheckpointError
from grpo_core.records.files import atomic_writer, dump_json, read_json, write_json, write_text
from grpo_core.records.run_directory import RunDirectory
from grpo_core.records.text import printable, redact
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict


def group(step: int = 1) -> RolloutGroup:
    rollout = Rollout(Completion((1,), "1", (-0.5,), "eos"), {"v": Verdict.correct()}, {}, 1.0)
    prompt = Prompt("p", ({"role": "user", "content": "q"},), "1")
    return RolloutGroup(prompt, (1,), (rollout,), step)


def run_in(folder: Path) -> RunDirectory:
    run = RunDirectory.create("run", folder)
    run.write_config({"seed": 1})
    return run


# Files


def test_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(KeyError), atomic_writer(path) as stream:
        stream.write(b"half of the ne")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_names_path_and_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"a\.json: No space left.*Free some space"):
        write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    code = (
        "import os, pathlib, sys\n"
        "from grpo_core.records.files import atomic_writer\n"
        "with atomic_writer(pathlib.Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'{\"new\"'); stream.flush(); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    assert read_json(path) == {"old": True}


def test_json_is_standard_and_takes_numpy() -> None:
    value = {"a": math.nan, "b": [math.inf, np.float32(0.5), np.int64(3)], 4: "é"}
    assert json.loads(dump_json(value)) == {"a": None, "b": [None, 0.5, 3], "4": "é"}


def test_lone_surrogate_in_text_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"reason": "\ud800"})
    assert read_json(tmp_path / "a.json") == {"reason": "?"}


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


# Text


def test_printable_leaves_ordinary_text_alone() -> None:
    text = "ünï \\boxed{½}\n\t日本 👩‍🚀"
    assert printable(text) == text


def test_printable_disarms_escapes_and_reordering() -> None:
    shown = printable("\x1b[2J\x00\x7f\x9b\u202e\ud800 a\r\nb\rc\u2028d")
    assert shown == "␛[2J␀␡\ufffd\ufffd\ufffd a\nb\nc\nd"


def test_printable_says_how_much_it_cut() -> None:
    assert printable("x" * 12, 10) == "x" * 10 + " … (2 more characters)"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("judge.api_key=abc", "judge.api_key=[redacted]"),
        ('"api-key": "abc def"', '"api-key": [redacted] def"'),
        ("TOKEN = x", "TOKEN = [redacted]"),
        ("--set a=hf_abcdefghijklmnopqrst", "--set a=[redacted]"),
        ("sampling.max_new_tokens=24", "sampling.max_new_tokens=24"),
        ("api_key_env=OPENAI_API_KEY", "api_key_env=OPENAI_API_KEY"),
    ],
)
def test_redact(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_write_where_a_folder_should_be(tmp_path: Path) -> None:
    """Also the removal of the temporary file fails there; the first error is the one to tell."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*file/a.json: Not a directory"):
        write_json(tmp_path / "file" / "a.json", 1)


# Run directory


def test_create_refuses_a_folder_with_files(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    with pytest.raises(CheckpointError, match=r"not empty.*another --output.*--resume"):
        RunDirectory.create("run", tmp_path)
    assert RunDirectory.open(run.path).read_config() == {"seed": 1}


def test_create_takes_an_empty_folder_and_any_path(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunDirectory.create(tmp_path / "empty", "").path == tmp_path / "empty"
    assert RunDirectory.create(tmp_path / "a" / "b", "").checkpoints.is_dir()


def test_create_takes_the_folder_of_a_run_that_never_began(tmp_path: Path) -> None:
    first = RunDirectory.create("run", tmp_path)
    assert RunDirectory.create("run", tmp_path).path == first.path
    (first.path / "rollouts" / "step-000001.parquet").touch()
    with pytest.raises(CheckpointError, match="not empty"):
        RunDirectory.create("run", tmp_path)


def test_created_names_differ(tmp_path: Path) -> None:
    assert len({RunDirectory.create(base=tmp_path).path for _ in range(3)}) == 3


def test_create_under_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file, not a folder"):
        RunDirectory.create("file", tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot write .*file/run.*Choose another --output"):
        RunDirectory.create("run", tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_create_in_a_read_only_folder_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="Permission denied"):
        RunDirectory.create("run", tmp_path)


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match=r"run.*Permission denied\. Choose another"):
        RunDirectory.create("run", tmp_path)


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        RunDirectory.open(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        RunDirectory.open(tmp_path)


def test_newest(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no run in"):
        RunDirectory.newest(tmp_path)
    for age, name in enumerate(["late", "middle", "early"]):
        run = RunDirectory.create(name, tmp_path)
        run.write_config({})
        os.utime(run.path / "config.json", (1e9 - age, 1e9 - age))
    assert RunDirectory.newest(tmp_path).path.name == "late"


def test_metrics_survive_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    assert run.read_metrics() == []
    run.append_metrics({"step": 1, "loss": 0.5})
    run.append_metrics({"step": 2, "loss": math.nan})
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert run.read_metrics() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]


def test_damaged_metrics_are_named(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    (run.path / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
        run.read_metrics()


def test_metrics_on_a_full_disk(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: No space left"):
        run.append_metrics({"step": 1})


def test_rewind_forgets_later_steps(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
        run.write_rollouts(step, [group(step)])
    for step in (0, 2, 3):
        run.write_evaluation(step, {"step": step}, [group(step)])
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step"')
    run.write_summary({"status": "interrupted"})

    run.rewind(2)
    run.append_metrics({"step": 3, "again": True})

    assert [line["step"] for line in run.read_metrics()] == [1, 2, 3]
    assert run.rollout_steps == [1, 2]
    assert [result["step"] for result in run.read_evaluations()] == [0, 2]
    assert run.read_evaluation_rollouts(3) == []
    assert run.read_summary() == {}


def test_rewind_removes_what_a_kill_left_half_written(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    code = (
        "import os, sys\nfrom pathlib import Path\n"
        "from grpo_core.records.files import atomic_writer\n"
        "with atomic_writer(Path(sys.argv[1])) as stream:\n"
        "    stream.write(b'half')\n    stream.flush()\n    os.kill(os.getpid(), 9)\n"
    )
    path = run.path / "rollouts" / "step-000001.parquet"
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert len(list(path.parent.iterdir())) == 1
    run.rewind(1)
    assert list(path.parent.iterdir()) == []


def test_names_of_files(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.write_rollouts(1, [group()])
    run.write_evaluation(0, {"step": 0}, [group(0)])
    run.write_manifest({})
    names = {str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file()}
    assert names == {
        "config.json", "manifest.json", "rollouts/step-000001.parquet",
        "evaluations/step-000000.json", "evaluations/step-000000.parquet",
    }  # fmt: skip
    assert run.read_rollouts(1) == [group()]
