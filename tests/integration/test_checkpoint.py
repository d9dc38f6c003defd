"""What a checkpoint holds is what the optimiser works on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from grpo_core.config import TrainerConfig
from grpo_core.errors import CheckpointError
from grpo_core.training.checkpoint import (
    TrainerState,
    load_optimizer,
    newest_checkpoint,
    prune_checkpoints,
    read_state,
    save_checkpoint,
    save_weights,
)
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.precision import MasterWeights
from tiny_model import tiny_model, tiny_tokenizer


def trained(model: PreTrainedModel, dtype: torch.dtype) -> tuple[MasterWeights, torch.optim.AdamW]:
    """Masters one step of 1e-5 away from the model, which bfloat16 cannot tell."""
    masters = MasterWeights(model, dtype)
    optimizer = create_optimizer(masters.parameters, TrainerConfig())
    model(input_ids=torch.tensor([[1, 2, 3, 4]])).logits.square().sum().backward()
    optimizer.step()
    masters.publish()
    return masters, optimizer


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_first", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masters_come_back(
    tmp_path: Path, tied: bool, head_first: bool, dtype: torch.dtype
) -> None:
    """Also where the output layer is registered before the embedding it is tied to."""
    model = tiny_model(tied=tied)
    if head_first:
        model._modules["model"] = model._modules.pop("model")  # to the end
    masters, _ = trained(model, dtype)
    save_weights(tmp_path, model, tiny_tokenizer(), masters)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == torch.float32
    found = dict(loaded.named_parameters(remove_duplicate=False))
    for name, master in masters.parameters.items():
        assert torch.equal(found[name], master), name
    assert (found["lm_head.weight"] is found["model.embed_tokens.weight"]) == tied


def test_moments_come_back(tmp_path: Path) -> None:
    model = tiny_model()
    masters, optimizer = trained(model, torch.float32)
    state = TrainerState(step=1)
    folder = save_checkpoint(tmp_path, model, tiny_tokenizer(), masters, optimizer, state)
    fresh = create_optimizer(masters.parameters, TrainerConfig())
    load_optimizer(folder, masters, fresh)
    for parameter in masters.parameters.values():
        for key, value in optimizer.state[parameter].items():
            assert torch.equal(fresh.state[parameter][key], value)


def test_moments_of_another_model_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    masters, optimizer = trained(model, torch.float32)
    state = TrainerState(step=1)
    folder = save_checkpoint(tmp_path, model, tiny_tokenizer(), masters, optimizer, state)
    path = folder / "optimizer.safetensors"
    save_file({f"other.{key}": value for key, value in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=r"cannot be read.*other"):
        load_optimizer(folder, masters, optimizer)


def test_a_tokenizer_with_several_templates_is_saved(tmp_path: Path) -> None:
    """transformers gives them a folder of their own."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    tokenizer.chat_template = {"default": tokenizer.chat_template, "tools": "{{ tools }}"}
    masters, optimizer = trained(model, torch.float32)
    state = TrainerState(step=1)
    folder = save_checkpoint(tmp_path, model, tokenizer, masters, optimizer, state)
    assert [path for path in folder.iterdir() if path.is_dir()]


def test_of_a_checkpoint_that_is_there_the_state_is_renewed(tmp_path: Path) -> None:
    """An evaluation after it was written may have made it the best one."""
    model = tiny_model()
    masters, optimizer = trained(model, torch.float32)
    for state in (TrainerState(step=1), TrainerState(step=1, best_step=1, best_pass_at_1=0.5)):
        folder = save_checkpoint(tmp_path, model, tiny_tokenizer(), masters, optimizer, state)
    assert read_state(folder) == state


def test_the_newest_by_number_and_nothing_else(tmp_path: Path) -> None:
    for name in ("step-000009", "step-999999", "step-1000000", "step-1000000.bak", ".partial-x"):
        (tmp_path / name).mkdir()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "step-1000000"
    prune_checkpoints(tmp_path, keep=1, best_step=9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000009", "step-1000000", "step-1000000.bak",
    ]  # fmt: skip
    assert newest_checkpoint(tmp_path / "none") is None


def test_a_checkpoint_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors raises an error of its own on a full disk."""

    def fail(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("grpo_core.training.checkpoint.save_file", fail)
    model = tiny_model()
    masters, optimizer = trained(model, torch.float32)
    with pytest.raises(CheckpointError, match=r"step-000001: .*No space left.*intact"):
        save_checkpoint(tmp_path, model, tiny_tokenizer(), masters, optimizer, TrainerState(step=1))
    assert list(tmp_path.iterdir()) == []
