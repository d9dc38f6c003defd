"""Verifiers, attached through the hooks in `hooks.py`."""
