"""Plants faults in the mathematics, one at a time, and shows that the named test catches each.

    python tests/planted_faults.py            all of them, about two minutes on two cores
    python tests/planted_faults.py gspo kl    those whose file or test contains one of the words

A fault is an exact piece of a source file and what replaces it, in a temporary copy of grpo_core;
the repository is not touched. The last line is `caught N of N`; the exit code is 1 if one survives,
if its text no longer stands exactly once in its file, or if a test fails without any fault.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# Set before torch is imported below, for processes that share two cores.
os.environ |= {"OMP_NUM_THREADS": "1", "HYPOTHESIS_PROFILE": "faults"}


class Fault(NamedTuple):
    """A piece of source text, what replaces it, and the test that must fail then."""

    file: str  # below grpo_core
    old: str
    new: str
    test: str  # below tests


DEFAULT = "property/test_advantage.py::"
OTHERS = "property/test_advantages.py::"
FAMILY = "property/test_loss_family.py::"
ORACLE = OTHERS + "test_equals_the_formula_in_plain_python"
STEP = "integration/test_grpo_options.py::"
GRADIENT = FAMILY + "test_loss_gradient_and_counts_equal_plain_python"

FAULTS = (
    # ---- advantages
    Fault(
        "advantage.py",
        "ddof: int = 0,",
        "ddof: int = 1,",
        DEFAULT + "test_worked_examples_of_the_source_by_its_formula",
    ),
    Fault(
        "advantage.py",
        "groups.centred / groups.deviation(ddof)",
        "groups.centred / (groups.deviation(ddof) + 1e-4)",
        DEFAULT + "test_scaled_advantages_are_bounded_and_have_deviation_one",
    ),
    Fault(
        "advantage.py",
        "groups.finish(groups.centred * groups.magnitude)",
        "groups.finish(groups.centred)",
        DEFAULT + "test_equals_the_formula_in_plain_python",
    ),
    Fault(
        "advantages/groups.py",
        "(self.num_valid - ddof).clamp(min=0)",
        "(self.num_valid + 0 * ddof).clamp(min=0)",
        DEFAULT + "test_equals_the_formula_in_plain_python",
    ),
    Fault(
        "advantages/groups.py",
        "self.unit.sum(-1, keepdim=True) / self.num_valid",
        "self.unit.mean(-1, keepdim=True)",
        DEFAULT + "test_invalid_completions_are_as_if_never_sampled",
    ),
    Fault(
        "advantages/groups.py",
        "CONSTANT_TOLERANCE_EPS = 4",
        "CONSTANT_TOLERANCE_EPS = 0",
        DEFAULT + "test_a_residue_of_rounding_is_no_signal",
    ),
    Fault(
        "advantages/groups.py",
        "keep = self.valid & self.has_signal",
        "keep = self.valid",
        DEFAULT + "test_a_constant_group_is_exactly_zero_at_any_magnitude",
    ),
    Fault(
        "advantages/groups.py",
        "kept = torch.where(mask, given.double(), 0.0)",
        "kept = given.double()",
        DEFAULT + "test_invalid_completions_are_as_if_never_sampled",
    ),
    Fault(
        "advantages/groups.py",
        "kept = torch.where(mask, given.double(), 0.0)",
        "kept = torch.where(mask, given.float(), 0.0)",
        DEFAULT + "test_equals_the_formula_in_plain_python",
    ),
    Fault(
        "advantages/leave_one_out.py",
        "others = groups.num_valid - 1",
        "others = groups.num_valid",
        ORACLE + "[leave_one_out_advantages]",
    ),
    Fault(
        "advantages/batch.py",
        "groups.centred * batch.share / batch.deviation(ddof=0)",
        "groups.centred * batch.share / batch.deviation(ddof=1)",
        ORACLE + "[batch_advantages]",
    ),
    Fault(
        "advantages/batch.py",
        "groups.centred * batch.share / batch.deviation(ddof=0)",
        "groups.centred / batch.deviation(ddof=0)",
        OTHERS + "test_a_close_group_stays_quiet_beside_the_batch",
    ),
    Fault(
        "advantages/batch.py",
        "centred.square().sum() / groups.valid.sum()",
        "centred.square().mean()",
        ORACLE + "[reinforce_pp_baseline_advantages]",
    ),
    Fault(
        "advantages/batch.py",
        "keep = groups.valid & batch.has_signal",
        "keep = groups.valid & groups.has_signal",
        ORACLE + "[reinforce_pp_advantages]",
    ),
    Fault(
        "advantages/robust.py",
        "MAD_TO_SIGMA = 1.4826",
        "MAD_TO_SIGMA = 1.0",
        ORACLE + "[robust_advantages]",
    ),
    Fault(
        "advantages/robust.py",
        "spread > groups.tolerance",
        "spread > 0",
        OTHERS + "test_a_residue_of_rounding_is_no_scale_for_robust_advantages",
    ),
    Fault(
        "advantages/robust.py",
        "bound = (groups.num_valid - 1)",
        "bound = (groups.num_valid + 1)",
        OTHERS + "test_robust_advantages_are_bounded",
    ),
    Fault(
        "advantages/pass_at_k.py",
        "comb(j - 2, k - 2) / comb(n - 1, k - 1)",
        "comb(j - 1, k - 2) / comb(n - 1, k - 1)",
        OTHERS + "test_pass_at_k_equals_listing_every_subset",
    ),
    Fault(
        "advantages/pass_at_k.py",
        "worst_of_best = ordered[k - 1]",
        "worst_of_best = ordered[0]",
        OTHERS + "test_pass_at_k_is_the_closed_form_of_the_paper",
    ),
    Fault(
        "advantages/pass_at_k.py",
        "advantages[order] = ",
        "advantages[:] = ",
        OTHERS + "test_follows_permutations_of_completions_and_of_prompts[pass_at_2]",
    ),
    Fault("advantages/trl.py", "EPSILON = 1e-4", "EPSILON = 1e-6", ORACLE + "[trl_advantages]"),
    Fault(
        "advantages/trl.py",
        "groups.deviation(ddof=1) + epsilon",
        "groups.deviation(ddof=0) + epsilon",
        ORACLE + "[trl_advantages]",
    ),
    Fault(
        "advantages/kl_penalty.py",
        "- beta * kl.detach().double()",
        "+ beta * kl.detach().double()",
        OTHERS + "test_the_exercise_of_the_source",
    ),
    # ---- losses
    Fault(
        "losses/parts.py",
        "ratio.clamp(1 - epsilon_low, 1 + epsilon_high)",
        "ratio.clamp(1 - epsilon_high, 1 + epsilon_low)",
        GRADIENT + "[grpo_loss]",
    ),
    Fault(
        "losses/parts.py",
        "return torch.minimum(ratio * advantage",
        "return torch.maximum(ratio * advantage",
        FAMILY + "test_dead_zones",
    ),
    Fault(
        "losses/parts.py",
        "per_token = -surrogate",
        "per_token = surrogate",
        FAMILY + "test_at_ratio_one_the_gradient_is_reinforce[grpo_loss]",
    ),
    Fault(
        "losses/parts.py",
        "per_token = per_token + beta * kl",
        "per_token = per_token - beta * kl",
        FAMILY + "test_the_kl_is_added_to_loss_and_gradient[grpo_loss]",
    ),
    Fault(
        "losses/parts.py",
        "logprobs - zero_masked(old_logprobs.detach(), mask)",
        "zero_masked(old_logprobs.detach(), mask) - logprobs",
        GRADIENT + "[grpo_loss]",
    ),
    Fault(
        "losses/parts.py",
        "logprobs - zero_masked(old_logprobs.detach(), mask)",
        "logprobs - old_logprobs.detach()",
        FAMILY + "test_masked_junk_and_padding_change_nothing[grpo_loss]",
    ),
    Fault(
        "losses/parts.py",
        "zero_masked(weights.detach().to(logprobs.dtype), mask)",
        "weights.detach().to(logprobs.dtype)",
        FAMILY + "test_masked_junk_and_padding_change_nothing[grpo_loss]",
    ),
    Fault(
        "losses/parts.py",
        "logprobs = zero_masked(logprobs, mask)",
        "logprobs = logprobs + 0",
        FAMILY + "test_a_batch_without_tokens_has_loss_and_gradient_zero[grpo_loss]",
    ),
    Fault(
        "losses/parts.py",
        "zero_masked(ref_logprobs.detach(), mask)",
        "zero_masked(ref_logprobs, mask)",
        FAMILY + "test_only_logprobs_receives_a_gradient[grpo_loss]",
    ),
    Fault(
        "losses/grpo.py",
        "(ratio > 1 + epsilon_high) & (terms.advantage > 0)",
        "(ratio > 1 + epsilon_high) & (terms.advantage < 0)",
        FAMILY + "test_dead_zones",
    ),
    Fault(
        "losses/gspo.py",
        "masked_mean(terms.log_ratio, terms.mask, dim=-1)",
        "terms.log_ratio.mean(-1)",
        GRADIENT + "[gspo_loss]",
    ),
    Fault(
        "losses/cispo.py",
        "terms.log_ratio.detach().exp()",
        "terms.log_ratio.exp()",
        FAMILY + "test_at_ratio_one_the_gradient_is_reinforce[cispo_loss]",
    ),
    Fault(
        "losses/dual_clip.py",
        "torch.where(terms.advantage < 0, bounded, surrogate)",
        "bounded",
        GRADIENT + "[dual_clip_loss]",
    ),
    Fault(
        "losses/dual_clip.py",
        "torch.maximum(surrogate, ratio_cap * terms.advantage)",
        "torch.maximum(surrogate, -ratio_cap + 0 * terms.advantage)",
        GRADIENT + "[dual_clip_loss]",
    ),
    # ---- masks and denominators
    Fault(
        "masking.py",
        "denominator = max(num_tokens, 1)",
        "denominator = max(int(mask.sum()), 1)",
        FAMILY + "test_micro_batches_sum_to_the_whole_batch[grpo_loss]",
    ),
    Fault(
        "masking.py",
        "denominator = num_completions * lengths.clamp(min=1)",
        "denominator = len(mask) * lengths.clamp(min=1)",
        FAMILY + "test_micro_batches_sum_to_the_whole_batch[grpo_loss]",
    ),
    Fault(
        "masking.py",
        "denominator = num_completions * lengths.clamp(min=1)",
        "denominator = num_completions * mask.shape[1]",
        "property/test_masking.py::test_aggregate_equals_its_definition",
    ),
    Fault(
        "masking.py",
        "num_completions * _positive(max_new_tokens)",
        "max(int((lengths > 0).sum()), 1) * _positive(max_new_tokens)",
        "property/test_masking.py::test_aggregate_equals_its_definition",
    ),
    Fault(
        "masking.py",
        "torch.where(as_mask(mask), values, 0)",
        "values * as_mask(mask)",
        "property/test_masking.py::test_masked_junk_changes_neither_value_nor_gradient",
    ),
    Fault(
        "masking.py",
        "as_mask(mask).sum(dim).clamp(min=1)",
        "as_mask(mask).sum().clamp(min=1)",
        "property/test_masking.py::test_masked_sum_and_mean_see_only_what_the_mask_holds",
    ),
    # ---- KL
    Fault(
        "kl.py",
        "torch.expm1(d) - d",
        "torch.exp(d) - 1 - d",
        "property/test_kl.py::test_k3_keeps_its_digits_in_float32",
    ),
    Fault(
        "kl.py",
        "return -_ref_minus_policy",
        "return _ref_minus_policy",
        "property/test_kl.py::test_signs_and_scale",
    ),
    Fault("kl.py", ".square() / 2", ".square()", "property/test_kl.py::test_signs_and_scale"),
    Fault(
        "kl.py",
        "return ref_logprobs - logprobs",
        "return logprobs - ref_logprobs",
        "property/test_kl.py::test_k1_and_k3_have_the_kl_as_their_expectation",
    ),
    # ---- log-probabilities
    Fault(
        "logprobs.py",
        "logits.to(_precise(logits.dtype)) / temperature",
        "logits.to(_precise(logits.dtype)) * temperature",
        "property/test_logprobs.py::test_equals_plain_python",
    ),
    Fault(
        "logprobs.py",
        "logits.to(_precise(logits.dtype)) / temperature",
        "logits / temperature",
        "property/test_logprobs.py::test_half_precision_logits_are_scored_in_float32",
    ),
    Fault(
        "logprobs.py",
        "mul_(-share)",
        "mul_(share)",
        "property/test_logprobs.py::test_chunked_equals_plain_in_value_and_gradients",
    ),
    Fault(
        "logprobs.py",
        "share = grad[rows, None] / ctx.temperature",
        "share = grad[rows, None]",
        "property/test_logprobs.py::test_chunked_equals_plain_in_value_and_gradients",
    ),
    # ---- packing: which position predicts which token
    Fault(
        "training/packing.py",
        "sources.append(at * length + len(prompt) - 1)",
        "sources.append(at * length + start - 1)",
        "property/test_packing.py::test_packed_equals_alone",
    ),
    Fault(
        "training/packing.py",
        "range(at * length + start, at * length + end - 1)",
        "range(at * length + start + 1, at * length + end)",
        "property/test_packing.py::test_packed_equals_alone",
    ),
    Fault(
        "training/packing.py",
        "torch.arange(len(prompt), len(prompt) + count)",
        "torch.arange(start, end)",
        "property/test_packing.py::test_packed_equals_alone",
    ),
    Fault(
        "training/packing.py",
        "((own | prompt) & causal)",
        "((own | own.new_ones(())) & causal)",
        "property/test_packing.py::test_packed_equals_alone",
    ),
    # ---- sampler against trainer
    Fault(
        "mismatch.py",
        "zero_masked(weights.clamp(max=cap), mask)",
        "zero_masked(weights.clamp(min=1 / cap), mask)",
        "property/test_mismatch.py::test_equals_plain_python",
    ),
    Fault(
        "mismatch.py",
        "mask & (weights >= 1 / cap) & (weights <= cap)",
        "mask & (weights <= cap)",
        "property/test_mismatch.py::test_equals_plain_python",
    ),
    Fault(
        "mismatch.py",
        "masked_mean(gap, mask, dim=-1)",
        "gap.sum(-1)",
        "property/test_mismatch.py::test_a_long_completion_is_judged_by_its_mean_not_its_sum",
    ),
    # ---- the optimiser step
    Fault(
        "training/update.py",
        "advantages = advantages.unsqueeze(1) * factor",
        "advantages = advantages.unsqueeze(1) / factor",
        STEP + "test_the_mismatch_weight_scales_the_loss",
    ),
    Fault(
        "training/update.py",
        "if not (masks and rollout.completion.is_truncated)",
        "if not (masks and rollout.completion.is_truncated and False)",
        STEP + "test_masked_truncated_completions_count_as_empty_ones",
    ),
    Fault(
        "training/update.py",
        'return settings.beta if settings.kl_in == "loss" else 0.0',
        "return settings.beta",
        STEP + "test_the_kl_is_subtracted_where_it_is_told_to",
    ),
    Fault(
        "training/kl_price.py",
        "per_token.double().sum(-1)",
        "per_token.double().mean(-1)",
        STEP + "test_the_kl_of_a_completion_is_the_sum_over_its_tokens",
    ),
    Fault(
        "training/kl_price.py",
        "kls[batch.places.cpu()]",
        "kls[batch.places.cpu().sort().values]",
        STEP + "test_the_kl_of_a_completion_is_the_sum_over_its_tokens",
    ),
    # ---- pass@k
    Fault(
        "pass_at_k.py",
        "(num - correct - j)",
        "(num - correct)",
        "property/test_pass_at_k.py::test_equals_brute_force_for_every_small_case",
    ),
)


def plant(fault: Fault, package: Path) -> str:
    """Replace the fault's text in a copy of the package; returns what is wrong, or ""."""
    path = package / fault.file
    text = path.read_text(encoding="utf-8")
    if (count := text.count(fault.old)) != 1:
        return f"its text stands {count} times in {fault.file}"
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return ""


def failed_tests(tests: list[str], fault: Fault | None) -> str:
    """Run tests against a copy of the package: "passed", "caught", or what went wrong.

    Called in a process of its own, which imports grpo_core from the copy.
    """
    import pytest

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        package = Path(folder) / "grpo_core"
        shutil.copytree(ROOT / "grpo_core", package, ignore=shutil.ignore_patterns("__pycache__"))
        if fault is not None and (problem := plant(fault, package)):
            return problem
        sys.path.insert(0, folder)
        sys.dont_write_bytecode = True
        output = io.StringIO()
        nodes = [f"tests/{test}" for test in tests]
        arguments = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider"]
        # Some of what is imported already brings a plugin for pytest along.
        arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = pytest.main([*arguments, *nodes])
        import grpo_core

        if Path(grpo_core.__file__).parent != package:
            return f"the tests imported {grpo_core.__file__}, not the copy"
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return "passed" if code == pytest.ExitCode.OK else "caught"
    return f"pytest ended with code {int(code)}: {output.getvalue()[-500:]}"


def try_fault(fault: Fault) -> tuple[str, float]:
    """What became of the fault, and the seconds it took."""
    started = time.perf_counter()
    verdict = failed_tests([fault.test], fault)
    return ("SURVIVED" if verdict == "passed" else verdict), time.perf_counter() - started


def try_without(file: str) -> tuple[str, str]:
    """The file's named tests must pass as long as nothing is planted."""
    tests = sorted({fault.test for fault in FAULTS if fault.test.startswith(f"{file}::")})
    return file, failed_tests(tests, None)


def main(words: list[str]) -> int:
    """Try the faults, print a line for each; the exit code."""
    sys.path.insert(0, str(ROOT / "tests"))
    import torch

    import tiny_model  # noqa: F401 - torch and transformers, once here and not in every process

    torch.set_num_threads(1)
    chosen = [
        fault
        for fault in FAULTS
        if not words or any(word in fault.file or word in fault.test for word in words)
    ]
    files = sorted({fault.test.split("::")[0] for fault in chosen})
    context = multiprocessing.get_context("fork")
    # A process for each task: a module that was imported stays as it was.
    with context.Pool(2, maxtasksperchild=1) as pool:
        sound = True
        for file, verdict in pool.imap(try_without, files, chunksize=1):
            if verdict != "passed":
                sound = False
                print(f"{file} without any fault: {verdict}", flush=True)
        caught = 0
        verdicts = pool.imap(try_fault, chosen, chunksize=1)
        for fault, (verdict, seconds) in zip(chosen, verdicts, strict=True):
            caught += verdict == "caught"
            print(
                f"{verdict:8} {seconds:5.1f}s  {fault.file}: {fault.old!r} -> {fault.new!r}  "
                f"[{fault.test}]",
                flush=True,
            )
    print(f"caught {caught} of {len(chosen)}")
    return 0 if sound and caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
