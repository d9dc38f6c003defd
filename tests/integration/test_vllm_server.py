"""The sampling server over real HTTP, with a transformers model in place of vLLM.

With vLLM itself: test_vllm_engine.py.
"""

from __future__ import annotations

import gc
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from grpo_core.cli.main import cli
from grpo_core.config import LoraConfig, RunConfig, SamplingConfig
from grpo_core.errors import ConfigError, SamplingError
from grpo_core.evaluation.run import evaluate_model
from grpo_core.models.adapters import add_lora
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.vllm.frames import from_frames, to_frames
from grpo_core.sampling.vllm.messages import PROTOCOL, SESSION_HEADER, Draws, Order, model_facts
from grpo_core.sampling.vllm.remote import RemoteEngine, ServerSampler
from grpo_core.sampling.vllm.token import TOKEN_VARIABLE, server_token
from grpo_core.sampling.vllm.weights import checkpoint_weights
from grpo_core.training.run import train
from grpo_core.types import Completion, ProbedSampler, Prompt, Sampler, SamplingParams
from grpo_core.validation import build
from served_engine import TOKEN, Served, served
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer

PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": text}], None)
    for n, text in enumerate(["a", "what is 2 + 2?"])
]
PARAMS = SamplingParams(max_new_tokens=6, seed=3)


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as here:
        yield here


def context(address: str | None, **changes: Any) -> SamplerContext:
    config = SamplingConfig(engine="vllm_server", server=address)
    return SamplerContext(tiny_model(**changes), tiny_tokenizer(), "", config)


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
    assert [list(safetensors.torch.load(document)) for document in documents] == [
        ["a", "b"],
        ["c"],
    ]


# ---- who may connect ----------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["not-the-token-of-it", TOKEN + "x", TOKEN[:-1]])
def test_a_wrong_token_is_refused(
    server: Served, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, given)
    with pytest.raises(ConfigError, match="does not take the token in GRPO_SERVER_TOKEN") as error:
        ServerSampler(context(server.address))
    assert given not in str(error.value)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "session"), ("PUT", "weights"), ("POST", "sample"), ("POST", "probe"), ("GET", "x")],
)
def test_nothing_is_done_without_a_token(server: Served, method: str, path: str) -> None:
    assert httpx2.request(method, f"{server.address}/v1/{path}").status_code == 401


@pytest.mark.parametrize("given", [None, "", "short", "with a blank in between it"])
def test_a_token_that_is_none(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE)
    if given is not None:
        monkeypatch.setenv(TOKEN_VARIABLE, given)
    with pytest.raises(ConfigError, match=TOKEN_VARIABLE):
        ServerSampler.check_settings(SamplingConfig(server="http://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "sampling.server is not set"),
        ("127.0.0.1:8000", "no http address"),
        ("ftp://there", "no http address"),
        ("http://", "no http address"),
        ("http://me:secret@there", "must not hold a password"),
        ("http://there:port", "is no address"),
    ],
)
def test_addresses_that_are_none(address: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ServerSampler.check_settings(SamplingConfig(server=address))
    assert "secret" not in str(error.value)


def test_the_servers_token_is_for_its_user_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path))
    monkeypatch.delenv(TOKEN_VARIABLE)
    with server_token(80) as (first, path):
        assert path is not None and path.read_text() == first and len(first) > 40
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        os.chmod(path, 0o644)  # as if a server had been killed and its file meddled with
        with server_token(80) as (second, again):
            assert again == path and second != first
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with server_token(80) as (given, path):
        assert (given, path) == (TOKEN, None)


@pytest.mark.parametrize(
    ("policy", "difference"),
    [
        ({"hidden_size": 64}, "hidden_size is 32 on the server, 64 in the policy"),
        ({"tied": False}, "tie_word_embeddings is True on the server, False in the policy"),
        ({"family": "qwen2"}, "model_type is llama on the server, qwen2 in the policy"),
    ],
)
def test_another_model_is_refused(
    server: Served, sampler: ServerSampler, policy: dict[str, Any], difference: str
) -> None:
    with pytest.raises(ConfigError, match=difference):
        ServerSampler(context(server.address, **policy))
    sampler.sample(PROMPTS, 1, PARAMS)  # the run that was there is not disturbed


def test_another_dtype_is_refused(server: Served) -> None:
    other = context(server.address)
    other.model.to(torch.bfloat16)
    with pytest.raises(ConfigError, match="dtype is float32 on the server, bfloat16 in the policy"):
        ServerSampler(other)


def test_another_protocol_is_refused(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_core.sampling.vllm.remote.PROTOCOL", PROTOCOL + 1)
    with pytest.raises(ConfigError, match="same version of grpo-core"):
        ServerSampler(context(server.address))


def test_a_run_that_is_taken_over_gets_no_strange_completions(server: Served) -> None:
    first = ServerSampler(context(server.address))
    second = ServerSampler(context(server.address, seed=1))
    for work in (
        lambda: first.sample(PROMPTS, 1, PARAMS),
        lambda: first.probe_logprobs([[1, 2]]),
        first.update_weights,
    ):
        with pytest.raises(SamplingError, match="another run has connected"):
            work()
    first.close()  # closes nothing of the other's
    second.sample(PROMPTS, 1, PARAMS)
    second.close()


def test_a_run_that_is_taken_over_while_it_samples(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ServerSampler(context(server.address))
    monkeypatch.setattr(server.engine, "pause", 0.01)
    other, others = context(server.address), list[ServerSampler]()

    def intrude(at: int, completion: Completion) -> None:
        if not others:
            others.append(ServerSampler(other))

    with pytest.raises(SamplingError, match="another run has connected"):
        first.sample(PROMPTS, 50, PARAMS, intrude)
    others[0].close()


# ---- what goes wrong ----------------------------------------------------------------------------


def test_nothing_is_sampled_before_the_weights(server: Served) -> None:
    facts = model_facts(tiny_model().config, torch.float32)
    engine = RemoteEngine(server.address, TOKEN, facts)
    order = Order(
        prompts=(Draws(token_ids=(1,), seeds=(1,)),),
        eos=(0,),
        max_new_tokens=1,
        temperature=1,
        top_p=1,
        top_k=0,
        stop=(),
    )
    for work in (lambda: list(engine.draw(order)), lambda: engine.score([[1, 2]])):
        with pytest.raises(SamplingError, match="no weights have come yet"):
            work()

    def half() -> Iterator[Any]:
        yield "model.norm.weight", torch.ones(32)
        raise KeyboardInterrupt

    engine.load(checkpoint_weights(tiny_model()).items())
    assert len(list(filter(None, engine.draw(order)))) == 1
    with pytest.raises(KeyboardInterrupt):
        engine.load(half())
    with pytest.raises(SamplingError, match="or not all of them"):
        list(engine.draw(order))
    engine.close()


def test_weights_the_model_does_not_have(server: Served, sampler: ServerSampler) -> None:
    with pytest.raises(SamplingError, match="the model has no weight 'strange'"):
        sampler._engine.load([("strange", torch.zeros(3))])
    sampler.update_weights()
    sampler.sample(PROMPTS, 1, PARAMS)


def test_an_unreachable_server_is_named() -> None:
    with pytest.raises(SamplingError, match=r"http://127.0.0.1:9 does not answer.*grpo serve"):
        ServerSampler(context("http://127.0.0.1:9"))


def test_a_server_that_dies_while_it_samples() -> None:
    with served() as here:
        here.engine.pause = 0.01
        sampler = ServerSampler(context(here.address))
        with pytest.raises(SamplingError, match=r"does not answer|missing"):
            sampler.sample(PROMPTS, 50, PARAMS, lambda at, completion: here.stop.set())
        sampler.close()


def test_a_client_that_stops_leaves_a_free_server(server: Served, sampler: ServerSampler) -> None:
    def stop(at: int, completion: Completion) -> None:
        raise KeyboardInterrupt

    before = server.engine.steps
    with pytest.raises(KeyboardInterrupt):
        sampler.sample(PROMPTS, 1000, PARAMS, stop)
    gc.collect()
    sampler.sample(PROMPTS, 1, PARAMS)  # takes its turn after the one that is dropped
    assert server.engine.steps - before < 2000


@pytest.mark.parametrize("fault", [SamplingError("no room"), ValueError("odd")])
def test_a_failure_of_the_engine_reaches_the_client(
    server: Served, sampler: ServerSampler, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(server.engine, "fault", fault)
    with pytest.raises(SamplingError, match=f"{server.address}.*{fault}"):
        sampler.sample(PROMPTS, 1, PARAMS)


def test_a_client_that_waits_hears_that_work_goes_on(
    server: Served, sampler: ServerSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_core.sampling.vllm.server._HEARTBEAT", 0.0)
    order = sampler._order(PROMPTS[:1], [[1, 2]], 1, PARAMS)
    signs = list(sampler._engine.draw(order))
    drawn = next(sign for sign in signs if sign is not None)
    assert signs.count(None) >= len(drawn.token_ids) - 1


def test_a_client_does_not_wait_for_ever(
    server: Served, sampler: ServerSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.engine, "pause", 1.0)
    sampler._engine._http.timeout = httpx2.Timeout(0.2)  # type: ignore[attr-defined]
    with pytest.raises(SamplingError, match=r"does not answer: ReadTimeout"):
        sampler.sample(PROMPTS[:1], 1, PARAMS)


HOSTILE: list[tuple[str, str, Any, int]] = [
    ("POST", "sample", b"{", 422),
    ("POST", "sample", b"[" * 100_000, 422),
    ("POST", "sample", b"\xff\xfe", 422),
    ("POST", "sample", b"{}", 422),
    ("POST", "probe", b'{"sequences": [[1]]}', 422),
    ("POST", "probe", b'{"sequences": [[1, -1]]}', 422),
    ("POST", "probe", b'{"sequences": [[1, 100000]]}', 422),
    ("POST", "probe", b'{"sequences": [[1, 2]], "more": 1}', 422),
    ("POST", "probe", b'{"sequences": [[' + b"1," * 600 + b"1]]}", 422),
    ("POST", "session", b'{"protocol": "x", "facts": {}}', 422),
    ("PUT", "weights", b"", 400),
    ("PUT", "weights", b"short", 400),
    ("PUT", "weights", (100).to_bytes(8, "little") + b"x" * 100, 400),
    ("PUT", "weights", (1 << 40).to_bytes(8, "little"), 413),
    ("PUT", "weights", b"\xff" * 8, 413),
    ("GET", "sample", None, 405),
    ("POST", "nothing", None, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), HOSTILE)
def test_hostile_requests_are_refused(
    server: Served, sampler: ServerSampler, method: str, path: str, body: Any, status: int
) -> None:
    session = sampler._engine._http.headers[SESSION_HEADER]
    headers = {"authorization": f"Bearer {TOKEN}", SESSION_HEADER: session}
    answer = httpx2.request(
        method, f"{server.address}/v1/{path}", content=body, headers=headers, timeout=30
    )
    assert answer.status_code == status
    sampler.update_weights()
    sampler.sample(PROMPTS, 1, PARAMS)


@pytest.mark.parametrize(
    "change",
    [
        {"eos": (1000,)},
        {"max_new_tokens": 600},
        {"prompts": ({"token_ids": (1000,), "seeds": (1,)},)},
        {"prompts": ({"token_ids": (), "seeds": (1,)},)},
        {"prompts": ({"token_ids": (1,), "seeds": (-1,)},)},
        {"temperature": -1.0},
        {"top_p": 2.0},
        {"stop": ("",)},
    ],
)
def test_orders_that_cannot_be_carried_out(
    server: Served, sampler: ServerSampler, change: dict[str, Any]
) -> None:
    order = {
        "prompts": ({"token_ids": (1,), "seeds": (1,)},),
        "eos": (0,),
        "max_new_tokens": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "stop": (),
    }
    session = sampler._engine._http.headers[SESSION_HEADER]
    headers = {"authorization": f"Bearer {TOKEN}", SESSION_HEADER: session}
    url = f"{server.address}/v1/sample"
    assert httpx2.post(url, json=order, headers=headers).status_code == 200
    assert httpx2.post(url, json=order | change, headers=headers).status_code == 422


def test_a_message_without_end_is_cut_off(server: Served, sampler: ServerSampler) -> None:
    session = sampler._engine._http.headers[SESSION_HEADER]
    headers = {"authorization": f"Bearer {TOKEN}", SESSION_HEADER: session}
    piece = b" " * (1 << 20)
    try:
        answer = httpx2.post(
            f"{server.address}/v1/sample", content=(piece for _ in range(80)), headers=headers
        )
        assert answer.status_code == 413
    except httpx2.TransportError:
        pass  # it hung up before all was said
    sampler.sample(PROMPTS, 1, PARAMS)


def test_something_else_at_the_address() -> None:
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            with pytest.raises(SamplingError, match="Is it the address of a 'grpo serve'"):
                ServerSampler(context(f"http://127.0.0.1:{other.server_port}"))
        finally:
            other.shutdown()
            thread.join()


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
