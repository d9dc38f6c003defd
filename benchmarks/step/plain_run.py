"""`grpo train` the plain way: every completion in a padded row of its own, whole logits kept.

The same command line; only what `find_layout` finds is replaced.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from grpo_core.cli.main import main
from grpo_core.training import learner_setup
from grpo_core.training.policy import Layout


def plain_layout(*_: Any, **__: Any) -> Layout:
    """Nothing shared, nothing in chunks."""
    return Layout(share_prompts=False, plain_head=False)


if __name__ == "__main__":
    learner_setup.find_layout = plain_layout
    main()
