from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from grpo_core.errors import ConfigError, DataError
from grpo_core.testing import check_task
from grpo_core.types import Prompt
from grpo_tasks.dataset import Dataset

datasets = pytest.importorskip("datasets")

ROWS = [
    {"prompt": f"What is {n} + 1?", "reference": str(n + 1), "hint": f"count on from {n}", "id": n}
    for n in range(30)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(split: str = "train", **options: Any) -> list[Prompt]:
    return list(Dataset(Dataset.Config(**options)).load(split))


def load_all(path: str, **options: Any) -> list[Prompt]:
    """Every row: nothing is held out of train when test is elsewhere."""
    return load(path=path, test_path=path, **options)


# ---- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.parquet", "data.JSONL"])
def test_formats_give_the_same_prompts(tmp_path: Path, name: str) -> None:
    prompts = load_all(write(tmp_path / name, ROWS))
    assert [(p.id, p.text, p.reference) for p in prompts] == [
        (f"train:{n}", row["prompt"], row["reference"]) for n, row in enumerate(ROWS)
    ]


def test_folder_has_its_own_splits(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.jsonl", ROWS[:20])
    write(tmp_path / "data" / "validation.jsonl", ROWS[20:])
    options = {"path": str(tmp_path / "data"), "splits": {"test": "validation"}}
    assert [len(p) for p in check_task(Dataset, options).values()] == [20, 10]
    with pytest.raises(ConfigError, match=r"Unknown split \"test\". Should be one of \['train'"):
        load("test", path=options["path"])
    with pytest.raises(ConfigError, match="BuilderConfig 'other' not found"):
        load(path=options["path"], config="other")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data.jsonl", ROWS)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_all("~/data.jsonl")) == 30


def test_changed_file_is_read_anew(tmp_path: Path) -> None:
    assert len(load_all(write(tmp_path / "data.jsonl", ROWS))) == 30
    assert len(load_all(write(tmp_path / "data.jsonl", ROWS[:7]))) == 7


def test_nothing_is_printed_and_no_code_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given: list[set[str]] = []
    original = datasets.load_dataset

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        given.append(set(kwargs))
        return original(*args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    path = write(tmp_path / "data.parquet", ROWS)
    capfd.readouterr()
    load_all(path)
    assert given == [{"data_files", "split"}]
    assert capfd.readouterr() == ("", "")
    assert not datasets.utils.are_progress_bars_disabled()


# ---- columns ------------------------------------------------------------------------------------


def test_columns_ids_and_meta(tmp_path: Path) -> None:
    rows = [{"q": "Why?", "a": 42, "key": "k7", "level": 3, "tags": ["x"]}]
    [prompt] = load_all(
        write(tmp_path / "data.jsonl", rows),
        columns={"prompt": "q", "reference": "a", "id": "key", "meta": ["level", "tags"]},
    )
    assert prompt == Prompt(
        "k7", ({"role": "user", "content": "Why?"},), 42, {"level": 3, "tags": ["x"]}
    )


def test_fields_of_structures(tmp_path: Path) -> None:
    rows = [{"prompt": "Why?", "reward_model": {"ground_truth": "42", "style": "rule"}}]
    columns = {"reference": "reward_model.ground_truth", "meta": ["reward_model.style"]}
    [prompt] = load_all(write(tmp_path / "data.parquet", rows), columns=columns)
    assert prompt.reference == "42"
    assert prompt.meta == {"reward_model.style": "rule"}
    with pytest.raises(ConfigError, match=r"'reward_model\.truth'"):
        load_all(str(tmp_path / "data.parquet"), columns={"reference": "reward_model.truth"})


def test_references_of_different_form_stay_as_they_are(tmp_path: Path) -> None:
    references = [
        {"language": "python", "tests": "assert f(1) == 2", "entry_point": "f"},
        {"cases": [{"call": "f(1)", "equals": None}, {"call": "f(2)", "equals": "x"}]},
    ]
    rows = [{"prompt": f"Write f{n}", "reference": r} for n, r in enumerate(references)]
    assert [p.reference for p in load_all(write(tmp_path / "data.jsonl", rows))] == references


@pytest.mark.parametrize("text", ["2024-05-01", "2024-05-01T10:00:00Z", "007", "1e3", "true"])
def test_text_stays_text(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "data.jsonl", [{"prompt": "When?", "reference": text}])
    assert [p.reference for p in load_all(path)] == [text]


def test_values_that_are_not_json(tmp_path: Path) -> None:
    path = write(tmp_path / "data.parquet", [{"prompt": "When?", "reference": b"bytes"}])
    with pytest.raises(DataError, match="row 0 of train: bytes is no plain value"):
        load_all(path)


def test_verifier_can_be_chosen() -> None:
    assert Dataset(Dataset.Config(path="x")).default_verifier == "math"
    assert Dataset(Dataset.Config(path="x", verifier="exact")).default_verifier == "exact"


# ---- prompts ------------------------------------------------------------------------------------


def test_template_system_prompt_and_limit(tmp_path: Path) -> None:
    rows = [{**row, "choices": ["a", "b"]} for row in ROWS]
    prompts = load_all(
        write(tmp_path / "data.jsonl", rows),
        prompt_template="{prompt} ({hint}) {choices} {id} \\boxed{}",
        system_prompt="Be brief.",
        limit=2,
    )
    assert len(prompts) == 2
    assert prompts[1].messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": 'What is 1 + 1? (count on from 1) ["a", "b"] 1 \\boxed{}'},
    )


def test_values_are_not_templates(tmp_path: Path) -> None:
    rows = [{"prompt": "{reference} {{x}}", "reference": "secret"}]
    [prompt] = load_all(write(tmp_path / "data.jsonl", rows), prompt_template="Q: {prompt}")
    assert prompt.text == "Q: {reference} {{x}}"


def test_chat_messages(tmp_path: Path) -> None:
    chat = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "and + 1?"},
    ]
    path = write(tmp_path / "data.parquet", [{"prompt": chat, "reference": "5"}])
    [prompt] = load_all(path, system_prompt="Be brief.")
    assert list(prompt.messages) == [{"role": "system", "content": "Be brief."}, *chat]
    assert prompt.text == "and + 1?"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "must be text or messages"),
        (None, "must be text or messages"),
        (7, "must be text or messages, got 7"),
        ([], "must be text or messages"),
        ([{"role": "robot", "content": "hi"}], "a message needs a role"),
        ([{"role": "user", "content": None}], "a message needs a role"),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "assistant"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path: Path, prompt: Any, message: str) -> None:
    path = write(tmp_path / "data.jsonl", [{"prompt": prompt, "reference": "1"}])
    with pytest.raises(DataError, match=f"row 0 of train: .*{message}"):
        load_all(path)


def test_two_system_prompts(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "One."}, {"role": "user", "content": "hi"}]
    path = write(tmp_path / "data.jsonl", [{"prompt": chat, "reference": "1"}])
    with pytest.raises(ConfigError, match="has a system message already"):
        load_all(path, system_prompt="Two.")


# ---- splits -------------------------------------------------------------------------------------


def test_single_file_is_divided_by_its_prompts(tmp_path: Path) -> None:
    prompts = check_task(Dataset, {"path": write(tmp_path / "data.jsonl", ROWS)})
    assert sorted(p.text for part in prompts.values() for p in part) == sorted(
        row["prompt"] for row in ROWS
    )


def test_equal_prompts_stay_together(tmp_path: Path) -> None:
    rows = [{**row, "prompt": f" {row['prompt']}\n", "hint": "other"} for row in ROWS]
    path = write(tmp_path / "data.jsonl", [*ROWS, *rows])
    sides = [
        {p.text.strip() for p in load(split, path=path, test_share=0.5)}
        for split in ("train", "test")
    ]
    assert sides[0].isdisjoint(sides[1])


def test_wording_does_not_move_a_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", ROWS)
    worded = [
        {p.id for p in load("test", path=path, test_share=0.4, **options)}
        for options in ({}, {"prompt_template": "Please: {prompt}"}, {"system_prompt": "Hi."})
    ]
    assert worded[0] == worded[1] == worded[2]


# ---- refusals -----------------------------------------------------------------------------------


def test_missing_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"Unknown column 'referense'. Did you mean 'reference'"):
        load_all(path, columns={"reference": "referense"})
    with pytest.raises(ConfigError, match=r"'hnt'. Did you mean 'hint'.*hint, id, .* twice: '{{'"):
        load_all(path, prompt_template="{prompt} {hnt}")
    with pytest.raises(ConfigError, match="Unknown column 'level'"):
        load_all(path, columns={"meta": ["level"]})


@pytest.mark.parametrize("reference", [None, "", [], {}])
def test_no_reference(tmp_path: Path, reference: Any) -> None:
    rows = [ROWS[0], {"prompt": "Why?", "reference": reference}]
    path = write(tmp_path / "data.jsonl", rows)
    with pytest.raises(DataError, match="row 1 of train: no reference"):
        load_all(path)


def test_empty_template_column(tmp_path: Path) -> None:
    rows = [*ROWS[:1], {**ROWS[1], "hint": None}]
    path = write(tmp_path / "data.jsonl", rows)
    with pytest.raises(DataError, match="row 1 of train: column 'hint' of the prompt_template"):
        load_all(path, prompt_template="{hint}")


def test_id_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", [ROWS[0], ROWS[0]])
    with pytest.raises(DataError, match="row 1 of train: id '0' occurs twice"):
        load_all(path, columns={"id": "id"})


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", b""), ("a.json", b"[]"), ("a.parquet", None)],
)
def test_empty_file(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is None:
        datasets.Dataset.from_dict({"prompt": [], "reference": []}).to_parquet(str(path))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"is empty|has no rows"):
        load_all(str(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n\n{"prompt": \n'),
        ("a.jsonl", '{"prompt": "\xe9"}'.encode("latin-1")),
        ("a.json", b'[{"prompt": "x"}'),
        ("a.parquet", b"not a parquet file"),
    ],
)
def test_broken_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}'(, line [13])? cannot be read: "):
        load_all(str(tmp_path / name))


@pytest.mark.parametrize("content", ["3", "[3]", '["prompt"]'])
def test_rows_that_are_no_objects(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match="row 0: no JSON object, got "):
        load_all(str(tmp_path / "a.json"))


def test_rows_without_a_column_that_others_have(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "reference": 1}, {"prompt": "b", "reference": 2, "level": 3}]
    prompts = load_all(write(tmp_path / "data.jsonl", rows), columns={"meta": ["level"]})
    assert [p.meta for p in prompts] == [{"level": None}, {"level": 3}]


def test_missing_files(tmp_path: Path) -> None:
    for path in (str(tmp_path / "no.jsonl"), "no.parquet", "./no", "~/no", "a/b/c"):
        with pytest.raises(DataError, match="does not exist: no such file or folder"):
            load(path=path)
    (tmp_path / "a.csv").write_text("prompt,reference\n1,2\n")
    with pytest.raises(DataError, match=r"must end in .json, .jsonl, .parquet, got '.csv'"):
        load(path=str(tmp_path / "a.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be read: EmptyDatasetError"):
        load(path=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="config 'main' has no meaning for the single file"):
        load_all(write(tmp_path / "data.jsonl", ROWS), config="main")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'some/data' cannot be reached .* local .jsonl"):
        load(path="some/data")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "path"),
        ({"path": ""}, "at least 1"),
        ({"path": "x", "test_path": "y", "test_share": 0.1}, "exclude each other"),
        ({"path": "x", "test_share": 1.0}, "less than 1"),
        ({"path": "x", "limit": 0}, "greater than 0"),
        ({"path": "x", "columns": {"promt": "q"}}, "promt"),
        ({"path": "x", "prompt_template": "{reference}"}, "must not show the reference"),
        (
            {"path": "x", "prompt_template": "{a}", "columns": {"reference": "a.b"}},
            "must not show the reference",
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Dataset.Config(**options)
