"""Hostile verifications leave nothing behind; `python tests/soak_verifiers.py` is the long run."""

import sys

import pytest

from soak_verifiers import soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the sandbox and /proc need Linux"),
]


def test_hostile_verifications_leave_nothing_behind():
    found = soak(600)
    early, late = found["early"], found["late"]
    assert found["count"] == 600 and found["zygote_restarts"] == 0
    assert not {"math error", "math timeout", "code error", "code timeout"} & set(found["statuses"])
    assert found["statuses"]["code wrong"] == 90
    # The sandbox's spare processes come and go; 90 programs that left one each would be seen.
    assert late["processes"] <= early["processes"] + 8 and found["processes_left"] == 0
    assert late["descriptors"] <= early["descriptors"] and late["threads"] <= early["threads"]
    assert late["files"] <= early["files"]
    assert late["trainer_mb"] < early["trainer_mb"] + 20
    assert late["memory_mb"] < early["memory_mb"] + 60
