"""Units and other words that follow a number: which are ignored, and which contradict each other.

A word after a number does not change the number: 18, `18 eggs` and `18 dollars` are equal. Units of
measurement that this table knows are compared: `12 m^2` is not `12 cm^2` but `100 cm` is `1 m`. A
number with a unit equals the same number without one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

# dimension: {unit: (how many of the first unit, spellings)}
_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter meters metre metres", "1/100": "cm centimeter centimeters centimetre "
        "centimetres", "1/1000": "mm millimeter millimeters millimetre millimetres",
        "1000": "km kms kilometer kilometers kilometre kilometres", "127/5000": "in inch inches",
        "381/1250": "ft foot feet", "1143/1250": "yd yard yards", "201168/125": "mi mile miles",
    },
    "mass": {
        "1": "g gram grams", "1000": "kg kgs kilogram kilograms",
        "1/1000": "mg milligram milligrams",
        "45359237/100000": "lb lbs pound pounds", "45359237/1600000": "oz ounce ounces",
        "1000000": "ton tons tonne tonnes",
    },
    "volume": {
        "1": "l liter liters litre litres", "1/1000": "ml milliliter milliliters millilitre "
        "millilitres", "473176473/125000000": "gal gallon gallons",
    },
    "time": {
        "1": "s sec secs second seconds", "60": "min mins minute minutes", "3600": "h hr hrs hour "
        "hours", "86400": "day days", "604800": "week weeks",
    },
    "months": {"1": "month months", "12": "yr yrs year years"},
    "money": {"1": "dollar dollars usd", "1/100": "cent cents"},
    "angle": {"1": "° degree degrees deg"},
    "radian": {"1": "rad radian radians"},
    "celsius": {"1": "°c celsius"},
    "fahrenheit": {"1": "°f fahrenheit"},
    "count": {"1": "unit units"},
    "newton": {"1": "newton newtons"},
    "joule": {"1": "j joule joules"},
    "watt": {"1": "watt watts"},
}  # fmt: skip
_KNOWN = {
    spelling: (dimension, Fraction(factor))
    for dimension, units in _TABLE.items()
    for factor, spellings in units.items()
    for spelling in spellings.split()
}
_COMBINED = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mps": "m/s"}
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
# Words that make a phrase more than a unit: "3 more", "4 or so", "5 is wrong".
_NOT_UNIT_WORDS = (
    "or and not to than more less plus minus times is are but mod modulo if when for either "
    "thousand million billion trillion hundred dozen percent no choose over factorial "
    "plusminus approximately about squared cubed half halves third thirds"
)
_NOT_UNITS = frozenset(_NOT_UNIT_WORDS.split())
# Words that change the size or the sign of the number before them.
_RESIZING_WORDS = (
    "halves thirds quarters fourths fifths sixths sevenths eighths ninths tenths hundredth "
    "hundredths thousandth thousandths millionths lakh lakhs crore crores bn mn tn k "
    "thousand thousands million millions billion billions trillion trillions hundred hundreds "
    "dozen dozens score gross pair pairs permille factorial base"
)
_RESIZES = frozenset(_RESIZING_WORDS.split())
_SHIFTS = re.compile(
    r"\b(?:below zero|below|under par|short|owed|loss|lost money|in debt|in the red"
    r"|too (?:many|few|much|little|large|small)|basis points?|per mille|ish)\s*(?:of\b.*)?\Z"
)

_SUFFIX = re.compile(
    r"(?P<gap>\s*)(?:\\text\{(?P<text>[^{}0-9]*)\}|(?P<degree>°\s*[CF]?)|"
    r"(?P<plain>[A-Za-z][A-Za-z ./'-]*))"
    r"\s*(?:\^\{(?P<power>[23])\})?(?P<more>\s*(?:/|\\text\{[^{}0-9]*\})[^0-9]*)?"
)
_TOKEN = re.compile(r"°?[a-z]+|°|/|\^\{?-?[123]\}?")
_TRAILING_TEXT = re.compile(r"(?:\s*\\text\{[^{}0-9]*\}(?:\s*\^\{[23]\})?(?:\s*/(?=\s*\\text))?)+$")
_TRAILING_WORDS = re.compile(
    r"(?<=[\s})0-9])\s*([A-Za-z][A-Za-z]+(?: [A-Za-z]+){0,3})(?:\^\{[23]\})?$"
)
MAX_UNIT_WORDS = 6


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measurement.

    Attributes:
        dimension: what is measured, such as `length^2`.
        factor: its size, in the unit of that dimension that the table lists first.
    """

    dimension: str
    factor: Fraction


def is_unit_suffix(text: str) -> bool:
    """Whether all of `text`, found behind a number, is words or a unit that may be ignored."""
    match = _SUFFIX.fullmatch(text)
    if match is None or resizes(text):
        return False
    if match["degree"]:
        return not match["more"]
    if match["more"] and read_unit(text) is None:
        return False
    words = (match["text"] or match["plain"] or "").lower()
    parts = re.findall(r"[a-z]+", words)
    if len(parts) > MAX_UNIT_WORDS:
        return False
    if match["plain"] is None and not match["more"]:
        return _NOT_UNITS.isdisjoint(parts) or read_unit(text) is not None
    if read_unit(text) is not None:
        return bool(match["more"]) or len(parts[0]) > 1 or bool(match["gap"])  # "5m" is a product
    return bool(match["gap"]) and len(parts[0]) > 2 and _NOT_UNITS.isdisjoint(parts)


def split_unit(text: str) -> tuple[str, Unit | None]:
    r"""An expression and the unit behind it: `2\pi\text{ cm}`; words that are no unit vanish."""
    match = _TRAILING_TEXT.search(text)
    if match and match.start() and is_unit_suffix(match.group()):
        return text[: match.start()], read_unit(match.group())
    match = _TRAILING_WORDS.search(text)
    if match and match.start() and (unit := read_unit(match.group())):
        return text[: match.start()].rstrip(), unit
    return text, None


def resizes(words: str) -> bool:
    r"""Whether words behind a number make it another one: hundredths, lakh, `M`, below zero."""
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", words).replace("-", " ")
    found = re.findall(r"[A-Za-z]+", plain)
    if found[1:2] == ["of"] and found[0] in ("pair", "pairs"):
        return False  # pairs of shoes are what is counted
    if not found:
        return "%" in plain or "‰" in plain
    return (
        found[0] in ("M", "B", "T")
        or found[0].lower() in _RESIZES
        or _SHIFTS.search(plain.strip().lower()) is not None
    )


@lru_cache(maxsize=1024)
def read_unit(text: str) -> Unit | None:
    """The unit that a text names, or None for words that are none we know."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).lower().replace("-", " ")
    if re.search(r"[^a-z°/^{}123 .]", text):
        return None
    power, sign = 1, 1
    factors: list[tuple[str, Fraction, int]] = []
    for token in _TOKEN.findall(text):
        if token in ("/", "per"):
            sign = -1
        elif token[0] == "^" or token in ("squared", "cubed"):
            if not factors:
                return None
            exponent = _POWER_WORDS.get(token) or int(token.strip("^{}"))
            dimension, factor, old = factors[-1]
            factors[-1] = (dimension, factor, old * exponent)
        elif token in _POWER_WORDS:
            power = _POWER_WORDS[token]
        elif token in _COMBINED:
            top, bottom = _COMBINED[token].split("/")
            factors += [(*_KNOWN[top], 1), (*_KNOWN[bottom], -1)]
        elif token in _KNOWN:
            factors.append((*_KNOWN[token], sign * power))
            power = 1
        elif token not in ("a", "an"):
            return None
    return _combined(factors) if factors else None


def _combined(factors: list[tuple[str, Fraction, int]]) -> Unit:
    size = Fraction(1)
    for _, factor, exponent in factors:
        size *= factor**exponent
    return Unit(" ".join(sorted(f"{name}^{exponent}" for name, _, exponent in factors)), size)
