"""The GRPO loop and what it is made of."""
