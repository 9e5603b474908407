"""Memory of arrays that is used again once nobody holds them.

New memory is zeroed page by page when it is first written to, which for large batches takes as long
as cutting their tiles.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Memory"]

_QUANTUM = 4 * 2**20
"""Sizes are rounded up to multiples of this or, where that is more, of an eighth of the power of
two below, so that memory fits again where sizes vary a little."""


class Memory:
    """Makes arrays as `numpy.empty` does, of memory that earlier ones have left; safe for threads.

    An array may be kept, sliced and handed on: its memory is used again only when neither it nor
    any view of it exists.

    Parameters
    ----------
    max_idle_bytes : int
        Most bytes that are kept unused.

    Examples
    --------
    >>> memory = Memory(max_idle_bytes=2**24)
    >>> first = memory.empty((3, 2**20), np.uint8)
    >>> address = first.ctypes.data
    >>> part = first[1:]
    >>> del first
    >>> memory.empty((2**20,), np.uint8).ctypes.data == address  # `part` still exists
    False
    >>> del part
    >>> memory.empty((2**20,), np.uint8).ctypes.data == address
    True
    """

    def __init__(self, max_idle_bytes: int) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._start_empty()
        _MEMORIES.add(self)

    def _start_empty(self) -> None:
        # Re-entrant: the memory of a forgotten array may come back while this thread holds the
        # lock. So nothing here relies on what it saw a step before.
        self._lock = threading.RLock()
        self._idle: dict[int, memoryview] = {}

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        return type(self), (self._max_idle_bytes,)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return a C-contiguous array of any content."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        step = max(_QUANTUM, (1 << n_bytes.bit_length()) >> 4)
        size = max(1, -(-n_bytes // step)) * step
        owner = self._idle_of_size(size)
        if owner is None:
            owner = memoryview(np.empty(size, np.uint8))
        # NumPy lets a view hold the array that owns its memory; `every` owns none, but its base is
        # no array, so that whatever is made of it holds `every` itself.
        every = np.frombuffer(owner, np.uint8)
        weakref.finalize(every, self._take_back, owner).atexit = False
        return every[:n_bytes].view(dtype).reshape(shape)

    def _idle_of_size(self, size: int) -> memoryview | None:
        with self._lock:
            for key, owner in reversed(list(self._idle.items())):
                if owner.nbytes == size and self._idle.pop(key, None) is not None:
                    return owner
        return None

    def _take_back(self, owner: memoryview) -> None:
        with self._lock:
            self._idle[id(owner)] = owner
            kept = 0
            # What came back first goes first.
            for key, idle in reversed(list(self._idle.items())):
                kept += idle.nbytes
                if kept > self._max_idle_bytes:
                    self._idle.pop(key, None)


_MEMORIES: weakref.WeakSet[Memory] = weakref.WeakSet()


def _start_empty_in_child() -> None:
    # A thread of the parent may have held a lock at the fork.
    for memory in list(_MEMORIES):
        memory._start_empty()  # noqa: SLF001 - the class and this hook are one unit


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_empty_in_child)
