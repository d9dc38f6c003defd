"""Plants faults in the mathematics, one at a time, and shows that the named test catches each.

    python tests/planted_faults.py            all of them, a few minutes on two cores
    python tests/planted_faults.py gspo kl    those whose file or test contains one of the words

A fault is an exact piece of a source file and what replaces it, in a temporary copy of grpo_core;
the repository is not touched. The last line is `caught N of N`; the exit code is 1 if one survives,
if its text no longer stands exactly once in its file, or if a test fails without any fault.
"""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import entry_points
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
LAWS = "property/test_update_laws.py::"
PROCESSES = "integration/test_processes.py::"
SELECTION = "unit/test_selection.py::"
ORDER = "unit/test_order_and_schedule.py::"
ENTROPY = "property/test_entropy.py::"
TRUNCATION = "property/test_truncation.py::"
PROCESS = "property/test_process_advantages.py::"
ATTENTION = "property/test_packed_attention.py::"
KERNELS = "property/test_kernels.py::"
NATIVE = "property/test_kernels_native.py::"
TOKENS = "property/test_token_advantages.py::"
ENGINE = "integration/test_hf_sampler.py::"
BATCHES = "integration/test_hf_batches.py::"
MODELS = "integration/test_hf_models.py::"
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
    # ---- rewards of steps
    Fault(
        "advantages/process.py",
        "groups.centred / groups.deviation(ddof=0)",
        "groups.centred / groups.deviation(ddof=1)",
        PROCESS + "test_equals_the_formula_in_plain_python",
    ),
    Fault(
        "advantages/process.py",
        "steps.flip(-1).cumsum(-1).flip(-1)",
        "steps.cumsum(-1)",
        PROCESS + "test_equals_the_formula_in_plain_python",
    ),
    Fault(
        "advantages/process.py",
        "steps = torch.where(keep, scaled, 0.0)",
        "steps = torch.where(mask & has_rivals, groups.centred.reshape(given.shape), 0.0)",
        PROCESS + "test_unit_and_zero_of_rewards_cancel",
    ),
    Fault(
        "advantages/process.py",
        "keep = mask & has_rivals & groups.has_signal.unsqueeze(-1)",
        "keep = mask & has_rivals",
        PROCESS + "test_a_constant_group_is_exactly_zero",
    ),
    Fault(
        "advantages/process.py",
        "keep = mask & has_rivals & groups.has_signal.unsqueeze(-1)",
        "keep = mask & groups.has_signal.unsqueeze(-1)",
        PROCESS + "test_a_single_valid_completion_has_no_rivals",
    ),
    Fault(
        "advantages/process.py",
        "for at in range(start, last + 1):",
        "for at in range(start, last):",
        PROCESS + "test_a_token_has_the_steps_that_end_at_or_after_it",
    ),
    Fault(
        "step_advantages.py",
        "share * value + (1 - share) * of_wholes[p][g]",
        "value + (1 - share) * of_wholes[p][g]",
        PROCESS + "test_tokens_of_groups_equal_plain_loops",
    ),
    Fault(
        "step_advantages.py",
        "(weight * step.score for step in verdict.steps)",
        "(step.score for step in verdict.steps)",
        PROCESS + "test_tokens_of_groups_equal_plain_loops",
    ),
    Fault(
        "step_advantages.py",
        "found.sort(key=lambda pair: pair[0])",
        "found.sort(key=lambda pair: -pair[0])",
        PROCESS + "test_tokens_of_groups_equal_plain_loops",
    ),
    Fault(
        "step_advantages.py",
        "if name not in names)",
        "if name)",
        PROCESS + "test_tokens_of_groups_equal_plain_loops",
    ),
    Fault(
        "step_advantages.py",
        "bisect_left(completion.token_ends, end)",
        "bisect_left(completion.token_ends, end + 1)",
        PROCESS + "test_tokens_of_groups_equal_plain_loops",
    ),
    Fault(
        "step_advantages.py",
        "if end >= len(completion.text):",
        "if end > len(completion.text):",
        PROCESS + "test_the_end_of_the_sequence_belongs_to_the_last_step",
    ),
    Fault(
        "types.py",
        "self.advantage != 0 or any(self.token_advantages)",
        "self.advantage != 0",
        TOKENS + "test_advantages_that_cancel_in_the_mean_still_teach",
    ),
    Fault(
        "training/update.py",
        "rollout.token_advantages or rollout.advantage,",
        "rollout.advantage,",
        TOKENS + "test_an_update_is_the_plain_padded_one",
    ),
    Fault(
        "training/packing.py",
        "[advantage] * len(item.token_ids) if isinstance(advantage, int | float) else advantage",
        "[0.0] * len(item.token_ids) if isinstance(advantage, int | float) else advantage",
        TOKENS + "test_completions_with_and_without_share_a_batch",
    ),
    Fault(
        "sampling/offsets.py",
        "accumulate(len(pieces[token]) for token in token_ids)",
        "accumulate(len(pieces[token]) > 0 for token in token_ids)",
        "property/test_token_offsets.py::test_ends_are_where_the_first_tokens_decode_to",
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
        "logits.to(precise(logits.dtype)) / distribution.temperature",
        "logits.to(precise(logits.dtype)) * distribution.temperature",
        "property/test_logprobs.py::test_equals_plain_python",
    ),
    Fault(
        "logprobs.py",
        "logits.to(precise(logits.dtype)) / distribution.temperature",
        "logits / distribution.temperature",
        "property/test_logprobs.py::test_half_precision_logits_are_scored_in_float32",
    ),
    Fault(
        "chunked_scores.py",
        "mul_(-share)",
        "mul_(share)",
        "property/test_logprobs.py::test_chunked_equals_plain_in_value_and_gradients",
    ),
    Fault(
        "chunked_scores.py",
        "share = grad[rows, None] / ctx.temperature",
        "share = grad[rows, None]",
        "property/test_logprobs.py::test_chunked_equals_plain_in_value_and_gradients",
    ),
    # ---- entropy and truncation
    Fault(
        "chunked_scores.py",
        "log_sum - weighted / total",
        "log_sum + weighted / total",
        ENTROPY + "test_equals_torch_in_value_and_gradient",
    ),
    Fault(
        "chunked_scores.py",
        "kept * (weighted + total * kept",
        "kept * (weighted + total + kept",
        ENTROPY + "test_equals_torch_in_value_and_gradient",
    ),
    Fault(
        "chunked_scores.py",
        "total.mul_(kept).add_(z.exp_().sum(-1))",
        "total.add_(z.exp_().sum(-1))",
        "property/test_logprobs.py::test_chunked_equals_plain_in_value_and_gradients",
    ),
    Fault(
        "chunked_scores.py",
        "(token_ids >= self.columns.start)",
        "(token_ids > self.columns.start)",
        "property/test_logprobs.py::test_chunked_equals_plain_in_value_and_gradients",
    ),
    Fault(
        "chunked_scores.py",
        "log_sum - z.clamp_",
        "log_sum + z.clamp_",
        TRUNCATION + "test_values_and_gradients_are_those_of_the_naive_way",
    ),
    Fault(
        "chunked_scores.py",
        ".sum(-1).div_(total)",
        ".sum(-1)",
        TRUNCATION + "test_values_and_gradients_are_those_of_the_naive_way",
    ),
    Fault(
        "chunked_scores.py",
        "mul_(entropy_share)",
        "mul_(-entropy_share)",
        ENTROPY + "test_equals_torch_in_value_and_gradient",
    ),
    Fault(
        "chunked_scores.py",
        ".add_(entropy).mul_",
        ".mul_",
        ENTROPY + "test_equals_torch_in_value_and_gradient",
    ),
    Fault(
        "chunked_scores.py",
        "entropy_share = grad_entropy[rows, None] / ctx.temperature",
        "entropy_share = grad_entropy[rows, None]",
        ENTROPY + "test_equals_torch_in_value_and_gradient",
    ),
    Fault(
        "chunked_scores.py",
        "(grad != 0) | (grad_entropy != 0)",
        "grad != 0",
        ENTROPY + "test_rows_without_gradient_are_not_recomputed_and_cannot_spoil_the_rest",
    ),
    Fault(
        "chunked_scores.py",
        "log_sum - z.clamp_(min=NEVER).mul_",
        "log_sum - z.mul_",
        TRUNCATION + "test_banned_tokens_are_never_kept_and_spoil_nothing",
    ),
    Fault(
        "chunked_scores.py",
        "log_p.clamp_(min=NEVER).add_",
        "log_p.add_",
        TRUNCATION + "test_banned_tokens_are_never_kept_and_spoil_nothing",
    ),
    Fault(
        "logprobs.py",
        "total.log() - mean",
        "total.log() + mean",
        ENTROPY + "test_equals_torch_in_value_and_gradient",
    ),
    Fault(
        "training/policy.py",
        "settings = asdict(distribution)",
        'settings = {"temperature": distribution.temperature}',
        ENTROPY + "test_completions_of_a_model",
    ),
    Fault(
        "chunked_scores.py",
        "z.masked_fill_(is_dropped(z, found, tokens), -torch.inf)",
        "is_dropped(z, found, tokens)",
        TRUNCATION + "test_values_and_gradients_are_those_of_the_naive_way",
    ),
    Fault(
        "chunked_scores.py",
        "z.masked_fill_(dropped, -torch.inf)",
        "pass",
        TRUNCATION + "test_values_and_gradients_are_those_of_the_naive_way",
    ),
    Fault(
        "chunked_scores.py",
        "(highest + found).squeeze(-1)",
        "found.squeeze(-1)",
        TRUNCATION + "test_values_and_gradients_are_those_of_the_naive_way",
    ),
    Fault(
        "truncation.py",
        "likeliest[..., top_k - 1 : top_k]",
        "likeliest[..., top_k : top_k + 1]",
        TRUNCATION + "test_the_kept_set_is_that_of_plain_python_with_many_ties",
    ),
    Fault(
        "truncation.py",
        "masses.cumsum(-1) - masses < top_p * mass",
        "masses.cumsum(-1) < top_p * mass",
        TRUNCATION + "test_the_kept_set_is_that_of_plain_python_with_many_ties",
    ),
    Fault(
        "truncation.py",
        "masses.sum(-1, keepdim=True) if top_k else mass",
        "mass",
        TRUNCATION + "test_the_kept_set_is_that_of_plain_python_with_many_ties",
    ),
    Fault(
        "truncation.py",
        "(logits < border).scatter_(-1, token_ids, False)",
        "logits < border",
        TRUNCATION + "test_a_token_that_rounding_left_out_counts_as_kept",
    ),
    Fault(
        "truncation.py",
        "border = (lowest + following) / 2",
        "border = lowest",
        TRUNCATION + "test_logits_with_other_rounding_are_divided_in_the_same_way",
    ),
    Fault(
        "truncation.py",
        "num_kept = (likeliest >= lowest).sum(-1, keepdim=True)",
        "num_kept = last + 1",
        TRUNCATION + "test_logits_with_other_rounding_are_divided_in_the_same_way",
    ),
    Fault(
        "truncation.py",
        "if runs_on.any():",
        "if runs_on.any() and False:",
        TRUNCATION + "test_the_kept_set_is_that_of_plain_python_where_it_is_large",
    ),
    Fault(
        "truncation.py",
        " | ~is_whole",
        "",
        TRUNCATION + "test_the_nucleus_is_taken_of_what_top_k_leaves_even_where_its_ties_are_many",
    ),
    Fault(
        "sampling/distribution.py",
        "shifted < find_border(shifted, top_p, top_k)",
        "shifted <= find_border(shifted, 1.0, top_k)",
        TRUNCATION + "test_the_trainer_scores_what_the_sampler_drew_as_the_sampler_did",
    ),
    # ---- packing: which position predicts which token
    Fault(
        "training/packing.py",
        "sources.append(at * length + prompt_start + len(prompt) - 1)",
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
        "Segment(start, count, prompt_start, len(prompt))",
        "Segment(start, count)",
        "property/test_packing.py::test_packed_equals_alone",
    ),
    # ---- kernels
    Fault(
        "kernels/tiles.py",
        "self.key_order[:, None, None, :] <= self.query_order",
        "self.key_order[:, None, None, :] <= 1 + self.query_order",
        ATTENTION + "test_equals_plain_attention_in_value_and_gradients",
    ),
    Fault(
        "kernels/tiles.py",
        "torch.arange(segment.start, segment.start + item.end)",
        "torch.arange(segment.start, segment.start + item.end).flip(0)",
        ATTENTION + "test_equals_plain_attention_in_value_and_gradients",
    ),
    Fault(
        "kernels/packed_attention.py",
        "log_sums[-1] = torch.inf",
        "log_sums[-1] = 0",
        ATTENTION + "test_equals_plain_attention_in_value_and_gradients",
    ),
    Fault(
        "kernels/packed_attention.py",
        "mul_(grad_weights - shift)",
        "mul_(grad_weights)",
        ATTENTION + "test_equals_plain_attention_in_value_and_gradients",
    ),
    Fault(
        "kernels/packed_attention.py",
        "grad_key.mul_(ctx.scaling)",
        "grad_key",
        ATTENTION + "test_equals_plain_attention_in_value_and_gradients",
    ),
    Fault(
        "kernels/rms_norm.py",
        "addcmul_(normed, share, value=-1)",
        "addcmul_(normed, share, value=1)",
        KERNELS + "test_rms_norm",
    ),
    Fault(
        "kernels/swiglu.py",
        "grad_gate = grad * up",
        "grad_gate = grad * gate",
        KERNELS + "test_swiglu",
    ),
    Fault(
        "kernels/rotary.py",
        "turn(grad, cos, -sin)",
        "turn(grad, cos, sin)",
        KERNELS + "test_rotate",
    ),
    Fault(
        "kernels/native.c",
        "order[k] <= last ? narrow(weight * (",
        "order[k] < last ? narrow(weight * (",
        NATIVE + "test_attention",
    ),
    Fault(
        "kernels/native.c",
        "sums[j] += product",
        "sums[j] = product",
        NATIVE + "test_rms_norm",
    ),
    Fault(
        "kernels/native.c",
        "s * (1.0f + g * (1.0f - s))",
        "s * (1.0f + g)",
        NATIVE + "test_swiglu",
    ),
    Fault(
        "kernels/native.c",
        "t = sign * wide(s[j])",
        "t = wide(s[j])",
        NATIVE + "test_rotate",
    ),
    Fault(
        "kernels/native_build.py",
        "version.stdout, _processor())",
        "version.stdout)",
        NATIVE + "test_other_processors_and_flags_get_a_library_of_their_own",
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
        "found if iteration == 1 else known",
        "found",
        LAWS + "test_an_update_is_the_plain_padded_one",
    ),
    Fault(
        "training/update.py",
        "found if iteration == 1 else known",
        "known",
        STEP + "test_the_ratio_is_one_at_first_and_moves_in_later_iterations",
    ),
    Fault(
        "training/update.py",
        "learner.config.trainer.max_grad_norm / ",
        "1.0 / ",
        LAWS + "test_a_long_gradient_is_shortened_and_reported_in_full",
    ),
    Fault(
        "training/update.py",
        "for rollout in group.rollouts if rollout.is_valid]",
        "for rollout in group.rollouts]",
        LAWS + "test_an_update_is_the_plain_padded_one",
    ),
    Fault(
        "training/update.py",
        "for rollout in valid if not _is_masked(rollout, config)",
        "for rollout in valid",
        LAWS + "test_an_update_is_the_plain_padded_one",
    ),
    Fault(
        "training/update.py",
        "        and not _is_masked(rollout, config)\n",
        "\n",
        STEP + "test_masked_truncated_completions_count_as_empty_ones",
    ),
    Fault(
        "training/update.py",
        "always = kl_weight(config) > 0 or",
        "always =",
        LAWS + "test_kl_and_entropy_bonus_reach_completions_without_advantage",
    ),
    Fault(
        "training/update.py",
        "always = kl_weight(config) > 0 or config.grpo.entropy_bonus > 0",
        "always = kl_weight(config) > 0",
        LAWS + "test_kl_and_entropy_bonus_reach_completions_without_advantage",
    ),
    Fault(
        "training/objective.py",
        "advantages.unsqueeze(1)) * factor",
        "advantages.unsqueeze(1)) / factor",
        STEP + "test_the_mismatch_weight_scales_the_loss",
    ),
    Fault(
        "training/objective.py",
        "            old, batch.sampler_logprobs, mask, how,",
        "            current, batch.sampler_logprobs, mask, how,",
        LAWS + "test_an_update_is_the_plain_padded_one",
    ),
    Fault(
        "training/objective.py",
        "old = current if known.old is None else known.old",
        "old = current",
        STEP + "test_the_ratio_is_one_at_first_and_moves_in_later_iterations",
    ),
    Fault(
        "training/objective.py",
        "        weights,\n        completion_mask=mask,",
        "        mask / mask.sum(),\n        completion_mask=mask,",
        LAWS + "test_an_update_is_the_plain_padded_one",
    ),
    Fault(
        "training/objective.py",
        "num_completions=counts.completions,",
        "num_completions=len(mask),",
        LAWS + "test_an_update_is_the_plain_padded_one",
    ),
    Fault(
        "training/objective.py",
        "loss = loss - settings.entropy_bonus",
        "loss = loss + settings.entropy_bonus",
        STEP + "test_an_entropy_bonus_is_a_part_of_the_loss",
    ),
    Fault(
        "training/objective.py",
        "(entropy * weights).sum()",
        "masked_sum(entropy, mask) / counts.tokens",
        LAWS + "test_an_update_is_the_plain_padded_one",
    ),
    Fault(
        "training/objective.py",
        "masked_sum((old - batch.sampler_logprobs).abs(), mask)",
        "masked_sum(old - batch.sampler_logprobs, mask).abs()",
        LAWS + "test_the_gap_is_that_of_the_sampler_and_the_first_policy",
    ),
    Fault(
        "training/objective.py",
        "masked_sum((old - batch",
        "masked_sum((current - batch",
        LAWS + "test_the_gap_is_that_of_the_sampler_and_the_first_policy",
    ),
    Fault(
        "training/objective.py",
        'return config.grpo.beta if config.grpo.kl_in == "loss" else 0.0',
        "return config.grpo.beta",
        STEP + "test_the_kl_is_subtracted_where_it_is_told_to",
    ),
    Fault(
        "training/objective.py",
        "learner.reference is None or kl_weight(learner.config) == 0",
        "learner.reference is None",
        LAWS + "test_beta_zero_never_reads_the_reference",
    ),
    Fault(
        "training/kl_price.py",
        "per_token.double().sum(-1)",
        "per_token.double().mean(-1)",
        STEP + "test_the_kl_of_a_completion_is_the_sum_over_its_tokens",
    ),
    Fault(
        "training/kl_price.py",
        "batch.places",
        "batch.places.sort().values",
        STEP + "test_the_kl_of_a_completion_is_the_sum_over_its_tokens",
    ),
    # ---- the reference
    Fault(
        "training/reference.py",
        "policy[name], rate)",
        "policy[name], 1 - rate)",
        STEP + "test_a_reference_moves_by_its_rate",
    ),
    Fault(
        "training/reference.py",
        "policy[name], rate)",
        "policy[name], -rate)",
        STEP + "test_a_reference_moves_by_its_rate",
    ),
    # ---- which prompts a step trains on
    Fault(
        "training/curriculum.py",
        "return _FLOOR + 4 * p * (1 - p)",
        "return _FLOOR + p",
        SELECTION + "test_weights_follow_the_variance_of_the_pass_rate",
    ),
    Fault(
        "training/curriculum.py",
        "_FADING = 0.5",
        "_FADING = 1.0",
        SELECTION + "test_a_pass_rate_fades_when_the_policy_has_moved_on",
    ),
    Fault(
        "training/curriculum.py",
        "_FLOOR = 0.05",
        "_FLOOR = 0.0",
        "property/test_curriculum.py::test_weights_are_the_formula",
    ),
    Fault(
        "training/curriculum.py",
        "(correct + _STRENGTH * prior)",
        "(correct + _STRENGTH * 0.5)",
        "property/test_curriculum.py::test_weights_are_the_formula",
    ),
    Fault(
        "training/curriculum.py",
        "if verdict.status.is_candidates]",
        "]",
        SELECTION + "test_failed_verifiers_teach_nothing_about_difficulty",
    ),
    Fault(
        "training/curriculum.py",
        "generator.exponential(size=len(weights)) / weights",
        "generator.exponential(size=len(weights)) * weights",
        SELECTION + "test_middling_prompts_come_more_often",
    ),
    Fault(
        "training/curriculum.py",
        '"curriculum", self._draws',
        '"curriculum", 0',
        SELECTION + "test_middling_prompts_come_more_often",
    ),
    Fault(
        "training/dealing.py",
        "own = batches[rank::size]",
        "own = batches[rank + 1 :: size]",
        PROCESSES + "test_every_completion_is_computed_once_and_all_processes_make_as_many_passes",
    ),
    Fault(
        "training/dealing.py",
        "[MicroBatch.empty()] * (rounds - len(own))",
        "[MicroBatch.empty()] * 0",
        PROCESSES + "test_every_completion_is_computed_once_and_all_processes_make_as_many_passes",
    ),
    Fault(
        "training/selection.py",
        "is_trained=at in trained",
        "is_trained=True",
        SELECTION + "test_groups_without_signal_are_replaced_within_the_budget",
    ),
    Fault(
        "training/selection.py",
        "budget -= wanted",
        "budget -= 0",
        SELECTION + "test_groups_without_signal_are_replaced_within_the_budget",
    ),
    Fault(
        "training/selection.py",
        "key=lambda at: not signals[at]",
        "key=lambda at: signals[at]",
        SELECTION + "test_groups_without_signal_are_replaced_within_the_budget",
    ),
    Fault(
        "training/selection.py",
        "min(budget, total - sum(has_signal(groups, estimate, masks)))",
        "min(budget, total)",
        SELECTION + "test_groups_without_signal_are_replaced_within_the_budget",
    ),
    Fault(
        "training/selection.py",
        "return rollout.has_signal",
        "return rollout.advantage == 0",
        SELECTION + "test_groups_without_signal_are_replaced_within_the_budget",
    ),
    Fault(
        "training/prompt_order.py",
        "self._position, self._position + count",
        "self._position, self._position + count - 1",
        ORDER + "test_each_epoch_visits_every_prompt_once",
    ),
    Fault(
        "training/prompt_order.py",
        "_epoch_order(self._num_prompts, epoch, self._seed)",
        "_epoch_order(self._num_prompts, 0, self._seed)",
        ORDER + "test_epochs_and_seeds_have_different_orders",
    ),
    Fault(
        "training/prompt_order.py",
        'return {"position": self._position}',
        'return {"position": self._position + 1}',
        ORDER + "test_the_order_goes_on_from_its_state",
    ),
    Fault(
        "training/loop.py",
        "trained = [group for group in collection.groups if group.is_trained]",
        "trained = list(collection.groups)",
        STEP + "test_dynamic_sampling_and_the_curriculum_train",
    ),
    # ---- the embedded engine
    Fault(
        "sampling/hf/columns.py",
        "torch.arange(width, device=device) >= first[:, None]",
        "torch.arange(width, device=device) >= first[:, None] - 1",
        ENGINE + "test_a_completion_does_not_depend_on_its_batch",
    ),
    Fault(
        "sampling/hf/columns.py",
        "states[to, :, place] = states[origin, :, place]",
        "states[to, :, place] = states[to, :, place]",
        ENGINE + "test_a_completion_does_not_depend_on_its_batch",
    ),
    Fault(
        "sampling/hf/schedule.py",
        "[len(row.prompt_ids) + len(row.token_ids) - 1 for row in live]",
        "[len(row.prompt_ids) + len(row.token_ids) for row in live]",
        ENGINE + "test_logprobs_are_exact_under_the_sampling_distribution",
    ),
    Fault(
        "sampling/hf/schedule.py",
        "self._live = [live[at] for at in self._memory.leave(gone)]",
        "self._memory.leave(gone)\n"
        "            self._live = [row for row in live if row.finish_reason is None]",
        ENGINE + "test_a_completion_does_not_depend_on_its_batch",
    ),
    Fault(
        "sampling/hf/schedule.py",
        "zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)",
        "zip(rows, tokens.tolist(), logprobs.flip(0).tolist(), strict=True)",
        ENGINE + "test_logprobs_are_exact_under_the_sampling_distribution",
    ),
    Fault(
        "sampling/hf/schedule.py",
        "free = self._size - len(self._live)",
        "free = self._size",
        BATCHES + "test_no_row_is_computed_in_vain",
    ),
    Fault(
        "sampling/hf/schedule.py",
        "computed.only(numbers[ids])",
        "computed.only(0)",
        BATCHES + "test_neither_batch_nor_order_changes_a_completion",
    ),
    Fault(
        "sampling/hf/memory.py",
        "self.prompt_of += [slots[number] for number in index]",
        "self.prompt_of += [start for number in index]",
        BATCHES + "test_neither_batch_nor_order_changes_a_completion",
    ),
    Fault(
        "sampling/hf/attention.py",
        "torch.sigmoid(prompt_norm - own_norm)",
        "torch.sigmoid(own_norm - prompt_norm)",
        MODELS + "test_every_model_draws_what_it_draws_alone[llama-3]",
    ),
    Fault(
        "sampling/hf/stops.py",
        "text = self._decode(token_ids, self._start)",
        "text = self._decode(token_ids[-1:], 0)",
        "integration/test_hf_parts.py::test_a_stop_string_is_found_at_its_last_token",
    ),
    Fault(
        "sampling/hf/sampler.py",
        "@torch.inference_mode()\ndef open_passes(",
        "@__import__('functools').cache\n@torch.inference_mode()\ndef open_passes(",
        BATCHES + "test_weights_changed_in_place_are_seen",
    ),
    Fault(
        "sampling/distribution.py",
        "return tokens, torch.log(chosen) - torch.log(total).float()",
        "return tokens, logits.float().log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)",
        ENGINE + "test_logprobs_are_exact_under_the_sampling_distribution",
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


def failed_tests(source: Path, tests: list[str], fault: Fault | None) -> str:
    """Run tests against a copy of the package: "passed", "caught", or what went wrong.

    Called in a process of its own, which imports grpo_core from the copy.
    """
    import pytest

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        package = Path(folder) / "grpo_core"
        shutil.copytree(source, package)
        if fault is not None and (problem := plant(fault, package)):
            return problem
        sys.path.insert(0, folder)
        sys.dont_write_bytecode = True
        output = io.StringIO()
        nodes = [f"tests/{test}" for test in tests]
        arguments = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-n", "0"]
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


def try_fault(source: Path, fault: Fault) -> tuple[str, float]:
    """What became of the fault, and the seconds it took."""
    started = time.perf_counter()
    verdict = failed_tests(source, [fault.test], fault)
    return ("SURVIVED" if verdict == "passed" else verdict), time.perf_counter() - started


def try_without(source: Path, file: str) -> tuple[str, str]:
    """The file's named tests must pass as long as nothing is planted."""
    tests = sorted({fault.test for fault in FAULTS if fault.test.startswith(f"{file}::")})
    return file, failed_tests(source, tests, None)


def import_ahead() -> None:
    """Import what every process needs, once here, save for grpo_core itself."""
    sys.path.insert(0, str(ROOT / "tests"))
    for plugin in entry_points(group="pytest11"):
        plugin.load()
    import hypothesis.strategies  # noqa: F401
    import torch

    import grpo_core.training.run  # noqa: F401
    import tiny_model  # noqa: F401

    torch.set_num_threads(1)
    for name in [name for name in sys.modules if name.split(".")[0].startswith("grpo_")]:
        del sys.modules[name]
    gc.freeze()  # or every process goes through all of it, again and again


def main(words: list[str]) -> int:
    """Try the faults, print a line for each; the exit code."""
    import_ahead()
    chosen = [
        fault
        for fault in FAULTS
        if not words or any(word in fault.file or word in fault.test for word in words)
    ]
    with tempfile.TemporaryDirectory() as folder:
        # One snapshot for all: the repository may be edited meanwhile.
        source = Path(folder) / "grpo_core"
        shutil.copytree(ROOT / "grpo_core", source, ignore=shutil.ignore_patterns("__pycache__"))
        return try_all(source, chosen)


def try_all(source: Path, chosen: list[Fault]) -> int:
    """Try them against a copy of the package, two at a time; the exit code."""
    files = sorted({fault.test.split("::")[0] for fault in chosen})
    context = multiprocessing.get_context("fork")
    # A process for each task: a module that was imported stays as it was.
    with context.Pool(2, maxtasksperchild=1) as pool:
        sound = True
        for file, verdict in pool.imap(partial(try_without, source), files, chunksize=1):
            if verdict != "passed":
                sound = False
                print(f"{file} without any fault: {verdict}", flush=True)
        caught = 0
        verdicts = pool.imap(partial(try_fault, source), chosen, chunksize=1)
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
