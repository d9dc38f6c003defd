"""Held-out pass rates with intervals."""
