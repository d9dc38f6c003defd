"""Start vLLM in this process, and leave the process as it was."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from grpo_core.config import SamplingConfig
from grpo_core.errors import SamplingError
from grpo_core.sampling.vllm.weights import plain_cpu_weights

_BYTES_A_GB = 2**30
# Tokens; of vLLM's 128 on CPU a shorter prompt would never be shared. A fifth faster (measured).
_CPU_BLOCK = 32


def start_vllm(
    folder: str,
    device: torch.device,
    dtype: torch.dtype,
    settings: SamplingConfig,
    *,
    can_sleep: bool,
) -> Any:
    """A vllm.LLM of the architecture in `folder`, with weights that mean nothing yet.

    They come by the hand-over alone, from the first to the last, so that one it forgets is noticed
    at once and not when training has moved it.

    Raises:
        SamplingError: if vLLM cannot serve the model.
    """
    on_cpu = device.type == "cpu"
    _set_environment()
    with ExitStack() as stack:
        stack.enter_context(_process_left_alone(device))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # vLLM's own, about what others have deprecated
        # Imported here: it is an optional dependency, and takes seconds.
        from vllm import LLM

        options: dict[str, Any] = {"block_size": _CPU_BLOCK} if on_cpu else {}
        if on_cpu:
            stack.enter_context(plain_cpu_weights())
        try:
            return LLM(
                model=folder,
                dtype=str(dtype).removeprefix("torch."),
                load_format="dummy",
                seed=0,
                max_model_len=-1,  # the model's own context, or as much as fits into the cache
                max_num_seqs=settings.batch_size,
                kv_cache_memory_bytes=int(settings.kv_cache_gb * _BYTES_A_GB),
                # Not used for the cache, whose size is given; vLLM only refuses to start when
                # less than this share of the memory is free, and the trainer is already there.
                gpu_memory_utilization=0.05,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",  # after temperature, top-k and top-p
                enforce_eager=on_cpu,  # compiling takes 50 s there, and saves a tenth
                enable_sleep_mode=can_sleep,
                **options,
            )
        except Exception as error:  # vLLM raises all sorts
            raise SamplingError(
                f"vLLM cannot serve the model in {folder}: {type(error).__name__}: {error}. Its "
                "log, with VLLM_LOGGING_LEVEL=INFO, says more. sampling.engine = 'hf' works with "
                "any model."
            ) from error


def _set_environment() -> None:
    """Set the variables that steer vLLM; what a user has set stands, save the first."""
    # The trainer must be able to reach the weights.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # It obeys that only once it is imported, and importing it says a thing or two.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would report home


@contextmanager
def _process_left_alone(device: torch.device) -> Iterator[None]:
    """Undo what starting vLLM does to the process besides.

    It seeds torch's generators, on CPU puts an empty function in the place of
    torch.set_num_threads, and has allocators preloaded into every child process: verifiers among
    them, whose memory is limited.
    """
    set_num_threads, preloaded = torch.set_num_threads, os.environ.get("LD_PRELOAD")
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads = set_num_threads
        if preloaded is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = preloaded
