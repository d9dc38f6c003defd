"""Answers inside sentences: the number or formula that a phrase states."""

from __future__ import annotations

import re

from grpo_verifiers.math.endings import ends_here, sign_before

MAX_BARE_CHARS = 300  # of a completion that is nothing but its answer
MAX_EXPRESSION_CHARS = 1_000  # of an answer in prose
MAX_SENTENCE_CHARS = 500
# The last number is nearly always near the end, so short ends are searched first; a match at the
# very start of one might have been cut off and is not trusted.
_TAILS = (60, 400)
_CUT_CHARS = 20
_FORMULA_TAIL = 2_000  # where the last formula is looked for

_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+|,[0-9]{2}(?![0-9,]))?|\.[0-9]+"
_NUMBER = re.compile(
    rf"""
    (?<![\w.,^\\])                              # not within a word, a number, or an exponent
    (?:(?<![\w)\]}}%])[-−–+])?[$€£]?\\?\$?[-−]?  # a sign, but not the minus of 10-3
    (?:
        [0-9]+\s+[0-9]+/[0-9]+                  # 1 3/4
      | (?:[0-9]+\s*)?\\[dt]?frac\s*\{{[0-9.,]+\}}\s*\{{[0-9.,]+\}}
      | [0-9]+(?::[0-9]+)+                      # 3:4
      | (?:{_DECIMAL})(?:[eE][+-]?[0-9]+(?![\w]))?(?:\s?/\s?(?:{_DECIMAL})(?![a-zA-Z(]))?
    )
    (?!(?:st|nd|rd|th)\b)(?![0-9_^])
    (?:\s?\\?%|\s(?:thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE,
)
_SENTENCE_END = re.compile(r"(?<!\bapprox)(?<!\bi\.e)(?<!\be\.g)[.!?。](?=[\s*\"'$)]|\Z)|\n")
_CLAUSE_END = re.compile(
    r",?\s+(?:because|since|as|so|which|where|when|after|if|given|meaning)\b|,\s+(?=[a-z]{3,})(?!and\b|maybe|perhaps|possibly|alternatively)"
    r"|\s+\((?!or\b|and\b)(?=[a-zA-Z]{2})"
)
_HEDGE = re.compile(
    r"\b(?:or|either|between|maybe|perhaps|possibly|alternatively)\b", re.IGNORECASE
)
# What makes a number the beginning of more: 7 times 8, 7 + x, 7 \cdot 8.
_GOES_ON = re.compile(
    r"\s*(?:[-+*/^=<>\\({\[|!_]|(?:times|plus|minus|divided|over|choose|mod|to|but"
    r"|through|versus|squared|cubed|remainder|with (?:a )?remainder|(?:in )?base|out of)\b"
    r"|\s+(?:less|more|fewer) than\b)"
)
# Words before a number that make it another answer: at least 7, half of 7.
_CHANGES = re.compile(
    r"\b(?:less|more|fewer|greater|smaller|larger|least|most|under|over|below|above|half|third|quarter"
    r"|twice|thrice|double|triple|root|square|cube|plus|times|divided|minus|not|never|cannot|neither"
    r"|nor|no|without|except|from|but|opposite|reciprocal|inverse|(?:the|a) negative"
    r"|(?:multiple|factor|divisor|power)s? of)\b|n't\b",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"\b(?:negative|minus)\s+(?=[0-9])", re.IGNORECASE)
_LIST_OF_WORDS = re.compile(r"[A-Za-z]+(?:\s*,\s*(?:(?:and|or)\s+)?[A-Za-z]+)+")
_OR_BEFORE = re.compile(r",?\s*(?:\\text\{\s*)?\bor(?:\s*\})?\s*\Z")
_DISPLAY = re.compile(r"\$\$([^$]{1,2000})\$\$|\\\[((?:(?!\\\[).){1,2000}?)\\\]", re.DOTALL)
_INLINE = re.compile(r"\$([^$]{1,2000})\$(?![0-9])|\\\(((?:(?!\\\().){1,2000}?)\\\)", re.DOTALL)
_CONTINUES = re.compile(r"\s*(?:,|;|,?\s*(?:or|and))\s*(?:\$|\\\(|[0-9])")
_NEGATION = re.compile(r"(?:not|never|neither|no longer)\b", re.IGNORECASE)
# A second answer behind the first: "$7$, or maybe $8$", "$7$. Or $8$."
_ALTERNATIVE_CHARS = 200
_ALTERNATIVE = re.compile(
    r"[\s.,;]*[(\[]?\s*(?:or|alternatively|maybe|perhaps|possibly|actually|wait|no|sorry|oops|rather"
    r"|correction)\b[\s,:.]*(?:[a-z']+[\s,:]+){0,4}"
    r"(?=\$|\\\(|[-0-9])",
    re.IGNORECASE,
)
_DELIMITERS = re.compile(r"\\[()\[\]]|\\?\$|\*\*|`")
_QUANTITY_TAIL = re.compile(r"\s*%?(?:\s*[A-Za-z]+[.²³]?){0,3}")

_NOT_PROSE = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|textit|operatorname)\s*\{[^{}]*\}"
    r"|\\(?:begin|end)\s*\{[a-z]*\}(?:\s*\{[clr|]*\})?"
    r"|\\[a-zA-Z]+|\b(?:or|and|sqrt|sin|cos|tan|cot|sec|csc|log|exp|arcsin|arccos|arctan|inf|infinity)\b"
)
_DIGIT_IN_MATHS = re.compile(r"(?<![a-zA-Z])[a-ln-zA-Z)]\s*\^\s*[0-9]")  # no number of its own
_SEVERAL = re.compile(r"\b(?:or|and)\b|[,;]\s")
_PROSE_WORD = re.compile(r"[a-zA-Z]{3,}|\b(?:is|to|of|in|it|so|we|he|by|at|on|an|as|if)\b")
_FEW_WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+){0,3}")


def bare_expression(text: str) -> str | None:
    """The text itself, if it is one line of mathematics, a quantity, or a few words.

    An equation whose right side is a number stands for that number: `71 + 26 = 97`.
    """
    text = text.strip().strip("*_").rstrip(".!。").rstrip()
    whole = _DISPLAY.fullmatch(text) or _INLINE.fullmatch(text)
    if whole:
        return (whole.group(1) or whole.group(2)).strip()
    if not text or len(text) > MAX_BARE_CHARS or "\n" in text:
        return None
    if is_expression(text):
        right = text.rpartition("=")[2].strip()
        return (
            right
            if "=" in text and not _SEVERAL.search(text) and _NUMBER.fullmatch(right)
            else text
        )
    return text if _FEW_WORDS.fullmatch(text) and len(text) <= 40 else None


def is_expression(text: str) -> bool:
    """Whether a text is mathematics or a quantity rather than prose."""
    if len(text) > MAX_EXPRESSION_CHARS:
        return False
    number = _NUMBER.match(text)
    if number and _QUANTITY_TAIL.fullmatch(text, number.end()):
        return True
    if has_prose(text):
        return False
    return " " not in text or re.search(r"[0-9\\=+^<>]", text) is not None


def has_prose(text: str) -> bool:
    r"""Whether a text has words that are neither functions nor within `\text`."""
    return _PROSE_WORD.search(_NOT_PROSE.sub(" ", text)) is not None


def statement(text: str) -> str:
    """The answer in what follows "the answer is"; empty if nothing does."""
    text = text.lstrip(" \t\r\n*:：#")
    if display := _DISPLAY.match(text):
        return (display.group(1) or display.group(2)).strip() + _alternative(text, display.end())
    inline = _INLINE.match(text)
    if inline and not _CONTINUES.match(text[inline.end() : inline.end() + _ALTERNATIVE_CHARS]):
        content = (inline.group(1) or inline.group(2)).strip()
        if is_expression(content):
            return content + _alternative(text, inline.end())
    text = text[:MAX_SENTENCE_CHARS]
    end = _SENTENCE_END.search(text)
    if _NEGATION.match(text):
        return text[: end.start()] if end else text  # which equals nothing
    sentence = _DELIMITERS.sub("", text[: end.start()] if end else text).strip(" *:,;")
    sentence = _NEGATIVE.sub("-", sentence)
    if is_expression(sentence):
        return sentence + (_alternative(text, end.start()) if end else "")
    if _LIST_OF_WORDS.fullmatch(sentence):
        return sentence
    clause = _CLAUSE_END.split(sentence, maxsplit=1)[0].strip(" *:,;")
    if is_expression(clause):
        return clause
    numbers = [match.group() for match in _NUMBER.finditer(clause)]
    if not numbers:
        return clause
    if len(numbers) > 1 and _HEDGE.search(clause):
        return " or ".join(numbers)
    first = _NUMBER.match(clause)
    if first is None:
        before = clause[: clause.rindex(numbers[-1])]
        return clause if _CHANGES.search(before) else numbers[-1]
    return clause if _GOES_ON.match(clause, first.end()) else numbers[0]


def _alternative(text: str, position: int) -> str:
    """The second answer that a sentence goes on with, as " or ..."; empty without one."""
    text = text[position : position + _ALTERNATIVE_CHARS]
    match = _ALTERNATIVE.match(text)
    if match is None:
        return ""
    second = _INLINE.match(text, match.end()) or _NUMBER.match(text, match.end())
    if second is None:
        return ""
    content = next((group for group in second.groups() if group), second.group())
    return f" or {content.strip()}"


def last_in_prose(text: str) -> str | None:
    """The last formula or number of a text, whichever ends later.

    None, if it has neither, or only as a part of something larger: see `endings`.
    """
    formula = _last_formula(text)
    number = _last_number(text)
    if formula and (number is None or formula[2] >= number.end()):
        sign = sign_before(text, formula[1])
        if sign is None or not ends_here(text, formula[2]):
            return None
        return sign + (f"({formula[0]})" if sign else formula[0])
    if number is None or _DIGIT_IN_MATHS.search(text, number.end()):
        return None
    if either := _either(text, number):
        return either
    sign = sign_before(text, number.start())
    if sign is None or not ends_here(text, number.end()):
        return None
    return sign + number.group()


def _either(text: str, number: re.Match[str]) -> str | None:
    """The last two numbers as "3 or 4", if "or" joins them."""
    before = text[max(0, number.start() - _TAILS[-1]) : number.start()]
    if hedge := _OR_BEFORE.search(before):
        others = list(_NUMBER.finditer(before, 0, hedge.start()))
        if others and not before[others[-1].end() : hedge.start()].strip():
            return f"{others[-1].group()} or {number.group()}"
    return None


def _last_number(text: str) -> re.Match[str] | None:
    last = None
    for start in (*(max(0, len(text) - tail) for tail in _TAILS), 0):
        for match in _NUMBER.finditer(text, start):
            last = match
        if last is not None and (start == 0 or last.start() >= start + _CUT_CHARS):
            break
    return last


def _last_formula(text: str) -> tuple[str, int, int] | None:
    """The last mathematics between delimiters, its start and its end; money is no mathematics."""
    if "$" not in text and "\\" not in text:
        return None
    offset = max(0, len(text) - _FORMULA_TAIL)
    text = text[offset:]
    last = None
    position = 0
    while match := (_DISPLAY.search(text, position) or _INLINE.search(text, position)):
        content = next(group for group in match.groups() if group is not None).strip()
        if _is_formula(content):
            last = (content, offset + match.start(), offset + match.end())
            position = match.end()
        else:
            position = match.start() + 1
    return last


def _is_formula(content: str) -> bool:
    if not content or content[-1] in "=+-*/" or (len(content) == 1 and content.isalpha()):
        return False
    return is_expression(content)
