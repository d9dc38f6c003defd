"""`grpo plugins test`: the conformance suite from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli_process import wait_until
from grpo_core.cli.main import cli
from grpo_core.testing.checks import CHECKS

PLUGIN = """
from grpo_core import hookimpl, verifier
from grpo_core.testing import Example

EXAMPLES = [
    Example("yes", "yes", "correct"),
    Example("YES", "yes", "correct", options={"ignore_case": True}),
    Example("[red]no[/red]", "yes", "wrong"),
]


@verifier(version="2.1", examples=EXAMPLES)
def equal(sample, *, ignore_case: bool = False):
    text, wanted = sample.completion.strip(), str(sample.reference)
    return text.casefold() == wanted.casefold() if ignore_case else text == wanted


@verifier()
def contains(sample):
    return str(sample.reference) in sample.completion


@hookimpl
def grpo_register_verifiers(register):
    register("equal", equal)
    register("contains", contains)
"""
PAIRS = [
    {"completion": "it is 42", "reference": "42", "expected": True},
    {"completion": "it is [bold]41[/bold]", "reference": "42", "expected": False},
]


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)))
    return str(path)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plugins", "test", *arguments])


test.__test__ = False  # type: ignore[attr-defined]


def test_shipped_examples_pass(plugin: str) -> None:
    result = test("equal", "--plugin", plugin)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    outcomes = {line[0]: line[1] for line in lines if line[1:2] in (["passed"], ["skipped"])}
    skipped = {"references"}  # it has no check_reference
    for check in CHECKS:
        assert outcomes[check.name] == ("skipped" if check.name in skipped else "passed")
    assert "gameability 0.00% (0 of " in result.stdout
    assert "verifier 'equal' 2.1: conforms" in result.stdout


def test_a_failure_is_shown_and_sets_the_exit_code(plugin: str, pairs: str) -> None:
    wanted = ("--check", "golden", "--check", "gameability")
    result = test("contains", "--plugin", plugin, "--pairs", pairs, *wanted)
    assert result.exit_code == 1
    assert "gameability: " in result.stdout and "won: text: two answers: " in result.stdout
    assert "verifier 'contains' 0: failed gameability" in result.stdout
    passed = test("contains", "--plugin", plugin, "--pairs", pairs, *wanted, "--kind", "code")
    assert passed.exit_code == 0 and "(0 of " in passed.stdout
    allowed = ("--max-gameability", "0.9")
    assert test("contains", "--plugin", plugin, "--pairs", pairs, *wanted, *allowed).exit_code == 0


def test_the_report_as_json(plugin: str, pairs: str) -> None:
    command = ("contains", "--plugin", plugin, "--pairs", pairs, "--json")
    result = test(*command, "--check", "golden", "--check", "gameability")
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == 1 and not report["passed"] and 0 < report["gameability"] < 1
    assert [(r["name"], r["outcome"]) for r in report["results"]] == [
        ("golden", "passed"),
        ("gameability", "failed"),
    ]


def test_options_are_given_as_for_verify(plugin: str) -> None:
    for options in (("--options", '{"ignore_case": true}'), ("--set-option", "ignore_case=true")):
        result = test("equal", "--plugin", plugin, "--check", "config", "--json", *options)
        [check] = json.loads(result.stdout)["results"]
        assert check["evidence"]["options"] == {"ignore_case": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("equals",), "Unknown verifier 'equals'. Did you mean 'equal'?"),
        (("contains",), "verifier contains ships no examples, and none were given"),
        (("equal", "--pairs", "missing.jsonl"), "cannot read missing.jsonl: No such file"),
        (("equal", "--set-option", "ignore_kase=1"), "unknown setting. Did you mean"),
        (("equal", "--check", "gold"), "Invalid value for '--check'"),
        (("equal", "--max-gameability", "2"), "Invalid value for '--max-gameability'"),
    ],
)
def test_wrong_input_is_refused(plugin: str, arguments: tuple[str, ...], message: str) -> None:
    result = test(*arguments, "--plugin", plugin)
    assert result.exit_code == 2 and message in result.output


def test_a_line_that_is_no_pair_is_named(plugin: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(
        '{"completion": "x", "reference": "x", "expected": true}\n{"completion": "x"}\n'
    )
    result = test("equal", "--plugin", plugin, "--pairs", str(path))
    assert result.exit_code == 2 and f"line 2 of {path} has no 'reference'" in result.output
    path.write_bytes(b"\xff\xfe")
    result = test("equal", "--plugin", plugin, "--pairs", str(path))
    assert result.exit_code == 2 and f"{path} is not UTF-8" in result.output


def test_output_of_a_plugin_does_not_end_up_in_the_report(tmp_path: Path) -> None:
    path = tmp_path / "noisy.py"
    path.write_text(
        "print('hello')\n" + PLUGIN.replace("text, wanted =", "print('x'); text, wanted =")
    )
    result = test("equal", "--plugin", str(path), "--check", "golden", "--json")
    text = result.stdout.removeprefix("hello\n")  # when this process looked the name up
    assert result.exit_code == 0 and json.loads(text)["passed"]


HANGS = """
import time
from grpo_core import hookimpl
from grpo_core.testing import Example

class Hangs:
    version = "1"
    examples = [Example("a", "a", True)]
    def verify(self, samples):
        while True:
            time.sleep(0.01)

@hookimpl
def grpo_register_verifiers(register):
    register("hangs", Hangs)
"""


@pytest.mark.slow
def test_nothing_is_left_of_an_interrupted_test(tmp_path: Path) -> None:
    path = tmp_path / "hangs.py"
    path.write_text(HANGS)
    command = [sys.executable, "-m", "grpo_core", "plugins", "test", "hangs", "--plugin", str(path)]
    command += ["--check", "inputs"]
    environment = {**os.environ, "GRPO_TEST_DESK": str(tmp_path)}
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        wait_until(lambda: len(marked(tmp_path)) >= 4)  # the command, the suite, a zygote, a worker
        process.send_signal(number)
        process.wait(30)
        wait_until(lambda: not marked(tmp_path), seconds=30)


def marked(path: Path) -> list[str]:
    """Processes that have inherited the mark."""
    mark = f"GRPO_TEST_DESK={path}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                found.append(folder.name)
        except OSError:  # it is gone, or another user's
            continue
    return found
