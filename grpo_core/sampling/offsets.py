"""Where in a completion's text each of its tokens ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from grpo_core.types import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTEXT = 2  # characters before, without which some decoders drop a leading blank
_WINDOW = 8  # tokens at most of which one character is made
_PART = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded to

Decode = Callable[[Sequence[int]], str]


def token_locator(
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[Completion], Sequence[int]]:
    """`token_ends` of completions of the policy with this tokenizer."""

    def locate(completion: Completion) -> Sequence[int]:
        return token_ends(tokenizer, completion.token_ids, completion.text)

    return locate


def token_ends(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], text: str
) -> list[int]:
    """The offset in a completion's text at which the text of each token ends.

    A character that is made of several tokens ends with the last of them. Tokens that are not in
    the text, such as an end-of-sequence token or those of a stop string, end where the text does.

    Args:
        tokenizer: of the policy.
        token_ids: [T].
        text: what they were decoded to, special tokens and stop string removed.

    Returns:
        [T], never falling.
    """
    decode: Decode = partial(_decode, tokenizer)
    pieces = {token: decode([token]) for token in set(token_ids)}
    ends = list(accumulate(len(pieces[token]) for token in token_ids))
    if "".join(pieces[token] for token in token_ids).startswith(text) and _PART not in text:
        return [min(end, len(text)) for end in ends]
    ends, spelt = _by_windows(decode, token_ids)
    if not spelt.startswith(text):
        ends = _by_prefixes(decode, token_ids, text)
    return [min(end, len(text)) for end in ends]


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))


def _by_windows(decode: Decode, token_ids: Sequence[int]) -> tuple[list[int], str]:
    """Ends, and the text they are of, from each token and the characters before it."""
    ends: list[int] = []
    spelt = ""
    # Where the last characters begin: a part of one would spoil what follows it.
    starts = deque([0], maxlen=_CONTEXT + 1)
    for at in range(len(token_ids)):
        start = starts[-1]
        before = decode(token_ids[starts[0] : start])
        piece = decode(token_ids[starts[0] : at + 1])[len(before) :]
        if not piece.endswith(_PART) or at - start == _WINDOW:
            spelt += piece
            starts.append(at + 1)
        ends.append(len(spelt))
    return ends, spelt


def _by_prefixes(decode: Decode, token_ids: Sequence[int], text: str) -> list[int]:
    """Ends from how much of the text the first tokens decode to; slow, and right for any decoder.

    Decoders may change a text's end when more follows, so ends are kept from falling.
    """
    common = (_num_common(decode(token_ids[: at + 1]), text) for at in range(len(token_ids)))
    return list(accumulate(common, max))


def _num_common(one: str, other: str) -> int:
    """The number of characters that two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
