r"""One spelling for each way of writing the same thing.

`canonical` turns an answer into plain LaTeX with braced arguments: `\dfrac12` and `½` become
`\frac{1}{2}`, `x**10` and `x^10` become `x^{10}`, `√2` and `sqrt(2)` become `\sqrt{2}`, spacing and
sizing commands vanish. Meaning is left alone: nothing is evaluated, no unit or word is dropped.
"""

from __future__ import annotations

import re

from grpo_verifiers.math.limits import MAX_ANSWER_CHARS, MAX_NESTING, check_length, check_nesting

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_CHARACTERS = str.maketrans(
    {
        **{char: digit for char, digit in zip("０１２３４５６７８９", "0123456789", strict=True)},
        **dict(zip("（）［］｛｝，．：；＋－＝％＄", "()[]{},.:;+-=%$", strict=True)),
        **dict.fromkeys("−–—‐‑‒﹣", "-"),
        **dict.fromkeys("\u00a0\u2009\u200a\u202f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff€£¥₹", ""),
        **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "∗": "*", "⁄": "/"},
        **{
            "π": r"\pi ",
            "∞": r"\infty ",
            "√": r"\sqrt ",
            "±": r"\pm ",
            "∓": r"\mp ",
            "°": r"^\circ ",
        },
        **{"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∈": r"\in "},
        **{"∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "θ": r"\theta ", "α": r"\alpha "},
        **{
            "β": r"\beta ",
            "λ": r"\lambda ",
            "φ": r"\phi ",
            "⟨": "(",
            "⟩": ")",
            "、": ",",
            "。": ".",
        },
        **{"½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}"},
        **{"¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅛": r"\frac{1}{8}"},
    }
)
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUPERSCRIPT_DIGITS = str.maketrans(_SUPERSCRIPTS, "0123456789+-")

_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_COMMANDS = {
    **dict.fromkeys([r"\dfrac", r"\tfrac", r"\cfrac"], r"\frac"),
    **dict.fromkeys([r"\dbinom", r"\tbinom"], r"\binom"),
    **dict.fromkeys([r"\left", r"\right", r"\mleft", r"\mright", r"\middle"], ""),
    **dict.fromkeys([r"\big", r"\Big", r"\bigg", r"\Bigg", r"\bigl", r"\bigr"], ""),
    **dict.fromkeys([r"\Bigl", r"\Bigr", r"\biggl", r"\biggr", r"\limits"], ""),
    **dict.fromkeys([r"\displaystyle", r"\textstyle", r"\boxed", r"\fbox", r"\rm", r"\bf"], " "),
    **dict.fromkeys([r"\!", r"\$", r"\(", r"\)", r"\[", r"\]"], ""),
    **dict.fromkeys([r"\,", r"\;", r"\:", r"\ ", "\\\n", r"\quad", r"\qquad", r"\thinspace"], " "),
    **dict.fromkeys([r"\mathrm", r"\mbox", r"\textbf", r"\textit", r"\textrm"], r"\text"),
    **dict.fromkeys([r"\mathbf", r"\mathit", r"\mathsf", r"\textnormal", r"\bm"], r"\text"),
    **dict.fromkeys([r"\lbrace"], r"\{"),
    **dict.fromkeys([r"\rbrace"], r"\}"),
    **dict.fromkeys([r"\lbrack"], "["),
    **dict.fromkeys([r"\rbrack"], "]"),
    **dict.fromkeys([r"\langle", r"\lparen"], "("),
    **dict.fromkeys([r"\rangle", r"\rparen"], ")"),
    **dict.fromkeys([r"\lvert", r"\rvert", r"\vert"], "|"),
    **dict.fromkeys([r"\le", r"\leqslant"], r"\leq"),
    **dict.fromkeys([r"\ge", r"\geqslant"], r"\geq"),
    **dict.fromkeys([r"\ne"], r"\neq"),
    **dict.fromkeys([r"\lt"], "<"),
    **dict.fromkeys([r"\gt"], ">"),
    **dict.fromkeys([r"\varnothing"], r"\emptyset"),
    **dict.fromkeys([r"\thickapprox", r"\simeq"], r"\approx"),
    **dict.fromkeys([r"\ast"], "*"),
    **dict.fromkeys([r"\%", r"\percent"], "%"),
    **dict.fromkeys([r"\degree"], r"^\circ"),
    **dict.fromkeys([r"\colon"], ":"),
}
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[a-zA-Z{}])")
_TEXT = re.compile(r"\\text\s*\{")
_ARRAY = re.compile(r"\\begin\{array\}\s*\{[lcr|]*\}")
_BLACKBOARD = re.compile(r"\\mathbb\s*([A-Z])")
_NEGATIVE_SPACE = re.compile(r"\\!\s*|\\(?:left|right)\.")
_OPERATOR_NAME = re.compile(r"\\operatorname\*?\s*\{\s*([a-zA-Z]+)\s*\}")
_TEXT_CONNECTIVE = re.compile(r"\\text\{\s*,?\s*(or|and)\s*\}")
_TEXT_LETTER = re.compile(r"\\text\{\s*\(?([A-Za-z])\)?\.?\s*\}")
_TEXT_EMPTY = re.compile(r"\\text\{\s*\}")
_TEXT_WITH_DIGITS = re.compile(r"\\text\{([^{}]*[0-9][^{}]*)\}")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ(?![a-zA-Z])\s*\}?")
_PLAIN_FUNCTION = re.compile(
    r"(?<![\\a-zA-Z])(sqrt|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|pi|infinity|inf)"
    r"(?![a-zA-Z])"
)
_SPACES = re.compile(r"\s+")
_SIMPLE = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_TRAILING = " .,;:"  # not "!", which is a factorial

_ARGUMENTS = re.compile(r"\\(frac|binom|sqrt)(?![a-zA-Z])|[\^_]")
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
    if not text.isascii():
        text = _SUPERSCRIPT_RUN.sub(_superscript, text).translate(_CHARACTERS)
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)
    if "\\" in text:
        text = _canonical_commands(text)
    text = text.replace("$", "").replace("~", " ").replace("{,}", ",").replace("**", "^")
    check_nesting(text, MAX_NESTING)
    text = _PLAIN_FUNCTION.sub(_function, text)
    text = brace_arguments(_DEGREES.sub("°", text))
    return _strip(_SPACES.sub(" ", text))


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
    if name == "_" and (number := _INDEX.match(text, position)):
        return number.group(), number.end()
    return (char, position + 1) if char.isalnum() else (None, position)


def _command_end(text: str, position: int) -> int:
    """Position after a command and the braced groups that follow it."""
    command = _COMMAND.match(text, position)
    end = command.end() if command else position + 1
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


def _canonical_commands(text: str) -> str:
    text = _NEGATIVE_SPACE.sub("", _ARRAY.sub(r"\\begin{matrix}", text))
    text = _BLACKBOARD.sub(r"\\mathbb{\1}", text)
    text = text.replace(r"\end{array}", r"\end{matrix}")
    text = _OPERATOR_NAME.sub(r"\\\1 ", text)
    text = _COMMAND.sub(lambda match: _COMMANDS.get(match.group(), match.group()), text)
    if "\\text" in text:
        text = _TEXT.sub(r"\\text{", text)
        text = _TEXT_CONNECTIVE.sub(r" \1 ", text)
        text = _TEXT_LETTER.sub(r"\1", text)
        text = _TEXT_EMPTY.sub(" ", text)
        if whole := _TEXT_WITH_DIGITS.fullmatch(text.strip()):
            text = whole.group(1)
    return text


def _superscript(match: re.Match[str]) -> str:
    return "^{" + match.group().translate(_SUPERSCRIPT_DIGITS) + "}"


def _function(match: re.Match[str]) -> str:
    name = match.group(1)
    return r"\infty " if name.startswith("inf") else f"\\{name} "


def _strip(text: str) -> str:
    """Remove trailing punctuation and braces round the whole."""
    text = text.strip().rstrip(_TRAILING).strip()
    while text.startswith("{") and balanced_end(text, 0) == len(text):
        text = text[1:-1].strip().rstrip(_TRAILING)
    return text
