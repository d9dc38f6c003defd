"""JavaScript programs and functions, run by node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from grpo_verifiers.sandbox import CommandJob, Job, Limits

# Functions are found by name in the scope of the source, however they are declared.
_CALLS = """
;(async () => {
  const known = {%(known)s};
  const {mark, calls} = JSON.parse(require("fs").readFileSync(0, "utf8"));
  for (const {function: name, arguments: values} of calls) {
    let line;
    try {
      const value = await known[name]()(...values);
      line = {value: value === undefined ? null : value};
    } catch (error) {
      line = {error: String(error)};
    }
    require("fs").writeSync(1, mark + JSON.stringify(line) + "\\n");
  }
})();
"""


class JavaScript:
    """Scripts for node, with `require`."""

    name = "javascript"
    tags = ("javascript", "js", "node", "nodejs", "jsx", "mjs")
    tools = ("node",)
    install = "apt-get install nodejs"

    def compile_job(self, source: str, limits: Limits) -> CommandJob | None:
        """Nothing is compiled."""
        return None

    def run_job(self, source: str, built: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Job:
        """node, which reserves far more address space than it uses."""
        heap = max(limits.memory_mb * 3 // 4, 32)
        return CommandJob(
            argv=("node", f"--max-old-space-size={heap}", "main.js"),
            files={"main.js": source.encode()},
            stdin=stdin,
            limits=replace(limits, address_space=False),
        )

    def call_program(self, source: str, functions: tuple[str, ...]) -> str:
        """The source, and a loop over the calls behind it."""
        known = ", ".join(f"{json.dumps(name)}: () => {name}" for name in functions)
        return source + _CALLS % {"known": known}


JAVASCRIPT = JavaScript()
