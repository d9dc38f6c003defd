"""What a verifier says of itself: attributes, options, and a constructor that is light."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from grpo_core.errors import PluginError
from grpo_core.registry import PluginInfo, Registration
from grpo_core.testing.bench import Bench, CheckFailed, CheckSkipped
from grpo_core.types import Json
from grpo_core.validation import build

HEAVY_MODULES = ("torch", "transformers", "vllm", "tensorflow", "jax", "sentence_transformers")
MAX_MEMORY_MB = 64.0  # of an instance that holds no model yet
MAX_SECONDS = 5.0


def check_constructor(bench: Bench) -> Mapping[str, Json]:
    """It runs in the trainer, too; heavy imports belong into preload(), models into a call."""
    if not bench.is_fresh:
        raise CheckSkipped("only a fresh process can tell, and none can find this verifier")
    birth = bench.birth
    heavy = sorted(birth.modules.intersection(HEAVY_MODULES))
    evidence = {"seconds": round(birth.seconds, 4), "memory_mb": round(birth.memory_mb, 2)}
    if heavy:
        raise CheckFailed(
            f"making an instance imports {', '.join(heavy)}. Import them in preload(), which runs "
            "once before workers are forked.",
            modules=heavy,
            **evidence,
        )
    if birth.memory_mb > MAX_MEMORY_MB:
        raise CheckFailed(
            f"making an instance takes {birth.memory_mb:.0f} MB, more than {MAX_MEMORY_MB:.0f}. "
            "Load models and tables at the first call.",
            **evidence,
        )
    if birth.seconds > MAX_SECONDS:
        raise CheckFailed(
            f"making an instance takes {birth.seconds:.1f} s, more than {MAX_SECONDS:.0f}. Leave "
            "work to preload() or to the first call.",
            **evidence,
        )
    return evidence


def check_declared(bench: Bench) -> Mapping[str, Json]:
    """The attributes that the pool reads."""
    from grpo_core.verification.cards import make_card

    instance = bench.instance
    registration = bench.subject.registration or Registration(
        "verifier", bench.subject.title, bench.subject.target, PluginInfo("local", "here", "", "")
    )
    try:
        card = make_card(instance, registration, None, 5.0, 2048)
    except PluginError as error:
        raise CheckFailed(str(error)) from error
    wrong = [
        f"{name} = {value!r:.80} must be {rule}"
        for name, value, is_right, rule in _attributes(instance)
        if not is_right
    ]
    if wrong:
        raise CheckFailed("; ".join(wrong))
    return {
        "version": card.version,
        "placement": card.placement,
        "deadline": card.deadline,
        "memory_mb": card.memory_mb,
        "batch_size": card.batch_size,
        "reads": list(card.reads),
        "candidate_bears_limits": card.candidate_bears_limits,
        "checks_references": card.checks_references,
    }


def _attributes(instance: Any) -> list[tuple[str, Any, bool, str]]:
    """(name, value, whether it is right, the rule) for what a card takes as it comes."""
    version = getattr(instance, "version", "0")
    bears = getattr(instance, "candidate_bears_limits", False)
    batch_size = getattr(instance, "batch_size", 1)
    share = getattr(instance, "max_gameability", 0.0)
    check = getattr(instance, "check_reference", None)
    config = getattr(instance, "Config", None)
    is_model = isinstance(config, type) and issubclass(config, BaseModel)
    return [
        ("version", version, isinstance(version, str) and version != "", "text"),
        ("candidate_bears_limits", bears, isinstance(bears, bool), "true or false"),
        ("batch_size", batch_size, isinstance(batch_size, int), "a whole number"),
        ("max_gameability", share, isinstance(share, int | float) and 0 <= share <= 1, "a share"),
        ("check_reference", check, check is None or callable(check), "a method"),
        ("Config", config, config is None or is_model, "a pydantic model"),
    ]


def check_config(bench: Bench) -> Mapping[str, Json]:
    """Options travel to workers as JSON, are kept with a run, and may be pickled by a user."""
    options = dict(bench.subject.options)
    try:
        if json.loads(json.dumps(options)) != options:
            raise CheckFailed(f"the options {options!r:.200} change when written as JSON")
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"the options {options!r:.200} are not plain JSON: {error}") from error
    model = getattr(bench.subject.definition, "Config", None)
    if model is None:
        return {"options": {}}
    if not isinstance(bench.subject.definition, type):
        raise CheckSkipped("an instance has its options already")
    config = build(model, options, bench.subject.title)
    try:
        written = config.model_dump_json()
        read = model.model_validate_json(written)
    except (ValueError, TypeError) as error:
        raise CheckFailed(f"its options cannot be written as JSON and read: {error}") from error
    if read != config:
        raise CheckFailed(f"its options {config!r:.200} come back from JSON as {read!r:.200}")
    if not bench.subject.is_everywhere:
        raise CheckSkipped("options survive JSON; a class inside a function cannot be pickled")
    try:
        copy = pickle.loads(pickle.dumps(config))  # noqa: S301 - made in the line itself
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise CheckFailed(f"its options cannot be pickled: {error}") from error
    if copy != config:
        raise CheckFailed(f"its options {config!r:.200} come back from pickle as {copy!r:.200}")
    return {"options": json.loads(written)}
