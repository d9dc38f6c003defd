"""Frames between a caller and its guest: a length, the job's nonce, then bytes."""

from __future__ import annotations

import struct

HEADER = struct.Struct("<IQ")


class BrokenFrame(ValueError):
    """What arrived is not a frame of this job."""


def encode(frame: bytes, nonce: int) -> bytes:
    """A frame as it is sent."""
    return HEADER.pack(len(frame), nonce) + frame


class FrameReader:
    """Cuts a stream of bytes into frames.

    Attributes:
        limit: largest frame in bytes.
    """

    def __init__(self, nonce: int, limit: int) -> None:
        self.limit = limit
        self._nonce = nonce
        self._buffer = bytearray()

    @property
    def is_full(self) -> bool:
        """Whether as much waits as the largest frame takes."""
        return len(self._buffer) >= HEADER.size + self.limit

    def feed(self, data: bytes) -> None:
        """Take in what arrived."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next frame, or None while it is not complete.

        Raises:
            BrokenFrame: if it is too large or not of this job.
        """
        if len(self._buffer) < HEADER.size:
            return None
        length, nonce = HEADER.unpack_from(self._buffer)
        if nonce != self._nonce:
            raise BrokenFrame("a frame without the job's mark")
        if length > self.limit:
            raise BrokenFrame(f"a frame of {length} bytes, where {self.limit} are allowed")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return frame
