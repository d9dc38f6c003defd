"""The sampler that says what it is told."""

from __future__ import annotations

from grpo_core.protocols import SamplingParams
from grpo_core.sampling.scripted import ScriptedSampler
from grpo_core.types import Prompt
from tiny_model import tiny_tokenizer

PROMPT = Prompt("p", [{"role": "user", "content": "?"}], None)


def test_the_end_token_is_appended_and_long_texts_are_cut() -> None:
    sampler = ScriptedSampler(lambda prompt, index: "abc"[: index + 1], tiny_tokenizer())
    (group,) = sampler.sample([PROMPT], 3, SamplingParams(max_new_tokens=3))
    assert [completion.text for completion in group] == ["a", "ab", "abc"]
    assert [completion.finish_reason for completion in group] == ["eos", "eos", "length"]
    assert [completion.token_ids[-1] == 0 for completion in group] == [True, True, False]


def test_a_tokenizer_without_an_end_token() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    sampler = ScriptedSampler(lambda prompt, index: "ab", tokenizer)
    ((completion,),) = sampler.sample([PROMPT], 1, SamplingParams(max_new_tokens=8))
    assert len(completion.token_ids) == 2 and None not in completion.token_ids
