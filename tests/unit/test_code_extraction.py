"""Which program is taken from a completion, and how it is joined with the prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_verifiers.code.assembly import (
    MAX_CODE_CHARS,
    assemble,
    context_of,
    defines,
    is_program,
    parsed,
)
from grpo_verifiers.code.extraction import extract_code
from grpo_verifiers.code.languages.python import PYTHON

ADD = "def add(a, b):\n    return a + b\n"


def taken(completion: str, prompt: str = "", name: str | None = "add", blocks: str = "last") -> str:
    found = extract_code(
        completion,
        PYTHON.tags,
        prompt=prompt,
        is_code=is_program,
        defines=(lambda code: defines(code, name)) if name else None,
        blocks=blocks,  # type: ignore[arg-type]
    )
    return "" if found is None else found.code


def fence(code: str, tag: str = "python") -> str:
    return f"```{tag}\n{code.rstrip(chr(10))}\n```\n"


@pytest.mark.parametrize(
    "completion",
    [
        fence(ADD),
        fence(ADD, "py"),
        fence(ADD, "Python3"),
        fence(ADD, "{.python}"),
        fence(ADD, "python title=add.py"),
        fence(ADD, ""),
        fence(ADD).replace("`", "~"),
        f"<think>{fence('def add(): 1')}</think>Here: {chr(10)}{fence(ADD)}Done.",
        f"{fence('def add(a, b): return 0')}No, rather:\n{fence(ADD)}",
        f"{fence(ADD)}Use it so:\n{fence('print(add(1, 2))')}",
        f"{fence(ADD)}It prints:\n{fence('3', 'text')}",
        f"{fence('pip install x', 'bash')}{fence(ADD)}",
        f"```python\n{ADD}",
        f"<answer>\n{ADD}</answer>",
        f"<answer>{chr(10)}{fence(ADD)}</answer>",
        ADD,
    ],
)
def test_the_program_is_found(completion: str) -> None:
    assert taken(completion).strip() == ADD.strip()


@pytest.mark.parametrize(
    "completion",
    [
        "",
        " \n",
        "The answer is 3.",
        "add",
        "(1, 2)",
        f"<think>{fence(ADD)}",
        f"<think>\n{ADD}",
        fence("int main() {}", "cpp"),
        fence(""),
    ],
)
def test_there_is_no_program(completion: str) -> None:
    assert taken(completion) == ""


def test_a_prompt_may_open_the_block() -> None:
    assert taken(f"{ADD}```\nThat is all.", prompt="Write add.\n```python\n").strip() == ADD.strip()
    assert taken(ADD, prompt="Write add.\n```python\n") == ADD


def test_a_block_that_was_thought_open_is_closed() -> None:
    assert taken(f"{ADD}```\nThat is all.").strip() == ADD.strip()


def test_a_prompt_may_open_the_reasoning() -> None:
    assert taken(fence(ADD), prompt="Think.\n<think>\n") == ""
    assert taken(f"so</think>{chr(10)}{fence(ADD)}", prompt="Think.\n<think>\n") == ADD


def test_blocks_can_be_joined() -> None:
    text = f"{fence('import math')}then\n{fence(ADD)}"
    assert taken(text, blocks="all").split("\n")[0] == "import math"
    assert "import math" not in taken(text)


def test_plain_code_after_prose() -> None:
    assert taken(f"Sure, here it is:\n\n{ADD}").strip() == ADD.strip()


def test_code_with_an_error_is_still_code() -> None:
    assert taken(fence("def add(a, b) return")) == "def add(a, b) return\n"
    assert taken("def add(a, b:\n    return a") == "def add(a, b:\n    return a"


PROMPT = """from typing import List


def half(x):
    return x / 2


def add(a, b):
    'Sum.'
"""


@pytest.mark.parametrize(
    "body",
    [
        "    return a + b\n",
        "return a + b",
        "    c = a + b\n    return c\n\ndef unrelated():\n    pass\n",
        "    return a + b\n\nThat is all: a simple sum.\n",
        "  return a + b",
        "\n    return a + b",
        "    # sum\n    return a + b",
    ],
)
def test_bodies_continue_the_prompt(body: str) -> None:
    program = assemble(PROMPT, body, "add")
    space: dict[str, object] = {}
    exec(program.context + "\n" + program.code, space)
    assert space["add"](1, 2) == 3  # type: ignore[operator]
    assert "half" in space


def test_whole_functions_get_what_the_prompt_imports() -> None:
    program = assemble(PROMPT, "def add(a: List, b: List):\n    return half(a) + half(b)", "add")
    assert program.context.startswith("from typing import List")
    assert "def half" in program.context and "def add" not in program.context
    space: dict[str, object] = {}
    exec(program.context, space)
    exec(program.code, space)
    assert space["add"](1, 2) == 1.5  # type: ignore[operator]


def test_a_prompt_that_has_begun_the_line() -> None:
    assert assemble("def f(x):\n    ", "return x", "f").code == "def f(x):\n    return x"


def test_context_of_an_unfinished_signature() -> None:
    assert context_of("import math\n\ndef f(x):", "f") == "import math"
    assert context_of("no python at all (", "f") == ""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (ADD, True),
        ("add = max", True),
        ("class add: pass", True),
        ("from operator import add", True),
        ("try:\n    from x import add\nexcept ImportError:\n    add = None", True),
        ("class Solution:\n    def add(self): pass", True),
        ("class Other:\n    def add(self): pass", False),
        ("def f():\n    add = 1", False),
        ("add(1, 2)", False),
        ("def add(a, b) return", True),
    ],
)
def test_defines(code: str, expected: bool) -> None:
    assert defines(code, "add") is expected


@pytest.mark.parametrize(
    "code",
    [
        "if 1:pass\n" + "elif 1:pass\n" * 3000,
        "(" * 5000,
        "-" * 50_000 + "1",
        "x=" * 20_000 + "1",
        "a" + ".b" * 20_000,
        "\0",
        "x" * (MAX_CODE_CHARS + 1),
        "é" * 1000,
        "f'{" * 1000,
    ],
    ids=lambda code: code[:8],
)
def test_odd_programs_are_read_quickly_or_not_at_all(code: str) -> None:
    assert parsed(code) is None or defines(code, "add") is False
    assert isinstance(assemble(PROMPT, code, "add").code, str)


@given(st.text(alphabet="`~ \n\tabdef():<>/think\\\"'{}#", max_size=200))
def test_any_text_is_read(text: str) -> None:
    assert isinstance(taken(text), str)
    assert isinstance(taken(fence(text), prompt="```python"), str)


@pytest.mark.parametrize("text", ["`" * 200_000, "```\n" * 50_000, "``` " + " " * 500_000 + "`"])
def test_long_rows_of_fences(text: str) -> None:
    assert isinstance(taken(text), str)
