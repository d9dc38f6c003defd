"""Reward functions of other frameworks as verifiers, unchanged.

By name in a config: the verifiers `trl`, `verl`, `openrlhf`, `openrlhf_server`, `open_instruct`. In
code: `from_trl(function)` and so on return a verifier class to register, and are decorators, too.
"""

from grpo_verifiers.adapters.open_instruct import from_open_instruct
from grpo_verifiers.adapters.openrlhf import from_openrlhf
from grpo_verifiers.adapters.trl import from_trl
from grpo_verifiers.adapters.verl import from_verl

__all__ = ["from_open_instruct", "from_openrlhf", "from_trl", "from_verl"]
