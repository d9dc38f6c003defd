"""Settings that act only together with another one, which is off."""

from __future__ import annotations

from grpo_core.config import LoraConfig, RunConfig
from grpo_core.errors import ConfigError


def check_used(config: RunConfig) -> None:
    """Refuse what would be read by nobody: whoever sets it believes that it acts.

    Raises:
        ConfigError: naming the setting, and the one that it needs.
    """
    grpo, selection, lora = config.grpo, config.selection, config.lora
    if selection.ahead and config.sampling.mismatch == "off":
        raise ConfigError(
            f"selection.ahead is {selection.ahead}, but sampling.mismatch is 'off': batches are "
            "sampled by weights one update old, and nothing would make up for it. Set "
            "sampling.mismatch = 'token_truncate', or leave selection.ahead out."
        )
    if grpo.beta == 0 and (grpo.kl_in != "loss" or config.reference.sync_every > 0):
        name = "grpo.kl_in" if grpo.kl_in != "loss" else "reference.sync_every"
        raise ConfigError(
            f"{name} is set, but grpo.beta is 0, so there is no KL and no reference. Set "
            f"grpo.beta, or leave {name} out."
        )
    if lora.rank == 0 and lora != LoraConfig():
        raise ConfigError(
            "section [lora] is set, but lora.rank is 0, so there are no adapters and the whole "
            "model would be trained. Set lora.rank, usually 8 to 64, or leave the section out."
        )
    if selection.difficulty_key is not None and selection.curriculum == "off":
        raise ConfigError(
            f"selection.difficulty_key is '{selection.difficulty_key}', but selection.curriculum "
            "is 'off', and nothing else reads it. Set selection.curriculum = 'middling', or leave "
            "selection.difficulty_key out."
        )
