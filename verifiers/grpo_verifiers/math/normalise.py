r"""One spelling for each way of writing the same thing.

`canonical` turns an answer into plain LaTeX with braced arguments: `\dfrac12` and `½` become
`\frac{1}{2}`, `x**10` and `x^10` become `x^{10}`, `√2` and `sqrt(2)` become `\sqrt{2}`, spacing and
sizing commands vanish. Meaning is left alone: nothing is evaluated, no unit or word is dropped.
"""

from __future__ import annotations

import re

from grpo_verifiers.math.characters import plain_characters
from grpo_verifiers.math.limits import MAX_ANSWER_CHARS, MAX_NESTING, check_length, check_nesting
from grpo_verifiers.math.spelling import canonical_commands

_PLAIN_FUNCTION = re.compile(
    r"(?<![\\a-zA-Z])(?:(?P<function>sqrt|arcsin|arccos|arctan|a?sinh?|a?cosh?|a?tanh?|cot|csc"
    r"|(?<![0-9])(?<![0-9] )sec|log|ln|exp)(?![a-zA-Z])"
    r"|(?P<called>abs|floor|ceil|gcd|lcm|max|min|cbrt)(?=\()"
    r"|(?P<symbol>pi|theta|alpha|lambda|infinity|infty|inf|oo)(?![a-zA-Z]))"
)
_SYMBOLS = dict.fromkeys(["infinity", "inf", "oo"], r"\infty ")
_SIGNS = (
    (re.compile(r"<=|=<"), r"\\leq "),
    (re.compile(r">="), r"\\geq "),
    (re.compile(r"(?<![0-9)}])!=|<>|/="), r"\\neq "),
    (re.compile(r"=="), "="),
    (re.compile(r"\.\.\."), r"\\ldots "),
    (re.compile(r"~|\\hspace"), " "),
    (re.compile(r"\s*\{\s*([,:;])\s*\}\s*"), r"\1"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\^\s*\{?\s*(?:\\circ(?![a-zA-Z])|o(?![a-zA-Z]))\s*\}?"), "°"),
    (re.compile(r"\^\s*\{?\s*'+\s*\}?"), "'"),
)
_ANY_SIGN = re.compile(r"[<>=~*]|\.\.|[,:;]\s*\}|\^\s*\{?\s*(?:\\circ|o|')")
_GLUING_DOLLAR = re.compile(r"(?<=[0-9])\s*\$\s*(?=[0-9])")
_CURRENCY = re.compile(r"(?:Rs|RM|USD|EUR|GBP|INR|US)\b\.?\s*(?=-?[0-9])")
_CONTROL = {"\x0c": r"\f", "\x08": r"\b", "\x07": r"\a", "\x0b": r"\v"}
_ORDINAL = re.compile(r"(?<=[0-9])(?:st|nd|rd|th)\Z")
_SPACES = re.compile(r"\s+")
_SIMPLE = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_TRAILING = " .,;:\\"  # not "!", which is a factorial
_LEADING = re.compile(r"(?:[=:]|\\(?:approx|quad)(?![a-zA-Z]))\s*(?=.)")

_ARGUMENTS = re.compile(r"\\(frac|binom|sqrt)(?![a-zA-Z])|[\^_]")
_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_TAKES = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1}
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_PARENTHESES = re.compile(r"[()]")
_NUMBER_TOKEN = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?|[+-][a-zA-Z]")
_INDEX = re.compile(r"[0-9]+")
_OPTIONAL = re.compile(r"\s*\[([^\[\]]*)\]")


def canonical(text: str) -> str:
    """The one spelling of an answer that the rest of the package reads.

    Raises:
        AnswerTooLarge: if the text is too long or nested too deeply.
    """
    text = text.strip(" \t\r\n*`")
    if _SIMPLE.fullmatch(text):
        return text
    check_length(text, MAX_ANSWER_CHARS)
    text = plain_characters(_SPACES.sub(" ", unescaped(text)))
    if "\\" in text:
        text = canonical_commands(text)
    if "$" in text:
        text = _GLUING_DOLLAR.sub(" ", text).replace("$", "")
    if "R" in text[:4] or "U" in text[:4]:
        text = _CURRENCY.sub("", text, count=1)
    if _ANY_SIGN.search(text):
        for pattern, replacement in _SIGNS:
            text = pattern.sub(replacement, text)
    check_nesting(text, MAX_NESTING)
    check_length(text, 2 * MAX_ANSWER_CHARS)  # some characters have long names
    if text[:1].isdigit() and text.endswith(("st", "nd", "rd", "th")):
        text = _ORDINAL.sub("", text)
    text = brace_arguments(_PLAIN_FUNCTION.sub(_function, text))
    return _strip(_SPACES.sub(" ", text))


def unescaped(text: str) -> str:
    r"""A text in which \f, \b, \a and \v are again the beginnings of commands, not controls."""
    for control, command in _CONTROL.items():
        if control in text:
            text = text.replace(control, command)
    return text.replace("\text{", "\\text{").replace("\times", "\\times") if "\t" in text else text


def balanced_end(text: str, start: int) -> int:
    """Position after the brace that closes the one at `start`; -1 if none does."""
    depth = 0
    for match in _BRACES.finditer(text, start):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return match.end()
    return -1


def brace_arguments(text: str) -> str:
    r"""Put braces round the arguments of `\frac`, `\binom`, `\sqrt`, `^` and `_`."""
    pieces = []
    position = 0
    while match := _ARGUMENTS.search(text, position):
        pieces += [text[position : match.start()], match.group()]
        position = match.end()
        name = match.group(1) or match.group()
        if name == "sqrt" and (optional := _OPTIONAL.match(text, position)):
            pieces.append(f"[{brace_arguments(optional.group(1))}]")
            position = optional.end()
        for _ in range(2 if name in ("frac", "binom") else 1):
            argument, position = _argument(text, position, name)
            if argument is None:
                break
            pieces.append("{" + brace_arguments(argument) + "}")
    pieces.append(text[position:])
    return "".join(pieces)


def _argument(text: str, position: int, name: str) -> tuple[str | None, int]:
    """The argument that starts at `position`, without braces, and the position after it."""
    while position < len(text) and text[position].isspace():
        position += 1
    if position == len(text):
        return None, position
    char = text[position]
    if char == "{":
        end = balanced_end(text, position)
        return (text[position + 1 : end - 1], end) if end > 0 else (None, position)
    if char == "\\":
        end = _command_end(text, position)
        return text[position:end], end
    if name in ("sqrt", "^"):
        if char == "(" and (end := _parenthesis_end(text, position)) > 0:
            return text[position + 1 : end - 1], end
        if number := _NUMBER_TOKEN.match(text, position):
            return number.group(), number.end()
    if name == "^" and char in "+*-" and text[position + 1 : position + 2] in ("", " ", ",", ")"):
        return char, position + 1
    if name == "_" and (number := _INDEX.match(text, position)):
        return number.group(), number.end()
    return (char, position + 1) if char.isalnum() else (None, position)


def _command_end(text: str, position: int) -> int:
    """Position after a command and its arguments."""
    command = _COMMAND.match(text, position)
    end = command.end() if command else position + 1
    for _ in range(_TAKES.get(text[position:end], 0)):
        if end < len(text) and text[end] != "{":
            end = _argument(text, end, "")[1]
        elif (closed := balanced_end(text, end)) > 0:
            end = closed
    while end < len(text) and text[end] == "{" and (closed := balanced_end(text, end)) > 0:
        end = closed
    return end


def _parenthesis_end(text: str, start: int) -> int:
    depth = 0
    for match in _PARENTHESES.finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.end()
    return -1


def _function(match: re.Match[str]) -> str:
    name = match.group()
    if name == "cbrt":
        return r"\sqrt[3]"
    return _SYMBOLS.get(name, f"\\{name} ")


def _strip(text: str) -> str:
    """Remove what surrounds the answer: braces, punctuation, a sign of equality in front."""
    text = text.strip().rstrip(_TRAILING).strip()
    if leading := _LEADING.match(text):
        text = text[leading.end() :]
    while text.startswith("{") and balanced_end(text, 0) == len(text):
        text = text[1:-1].strip().rstrip(_TRAILING)
    return text
