"""Small pieces of files that were read along with others, kept up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["KEPT_BYTES", "KeptBytes"]

KEPT_BYTES = 4 * 2**20
"""Most bytes that are kept of one store."""


class KeptBytes:
    """The pieces used last; safe for threads.

    Parameters
    ----------
    max_bytes : int, default: 4 MiB
        Most bytes kept.

    Examples
    --------
    >>> kept = KeptBytes(max_bytes=3)
    >>> kept.put("a", b"12")
    >>> kept.put("b", b"34")
    >>> kept.get("a"), kept.get("b")
    (None, b'34')
    """

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._pieces: OrderedDict[str, bytes] = OrderedDict()
        self._n_bytes = 0

    def get(self, path: str) -> bytes | None:
        """Return the piece of a file, or None."""
        with self._lock:
            piece = self._pieces.get(path)
            if piece is not None:
                self._pieces.move_to_end(path)
            return piece

    def put(self, path: str, piece: bytes) -> None:
        """Keep a piece of a file, and let go of the ones unused for longest."""
        with self._lock:
            self._n_bytes += len(piece) - len(self._pieces.pop(path, b""))
            self._pieces[path] = piece
            while self._n_bytes > self._max_bytes:
                self._n_bytes -= len(self._pieces.popitem(last=False)[1])

    def clear(self) -> None:
        """Let go of every piece."""
        with self._lock:
            self._pieces.clear()
            self._n_bytes = 0
