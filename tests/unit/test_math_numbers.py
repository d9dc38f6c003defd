"""Numbers: reading, units, percent signs and tolerance, all exact."""

from __future__ import annotations

from fractions import Fraction

import pytest

from grpo_verifiers.math.exact import Quantity, read_based, read_quantity, same_quantity
from grpo_verifiers.math.limits import AnswerTooLarge
from grpo_verifiers.math.normalise import canonical
from grpo_verifiers.math.units import is_unit_suffix, read_unit
from grpo_verifiers.math.words import clock, same_time


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18", Fraction(18)),
        ("-7", Fraction(-7)),
        ("−7", Fraction(-7)),
        ("+7", Fraction(7)),
        ("7.", Fraction(7)),
        (".5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("0.10", Fraction(1, 10)),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("10{,}000", Fraction(10000)),
        (r"10\,000", Fraction(10000)),
        (r"11,\! 111", Fraction(11111)),
        ("10 000", Fraction(10000)),
        ("3/4", Fraction(3, 4)),
        (r"\frac34", Fraction(3, 4)),
        (r"\dfrac{3}{4}", Fraction(3, 4)),
        (r"-\frac{-3}{4}", Fraction(3, 4)),
        ("¾", Fraction(3, 4)),
        ("1 3/4", Fraction(7, 4)),
        (r"-1\frac{3}{4}", Fraction(-7, 4)),
        ("3½", Fraction(7, 2)),
        (r"0.\overline{3}", Fraction(1, 3)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("6.02e23", Fraction(602 * 10**21)),
        ("1E-3", Fraction(1, 1000)),
        (r"1.2\times10^{-4}", Fraction(12, 100_000)),
        (r"3 \cdot 10^8", Fraction(300_000_000)),
        ("0.(3)", Fraction(1, 3)),
        ("0.333...", Fraction(1, 3)),
        (r"0.\dot{1}4285\dot{7}", Fraction(1, 7)),
        ("⅜", Fraction(3, 8)),
        ("2 ⅜", Fraction(19, 8)),
        ("12th", Fraction(12)),
        ("USD 5,000", Fraction(5000)),
        ("5 million", Fraction(5_000_000)),
        (r"1.8\text{ billion}", Fraction(1_800_000_000)),
        ("$12.50", Fraction(25, 2)),
        (r"\$12.50", Fraction(25, 2)),
        ("€5", Fraction(5)),
        ("４２", Fraction(42)),
        ("12345678901234567891", Fraction(12345678901234567891)),
        ("18 dollars", Fraction(18)),
        (r"5\text{ cm}", Fraction(5)),
        (r"12\text{ cm}^2", Fraction(12)),
        ("12 m²", Fraction(12)),
        ("5cm", Fraction(5)),
        (r"90^\circ", Fraction(90)),
    ],
)
def test_numbers(text: str, value: Fraction) -> None:
    quantity = read_quantity(canonical(text))
    assert quantity is not None
    assert quantity.value == value


NOT_NUMBERS = [
    "", "x", "2x", "5m", "1 2", "1,2", "3:4", "2^3", "5!", "2(3)", r"2\pi", "1/0", r"\frac{1}{0}",
    "3 or 4", "7 is wrong", "1011_2", "(7)", "--7", "1.2.3", "1/2/3", "7 8/", "2 3x", "e5",
    "0,111", "5$0",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_not_numbers(text: str) -> None:
    assert read_quantity(canonical(text)) is None


@pytest.mark.parametrize("text", ["9" * 401, "1e999999999", "1e-401", r"2\times10^{999999}"])
def test_numbers_past_the_limits(text: str) -> None:
    with pytest.raises(AnswerTooLarge):
        read_quantity(canonical(text))


def test_percent() -> None:
    assert read_quantity(canonical(r"50\%")) == Quantity(Fraction(50), percent=True)
    assert read_quantity(canonical("50 percent")) == Quantity(Fraction(50), percent=True)


@pytest.mark.parametrize(
    ("gold", "candidate", "either", "value", "unit"),
    [
        ("50%", "50", True, False, True),
        ("50%", "0.5", True, True, False),
        ("0.5", "50%", True, True, False),
        ("50", "50%", True, False, True),
        ("50%", "50%", True, True, True),
        ("0.09", "9", False, False, False),
        ("50%", "51%", False, False, False),
    ],
)
def test_percent_option(gold: str, candidate: str, either: bool, value: bool, unit: bool) -> None:
    first, second = read_quantity(gold), read_quantity(candidate)
    assert first is not None and second is not None
    none = Fraction(0)
    assert same_quantity(first, second, percent="either", tolerance=none) == either
    assert same_quantity(first, second, percent="value", tolerance=none) == value
    assert same_quantity(first, second, percent="unit", tolerance=none) == unit


def test_based_numbers() -> None:
    assert read_based(canonical("1011_2")) == read_based(canonical("01011_{2}"))
    assert read_based(canonical("1011_2")) != read_based(canonical("1011_3"))
    assert read_based(canonical(r"2A_{\text{16}}")) is not None
    assert read_based(canonical(r"(1011)_{\text{two}}")) == read_based("1011_{2}")
    assert read_based("1011") is None
    assert read_based("a_{1}") is None and read_based("12_{2}") is None  # a name; no binary digit


@pytest.mark.parametrize(
    ("gold", "candidate", "equal"),
    [
        ("1 m", "100 cm", True), ("1 m", "100 m", False), ("1 hour", "60 minutes", True),
        ("50 cents", "0.5 dollars", True), ("36 km/h", "10 m/s", True), ("1 ft", "12 inches", True),
        ("1 m^{2}", "10000 cm^{2}", True), ("5 cm", "5 s", False), ("5 cm", "5", True),
    ],
)  # fmt: skip
def test_units_are_converted(gold: str, candidate: str, equal: bool) -> None:
    first, second = read_quantity(gold), read_quantity(candidate)
    assert first is not None and second is not None
    assert same_quantity(first, second) == equal


def test_a_unit_may_be_required() -> None:
    gold, bare, unit = (read_quantity(text) for text in ("5 cm", "5", "50 mm"))
    assert gold is not None and bare is not None and unit is not None
    assert not same_quantity(gold, bare, require_units=True)
    assert same_quantity(gold, unit, require_units=True)
    assert same_quantity(bare, gold, require_units=True)


@pytest.mark.parametrize(
    ("gold", "candidate", "equal"),
    [
        ("3:30", "3:30 p.m.", True), ("3:30 p.m.", "3:30 PM", True), ("3:30 p.m.", "15:30", True),
        ("3:30 p.m.", "3:30 a.m.", False), ("12:05 a.m.", "12:05 p.m.", False),
        ("3:30", "3:31", False),
    ],
)  # fmt: skip
def test_times_of_day(gold: str, candidate: str, equal: bool) -> None:
    first, second = clock(gold), clock(candidate)
    assert first is not None and second is not None
    assert same_time(first, second) == equal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("m", "meters"),
        ("cm^{2}", "square centimeters"),
        ("cm^{2}", "centimetres squared"),
        (r"\text{m/s}", "meters per second"),
        ("mph", "miles per hour"),
        ("°", "degrees"),
    ],
)
def test_units_with_one_name(one: str, other: str) -> None:
    assert read_unit(one) == read_unit(other) is not None


def test_units_that_differ() -> None:
    keys = [read_unit(text) for text in ("m", "cm", "m^{2}", "m/s", "s", "kg", "dollars", "cents")]
    assert len(set(keys)) == len(keys)
    assert read_unit("apples") is None
    assert read_unit("") is None


def test_unit_suffixes() -> None:
    for text in (" apples", "cm", " m", r"\text{ square units}", r"\text{ cm}^{2}", " m/s", "°"):
        assert is_unit_suffix(text), text
    for text in ("x", "m", " x", " xy", " or so", r"\text{ or }8", " is wrong", " (8)", "+1"):
        assert not is_unit_suffix(text), text
