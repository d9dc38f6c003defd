"""Reward shapers, attached through the hooks in `hooks.py`."""
