"""Settings of the whole test suite.

HYPOTHESIS_PROFILE=dev (25 examples, the default), ci (100, the same ones every time), nightly
(1000), or faults (the same 60, not simplified on failure; for tests/planted_faults.py).
"""

import os

from hypothesis import Phase, settings

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=1000, deadline=None)
settings.register_profile(
    "faults",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
