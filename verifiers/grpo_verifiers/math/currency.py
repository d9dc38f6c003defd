"""Signs of money: €5 is not $5, and $5 is not 5 cents."""

from __future__ import annotations

import re

_MARKS = {
    "dollar": re.compile(r"\\\$|\bdollars?\b|\bUSD\b"),
    "euro": re.compile(r"€|\beuros?\b|\bEUR\b"),
    "pound": re.compile(r"[£￡]|\bGBP\b"),
    "yen": re.compile(r"[¥￥]|\byen\b"),
    "rupee": re.compile(r"₹|\bRs\b|\brupees?\b|\bINR\b"),
}
_DOLLAR_SIGN = re.compile(r"\\\$")
_CENTS = re.compile(r"\bcents?\b|¢")
_ANY = re.compile(r"\\\$|[€£￡¥￥₹¢]|USD|EUR|GBP|INR|Rs|dollar|euro|yen|rupee|cent|\A\$[0-9]")


def contradict(gold: str, answer: str) -> bool:
    """Whether two answers, as written, name different money."""
    if not (_ANY.search(gold) and _ANY.search(answer)):
        return False
    gold, answer = _escaped(gold), _escaped(answer)
    ours, theirs = _currencies(gold), _currencies(answer)
    if ours and theirs:
        return ours.isdisjoint(theirs)
    return any(
        _DOLLAR_SIGN.search(one) and _CENTS.search(other) and not _CENTS.search(one)
        for one, other in ((gold, answer), (answer, gold))
    )


def _escaped(text: str) -> str:
    """A text in which the dollar sign of a lone amount is told from one that delimits."""
    return "\\" + text if text.startswith("$") and text.count("$") == 1 else text


def _currencies(text: str) -> set[str]:
    return {name for name, mark in _MARKS.items() if mark.search(text)}
