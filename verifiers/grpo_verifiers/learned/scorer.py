"""Runs a model over many texts at once, so that no text's outputs depend on the others.

Texts are sorted by length and padded on the right, where no mask and no position can be got wrong.
Whether a model's outputs really are the same with padding is tried when it is loaded; one that
fails is given texts of equal length only. Equal texts are computed once, and remembered: in the
last digits outputs do depend on the shape of a batch, and an advantage estimator that divides by a
group's deviation would blow up such differences between equal completions.
"""

from __future__ import annotations

import hashlib
import inspect
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from grpo_verifiers.learned.conversation import Encoded

if TYPE_CHECKING:
    from torch import Tensor

Head = Literal["pooled", "tokens", "vocabulary"]
Rows = tuple[tuple[float, ...], ...]  # [marks, classes], [1, classes] of a pooled head

_REMEMBERED = 4096  # texts
_TOLERANCE = {"float32": 1e-4, "float64": 1e-4}  # relative; half precision has less
_COARSE = 0.05


class Scorer(Protocol):
    """What gives outputs for texts."""

    def rows(self, texts: Sequence[Encoded]) -> list[Rows]:
        """The outputs of each text, in order."""
        ...


class Memory:
    """Remembers the outputs of a scorer for the texts it saw last."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: OrderedDict[bytes, Rows] = OrderedDict()

    def rows(self, texts: Sequence[Encoded]) -> list[Rows]:
        """The outputs of each text, in order; each text is computed once."""
        keys = [_digest(text) for text in texts]
        fresh = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        computed = self._scorer.rows(list(fresh.values())) if fresh else []
        self._known.update(zip(fresh, computed, strict=True))
        result = [self._known[key] for key in keys]
        for key in keys:
            self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return result


def _digest(text: Encoded) -> bytes:
    """What tells texts apart, in a few bytes."""
    numbers = (len(text.input_ids), *text.input_ids, *(text.token_type_ids or ()), -1, *text.marks)
    return hashlib.blake2b(array("q", numbers).tobytes(), digest_size=16).digest()


class ModelScorer:
    """A transformers model.

    Attributes:
        pads: whether texts of different lengths are computed together.
    """

    def __init__(
        self, model: Any, head: Head, batch_tokens: int, vocabulary: Sequence[int] = ()
    ) -> None:
        """Try the model.

        Args:
            model: in evaluation mode.
            head: "pooled": one output for a text; "tokens": one for each token, of which the marked
                ones are read; "vocabulary": likewise, of a causal language model.
            batch_tokens: computed at once, padding included.
            vocabulary: of a causal language model, the tokens whose logits are the classes.
        """
        self._model = model
        self._head = head
        self._batch_tokens = batch_tokens
        self._vocabulary = list(vocabulary)
        names = inspect.signature(model.forward).parameters
        self._takes_types = "token_type_ids" in names
        self._takes_positions = head == "vocabulary" and "logits_to_keep" in names
        self._own_padding: int | None = model.config.get_text_config().pad_token_id
        self.pads = True
        self.pads = self._is_unmoved_by_padding()

    def rows(self, texts: Sequence[Encoded]) -> list[Rows]:
        """The outputs of each text, in order."""
        import torch

        result: list[Rows] = [()] * len(texts)
        with torch.inference_mode():
            lengths = [len(text.input_ids) for text in texts]
            for batch in micro_batches(lengths, self._batch_tokens, equal=not self.pads):
                outputs = self._compute([texts[at] for at in batch])
                for at, rows in zip(batch, outputs, strict=True):
                    result[at] = tuple(tuple(row) for row in rows)
        return result

    def _compute(self, texts: Sequence[Encoded]) -> list[list[list[float]]]:
        import torch

        pad = self._padding_token(texts)
        device = self._model.device
        inputs: dict[str, Any] = {
            "input_ids": _padded([text.input_ids for text in texts], pad).to(device),
            "attention_mask": _padded([(1,) * len(t.input_ids) for t in texts], 0).to(device),
        }
        if self._takes_types and texts[0].token_type_ids is not None:
            types = [text.token_type_ids or () for text in texts]
            inputs["token_type_ids"] = _padded(types, 0).to(device)
        kept = sorted({mark for text in texts for mark in text.marks})
        if self._takes_positions:
            inputs["logits_to_keep"] = torch.tensor(kept, device=device)
        outputs = self._model(**inputs)
        logits = outputs.logits if hasattr(outputs, "logits") else outputs[0]
        if self._head == "pooled":
            return [[row] for row in logits.float().tolist()]
        column = {mark: at for at, mark in enumerate(kept)} if self._takes_positions else None
        return [self._marked(logits[at], text.marks, column) for at, text in enumerate(texts)]

    def _marked(
        self, logits: Tensor, marks: Sequence[int], column: dict[int, int] | None
    ) -> list[list[float]]:
        at = [mark if column is None else column[mark] for mark in marks]
        chosen = logits[at]
        if self._head == "vocabulary":
            chosen = chosen[:, self._vocabulary]
        return chosen.float().tolist()

    def _padding_token(self, texts: Sequence[Encoded]) -> int:
        """The model's own, or one that does not occur, by which its head then finds the end."""
        if self._own_padding is not None or self._head != "pooled":
            return self._own_padding or 0
        used = {token for text in texts for token in text.input_ids}
        chosen = next(token for token in range(len(used) + 1) if token not in used)
        self._model.config.get_text_config().pad_token_id = chosen
        return chosen

    def _is_unmoved_by_padding(self) -> bool:
        """Whether a short text has the same outputs beside a long one as alone."""
        size = self._model.get_input_embeddings().num_embeddings
        short, long = (tuple(3 + 7 * n % (size - 3) for n in range(k)) for k in (5, 12))
        texts = [Encoded(ids, (0,) * len(ids), (1, len(ids) - 1)) for ids in (short, long)]
        alone, together = self.rows(texts[:1])[0], self.rows(texts)[0]
        dtype = str(self._model.dtype).removeprefix("torch.")
        tolerance = _TOLERANCE.get(dtype, _COARSE)
        return all(
            abs(one - two) <= tolerance * max(1.0, abs(one))
            for row, other in zip(alone, together, strict=True)
            for one, two in zip(row, other, strict=True)
        )


def micro_batches(
    lengths: Sequence[int], max_tokens: int, *, equal: bool = False
) -> Iterator[list[int]]:
    """Indices of texts that are computed together, the shortest first.

    Args:
        lengths: of the texts.
        max_tokens: number of texts times the longest one's length, unless it is a single one.
        equal: only texts of equal length go together.
    """
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lengths.__getitem__):
        is_full = (len(batch) + 1) * lengths[at] > max_tokens
        if batch and (is_full or (equal and lengths[at] != lengths[batch[0]])):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    import torch

    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
