"""Units and other words that follow a number: which are ignored, and which contradict each other.

A word after a number does not change the number: 18, `18 eggs` and `18 dollars` are equal. Two
units of measurement that this table knows are compared: `12 m^2` is not `12 cm^2`. Nothing is
converted: `1 m` is not `100 cm`, and 1 equals both.
"""

from __future__ import annotations

import re
from functools import lru_cache

_NAMES = {
    "m": "m meter meters metre metres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "gal": "gal gallon gallons",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "dollar": "dollar dollars usd",
    "cent": "cent cents",
    "degree": "° degree degrees deg",
    "radian": "rad radian radians",
    "unit": "unit units",
}
_KNOWN = {spelling: unit for unit, names in _NAMES.items() for spelling in names.split()}
_COMBINED = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "mps": "m/s"}
_POWER_WORDS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
# Words that make a phrase more than a unit: "3 more", "4 or so", "5 is wrong".
_NOT_UNITS = frozenset(
    ["or", "and", "not", "to", "than", "more", "less", "plus", "minus", "times", "is", "are", "but"]
)

_SUFFIX = re.compile(
    r"(?P<gap>\s*)(?:\\text\{(?P<text>[^{}0-9]*)\}|(?P<degree>°\s*[CF]?)|"
    r"(?P<plain>[A-Za-z][A-Za-z ./'-]*))"
    r"\s*(?:\^\{(?P<power>[23])\})?"
)
_TOKEN = re.compile(r"[a-z°]+|/|\^\{?[23]\}?")
MAX_UNIT_WORDS = 6


def is_unit_suffix(text: str) -> bool:
    """Whether all of `text`, found behind a number, is words or a unit that may be ignored."""
    match = _SUFFIX.fullmatch(text)
    if match is None:
        return False
    if match["degree"]:
        return True
    words = (match["text"] or match["plain"] or "").lower()
    parts = re.findall(r"[a-z]+", words)
    if len(parts) > MAX_UNIT_WORDS or not _NOT_UNITS.isdisjoint(parts):
        return False
    if match["plain"] is None:
        return True
    if unit_key(text) is not None:
        return len(parts[0]) > 1 or bool(match["gap"])  # "5m" and "5g" are products
    return bool(match["gap"]) and len(parts[0]) > 2  # "3 xy" is a product


@lru_cache(maxsize=1024)
def unit_key(text: str) -> str | None:
    """A spelling-free name of a unit of measurement, or None for words that are none we know."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).lower().replace("-", " ")
    power, divided = 1, False
    factors: list[tuple[str, int]] = []
    for token in _TOKEN.findall(text):
        if token in ("/", "per", "an", "a"):
            divided = divided or token in ("/", "per")
        elif token[0] == "^" or token in ("squared", "cubed"):
            if not factors:
                return None
            exponent = _POWER_WORDS.get(token) or int(token.strip("^{}"))
            name, sign = factors[-1]
            factors[-1] = (name, sign * exponent)
        elif token in _POWER_WORDS:
            power = _POWER_WORDS[token]
        elif token in _COMBINED:
            top, bottom = _COMBINED[token].split("/")
            factors += [(top, 1), (bottom, -1)]
        elif token in _KNOWN:
            factors.append((_KNOWN[token], -power if divided else power))
            power = 1
        else:
            return None
    return " ".join(f"{name}^{exponent}" for name, exponent in sorted(factors)) or None
