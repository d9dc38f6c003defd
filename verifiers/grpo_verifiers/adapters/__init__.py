"""Reward functions of other frameworks as verifiers, unchanged.

By name in a config: the verifiers `trl`, `verl`, `openrlhf`, `openrlhf_server`, `open_instruct`. In
code: `from_trl(function)` and so on return a verifier class to register, and are decorators, too.
"""

from grpo_verifiers.adapters.open_instruct import OpenInstructVerifier
from grpo_verifiers.adapters.openrlhf import OpenRlhfReward
from grpo_verifiers.adapters.trl import TrlReward
from grpo_verifiers.adapters.verl import VerlScore
from grpo_verifiers.adapters.wrapping import Wrapping

from_trl = Wrapping(TrlReward)
from_verl = Wrapping(VerlScore)
from_openrlhf = Wrapping(OpenRlhfReward)
from_open_instruct = Wrapping(OpenInstructVerifier)

__all__ = ["from_open_instruct", "from_openrlhf", "from_trl", "from_verl"]
