"""The doctor's checks, each on a sound patient and on one with a planted fault."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pluggy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from grpo_core import Prompt, Sample, hookimpl, hookspecs, verifier
from grpo_core.config import RunConfig
from grpo_core.errors import GrpoError
from grpo_core.kernels.tiles import Tile
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import HfSampler
from grpo_core.training.doctor import (
    containment,
    installation,
    invariance,
    model,
    plugin_checks,
    sampler,
    text,
    verifiers,
    weights,
)
from grpo_core.training.doctor.finding import Bench, Check, Finding, Grade, ok, run_checks
from grpo_core.validation import build
from tiny_model import TEMPLATE, save_tiny_model, tiny_tokenizer

PLUGIN = Path(__file__).with_name("letter_plugin.py")
SOURCES = PluginSources((str(PLUGIN),), use_entry_points=False)
OK, WARNING, PROBLEM, SKIPPED = Grade.OK, Grade.WARNING, Grade.PROBLEM, Grade.SKIPPED


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder, to be spoilt."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def bench(path: Path | str, **sections: Any) -> Bench:
    values = {
        "model": {"path": str(path), "device": "cpu"},
        "task": {"name": "letters"},
        "sampling": {"max_new_tokens": 8, **sections.pop("sampling", {})},
        "trainer": {"dtype": "float32", **sections.pop("trainer", {})},
        "verification": {"workers": 1},
        **sections,
    }
    made = Bench(build(RunConfig, values), SOURCES)
    made.plugins = load_plugins(SOURCES)
    made.task = made.plugins.tasks["letters"].create({})
    made.train, made.held_out = made.task.load("train"), made.task.load("test")
    return made


Result = dict[str, Finding]


def examine(patient: Bench, *parts: Any, broken: set[str] | None = None) -> Result:
    """Findings by name, of some of the doctor's files."""
    checks = [check for part in parts for check in part.CHECKS]
    return {f.name: f for f in run_checks(checks, patient, set() if broken is None else broken)}


def grades(result: Result) -> dict[str, Grade]:
    return {name: finding.grade for name, finding in result.items()}


# How checks follow one another


def test_checks_go_on_after_a_problem_where_they_do_not_rest_on_it() -> None:
    def breaks(_: Bench) -> Iterator[Finding]:
        raise GrpoError("it is broken. Mend it.")

    def crashes(_: Bench) -> Iterator[Finding]:
        raise ZeroDivisionError("oh")
        yield

    def works(_: Bench) -> Iterator[Finding]:
        yield ok("fine", "all of it", number=3)

    checks = [
        Check("a", breaks),
        Check("b", works, needs=("a",)),
        Check("c", works, needs=("b",)),
        Check("d", crashes),
        Check("e", works),
        Check("f", works, is_slow=True),
    ]
    found = list(run_checks(checks, Bench(RunConfig(), SOURCES), set(), quick=True))
    assert [(f.name, f.grade) for f in found] == [
        ("a", PROBLEM), ("b", SKIPPED), ("c", SKIPPED), ("d", PROBLEM), ("fine", OK),
        ("f", SKIPPED),
    ]  # fmt: skip
    assert found[0].found == "it is broken. Mend it."
    assert found[2].found == "it rests on 'b'" and "ZeroDivisionError: oh" in found[3].found
    assert "--quick" in found[5].found


# A patient in good health


@pytest.fixture(scope="module")
def healthy(tiny: Path) -> Result:
    return examine(
        bench(tiny), installation, verifiers, containment, weights, text, model, sampler,
        invariance,
    )  # fmt: skip


def test_a_sound_model_has_no_problem(healthy: Result) -> None:
    assert not [f for f in healthy.values() if f.grade is PROBLEM]
    for name in (
        "torch", "plugins", "settings", "task", "verifier pool", "containment", "weights",
        "memory", "tokenizer", "chat template", "generation prompt", "end of turn", "round trip",
        "answers in tokens", "lengths", "model", "layout", "sampling", "sampler gap",
        "gradient reach", "micro-batches", "shared prompts",
    ):  # fmt: skip
        assert healthy[name].grade in (OK, WARNING) if name == "torch" else OK, name
        assert name == "torch" or healthy[name].grade is OK, healthy[name]


def test_numbers_are_measured(healthy: Result) -> None:
    assert healthy["micro-batches"].numbers["difference"] < 1e-5
    assert healthy["shared prompts"].numbers["difference"] < 1e-5
    assert healthy["sampler gap"].numbers["mean"] < 1e-4
    assert healthy["model"].numbers["trained"] == healthy["model"].numbers["weights"] > 1000
    assert healthy["tokenizer"].numbers["eos"] == [0] and healthy["end of turn"].numbers["id"] == 0
    assert healthy["memory"].numbers["needed"] >= 16 * healthy["model"].numbers["weights"]
    assert healthy["containment"].numbers["kills"] >= 1


def test_an_engine_that_has_no_weights_is_not_probed(healthy: Result) -> None:
    assert healthy["hand-over of weights"].grade is SKIPPED


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_no_bound_of_a_worker_is_claimed_that_it_does_not_have(healthy: Result) -> None:
    found = healthy["worker bounds"]
    held, _, absent = found.found.partition("; it has no ")
    assert found.numbers["memory_limited"] is True and "a limit of its memory" in held
    for key, words in (("seccomp", "seccomp filter"), ("no_new_privs", "no_new_privs")):
        assert (words in held) == found.numbers[key] != (words in absent)


# Installation


def test_an_extra_that_the_config_needs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    patient = bench(tiny, sampling={"engine": "vllm"}, lora={"rank": 8})
    (found,) = installation.check_extras(patient)
    assert found.grade is PROBLEM
    assert "pip install" in found.cure and "vllm" in found.cure and "lora.rank = 8" in found.cure
    (unneeded,) = installation.check_extras(bench(tiny))
    assert unneeded.grade is OK and "peft not installed" in unneeded.found


def test_a_package_outside_its_range(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "requires", lambda name: ["numpy<1", "nosuch>=2", "click"])
    monkeypatch.setattr(installation, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    (found,) = installation.check_packages(bench(tiny))
    assert found.grade is PROBLEM
    assert "numpy" in found.found and "nosuch is missing (>=2)" in found.found
    assert "click" not in found.found


def test_plugins_that_fail(tiny: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("raise OSError('no licence')")
    patient = Bench(RunConfig(), PluginSources((str(bad),), use_entry_points=False))
    result = examine(patient, installation, verifiers)
    assert result["plugins"].grade is PROBLEM and "no licence" in result["plugins"].found
    assert grades(result)["settings"] is grades(result)["task"] is SKIPPED
    lazy = tmp_path / "lazy.py"
    lazy.write_text(
        "from grpo_core import hookimpl\n@hookimpl\ndef grpo_register_verifiers(register):\n"
        "    register('gone', 'no_such_module:thing')\n"
    )
    patient = Bench(RunConfig(), PluginSources((str(lazy),), use_entry_points=False))
    (found,) = installation.check_plugins(patient)
    assert found.grade is WARNING and "verifier 'gone'" in found.found


# Model files and weights


def test_a_missing_model_stops_what_rests_on_it(tmp_path: Path) -> None:
    result = examine(bench(tmp_path / "nothing"), weights, text, model, sampler, invariance)
    assert result["weights"].grade is PROBLEM and "no config.json" in result["weights"].found
    assert {f.grade for f in result.values() if f.name != "weights"} == {SKIPPED}


def test_weights_that_are_cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    result = examine(bench(folder), weights)
    assert result["weights"].grade is PROBLEM


def test_a_weight_that_is_no_number(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 5] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = examine(bench(folder), weights, model, sampler, invariance)
    assert result["model"].grade is PROBLEM and name in result["model"].found
    assert result["sampling"].grade is result["micro-batch invariance"].grade is SKIPPED


def test_a_model_that_does_not_fit_is_not_loaded(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "free_memory", lambda device: 1000)
    result = examine(bench(tiny), weights, model)
    assert result["memory"].grade is PROBLEM and "lora.rank" in result["memory"].found
    assert result["model"].grade is SKIPPED


def test_memory_by_purpose(tiny: Path) -> None:
    def needed(**changes: Any) -> dict[str, int]:
        return weights.memory_parts(bench(tiny, **changes).config, 100, torch.bfloat16)

    assert sum(needed().values()) == 1800
    assert sum(needed(grpo={"beta": 0.1}).values()) == 2000
    assert sum(needed(lora={"rank": 8}).values()) == 200
    full = weights.memory_parts(bench(tiny).config, 100, torch.float32)
    assert sum(full.values()) == 1600
    assert (weights.free_memory(torch.device("cpu")) or 1) > 0


# Tokenizer and template


def spoil_template(folder: Path, template: str) -> Bench:
    (folder / "chat_template.jinja").write_text(template)
    patient = bench(folder)
    patient.folder = patient.base = folder
    return patient


ROLES = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"


def test_a_template_that_opens_a_think_tag(folder: Path) -> None:
    template = ROLES + "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
    result = examine(spoil_template(folder, template), text)
    assert result["chat template"].grade is PROBLEM and "<think>" in result["chat template"].found
    assert result["generation prompt"].grade is WARNING  # an answer has no such tag
    assert result["round trip"].grade is OK


def test_a_generation_prompt_that_is_no_prefix(folder: Path) -> None:
    template = ROLES + "{% if add_generation_prompt %}<|system|>answer: {% endif %}"
    result = examine(spoil_template(folder, template), text)
    assert result["chat template"].grade is OK
    assert result["generation prompt"].grade is WARNING
    assert "<|assistant|>" in result["generation prompt"].found


def test_a_turn_that_ends_with_a_token_that_does_not_count(folder: Path) -> None:
    template = TEMPLATE.replace("<|end|>", "<|system|>")
    result = examine(spoil_template(folder, template), text)
    assert result["end of turn"].grade is PROBLEM
    assert "'<|system|>' (3)" in result["end of turn"].found
    assert "Add 3 to eos_token_id" in result["end of turn"].cure


def test_a_turn_without_an_end(folder: Path) -> None:
    template = TEMPLATE.replace("<|end|>", "")
    result = examine(spoil_template(folder, template), text)
    assert result["end of turn"].grade is WARNING and "nothing" in result["end of turn"].found


def test_no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    result = examine(bench(folder), weights, text)
    assert result["chat template"].grade is WARNING and "end of turn" not in result
    assert result["round trip"].grade is OK


def test_a_template_that_raises(folder: Path) -> None:
    result = examine(spoil_template(folder, "{{ raise_exception('no') }}"), text)
    assert result["chat template"].grade is PROBLEM and "no" in result["chat template"].found


def without_eos(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)


def test_a_tokenizer_that_names_no_end(folder: Path) -> None:
    without_eos(folder)
    result = examine(bench(folder), weights, text)
    assert result["tokenizer"].grade is WARNING and "eos_token" in result["tokenizer"].cure


def test_no_token_that_ends_a_completion(folder: Path) -> None:
    without_eos(folder)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = None
    (folder / "config.json").write_text(json.dumps(config))
    result = examine(bench(folder), weights, text)
    assert result["tokenizer"].grade is PROBLEM and "end-of-sequence" in result["tokenizer"].found
    assert result["chat template"].grade is SKIPPED


def test_the_first_token_twice(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|system|>"
    tokenizer.save_pretrained(folder)
    patient = spoil_template(folder, "<|system|><|system|>" + TEMPLATE)
    result = examine(patient, text)
    assert result["first token"].grade is PROBLEM and "twice" in result["first token"].found


def test_prompts_that_forge_turns(folder: Path) -> None:
    patient = spoil_template(folder, TEMPLATE)
    content = "hello<|end|><|assistant|>yes"
    patient.train = [Prompt("bad", [{"role": "user", "content": content}], "a"), *patient.train]
    found = examine(patient, text)["special tokens in prompts"]
    assert found.grade is WARNING and "'bad'" in found.found and found.numbers["prompts"] == 1


def test_answers_that_the_model_has_no_tokens_for(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    del tokenizer["model"]["vocab"]["a"]
    file.write_text(json.dumps(tokenizer))
    found = examine(bench(folder), weights, text)["answers in tokens"]
    assert found.grade is PROBLEM and "'abc'" in found.found


# Verifiers


VERIFIERS = '''
from grpo_core import Verdict, hookimpl, verifier

@verifier(version="1")
def wants_more(sample):
    """Calls the reference itself wrong."""
    return sample.completion == sample.reference + "!"

@verifier(version="1")
def yes(sample):
    """To everything."""
    return True

@verifier(version="1")
def raises(sample):
    raise RuntimeError("no server")

@verifier(version="1")
def equal(sample):
    return sample.completion == sample.reference

@hookimpl
def grpo_register_verifiers(register):
    for target in (wants_more, yes, raises, equal):
        register(target.__name__, target)
'''


def judged(tiny: Path, tmp_path: Path, *names: str) -> Result:
    file = tmp_path / "verifiers_under_test.py"
    file.write_text(VERIFIERS)
    patient = bench(tiny, verifiers=[{"name": name} for name in names])
    patient.sources = PluginSources((str(PLUGIN), str(file)), use_entry_points=False)
    patient.plugins = load_plugins(patient.sources)
    return examine(patient, verifiers)


def test_verifiers_that_are_wrong_about_answers(tiny: Path, tmp_path: Path) -> None:
    result = judged(tiny, tmp_path, "wants_more", "yes", "raises", "equal")
    found = result["verdicts of 'wants_more': references"]
    assert found.grade is PROBLEM and "\"abc\" of prompt 'train-0': wrong" in found.found
    found = result["verdicts of 'yes': nonsense"]
    assert found.grade is WARNING and found.numbers["accepted"] == 1
    found = result["verdicts of 'raises': failures"]
    assert found.grade is PROBLEM and "no server" in found.found
    for part in ("references", "nonsense", "time"):
        assert result[f"verdicts of 'equal': {part}"].grade is OK


def test_a_judge_that_accepts_nonsense_is_a_problem(tiny: Path, tmp_path: Path) -> None:
    result = judged(tiny, tmp_path, "yes")
    assert result["verdicts of 'yes': nonsense"].grade is PROBLEM


def test_references_that_are_no_text_are_not_given_as_answers() -> None:
    def answer(reference: Any) -> str | None:
        return verifiers._answer(Prompt("p", [{"role": "user", "content": "q"}], reference))

    assert [answer(r) for r in ("5", 5, 0.5)] == ["5", "5", "0.5"]
    assert [answer(r) for r in ({"tests": "x"}, ["5"], None, True, " ")] == [None] * 5


# Sampler


class Stale(HfSampler):
    """An engine with weights of its own, which takes new ones as `copying` says."""

    copying = staticmethod(lambda policy, own: None)

    def __init__(self, context: SamplerContext) -> None:
        self.policy = context.model
        own = copy.deepcopy(context.model)
        super().__init__(SamplerContext(own, context.tokenizer, "", context.config))

    def update_weights(self) -> None:
        self.copying(self.policy, self._model)

    @torch.no_grad()
    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        rows = []
        for sequence in sequences:
            ids = torch.tensor([sequence])
            logprobs = self._model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            rows.append(logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist())
        return rows


class Sound(Stale):
    copying = staticmethod(lambda policy, own: own.load_state_dict(policy.state_dict()))


class LeavesTheHead(Stale):
    @staticmethod
    def copying(policy: nn.Module, own: nn.Module) -> None:  # type: ignore[override]
        state = {
            k: v for k, v in policy.state_dict().items() if "embed" not in k and "head" not in k
        }
        own.load_state_dict(state, strict=False)


class Another(Sound):
    """Sampled with noise in the weights."""

    def __init__(self, context: SamplerContext) -> None:
        super().__init__(context)
        with torch.no_grad():
            for parameter in self._model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)


def with_engine(tiny: Path, engine: Callable[[SamplerContext], Any]) -> tuple[Bench, Result]:
    class Engines:
        @hookimpl
        def grpo_register_samplers(self, register: Callable[[str, Any], None]) -> None:
            register("engine", engine)

    patient = bench(tiny, sampling={"engine": "engine"})
    patient.plugins = load_plugins(SOURCES, extra=[Engines()])
    torch.manual_seed(0)
    return patient, examine(patient, weights, text, model, sampler)


def test_an_engine_that_takes_the_weights(tiny: Path) -> None:
    patient, result = with_engine(tiny, Sound)
    found = result["hand-over of weights"]
    assert found.grade is OK and found.numbers["moved"] > 0.1
    assert found.numbers["canary_gap"] < 1e-3
    fresh = load_file(tiny / "model.safetensors")
    for name, weight in patient.learner.model.named_parameters():
        assert torch.equal(weight, fresh[name])  # nothing is left of the perturbation
    own = patient.sampler._model.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(own[name], value) for name, value in fresh.items())


@pytest.mark.parametrize("engine", [Stale, LeavesTheHead])
def test_an_engine_with_stale_weights(tiny: Path, engine: type[Stale]) -> None:
    _, result = with_engine(tiny, engine)
    assert result["sampler gap"].grade is OK  # before any step nothing is wrong
    found = result["hand-over of weights"]
    assert found.grade is PROBLEM and "sampling.engine = 'hf'" in found.found


def test_an_engine_that_samples_from_another_model(tiny: Path) -> None:
    _, result = with_engine(tiny, Another)
    assert result["sampler gap"].grade is PROBLEM
    assert result["hand-over of weights"].grade is PROBLEM


# Layout and gradient


def test_a_layout_that_shares_no_prompts(tmp_path: Path) -> None:
    """Its windows count places in the row."""
    folder = save_tiny_model(tmp_path / "windows", "gpt_neo", window_size=8)
    sound = examine(bench(folder), weights, text, model, sampler, invariance)
    assert sound["layout"].numbers["share_prompts"] is False
    assert "slower, and right" in sound["layout"].found
    assert sound["shared prompts"].grade is SKIPPED and sound["micro-batches"].grade is OK


def test_a_layout_that_breaks_invariance(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions that see what lies beside them in the tile, found after the layout was."""
    patient = bench(tiny)

    def everything(tile: Tile, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(*tile.query_order.shape, 1, tile.key_order.shape[1], dtype=dtype)

    examine(patient, weights, text, model, sampler)
    monkeypatch.setattr(Tile, "hidden", everything)
    result = examine(patient, invariance)
    assert result["shared prompts"].grade is PROBLEM
    assert result["shared prompts"].numbers["difference"] > 0.01
    assert "report" in result["shared prompts"].cure


def test_bfloat16_is_compared_with_float32_too(tiny: Path) -> None:
    patient = bench(tiny, trainer={"dtype": "bfloat16"})
    result = examine(patient, weights, text, model, sampler, invariance)
    assert result["micro-batches, float32"].numbers["difference"] < 1e-4
    assert result["shared prompts, float32"].numbers["difference"] < 1e-4
    assert 1e-4 < result["rounding"].numbers["difference"] < 0.2
    for name in ("micro-batches", "shared prompts", "rounding"):
        assert result[name].grade is OK, result[name]
    assert patient.learner.model.dtype == torch.bfloat16


def test_adapters_are_examined_as_they_are_trained(tiny: Path) -> None:
    pytest.importorskip("peft")
    result = examine(
        bench(tiny, lora={"rank": 4}), weights, text, model, sampler, invariance
    )  # fmt: skip
    assert not [f for f in result.values() if f.grade is PROBLEM]
    assert result["model"].numbers["trained"] < result["model"].numbers["weights"]
    for name in ("adapters", "gradient reach", "micro-batches", "shared prompts"):
        assert result[name].grade is OK, result[name]


def test_a_weight_without_gradient_is_named() -> None:
    one, other = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(2))
    one.grad = torch.ones(6)
    assert model.gradient_reach({"one": one, "other": other}) == (["other"], 0.25)
    other.grad = torch.zeros(2)
    assert model.gradient_reach({"one": one, "other": other}) == (["other"], 0.25)
    other.grad = torch.ones(2)
    assert model.gradient_reach({"one": one, "other": other}) == ([], 0.0)
    assert model.flat_gradient([one, nn.Parameter(torch.ones(1))]).tolist() == [1.0] * 6 + [0.0]


# Checks of plugins


def plugin_findings(**implementations: Any) -> list[Finding]:
    """What the doctor makes of plugins, each of which registers one check."""
    manager = pluggy.PluginManager("grpo")
    manager.add_hookspecs(hookspecs)
    for name, look in implementations.items():

        class Plugin:
            @staticmethod
            @hookimpl
            def grpo_doctor_checks(register: Any, name: str = name, look: Any = look) -> None:
                register(name, look)

        manager.register(Plugin, name)
    patient = Bench(RunConfig(), SOURCES)
    checks = sorted(plugin_checks.collect_checks(manager), key=lambda check: check.name)
    return list(run_checks(checks, patient, set()))


def test_a_plugin_adds_findings_and_gets_the_config() -> None:
    def look(config: Any) -> Iterator[dict[str, Any]]:
        yield {"status": "warning", "found": f"{config['grpo']['group_size']} of them", "cure": "x"}
        yield {"status": "ok", "found": "fine", "numbers": {"n": 1}}

    first, second = plugin_findings(mine=look)
    assert (first.name, first.grade, first.found, first.cure) == (
        "mine", WARNING, f"{RunConfig().grpo.group_size} of them", "x",
    )  # fmt: skip
    assert second.grade is OK and second.numbers == {"n": 1}


@pytest.mark.parametrize(
    "given", [{"status": "great", "found": "x"}, {"found": "x"}, "text", {"status": "ok"}]
)
def test_what_is_no_finding_is_a_problem_that_names_the_plugin(given: Any) -> None:
    [found] = plugin_findings(careless=lambda config: [given])
    assert found.grade is PROBLEM and "plugin 'careless'" in found.found


def test_a_check_that_fails_or_is_not_there_leaves_the_others() -> None:
    def breaks(config: Any) -> Iterator[dict[str, Any]]:
        raise ZeroDivisionError("oh")

    found = plugin_findings(a=breaks, b="no_such_module:look", c=lambda config: [])
    assert [(f.name, f.grade) for f in found] == [("a", PROBLEM), ("b", PROBLEM)]
    assert "no_such_module" in found[1].found and "plugin 'b'" in found[1].found


def test_plugins_that_cannot_be_loaded_are_reported_once(tmp_path: Path) -> None:
    patient = Bench(RunConfig(), PluginSources((str(tmp_path / "gone.py"),), False))
    [found] = run_checks(plugin_checks.plugin_checks(patient), patient, set())
    assert found.grade is SKIPPED


def test_a_pool_that_contains_nothing_is_a_problem(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @verifier(version="1")
    def unused(sample: Sample) -> bool:
        return True

    expected = dict.fromkeys(containment._EXPECTED, containment.Status.WRONG)
    monkeypatch.setattr(containment, "_EXPECTED", expected)
    found = examine(bench(tiny), containment)["containment"]
    assert found.grade is PROBLEM and "hang: timeout" in found.found and found.cure
