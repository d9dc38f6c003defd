from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from grpo_core.errors import ConfigError, PluginError
from grpo_core.registry import PluginInfo, Registration, Registry, cure_of

HERE = PluginInfo("here", "here 1.2", "1.2", "abc")
THERE = PluginInfo("there", "/tmp/there.py", "", "def")


class Inner(BaseModel, extra="forbid"):
    depth: int = 1


class WithOptions:
    """Has options.

    More of it.
    """

    version = "7"

    class Config(BaseModel, extra="forbid"):
        size: int = Field(1, ge=1)
        sort_keys: bool = False
        inner: Inner = Inner()
        several: tuple[Inner, ...] | None = None

    def __init__(self, config: Config) -> None:
        self.config = config


class WithoutOptions:
    pass


def registry(*items: tuple[str, Any]) -> Registry:
    made = Registry("verifier")
    for name, target in items:
        made.add(name, target, HERE)
    return made


def test_names_in_order() -> None:
    made = registry(("b", WithOptions), ("a", WithoutOptions))
    assert [item.name for item in made] == ["b", "a"]
    assert "a" in made and "c" not in made
    assert made["a"].load() is WithoutOptions


def test_name_twice_names_both_plugins() -> None:
    made = registry(("math", WithOptions))
    with pytest.raises(PluginError) as caught:
        made.add("math", WithoutOptions, THERE)
    assert str(caught.value) == (
        "verifier 'math' is registered twice: by plugin 'here' (here 1.2) and by plugin 'there' "
        "(/tmp/there.py). Rename one, or set GRPO_DISABLED_PLUGINS=there."
    )


def test_unknown_name() -> None:
    with pytest.raises(PluginError) as caught:
        registry(("math", WithOptions), ("exact", WithOptions))["mth"]
    assert str(caught.value) == (
        "Unknown verifier 'mth'. Did you mean 'math'? Available: exact, math. "
        "Is its plugin installed? See 'grpo plugins list'."
    )
    with pytest.raises(PluginError, match=r"Available: none\."):
        registry()["math"]


def test_create_with_checked_options() -> None:
    made = registry(("a", WithOptions), ("b", WithoutOptions))
    assert made["a"].create({"size": 3}).config.size == 3
    assert isinstance(made["b"].create({}), WithoutOptions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"szie": 1}, r"verifier 'a'.szie: unknown setting. Did you mean 'size'\? Available here:"),
        ({"size": 0}, "verifier 'a'.size: must be greater than or equal to 1, got 0"),
        ({"size": "x"}, "verifier 'a'.size: must be a valid integer.*got 'x'"),
        ({"inner": {"depht": 1}}, "'a'.inner.depht: unknown setting. Did you mean 'depth'"),
        ({"several": [{"depht": 1}]}, r"several\.0\.depht: unknown .* Did you mean 'depth'"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry(("a", WithOptions))["a"].create(options)


def test_all_wrong_options_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        registry(("a", WithOptions))["a"].create({"szie": 1, "size": 0})
    assert len(str(caught.value).splitlines()) == 2


def test_options_where_there_are_none() -> None:
    with pytest.raises(ConfigError, match=r"verifier 'b'.size: unknown setting. Available.*: none"):
        registry(("b", WithoutOptions))["b"].create({"size": 1})


def test_a_failing_constructor_is_attributed() -> None:
    class Failing:
        def __init__(self) -> None:
            raise LookupError("no weights")

    with pytest.raises(PluginError) as caught:
        registry(("a", Failing))["a"].create({})
    assert "verifier 'a' of plugin 'here' (here 1.2) cannot be created" in str(caught.value)
    assert "LookupError: no weights" in str(caught.value)


def test_version_and_summary() -> None:
    assert registry(("a", WithOptions))["a"].version == "7"
    assert registry(("a", WithoutOptions))["a"].version == "1.2"  # its distribution's
    assert Registration("verifier", "a", WithoutOptions, THERE).version == "0"
    assert registry(("a", WithOptions))["a"].summary == "Has options."
    assert registry(("a", WithoutOptions))["a"].summary == ""


def test_text_target_is_imported_on_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lazy_target.py").write_text("class Late:\n    version = '9'\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = registry(("late", "lazy_target:Late"))
    assert "lazy_target" not in sys.modules
    assert made["late"].version == "9"
    assert made["late"].load() is sys.modules.pop("lazy_target").Late


@pytest.mark.parametrize(
    ("module", "target", "cause"),
    [
        ("", "no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "broken_target:X", "AttributeError: .*no attribute 'X'"),
        ("import no_such_dependency", "broken_target:X", "No module named 'no_such_dependency'"),
        ("1 / 0", "broken_target:X", "ZeroDivisionError: division by zero"),
        ("def", "broken_target:X", "SyntaxError"),
        ("x = 1", "broken_target", "AttributeError"),
    ],
)
def test_text_target_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, target: str, cause: str
) -> None:
    (tmp_path / "broken_target.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_target", raising=False)
    with pytest.raises(PluginError, match=cause) as caught:
        registry(("bad", target))["bad"].load()
    assert "verifier 'bad' of plugin 'here' (here 1.2)" in str(caught.value)
    assert "GRPO_DISABLED_PLUGINS=here" in str(caught.value)
    monkeypatch.delitem(sys.modules, "broken_target", raising=False)


def test_a_full_disk_is_not_the_plugins_fault() -> None:
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    ):
        assert "Free space on the disk" in cure_of(error)
    for error in (ValueError("usable"), FileNotFoundError(errno.ENOENT, "No such file")):
        assert cure_of(error) == "Repair the plugin or its options."
