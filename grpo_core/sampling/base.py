"""What every sampling engine needs: its context, prompt encoding, and seeds."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from grpo_core.errors import DataError, SamplingError
from grpo_core.types import FinishReason, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from grpo_core.config import SamplingConfig


@dataclass(frozen=True, slots=True)
class SamplerContext:
    """What an engine is built from.

    Attributes:
        model: the policy, in compute precision. An embedded engine samples from this very object;
            another engine copies its weights in `update_weights`.
        tokenizer: of the policy.
        model_path: the folder the policy was loaded from.
        config: the settings of section [sampling].
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    model_path: str
    config: SamplingConfig


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, up to where the model's own words begin.

    Models without a chat template get the messages' contents joined by blank lines.

    Raises:
        DataError: if the chat template refuses the messages, or nothing is left to condition on.
    """
    messages = [dict(message) for message in prompt.messages]
    if tokenizer.chat_template:
        encoded = _apply_template(tokenizer, messages, prompt.id)
    else:
        encoded = tokenizer("\n\n".join(message["content"] for message in messages))
    ids = list(encoded["input_ids"])
    if not tokenizer.chat_template and ids[-1:] == [tokenizer.eos_token_id]:
        ids.pop()  # some tokenizers close every text, after which a model starts another one
    if not ids:
        raise DataError(f"prompt '{prompt.id}' has no tokens; a prompt must not be empty.")
    return ids


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], prompt_id: str
) -> Any:
    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
    except Exception as error:  # a template is a program, and may raise anything
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise DataError(
            f"the model's chat template cannot render prompt '{prompt_id}' (roles: {roles}): "
            f"{type(error).__name__}: {error}. Some templates take no system message; set "
            "model.chat_template to one that fits."
        ) from error


def first_draws(prompts: Sequence[Prompt], num_samples: int) -> list[int]:
    """The number of the first completion of each prompt, as `uniforms` counts them.

    0, unless the prompt came before in the list, as it does in a step that spans two epochs: then
    the count goes on, or both would be given the same completions.
    """
    counts: Counter[str] = Counter()
    first = []
    for prompt in prompts:
        first.append(counts[prompt.id])
        counts[prompt.id] += num_samples
    return first


def uniforms(seed: int, prompt_id: str, index: int, count: int) -> np.ndarray:
    """The `count` numbers in [0, 1) that decide a completion's tokens, one a token.

    They depend on nothing but the arguments, so that a completion does not change with what else
    is in its batch, with the process that samples it, or with a resume.
    """
    generator = np.random.Generator(np.random.Philox(key=_draw_key(seed, prompt_id, index)))
    return generator.random(count)


def completion_seed(seed: int, prompt_id: str, index: int) -> int:
    """A seed in [0, 2**63) for an engine that gives every completion a generator of its own.

    It depends on the same things as `uniforms`, and for the same reasons.
    """
    return _draw_key(seed, prompt_id, index) >> 65


def _draw_key(seed: int, prompt_id: str, index: int) -> int:
    """128 bits that belong to one completion alone."""
    key = hashlib.blake2b(f"{seed}\x1f{index}\x1f{prompt_id}".encode(), digest_size=16).digest()
    return int.from_bytes(key, "little")


def derive_seed(seed: int, *parts: int | str) -> int:
    """A seed for one purpose ("step", 12) of a run with the given seed."""
    text = "\x1f".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little")


def cut_at_stop(text: str, stop: Sequence[str]) -> str | None:
    """`text` before the first stop string, or None if it holds none."""
    positions = [at for at in (text.find(string) for string in stop) if at >= 0]
    return text[: min(positions)] if positions else None


def completion_text(
    tokenizer: PreTrainedTokenizerBase,
    token_ids: Sequence[int],
    finish_reason: FinishReason,
    stop: Sequence[str],
) -> str:
    """What the verifier reads: without special tokens, end-of-sequence token, and stop string."""
    ids = token_ids[:-1] if finish_reason == "eos" else token_ids
    text = str(tokenizer.decode(list(ids), skip_special_tokens=True))
    cut = cut_at_stop(text, stop) if finish_reason == "stop" else None
    return text if cut is None else cut


def check_finite(logprob: float, position: int) -> None:
    """Refuse a log-probability that is none: broken weights must not pass for a wrong answer.

    Raises:
        SamplingError: if it is NaN or infinite.
    """
    if not math.isfinite(logprob):
        raise SamplingError(
            f"the model's logits are not finite at token {position + 1} of a completion: its "
            "weights hold NaN or infinity, or trainer.dtype is too narrow for it. Go back to an "
            "earlier checkpoint, or try trainer.dtype = 'float32'."
        )
