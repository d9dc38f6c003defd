"""The code verifier: see `grpo_verifiers.code.verifier`. Importing it starts nothing."""

from grpo_verifiers.code.verifier import CodeVerifier

__all__ = ["CodeVerifier"]
