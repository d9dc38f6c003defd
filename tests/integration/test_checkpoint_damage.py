"""A checkpoint that is not as it was saved is refused, and the message leads on."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cli_process import snapshot
from grpo_core.config import TrainerConfig
from grpo_core.errors import CheckpointError
from grpo_core.models.checksums import check_model_files, find_damage, seal
from grpo_core.models.find import find_model
from grpo_core.training.checkpoint import (
    TrainerState,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.precision import MasterWeights
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 1 to 3."""
    run = tmp_path_factory.mktemp("saved") / "a run"
    for step in (1, 2, 3):
        save(run / "checkpoints", TrainerState(step=step))
    return run


def save(folder: Path, state: TrainerState) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model = tiny_model(seed=state.step)
    masters = MasterWeights(model, torch.float32)
    optimizer = create_optimizer(masters.parameters, TrainerConfig())
    model(input_ids=torch.tensor([[1, 2, 3, 4]])).logits.square().sum().backward()
    optimizer.step()
    return save_checkpoint(folder, model, tiny_tokenizer(), masters, optimizer, state)


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(saved, tmp_path / "a run"))


def step_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path, bit: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    bit = len(data) * 4 if bit is None else bit
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def add_shard(path: Path) -> None:
    save_file({"model.norm.weight": torch.zeros(32)}, path.with_name("model-2.safetensors"))


DAMAGES = {
    "flip weights": ("model.safetensors", flip, "its content is not what was saved"),
    "flip moments": ("optimizer.safetensors", flip, "its content is not what was saved"),
    "flip template": ("chat_template.jinja", flip, "its content is not what was saved"),
    "cut weights": ("model.safetensors", cut, r"it has \d+ bytes, \d+ were saved"),
    "no moments": ("optimizer.safetensors", Path.unlink, "is missing"),
    "no model config": ("config.json", Path.unlink, "is missing"),
    "extra shard": ("model-2.safetensors", add_shard, "does not belong to the checkpoint"),
    "no sums": ("checksums.json", Path.unlink, "is missing"),
    "cut sums": ("checksums.json", lambda path: path.write_text("{"), "is damaged"),
    "no state": ("trainer_state.json", Path.unlink, "is missing"),
    "empty state": ("trainer_state.json", lambda path: path.write_text(""), "is damaged"),
}
damages = pytest.mark.parametrize(("name", "act", "what"), DAMAGES.values(), ids=DAMAGES)


@damages
def test_damage_is_named_with_the_way_on(
    run: Path, name: str, act: Callable[[Path], object], what: str
) -> None:
    act(step_of(run, 3) / name)
    before = snapshot(run)
    with pytest.raises(CheckpointError, match=rf"step-000003/{name}.*{what}") as caught:
        read_state(step_of(run, 3))
    assert f"can go on from {step_of(run, 2)}, which is whole" in str(caught.value)
    assert snapshot(run) == before

    command = str(caught.value).splitlines()[-1].strip()
    move, _, resume = command.partition(" && ")
    assert resume == f"grpo train --resume --output '{run}'"
    _, source, target = shlex.split(move)
    Path(source).rename(target)
    newest = newest_checkpoint(run / "checkpoints")
    assert newest == step_of(run, 2)
    assert read_state(newest).step == 2


def test_damaged_ones_before_it_are_passed_over(run: Path) -> None:
    for step in (2, 3):
        flip(step_of(run, step) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"can go on from .*step-000001, which") as caught:
        read_state(step_of(run, 3))
    assert str(caught.value).count("mv ") == 2
    flip(step_of(run, 1) / "model.safetensors")
    with pytest.raises(CheckpointError, match="can only begin again") as caught:
        read_state(step_of(run, 3))
    assert str(caught.value).count("mv ") == 3


@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(saved: Path, data: st.DataObject) -> None:
    """Save for one that changes how a JSON text of ours is laid out, not what it says."""
    folder = step_of(saved, 3)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    original = path.read_bytes()
    bit = data.draw(st.integers(0, len(original) * 8 - 1))
    try:
        flip(path, bit)
        is_ours = path.name in ("checksums.json", "trainer_state.json")
        if not (is_ours and says(path.read_bytes()) == json.loads(original)):
            assert find_damage(folder) is not None
    finally:
        path.write_bytes(original)
    assert find_damage(folder) is None


def says(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_the_state_can_be_renewed(run: Path) -> None:
    state = TrainerState(step=3, best_step=3, best_pass_at_1=0.5)
    save(run / "checkpoints", state)
    assert read_state(step_of(run, 3)) == state


def test_a_state_of_another_step_is_refused(run: Path) -> None:
    shutil.copy(step_of(run, 2) / "trainer_state.json", step_of(run, 3))
    with pytest.raises(CheckpointError, match=r"trainer_state.json is of step 2"):
        read_state(step_of(run, 3))


def test_one_of_an_earlier_version_is_taken_as_it_is(run: Path) -> None:
    """It has no sums, and gets none when its state is renewed: nobody knows what was saved."""
    folder = step_of(run, 3)
    (folder / "checksums.json").unlink()
    (folder / "trainer_state.json").write_text('{"step": 3, "best_step": 1, "tokens": 7}')
    assert read_state(folder) == TrainerState(step=3, best_step=1, tokens=7)
    check_model_files(folder)
    save(run / "checkpoints", TrainerState(step=3, tokens=8))
    assert read_state(folder) == TrainerState(step=3, tokens=8)


def test_sums_that_are_no_table_are_refused(run: Path) -> None:
    """Whoever can write a file can also make its sum fit."""
    for files in (None, [], {"../../secret": 3}):
        (step_of(run, 3) / "checksums.json").write_text(json.dumps(seal({"files": files})))
        with pytest.raises(CheckpointError, match=r"checksums.json is damaged"):
            read_state(step_of(run, 3))


# As a model


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_checkpoint_is_no_model(run: Path, name: str) -> None:
    flip(step_of(run, 3) / name)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged.* give .*step-000002, which is"):
        find_model(str(step_of(run, 3)))


def test_an_extra_shard_makes_no_model(run: Path) -> None:
    add_shard(step_of(run, 3) / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not belong"):
        find_model(str(step_of(run, 3)))


def test_what_only_a_resume_needs_is_not_asked_of_a_model(run: Path) -> None:
    folder = step_of(run, 3)
    flip(folder / "optimizer.safetensors")
    (folder / "trainer_state.json").unlink()
    (folder / "README.md").write_text("a note")
    assert find_model(str(folder)) == folder


def test_models_from_elsewhere_need_no_sums(tmp_path: Path) -> None:
    """Not even when they have files of these names."""
    folder = save_tiny_model(tmp_path / "model")
    (folder / "checksums.json").write_text('{"model.safetensors": "0123"}')
    (folder / "trainer_state.json").write_text('{"global_step": 9}')
    assert find_model(str(folder)) == folder


def test_a_full_disk_while_summing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("grpo_core.training.checkpoint.write_checksums", fail)
    with pytest.raises(CheckpointError, match=r"step-000001: No space left.*intact"):
        save(tmp_path, TrainerState(step=1))
    assert list(tmp_path.iterdir()) == []
