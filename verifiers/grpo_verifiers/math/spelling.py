r"""LaTeX commands that mean the same, or nothing: tables and the rewriting by them."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)", re.DOTALL)
_MEANINGLESS = (
    r"\left \right \mleft \mright \middle \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl "
    r"\biggr \Biggl \Biggr \bigm \limits \nolimits \! \$ \( \) \[ \] \mathop \therefore \pounds "
    r"\tiny \scriptsize \footnotesize \small \normalsize \large \Large \LARGE \huge \Huge "
    r"\euro \textdollar \yen \mathstrut \strut \hfill \noindent \nonumber \centering \par"
)
_SPACES = (
    r"\displaystyle \textstyle \scriptstyle \boxed \fbox \rm \bf \it \cal \, \; \: \> \  \quad "
    r"\qquad \thinspace \medspace \thickspace \enspace \space \newline"
)
_TEXTS = (
    r"\mathrm \mbox \hbox \textbf \textit \textrm \textsf \texttt \textsc \emph \mathbf \mathit "
    r"\mathsf \mathtt \mathnormal \textnormal \bm \boldsymbol \pmb \bold \underline"
)
_SAME = {
    r"\frac": r"\dfrac \tfrac \cfrac \sfrac \nicefrac",
    r"\binom": r"\dbinom \tbinom",
    r"\{": r"\lbrace",
    r"\}": r"\rbrace",
    "[": r"\lbrack",
    "]": r"\rbrack",
    "(": r"\lparen \langle",
    ")": r"\rparen \rangle",
    "|": r"\lvert \rvert \vert \mid",
    r"\|": r"\lVert \rVert \Vert",
    r"\leq": r"\le \leqslant \leqq",
    r"\geq": r"\ge \geqslant \geqq",
    r"\neq": r"\ne",
    r"<": r"\lt",
    r">": r"\gt",
    r"\emptyset": r"\varnothing \O",
    r"\approx": r"\thickapprox \simeq \doteq \approxeq",
    "*": r"\ast \star",
    "%": r"\% \percent",
    r"^\circ": r"\degree \textdegree \degrees",
    ":": r"\colon",
    r"\setminus": r"\backslash \smallsetminus",
    r"\mathbb{R}": r"\R \reals \Reals",
    r"\ldots": r"\dots \cdots \dotsc \dotsb",
    r"\epsilon": r"\varepsilon",
    r"\phi": r"\varphi",
    r"\theta": r"\vartheta",
    " or ": r"\lor \vee",
    " and ": r"\land \wedge \&",
    r"\gets": r"\leftarrow",
    r"\cdot": r"\bullet",
    "'": r"\prime",
}
_COMMANDS = {
    **dict.fromkeys(_MEANINGLESS.split(), ""),
    **dict.fromkeys([*_SPACES.split(), "\\ ", "\\\n"], " "),
    **dict.fromkeys(_TEXTS.split(), r"\text"),
    **{command: target for target, commands in _SAME.items() for command in commands.split()},
}
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[a-zA-Z{}])")
_GLUED_QUAD = re.compile(r"\\q?quad(?=[a-zA-Z])")
_NEGATIVE_SPACE = re.compile(r"\\!\s*|\\(?:left|right)\.")
_DROPPED = re.compile(
    r"\\(?:hspace|vspace|[hv]?phantom|tag|label|color)\*?\s*\{[^{}]*\}|\\textcolor\s*\{[^{}]*\}"
    r"|\\begin\s*\{(?:equation|align|aligned|gathered|split)\*?\}"
    r"|\\end\s*\{(?:equation|align|aligned|gathered|split)\*?\}"
)
_ARRAY = re.compile(r"\\begin\s*\{array\}\s*\{[lcr|\s]*\}")
_UNIT_VECTOR = re.compile(
    r"\\(?:mathbf|bm|boldsymbol|hat|vec|widehat)\s*(?:\{\s*\\?([ijk])(?:math)?\s*\}"
    r"|\{\s*\\mathbf\s*\{\s*([ijk])\s*\}\s*\}|\s\\?([ijk])(?:math)?(?![a-z]))"
)
_BLACKBOARD = re.compile(r"\\(?:mathbb|Bbb)\s*([A-Z])")
_OPERATOR_NAME = re.compile(r"\\operatorname\*?\s*\{\s*([a-zA-Z]+)\s*\}")
_FUNCTION_TEXT = re.compile(
    r"\\(?:text|mathrm|rm)\s*\{\s*((?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|cis|ln|log|lg|exp|gcd|lcm)"
    r"\s*\}(?!\s*\^\{?-?1?\}?\s*$)"
)
_INFIX = re.compile(r"\{([^{}]*)\\(over|choose)(?![a-zA-Z])([^{}]*)\}")
_REPEATING = re.compile(r"(\.[0-9]*)\\dot\s*\{?([0-9])\}?(?:([0-9]*)\\dot\s*\{?([0-9])\}?)?")
_TEXT = re.compile(r"\\text\s*\{")
_TEXT_CONNECTIVE = re.compile(r"\\text\{\s*[,;]?\s*(or|and)\s*\}", re.IGNORECASE)
# A letter in text is that letter; but behind a number, m is the metre.
_TEXT_LETTER = re.compile(
    r"(?<![0-9})])(?<!\\pi)\s*\\text\{\s*\(?([A-Za-z])\)?\.?\s*\}|\\text\{\s*\(?([A-IPQR-Zeidxyz])\)?\.?\s*\}"
)
_ORDINAL = re.compile(
    r"(?<=[0-9])\s*(?:\^\s*\{?\s*)?\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}?|(?<=[0-9])(?:st|nd|rd|th)\b"
)
_TEXT_EMPTY = re.compile(r"\\text\{[\s.]*\}")
_TEXT_WHOLE = re.compile(r"\\text\{([^{}]*[0-9$\\][^{}]*)\}")
_TEXT_SIGNS = re.compile(r"\\text\{\s*([^A-Za-z{}]+?)\s*\}")


def canonical_commands(text: str) -> str:
    """LaTeX with one command for each meaning."""
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)
    text = _DROPPED.sub(" ", _GLUED_QUAD.sub(" ", text))
    text = _NEGATIVE_SPACE.sub("", _ARRAY.sub(r"\\begin{matrix}", text))
    text = _UNIT_VECTOR.sub(_unit_vector, text)
    text = _BLACKBOARD.sub(r"\\mathbb{\1}", text).replace(r"\end{array}", r"\end{matrix}")
    text = _OPERATOR_NAME.sub(r"\\\1 ", _FUNCTION_TEXT.sub(r"\\\1 ", text))
    text = _COMMAND.sub(lambda match: _COMMANDS.get(match.group(), match.group()), text)
    if "\\over" in text or "\\choose" in text:
        text = _INFIX.sub(_prefixed, text)
    if "\\dot" in text:
        text = _REPEATING.sub(_overlined, text)
    return _canonical_texts(text) if "\\text" in text else text


def _canonical_texts(text: str) -> str:
    text = _TEXT.sub(r"\\text{", text)
    text = _TEXT_CONNECTIVE.sub(lambda match: f" {match[1].lower()} ", text)
    text = _TEXT_LETTER.sub(lambda match: f" {match[1] or match[2]}", _ORDINAL.sub("", text))
    text = _TEXT_EMPTY.sub(" ", text)
    text = _TEXT_SIGNS.sub(r"\1", text)
    if whole := _TEXT_WHOLE.fullmatch(text.strip(" .")):
        return whole.group(1)
    return text


def _prefixed(match: re.Match[str]) -> str:
    command = "frac" if match[2] == "over" else "binom"
    return f"\\{command}{{{match[1].strip()}}}{{{match[3].strip()}}}"


def _overlined(match: re.Match[str]) -> str:
    cycle = match[2] if match[4] is None else match[2] + match[3] + match[4]
    return f"{match[1]}\\overline{{{cycle}}}"


def _unit_vector(match: re.Match[str]) -> str:
    return rf"\vec{{{match[1] or match[2] or match[3]}}}"
