"""What learned verifiers read with: a tokenizer, a limit of length, and names of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpo_core.errors import VerifierError
from grpo_core.types import Verdict
from grpo_verifiers.learned.conversation import Conversation, Encoded, cut_left
from grpo_verifiers.learned.loading import load_tokenizer, read_config
from grpo_verifiers.learned.options import ModelOptions

_NO_LIMIT = 10**9  # tokenizers without one have a larger number


@dataclass(frozen=True, slots=True)
class Reader:
    """Turns samples into tokens, and outputs into the one that counts.

    Attributes:
        max_tokens: longer texts are refused, or cut.
    """

    conversation: Conversation
    options: ModelOptions
    model_config: Any
    max_tokens: int

    def fit(self, text: Encoded) -> Encoded | int:
        """The text, cut if need be and allowed; or how many tokens it has, which are too many."""
        if len(text.input_ids) <= self.max_tokens:
            return text
        if self.options.input.too_long != "truncate":
            return len(text.input_ids)
        opens = text.input_ids[0] == self.conversation.tokenizer.bos_token_id
        cut = cut_left(text, self.max_tokens, keep=int(opens))
        return len(text.input_ids) if cut is None else cut

    def label(self, num_classes: int) -> int:
        """The number of the class whose score counts.

        Raises:
            VerifierError: if the model has no such class, or none was chosen out of many.
        """
        label = self.options.calibration.label
        names = {
            str(name): int(at)
            for at, name in (getattr(self.model_config, "id2label", None) or {}).items()
        }
        if label is None and num_classes <= 2:
            return num_classes - 1
        number = names.get(label, -1) if isinstance(label, str) else label
        if number is None or not 0 <= number < num_classes:
            raise VerifierError(
                f"label is {label!r}, but the model has {num_classes} classes: "
                f"{', '.join(names) or 'without names'}. Set calibration.label to the name or "
                "number of the one whose score counts."
            )
        return number


def open_reader(options: ModelOptions) -> Reader:
    """Load the tokenizer and the model's config.

    Raises:
        VerifierError: if one of them cannot be read.
    """
    tokenizer, config = load_tokenizer(options), read_config(options)
    conversation = Conversation.of(tokenizer, options.input.template, options.input.drop_system)
    limits = [
        getattr(config.get_text_config(), "max_position_embeddings", None),
        tokenizer.model_max_length,
        options.input.max_tokens,
    ]
    usable = [limit for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
    return Reader(conversation, options, config, min(usable, default=_NO_LIMIT))


def refused(num_tokens: int, reader: Reader) -> Verdict:
    """The verdict on a text that is too long."""
    reason = f"the text has {num_tokens} tokens, more than {reader.max_tokens}"
    details = {"num_tokens": num_tokens}
    if reader.options.input.too_long == "wrong":
        return Verdict.wrong(reason, details)
    return Verdict.abstain(reason, details)
