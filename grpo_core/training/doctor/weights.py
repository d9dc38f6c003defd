"""The model's files, and whether it can be trained in the memory there is."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError
from grpo_core.models.find import check_weights, find_model, model_chain
from grpo_core.models.load import choose_device, compute_dtype
from grpo_core.training.doctor.finding import Bench, Check, Finding, ok, skipped
from grpo_core.training.lora_checks import check_lora_layers

_GB = 2**30
_FLOAT32 = 4


def check_files(bench: Bench) -> Iterator[Finding]:
    """The model is found, and its weight files are whole.

    Raises:
        DataError: if not. ConfigError: if adapters are asked for that do not fit it.
    """
    bench.folder = find_model(bench.config.model.path)
    chain = model_chain(bench.folder)
    bench.base = chain[-1]
    files = sum(check_weights(part) for part in chain)
    found = f"{files} whole file{'s' if files > 1 else ''} in {bench.folder}"
    yield ok("weights", found, files=files, folder=str(bench.folder))
    if bench.config.lora.rank > 0:
        yield ok("adapters", check_lora_layers(bench.base, bench.config))


def check_memory(bench: Bench) -> Iterator[Finding]:
    """What training needs, from the sizes in the files' headers, against what is free.

    Raises:
        ConfigError: if it does not fit; the model is not loaded then.
    """
    config = bench.config
    device = choose_device(config.model.device)
    dtype = compute_dtype(config.trainer.dtype, device)
    count = count_weights(bench.base)
    parts = memory_parts(config, count, dtype)
    needed, free = sum(parts.values()), free_memory(device)
    shown = ", ".join(f"{name} {size / _GB:.2f}" for name, size in parts.items())
    found = (
        f"{count / 1e6:.0f} million weights take {needed / _GB:.2f} GB ({shown}) and activations"
    )
    if free is None:
        yield skipped("memory", f"{found}; what is free is not known on {sys.platform}")
        return
    if needed > free:
        raise ConfigError(
            f"{found}; only {free / _GB:.2f} GB are free on {device}. Close other programs, choose "
            "a smaller model, or train an adapter: lora.rank = 16."
        )
    found += f"; {free / _GB:.2f} GB are free on {device}"
    yield ok("memory", found, weights=count, needed=needed, free=free)


def count_weights(folder: Path) -> int:
    """Numbers in all weight files of a folder, of which only headers are read."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping, and not iterable
                count += math.prod(tensors.get_slice(name).get_shape())
    return count


def memory_parts(config: RunConfig, count: int, dtype: torch.dtype) -> dict[str, int]:
    """Bytes that training keeps, by purpose; with adapters, theirs are too small to count."""
    parts = {"model": count * dtype.itemsize}
    if config.lora.rank == 0:
        if dtype != torch.float32:
            parts["float32 masters"] = count * _FLOAT32
        parts["gradients"] = count * _FLOAT32
        parts["AdamW moments"] = 2 * count * _FLOAT32
        if config.grpo.beta > 0:
            parts["reference"] = count * dtype.itemsize
    return parts


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device, within what this process may use; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    free = next(int(x.split()[1]) << 10 for x in lines if x.startswith("MemAvailable"))
    limit, used = (_cgroup_number(name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else min(free, limit - used)


def _cgroup_number(name: str) -> int | None:
    """A number of the cgroup that this process sees as the topmost; None if there is none."""
    try:
        return int((Path("/sys/fs/cgroup") / name).read_text())
    except (OSError, ValueError):  # ValueError: "max"
        return None


CHECKS = (
    Check("weights", check_files, needs=("torch",)),
    Check("memory", check_memory, needs=("weights",)),
)
