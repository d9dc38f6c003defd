"""Whole runs with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from adapted_models import CPU, logits
from grpo_core.config import LoraConfig, RunConfig
from grpo_core.errors import ConfigError, MissingExtraError
from grpo_core.evaluation.run import evaluate_model
from grpo_core.models.find import find_model, model_chain
from grpo_core.models.load import load_model
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.learner_setup import load_learner
from grpo_core.training.preflight import check_settings, preflight
from grpo_core.training.run import train
from grpo_core.validation import build
from tiny_model import save_tiny_model, tiny_model

PLUGIN = str(Path(__file__).with_name("letter_plugin.py"))
SOURCES = PluginSources(files=(PLUGIN,), use_entry_points=False)
TWO = ("whole", "halves")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Embeddings, which stay, must be far enough apart for a hidden state to choose one.
    return save_tiny_model(tmp_path_factory.mktemp("model"), initializer_range=0.1)


def make_config(model_folder: Path, /, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": {"path": str(model_folder)},
        "lora": {"rank": 4, "alpha": 8.0},
        "task": {"name": "letters"},
        "sampling": {"max_new_tokens": 8},
        "grpo": {"group_size": 4, "prompts_per_step": 4},
        "trainer": {"steps": 4, "learning_rate": 1e-2, "warmup_steps": 0, "dtype": "float32"},
        "evaluation": {"num_prompts": 8, "num_samples": 2},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return build(RunConfig, values)


def run(config: RunConfig, path: Path, *, resume: bool = False) -> dict[str, Any]:
    directory = RunDirectory.open(path) if resume else RunDirectory.create(path, base="")
    return train(config, load_plugins(SOURCES), SOURCES, directory, resume=resume)


def test_a_run_learns_and_its_checkpoint_is_evaluated_as_the_run_was(
    model: Path, tmp_path: Path
) -> None:
    config = make_config(
        model,
        trainer={"steps": 20, "learning_rate": 2e-2, "dtype": "bfloat16"},
        grpo={"prompts_per_step": 8, "group_size": 8, "beta": 0.01},
        evaluation={"num_prompts": 8},
    )
    checks = preflight(config, load_plugins(SOURCES), SOURCES)
    assert all(check.ok for check in checks), checks[-1]
    assert any(check.message.startswith("14 layers get adapters") for check in checks)
    summary = run(config, tmp_path / "run")

    before, after = summary["pass_at_1_before"], summary["pass_at_1_after"]
    assert after["mean"] > before["mean"] + 0.3, (before, after)
    lines = RunDirectory.open(tmp_path / "run").read_metrics()
    assert lines[0]["kl"] == 0 and lines[-1]["kl"] > 1e-4
    saved = Path(summary["checkpoint"])
    size = sum(path.stat().st_size for path in saved.glob("*.safetensors"))
    assert (saved / "optimizer.safetensors").is_file()
    assert size < (model / "model.safetensors").stat().st_size
    moments = load_file(saved / "optimizer.safetensors")
    assert all(".lora_" in name for name in moments)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), saved)
    assert not torch.equal(logits(theirs), logits(AutoModelForCausalLM.from_pretrained(model)))

    here = config.model.model_copy(update={"path": str(saved)})
    result, _ = evaluate_model(
        config.model_copy(update={"model": here}), load_plugins(SOURCES), SOURCES
    )
    assert result["pass_at_1"]["mean"] == after["mean"]
    assert result["completion_length_mean"] == last_evaluation(tmp_path / "run", "length")


def last_evaluation(path: Path, what: str) -> Any:
    return RunDirectory.open(path).read_evaluations()[-1][f"completion_{what}_mean"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_is_the_uninterrupted_one(model: Path, tmp_path: Path, dtype: str) -> None:
    def config(steps: int) -> RunConfig:
        settings = {"steps": steps, "save_every": 2, "keep_checkpoints": 9, "dtype": dtype}
        return make_config(model, trainer=settings, grpo={"beta": 0.1})

    run(config(4), tmp_path / "whole")
    run(config(2), tmp_path / "halves")
    run(config(4), tmp_path / "halves", resume=True)
    names = ("adapter_model.safetensors", "optimizer.safetensors", "adapter_config.json")
    for name in names:
        one, two = (tmp_path / part / "checkpoints/step-000004" / name for part in TWO)
        assert one.read_bytes() == two.read_bytes(), name
    timeless = [
        [
            {key: value for key, value in line.items() if "second" not in key}
            for line in RunDirectory.open(tmp_path / part).read_metrics()
        ]
        for part in TWO
    ]
    assert timeless[0] == timeless[1]


def test_the_reference_takes_no_second_copy(model: Path) -> None:
    plugins = load_plugins(SOURCES)
    config = make_config(model, grpo={"beta": 0.1}, trainer={"dtype": "bfloat16"})
    _, learner = load_learner(config, plugins, None)
    assert learner.reference is not None
    held = {
        parameter.untyped_storage().data_ptr(): parameter
        for part in (learner.model, learner.reference.model)
        for parameter in part.parameters()
    }
    adapters = sum(p.numel() for p in learner.masters.parameters.values())
    base = sum(p.numel() for p in tiny_model().parameters())
    assert sum(p.numel() for p in held.values()) == base + adapters
    assert all(p.dtype == torch.bfloat16 for p in held.values())
    assert all(p.dtype == torch.float32 for p in learner.masters.parameters.values())
    assert adapters < base / 4

    plain = make_config(model, lora={"rank": 0}, grpo={"beta": 0.1})
    _, whole = load_learner(plain, plugins, None)
    assert whole.reference is not None and whole.reference.model is not whole.model


@pytest.mark.parametrize("rank", [0, 2])
def test_training_goes_on_from_an_adapter(model: Path, tmp_path: Path, rank: int) -> None:
    """The whole model that it is with its base, or new adapters on that; resumed, too."""
    run(make_config(model, trainer={"steps": 3, "learning_rate": 5e-2}), tmp_path / "first")
    first = tmp_path / "first/checkpoints/step-000003"
    start = load_model(first, CPU, merge_adapter=True)
    settings = {"save_every": 1, "keep_checkpoints": 9}

    def config(steps: int) -> RunConfig:
        trainer = {**settings, "steps": steps}
        return make_config(first, lora={"rank": rank}, grpo={"beta": 0.1}, trainer=trainer)

    run(config(2), tmp_path / "whole")
    run(config(1), tmp_path / "halves")
    run(config(2), tmp_path / "halves", resume=True)
    kls = [line["kl"] for line in RunDirectory.open(tmp_path / "whole").read_metrics()]
    assert kls[0] == pytest.approx(0, abs=1e-9) and kls[1] > 1e-5  # the first run is behind it
    second, resumed = (tmp_path / part / "checkpoints/step-000002" for part in TWO)
    name = "adapter_model.safetensors" if rank else "model.safetensors"
    assert (second / name).read_bytes() == (resumed / name).read_bytes()
    chain = [second, first, model] if rank else [second]
    assert model_chain(find_model(str(second))) == chain
    loaded = load_model(second, CPU)
    assert 1e-3 < (logits(loaded) - logits(start)).abs().max() < 5
    shifts = [(logits(m) - logits(start)).abs().max() for m in (loaded, load_model(model, CPU))]
    assert shifts[0] < shifts[1]


def test_without_peft_nothing_is_begun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: Path
) -> None:
    monkeypatch.setattr("grpo_core.models.adapters.find_spec", lambda _: None)
    plugins = load_plugins(SOURCES)
    with pytest.raises(MissingExtraError, match=r"lora\.rank.*pip install 'grpo-core\[lora\]'"):
        check_settings(make_config(model), plugins)
    check_settings(make_config(model).model_copy(update={"lora": LoraConfig()}), plugins)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(MissingExtraError, match=r"the adapter in .*grpo-core\[lora\]"):
        model_chain(find_model(str(tmp_path)))


def test_a_reference_that_is_the_base_cannot_move(model: Path) -> None:
    config = make_config(model, grpo={"beta": 0.1}, reference={"sync_every": 2})
    with pytest.raises(ConfigError, match=r"reference.sync_every is 2, but with lora.rank > 0"):
        check_settings(config, load_plugins(SOURCES))
