"""Verifiers that are models: rewards of whole completions, and of their steps."""
