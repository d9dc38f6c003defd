"""What this machine can do at best: matrix products and memory traffic. `python -m step.limits`.

Prints one JSON object: `gemm`, TFLOP/s in bfloat16 by shape; `memory`, GB/s by kind of traffic;
`canary_ms`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping

import torch

from step.probe import canary_ms

GEMM_SHAPES = {
    "layer, 4096 rows": (4096, 576, 1536),
    "layer, 2718 rows": (2718, 576, 1536),
    "square": (2048, 2048, 2048),
    "head": (2048, 576, 49152),
    "decode, 64 rows": (64, 576, 1536),
}
_ARRAY_BYTES = 512 << 20  # far beyond every cache


def measure(
    array_bytes: int = _ARRAY_BYTES, shapes: Mapping[str, tuple[int, int, int]] = GEMM_SHAPES
) -> dict[str, object]:
    """All limits; some seconds."""
    return {
        "gemm": {name: gemm_tflops(*shape) for name, shape in shapes.items()},
        "memory": memory_gbs(array_bytes),
        "canary_ms": canary_ms(),
    }


@torch.inference_mode()
def gemm_tflops(rows: int, inner: int, columns: int) -> float:
    """TFLOP/s of a bfloat16 product [rows, inner] times [inner, columns]."""
    one = torch.randn(rows, inner).bfloat16()
    other = torch.randn(columns, inner).bfloat16()
    out = torch.empty(rows, columns, dtype=torch.bfloat16)
    seconds = best_seconds(lambda: torch.mm(one, other.T, out=out))
    return 2e-12 * rows * inner * columns / seconds


@torch.inference_mode()
def memory_gbs(array_bytes: int = _ARRAY_BYTES) -> dict[str, float]:
    """GB/s of reading, of copying, and of a = b + s * c; all bytes read and written count."""
    one, other, third = (torch.ones(array_bytes // 4) for _ in range(3))
    traffic = {
        "read": (1, lambda: one.sum()),
        "copy": (2, lambda: other.copy_(one)),
        "triad": (3, lambda: torch.add(one, other, alpha=0.5, out=third)),
    }
    return {
        name: 1e-9 * arrays * array_bytes / best_seconds(run, least=3)
        for name, (arrays, run) in traffic.items()
    }


def best_seconds(run: Callable[[], object], least: int = 5, budget: float = 0.3) -> float:
    """The fastest of some runs: a limit is what is possible, not what is usual."""
    run()
    seconds: list[float] = []
    while len(seconds) < least or sum(seconds) < budget:
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    print(json.dumps(measure()))
