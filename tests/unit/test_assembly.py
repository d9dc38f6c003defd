"""What a task of a stranger may do wrong."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_core.assembly import create_task, evaluation_prompts, load_prompts
from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError, DataError, PluginError
from grpo_core.hookspecs import hookimpl
from grpo_core.plugin_manager import Plugins, PluginSources, load_plugins
from grpo_core.types import Prompt
from grpo_core.validation import build

PROMPTS = [Prompt(f"p{n}", [{"role": "user", "content": "x"}], "a") for n in range(4)]


class Sound:
    default_verifier, splits, evaluation_split = "exact", ("train", "test"), "test"
    prompts: Any = PROMPTS

    def load(self, split: str) -> Any:
        return self.prompts


class Offline(Sound):
    def load(self, split: str) -> Any:
        raise KeyError("answer")


class Unfinished:
    splits = ("train",)

    def load(self, split: str) -> Any:
        return PROMPTS


def plugins(target: type) -> Plugins:
    class Plugin:
        @hookimpl
        def grpo_register_tasks(self, register: Any) -> None:
            register("mine", target)

    return load_plugins(PluginSources(use_entry_points=False), extra=[Plugin()])


CONFIG = build(RunConfig, {"task": {"name": "mine"}, "evaluation": {"num_prompts": 3}})


def test_a_sound_task() -> None:
    task = create_task(CONFIG, plugins(Sound))
    assert load_prompts(task, "train") == PROMPTS
    assert evaluation_prompts(CONFIG, task) == PROMPTS[:3]


def test_a_task_without_a_part_of_the_contract() -> None:
    with pytest.raises(PluginError, match=r"task 'mine' .* has no evaluation_split, default_veri"):
        create_task(CONFIG, plugins(Unfinished))


def test_a_task_that_raises_is_named() -> None:
    with pytest.raises(PluginError, match="task Offline cannot load split 'train': KeyError"):
        load_prompts(Offline(), "train")


@pytest.mark.parametrize("prompts", [[1, 2], (p for p in PROMPTS), None, ["text"]])
def test_a_task_that_returns_something_else(prompts: Any) -> None:
    task = Sound()
    task.prompts = prompts
    with pytest.raises(PluginError, match="must return a list of Prompts for split 'test'"):
        load_prompts(task, "test")


def test_a_split_that_is_empty_or_not_there() -> None:
    task = Sound()
    with pytest.raises(ConfigError, match=r"Unknown split 'tset'. Did you mean 'test'\?"):
        load_prompts(task, "tset")
    task.prompts = []
    with pytest.raises(DataError, match="split 'test' of the task is empty"):
        load_prompts(task, "test")
