"""A Python completion and its prompt as one program.

HumanEval's completions are the bodies of functions whose signature stands in the prompt; chat
models repeat the signature, often without the imports above it. Both come out as two sources that
are executed one after the other: what the prompt provides, and what the model wrote.
"""

from __future__ import annotations

import ast
import textwrap
import warnings
from dataclasses import dataclass
from functools import lru_cache

MAX_CODE_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class Program:
    """Sources to execute in this order, in one namespace.

    Attributes:
        context: what the prompt provides: imports and helpers.
        code: the completion; the prompt's signature included, where it is a body only.
    """

    context: str
    code: str


def assemble(prompt: str, code: str, entry_point: str | None) -> Program:
    """The program that a completion and its prompt make.

    Args:
        prompt: source that ends with the signature of the entry point; may be empty.
        code: what the model wrote: a program, or a function's body.
        entry_point: the function that is tested.
    """
    if not prompt.strip():
        return Program("", code)
    if is_body(code, entry_point):
        return Program("", _with_body(prompt, code))
    return Program(context_of(prompt, entry_point), code)


def is_body(code: str, entry_point: str | None) -> bool:
    """Whether code is what stands inside of a function, rather than a program."""
    if entry_point is not None and defines(code, entry_point):
        return False
    tree = parsed(code)
    if tree is None:
        first = next((line for line in code.splitlines() if line.strip()), "")
        return first[:1] in (" ", "\t")
    return any(isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) for node in _own(tree))


def defines(code: str, name: str) -> bool:
    """Whether a program defines a function, class or variable of this name, or a `Solution`."""
    if name not in code:
        return False
    tree = parsed(code)
    if tree is None:
        return f"def {name}(" in code or f"class {name}" in code
    return name in bound_names(tree)


def context_of(prompt: str, entry_point: str | None) -> str:
    """The imports and helpers of a prompt, without the function that is to be written."""
    tree = parsed(prompt) or parsed(prompt.rstrip() + "\n    pass")
    if tree is None:
        return ""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    named = [node for node in tree.body if isinstance(node, definitions)]
    stub = entry_point or (named[-1].name if named else None)
    kept = [
        node
        for node in tree.body
        if not (isinstance(node, definitions) and node.name == stub)
        and not isinstance(node, ast.Expr)
    ]
    return ast.unparse(ast.Module(kept, []))


def is_program(text: str) -> bool:
    """Whether a text that no fence marks is Python, not prose that happens to parse."""
    tree = parsed(text)
    if tree is None:
        return is_body(text, None) and parsed(textwrap.dedent(text)) is not None
    return any(
        not isinstance(node, ast.Expr) or any(isinstance(part, ast.Call) for part in ast.walk(node))
        for node in tree.body
    )


@lru_cache(maxsize=4)
def parsed(code: str) -> ast.Module | None:
    """Source as a tree, which is not to be changed; None if it is no Python, or too long."""
    if len(code) > MAX_CODE_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings and the like
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _with_body(prompt: str, body: str) -> str:
    """The prompt with a body behind it, indented as it should be where it is not."""
    body = body.strip("\r\n")
    indented = textwrap.indent(textwrap.dedent(body), "    ")
    # Base models go on after the function: all from the first line that is not indented goes.
    for attempt in (body, indented, _first_block(body), _first_block(indented)):
        whole = _joined(prompt, attempt)
        tree = parsed(whole)
        if tree is not None and not any(isinstance(node, ast.Return) for node in _own(tree)):
            return whole
    return _joined(prompt, body)


def _first_block(body: str) -> str:
    kept: list[str] = []
    for line in body.splitlines():
        if kept and line.strip() and line[:1] not in (" ", "\t", "#"):
            break
        kept.append(line)
    return "\n".join(kept)


def _joined(prompt: str, body: str) -> str:
    if prompt.endswith((" ", "\t")) and "\n" in prompt:  # the prompt has begun the first line
        return prompt + body.lstrip()
    return prompt.rstrip() + "\n" + body + "\n"


def _own(tree: ast.Module) -> list[ast.AST]:
    """The nodes of a module that do not stand inside of its functions and classes."""
    waiting: list[ast.AST] = list(tree.body)
    found = []
    while waiting:
        node = waiting.pop()
        found.append(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found


def bound_names(tree: ast.Module) -> set[str]:
    """Names that a module binds, methods of a class `Solution` included."""
    names: set[str] = set()
    for node in _own(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            if isinstance(node, ast.ClassDef) and node.name == "Solution":
                names |= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {item.asname or item.name for item in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names
