"""The settings of a run: nested, frozen, checked before anything is loaded.

A run is described by a TOML file whose tables are the classes below; every field can also be set
from the command line (`--set trainer.steps=50`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from grpo_core.errors import ConfigError
from grpo_core.overrides import apply_override
from grpo_core.validation import Settings, build


class ModelConfig(Settings):
    """Which causal language model is trained, and where it is computed."""

    path: str = Field(
        "HuggingFaceTB/SmolLM2-135M-Instruct", description="hub id, local folder, or LoRA adapter"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = Field(False, description="run model code from the hub")
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward")
    chat_template: str | None = Field(None, description="Jinja file used instead of the model's")


class LoraConfig(Settings):
    """Low-rank adapters in place of full training (Hu et al. 2021, arXiv 2106.09685)."""

    rank: NonNegativeInt = Field(0, description="of the adapters, usually 8 to 64; 0: no LoRA")
    alpha: PositiveFloat = Field(32.0, description="an adapter's output is scaled by alpha / rank")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="layers that get an adapter: a list of names, or all but the head"
    )


class TaskConfig(Settings):
    """Where prompts and references come from."""

    name: str = "arithmetic"
    options: dict[str, Any] = Field({}, description="see 'grpo plugins describe NAME'")


class SamplingConfig(Settings):
    """How completions are drawn; evaluation has a temperature of its own."""

    engine: str = Field("hf", description="name of a registered sampler")
    server: str | None = Field(None, description="address of 'grpo serve', for vllm_server")
    max_new_tokens: PositiveInt = 256
    temperature: PositiveFloat = 1.0
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="1 is off; the policy that is trained is the truncated one, so with top_k",
    )
    top_k: NonNegativeInt = Field(0, description="0 is off")
    stop: tuple[str, ...] = ()
    batch_size: PositiveInt = Field(128, description="completions decoded side by side")
    kv_cache_gb: PositiveFloat = Field(
        2.0, description="memory vllm sets aside for keys and values; hf takes what it needs"
    )
    canary_limit: NonNegativeFloat = Field(
        0.0,
        description="nats, on average over a fixed probe, between the trainer and a sampler with "
        "weights of its own that stop the run; 0: 0.3, in float32 0.02",
    )
    mismatch: Literal[
        "off", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = Field("off", description="reweights tokens by trainer / sampler probability")
    mismatch_cap: float = Field(2.0, gt=1, description="bound of that weight")


class GrpoConfig(Settings):
    """The algorithm (Shao et al. 2024)."""

    group_size: PositiveInt = Field(8, description="G, completions for each prompt")
    prompts_per_step: PositiveInt = Field(8, description="P, prompts for each batch of samples")
    num_iterations: PositiveInt = Field(
        1, description="optimiser steps on each batch of samples; the clip acts from the second on"
    )
    advantage: str = Field("std", description="name of a registered advantage estimator")
    loss: str = Field("grpo", description="name of a registered loss")
    aggregation: Literal["sequence_mean", "token_mean", "token_sum", "constant"] = "sequence_mean"
    epsilon_low: float = Field(0.2, ge=0, le=1, description="clip below 1 - this")
    epsilon_high: NonNegativeFloat = Field(0.2, description="clip above 1 + this")
    beta: NonNegativeFloat = Field(0.0, description="weight of the KL to the reference")
    kl_in: Literal["loss", "reward", "advantage"] = Field(
        "loss", description="what the KL is subtracted from; see docs/algorithms.md"
    )
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_bonus: NonNegativeFloat = Field(
        0.0, description="weight of the policy's entropy in the objective"
    )


class ReferenceConfig(Settings):
    """What the KL of grpo.beta is measured from: the starting model, or one that follows."""

    sync_every: NonNegativeInt = Field(
        0, description="steps between moves of the reference towards the policy; 0: it stays"
    )
    sync_rate: float = Field(
        0.6, gt=0, le=1, description="share of the policy in the moved reference; 1: a copy"
    )


class SelectionConfig(Settings):
    """Which prompts and completions a step trains on."""

    curriculum: Literal["off", "middling"] = Field(
        "off", description="middling: prompts the policy gets right about half the time come more"
    )
    difficulty_key: str | None = Field(
        None, description="meta field by which prompts not tried yet are guessed, such as a level"
    )
    refill_budget: NonNegativeInt = Field(
        0, description="prompts a step may sample in place of groups without signal"
    )
    mask_truncated: bool = Field(
        False, description="completions cut off by max_new_tokens are judged but not trained on"
    )
    ahead: Literal[0, 1] = Field(
        0,
        description="batches sampled and verified while the one before is trained on, by weights "
        "one update old; needs sampling.mismatch",
    )


class TrainerConfig(Settings):
    """The optimiser and its schedule."""

    steps: PositiveInt = 100
    learning_rate: PositiveFloat = 1e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 2
    weight_decay: NonNegativeFloat = 0.0
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    max_grad_norm: PositiveFloat = 1.0
    micro_batch_tokens: PositiveInt = Field(
        4096, description="tokens computed at once; changes memory, never the gradient"
    )
    save_every: NonNegativeInt = Field(10, description="steps between checkpoints; 0: at the end")
    keep_checkpoints: PositiveInt = Field(1, description="the newest ones; the best always stays")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="compute precision; master weights are always float32. auto: bfloat16 where "
        "the hardware multiplies it natively, else float32",
    )


class VerifierConfig(Settings):
    """One verifier and its weight in the reward. The first verifier gives the binary verdict."""

    name: str
    weight: float = 1.0
    options: dict[str, Any] = Field({})
    deadline: PositiveFloat | None = Field(
        None, description="seconds for each call; None: its own, or verification.deadline"
    )
    shadow_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="it only watches: asked about this share of training completions, never part "
        "of a reward; how often it disagrees is in the metrics",
    )

    @model_validator(mode="after")
    def _weigh(self) -> VerifierConfig:
        if self.shadow_rate is not None and self.weight not in (0.0, 1.0):
            raise ValueError("a verifier with a shadow_rate gives no reward: leave out its weight")
        return self

    @property
    def is_shadow(self) -> bool:
        """True for a verifier that only watches."""
        return self.shadow_rate is not None


class ShaperConfig(Settings):
    """One reward shaper and its weight in the reward."""

    name: str
    weight: float = 1.0
    options: dict[str, Any] = Field({})


StatusPolicy = Literal["exclude", "zero"]


class VerificationConfig(Settings):
    """The worker processes verifiers run in, and what becomes of their failures."""

    workers: PositiveInt = 2
    deadline: PositiveFloat = Field(
        5.0,
        description="seconds for each call, then the kill; for verifiers that name none themselves",
    )
    memory_mb: PositiveInt = Field(
        2048,
        description="address space of a worker may grow by this; for verifiers that name none",
    )
    on_abstain: StatusPolicy = "exclude"
    on_timeout: StatusPolicy = "exclude"
    on_error: StatusPolicy = "exclude"
    error_budget: float = Field(
        0.1,
        ge=0,
        le=1,
        description="the run stops when more than this share of its recent verdicts are timeouts "
        "or errors",
    )


class EvaluationConfig(Settings):
    """Held-out evaluation before, during, and after training."""

    split: str | None = Field(None, description="None: the task's own evaluation split")
    num_prompts: PositiveInt = Field(128, description="the first ones of the split")
    num_samples: PositiveInt = Field(4, description="completions for each prompt")
    temperature: NonNegativeFloat = Field(1.0, description="0: greedy")
    every: NonNegativeInt = Field(0, description="steps between evaluations; 0: before and after")
    every_num_prompts: PositiveInt = Field(32, description="prompts of those in between")


class RunConfig(Settings):
    """Everything that decides a run."""

    seed: NonNegativeInt = 0
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    task: TaskConfig = TaskConfig()
    sampling: SamplingConfig = SamplingConfig()
    grpo: GrpoConfig = GrpoConfig()
    reference: ReferenceConfig = ReferenceConfig()
    selection: SelectionConfig = SelectionConfig()
    trainer: TrainerConfig = TrainerConfig()
    verifiers: tuple[VerifierConfig, ...] = Field((), description="empty: the task's default")
    shapers: tuple[ShaperConfig, ...] = ()
    verification: VerificationConfig = VerificationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    trackers: tuple[str, ...] = ()


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file, apply `KEY=VALUE` overrides, and check the whole.

    Raises:
        ConfigError: if the file is missing, is not TOML, or a setting is wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    for override in overrides:
        apply_override(values, override)
    return build(RunConfig, values)


def resolved(config: RunConfig) -> Mapping[str, Any]:
    """The config as plain JSON values, defaults included."""
    return config.model_dump(mode="json")
