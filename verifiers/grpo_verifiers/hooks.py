"""The verifiers of this package, attached as any plugin attaches its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from grpo_core import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def grpo_register_verifiers(register: Callable[[str, Any], None]) -> None:
    """Names that a run can use in `[[verifiers]]`; each module is imported on use."""
    register("exact", "grpo_verifiers.exact:ExactVerifier")
    register("code", "grpo_verifiers.code.verifier:CodeVerifier")
    register("math", "grpo_verifiers.math.verifier:MathVerifier")
    register("reward_model", "grpo_verifiers.learned.reward_model:RewardModel")
    register("process_reward", "grpo_verifiers.learned.process_reward:ProcessReward")
    register("judge", "grpo_verifiers.judge.verifier:JudgeVerifier")
    register("trl", "grpo_verifiers.adapters.trl:TrlReward")
    register("verl", "grpo_verifiers.adapters.verl:VerlScore")
    register("openrlhf", "grpo_verifiers.adapters.openrlhf:OpenRlhfReward")
    register("openrlhf_server", "grpo_verifiers.adapters.openrlhf_server:OpenRlhfServer")
    register("open_instruct", "grpo_verifiers.adapters.open_instruct:OpenInstructVerifier")
    register("all_of", "grpo_verifiers.combinators.verifiers:AllOf")
    register("any_of", "grpo_verifiers.combinators.verifiers:AnyOf")
    register("choice", "grpo_verifiers.choice.verifier:ChoiceVerifier")
    register("first_of", "grpo_verifiers.combinators.verifiers:FirstOf")
    register("format", "grpo_verifiers.format:FormatVerifier")
    register("json_schema", "grpo_verifiers.json_schema.verifier:JsonSchemaVerifier")
    register("regex", "grpo_verifiers.regex.verifier:RegexVerifier")


@hookimpl
def grpo_add_cli(group: click.Group) -> None:
    """`grpo sandbox`, which is imported when it is asked for."""
    from grpo_verifiers.sandbox_command import sandbox

    group.add_command(sandbox)


@hookimpl
def grpo_doctor_checks(register: Callable[[str, Any], None]) -> None:
    """What holds programs that completions contain."""
    register("sandbox layers", "grpo_verifiers.sandbox.doctor_check:check_sandbox")
