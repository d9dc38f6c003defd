"""Find what is wrong before any weight is loaded, in seconds.

First the config and everything it names, then task, references and verifiers, then the tokenizer
and its template, and last a rehearsal: one whole step, with scripted completions and a tiny random
model, through the very code of the real one.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from grpo_core.assembly import (
    create_estimator,
    create_shapers,
    create_task,
    evaluation_prompts,
    load_prompts,
    open_judge,
)
from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError, DataError, GrpoError, VerifierError
from grpo_core.models.find import check_weights, find_model, model_chain
from grpo_core.models.load import choose_device, load_tokenizer
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.rollout import Judge, collect, with_advantages
from grpo_core.sampling.base import encode_prompt
from grpo_core.sampling.scripted import ScriptedSampler
from grpo_core.step_advantages import require_steps
from grpo_core.training.kl_price import with_kl_price
from grpo_core.training.learner import Learner
from grpo_core.training.loop import sampling_params
from grpo_core.training.lora_checks import check_lora_layers, check_lora_settings
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.policy import find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.reference import Reference
from grpo_core.training.selection import check_difficulty_key
from grpo_core.training.unused_settings import check_used
from grpo_core.training.update import update
from grpo_core.types import Prompt, Status

_CHECKED_REFERENCES = 2000  # of each split; a sound data set is read in a second or two
_MEASURED = 200  # prompts measured in tokens: the first ones and those with the most characters
_SHOWN = 3  # bad references named in a message


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `message` says what was found, or what is wrong and how to mend it."""

    name: str
    ok: bool
    message: str


def preflight(config: RunConfig, plugins: Plugins, sources: PluginSources) -> list[Check]:
    """Run all checks, in order; the first one that fails is the last of the list.

    Later checks rest on earlier ones, so nothing after a failure would be worth reading.
    """
    checks: list[Check] = []
    steps = _checks(config, plugins, sources)
    while True:
        try:
            checks.append(next(steps))
        except StopIteration:
            return checks
        except GrpoError as error:
            checks.append(Check("preflight", False, str(error)))
            return checks


def _checks(config: RunConfig, plugins: Plugins, sources: PluginSources) -> Iterator[Check]:
    check_settings(config, plugins)
    yield Check("settings", True, "consistent; every name in them is registered")
    task = create_task(config, plugins)
    train, held_out = load_prompts(task, "train"), evaluation_prompts(config, task)
    check_difficulty_key(config, train)
    yield Check("task", True, _describe_prompts(config, train, held_out))
    with open_judge(config, plugins, sources, task) as judge:
        for name, prompts in (("train", train), ("held-out", held_out)):
            count = check_references(judge, prompts[:_CHECKED_REFERENCES])
            yield Check(f"{name} references", True, f"{count} read by the verifiers")
        folder = find_model(config.model.path)
        chain = model_chain(folder)
        files = sum(check_weights(part) for part in chain)
        yield Check("weights", True, f"{files} whole file{'s' if files > 1 else ''} in {folder}")
        if config.lora.rank > 0:
            yield Check("adapters", True, check_lora_layers(chain[-1], config))
        tokenizer = load_tokenizer(folder, config.model)
        check_template(tokenizer, train[0])
        yield Check("chat template", True, _describe_template(tokenizer))
        longest_texts = heapq.nlargest(_MEASURED, [*train, *held_out], key=_characters)
        longest = check_lengths(config, tokenizer, chain[-1], [*train[:_MEASURED], *longest_texts])
        yield Check("lengths", True, f"longest prompt {longest} tokens; answers fit")
        yield Check("rehearsal", True, rehearse(config, plugins, judge, tokenizer, train))


def check_settings(config: RunConfig, plugins: Plugins) -> None:
    """Rules between settings, and every name in them.

    Raises:
        ConfigError, PluginError, MissingExtraError: at the first problem.
    """
    size = config.grpo.group_size
    if size < 2:
        raise ConfigError(
            f"grpo.group_size must be >= 2, got {size}: one completion has no group to be "
            "compared with. Set grpo.group_size, usually 8."
        )
    if config.sampling.server is not None and config.sampling.engine != "vllm_server":
        raise ConfigError(
            f"sampling.server is '{config.sampling.server}', but engine "
            f"'{config.sampling.engine}' uses no server. Set sampling.engine = 'vllm_server', or "
            "leave sampling.server out."
        )
    check_used(config)
    engine = plugins.samplers[config.sampling.engine].load()
    getattr(engine, "check_installed", lambda: None)()
    getattr(engine, "check_settings", lambda _: None)(config.sampling)
    plugins.advantages[config.grpo.advantage].load()
    plugins.losses[config.grpo.loss].load()
    for name in config.trackers:
        plugins.trackers[name].load()
    create_shapers(config, plugins)
    for verifier in config.verifiers:
        plugins.verifiers.create(verifier.name, verifier.options)
    choose_device(config.model.device)
    check_lora_settings(config)


def check_references(judge: Judge, prompts: Sequence[Prompt]) -> int:
    """Let every verifier read every reference.

    Raises:
        DataError: naming prompts whose reference a verifier cannot read.
    """
    for verifier in judge.verifiers:
        messages = judge.pool.check_references(
            verifier.name, [prompt.reference for prompt in prompts]
        )
        bad = [(p, m) for p, m in zip(prompts, messages, strict=True) if m is not None]
        if bad:
            shown = "; ".join(
                f"prompt '{p.id}' ({p.reference!r:.60}): {m}" for p, m in bad[:_SHOWN]
            )
            raise DataError(
                f"verifier '{verifier.name}' cannot read {len(bad)} of {len(prompts)} references: "
                f"{shown}. Repair the data set, or choose a verifier that fits it."
            )
    return len(prompts)


def check_template(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> None:
    """Refuse a template that speaks the first words of the completion.

    Raises:
        DataError: if the template opens a think tag.
    """
    if not tokenizer.chat_template:
        return
    tail = str(tokenizer.decode(encode_prompt(tokenizer, prompt)[-8:])).rstrip()
    for tag in ("<think>", "<reasoning>", "<thinking>"):
        if tail.endswith(tag):
            raise DataError(
                f"the chat template prefills {tag}: completions would start inside it, and "
                "verifiers and format shapers would never see it opened. Set "
                "model.chat_template to a copy of the template without that tag."
            )


def check_lengths(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    prompts: Sequence[Prompt],
) -> int:
    """Prompts and answers must fit; returns the longest prompt's length in tokens.

    Raises:
        ConfigError: if the shortest possible answer is longer than a completion may be, or
            prompt and completion exceed the model's context.
    """
    limit = config.sampling.max_new_tokens
    for prompt in prompts:
        answer = str(prompt.reference) if isinstance(prompt.reference, str | int | float) else ""
        if "\n" not in answer:  # several lines are a worked solution, not the bare answer
            needed = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
            if needed > limit:
                raise ConfigError(
                    f"sampling.max_new_tokens is {limit}, but the bare answer of prompt "
                    f"'{prompt.id}' takes {needed} tokens, so it could never be right. Raise it."
                )
    longest = max(len(encode_prompt(tokenizer, prompt)) for prompt in prompts)
    model_config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_config = model_config.get("text_config") or model_config
    context = model_config.get("max_position_embeddings") or model_config.get("n_positions")
    if context is not None and longest + limit > context:
        raise ConfigError(
            f"the longest prompt has {longest} tokens; with sampling.max_new_tokens = {limit} it "
            f"exceeds the model's context of {context}. Lower sampling.max_new_tokens."
        )
    return longest


def _characters(prompt: Prompt) -> int:
    return sum(len(message["content"]) for message in prompt.messages)


def rehearse(
    config: RunConfig,
    plugins: Plugins,
    judge: Judge,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
) -> str:
    """One step with scripted completions and a tiny random model; returns what came of it.

    Every other completion is the reference itself, the rest say nothing of use.

    Raises:
        VerifierError: if a verifier fails.
        GrpoError: whatever the real step would raise.
    """
    step = 1
    batch = prompts[: config.grpo.prompts_per_step]
    params = sampling_params(config, step)
    sampler = ScriptedSampler(_script(), tokenizer)
    collection = collect(batch, sampler, judge, config.grpo.group_size, params, step=step)
    rollouts = [rollout for group in collection.groups for rollout in group.rollouts]
    for rollout in rollouts:
        for verdict in (rollout.verdicts[verifier.name] for verifier in judge.verifiers):
            if verdict.status in (Status.ERROR, Status.TIMEOUT):
                raise VerifierError(
                    f"verifier '{verdict.verifier}' failed in rehearsal on the completion "
                    f"{rollout.completion.text!r:.80}: {verdict.status}: {verdict.reason}"
                )
    learner = _tiny_learner(config, plugins, tokenizer)
    estimate = create_estimator(config, plugins, judge, tokenizer)
    require_steps(estimate, collection.groups)
    estimate, _ = with_kl_price(learner, collection.groups, estimate)
    groups = with_advantages(collection.groups, estimate)
    result = update(learner, groups, step)
    right = sum(rollout.judgement.is_correct for rollout in rollouts)
    return (
        f"{len(rollouts)} scripted completions, {right} judged correct, "
        f"loss {result.loss:.4f}, gradient norm {result.grad_norm:.4f}"
    )


def _script() -> Callable[[Prompt, int], str]:
    def script(prompt: Prompt, index: int) -> str:
        if index % 2:
            return "I do not know."
        reference = prompt.reference
        return reference if isinstance(reference, str) else json.dumps(reference)

    return script


def _tiny_learner(
    config: RunConfig, plugins: Plugins, tokenizer: PreTrainedTokenizerBase
) -> Learner:
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1 << 20,
    )
    model = LlamaForCausalLM(shape)
    reference = Reference(LlamaForCausalLM(shape)) if config.grpo.beta > 0 else None
    masters = MasterWeights(model, model.dtype)
    optimizer = create_optimizer(masters.parameters, config.trainer)
    loss = plugins.losses[config.grpo.loss].load()
    return Learner(model, masters, optimizer, find_layout(model), loss, config, reference)


def _describe_prompts(
    config: RunConfig, train: Sequence[Prompt], held_out: Sequence[Prompt]
) -> str:
    trained = {prompt.text for prompt in train}
    shared = sum(prompt.text in trained for prompt in held_out)
    text = f"'{config.task.name}': {len(train)} training prompts, {len(held_out)} held out"
    return f"{text}, {shared} of them also in training" if shared else f"{text}, none in both"


def _describe_template(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        return "none; messages are joined by blank lines"
    return "applied; it leaves the completion to the model"
