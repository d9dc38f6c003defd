"""Finding, refusing, and describing plugins, with real distributions on sys.path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_core import hookimpl
from grpo_core.errors import PluginError
from grpo_core.plugin_manager import (
    DISABLED_VARIABLE,
    Plugins,
    PluginSources,
    create_plugin_manager,
    load_plugins,
)
from grpo_core.registry import PluginInfo

VERIFIER_PLUGIN = """
from grpo_core import hookimpl, verifier

@verifier(version="4")
def yes(sample):
    return True

@hookimpl
def grpo_register_verifiers(register):
    register("{name}", yes)
"""


@pytest.fixture(autouse=True)
def forget_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(DISABLED_VARIABLE, raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("stranger", "grpo_file_plugin_")):
            del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path, as site-packages is."""
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(path)
    return path


def install(
    site: Path, distribution: str, entry_point: str, files: dict[str, str], version: str = "1.0"
) -> None:
    """What pip leaves behind: modules, and a dist-info folder with an entry point."""
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(f"[grpo_core]\n{entry_point}\n")


def file_plugin(tmp_path: Path, text: str, name: str = "mine.py") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def load_file(path: str) -> Plugins:
    return load_plugins(PluginSources((path,), use_entry_points=False))


def info_of(plugins: Plugins, name: str) -> PluginInfo:
    return next(info for info in plugins.infos if info.name == name)


# ---- the three refusals, and the switch ---------------------------------------------------------


def test_two_distributions_with_one_entry_point_name(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "first-dist", "shared = stranger_a", {"stranger_a.py": "raise SystemError"})
    install(site, "second-dist", "shared = stranger_b", {"stranger_b.py": "raise SystemError"})
    with pytest.raises(PluginError) as caught:
        create_plugin_manager()
    message = str(caught.value)
    assert "two installed distributions offer a plugin named 'shared'" in message
    assert "first-dist 1.0 ('stranger_a')" in message
    assert "second-dist 1.0 ('stranger_b')" in message
    assert "GRPO_DISABLED_PLUGINS=shared" in message

    monkeypatch.setenv(DISABLED_VARIABLE, "shared")
    assert not create_plugin_manager().has_plugin("shared")


def test_stranger_cannot_take_the_name_of_a_built_in_plugin(site: Path) -> None:
    for distribution in ("grpo-core-lookalike", "another-lookalike"):
        install(site, distribution, "grpo_verifiers = stranger_x", {"stranger_x.py": ""})
    with pytest.raises(PluginError, match="offer a plugin named 'grpo_verifiers'"):
        load_plugins()


def test_misspelt_hook(site: Path) -> None:
    text = (
        "import grpo_core\nfrom grpo_core import hookimpl\n"
        "def grpo_helper(): ...\n"
        "@hookimpl\ndef grpo_register_verifers(register): ..."
    )
    install(site, "some-dist", "speller = stranger_spelling", {"stranger_spelling.py": text})
    with pytest.raises(PluginError) as caught:
        create_plugin_manager()
    message = str(caught.value)
    assert message.startswith(
        "plugin 'speller' (some-dist 1.0): Unknown hook 'grpo_register_verifers'. "
        "Did you mean 'grpo_register_verifiers'? Available: grpo_add_cli, "
    )
    assert "grpo_helper" not in message and "Unknown hook 'grpo_core'" not in message


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: "),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
    ],
)
def test_failing_import(site: Path, monkeypatch: pytest.MonkeyPatch, text: str, cause: str) -> None:
    install(site, "some-dist", "broken = stranger_broken", {"stranger_broken.py": text}, "3.1")
    with pytest.raises(PluginError) as caught:
        create_plugin_manager()
    message = str(caught.value)
    assert "plugin 'broken' of some-dist 3.1 cannot be imported from 'stranger_broken'" in message
    assert cause in message
    assert "GRPO_DISABLED_PLUGINS=broken" in message

    monkeypatch.setenv(DISABLED_VARIABLE, " other , broken ")
    create_plugin_manager()


def test_entry_point_without_module(site: Path) -> None:
    install(site, "some-dist", "absent = stranger_absent.hooks", {})
    with pytest.raises(PluginError, match=r"'absent' of some-dist 1.0 cannot be imported"):
        create_plugin_manager()


def test_disabled_plugin_is_not_even_imported(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = VERIFIER_PLUGIN.format(name="yes")
    install(site, "some-dist", "quiet = stranger_quiet", {"stranger_quiet.py": text})
    monkeypatch.setenv(DISABLED_VARIABLE, "quiet")
    assert "yes" not in load_plugins().verifiers
    assert "stranger_quiet" not in sys.modules
    monkeypatch.delenv(DISABLED_VARIABLE)
    assert "yes" in load_plugins().verifiers
    assert "yes" not in load_plugins(PluginSources(use_entry_points=False)).verifiers


# ---- more refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"'mine' \(.*mine.py\) implements no hook. Define at least one of grpo_"),
        (
            "def grpo_step_finished(step, metrics): ...",
            "defines grpo_step_finished without the @hookimpl marker",
        ),
        (
            "from grpo_core import hookimpl\n"
            "@hookimpl\ndef grpo_run_finished(summary): ...\n"
            "def grpo_register_tasks(register): ...",
            "defines grpo_register_tasks without the @hookimpl marker",
        ),
        (
            "import grpo_core\n@grpo_core.hookimpl\ndef grpo_step_finished(step, metric): ...",
            r"(?s)'mine'.*grpo_step_finished\(step, metric\).*'metric'",
        ),
        (
            "from grpo_core import hookimpl\n@hookimpl\ndef grpo_register_tasks(register):\n 1 / 0",
            r"'mine' \(.*mine.py\) failed in grpo_register_tasks: ZeroDivisionError: division",
        ),
        ("raise ValueError('no')", r"mine.py cannot be imported: ValueError: no"),
        ("raise SystemExit", r"mine.py cannot be imported: SystemExit"),
    ],
)
def test_file_plugins_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = file_plugin(tmp_path, text)
    with pytest.raises(PluginError, match=message):
        load_file(path)


def test_failed_import_leaves_nothing_behind(tmp_path: Path) -> None:
    before = set(sys.modules)
    with pytest.raises(PluginError):
        load_file(file_plugin(tmp_path, "raise ValueError"))
    assert set(sys.modules) == before


def test_files_that_are_no_plugins(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"none.py does not exist"):
        load_file(str(tmp_path / "none.py"))
    with pytest.raises(PluginError, match=r"its name must end in .py"):
        load_file(file_plugin(tmp_path, "", "notes.txt"))
    path = file_plugin(tmp_path, VERIFIER_PLUGIN.format(name="yes"))
    with pytest.raises(PluginError, match=r"plugin 'mine' .* is loaded twice"):
        create_plugin_manager([path, path], entry_points=False)


def test_two_plugins_with_one_verifier_name(tmp_path: Path) -> None:
    first = file_plugin(tmp_path, VERIFIER_PLUGIN.format(name="same"), "first.py")
    second = file_plugin(tmp_path, VERIFIER_PLUGIN.format(name="same"), "second.py")
    with pytest.raises(PluginError) as caught:
        load_plugins(PluginSources((first, second), use_entry_points=False))
    message = str(caught.value)
    assert "verifier 'same' is registered twice" in message
    assert f"'first' ({first})" in message and f"'second' ({second})" in message


def test_misspelt_hook_of_an_object() -> None:
    class Observer:
        @hookimpl
        def grpo_step_finnished(self, step: int) -> None: ...

    with pytest.raises(PluginError, match="Did you mean 'grpo_step_finished'"):
        create_plugin_manager([Observer()], entry_points=False)


# ---- file plugins -------------------------------------------------------------------------------


def test_file_plugin(tmp_path: Path) -> None:
    path = file_plugin(tmp_path, VERIFIER_PLUGIN.format(name="yes"))
    plugins = load_file(path)
    assert plugins.verifiers["yes"].version == "4"
    assert plugins.verifiers["yes"].plugin == info_of(plugins, "mine")
    assert info_of(plugins, "mine").origin == path


@pytest.mark.parametrize("name", ["math.py", "json.py", "grpo_core.py", "with space.py"])
def test_file_plugin_shadows_nothing(tmp_path: Path, name: str) -> None:
    before = dict(sys.modules)
    plugins = load_file(file_plugin(tmp_path, VERIFIER_PLUGIN.format(name="yes"), name))
    assert "yes" in plugins.verifiers
    changed = {key for key, module in sys.modules.items() if before.get(key) is not module}
    assert all(key.startswith("grpo_file_plugin_") for key in changed)


def test_relative_path_and_same_stem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file_plugin(tmp_path, VERIFIER_PLUGIN.format(name="yes"))
    assert "yes" in load_file("mine.py").verifiers
    assert info_of(load_file("mine.py"), "mine").origin == str(tmp_path / "mine.py")


# ---- what the manifest records ------------------------------------------------------------------


def test_installed_plugin_is_described(site: Path) -> None:
    files = {
        "stranger_pkg/__init__.py": "",
        "stranger_pkg/deep/__init__.py": "",
        "stranger_pkg/deep/hooks.py": VERIFIER_PLUGIN.format(name="yes"),
        "stranger_pkg/helper.py": "VALUE = 1",
    }
    install(site, "some-dist", "described = stranger_pkg.deep.hooks", files, "2.5")
    info = info_of(load_plugins(), "described")
    assert (info.origin, info.version) == ("some-dist 2.5", "2.5")
    assert len(info.source_hash) == 64
    assert info_of(load_plugins(), "described") == info

    (site / "stranger_pkg" / "helper.py").write_text("VALUE = 2")
    assert info_of(load_plugins(), "described").source_hash != info.source_hash


def test_neighbours_of_a_single_module_do_not_count(site: Path) -> None:
    text = VERIFIER_PLUGIN.format(name="yes")
    install(site, "some-dist", "single = stranger_single", {"stranger_single.py": text})
    before = info_of(load_plugins(), "single").source_hash
    (site / "stranger_neighbour.py").write_text("VALUE = 1")
    assert info_of(load_plugins(), "single").source_hash == before
    (site / "stranger_single.py").write_text(text + "\n")
    assert info_of(load_plugins(), "single").source_hash != before


def test_entry_point_may_name_an_object(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "from grpo_core import hookimpl\n"
        "class Plugin:\n"
        "    @hookimpl\n"
        "    def grpo_register_shapers(self, register): register('object_shaper', object)\n"
        "plugin = Plugin()\n"
    )
    install(site, "some-dist", "instance = stranger_object:plugin", {"stranger_object.py": text})
    empty = site / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    plugins = load_plugins()
    info = plugins.shapers["object_shaper"].plugin
    assert (info.name, info.origin) == ("instance", "some-dist 1.0")
    (empty / "unrelated.py").write_text("")
    assert info_of(load_plugins(), "instance") == info


def test_file_plugin_hash_changes_with_the_file(tmp_path: Path) -> None:
    path = file_plugin(tmp_path, VERIFIER_PLUGIN.format(name="yes"))
    before = info_of(load_file(path), "mine")
    assert before.version == ""
    file_plugin(tmp_path, VERIFIER_PLUGIN.format(name="yes") + "\n# changed\n")
    assert info_of(load_file(path), "mine").source_hash != before.source_hash


def test_file_named_as_an_installed_plugin(site: Path, tmp_path: Path) -> None:
    text = VERIFIER_PLUGIN.format(name="yes")
    install(site, "some-dist", "mine = stranger_mine", {"stranger_mine.py": text})
    path = file_plugin(tmp_path, text)
    assert info_of(load_file(path), "mine").origin == path  # not that of some-dist


def test_core_is_a_plugin_like_others() -> None:
    plugins = load_plugins(PluginSources(use_entry_points=False))
    [core] = plugins.infos
    assert (core.name, core.origin) == ("grpo_core.builtin", "grpo-core itself")
    assert len(core.source_hash) == 64
    assert "grpo" in plugins.losses and "std" in plugins.advantages and "hf" in plugins.samplers
    assert [registry.kind for registry in plugins.registries] == [
        "verifier", "shaper", "task", "sampler", "advantage", "loss", "tracker",
    ]  # fmt: skip


def test_objects_can_be_plugins() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.steps: list[int] = []

        @hookimpl
        def grpo_step_finished(self, step: int) -> None:
            self.steps.append(step)

    recorder: Any = Recorder()
    plugins = load_plugins(PluginSources(use_entry_points=False), extra=[recorder])
    plugins.manager.hook.grpo_step_finished(step=3, metrics={})
    assert recorder.steps == [3]
    assert info_of(plugins, "Recorder").origin.startswith("object <")
