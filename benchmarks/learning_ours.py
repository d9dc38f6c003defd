"""Our side of `learning.py`: the loop of `grpo train`, without the files of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from learning_recipe import Curve, HeldOut, Stopwatch

from grpo_core.assembly import create_estimator, create_task, load_prompts, open_judge
from grpo_core.config import RunConfig
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.training.learner import Learner
from grpo_core.training.learner_setup import load_together
from grpo_core.training.loop import grpo_steps
from grpo_core.training.process_samplers import create_run_sampler
from grpo_core.training.selection import create_prompt_source
from grpo_core.training.world import World


def run(
    config: RunConfig,
    plugins: Plugins,
    curve: Curve,
    held_out: HeldOut | None,
    is_enough: Callable[[float], bool],
) -> None:
    """Train with grpo-core, until an evaluation is enough or all steps are done."""
    task, sources = create_task(config, plugins), PluginSources()
    prompts = load_prompts(task, "train")
    watch = Stopwatch()

    def evaluate(step: int, learner: Learner) -> bool:
        if held_out is None:
            return False
        rates = held_out.pass_rates(learner.masters.parameters)
        return is_enough(curve.evaluation(step, rates, watch))

    with open_judge(config, plugins, sources, task) as judge:
        plugins, loaded, learner = load_together(config, lambda: plugins, sources, None, World())
        estimate = create_estimator(config, plugins, judge, loaded.tokenizer)
        with closing(create_run_sampler(config, plugins, loaded, learner)) as sampler:
            source = create_prompt_source(config, prompts, {})
            steps = grpo_steps(learner, sampler, judge, prompts, source, estimate, 1)
            evaluate(0, learner)
            watch.start()
            for step in steps:
                watch.stop()
                rewards = [[rollout.reward for rollout in group.rollouts] for group in step.groups]
                curve.step(step.number, rewards, watch)
                if step.number % config.evaluation.every == 0 and evaluate(step.number, learner):
                    return
                watch.start()
