"""Engines that draw groups of completions from the policy."""
