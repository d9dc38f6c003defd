"""The check of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_core.testing.creation import create_instance
from grpo_core.types import Prompt


def check_task(task: Any, options: Mapping[str, Any] | None = None) -> dict[str, Sequence[Prompt]]:
    """Check that a task always gives the same prompts, and that its splits share none.

    Args:
        task: a task class, or an instance.
        options: the task's options, where it is not an instance.

    Returns:
        The prompts of each split.

    Raises:
        AssertionError: naming the split and prompt that failed.
    """
    instance = create_instance(task, options)
    assert instance.evaluation_split in instance.splits, "evaluation_split is none of the splits"
    prompts = {split: instance.load(split) for split in instance.splits}
    seen: dict[tuple[str, str], str] = {}
    for split, loaded in prompts.items():
        assert loaded, f"split '{split}' is empty"
        assert list(instance.load(split)) == list(loaded), f"split '{split}' changed when reloaded"
        ids = [prompt.id for prompt in loaded]
        assert len(set(ids)) == len(ids), f"split '{split}' has an id twice"
        for prompt in loaded:
            assert prompt.reference is not None, f"'{prompt.id}' of '{split}' has no reference"
            content = str([dict(message) for message in prompt.messages])
            other = seen.setdefault((content, str(prompt.reference)), split)
            assert other == split, f"'{prompt.id}' of '{split}' stands in '{other}', too"
    return prompts
