"""Verifiers made of others: `all_of`, `any_of`, `first_of`."""

from grpo_verifiers.combinators.verifiers import AllOf, AnyOf, FirstOf

__all__ = ["AllOf", "AnyOf", "FirstOf"]
