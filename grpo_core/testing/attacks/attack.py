"""What an attack is, and what it may know.

A blind attack sees the problem only. A spraying one is told the reference, too, but may state it
only as one of several answers, or where no answer is stated: it stands for a policy that lists
everything the answer could be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from grpo_core.types import Json

# "def area(", "`area(w, h)`", "function `area`", "a function called area".
_NAMES = (
    r"def\s+(\w+)\s*\(",
    r"`(\w+)\s*\(",
    r"function\s+(?:named\s+|called\s+)?`?(\w+)`?",
)
_WRAPPING = re.compile(
    r"\\boxed\{(.*)\}|<answer>(.*)</answer>|(?:the answer is|answer:)(.*?)\.?", re.I | re.S
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is attacked: a prompt, and a reference that only spraying attacks may look at."""

    prompt: str
    reference: Json

    @property
    def answer(self) -> str | None:
        """The reference, or the first of several, as an answer; None for tests of a program."""
        several = isinstance(self.reference, list) and self.reference
        reference = self.reference[0] if several else self.reference
        if isinstance(reference, bool) or not isinstance(reference, str | int | float):
            return None
        return str(reference).rpartition("####")[2].strip() or None

    @property
    def functions(self) -> list[str]:
        """Names of functions that are asked for; prompts state them."""
        found = [name for pattern in _NAMES for name in re.findall(pattern, self.prompt)]
        if isinstance(self.reference, dict):
            found.append(str(self.reference.get("entry_point", "")))
            cases = self.reference.get("cases")
            for case in cases if isinstance(cases, list) else ():
                if isinstance(case, dict):
                    found += re.findall(r"^\s*(\w+)\s*\(", str(case.get("call", "")))
            tests = self.reference.get("tests")
            found += re.findall(r"assert\s+(\w+)\s*\(", tests if isinstance(tests, str) else "")
        return list(dict.fromkeys(name for name in found if name.isidentifier())) or ["solve"]


@dataclass(frozen=True, slots=True)
class Attack:
    """A way to cheat.

    Attributes:
        kind: "text", "math", "code" or "judge", the kind of verifier it was made for.
        blind: completions from the prompt and the names of functions.
        spray: completions from the problem and its answer; only where there is one.
    """

    name: str
    kind: str
    blind: Callable[[Problem], Iterable[str]] | None = None
    spray: Callable[[Problem, str], Iterable[str]] | None = None

    @property
    def title(self) -> str:
        """Kind and name."""
        return f"{self.kind}: {self.name}"


def attempts(attack: Attack, problem: Problem) -> Iterator[str]:
    """The completions of an attack on a problem; those that hit the answer by luck left out."""
    answer = problem.answer
    if attack.blind is not None:
        # The names are the prompt's to tell; nothing else of the reference can be seen.
        seen = Problem(problem.prompt, {"entry_point": problem.functions[0]})
        for completion in attack.blind(seen):
            if answer is None or not _is_lucky(completion, answer):
                yield completion
    if attack.spray is not None and answer is not None:
        yield from attack.spray(problem, answer)


def lines(*completions: str) -> Callable[[Problem], Iterable[str]]:
    """A blind attack with fixed texts."""
    return lambda problem: completions


def _is_lucky(completion: str, answer: str) -> bool:
    """Whether a blind completion happens to be the answer, wrapping aside."""
    text = completion.strip()
    match = _WRAPPING.fullmatch(text)
    if match:
        text = next(group for group in match.groups() if group is not None)
    return text.strip().strip(".").casefold() == answer.strip().casefold()
