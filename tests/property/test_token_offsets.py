"""Where tokens end in a completion's text, with tokenizers that decode in different ways."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from grpo_core.sampling.base import completion_text
from grpo_core.sampling.offsets import token_ends
from grpo_core.step_advantages import last_token
from grpo_core.types import Completion
from tiny_model import tiny_tokenizer

CORPUS = [
    "First we add 1 and 1.\n\nThen we see that it is 2.\n\nSo the answer is \\boxed{2}.",
    "\u03c0 \u2248 3.14, \u4f60\u597d\uff0c\u4e16\u754c \N{GRINNING FACE}",
    "the cat sat on the mat, the other cat did not",
]


@cache
def byte_level() -> PreTrainedTokenizerFast:
    """As of GPT-2, Llama 3 and Qwen: bytes, merged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


@cache
def sentence_piece() -> PreTrainedTokenizerFast:
    """As of Llama 2: blanks are letters, the first one is dropped, odd letters become bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token=None, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<eos>", *(f"<0x{number:02X}>" for number in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS[0], CORPUS[2]], trainer)
    # Bytes are no special tokens, or decoding would leave them out.
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return _without_special_bytes(made)


def _without_special_bytes(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    import json

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] == "<eos>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<eos>"
    )


@cache
def word_piece() -> PreTrainedTokenizerFast:
    """As of BERT: blanks come from decoding, which takes those before a full stop away again."""
    words = ["<eos>", "[UNK]", *"abcdefghijklmnopqrstuvwxyz.,12\\{}", "the", "##he", "cat", "sat"]
    tokenizer = Tokenizer(models.WordPiece({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


TOKENIZERS = {
    "bytes": tiny_tokenizer,
    "byte_level": byte_level,
    "sentence_piece": sentence_piece,
    "word_piece": word_piece,
}
kinds = pytest.mark.parametrize("kind", list(TOKENIZERS))
exact_kinds = pytest.mark.parametrize("kind", ["bytes", "byte_level", "sentence_piece"])
texts = st.text() | st.lists(st.sampled_from([*"a .\n", "the ", "\u4f60", "\U0001f600"])).map(
    "".join
)


def ends_of(tokenizer: Any, ids: list[int], text: str) -> list[int]:
    ends = token_ends(tokenizer, ids, text)
    assert len(ends) == len(ids)
    assert ends == sorted(ends)
    assert all(0 <= end <= len(text) for end in ends)
    return ends


@kinds
@given(text=texts)
def test_ends_are_where_the_first_tokens_decode_to(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer.encode(text, add_special_tokens=False)
    text = completion_text(tokenizer, ids, "length", ())
    ends = ends_of(tokenizer, ids, text)
    assert not ids or ends[-1] == len(text)
    for at, end in enumerate(ends):
        decoded = tokenizer.decode(ids[: at + 1], skip_special_tokens=True)
        if "\N{REPLACEMENT CHARACTER}" not in decoded:  # else it ends with a part of one
            assert decoded == text[:end]


@kinds
@given(seed=st.lists(st.integers(0, 10**6), max_size=40))
def test_any_tokens_have_ends(kind: str, seed: list[int]) -> None:
    """Also those that no text is encoded to, as a model samples them."""
    tokenizer = TOKENIZERS[kind]()
    ids = [number % len(tokenizer) for number in seed]
    text = completion_text(tokenizer, ids, "length", ())
    ends = ends_of(tokenizer, ids, text)
    assert not ids or ends[-1] == len(text)


@exact_kinds
def test_tokens_past_the_text_end_where_it_does(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    body = "the cat sat on the mat"
    ids = tokenizer.encode(body, add_special_tokens=False)
    eos = [*ids, tokenizer.eos_token_id]
    text = completion_text(tokenizer, eos, "eos", ())
    assert ends_of(tokenizer, eos, text)[-2:] == [len(text)] * 2
    stopped = completion_text(tokenizer, ids, "stop", (" on",))
    assert stopped == "the cat sat"
    ends = ends_of(tokenizer, ids, stopped)
    assert ends[-1] == len(stopped)
    completion = Completion(ids, stopped, [0.0] * len(ids), "stop", 0, tuple(ends))
    assert last_token(completion, len(stopped)) == len(ids) - 1


@exact_kinds
def test_a_step_ends_with_the_token_that_holds_its_last_character(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    text = CORPUS[0]
    ids = tokenizer.encode(text, add_special_tokens=False)
    ends = tuple(ends_of(tokenizer, ids, text))
    completion = Completion(ids, text, [0.0] * len(ids), "eos", 0, ends)
    for end in range(1, len(text)):
        at = last_token(completion, end)
        before = tokenizer.decode(ids[:at], skip_special_tokens=True)
        after = tokenizer.decode(ids[: at + 1], skip_special_tokens=True)
        assert len(before) < end <= len(after)
