"""The sampling server over real HTTP, with a transformers model in place of vLLM: who may connect.

With vLLM itself: test_vllm_runs.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from grpo_core.config import SamplingConfig
from grpo_core.errors import ConfigError, SamplingError
from grpo_core.sampling.vllm.messages import PROTOCOL
from grpo_core.sampling.vllm.remote import ServerSampler
from grpo_core.sampling.vllm.token import TOKEN_VARIABLE, server_token
from grpo_core.types import Completion
from served_engine import PARAMS, PROMPTS, TOKEN, Served, context, served


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
