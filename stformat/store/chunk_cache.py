"""Decoded chunks kept in memory, up to a stated number of bytes."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CACHE_BYTES", "ChunkCache"]

CACHE_BYTES = 128 * 2**20
"""Default size of the cache of one open slide."""

_MAX_SPARE = 16
"""Chunks whose memory waits to be used again: new memory costs as much as decoding to it."""


def _references_of_one_holder() -> int:
    """Return what `sys.getrefcount` says of an object that one local variable holds."""
    alone = object()
    return sys.getrefcount(alone)


_OURS_ALONE = _references_of_one_holder()


class ChunkCache:
    """The chunks used last, read-only; safe for threads, empty again in a forked child.

    Parameters
    ----------
    max_bytes : int, default: 128 MiB
        Most bytes of chunks kept, beside the memory of 16 chunks to come; 0 keeps none.

    Examples
    --------
    >>> import numpy as np
    >>> cache = ChunkCache(max_bytes=8)
    >>> cache.put(("x", 0), np.zeros(8, np.uint8))
    >>> cache.put(("x", 1), np.ones(8, np.uint8))
    >>> cache.get(("x", 0)) is None, int(cache.get(("x", 1)).sum())
    (True, 8)
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._start_empty()
        _CACHES.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._chunks: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._spare: list[NDArray[Any]] = []
        self._bytes = 0

    @property
    def n_bytes(self) -> int:
        """Bytes of the chunks kept now."""
        return self._bytes

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array of any content, to be filled and put; of memory that is free, if any."""
        with self._lock:
            for number, spare in enumerate(self._spare):
                if spare.shape == shape and spare.dtype == dtype:
                    del self._spare[number]
                    spare.flags.writeable = True
                    return spare
        return np.empty(shape, dtype)

    def get(self, key: tuple[str, int]) -> NDArray[Any] | None:
        """Return the chunk of an array path and a flat chunk number, or None."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
            return chunk

    def put(self, key: tuple[str, int], chunk: NDArray[Any]) -> None:
        """Keep a chunk, which becomes read-only, and let go of the ones unused for longest."""
        if chunk.nbytes > self.max_bytes:
            return
        chunk.flags.writeable = False
        with self._lock:
            replaced = self._chunks.pop(key, None)
            self._chunks[key] = chunk
            self._bytes += chunk.nbytes - (0 if replaced is None else replaced.nbytes)
            while self._bytes > self.max_bytes:
                _, dropped = self._chunks.popitem(last=False)
                self._bytes -= dropped.nbytes
                # Whoever reads it, or a part of it, holds it; nobody else can get it any more.
                if sys.getrefcount(dropped) == _OURS_ALONE and len(self._spare) < _MAX_SPARE:
                    self._spare.append(dropped)

    def clear(self) -> None:
        """Let go of every chunk."""
        with self._lock:
            self._chunks.clear()
            self._spare.clear()
            self._bytes = 0


_CACHES: weakref.WeakSet[ChunkCache] = weakref.WeakSet()


def _start_empty_in_child() -> None:
    # A thread of the parent may have held a lock, or stood between two updates, at the fork.
    for cache in list(_CACHES):
        cache._start_empty()  # noqa: SLF001 - the class and this hook are one unit


os.register_at_fork(after_in_child=_start_empty_in_child)
