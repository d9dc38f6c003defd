"""A complete plugin of grpo-core; `hooks.py` attaches its parts."""
