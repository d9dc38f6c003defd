"""The math verifier: see `grpo_verifiers.math.verifier`. Importing it does not load sympy."""

from grpo_verifiers.math.verifier import MathVerifier

__all__ = ["MathVerifier"]
