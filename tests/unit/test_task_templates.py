from __future__ import annotations

import pytest

from grpo_core.errors import ConfigError
from grpo_tasks.templates import check_template, placeholders, render


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{a}", "1"),
        ("{a}{b}{a}", "121"),
        ("{{a}}", "{a}"),
        ("{{{a}}}", "{1}"),
        ("\\boxed{}", "\\boxed{}"),
        ("{\\boxed{}}", "{\\boxed{}}"),
        ("\\boxed{{{a}}}", "\\boxed{1}"),
        ("no braces", "no braces"),
        ("{ lone } brace {", None),
        ("", ""),
    ],
)
def test_render(template: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="twice"):
            check_template(template, ("a", "b"))
        return
    check_template(template, ("a", "b"))
    assert render(template, {"a": "1", "b": "2"}) == expected


def test_values_are_never_read_as_templates() -> None:
    assert render("{a} {b}", {"a": "{b}", "b": "{{}} {a}"}) == "{b} {{}} {a}"


@pytest.mark.parametrize("template", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>99}", "{0}"])
def test_nothing_but_names_is_reached(template: str) -> None:
    with pytest.raises(ConfigError, match="Unknown placeholder"):
        check_template(template, ("a",))


def test_placeholders_once_and_in_order() -> None:
    assert placeholders("{b} {a} {b} {{c}} {}") == ["b", "a"]
