"""The embedded sampling engine against transformers' `generate`, in one process, in turns.

    python benchmarks/sampling.py                         about five minutes
    python benchmarks/sampling.py --json                  the last line is one JSON object
    python benchmarks/sampling.py --model DIR --repeats 5

Both sides get the same model in bfloat16, the same prompts, temperature 1, no truncation, the same
batch and the same limit, and completions end by themselves. `generate` gets as many completions at
a time as fill the batch, prompts of like length together. Each side draws its own random numbers,
so token counts differ a little and tokens a second are compared. Ours also returns the exact
log-probability of every token, which `generate` is not asked for. A fixed matrix product before and
after each measurement (the canary) shows whether the machine was busy; the first repeat warms up.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import transformers

from grpo_core.config import ModelConfig, RunConfig, SamplingConfig
from grpo_core.models.find import find_model
from grpo_core.models.load import cast_model, load_model, load_tokenizer
from grpo_core.protocols import SamplingParams
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import HfSampler
from grpo_core.sampling.hf.sampler import describe_engine
from grpo_core.types import Prompt

TALK = "Read the question twice and answer as briefly as you can. "
Side = Callable[[Sequence[Prompt], "Workload", int], int]


@dataclass(frozen=True, slots=True)
class Workload:
    """What is sampled: `talk` sentences stand before each question."""

    name: str
    prompts: int
    group: int
    max_new_tokens: int
    talk: int
    batch: int = 128

    def make(self, seed: int) -> list[Prompt]:
        random = Random(seed)
        texts = [
            TALK * self.talk + f"What is {random.randint(10, 99)} + {random.randint(10, 99)}? "
            "Answer with the number only."
            for _ in range(self.prompts)
        ]
        return [
            Prompt(f"{seed}-{at}", [{"role": "user", "content": text}], "0")
            for at, text in enumerate(texts)
        ]


WORKLOADS = (
    Workload("a step: 8 x 8, short prompts", 8, 8, 64, 0),
    Workload("a step: 8 x 8, long prompts", 8, 8, 64, 14),
    Workload("evaluation: 64 x 1, batch 32", 64, 1, 64, 2, batch=32),
)


def canary() -> float:
    """Milliseconds of a fixed bfloat16 product, median of ten."""
    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    seconds = []
    for _ in range(13):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[3:]) * 1e3


def ours(context: SamplerContext) -> Side:
    def run(prompts: Sequence[Prompt], workload: Workload, seed: int) -> int:
        config = SamplingConfig(batch_size=workload.batch)
        sampler = HfSampler(
            SamplerContext(context.model, context.tokenizer, context.model_path, config)
        )
        params = SamplingParams(max_new_tokens=workload.max_new_tokens, seed=seed)
        groups = sampler.sample(prompts, workload.group, params)
        return sum(len(completion.token_ids) for group in groups for completion in group)

    return run


def generate(context: SamplerContext) -> Side:
    sampler = HfSampler(context)  # for the same token ids, and the same ends
    model, pad, eos = context.model, context.tokenizer.pad_token_id, sampler._eos

    def run(prompts: Sequence[Prompt], workload: Workload, seed: int) -> int:
        torch.manual_seed(seed)
        encoded = sorted((sampler.encode(prompt) for prompt in prompts), key=len, reverse=True)
        at_once = max(1, workload.batch // workload.group)
        total = 0
        for start in range(0, len(encoded), at_once):
            part = encoded[start : start + at_once]
            width = max(map(len, part))
            rows = [[pad] * (width - len(ids)) + ids for ids in part]
            mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in part]
            result = model.generate(
                input_ids=torch.tensor(rows),
                attention_mask=torch.tensor(mask),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=workload.group,
                max_new_tokens=workload.max_new_tokens,
                eos_token_id=sorted(eos),
                pad_token_id=pad,
            )
            for row in result[:, width:].tolist():
                ends = [at for at, token in enumerate(row) if token in eos]
                total += ends[0] + 1 if ends else len(row)
        return total

    return run


def measure(side: Side, workload: Workload, seed: int) -> dict[str, float]:
    prompts, before = workload.make(seed), canary()
    start = time.perf_counter()
    tokens = side(prompts, workload, seed)
    seconds = time.perf_counter() - start
    return {"tokens": tokens, "seconds": seconds, "before": before, "after": canary()}


def report(name: str, runs: Sequence[dict[str, float]]) -> float:
    """Print a row; the median of tokens a second."""
    rates = [run["tokens"] / run["seconds"] for run in runs]
    canaries = [value for run in runs for value in (run["before"], run["after"])]
    print(
        f"  {name:9} {statistics.median(rates):7.0f} tokens/s ({min(rates):.0f} to "
        f"{max(rates):.0f}), {statistics.median(run['seconds'] for run in runs):6.2f} s, "
        f"{statistics.median(run['tokens'] for run in runs):.0f} tokens, "
        f"canary {min(canaries):.1f} to {max(canaries):.1f} ms",
        flush=True,
    )
    return statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=RunConfig().model.path)
    parser.add_argument("--repeats", type=int, default=3, help="timed ones, after a warm-up")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = ModelConfig(path=arguments.model, device="cpu")
    folder: Path = find_model(arguments.model)
    model, tokenizer = load_model(folder, config), load_tokenizer(folder, config)
    cast_model(model, torch.bfloat16)
    model.eval()
    context = SamplerContext(model, tokenizer, str(folder), SamplingConfig())
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, transformers {transformers.__version__}, {folder.name}, bfloat16\n"
        f"ours: {describe_engine(model)}"
    )
    sides = {"ours": ours(context), "generate": generate(context)}
    ratios: dict[str, float] = {}
    for workload in WORKLOADS:
        print(workload.name)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for repeat in range(arguments.repeats + 1):
            for name, side in sides.items():
                found = measure(side, workload, repeat)
                if repeat:
                    runs[name].append(found)
        rates = {name: report(name, runs[name]) for name in sides}
        ratios[workload.name] = rates["ours"] / rates["generate"]
        print(f"  ratio {ratios[workload.name]:.2f}")
    if arguments.json:
        print(json.dumps({"tokens_per_second_ratio": ratios}))


if __name__ == "__main__":
    main()
