"""The sampling server over real HTTP, with a transformers model in place of vLLM: what it does.

With vLLM itself: test_vllm_runs.py.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from grpo_core.cli.main import cli
from grpo_core.config import LoraConfig, RunConfig
from grpo_core.errors import ConfigError, SamplingError
from grpo_core.evaluation.run import evaluate_model
from grpo_core.models.adapters import add_lora
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.protocols import ProbedSampler, Sampler, SamplingParams
from grpo_core.records.run_directory import RunDirectory
from grpo_core.sampling.vllm.frames import from_frames, to_frames
from grpo_core.sampling.vllm.remote import ServerSampler
from grpo_core.sampling.vllm.server import listen
from grpo_core.sampling.vllm.token import TOKEN_VARIABLE
from grpo_core.training.run import train
from grpo_core.types import Completion, Prompt
from grpo_core.validation import build
from served_engine import PARAMS, PROMPTS, TOKEN, Served, context, served
from tiny_model import save_tiny_model, tiny_tokenizer


def test_small_answers_do_not_wait_for_acknowledgements() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as here:
        yield here


@pytest.fixture
def sampler(server: Served) -> Iterator[ServerSampler]:
    sampler = ServerSampler(context(server.address))
    yield sampler
    sampler.close()


def local_logprobs(sampler: ServerSampler, prompt: Prompt, completion: Completion) -> list[float]:
    ids = torch.tensor([[*sampler.encode(prompt), *completion.token_ids]])
    with torch.no_grad():
        logprobs = sampler._policy(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return logprobs.gather(-1, ids[0, 1:, None])[-len(completion.token_ids) :, 0].tolist()


# ---- sampling and weights -----------------------------------------------------------------------


def test_it_is_a_sampler_that_can_be_probed(sampler: ServerSampler) -> None:
    assert isinstance(sampler, Sampler) and isinstance(sampler, ProbedSampler)


def test_completions_are_the_policys(sampler: ServerSampler) -> None:
    groups = sampler.sample(PROMPTS, 3, PARAMS)
    assert [[c.index for c in group] for group in groups] == [[0, 1, 2]] * 2
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for completion in group:
            expected = local_logprobs(sampler, prompt, completion)
            assert completion.sampler_logprobs == pytest.approx(expected, abs=1e-4)
            kept = [token for token in completion.token_ids if token]
            assert completion.text == tiny_tokenizer().decode(kept)
    assert sampler.sample(PROMPTS, 3, PARAMS) == groups


def test_draws_no_engine_knows_are_a_setting_to_mend(sampler: ServerSampler) -> None:
    params = SamplingParams(max_new_tokens=6, stop=("",))
    with pytest.raises(ConfigError, match=r"sampling\.stop\.0"):
        sampler.sample(PROMPTS, 1, params)


def test_scores_pass_to_the_last_bit(server: Served, sampler: ServerSampler) -> None:
    sequences = [sampler.encode(prompt) for prompt in PROMPTS]
    assert sampler.probe_logprobs(sequences) == server.engine.score(sequences)


def test_new_weights_arrive(server: Served, sampler: ServerSampler) -> None:
    with torch.no_grad():
        for parameter in sampler._policy.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    sampler.update_weights()
    for name, parameter in server.engine.model.named_parameters():
        assert torch.equal(parameter, sampler._policy.get_parameter(name))


def test_weights_of_adapters_arrive_added_in(server: Served, sampler: ServerSampler) -> None:
    add_lora(sampler._policy, LoraConfig(rank=4), 0, "base")
    with torch.no_grad():
        for name, parameter in sampler._policy.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    sampler.update_weights()
    (completion,), _ = sampler.sample(PROMPTS, 1, PARAMS)
    expected = local_logprobs(sampler, PROMPTS[0], completion)
    assert completion.sampler_logprobs == pytest.approx(expected, abs=1e-4)


def test_broken_weights_are_no_wrong_answers(sampler: ServerSampler) -> None:
    with torch.no_grad():
        sampler._policy.lm_head.weight[5, 3] = float("nan")
    sampler.update_weights()
    sequences = [sampler.encode(PROMPTS[0])]
    assert any(value != value for value in sampler.probe_logprobs(sequences)[0])


def test_completions_come_while_others_are_being_drawn(
    server: Served, sampler: ServerSampler
) -> None:
    server.engine.steps = 0
    seen: list[int] = []
    sampler.sample(PROMPTS, 6, PARAMS, lambda at, completion: seen.append(server.engine.steps))
    assert seen[0] < server.engine.steps


def test_weights_survive_their_frames() -> None:
    weights = {
        "a": torch.randn(3, 4).bfloat16(),
        "b": torch.randn(6, 4)[::2],
        "c": torch.randn(()),
        "d": torch.randn(5, 4).T,
    }
    stream = b"".join(to_frames(weights.items()))
    at = 0

    def read(count: int) -> bytes:
        nonlocal at
        at += count
        return stream[at - count : at]

    found = dict(from_frames(read))
    assert at == len(stream)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert found["a"].dtype == torch.bfloat16


def test_frames_are_small_but_never_part_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_core.sampling.vllm.frames._FRAME_BYTES", 100)
    weights = {name: torch.zeros(size) for name, size in {"a": 10, "b": 10, "c": 100}.items()}
    documents = list(to_frames(weights.items()))[1:-1:2]
    assert [safetensors.torch.load(document).keys() for document in documents] == [
        {"a", "b"},
        {"c"},
    ]


# ---- a run, and the command ---------------------------------------------------------------------


def run(tmp_path: Path, address: str, name: str = "run", steps: int = 3) -> RunDirectory:
    folder = save_tiny_model(tmp_path / "model")
    values = {
        "model": {"path": str(folder)},
        "task": {"name": "letters"},
        "sampling": {"engine": "vllm_server", "server": address, "max_new_tokens": 4},
        "grpo": {"group_size": 4, "prompts_per_step": 2},
        "trainer": {"dtype": "float32", "steps": steps, "learning_rate": 1e-2},
        "evaluation": {"num_prompts": 2, "num_samples": 2},
    }
    file = str(Path(__file__).with_name("letter_plugin.py"))
    sources = PluginSources(files=(file,), use_entry_points=False)
    directory = RunDirectory.create(tmp_path / name, base="")
    train(build(RunConfig, values), load_plugins(sources), sources, directory)
    return directory


def test_a_run_with_a_server(tmp_path: Path, server: Served) -> None:
    directory = run(tmp_path, server.address)
    assert all(line["canary_gap"] < 1e-4 for line in directory.read_metrics())
    trained = [line for line in directory.read_metrics() if line["trained_tokens"]]
    assert trained and all(line["sampler_logprob_gap"] < 1e-4 for line in trained)
    for file in directory.path.rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes()


def test_weights_that_stay_behind_stop_the_run(tmp_path: Path) -> None:
    with served() as here:
        engine_load = here.engine.load
        loads: list[int] = []

        def load(weights: Any) -> None:
            loads.append(1)
            here.engine.left_out = "" if len(loads) == 1 else "layers"
            engine_load(weights)

        here.engine.load = load  # type: ignore[method-assign]
        with pytest.raises(SamplingError, match=r"stale|disagree"):
            run(tmp_path, here.address)
    summary = RunDirectory.open(tmp_path / "run").read_summary()
    assert summary["status"] == "failed" and summary["steps"] >= 1


def test_a_server_that_dies_stops_the_run_cleanly(tmp_path: Path) -> None:
    with served() as here:
        engine_load = here.engine.load
        loads: list[int] = []

        def load(weights: Any) -> None:
            loads.append(1)
            if len(loads) == 3:
                here.stop.set()
            engine_load(weights)

        here.engine.load = load  # type: ignore[method-assign]
        with pytest.raises(SamplingError, match=r"does not answer.*--resume"):
            run(tmp_path, here.address, steps=50)
    directory = RunDirectory.open(tmp_path / "run")
    summary = directory.read_summary()
    assert summary["status"] == "failed" and summary["steps"] >= 2
    assert list(directory.checkpoints.glob("step-*"))


def test_the_command_needs_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_core.sampling.vllm.engine.find_spec", lambda name: None)
    result = CliRunner().invoke(cli, ["serve", "--model", "x"])
    assert result.exit_code == 2
    assert "pip install 'grpo-core[vllm]'" in result.output


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch, server: Served) -> None:
    monkeypatch.setattr("grpo_core.sampling.vllm.engine.find_spec", lambda name: object())
    port = server.address.rpartition(":")[2]
    result = CliRunner().invoke(cli, ["serve", "--model", "x", "--port", port])
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in result.output


def evaluate_with(tmp_path: Path, address: str) -> dict[str, Any]:
    folder = save_tiny_model(tmp_path / "model")
    values = {
        "model": {"path": str(folder)},
        "task": {"name": "letters"},
        "sampling": {"engine": "vllm_server", "server": address, "max_new_tokens": 4},
        "trainer": {"dtype": "float32"},
        "evaluation": {"num_prompts": 2, "num_samples": 2},
    }
    file = str(Path(__file__).with_name("letter_plugin.py"))
    sources = PluginSources(files=(file,), use_entry_points=False)
    result, _ = evaluate_model(build(RunConfig, values), load_plugins(sources), sources)
    return result


def test_an_evaluation_refuses_a_server_that_computes_another_model(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluate_with(tmp_path, server.address)["pass_at_1"] is not None
    with torch.no_grad():
        for parameter in server.engine.model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    monkeypatch.setattr(server.engine, "left_out", "layers.1")
    with pytest.raises(SamplingError, match=r"disagree: on a fixed probe.*canary_limit"):
        evaluate_with(tmp_path, server.address)
