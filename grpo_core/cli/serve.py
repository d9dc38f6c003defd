"""`grpo serve`: host a vLLM engine for a run in another process or on another machine."""

from __future__ import annotations

import signal
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click

from grpo_core.cli.common import set_option, with_overrides
from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError
from grpo_core.sampling.vllm.token import TOKEN_VARIABLE, server_token

if TYPE_CHECKING:
    import socket

    from grpo_core.sampling.vllm.local import VllmEngine


@click.command()
@click.option("--model", required=True, help="Hub id or local folder of the model to be trained.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@set_option
def serve(model: str, host: str, port: int, overrides: tuple[str, ...]) -> None:
    """Host a vLLM engine for a run elsewhere.

    The run has sampling.engine = "vllm_server", as sampling.server the address printed here, and
    the token in the variable GRPO_SERVER_TOKEN. All weights come from the run; of MODEL only the
    architecture counts. Of the settings those matter that concern the engine:
    sampling.kv_cache_gb, sampling.batch_size, model.device, and trainer.dtype, which must be the
    run's.

    Serves one run at a time, until Ctrl-C.
    """
    settings = with_overrides({"model": {"path": model}}, overrides)
    # Heavy, and not installed everywhere.
    from grpo_core.sampling.vllm.engine import VllmSampler

    VllmSampler.check_installed()
    from grpo_core.sampling.vllm.server import create_app, create_server

    with closing(_listen(host, port)) as listening:
        port = listening.getsockname()[1]
        with server_token(port) as (token, file):
            # A service manager's way to say Ctrl-C; both leave nothing behind.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            click.echo("starting vLLM", err=True)
            engine, facts = _start(settings)
            with closing(engine), suppress(KeyboardInterrupt):
                _announce(settings.model.path, str(facts["dtype"]), host, port, file)
                create_server(create_app(engine, facts, token)).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    from grpo_core.sampling.vllm.server import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. Choose another "
            "--port, or a --host that this machine has."
        ) from error


def _start(settings: RunConfig) -> tuple[VllmEngine, dict[str, str | int | bool | None]]:
    from transformers import AutoConfig

    from grpo_core.models.find import find_model, model_chain
    from grpo_core.models.load import choose_device, compute_dtype
    from grpo_core.sampling.vllm.local import VllmEngine
    from grpo_core.sampling.vllm.messages import model_facts
    from grpo_core.sampling.vllm.start import start_vllm

    folder = model_chain(find_model(settings.model.path))[-1]
    device = choose_device(settings.model.device)
    dtype = compute_dtype(settings.trainer.dtype, device)
    trusted = settings.model.trust_remote_code
    shape = AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    llm = start_vllm(str(folder), device, dtype, settings.sampling, can_sleep=False)
    return VllmEngine(llm), model_facts(shape, dtype)


def _announce(model: str, dtype: str, host: str, port: int, token_file: Path | None) -> None:
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"serving {model} in {dtype} at http://{shown}:{port}")
    if token_file is not None:
        click.echo(f"for the run: export {TOKEN_VARIABLE}=$(cat {token_file})")
    if not _is_loopback(host):
        click.echo(
            "warning: this address can be reached from other machines. Weights and completions "
            "pass unencrypted; where others listen, serve on 127.0.0.1 behind an ssh tunnel.",
            err=True,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
