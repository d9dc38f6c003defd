r"""Numbers, read and compared exactly with integers and fractions; sympy is never needed.

Understood: 1,234.50 and 1 234, 3/4 and \frac{3}{4}, 1 3/4 and 1\frac{3}{4}, 0.\overline{3}, 6e23
and 6\times10^{23}, 5 million; with a sign, a percent sign, a unit. Reads what
`normalise.canonical` writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from grpo_verifiers.math.limits import MAX_DECIMAL_EXPONENT, MAX_DIGITS, AnswerTooLarge
from grpo_verifiers.math.units import Unit, is_unit_suffix, read_unit

Percent = Literal["either", "value", "unit"]

_DECIMAL = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_BODY = re.compile(
    rf"""
    (?P<sign>[+-]?)\s*
    (?:
        (?P<whole>[0-9]+)\s*(?:\\frac\{{(?P<mixed_top>[0-9]+)\}}\{{(?P<mixed_bottom>[0-9]+)\}}
                             |\s(?P<slash_top>[0-9]+)/(?P<slash_bottom>[0-9]+))
      | \\frac\{{\s*(?P<top>[+-]?{_DECIMAL})\s*\}}\{{\s*(?P<bottom>[+-]?{_DECIMAL})\s*\}}
      | (?P<left>{_DECIMAL})\s*/\s*(?P<right>{_DECIMAL})
      | (?P<before>[0-9]*)\.(?P<fixed>[0-9]*?)(?:\\overline\{{(?P<repeating>[0-9]+)\}}
            |\((?P<bracketed>[0-9]+)\)
            |(?P<dotted>[0-9]{{1,6}}?)(?P=dotted){{2,}}\s*(?:\.\.\.|\\ldots(?![a-zA-Z])))
      | (?P<mantissa>{_DECIMAL})\s*(?:[eE](?P<exponent>[+-]?[0-9]+)(?![0-9a-zA-Z])
                     |(?:\\times|\\cdot|x|\*)\s*10\s*\^\{{(?P<power>[+-]?[0-9]+)\}})
      | (?P<spaced>[0-9]{{1,3}}(?:\ [0-9]{{3}})+(?:\.[0-9]+)?)(?![0-9/])
      | (?P<decimal>{_DECIMAL})(?![0-9]|\s*[/^_!(\\]\s*(?!text))
    )
    """,
    re.VERBOSE,
)
_INTEGER = re.compile(rf"[+-]?[0-9]{{1,{MAX_DIGITS}}}")
_PERCENT = re.compile(
    r"\s*(?:%|(?:percent|percentage|pct)(?![a-z])|\\text\{\s*(?:%|percent|percentage)\s*\})"
)
_SCALE = re.compile(
    r"\s*(?:\\text\{)?\s*(thousand|million|billion|trillion)(?![a-z])\s*(?P<close>\})?"
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_BASED = re.compile(
    r"\(?([0-9A-Fa-f]+)\)?_\{(?:\\text\{)?\s*\(?\s*([0-9]{1,2}|[a-z]+)\s*\)?\s*\}?\}"
)
_BASE_WORDS = "two three four five six seven eight nine ten eleven twelve"
_BASE_NAMES = {word: base for base, word in enumerate(_BASE_WORDS.split(), start=2)} | {
    "sixteen": 16
}
_LONG_DIGITS = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with what is written behind it."""

    value: Fraction
    percent: bool = False
    unit: Unit | None = None  # None when there is none that we know
    places: int = 0  # decimal places, as written


@dataclass(frozen=True, slots=True)
class BasedNumber:
    """Digits with their base as a subscript."""

    digits: str
    base: int


@lru_cache(maxsize=2048)
def read_quantity(text: str) -> Quantity | None:
    """The number a canonical text is, or None if it is anything else.

    Raises:
        AnswerTooLarge: for a number with too many digits or too large an exponent.
    """
    if _INTEGER.fullmatch(text):
        return Quantity(Fraction(int(text)))
    if not text or _LONG_DIGITS.search(text):
        if text:
            raise AnswerTooLarge(f"a number has more than {MAX_DIGITS} digits")
        return None
    match = _BODY.match(text)
    if match is None:
        return None
    rest = text[match.end() :]
    value = _value(match)
    if value is None:
        return None
    if scale := _SCALE.match(rest):
        value *= _SCALES[scale.group(1)]
        rest = rest[scale.end() :] if scale["close"] or "{" not in scale.group() else "{"
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    if rest and not is_unit_suffix(rest):
        return None
    unit = read_unit(rest) if rest else None
    places = len((match["decimal"] or "").partition(".")[2])
    return Quantity(-value if match["sign"] == "-" else value, percent is not None, unit, places)


def _value(match: re.Match[str]) -> Fraction | None:
    """The unsigned number; None where it divides by zero."""
    if match["decimal"]:
        return _decimal(match["decimal"])
    if match["spaced"]:
        return _decimal(match["spaced"].replace(" ", ""))
    if match["whole"]:
        top, bottom = match["mixed_top"], match["mixed_bottom"]
        fraction = _ratio(top or match["slash_top"], bottom or match["slash_bottom"])
        return None if fraction is None else int(match["whole"]) + fraction
    if match["top"]:
        return _ratio(match["top"], match["bottom"])
    if match["left"]:
        return _ratio(match["left"], match["right"])
    if cycle := match["repeating"] or match["bracketed"] or match["dotted"]:
        return _repeating(match["before"], match["fixed"], cycle)
    exponent = int(match["exponent"] or match["power"])
    if abs(exponent) > MAX_DECIMAL_EXPONENT:
        raise AnswerTooLarge(f"a power of ten is larger than {MAX_DECIMAL_EXPONENT}")
    return _decimal(match["mantissa"]) * Fraction(10) ** exponent


def _decimal(text: str) -> Fraction:
    whole, _, places = text.replace(",", "").partition(".")
    return Fraction(int(whole + places or "0"), 10 ** len(places))


def _ratio(top: str, bottom: str) -> Fraction | None:
    divisor = _signed(bottom)
    return _signed(top) / divisor if divisor else None


def _signed(text: str) -> Fraction:
    value = _decimal(text.lstrip("+-"))
    return -value if text.startswith("-") else value


def _repeating(before: str, fixed: str, repeating: str) -> Fraction:
    scale = 10 ** len(fixed)
    head = Fraction(int((before or "0") + fixed), scale)
    return head + Fraction(int(repeating), (10 ** len(repeating) - 1) * scale)


def read_based(text: str) -> BasedNumber | None:
    """A number with its base as a subscript, such as `1011_{2}`; None if it is anything else."""
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    base = _BASE_NAMES.get(match[2]) or (int(match[2]) if match[2].isdigit() else 0)
    digits = match[1].upper()
    if digits.isalpha() or any(int(digit, 16) >= base for digit in digits):
        return None  # a_{1} is a name
    return BasedNumber(digits.lstrip("0") or "0", base)


def same_quantity(
    gold: Quantity,
    candidate: Quantity,
    *,
    percent: Percent = "either",
    tolerance: Fraction = Fraction(0),
    require_units: bool = False,
) -> bool:
    """Whether two numbers are equal under the options of the verifier.

    Args:
        gold: the reference.
        candidate: what was answered.
        percent: what a percent sign on one side only means; see `MathConfig`.
        tolerance: largest difference relative to `gold`; 0 compares exactly.
        require_units: whether the unit of `gold` has to be there.
    """
    if require_units and gold.unit and candidate.unit is None:
        return False
    value, other = gold.value, candidate.value
    if gold.unit and candidate.unit:
        if gold.unit.dimension != candidate.unit.dimension:
            return False
        value, other = value * gold.unit.factor, other * candidate.unit.factor
    if gold.percent == candidate.percent or percent == "unit":
        return close(value, other, tolerance)
    scaled = close(_times_percent(gold), _times_percent(candidate), tolerance)
    return scaled or (percent == "either" and close(value, other, tolerance))


def _times_percent(quantity: Quantity) -> Fraction:
    return quantity.value / 100 if quantity.percent else quantity.value


def close(gold: Fraction, candidate: Fraction, tolerance: Fraction) -> bool:
    """Whether two numbers differ by no more than `tolerance` times the first."""
    if gold == candidate:
        return True
    return tolerance != 0 and abs(gold - candidate) <= tolerance * abs(gold)
