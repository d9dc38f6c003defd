r"""Answers that are words, letters of choices, or times of day."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W_](?:[^\W_]|[\s.,'’()/;:!?&-])*")
_SHORT_WORDS = "yes no odd red tie am pm sun mon may sum all one two six ten dne cat dog"
_SHORT = frozenset(_SHORT_WORDS.split())
_SAME_WORDS = {
    **{"dne": "does not exist", "none": "no solution", "no solutions": "no solution"},
    **{"there is no solution": "no solution", "no real solution": "no real solutions"},
    **{"indeterminate": "undefined", "not defined": "undefined"},
    **{"infinitely many solutions": "infinitely many", "infinite solutions": "infinitely many"},
}
_COUNTING = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_NUMBER_WORDS = {word: str(number) for number, word in enumerate(_COUNTING.split())}
_NUMBER_WORDS |= {"thirty": "30", "forty": "40", "fifty": "50", "hundred": "100"}
_NAMES_OF_ANSWERS = frozenset(
    ["answer", "result", "solution", "final answer", "day", "name", "color", "colour", "winner"]
)
_FILLERS = frozenset(["the", "a", "an"])
_ORDINAL = re.compile(r"([0-9]+)(?:st|nd|rd|th)\b")
_LETTERS = re.compile(r"[A-Z]{3,}")  # an order such as CAB, no product; AB and BA are one segment

# "(B) 12", "B. 12", "\\text{(B)}\\ 12"; but not "(A) or (B)".
_CHOICE = re.compile(
    r"\s*(?:\\text(?:bf|rm)?\s*\{)?\s*(?:(?:option|choice|answer)\s*:?\s+)?\(?\s*([A-J])\s*"
    r"(?:[).:](?![A-Za-z])|\}|$)\s*\)?\s*\}?",
    re.IGNORECASE,
)
_OPTION = re.compile(r"(?:\\text(?:bf|rm)?\{)?\(([A-J])\)\}?|([B-DF-H])[.)]\s")
_MAX_CHOICE_CHARS = 400  # of an option with its letter
_CHOICE_MORE = re.compile(r"[)}:.][^)]*\([A-J]\)|\b(?:or|and)\b|,\s*\(?[A-J]\b", re.IGNORECASE)
_CLOCK = re.compile(r"([0-9]{1,2}):([0-5][0-9])\s*(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)


def words(text: str) -> str | None:
    """Words in lower case and without fillers, if words are what the text is."""
    plain = _TEXT.sub(r" \1 ", text).strip()
    if "\\" in plain or _WORDS.fullmatch(plain.strip(" ().")) is None or not _has_word(plain):
        return None
    found: Sequence[str] = re.findall(r"[^\W_]+", _ORDINAL.sub(r"\1", plain.lower()))
    is_text = (
        plain != text.strip()
        or _LETTERS.fullmatch(plain)
        or any(len(word) > 3 or word in _SHORT for word in found)
    )
    if not is_text or (found[0].isdigit() and len(found) < 2):
        return None
    kept = [word for word in found if word not in _FILLERS] or found
    joined = " ".join(kept)
    return _SAME_WORDS.get(joined, joined)


def _has_word(text: str) -> bool:
    return any(char.isalpha() for char in text)


def names_another_word(label: str, value: str) -> bool:
    r"""Whether an equation states one word where a name should be: `\text{blue} = \text{red}`."""
    left, right = words(label), words(value)
    return left is not None and right is not None and left not in _NAMES_OF_ANSWERS


def number_word(text: str) -> str | None:
    """The digits of a number that is written as a word, such as seven."""
    return _NUMBER_WORDS.get(_TEXT.sub(r"\1", text).strip().lower())


def choice(text: str) -> str | None:
    """The letter of the one option that an answer starts with: B of `(B) 12`; None without one."""
    if len(text) > _MAX_CHOICE_CHARS:
        return None
    text = " ".join(text.split())
    match = _CHOICE.match(text)
    if match is None or _CHOICE_MORE.search(text):
        return None
    return match[1].upper()


def behind_choice(text: str) -> str:
    """What stands behind the letter of an option: 12 of `(B) 12`; empty without a letter."""
    if len(text) > _MAX_CHOICE_CHARS:
        return ""
    match = _OPTION.match(text.lstrip())
    return text.lstrip()[match.end() :].strip(" ~\\") if match else ""


def clock(text: str) -> tuple[int, int, str] | None:
    """A time of day as hour, minute, and `a`, `p` or nothing; None if it is none."""
    match = _CLOCK.fullmatch(_TEXT.sub(r" \1 ", text).strip())
    if match is None or int(match[1]) > 24:
        return None
    return int(match[1]), int(match[2]), (match[3] or "").lower()


def same_time(gold: tuple[int, int, str], candidate: tuple[int, int, str]) -> bool:
    """Whether two times of day are equal; a half of the day on one side only does not matter."""
    if not (gold[2] and candidate[2]):
        plain, half = (gold, candidate[2]) if candidate[2] else (candidate, gold[2])
        if plain[0] > 12 and half:  # 15:30 is 3:30 p.m.
            return _minutes(gold, half) == _minutes(candidate, half)
        return gold[:2] == candidate[:2]
    return gold == candidate


def _minutes(time: tuple[int, int, str], half: str) -> int:
    hour, minute, own = time
    if hour <= 12 and (own or half):
        hour = hour % 12 + (12 if (own or half) == "p" else 0)
    return hour * 60 + minute
