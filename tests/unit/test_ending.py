"""One of several processes ends with the exit code and the output of an ordinary one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGINT

import pytest

# What is left to do when the program ends, and whether the interpreter then took itself apart.
PROGRAM = """
import atexit, sys, tempfile, threading, time
from grpo_core.training.ending import run_to_the_end

class Last:
    def __del__(self, write=sys.stderr.write):
        write("taken apart")

last = Last()

def program():
    folder = tempfile.TemporaryDirectory(dir=".")
    atexit.register(lambda: print("at exit"))
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
    print("not flushed")
    keep.append(folder)
    exec(sys.argv[1])

keep = []
run_to_the_end(program)
print("returned")
"""
TAKEN_APART = "taken apart"
PRINTED = "not flushed\nthread\nat exit\n"


def start(folder: Path, how: str, size: int, output: int) -> subprocess.Popen[str]:
    """A program that ends like this, as one of so many processes."""
    variables = {
        "RANK": "0",
        "WORLD_SIZE": str(size),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONUNBUFFERED": "",
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(folder: Path, how: str, size: int) -> tuple[int, str, str]:
    """Its exit code, output and errors."""
    process = start(folder, how, size, subprocess.PIPE)
    output, errors = process.communicate(timeout=60)
    assert [*folder.iterdir()] == []  # the temporary folder is gone
    return process.returncode, output, errors


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(130)", 130, ""),
        ("sys.exit(256 + 7)", 7, ""),
        ("sys.exit('no luck')", 1, "no luck"),
        ("raise LookupError('a bug')", 1, "LookupError: a bug"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt"),
    ],
)
def test_one_of_several_ends_with_the_same_code_and_output(
    tmp_path: Path, how: str, code: int, message: str
) -> None:
    found, output, errors = end(tmp_path, how, 2)
    assert (found, output) == (code, PRINTED), errors
    assert message in errors and TAKEN_APART not in errors
    found, output, errors = end(tmp_path, how, 1)
    assert found == (-SIGINT if "Keyboard" in how else code)  # a shell makes 130 of either
    assert output.replace("returned\n", "") == PRINTED
    assert message in errors and TAKEN_APART in errors


def test_output_that_nobody_reads_is_a_failure(tmp_path: Path) -> None:
    for size in (1, 2):
        reading, writing = os.pipe()
        os.close(reading)
        process = start(tmp_path, "pass", size, writing)
        os.close(writing)
        process.communicate(timeout=60)
        assert process.returncode == 120
