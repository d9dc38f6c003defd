"""A tiny model and one uninterrupted run of it, shared by the tests that run the real command."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_process import Desk
from tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random model."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def desk(tmp_path: Path, tiny: Path) -> Desk:
    """A fresh folder to run commands in."""
    return Desk(tmp_path, tiny)


@pytest.fixture(scope="session")
def whole_desk(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Desk:
    """Where `whole_run` was made; what it printed is in `out` and `err`."""
    desk = Desk(tmp_path_factory.mktemp("whole"), tiny)
    result = desk.train("--output", "whole", "--set", "trainer.save_every=3")
    assert result.returncode == 0, result.stderr
    desk.put("out", result.stdout)
    desk.put("err", result.stderr)
    return desk


@pytest.fixture(scope="session")
def whole_run(whole_desk: Desk) -> Path:
    """The directory of a run of run.toml that nothing disturbed."""
    return whole_desk.path / "whole"
