"""Prompts reach the model with the special tokens it was trained on: once, and no more."""

from __future__ import annotations

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from grpo_core.errors import DataError
from grpo_core.sampling.base import encode_prompt
from grpo_core.types import Prompt
from tiny_model import TEMPLATE, tiny_tokenizer

PROMPT = Prompt("p", [{"role": "user", "content": "ab"}], None)
START, END = "<|system|>", "<|end|>"


def tokenizer_that_adds(frame: str) -> PreTrainedTokenizerFast:
    """Puts tokens around every text, as many tokenizers do with their start token."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": START})
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (START, END)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=ids
    )
    return tokenizer


def test_a_template_with_a_start_token_gives_one() -> None:
    tokenizer = tokenizer_that_adds(f"{START} $A")
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE
    text = tokenizer.decode(encode_prompt(tokenizer, PROMPT))
    assert text == "<|system|><|user|>ab<|end|><|assistant|>"


def test_without_a_template_the_start_token_stays_and_the_end_token_goes() -> None:
    tokenizer = tokenizer_that_adds(f"{START} $A {END}")
    tokenizer.chat_template = None
    assert tokenizer.decode(tokenizer("ab")["input_ids"]) == "<|system|>ab<|end|>"
    assert tokenizer.decode(encode_prompt(tokenizer, PROMPT)) == "<|system|>ab"


def test_messages_without_a_template_are_joined_by_blank_lines() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert tokenizer.decode(encode_prompt(tokenizer, Prompt("p", messages, None))) == "a\n\nb"


def test_a_template_that_refuses_the_messages_is_explained() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(DataError, match=r"'p' \(roles: system, user\).*System role not supported"):
        encode_prompt(tokenizer, Prompt("p", messages, None))


@pytest.mark.parametrize("template", ["{% if", "{{ messages[9].content }}", "{{ 1 / 0 }}"])
def test_a_broken_template_is_explained(template: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(DataError, match="chat template cannot render prompt 'p'"):
        encode_prompt(tokenizer, PROMPT)


def test_an_empty_prompt_is_refused() -> None:
    tokenizer = tokenizer_that_adds(f"$A {END}")
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="'p' has no tokens"):
        encode_prompt(tokenizer, Prompt("p", [{"role": "user", "content": ""}], None))
