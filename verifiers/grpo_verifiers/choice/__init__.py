"""The `choice` verifier: multiple choice."""

from grpo_verifiers.choice.verifier import ChoiceVerifier

__all__ = ["ChoiceVerifier"]
