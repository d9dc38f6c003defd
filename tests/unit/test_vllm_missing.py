"""What a run with vLLM says on a machine without it."""

from __future__ import annotations

import sys

import pytest

from grpo_core.config import RunConfig
from grpo_core.errors import MissingExtraError
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.sampling.base import completion_seed
from grpo_core.sampling.vllm import engine
from grpo_core.training.preflight import check_settings
from grpo_core.validation import build


def test_the_preflight_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    config = build(RunConfig, {"sampling": {"engine": "vllm"}})
    with pytest.raises(MissingExtraError, match=r"'vllm' needs .* 'grpo-core\[vllm\]'"):
        check_settings(config, load_plugins(PluginSources(use_entry_points=False)))


def test_it_is_not_imported_to_find_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    config = build(RunConfig, {"sampling": {"engine": "vllm"}})
    check_settings(config, load_plugins(PluginSources(use_entry_points=False)))
    assert "vllm" not in sys.modules


def test_seeds_of_completions_fit_and_differ() -> None:
    keys = [(s, p, i) for s in (0, 1) for p in ("a", "b") for i in range(50)]
    seeds = [completion_seed(*key) for key in keys]
    assert seeds == [completion_seed(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
