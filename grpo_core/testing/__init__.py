"""What plugin authors need to test their plugins, with or without pytest.

    def test_starts_with():
        check_verifier(starts_with, accept=[("yes, it is", "yes")], reject=[("no", "yes")])

Each check raises AssertionError with the input that failed. `check_conformance` is the whole suite
for a verifier: what `grpo plugins test` runs. Texts are drawn at random as well where hypothesis is
installed (`pip install 'grpo-core[test]'`).
"""

from grpo_core.testing.conformance import check_conformance, run_conformance
from grpo_core.testing.example import Example
from grpo_core.testing.pairs import check_verifier
from grpo_core.testing.report import CheckResult, ConformanceReport
from grpo_core.testing.shapers import check_shaper, make_scored
from grpo_core.testing.tasks import check_task
from grpo_core.testing.texts import ODD_TEXTS

__all__ = [
    "ODD_TEXTS",
    "CheckResult",
    "ConformanceReport",
    "Example",
    "check_conformance",
    "check_shaper",
    "check_task",
    "check_verifier",
    "make_scored",
    "run_conformance",
]
