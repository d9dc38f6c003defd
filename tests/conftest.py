"""Settings of the whole test suite.

HYPOTHESIS_PROFILE=dev (25 examples, the default), ci (100, the same ones every time) or nightly
(1000).
"""

import os

from hypothesis import settings

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
