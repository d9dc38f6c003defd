"""`grpo verify`: one pair, and batches, in real worker processes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grpo_core.cli.main import cli
from grpo_core.cli.verifier_options import parse_options
from grpo_core.cli.verify import parse_reference
from grpo_core.errors import ConfigError

ROOT = Path(__file__).parents[2]
FOLDERS = [str(ROOT / name) for name in (".", "plugins", "verifiers", "tasks")]
PLUGIN = '''
import time
from grpo_core import Sample, Verdict, hookimpl, verifier


@verifier(version="2.1")
def picky(sample: Sample, *, ignore_case: bool = False):
    """Right when the completion is the reference."""
    if sample.completion == "raise":
        raise RuntimeError("no mood")
    if sample.completion == "hang":
        time.sleep(60)
    if sample.completion == "slow":
        time.sleep(0.2)
    if sample.completion == "nan":
        return float("nan")
    if sample.completion == "meta":
        return Verdict.wrong("", {"meta": dict(sample.meta), "reference": sample.reference})
    if isinstance(sample.reference, dict):
        return Verdict.wrong("got \\x1b[31m[bold]", {"keys": sorted(sample.reference)}, 0.25)
    a, b = sample.completion, str(sample.reference)
    return a.lower() == b.lower() if ignore_case else a == b


@hookimpl
def grpo_register_verifiers(register):
    register("picky", picky)
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(PLUGIN)
    return str(path)


def verify(plugin: str, *arguments: str, stdin: str | None = None) -> Result:
    options = ["verify", "--verifier", "picky", "--plugin", plugin]
    return CliRunner().invoke(cli, [*options, *arguments], input=stdin)


def write_pairs(path: Path, pairs: list[Any]) -> str:
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return str(path)


def pair(identity: Any, completion: str, reference: Any = "a") -> dict[str, Any]:
    return {"id": identity, "completion": completion, "reference": reference}


def test_one_pair(plugin: str) -> None:
    result = verify(
        plugin, "--completion", "A", "--reference", "a", "--set-option=ignore_case=true"
    )
    assert result.exit_code == 0
    assert result.stdout.split()[:4] == ["status", "correct", "score", "1"]
    assert "picky 2.1" in result.stdout


def test_one_pair_as_json_with_an_object_as_reference(plugin: str) -> None:
    result = verify(plugin, "--completion", "-", "--reference", '{"b": 1}', "--json", stdin="x")
    verdict = json.loads(result.stdout)
    assert verdict.pop("seconds") >= 0
    assert verdict == {
        "status": "wrong",
        "score": 0.25,
        "reason": "got \x1b[31m[bold]",
        "details": {"keys": ["b"]},
        "verifier": "picky",
        "version": "2.1",
    }


def test_one_pair_without_a_reference_and_with_meta(plugin: str) -> None:
    result = verify(plugin, "--completion", "meta", "--meta", '{"level": 3}', "--json")
    assert json.loads(result.stdout)["details"] == {"meta": {"level": 3}, "reference": None}
    result = verify(plugin, "--completion", "meta", "--reference", "", "--json")
    assert json.loads(result.stdout)["details"] == {"meta": {}, "reference": ""}


def test_batch_lines_need_a_completion_only(plugin: str, tmp_path: Path) -> None:
    lines = [{"id": "x", "completion": "meta"}, {"completion": "meta", "meta": {"a": 1}}]
    result = verify(plugin, "--input", write_pairs(tmp_path / "in.jsonl", lines))
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["id"], first["details"]) == ("x", {"meta": {}, "reference": None})
    assert (second["id"], second["details"]) == (2, {"meta": {"a": 1}, "reference": None})


def test_a_verifier_that_needs_a_reference_refuses_its_lack() -> None:
    for name in ("exact", "math", "code"):
        arguments = ["verify", "--verifier", name, "--completion", "x", "--json"]
        verdict = json.loads(CliRunner().invoke(cli, arguments).stdout)
        assert verdict["status"] == "error" and "reference" in verdict["reason"], verdict


def test_text_of_the_verdict_cannot_control_the_terminal(plugin: str) -> None:
    result = verify(plugin, "--completion", "x", "--reference", '{"b": 1}')
    assert "got ␛[31m[bold]" in result.stdout and "\x1b" not in result.stdout


def test_batch_keeps_order_and_ids_and_contains_failures(plugin: str, tmp_path: Path) -> None:
    pairs = [
        pair("first", "slow", "slow"), pair(2, "b"), pair(None, "raise"), pair([4], "nan"),
        pair("hung", "hang"), pair("last", "é", "é"),
    ]  # fmt: skip
    source = write_pairs(tmp_path / "in.jsonl", pairs)
    output = tmp_path / "out.jsonl"
    result = verify(
        plugin, "--input", source, "--output", str(output), "--deadline", "1", "--workers", "2"
    )
    assert result.exit_code == 0, result.stderr
    verdicts = [json.loads(line) for line in output.read_text().splitlines()]
    assert [verdict["id"] for verdict in verdicts] == ["first", 2, None, [4], "hung", "last"]
    assert [verdict["status"] for verdict in verdicts] == [
        "correct", "wrong", "error", "error", "timeout", "correct",
    ]  # fmt: skip
    assert set(verdicts[0]) == {
        "id", "status", "score", "reason", "details", "seconds", "verifier", "version",
    }  # fmt: skip
    assert "no mood" in verdicts[2]["reason"]
    assert result.stdout == ""
    assert "6 verdicts: 2 correct, 1 wrong, 1 timeout, 2 error" in result.stderr


def test_batch_through_standard_streams(plugin: str) -> None:
    lines = "\ufeff" + json.dumps(pair(1, "a")) + "\n\n" + json.dumps(pair(2, "b"))
    result = verify(plugin, "--input", "-", stdin=lines)
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == [
        "correct", "wrong",
    ]  # fmt: skip


def test_large_batch_is_complete_and_in_order(plugin: str, tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "in.jsonl", [pair(i, "ab"[i % 2]) for i in range(1500)])
    result = verify(plugin, "--input", source, "--output", str(tmp_path / "out.jsonl"))
    assert result.exit_code == 0
    verdicts = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [v["id"] for v in verdicts] == list(range(1500))
    assert all(v["status"] == ("wrong" if v["id"] % 2 else "correct") for v in verdicts)


def test_empty_batch(plugin: str, tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "in.jsonl", [])
    result = verify(plugin, "--input", source, "--output", str(tmp_path / "out.jsonl"))
    assert result.exit_code == 0 and (tmp_path / "out.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "line, message",
    [
        ("nonsense", "line 3 of the input is not JSON"),
        ("[" * 100_000, "line 3 of the input is not JSON"),
        ("[1]", "line 3 of the input is no JSON object"),
        ('{"id": 1, "reference": "a"}', "line 3 of the input has no 'completion'"),
        ('{"id": 1, "completion": 5, "reference": "a"}', "line 3: 'completion' must be text"),
        ('{"id": 1, "completion": "", "reference": 1, "meta": 2}', "line 3: 'meta' must be"),
    ],
)
def test_malformed_line_is_named_before_work_starts(
    plugin: str, tmp_path: Path, line: str, message: str
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(pair(1, "hang")) + "\n\n" + line + "\n")
    output.write_text("old")
    result = verify(plugin, "--input", str(source), "--output", str(output))
    assert result.exit_code == 2
    assert message in result.stderr
    assert output.read_text() == "old"


def test_line_that_is_not_utf8(plugin: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"id": 1, "completion": "\xff", "reference": "a"}\n')
    result = verify(plugin, "--input", str(tmp_path / "in.jsonl"))
    assert result.exit_code == 2 and "line 1" in result.stderr


def test_unwritable_output(plugin: str, tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "in.jsonl", [pair(1, "a")])
    result = verify(plugin, "--input", source, "--output", str(tmp_path / "no" / "out.jsonl"))
    assert result.exit_code == 1 and "cannot write" in result.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "Give --completion and --reference, or --input FILE."),
        (("--meta", "{}"), "Missing option '--completion'."),
        (("--completion", "x", "--meta", "[1]"), "--meta must be a JSON object"),
        (("--completion", "x", "--meta", "{"), "--meta must be JSON"),
        (("--input", "x", "--meta", "{}"), "--input does not go with"),
        (("--reference", "x"), "Missing option '--completion'."),
        (("--input", "x", "--completion", "x"), "--input does not go with"),
        (("--completion", "x", "--reference", "x", "--output", "x"), "--output needs --input."),
        (("--input", "nowhere.jsonl"), "cannot read nowhere.jsonl: No such file"),
        (("--completion", "x", "--reference", "x", "--options", "{"), "--options must be JSON"),
        (
            ("--completion", "x", "--reference", "x", "--set-option", "ignore_cas=true"),
            "Did you mean 'ignore_case'?",
        ),
    ],
)
def test_wrong_use_says_what_is_wrong(
    plugin: str, arguments: tuple[str, ...], message: str
) -> None:
    result = verify(plugin, *arguments)
    assert result.exit_code == 2 and message in result.stderr


def test_unknown_verifier_offers_the_nearest(plugin: str) -> None:
    arguments = ["verify", "--verifier", "pikcy", "--plugin", plugin]
    result = CliRunner().invoke(cli, [*arguments, "--completion", "x", "--reference", "x"])
    assert result.exit_code == 2 and "Did you mean 'picky'?" in result.stderr


def test_parse_reference() -> None:
    assert parse_reference('{"tests": "assert 1"}') == {"tests": "assert 1"}
    for text in ("1/2", "3", "[1, 2]", "{1, 2}", "", '"x"'):
        assert parse_reference(text) == text


def test_parse_options() -> None:
    pairs = ("a=1", "b=text", "c=[1, 2]", "d=x=y", "e=")
    objects = ('a={"level": "meta.level"}', 'b=["x", {"y": null}]', "c={x", 'd={y = "TOML"}')
    assert parse_options("{}", objects) == {
        "a": {"level": "meta.level"}, "b": ["x", {"y": None}], "c": "{x", "d": {"y": "TOML"},
    }  # fmt: skip
    assert parse_options('{"a": 0, "z": null}', pairs) == {
        "a": 1, "z": None, "b": "text", "c": [1, 2], "d": "x=y", "e": "",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="JSON object"):
        parse_options("[]", ())
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_options("{}", ("novalue",))


def test_the_command_of_the_readme() -> None:
    """With our own plugin packages read from their files, whether installed or not."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(FOLDERS),
        "GRPO_DISABLED_PLUGINS": "grpo_verifiers,grpo_plugins,grpo_tasks",
    }
    hooks = str(ROOT / "verifiers" / "grpo_verifiers" / "hooks.py")
    command = [
        sys.executable, "-m", "grpo_core", "verify", "--verifier", "math", "--plugin", hooks,
        "--reference", "1/2", "--completion", r"so \boxed{0.5}",
    ]  # fmt: skip
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[:2] == ["status", "correct"]


def test_progress_bar_on_a_terminal_leaves_standard_output_alone(
    plugin: str, tmp_path: Path
) -> None:
    source = write_pairs(tmp_path / "in.jsonl", [pair(i, "slow") for i in range(6)])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "grpo_core", "verify", "--verifier", "picky"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(FOLDERS), "TERM": "xterm"}
    process = subprocess.Popen(
        [*command, "--plugin", plugin, "--input", source],
        env=env,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    drawn = b""
    try:
        while chunk := os.read(ours, 4096):
            drawn += chunk
    except OSError:  # Linux's way to say that the other end is closed
        pass
    os.close(ours)
    output, _ = process.communicate(timeout=60)
    assert b"verifying" in drawn and b"6 verdicts: 6 wrong" in drawn
    assert [json.loads(line)["id"] for line in output.splitlines()] == list(range(6))
