"""What the tests of verification share: pools of hostile verifiers, and looks at processes."""

import time
from pathlib import Path

from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Sample
from grpo_core.verification.pool import VerifierPool, VerifierSpec

PLUGIN = Path(__file__).with_name("hostile_verifiers.py")
SOURCES = PluginSources((str(PLUGIN),), use_entry_points=False)


def open_pool(*names, **settings):
    specs = [name if isinstance(name, VerifierSpec) else VerifierSpec(name) for name in names]
    return VerifierPool(specs, SOURCES, **{"deadline": 0.4, "memory_mb": 64, **settings})


def sample(completion, reference="yes"):
    return Sample("?", completion, reference)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)
