"""Weights as a stream of bytes, some of them at a time.

A frame is the length of a safetensors document, 8 bytes little-endian, and the document, which
holds one or more whole tensors. A length of 0 ends the stream, so that one cut short is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from grpo_core.errors import SamplingError

_FRAME_BYTES = 16 << 20  # a larger tensor has a frame of its own; 64 MB take a third longer
_LENGTH_BYTES = 8


def to_frames(weights: Iterable[tuple[str, Tensor]]) -> Iterator[bytes]:
    """The bytes of `weights`, of which no more than a frame is copied at once."""
    frame: dict[str, Tensor] = {}
    for name, tensor in weights:
        if frame and _size(frame) + tensor.nbytes > _FRAME_BYTES:
            yield from _pack(frame)
            frame = {}
        frame[name] = tensor.cpu().contiguous()
    if frame:
        yield from _pack(frame)
    yield _length(0)


def from_frames(read: Callable[[int], bytes]) -> Iterator[tuple[str, Tensor]]:
    """The weights again.

    Args:
        read: returns the next so many bytes, or raises a GrpoError.

    Raises:
        SamplingError: if a frame is no safetensors document.
    """
    while length := int.from_bytes(read(_LENGTH_BYTES), "little"):
        try:
            tensors = safetensors.torch.load(read(length))
        except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch does not have
            raise SamplingError(f"a frame of weights cannot be read: {error}.") from error
        yield from tensors.items()


def _pack(frame: dict[str, Tensor]) -> Iterator[bytes]:
    document = safetensors.torch.save(frame)
    yield _length(len(document))
    yield document


def _length(count: int) -> bytes:
    return count.to_bytes(_LENGTH_BYTES, "little")


def _size(frame: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in frame.values())
