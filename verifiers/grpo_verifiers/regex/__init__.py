"""The `regex` verifier: what a completion must match, must not match, and must say."""

from grpo_verifiers.regex.verifier import RegexVerifier

__all__ = ["RegexVerifier"]
