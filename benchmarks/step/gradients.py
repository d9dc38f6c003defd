"""One update's gradient, ours against TRL's own, on the same completions.

    python -m step.gradients WORKLOAD_JSON MICRO_BATCH

Everything is float32. Our sampler draws the completions once. TRL gets them through its
`rollout_func`, and then does everything itself: rewards, advantages, padding, log-probabilities,
loss, backward pass. We take its definition of advantages (`advantage = "trl"`). Prints one JSON
object.

The embedding's row of the padding token is told apart: nn.Embedding drops the gradient of that
row's inputs (`padding_idx`), also where the token is the one that ends a completion.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from grpo_core.assembly import create_sampler
from grpo_core.plugin_manager import Plugins, PluginSources, load_plugins
from grpo_core.rollout import with_advantages
from grpo_core.training.learner_setup import load_learner
from grpo_core.training.loop import sampling_params
from grpo_core.training.update import update
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict
from step import rewards
from step.trl_run import rewards as trl_rewards
from step.trl_side import TrlSettings, build_trainer
from step.workload import Workload

Gradient = Mapping[str, Tensor]
NO_CLIP = 1e12


def our_side(workload: Workload, plugins: Plugins) -> tuple[list[RolloutGroup], Gradient]:
    """The groups that are sampled, and the gradient of our update on them."""
    config = workload.config()
    changed = {"dtype": "float32", "max_grad_norm": NO_CLIP}
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update=changed)})
    loaded, learner = load_learner(config, plugins, None)
    sampler = create_sampler(config, plugins, loaded)
    prompts = workload.train_prompts()[: workload.prompts]
    params = sampling_params(config, step=1)
    sampled = sampler.sample(prompts, workload.group_size, params)
    groups = [
        RolloutGroup(prompt, tuple(sampler.encode(prompt)), tuple(map(_rollout, completions)), 1)
        for prompt, completions in zip(prompts, sampled, strict=True)
    ]
    groups = with_advantages(groups, plugins.advantages["trl"].load())
    found: dict[str, Tensor] = {}

    def keep(*_: Any) -> None:
        for name, parameter in learner.masters.parameters.items():
            if parameter.grad is not None:
                found[name] = parameter.grad.detach().clone()

    learner.optimizer.register_step_pre_hook(keep)
    update(learner, groups, 1)
    return groups, found


def _rollout(completion: Completion) -> Rollout:
    reward = rewards.hash_reward(completion.text)
    verdict = Verdict.wrong(score=reward)
    return Rollout(completion, {"benchmark_hash": verdict}, {"benchmark_hash": reward}, reward)


def trl_side(
    workload: Workload, groups: Sequence[RolloutGroup], micro_batch: int
) -> tuple[Gradient, int | None]:
    """TRL's gradient on the same completions, and the embedding's padding_idx."""
    rollouts = {group.prompt.text: group for group in groups}

    def rollout(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        taken: dict[str, int] = {}
        chosen = []
        for messages in prompts:
            text = messages[-1]["content"]
            at = taken[text] = taken.get(text, -1) + 1
            chosen.append((rollouts[text], rollouts[text].rollouts[at].completion))
        return {
            "prompt_ids": [list(group.prompt_token_ids) for group, _ in chosen],
            "completion_ids": [list(completion.token_ids) for _, completion in chosen],
            "logprobs": None,
        }

    found: dict[str, Tensor] = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **parts: Any) -> None:
            for name, parameter in parts["model"].named_parameters():
                found[name] = parameter.grad.detach().clone()

    settings = TrlSettings(
        group_size=workload.group_size,
        prompts_per_step=workload.prompts,
        max_new_tokens=workload.max_new_tokens,
        micro_batch=micro_batch,
        bf16=False,
        attention="eager",
        max_grad_norm=0.0,
    )
    prompts: list[Prompt] = [group.prompt for group in groups]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            workload.model, prompts, trl_rewards, settings, folder,
            callbacks=[Keep()], rollout=rollout,
        )  # fmt: skip
        trainer.train()
        embedding = trainer.model.get_input_embeddings()
    return found, embedding.padding_idx


def compare(ours: Gradient, theirs: Gradient, padding: int | None) -> dict[str, Any]:
    """Relative differences of two gradients.

    Returns:
        `max_gradient_error`, the largest |ours - theirs| / |theirs| over weight tensors, and
        `worst`, where; both without the padding token's row of the embedding, whose own relative
        difference is `padding_row_error` (None where there is no such row); `global_error`, of
        all weights as one vector, also without it; and `with_padding_row`, as the first, with it.
    """
    names = sorted(theirs)
    if names != sorted(ours):
        missing = sorted(set(names) ^ set(ours))
        raise ValueError(f"one side has no gradient of {', '.join(missing)}.")
    embedding = next((name for name in names if "embed" in name or "wte" in name), None)
    errors, whole, squares, row_error = {}, {}, [], None
    for name in names:
        one, other = ours[name].double(), theirs[name].double()
        whole[name] = _relative(one, other)
        if name == embedding and padding is not None:
            row_error = _relative(one[padding], other[padding])
            keep = torch.arange(len(one)) != padding
            one, other = one[keep], other[keep]
        errors[name] = _relative(one, other)
        squares.append(((one - other).square().sum(), other.square().sum()))
    worst = max(errors, key=errors.__getitem__)
    difference, size = (torch.stack(part).sum() for part in zip(*squares, strict=True))
    return {
        "max_gradient_error": errors[worst],
        "worst": worst,
        "global_error": (difference / size).sqrt().item(),
        "with_padding_row": max(whole.values()),
        "padding_row_error": row_error,
    }


def _relative(one: Tensor, other: Tensor) -> float:
    size = other.norm()
    return ((one - other).norm() / size).item() if size > 0 else float(one.any())


def main() -> None:
    """Compare, and print."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    workload = replace(Workload(**json.loads(sys.argv[1])), steps=1)
    sources = PluginSources((str(Path(rewards.__file__)),))
    groups, ours = our_side(workload, load_plugins(sources))
    theirs, padding = trl_side(workload, groups, int(sys.argv[2]))
    tokens = sum(len(r.completion.token_ids) for group in groups for r in group.rollouts)
    result = compare(ours, theirs, padding) | {"completion_tokens": tokens}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
