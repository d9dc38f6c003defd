"""What the `grpo` command starts its process with."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from grpo_core.cli.process import _has_huge_pages

NAMES = ("GLIBC_TUNABLES", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "GRPO_STARTED")
# Counts its starts in a file descriptor that lives on through them, and prints what it was started
# with and what a program started by it would get.
PROGRAM = """
import json, os, sys
from pathlib import Path
os.write(int(sys.argv[1]), b"start ")
from grpo_core.cli.process import prepare_process
prepare_process()
began = Path("/proc/self/environ").read_text().split(chr(0)) if Path("/proc/self").exists() else []
print(json.dumps({"began": [x for x in began if "=" in x], "now": dict(os.environ),
                  "arguments": sys.argv[2:]}))
"""


def run(**settings: str) -> tuple[int, dict[str, str], dict[str, str], list[str]]:
    """How often the program started; the settings of its last start, and those it hands on."""
    environment = {k: v for k, v in os.environ.items() if k not in NAMES} | settings
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(writing), "two words", "x"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        pass_fds=(writing,),
        timeout=60,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        starts = len(stream.read().split())
    found = json.loads(done.stdout)
    began = dict(item.split("=", 1) for item in found["began"])
    return starts, began, found["now"], found["arguments"]


@pytest.mark.skipif(not _has_huge_pages(), reason="no huge pages on request (madvise) here")
def test_memory_comes_in_huge_pages_for_this_process_alone() -> None:
    starts, began, now, arguments = run()
    assert starts == 2
    assert began["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert "GLIBC_TUNABLES" not in now and "GRPO_STARTED" not in now
    assert arguments == ["two words", "x"]


def test_settings_of_the_user_stay() -> None:
    tunables = "glibc.malloc.hugetlb=0"
    starts, _, now, _ = run(GLIBC_TUNABLES=tunables, OMP_WAIT_POLICY="passive")
    assert starts == 1
    assert now["GLIBC_TUNABLES"] == tunables
    assert now["OMP_WAIT_POLICY"] == "passive" and "GOMP_SPINCOUNT" not in now


def test_threads_spin_for_a_moment() -> None:
    assert run()[2]["GOMP_SPINCOUNT"] == "30000"
    assert run(GOMP_SPINCOUNT="7")[2]["GOMP_SPINCOUNT"] == "7"
