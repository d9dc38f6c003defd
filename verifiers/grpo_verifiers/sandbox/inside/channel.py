"""The guest's end of its connection to the caller."""

from __future__ import annotations

import os

from .frames import FrameReader, encode

_CHUNK = 1 << 16


class Channel:
    """Frames over a descriptor."""

    def __init__(self, file: int, nonce: int, limit: int) -> None:
        self._file = file
        self._nonce = nonce
        self._reader = FrameReader(nonce, limit)

    def receive(self) -> bytes | None:
        """The caller's next frame; None when the caller has closed."""
        while (frame := self._reader.next()) is None:
            try:
                data = os.read(self._file, _CHUNK)
            except OSError:
                return None
            if not data:
                return None
            self._reader.feed(data)
        return frame

    def send(self, frame: bytes) -> None:
        """Give the caller a frame.

        Raises:
            OSError: if the caller has closed.
        """
        view = memoryview(encode(frame, self._nonce))
        while view:
            view = view[os.write(self._file, view) :]
