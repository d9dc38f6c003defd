"""The core's own plugin: engines, estimators, and losses, attached as a stranger's are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpo_core.hookspecs import hookimpl


@hookimpl
def grpo_register_samplers(register: Callable[[str, Any], None]) -> None:
    """The embedded engine, and vLLM, here or elsewhere."""
    register("hf", "grpo_core.sampling.hf:create_sampler")
    register("vllm", "grpo_core.sampling.vllm.engine:VllmSampler")
    register("vllm_server", "grpo_core.sampling.vllm.remote:ServerSampler")


@hookimpl
def grpo_register_advantages(register: Callable[[str, Any], None]) -> None:
    """Advantage estimators, most of them relative to the group."""
    register("std", "grpo_core.advantage:group_advantages")
    register("mean", "grpo_core.advantage:mean_advantages")
    register("leave_one_out", "grpo_core.advantages.leave_one_out:leave_one_out_advantages")
    register("batch", "grpo_core.advantages.batch:batch_advantages")
    register("reinforce_pp", "grpo_core.advantages.batch:reinforce_pp_advantages")
    register("reinforce_pp_baseline", "grpo_core.advantages.batch:reinforce_pp_baseline_advantages")
    register("robust", "grpo_core.advantages.robust:robust_advantages")
    for k in (2, 4, 8):
        register(f"pass_at_{k}", f"grpo_core.advantages.pass_at_k:pass_at_{k}_advantages")
    register("process", "grpo_core.advantages.process:process_advantages")
    register("trl", "grpo_core.advantages.trl:trl_advantages")
    register("trl_batch", "grpo_core.advantages.trl:trl_batch_advantages")


@hookimpl
def grpo_register_losses(register: Callable[[str, Any], None]) -> None:
    """Policy losses."""
    for name in ("grpo", "gspo", "cispo", "dual_clip"):
        register(name, f"grpo_core.losses.{name}:{name}_loss")
