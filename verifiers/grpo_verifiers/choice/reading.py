"""Reads which options a piece of text names, at its very beginning: "(B) Paris, because ..."."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

LETTERS = string.ascii_uppercase
OTHER = "?"  # the label of what is no option

# Full-width forms and circled letters, as the plain ones.
_PLAIN = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_PLAIN |= {0x24B6 + place: ord(letter) for place, letter in enumerate(LETTERS)}
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mbox|operatorname)\s*"
    r"\{([^{}\n]{0,300})\}"
)
_MARKUP = re.compile(r"\\[()\[\],;! ]|\$|\*|`|\\q?quad\b|~(?=\S)")
_OR = re.compile(r"\\(?:lor|vee|land|wedge)\b|[∨∧]")

_OPENING = re.compile(r"[\s\"'“”‘’«»:=>#–—-]*")
_PREFIX = re.compile(
    r"(?:(?:the|options?|choices?|letters?|answers?|statement|most|likely|probably|clearly|simply|"
    r"definitely|therefore|thus|hence|just|indeed|either|both|is|are|be|would|should|given|by|"
    r"correct|best|final)\b[\s\"'“”‘’:=–—-]*)+",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"(?:not|neither|none|no|never|isn't|isn’t)\b", re.IGNORECASE)
_BRACKETED = re.compile(
    r"(?:\(\s*([A-Za-z])\s*\)|\[\s*([A-Za-z])\s*\]|\{\s*([A-Za-z])\s*\})(?!\s*[=<>^])"
)
# Not "A dog", "I think", "B-cell", "B.Sc.", "A = 5", "D'Artagnan".
_BARE = re.compile(
    r"([A-Z])(?![\w'’+#=^\\])(?!\s*[=<>^])(?!-\w)(?!\.\w\.)(?!\.\d)"
    r"(?:(?<![AI])|(?!\s+\w)|(?=\s+(?:or|and|because|since|as|is|are|with|for|which|that)\b))"
)
_LOWER = re.compile(r"([a-z])(?=\s*[).:](?:\s|\Z)|\s*\Z)")
_AFTER_LABEL = re.compile(r"\s*[).:\]}]{1,2}|\s+[–—-](?=\s)")
_JOINT = re.compile(
    r"[\s,;/&+|.]*(?:(?:or|and|plus|but|also|maybe|possibly|perhaps|alternatively|even|else|either|"
    r"option|choice|answer)\b[\s,:]*)*",
    re.IGNORECASE,
)
_OPENED_JOINT = re.compile(r"[(\[\s]*" + _JOINT.pattern, re.IGNORECASE)
_LISTED = re.compile(r"\s*(?:\Z|[,;/&+|.()\[\]}\n]|(?:or|and)\b|[A-Z]\b)")
# What follows is an alternative to the option, though none of the options: "B or 17", "B, 17".
_ALTERNATIVE = re.compile(
    r"\s*(?:,?\s*(?:or|and/or)\s+(?!equivalently|in other)|/|\||[,;]\s*(?=[-+]?[0-9]))"
    r"\s*[^\s.,;:)}\]]",
    re.IGNORECASE,
)
_TEXT_END = re.compile(
    r"\s*(?:\Z|[,.;:!?)\]}\"'”’/|](?!\w)|[\s(](?=\(|or\b|and\b|because|since|as\b|is\b|\n))"
)


@dataclass(frozen=True, slots=True)
class Options:
    """What can be chosen.

    Attributes:
        labels: the letters that are labels.
        texts: the options' texts by letter, as `plain` writes them; empty where they are unknown.
    """

    labels: str
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """The labels of the options that a text names, and where in it that ends."""

    labels: frozenset[str]
    end: int


def clean(text: str) -> str:
    """The text without markup of Markdown and LaTeX, boxes apart."""
    return _OR.sub(" or ", _MARKUP.sub("", _WRAPPER.sub(r"\1", text.translate(_PLAIN))))


def plain(text: str) -> str:
    """The text of an option in the one spelling in which texts are compared."""
    return " ".join(clean(text).split()).strip(" .,;:!?\"'")


def read_choice(text: str, options: Options) -> Reading | None:
    """The options that a cleaned text names at its beginning, several if it joins them.

    `OTHER` is among them where an option is joined with what is none.
    """
    start = _at_end(_OPENING, text, 0)
    first = _item(text, start, options)
    if first is None:
        start = _at_end(_PREFIX, text, start)
        first = None if _NEGATION.match(text, start) else _item(text, start, options)
    if first is None:
        return None
    labels, end = first.labels, first.end
    while True:
        joint = _at_end(_JOINT, text, end)
        following = _item(text, joint, options, listed=True)
        if following is None:  # "B (or C)"
            following = _item(text, _at_end(_OPENED_JOINT, text, joint), options, listed=True)
        if following is None:
            other = {OTHER} if _ALTERNATIVE.match(text, end) else set()
            return Reading(labels | other, end)
        labels, end = labels | following.labels, following.end


def texts_within(text: str, options: Options) -> frozenset[str]:
    """The labels of the options whose text stands anywhere in a cleaned text.

    The text of a longer option hides a shorter one's in it; plain numbers are too common to count.
    """
    found: set[str] = set()
    for label, option in sorted(options.texts.items(), key=lambda item: -len(item[1])):
        if any(char.isalpha() for char in option):
            text, count = _pattern(option, True, r"(?<!\w)", r"(?!\w)").subn("\0", text)
            found |= {label} if count else set()
    return frozenset(found)


def _item(text: str, start: int, options: Options, *, listed: bool = False) -> Reading | None:
    """One option at a place: by its text, by its letter, or by its letter and its text."""
    by_text = _by_text(text, start, options)
    label = _label(text, start, options.labels, listed=listed)
    if label is None or (by_text and by_text.end > label.end):
        return by_text
    after = _AFTER_LABEL.match(text, label.end)
    end = after.end() if after else label.end
    named = _by_text(text, _at_end(_OPENING, text, end), options)
    if named is None or listed:
        return Reading(label.labels, end)
    if label.labels & named.labels:
        return Reading(label.labels, named.end)
    return Reading(label.labels | named.labels, named.end) if after else Reading(label.labels, end)


def _label(text: str, start: int, labels: str, *, listed: bool) -> Reading | None:
    match = _BRACKETED.match(text, start)
    if match is None:
        match = _BARE.match(text, start) or (None if listed else _LOWER.match(text, start))
        if match and listed and not _LISTED.match(text, match.end()):
            return None
    if match is None:
        return None
    label = next(group for group in match.groups() if group).upper()
    return Reading(frozenset(label), match.end()) if label in labels else None


def _by_text(text: str, start: int, options: Options) -> Reading | None:
    """The longest option whose text stands at a place; same case first, then in any case."""
    for ignore_case in (False, True):
        best: Reading | None = None
        for label, option in options.texts.items():
            match = _pattern(option, ignore_case).match(text, start) if option else None
            if match is None or not _TEXT_END.match(text, match.end()):
                continue
            if best is None or match.end() > best.end:
                best = Reading(frozenset(label), match.end())
            elif match.end() == best.end:
                best = Reading(best.labels | {label}, best.end)
        if best:
            return best
    return None


@lru_cache(maxsize=4096)
def _pattern(text: str, ignore_case: bool, before: str = "", after: str = "") -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in text.split())
    return re.compile(before + words + after, re.IGNORECASE if ignore_case else 0)


def _at_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start
