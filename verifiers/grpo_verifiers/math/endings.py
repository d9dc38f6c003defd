"""Whether a number inside free prose stands for itself, or is part of something larger.

In "so she pays 18 dollars" the last number is the answer; in "the result is 10 - 4", "at most 4",
"1 in 4" or "the square root of 4" it is not, and to take it would reward a wrong answer. What
stands right before and right after the number decides. An unclear case states no answer.
"""

from __future__ import annotations

import re

from grpo_verifiers.math.characters import plain_characters
from grpo_verifiers.math.units import is_unit_suffix, resizes

_BEFORE_CHARS = 120
_AFTER_CHARS = 80

_NUM = r"[0-9][0-9.,]*"
_FUNCTIONS = (
    r"sin|cos|tan|cot|sec|csc|log|ln|lg|exp|sqrt|cbrt|abs|floor|ceil|max|min|gcd|lcm|arcsin|arccos"
    r"|arctan|sinh|cosh|tanh|[a-zA-Z]"
)
_SIGNS = ("-", "−", "–", "+")
_SIGN = re.compile(r"(?:[-−–—‒﹣－]|\b(?:negative|minus))[\s(]*\Z", re.IGNORECASE)
# What a sign follows when it belongs to the number, and is neither a difference nor a dash.
_STATES = re.compile(
    r"(?:[=≈:：→]|[=-]>|\b(?:is|are|was|be|being|get|gets|got|gives|give|gave|equals?|equal to|to"
    r" be|becomes?|yields?|obtain|have|has|so|thus|hence|therefore|of|find|finds)\b)[\s*_`$€£]*\Z"
    r"|\A\s*\Z",
    re.IGNORECASE,
)
_JOINED = re.compile(
    rf"""
    (?<![=>-])[<>]=?\s*\Z | [+/^×·⋅÷√∛±∓≤≥≠≮≯≡∈%]\s*\Z
    | (?<![0-9.,])(?<![Ii]n\ )(?<![Bb]y\ ){_NUM}\s*[:,;]\s*\Z
    | [{{\[]\s*\Z | (?:\A|[^ ]|(?<![a-zA-Z])(?:{_FUNCTIONS})\ )\(\s*\Z
    | (?<![a-zA-Z'’])(?:{_FUNCTIONS})\s*\Z(?<!\b[aAI]\ )
    | \\(?!approx|to|implies|Rightarrow|text|quad|qquad)[a-zA-Z]*\s*\{{?\s*\Z
    """,
    re.VERBOSE,
)
_PRODUCT = re.compile(r"[\w)\]}]\s+\*\s+\Z|[\w)\]}]\*{1,2}\Z")
_DIFFERENCE = re.compile(rf"(?:{_NUM}|[)|\]}}]|\b[a-zA-Z])\s*\Z")
_CHANGED = re.compile(
    rf"""
    \b(?:less|more|fewer|greater|smaller|larger|higher|lower|bigger)\s+than\ (?:or\ equal\ to\ )?\Z
    | \b(?:at\s+(?:least|most)|under|over|below|above|up\ to|exceeds?|nearly|almost|without|except
        |besides|neither|nor|no|anything\ but|all\ but|times|plus|divided\ by|multiplied\ by|modulo
        |mod|choose|root|square|cube|base|double|triple|twice|thrice|half|third|quarter)\ \Z
    | \b(?:square|cube|root|logarithm|sine|cosine|tangent|factorial|half|third|quarter|fifth|tenth
        |double|triple|twice|square\ root|cube\ root|negative|opposite|inverse|reciprocal|negation
        |multiples?|factors?|divisors?|powers?|absolute\ value|complement)\ (?:of|to)\ \Z
    | (?:\bnot|\bnever|\bcannot|\bno\ longer|n['’]t)\ (?:(?:be|equal|equals|to|exactly|just|only|is
        |simply|have|a)\ )*(?:[a-zA-Z]\s*=\s*)?\Z
    | {_NUM}(?:\ [a-z]+)?\ (?:in|out\ of|over|to|through|versus|vs\.?|by)\ \Z
    | {_NUM}\ (?:and|or|of)\ \Z | \bbetween\b[^.]{{1,40}}\band\ \Z
    | \b([a-zA-Z])\s*=\s*-?{_NUM}\ *,?\ *(?:and|or|,)\ *\1\s*=\s*\Z
    | \b(?:sum|product|difference|quotient|average|mean|gcd|lcm)\ of\ [^.=]{{0,60}}\band\ \Z
    | \b(?:pas|nicht)\ \Z
    | \bif\ (?:[a-zA-Z]\s*=\s*)?\Z
    """,
    re.VERBOSE | re.IGNORECASE,
)
_UNITS_GLUED = re.compile(r"(?:[a-zA-Z]{2,}|[gL]\b|m(?=[²³^]))(?:[²³]|\^\{?[23]\}?)?(?:/[a-z]+)?")
_GOES_ON = re.compile(
    r"""
    _(?=[a-z0-9{]) | [\^({\[!√½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞π∞θ′⁰¹²³⁴-⁹ⁿ₀-₉]
    | \s*(?:[+/^×·⋅÷√±∓≤≥≠]|>(?!>)|<(?![/a-z|])|\*{1,2}(?=[\w(\\])
        |(?<=\s)\*\ ?(?=\w)|[-−–]\s*(?:[0-9(]|[a-zA-Z]\b)|=\s*(?![a-zA-Z]\b|\s*\Z))
    | \s*:\s*(?:[0-9]|[a-zA-Z]\b)
    | \s*[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞] | [万千百亿億]
    | \s*\\(?:pi|sqrt|frac|dfrac|tfrac|times|cdot|div|pm|binom|le|ge|ne|leq|geq|neq|alpha|theta)
    | \ +[a-zA-Zπ](?=\s*[.+*/^²³-]|\s*\Z)(?<!\ [aIAmgshLJNWKCF])
    | \ +and\ +(?:a|an|one|two|three)[ -](?:half|third|thirds|quarter|quarters|fifth|eighth)
    | \ +(?:plus|minus|divided|over|squared|cubed|choose|mod|modulo|through
        |versus|factorial|remainder)\b
    | \ +(?:more|less|fewer)\ than\ (?:[a-z]\b|half|twice|one|two|three|four|five|six|seven|eight
        |nine|ten|twenty|fifty|a\ (?:dozen|hundred|thousand))
    | \ +or\ (?:more|less|fewer|greater|higher)\b
    | \ +to\ the\ (?:power|[0-9]|[a-z]+\ power) | \ +(?:out\ of|in)\ (?:[0-9]|every\b)
    | \ +(?:is|are|was|would\ be|can|could|does|do)(?:(?:\ not|\ never|n['’]t|not)(?:\ be)?
        \ (?:possible|the|an?|it|correct|right|valid|allowed|true)|\ (?:no|wrong|incorrect
        |impossible|invalid|excluded))\b
    | ,?\ +(?:then|is)\ +(?:a\ )?contradict
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REMARK = re.compile(r"\s+\([a-zA-Z ]{3,}\)|\s*/\s*[a-z]{2,}")
_CLOSING = re.compile(r"[)\]}*_`\"'”$\s]*")
_WORDS_BEHIND = re.compile(r"[ ~-][a-zA-Z%][a-zA-Z]*(?![&a-zA-Z])(?: [a-zA-Z]+){0,3}")
_DISOWNED = re.compile(
    r"[\s,.]*(?:is|are|was)(?:(?:n['’]t|\s+not|\s+never)\s+(?:possible|the|an?|it|correct|right|valid"
    r"|allowed|true)|\s+(?:wrong|incorrect|impossible|invalid))\b"
)


def sign_before(text: str, start: int) -> str | None:
    """The sign that stands apart in front of the number at `start`: "-" or nothing.

    None, if what stands in front makes the number a part of something larger.
    """
    before = text[max(0, start - _BEFORE_CHARS) : start].rpartition("\n")[2]
    signed = text[start : start + 1] in _SIGNS
    if _PRODUCT.search(before) or (signed and _DIFFERENCE.search(before)):
        return None
    line = before.rstrip('$€£ \t*_`"“') + " "
    sign = _SIGN.search(line)
    if sign is None:
        return None if _JOINED.search(line) or _CHANGED.search(line) else ""
    ahead = line[: sign.start()].rstrip("*_`$( \t") + " "
    is_word = sign.group()[0].isalpha()
    if signed or _JOINED.search(ahead) or _CHANGED.search(ahead):
        return None
    if not ahead.strip():
        return "-" if is_word else None  # "- 4" may be an item of a list
    if _STATES.search(ahead):
        return "-"
    return "" if sign.group()[0] == "—" else None


def ends_here(text: str, end: int) -> bool:
    """Whether nothing behind a number goes on with it: no letter, operator or changing word."""
    after = text[end : end + _AFTER_CHARS].partition("\n")[0]
    if after[:1].isalpha() and not "\u3000" <= after[0] <= "\u9fff":
        return _is_glued_unit(after)
    if _GOES_ON.match(after) and not _REMARK.match(after):
        return False
    words = _WORDS_BEHIND.match(after)
    if words and resizes(words.group()):
        return False
    closing = _CLOSING.match(after)
    return _DISOWNED.match(after, closing.end() if closing else 0) is None


def _is_glued_unit(after: str) -> bool:
    """Whether the letters right behind a number are a unit, as in 4kg; 4m is a product, too."""
    glued = _UNITS_GLUED.match(after)
    if glued is None or _GOES_ON.match(after, glued.end()) or resizes(glued.group()):
        return False
    return glued.group().lower() in ("am", "pm") or is_unit_suffix(
        " " + plain_characters(glued.group())
    )
