from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from grpo_core.errors import ConfigError, DataError
from grpo_core.testing import check_task
from grpo_core.types import Prompt
from grpo_tasks.gsm8k import Gsm8k

datasets = pytest.importorskip("datasets")

ROWS = [
    {"question": f"What is {n} and {n}?", "answer": f"{n}+{n} = <<{n}+{n}>>.\nDone.\n#### {2 * n}"}
    for n in range(40)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def load(split: str, **options: Any) -> list[Prompt]:
    return list(Gsm8k(Gsm8k.Config(**options)).load(split))


def test_prompt_reference_and_meta(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "answer": "One step.\nTwo steps.\n#### 1,234,567"}]
    path = write(tmp_path / "train.jsonl", rows)
    [prompt] = load("train", path=path, test_path=path, system_prompt="Be brief.")
    text = "How many?\n\nThink step by step, and put the final answer within \\boxed{}."
    assert prompt.id == "train:0"
    assert prompt.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": text},
    )
    assert prompt.reference == "1234567"
    assert prompt.meta == {"solution": "One step.\nTwo steps.", "num_steps": 2}


def test_one_local_file_is_divided_by_the_question(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", ROWS)
    prompts = check_task(Gsm8k, {"path": path})
    assert len(prompts["train"]) + len(prompts["test"]) == 40
    turned = write(tmp_path / "turned.jsonl", ROWS[::-1])
    assert {p.text for p in load("test", path=turned)} == {p.text for p in prompts["test"]}
    longer = write(tmp_path / "longer.jsonl", [*ROWS, {"question": "New?", "answer": "#### 1"}])
    assert {p.text for p in prompts["test"]} <= {p.text for p in load("test", path=longer)}


def test_share_of_the_held_out_part(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", ROWS)
    small, large = (load("test", path=path, test_share=share) for share in (0.1, 0.6))
    assert {p.id for p in small} < {p.id for p in large}


def test_test_file(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ROWS[:30])
    test = write(tmp_path / "test.jsonl", ROWS[30:])
    assert len(load("train", path=train, test_path=test)) == 30
    assert [p.reference for p in load("test", path=train, test_path=test, limit=2)] == ["60", "62"]


def test_folder_with_splits(tmp_path: Path) -> None:
    write(tmp_path / "gsm8k" / "train.jsonl", ROWS[:30])
    write(tmp_path / "gsm8k" / "test.jsonl", ROWS[30:])
    options = {"path": str(tmp_path / "gsm8k"), "config": ""}
    assert [len(load(split, **options)) for split in ("train", "test")] == [30, 10]
    with pytest.raises(ConfigError, match="'main' not found"):
        load("train", path=options["path"])


def test_hub_data_set_gets_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load("test")) == 40
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]


def test_template(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", ROWS)
    assert load("train", path=path, prompt_template="Q: {question}")[0].text.startswith("Q: What")
    with pytest.raises(ValidationError, match="Did you mean 'question'"):
        Gsm8k.Config(prompt_template="{qestion}")
    with pytest.raises(ValidationError, match="Unknown placeholder 'answer'"):
        Gsm8k.Config(prompt_template="{question} {answer}")


@pytest.mark.parametrize("answer", ["12", "####", "#### ", ""])
def test_answer_without_number(tmp_path: Path, answer: str) -> None:
    path = write(tmp_path / "train.jsonl", [{"question": "How many?", "answer": answer}])
    with pytest.raises(DataError, match=r"row 0 of train: the answer must end in '#### <number>'"):
        load("train", path=path, test_path=path)


def test_wrong_columns_and_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [{"questions": "How many?", "answer": "#### 1"}])
    with pytest.raises(ConfigError, match=r"'question'. Did you mean 'questions'\?"):
        load("train", path=path)
    with pytest.raises(DataError, match="does not exist"):
        load("train", path=str(tmp_path / "none.jsonl"))
    with pytest.raises(ValidationError, match="exclude each other"):
        Gsm8k.Config(path=path, test_path=path, test_share=0.5)
