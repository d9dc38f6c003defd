"""Advantage estimators beside the default one of `grpo_core.advantage`, one idea a file.

Each is a pure function from rewards [P, G] and validity [P, G] to advantages [P, G] in the dtype of
the rewards: exactly 0 where not valid, computed in float64, without a gradient, and exactly 0 for a
group that teaches nothing (see `grpo_core.advantages.groups`) unless it says otherwise.
"""
