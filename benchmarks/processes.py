"""Several processes that share a model with FSDP2, against a single one.

    python benchmarks/processes.py                  two processes, a few minutes
    python benchmarks/processes.py --processes 4

Prints, for each case in float32 and in bfloat16, the largest differences over three updates: of
the loss, of the gradient norm, of AdamW's moments (which are the gradient, averaged over steps) and
of the weights, the last three relative; then how long an update takes. The same comparisons are
tested by tests/integration/test_processes.py, with which this shares its code. Needs the extra
`test`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from process_cases import CASES, compare
from tiny_model import save_tiny_model

LARGE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}


def describe_machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, gloo"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{system}; Python {platform.python_version()}, {packages}; load average {load}"


def print_differences(folder: Path, size: int) -> None:
    print(f"| case | compute | loss | gradient norm | gradient | weights ({size} against 1) |")
    print("|---|---|---:|---:|---:|---:|")
    for line in compare(folder, *CASES, size=size, timeout=3600):
        if "case" in line:
            values = (line[name] for name in ("loss", "norm", "gradient", "weights"))
            numbers = " | ".join(f"{value:.1e}" for value in values)
            print(f"| {line['case']} | {line['dtype']} | {numbers} |")


def print_seconds(folder: Path, size: int) -> None:
    save_tiny_model(folder / "large", **LARGE)
    print("\n| processes | weights in all | held by the first | tokens | seconds an update |")
    print("|---:|---:|---:|---:|---:|")
    for count in (1, size):
        for line in compare(folder, "speed", size=count, timeout=3600):
            if line.get("check") == "speed":
                held = f"{line['weights']:,} | {line['held by the leader']:,}"
                print(f"| {count} | {held} | {line['tokens']:,} | {line['seconds']:.2f} |")
    print("\nOne thread a process. Seconds are medians of three, on a machine with the load above.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    print(describe_machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        print_differences(Path(folder), arguments.processes)
        print_seconds(Path(folder), arguments.processes)


if __name__ == "__main__":
    main()
