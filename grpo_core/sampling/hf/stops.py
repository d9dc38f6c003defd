"""Stop strings, found as soon as they are complete."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# What the first token of a window may lack: up to three bytes of its first character, and a space
# that some tokenizers take for the start of a text.
_MARGIN = 8


class StopWatch:
    """Looks for stop strings in the end of one growing completion.

    Only the last few tokens are decoded: as many as could hold the beginning of a stop string. A
    character of several tokens is whole in there once its last token has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._reach = max(map(len, stop), default=0) + _MARGIN
        self._start = 0

    def is_complete(self, token_ids: Sequence[int]) -> bool:
        """Whether the text holds a stop string; to be asked after every token."""
        if not self._stop:
            return False
        text = self._decode(token_ids, self._start)
        if any(string in text for string in self._stop):
            return True
        middle = (self._start + len(token_ids)) // 2
        # Twice the reach, so that the window is moved now and then and not at every token.
        if len(text) > 2 * self._reach and len(self._decode(token_ids, middle)) >= self._reach:
            self._start = middle
        return False

    def _decode(self, token_ids: Sequence[int], start: int) -> str:
        return str(self._tokenizer.decode(list(token_ids[start:]), skip_special_tokens=True))
