"""How fast TRL and grpo-core learn the main job, step by step and second by second.

    python benchmarks/learning.py --side ours --seed 0 --steps 50 --output runs/ours-0
    python benchmarks/learning.py --side trl --seed 0 --steps 50 --output runs/trl-0
    python benchmarks/learning.py --compare runs/*
    python benchmarks/learning.py --gradients 0 5 15    what bfloat16 does to a gradient

A run trains SmolLM2-135M-Instruct with one side's trainer on the recipe of `grpo train` and writes
its curve down; see benchmarks/README.md for what is equal on both sides. Needs the extra `bench`
(TRL) for TRL's side.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from learning_compare import compare
from learning_recipe import Curve, HeldOut, canary, machine, recipe

from grpo_core.plugin_manager import load_plugins


def main() -> int:
    """Run one side, or compare runs; the exit code."""
    options = parse()
    if options.compare:
        print(compare(options.compare, options.target))
        return 0
    if options.gradients:
        from learning_gradients import measure, table

        for line in table(measure(options.seed, options.gradients, load_plugins())):
            print(line, flush=True)
        return 0
    overrides = [f"trainer.dtype={options.dtype}", f"evaluation.every={options.every}"]
    config = recipe(options.seed, options.steps, [*overrides, *options.overrides])
    plugins = load_plugins()
    if options.threads:
        torch.set_num_threads(options.threads)
    before = canary()
    settings = {
        "side": options.side,
        "seed": options.seed,
        "dtype": options.dtype if options.side == "ours" else "float32 with bfloat16 autocast",
        "trl": {"micro_batch": options.micro_batch, "checkpointing": options.checkpointing},
        "quiet": options.quiet,
        "config": config.model_dump(mode="json"),
        **machine(),
    }
    curve = Curve(options.output, settings)
    held_out = HeldOut(config, plugins, options.eval_prompts) if options.eval_prompts else None

    def is_enough(pass_at_1: float) -> bool:
        return bool(options.stop) and pass_at_1 >= float(options.target)

    if options.side == "trl":
        import learning_trl  # TRL takes long to import, and need not be there

        learning_trl.run(
            config,
            plugins,
            curve,
            held_out,
            is_enough,
            micro_batch=options.micro_batch,
            checkpointing=options.checkpointing,
        )
    else:
        import learning_ours

        learning_ours.run(config, plugins, curve, held_out, is_enough)
    settings["canary_ms"] = [before, canary()]
    (options.output / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
    return 0


def parse() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compare", nargs="+", type=Path, metavar="DIR")
    parser.add_argument(
        "--gradients", nargs="+", type=int, metavar="STEP", help="compare gradients after steps"
    )
    parser.add_argument("--side", choices=("trl", "ours"))
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--every", type=int, default=5, help="steps between evaluations")
    parser.add_argument("--eval-prompts", type=int, default=128, help="0: no evaluation")
    parser.add_argument("--target", type=float, default=0.75, help="held-out pass@1 to reach")
    parser.add_argument("--stop", action="store_true", help="end when the target is reached")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--micro-batch", type=int, default=16, help="TRL's, in completions")
    parser.add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="TRL recomputes activations, which is its default and the faster way here",
    )
    parser.add_argument("--threads", type=int, help="by default torch's own choice")
    parser.add_argument("--quiet", action="store_true", help="nothing else runs: wall time counts")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if not (options.compare or options.gradients or (options.side and options.output)):
        parser.error("give --side and --output for a run, or --compare, or --gradients")
    return options


if __name__ == "__main__":
    sys.exit(main())
