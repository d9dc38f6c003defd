"""The kept faults still fit the source; `python tests/planted_faults.py` shows they are caught."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from planted_faults import FAULTS, ROOT, Fault

TESTS = ROOT / "tests"


def test_there_are_enough() -> None:
    assert len(FAULTS) >= 25
    assert len({fault.file for fault in FAULTS}) >= 10
    assert len(set(FAULTS)) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.file}: {fault.new[:40]}")
def test_its_text_stands_once_in_the_source(fault: Fault) -> None:
    source = (ROOT / "grpo_core" / fault.file).read_text(encoding="utf-8")
    assert source.count(fault.old) == 1, fault.old
    if fault.file.endswith(".py"):
        ast.parse(source.replace(fault.old, fault.new))
    assert fault.old != fault.new


@pytest.mark.parametrize("test", sorted({fault.test for fault in FAULTS}))
def test_the_test_it_names_exists(test: str) -> None:
    file, name = test.split("[")[0].split("::")
    source = Path(TESTS / file).read_text(encoding="utf-8")
    assert re.search(rf"^def {name}\(", source, re.MULTILINE)
