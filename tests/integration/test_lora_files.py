"""Folders of adapters: ours that peft reads, peft's that we read, and those that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapted_models import ALPHA, CPU, RANK, adapted, logits, move
from grpo_core.config import LoraConfig
from grpo_core.errors import CheckpointError, DataError
from grpo_core.models.adapter_files import restore_adapter
from grpo_core.models.adapters import add_lora, has_adapters, merged_weights
from grpo_core.models.find import find_model
from grpo_core.models.load import load_model, load_tokenizer
from grpo_core.training.checkpoint import save_weights
from grpo_core.training.precision import MasterWeights
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phimoe"])
def test_peft_reads_what_is_saved(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    base = save_tiny_model(tmp_path / "base", family)
    model = load_model(base, CPU)
    add_lora(model, LoraConfig(rank=RANK, alpha=ALPHA), 0, str(base))
    move(model)
    exact = logits(model)
    masters = MasterWeights(model, dtype)
    save_weights(tmp_path / "saved", model, tiny_tokenizer(), masters)

    files = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= files
    assert "model.safetensors" not in files and "config.json" not in files
    stored = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert all(".lora_" in name and value.dtype == torch.float32 for name, value in stored.items())
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh, tmp_path / "saved").eval()), exact)

    folder = find_model(str(tmp_path / "saved"))
    apart, merged = load_model(folder, CPU), load_model(folder, CPU, merge_adapter=True)
    assert torch.equal(logits(apart), exact)
    assert type(merged) is type(tiny_model(family)) and not has_adapters(merged)
    torch.testing.assert_close(logits(merged), exact, rtol=1e-4, atol=1e-4)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    ours = merged_weights(apart)
    assert ours.keys() == merged.state_dict().keys()
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(ours[name], value)


def test_tied_weights_stay_tied_for_an_engine_of_its_own() -> None:
    weights = merged_weights(adapted())
    assert weights["lm_head.weight"] is weights["model.embed_tokens.weight"]


def test_an_adapter_of_peft_s_own_is_read(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    config = PeftConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], use_rslora=True)
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    move(theirs)
    theirs.eval().save_pretrained(tmp_path / "theirs")
    folder = find_model(str(tmp_path / "theirs"))
    assert torch.equal(logits(load_model(folder, CPU)), logits(theirs))
    assert load_tokenizer(folder, CPU).chat_template  # it has none: the base's


def test_adapters_come_back_to_the_bit(tmp_path: Path) -> None:
    model = adapted(base="base")
    masters = MasterWeights(model, torch.bfloat16)
    save_weights(tmp_path, model, tiny_tokenizer(), masters)
    fresh = adapted(seed=9, moved=False)
    restore_adapter(fresh, tmp_path, check_base=True)
    found = dict(fresh.named_parameters())
    for name, master in masters.parameters.items():
        assert torch.equal(found[name], master), name


def saved_adapter(tmp_path: Path) -> tuple[Path, Path]:
    base, folder = save_tiny_model(tmp_path / "base"), tmp_path / "adapter"
    model = adapted(base=str(base))
    save_weights(folder, model, tiny_tokenizer(), MasterWeights(model, torch.float32))
    return base, folder


def test_another_base_is_refused(tmp_path: Path) -> None:
    base, folder = saved_adapter(tmp_path)
    shutil.rmtree(base)
    save_tiny_model(base, seed=1)
    with pytest.raises(DataError, match=r"trained on other weights.*Put the base model back"):
        load_model(folder, CPU)
    other = adapted(moved=False)
    with torch.no_grad():
        other.model.norm.weight[3] += 0.1
    with pytest.raises(CheckpointError, match=r"other weights.*Or delete .*adapter to resume"):
        restore_adapter(other, folder, check_base=True)


def test_a_base_that_has_moved(tmp_path: Path) -> None:
    base, folder = saved_adapter(tmp_path)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"is for the model '.*base'.*correct base_model_name_or_"):
        load_model(folder, CPU)
    set_config(folder, base_model_name_or_path=str(tmp_path / "elsewhere"))
    assert has_adapters(load_model(folder, CPU))


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_model_name_or_path": None}, "does not name the model"),
        ({"peft_type": "IA3"}, "of kind 'IA3'; only LORA can be read"),
        ({"r": 5}, "does not fit a LlamaForCausalLM"),
        ({"target_modules": ["query"]}, "does not fit a LlamaForCausalLM"),
        ({"target_modules": ["q_proj"]}, r"has unknown \d+ weights"),
    ],
)
def test_an_adapter_config_that_does_not_fit(tmp_path: Path, changes: dict, message: str) -> None:
    _, folder = saved_adapter(tmp_path)
    set_config(folder, **changes)
    with pytest.raises(DataError, match=message):
        load_model(folder, CPU)


def test_an_adapter_that_is_its_own_base(tmp_path: Path) -> None:
    _, folder = saved_adapter(tmp_path)
    set_config(folder, base_model_name_or_path=str(folder))
    with pytest.raises(DataError, match="its own base"):
        load_model(folder, CPU)


def test_weights_of_an_adapter_that_are_missing(tmp_path: Path) -> None:
    _, folder = saved_adapter(tmp_path)
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path)
    with pytest.raises(DataError, match="lacks 1 weights of the adapter"):
        load_model(folder, CPU)
    with pytest.raises(CheckpointError, match="lacks 1 weights of the adapter"):
        restore_adapter(adapted(), folder, check_base=True)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_model(folder, CPU)
