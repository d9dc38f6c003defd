"""The modules of ours that run inside the sandbox, and the names that they have there."""

from __future__ import annotations

from pathlib import Path

CANDIDATE = "grpo_code_candidate"
REFEREE = "grpo_code_referee"
_FOLDER = Path(__file__).parent / "guest"
# In this order; a later one imports earlier ones by these names.
GUESTS = {
    "grpo_code_library_values": _FOLDER / "library_values.py",
    "grpo_code_codec": _FOLDER / "codec.py",
    "grpo_code_raising": _FOLDER / "raising.py",
    "grpo_code_remote": _FOLDER / "remote.py",
    "grpo_code_peer": _FOLDER / "peer.py",
    "grpo_code_pytest": _FOLDER / "pytest_stand_in.py",
    CANDIDATE: _FOLDER / "candidate.py",
    "grpo_code_reaching": _FOLDER / "reaching.py",
    "grpo_code_cases": _FOLDER / "cases.py",
    REFEREE: _FOLDER / "referee.py",
}
_LAST_OF_CANDIDATE = list(GUESTS).index(CANDIDATE) + 1
CANDIDATE_GUESTS = dict(list(GUESTS.items())[:_LAST_OF_CANDIDATE])
