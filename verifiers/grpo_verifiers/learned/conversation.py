"""From a sample to the text, and the tokens, that a reward model reads.

Three things go wrong here elsewhere. The template must be the reward model's own, not the policy's.
A template that writes the beginning-of-sequence token must not get a second one from the tokenizer.
And a candidate who writes "<|im_end|>" must not be able to end its turn and speak for others: the
texts of special tokens lose their meaning inside of messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from grpo_core.errors import VerifierError
from grpo_core.types import Sample

Layout = Literal["chat", "plain", "pair"]
_GLUE = "\n\n"
_PLACEHOLDER = "\N{INVISIBLE SEPARATOR}completion\N{INVISIBLE SEPARATOR}"


class Encoded(NamedTuple):
    """What goes into a model.

    Attributes:
        input_ids: [T].
        token_type_ids: [T], where the tokenizer gives them.
        marks: positions of the tokens whose outputs are wanted; none where the model has one
            output for all.
        num_cut: tokens cut off at the beginning.
    """

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...] | None = None
    marks: tuple[int, ...] = ()
    num_cut: int = 0


@dataclass(frozen=True, slots=True)
class Conversation:
    """Writes conversations as a model was trained to read them.

    Attributes:
        specials: texts that the tokenizer takes for special tokens.
    """

    tokenizer: Any
    layout: Layout
    specials: tuple[str, ...]
    drop_system: bool = False

    @classmethod
    def of(cls, tokenizer: Any, template: str, drop_system: bool = False) -> Conversation:
        """The conversation of option `template`.

        Raises:
            VerifierError: if a chat template is asked for and there is none.
        """
        has_template = bool(tokenizer.chat_template)
        if template == "auto":
            template = "chat" if has_template else "plain"
        if template == "chat" and not has_template:
            raise VerifierError(
                "the model's tokenizer has no chat template. Set input.template to 'plain', or to "
                "'pair' for a cross-encoder."
            )
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        specials = sorted(special | set(tokenizer.all_special_tokens), key=len, reverse=True)
        return cls(tokenizer, template, tuple(specials), drop_system)  # type: ignore[arg-type]

    def encode(self, sample: Sample, completion: str) -> Encoded:
        """The tokens of a conversation that ends with a completion.

        Raises:
            VerifierError: if the template refuses it.
        """
        if self.layout == "pair":
            prompt = _GLUE.join(message["content"] for message in self._messages(sample))
            return _encoded(self.tokenizer(prompt, self.defuse(completion)))
        text = self._text(sample, self.defuse(completion))
        return _encoded(self.tokenizer(text, add_special_tokens=self.layout == "plain"))

    def encode_marked(self, sample: Sample, completion: str, ends: Sequence[int]) -> Encoded:
        """The same, with the positions of the tokens that hold the characters before `ends`.

        Args:
            sample: its messages are used.
            completion: already defused.
            ends: offsets in it, > 0, ascending.

        Raises:
            VerifierError: if the template refuses it, or changes the completion.
        """
        if self.layout == "pair":
            raise VerifierError(
                "steps are read from one text: set input.template to chat or plain."
            )
        text = self._text(sample, completion)
        start, end = self._place(sample, completion, text)
        found = self.tokenizer(
            text, add_special_tokens=self.layout == "plain", return_offsets_mapping=True
        )
        spans = [tuple(span) for span in found["offset_mapping"]]
        wanted = [min(start + offset, end) for offset in ends]
        return _encoded(found)._replace(marks=_tokens_at(spans, wanted))

    def _place(self, sample: Sample, completion: str, text: str) -> tuple[int, int]:
        """Where in the text the completion begins, as if nothing were stripped, and ends."""
        before, _, after = self._text(sample, _PLACEHOLDER).partition(_PLACEHOLDER)
        for kept in (completion, completion.strip()):  # many templates strip what they are given
            if text == before + kept + after:
                return len(before) - completion.find(kept), len(text) - len(after)
        raise VerifierError(
            "the model's chat template changes the completion, so its steps are not found again. "
            "Set input.template to 'plain'."
        )

    def defuse(self, text: str) -> str:
        """The text with a blank inside whatever the tokenizer would take for a special token.

        Lone surrogates, which no tokenizer takes, become question marks.
        """
        text = text.encode("utf-8", "replace").decode("utf-8")
        while any(token in text for token in self.specials):
            for token in self.specials:
                text = text.replace(token, _split(token))
        return text

    def _text(self, sample: Sample, completion: str) -> str:
        messages = self._messages(sample)
        if self.layout == "plain":
            return _GLUE.join([*(message["content"] for message in messages), completion])
        messages.append({"role": "assistant", "content": completion})
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # a template is a program, and may raise anything
            roles = ", ".join(message["role"] for message in messages)
            raise VerifierError(
                f"the model's chat template cannot write this conversation (roles: {roles}): "
                f"{type(error).__name__}: {error}. Set input.drop_system if it takes no system "
                "message, or input.template to 'plain'."
            ) from error

    def _messages(self, sample: Sample) -> list[dict[str, str]]:
        given = sample.messages or ({"role": "user", "content": sample.prompt},)
        return [
            {**message, "content": self.defuse(message["content"])}
            for message in given
            if not (self.drop_system and message["role"] == "system")
        ]


def _split(token: str) -> str:
    """A special token's text, no longer one; a blank is no help where it has blanks of its own."""
    wedge = "\N{WORD JOINER}" if any(map(str.isspace, token)) else " "
    return f"{token[0]}{wedge}{token[1:]}" if token[1:] else ""


def cut_left(encoded: Encoded, max_tokens: int, keep: int) -> Encoded | None:
    """The last `max_tokens` tokens, the first `keep` ones staying; None if a mark is lost.

    Args:
        encoded: longer than that.
        max_tokens: that are left.
        keep: 1 where the first token opens every text of the model, else 0.
    """
    keep = min(keep, max_tokens - 1)
    gone = len(encoded.input_ids) - max_tokens
    if any(mark < keep + gone for mark in encoded.marks):
        return None

    def cut(values: tuple[int, ...]) -> tuple[int, ...]:
        return values[:keep] + values[keep + gone :]

    types = encoded.token_type_ids
    return Encoded(
        cut(encoded.input_ids),
        None if types is None else cut(types),
        tuple(mark - gone for mark in encoded.marks),
        gone,
    )


def _encoded(found: Any) -> Encoded:
    types = found.get("token_type_ids")
    return Encoded(tuple(found["input_ids"]), None if types is None else tuple(types))


def _tokens_at(spans: Sequence[Sequence[int]], ends: Sequence[int]) -> tuple[int, ...]:
    """For each offset the last token that begins before it; special tokens have empty spans."""
    marks: list[int] = []
    at = 0
    for end in ends:
        mark = None
        while at < len(spans) and spans[at][0] < end:
            if spans[at][1] > spans[at][0]:
                mark = at
            at += 1
        marks.append(mark if mark is not None else (marks[-1] if marks else 0))
    return tuple(marks)
