"""`grpo rescore`, `grpo explain` and `grpo verify --compare`: a second look at verdicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean, pstdev
from string import ascii_letters
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grpo_core.cli.main import cli
from grpo_core.config import RunConfig
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.run import train
from grpo_core.validation import build
from tiny_model import save_tiny_model

PLUGIN = str(Path(__file__).parents[1] / "integration" / "letter_plugin.py")
SOURCES = PluginSources(files=(PLUGIN,), use_entry_points=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("run")
    config = build(
        RunConfig,
        {
            "model": {"path": str(save_tiny_model(folder / "model"))},
            "task": {"name": "letters"},
            "sampling": {"max_new_tokens": 8},
            "grpo": {"group_size": 8, "prompts_per_step": 4},
            "trainer": {"dtype": "float32", "steps": 3, "learning_rate": 1e-2},
            "evaluation": {"num_prompts": 2, "num_samples": 1},
            "shapers": [{"name": "brevity", "weight": 0.5}],
        },
    )
    directory = RunDirectory.create(folder / "run", base="")
    train(config, load_plugins(SOURCES), SOURCES, directory)
    return directory


def grpo(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def letters(text: str) -> int:
    return sum(letter in ascii_letters for letter in text)


def advantages(rewards: list[float]) -> list[float]:
    mean, std = fmean(rewards), pstdev(rewards)
    return [(reward - mean) / std if std > 1e-9 else 0.0 for reward in rewards]


def test_rescoring_lists_exactly_the_advantages_that_change(
    run: RunDirectory, tmp_path: Path
) -> None:
    lines = tmp_path / "changed.jsonl"
    command = ["rescore", str(run.path), "--verifier", "many_letters", "--plugin", PLUGIN]
    found = json.loads(grpo(*command, "--set-option=least=5", f"--output={lines}", "--json").stdout)
    wanted = {"flipped": 0, "gained": 0, "lost": 0, "changed": 0, "same": 0}
    flips = set()
    for step in (1, 2, 3):
        for group in run.read_rollouts(step):
            prices = [r.components["brevity"] for r in group.rollouts]
            texts = [r.completion.text for r in group.rollouts]
            old, new = (
                advantages([(letters(t) >= least) + p for t, p in zip(texts, prices, strict=True)])
                for least in (3, 5)
            )
            for rollout, a, b in zip(group.rollouts, old, new, strict=True):
                assert rollout.advantage == pytest.approx(a, abs=1e-5)
                if a * b < 0:
                    kind = "flipped"
                    flips.add((step, group.prompt.id, rollout.completion.index))
                elif (a == 0) != (b == 0):
                    kind = "gained" if a == 0 else "lost"
                else:
                    kind = "changed" if abs(a - b) > 1e-5 else "same"
                wanted[kind] += 1
    assert found["advantages"] == wanted and wanted["flipped"] > 0
    assert found["completions"] == 96 and found["not_reproduced"] == 0
    verdicts = {(row["old"], row["new"]): row["count"] for row in found["verdicts"]}
    assert ("wrong", "correct") not in verdicts and verdicts["correct", "wrong"] > 0
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {
        (line["step"], line["prompt_id"], line["index"])
        for line in written
        if line["change"] == "flipped"
    } == flips
    shown = grpo(*command, "--set-option=least=5").stdout
    assert f"advantages: {wanted['flipped']} flipped" in shown and "correct > wrong" in shown


def test_rescoring_with_the_same_verifier_changes_nothing(run: RunDirectory) -> None:
    command = ["rescore", str(run.path), "--verifier", "many_letters", "--plugin", PLUGIN]
    found = json.loads(grpo(*command, "--json", "--steps", "2-3").stdout)
    assert found["steps"] == [2, 3] and found["advantages"]["same"] == 64
    assert all(row["old"] == row["new"] for row in found["verdicts"])


def test_a_verifier_of_the_run_judges_as_it_did_then(run: RunDirectory, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    config = json.loads((copy / "config.json").read_text())
    config["verifiers"] = [{"name": "many_letters", "options": {"least": 5}}]
    (copy / "config.json").write_text(json.dumps(config))
    command = ["rescore", str(copy), "--verifier", "many_letters", "--plugin", PLUGIN, "--json"]
    found = json.loads(grpo(*command).stdout)
    assert found["options"] == {"least": 5}
    assert ("correct", "wrong") in {(row["old"], row["new"]) for row in found["verdicts"]}
    found = json.loads(grpo(*command, "--set-option=least=3").stdout)
    assert found["options"] == {"least": 3} and all(
        row["old"] == row["new"] for row in found["verdicts"]
    )


def test_another_verifier_takes_the_judges_place(run: RunDirectory) -> None:
    command = ["rescore", str(run.path), "--verifier", "moody", "--plugin", PLUGIN, "--steps", "1"]
    found = json.loads(grpo(*command, "--json").stdout)
    assert (found["verifier"], found["replaced"]) == ("moody", "many_letters")
    assert any(row["new"] == "error" for row in found["verdicts"])  # left out of their groups


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--verifier", "many_leters"], "nearest|many_letters"),
        (["--verifier", "moody", "--replace", "x"], "Unknown verifier of the run 'x'"),
        (["--verifier", "moody", "--steps", "2-"], "--steps must be a step or a range"),
        (["--verifier", "moody", "--steps", "a"], "--steps must be a step or a range"),
        (["--verifier", "moody", "--steps", "7-9"], "the run has 1 to 3"),
    ],
)
def test_what_cannot_be_rescored_is_said(
    run: RunDirectory, arguments: list[str], message: str
) -> None:
    command = ["rescore", str(run.path), "--plugin", PLUGIN, *arguments]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2
    assert any(part in result.output for part in message.split("|"))


def test_an_advantage_is_explained_from_the_verdict_on(run: RunDirectory) -> None:
    group = run.read_rollouts(2)[1]
    command = ["explain", str(run.path), "--step", "2", "--prompt", group.prompt.id]
    (found,) = json.loads(grpo(*command, "--plugin", PLUGIN, "--json").stdout)
    rewards = [rollout.reward for rollout in group.rollouts]
    assert found["mean"] == pytest.approx(fmean(rewards))
    assert found["std"] == pytest.approx(pstdev(rewards))
    assert found["is_reproduced"] and found["estimator"] == "std"
    for told, rollout in zip(found["rollouts"], group.rollouts, strict=True):
        parts = {part["name"]: part for part in told["components"]}
        assert parts["many_letters"]["value"] == rollout.judgement.score
        assert parts["brevity"]["weight"] == 0.5
        assert parts["brevity"]["value"] == pytest.approx(2 * rollout.components["brevity"])
        total = sum(part["weight"] * part["value"] for part in parts.values())
        assert told["reward"] == pytest.approx(total)
        assert told["advantage"] == pytest.approx((told["reward"] - found["mean"]) / found["std"])
    text = grpo(*command, "--plugin", PLUGIN, "--index", "3").stdout
    for word in ("verdict", "component", "reward", "baseline", "advantage", "completion 3"):
        assert word in text
    assert "completion 2" not in text


def test_prompts_of_a_step_are_listed(run: RunDirectory) -> None:
    rows = json.loads(grpo("explain", str(run.path), "--json").stdout)
    assert [row["prompt_id"] for row in rows] == [g.prompt.id for g in run.read_rollouts(3)]
    assert rows[0]["prompt_id"] in grpo("explain", str(run.path)).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "9"], "the run has steps 1 to 3"),
        (["--index", "0"], "--index needs --prompt ID"),
        (["--prompt", "nobody"], "has no prompt 'nobody'"),
    ],
)
def test_what_cannot_be_explained_is_said(
    run: RunDirectory, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(cli, ["explain", str(run.path), "--plugin", PLUGIN, *arguments])
    assert result.exit_code == 2 and message in result.output


def write_pairs(path: Path, rows: list[tuple[str, Any]]) -> str:
    lines = [
        {"id": at, "completion": text, "reference": "abc"} | ({} if e is None else {"expected": e})
        for at, (text, e) in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_two_verifiers_are_compared_on_the_same_completions(tmp_path: Path) -> None:
    # moody raises on completions of even length, and else looks for an e
    rows = [("abc", True), ("e", False), ("eee", True), ("??", False), ("abcd", True), ("?", None)]
    pairs = write_pairs(tmp_path / "pairs.jsonl", rows)
    output = tmp_path / "differ.jsonl"
    command = ["verify", "--compare", "many_letters,moody", "--input", pairs, "--plugin", PLUGIN]
    found = json.loads(grpo(*command, "--output", str(output), "--json").stdout)
    assert (found["pairs"], found["disagreements"]) == (6, 4)
    (table,) = found["confusion"]
    cells = {(cell["row"], cell["column"]): cell["count"] for cell in table["counts"]}
    assert cells == {
        ("correct", "not correct"): 1,
        ("not correct", "correct"): 1,
        ("correct", "correct"): 1,
        ("not correct", "no verdict"): 1,
        ("correct", "no verdict"): 1,
        ("not correct", "not correct"): 1,
    }
    listed = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["id"] for line in listed] == [0, 1, 3, 4]
    assert listed[0]["verdicts"]["moody"]["status"] == "wrong"
    text = grpo(*command).stdout
    assert "4 disagreements" in text and "false accepts" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("many_letters  "))
    assert row[1:] == ["100.0%", "0", "0", "0"]
    options = ["--options", '{"many_letters": {"least": 1}}', "--set-option=moody.mood='nan'"]
    again = json.loads(grpo(*command, *options, "--json").stdout)
    assert again["statuses"]["many_letters"]["correct"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "moody"], "needs two or more different verifiers"),
        (["--compare", "moody,moody"], "needs two or more different verifiers"),
        (["--compare", "moody,many_letters", "--verifier", "moody"], "or --compare A,B"),
        (["--compare", "moody,many_letters", "--set-option=least=3"], "NAME.KEY=VALUE"),
        (["--compare", "moody,many_letters", "--options", '{"math": {}}'], "by verifier"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", [("abc", None)])
    command = ["verify", "--input", pairs, "--plugin", PLUGIN, *arguments]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2 and message in result.output


def test_labels_may_be_statuses(tmp_path: Path) -> None:
    found = []
    for right, wrong in ((True, False), ("correct", "wrong"), ("accept", "unparseable")):
        pairs = write_pairs(tmp_path / "pairs.jsonl", [("abc", right), ("??", wrong), ("e", wrong)])
        command = ["verify", "--compare", "many_letters,moody", "--input", pairs]
        found.append(json.loads(grpo(*command, "--plugin", PLUGIN, "--json").stdout)["expected"])
    assert found[0] and found[0] == found[1] == found[2]


def test_labels_must_be_true_or_false(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", [("abc", "yes")])
    command = ["verify", "--compare", "moody,many_letters", "--input", pairs, "--plugin", PLUGIN]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2 and "'expected' must be true or false" in result.output
