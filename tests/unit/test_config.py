from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from grpo_core.config import RunConfig, load_config, resolved
from grpo_core.errors import ConfigError
from grpo_core.overrides import apply_override
from grpo_core.training.unused_settings import check_used
from grpo_core.validation import build

ROOT = Path(__file__).parents[2]
LISTS = "[[verifiers]]\nname = 'math'\n[[shapers]]\nname = 'overlong'\n"


def load(tmp_path: Path, text: str = "", *overrides: str) -> RunConfig:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_config(path, overrides)


def sections(model: type[BaseModel] = RunConfig, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every section with its path; items of lists have number 0."""
    yield path, model
    for name, field in model.model_fields.items():
        for part in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                item = "" if part is field.annotation else ".0"
                yield from sections(part, f"{path}.{name}{item}".lstrip("."))


def leaves() -> Iterator[tuple[str, Any]]:
    """Every field that is not a section itself, with its path."""
    paths = {path for path, _ in sections()}
    for path, model in sections():
        for name, field in model.model_fields.items():
            place = f"{path}.{name}".lstrip(".")
            if place not in paths and f"{place}.0" not in paths:
                yield place, field


# ---- size ---------------------------------------------------------------------------------------


def test_no_section_has_more_than_twelve_fields() -> None:
    for path, model in sections():
        assert len(model.model_fields) <= 12 or not path, path


def test_a_run_has_about_forty_fields() -> None:
    """Those that decide how a policy is trained. What is off by default, evaluation, and worker
    processes are apart."""
    names = [name for name, _ in leaves()]
    apart = ("evaluation", "verification", "lora", "reference", "selection")
    training = [name for name in names if name.split(".")[0] not in apart]
    assert len(training) <= 54, training
    assert len(names) <= 78, names


# ---- overrides ----------------------------------------------------------------------------------


def other_value(field: Any) -> Any:
    """A legal value that is not the default."""
    options = typing.get_args(field.annotation)
    default = field.get_default(call_default_factory=True)
    lower = [item.gt for item in field.metadata if hasattr(item, "gt")]
    if typing.get_origin(field.annotation) is typing.Literal:
        return next(option for option in options if option != default)
    if typing.get_origin(field.annotation) is dict:
        return {"depth": 3}
    if typing.get_origin(field.annotation) is tuple or default == "all-linear":
        return ["one", "two"]
    if any(option is float or typing.get_args(option)[:1] == (float,) for option in options):
        return 0.5
    match default:
        case bool():
            return not default
        case int():
            return default + 1
        case float():
            return (default + lower[0]) / 2 if lower else default / 2 or 0.5
        case _:
            return "other"


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {as_toml(item)}" for key, item in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(("path", "field"), [pytest.param(*leaf, id=leaf[0]) for leaf in leaves()])
def test_every_field_can_be_set_from_the_command_line(
    tmp_path: Path, path: str, field: Any
) -> None:
    value = other_value(field)
    found: Any = resolved(load(tmp_path, LISTS, f"{path}={as_toml(value)}"))
    for part in path.split("."):
        found = found[int(part) if part.isdigit() else part]
    assert found == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a.b=3", {"a": {"b": 3}}),
        ("a.b = 1e-5", {"a": {"b": 1e-5}}),
        ("a=true", {"a": True}),
        ("a=True", {"a": "True"}),
        ("a=some text", {"a": "some text"}),
        ("a='3'", {"a": "3"}),
        ('a="x=y"', {"a": "x=y"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": ""}),
        ("a=/data/run 1/x.jsonl", {"a": "/data/run 1/x.jsonl"}),
        ('a=["\\n\\n", "b"]', {"a": ["\n\n", "b"]}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a={b = {c = [1]}}", {"a": {"b": {"c": [1]}}}),
        ("a=[{b = 1}]", {"a": [{"b": 1}]}),
    ],
)
def test_values_are_toml_or_else_text(override: str, expected: dict[str, Any]) -> None:
    values: dict[str, Any] = {}
    apply_override(values, override)
    assert values == expected


def test_overrides_go_into_lists_and_win_in_order() -> None:
    values = {"verifiers": [{"name": "math"}, {"name": "exact"}], "seed": 1}
    for override in ("verifiers.1.weight=0.5", "verifiers.0={name = 'x'}", "seed=2", "seed=3"):
        apply_override(values, override)
    assert values == {"verifiers": [{"name": "x"}, {"name": "exact", "weight": 0.5}], "seed": 3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "needs KEY=VALUE, got 'seed'"),
        ("=3", "needs KEY=VALUE"),
        ("seed.a=3", "'seed' holds 1, not a section"),
        ("verifiers.1.weight=1", "'1' must be an item number below 1"),
        ("verifiers.x=1", "'x' must be an item number"),
        ("verifiers.-1.name=x", "'-1' must be an item number"),
        ("stop.0.a=1", "'0' holds 'text', not a section"),
    ],
)
def test_overrides_that_lead_nowhere(override: str, message: str) -> None:
    values = {"seed": 1, "verifiers": [{"name": "math"}], "stop": ["text"]}
    with pytest.raises(ConfigError, match=message):
        apply_override(values, override)


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", r"^sed: unknown setting. Did you mean 'seed'\? Available here: .*trainer"),
        ("[grpo]\ngroupsize = 4", r"grpo.groupsize: unknown .* Did you mean 'group_size'\?"),
        ("[trainer]\nxyz = 4", "trainer.xyz: unknown setting. Available here: adam_beta1"),
        ("[[verifiers]]\nname = 'math'\nwieght = 1", r"verifiers\.0\.wieght: .* mean 'weight'"),
        ("[[verifiers]]\nweight = 1", r"verifiers\.0\.name: required, but not set"),
        ("[trainer]\nsteps = 'many'", "trainer.steps: must be a valid integer.* got 'many'"),
        ("[trainer]\nsteps = 0", "trainer.steps: must be greater than 0, got 0"),
        ("[trainer]\nlearning_rate = nan", "trainer.learning_rate: must be"),
        ("[grpo]\ngroup_size = 0", "grpo.group_size: must be greater than 0, got 0"),
        ("[sampling]\ntop_p = 1.5", "sampling.top_p: must be less than or equal to 1, got 1.5"),
        ("[trainer]\ndtype = 'float16'", "trainer.dtype: must be 'auto', 'bfloat16' or 'float32'"),
        ("trainer = 3", "trainer: must be a section of settings, got 3"),
        ("[sampling]\nstop = 'END'", "sampling.stop: must be a list, got 'END'"),
        ("[trainer]\nmax_grad_norm = inf", "max_grad_norm: must be a finite number, got inf"),
        ("[grpo]\nentropy_bonus = true", "entropy_bonus: must be a number, got True"),
        ("[grpo]\nnum_iterations = true", "num_iterations: must be a number, got True"),
        ("[model]\ndtype = 'auto'", r"model.dtype: unknown .* Did you mean 'trainer.dtype'\?"),
        ("temperature = 1", "mean 'sampling.temperature' or 'evaluation.temperature'"),
        (
            "[lora]\ntarget_modules = 'q_proj'",
            r"^lora.target_modules: must be 'all-linear' or a list, got 'q_proj'\.$",
        ),
        ("[grpo]\nbeta = -1", "grpo.beta: must be greater than or equal to 0"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "sed = 1\n[trainer]\nsteps = 0", "grpo.beta=x")
    assert len(str(caught.value).splitlines()) == 3


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read config .*none.toml: No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"run.toml is not valid TOML: "):
        load(tmp_path, "a = = 1")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match=r"latin.toml is not UTF-8 text"):
        load_config(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("override", "message", "cure"),
    [
        ("grpo.kl_in=reward", r"grpo\.kl_in is set, but grpo\.beta is 0", "grpo.beta=0.1"),
        ("reference.sync_every=2", r"reference\.sync_every is set, but grpo", "grpo.beta=0.1"),
        ("lora.alpha=16", r"section \[lora\] is set, but lora\.rank is 0", "lora.rank=8"),
        (
            "selection.ahead=1",
            r"selection\.ahead is 1, but sampling\.mismatch is 'off'",
            "sampling.mismatch=token_truncate",
        ),
        (
            "selection.difficulty_key=level",
            r"difficulty_key is 'level', but selection\.curriculum is 'off'",
            "selection.curriculum=middling",
        ),
    ],
)
def test_settings_that_nothing_reads(
    tmp_path: Path, override: str, message: str, cure: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_used(load(tmp_path, "", override))
    check_used(load(tmp_path, "", override, cure))


# ---- the whole ----------------------------------------------------------------------------------


def test_config_is_frozen(tmp_path: Path) -> None:
    config = load(tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        config.trainer.steps = 3


def test_defaults_hold_and_survive_a_round_trip(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config == RunConfig()
    values = resolved(config)
    assert build(RunConfig, json.loads(json.dumps(values))) == config


CONFIGS = sorted((ROOT / "configs").rglob("*.toml"))


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in CONFIGS])
def test_shipped_configs_load(path: Path) -> None:
    load_config(path)
