"""grpo-core: train reasoning models with GRPO against verifiers that are plugins.

Plugin authors need nothing but the names below. Importing this package loads neither torch nor
transformers nor vllm.
"""

from grpo_core.authoring import shaper, verifier
from grpo_core.hookspecs import hookimpl
from grpo_core.types import Completion, Prompt, Sample, ScoredCompletion, Status, Verdict

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "Prompt",
    "Sample",
    "ScoredCompletion",
    "Status",
    "Verdict",
    "__version__",
    "hookimpl",
    "shaper",
    "verifier",
]
