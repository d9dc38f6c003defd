"""The contracts of samplers and advantage estimators are checked where their results come in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grpo_core.advantage import group_advantages
from grpo_core.errors import PluginError, SamplingError
from grpo_core.protocols import SamplingParams
from grpo_core.rollout import collect, with_advantages
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict

PROMPT = Prompt("p", [{"role": "user", "content": "?"}], None)


def completion(index: int) -> Completion:
    return Completion((1,), "x", (0.0,), "eos", index)


def group(*rewards: float | None) -> RolloutGroup:
    rollouts = [
        Rollout(completion(at), {"v": Verdict.wrong()}, {}, reward)
        for at, reward in enumerate(rewards)
    ]
    return RolloutGroup(PROMPT, (1,), rollouts)


def test_advantages_reach_their_rollouts() -> None:
    groups = with_advantages([group(1.0, 0.0), group(None, 3.0)], group_advantages)
    found = [[rollout.advantage for rollout in g.rollouts] for g in groups]
    assert found == [[1.0, -1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("estimator", "problem"),
    [
        (lambda rewards, valid: rewards[:, :1], r"a tensor \[1, 1\] for \[1, 2\] rewards"),
        (lambda rewards, valid: rewards / 0, "returned nan"),
        (lambda rewards, valid: rewards + 1, "whose verifier failed"),
    ],
)
def test_an_estimator_that_breaks_its_contract_is_named(
    estimator: Callable[..., torch.Tensor], problem: str
) -> None:
    with pytest.raises(PluginError, match=f"advantage estimator.*{problem}.*grpo.advantage"):
        with_advantages([group(None, 0.0)], estimator)


@pytest.mark.parametrize(
    ("returned", "handed"),
    [([[0]], [0]), ([[0, 0]], [0]), ([], [0, 1]), ([[0, 1]], [0]), ([[1, 0]], [0, 1])],
)
def test_a_sampler_that_loses_completions_is_refused(
    returned: list[list[int]], handed: list[int]
) -> None:
    class Careless:
        def encode(self, prompt: Prompt) -> list[int]:
            return [1]

        def sample(self, prompts: Any, num: int, params: Any, on_completion: Any) -> Any:
            for index in handed:
                on_completion(0, completion(index))
            return [[completion(index) for index in indices] for indices in returned]

    def submit(name: str, sample: Any) -> Future[Verdict]:
        future: Future[Verdict] = Future()
        future.set_result(Verdict.wrong())
        return future

    judge: Any = SimpleNamespace(
        pool=SimpleNamespace(submit=submit), verifiers=[SimpleNamespace(name="v")], shadows=[]
    )
    sampler: Any = Careless()
    with pytest.raises(SamplingError, match="completions of prompt 0"):
        collect([PROMPT], sampler, judge, 2, SamplingParams(max_new_tokens=4))
