"""A sampler that says what it is told: for rehearsals and tests, with no model behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from grpo_core.protocols import OnCompletion, SamplingParams
from grpo_core.sampling.base import encode_prompt
from grpo_core.types import Completion, Prompt


class ScriptedSampler:
    """Completions come from `script(prompt, index) -> text`; see `grpo_core.protocols.Sampler`.

    Args:
        script: the text of completion number `index` for a prompt.
        tokenizer: turns text into token ids; its end-of-sequence token, if any, is appended.

    A text with more tokens than max_new_tokens is cut off, with finish reason "length".
    """

    def __init__(self, script: Callable[[Prompt, int], str], tokenizer: object) -> None:
        self._script = script
        self._tokenizer = tokenizer

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, chat template applied."""
        return encode_prompt(self._tokenizer, prompt)  # type: ignore[arg-type]

    def update_weights(self) -> None:
        """Nothing to do: there are no weights."""

    def close(self) -> None:
        """Nothing to free."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> list[list[Completion]]:
        """The scripted completions; see `grpo_core.protocols.Sampler`."""
        groups = []
        for at, prompt in enumerate(prompts):
            group = [self._completion(prompt, index, params) for index in range(num_samples)]
            groups.append(group)
            if on_completion is not None:
                for completion in group:
                    on_completion(at, completion)
        return groups

    def _completion(self, prompt: Prompt, index: int, params: SamplingParams) -> Completion:
        text = self._script(prompt, index)
        tokenizer = self._tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
        eos = tokenizer.eos_token_id  # type: ignore[attr-defined]
        ids = list(ids) if eos is None else [*ids, eos]
        kept = ids[: params.max_new_tokens]
        if len(kept) < len(ids):
            text = tokenizer.decode(kept)  # type: ignore[attr-defined]
        reason = "length" if len(kept) < len(ids) else "eos"
        return Completion(tuple(kept), text, (0.0,) * len(kept), reason, index)  # type: ignore[arg-type]
