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

__all__ = ["ROUNDED_UP", "Memory", "on_device"]

_QUANTUM = 4 * 2**20
"""Sizes are rounded up to multiples of this or, where that is more, of an eighth of the power of
two below, so that memory fits again where sizes vary a little."""

ROUNDED_UP = 9 / 8
"""How much larger than asked for large memory is at most. With a bound that leaves no room for
this, what comes back is given up, and new memory is cleared page by page."""

_LARGER = 3 / 2
"""How much larger than asked for memory may be that is used again."""


class Memory:
    """Makes arrays as `numpy.empty` does, of memory that earlier ones have left; safe for threads.

    An array may be kept, sliced and handed on: its memory is used again only when neither it nor
    any view of it exists.

    Parameters
    ----------
    max_bytes : int
        Most bytes that are kept, in use or not: beyond that, what comes back is given up. New
        memory is made in any case.

    Examples
    --------
    >>> memory = Memory(max_bytes=2**25)
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

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._start_empty()
        _MEMORIES.add(self)

    def _start_empty(self) -> None:
        # Re-entrant: the memory of a forgotten array may come back while this thread holds the
        # lock. So nothing here relies on what it saw a step before.
        self._lock = threading.RLock()
        self._idle: dict[int, memoryview] = {}
        self._in_use: dict[int, int] = {}

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        return type(self), (self._max_bytes,)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return a C-contiguous array of any content."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        step = max(_QUANTUM, (1 << n_bytes.bit_length()) >> 4)
        size = max(1, -(-n_bytes // step)) * step
        owner = self._idle_for(size)
        if owner is None:
            self._make_room(size)
            owner = memoryview(np.empty(size, np.uint8))
        with self._lock:
            self._in_use[id(owner)] = owner.nbytes
        # NumPy lets a view hold the array that owns its memory; `every` owns none, but its base is
        # no array, so that whatever is made of it holds `every` itself.
        every = np.frombuffer(owner, np.uint8)
        weakref.finalize(every, self._take_back, owner).atexit = False
        return every[:n_bytes].view(dtype).reshape(shape)

    def clear(self) -> None:
        """Give up what is not in use."""
        with self._lock:
            self._idle.clear()

    def _idle_for(self, size: int) -> memoryview | None:
        """Take out the smallest that is large enough and not much larger, of these the last."""
        with self._lock:
            fitting = [
                (owner.nbytes, -place, key)
                for place, (key, owner) in enumerate(list(self._idle.items()))
                if size <= owner.nbytes <= size * _LARGER
            ]
            return self._idle.pop(min(fitting)[2], None) if fitting else None

    def _take_back(self, owner: memoryview) -> None:
        with self._lock:
            self._in_use.pop(id(owner), None)
            self._idle[id(owner)] = owner
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        """Give up what has been idle longest, until there is room for so many bytes."""
        with self._lock:
            idle = list(self._idle.items())
            kept = sum(self._in_use.copy().values()) + sum(owner.nbytes for _, owner in idle)
            for key, owner in idle:
                if kept + size <= self._max_bytes:
                    return
                self._idle.pop(key, None)
                kept -= owner.nbytes


def on_device(array: NDArray[Any], xp: Any) -> Any:  # noqa: ANN401 - a module and its array
    """Return an array of NumPy, or its copy on the GPU where `xp` is CuPy.

    CuPy's own ``asarray`` goes through pinned memory of the same size, and keeps it for good.
    """
    if xp is np:
        return array
    copy = xp.empty(array.shape, array.dtype)
    copy.set(np.ascontiguousarray(array))
    return copy


_MEMORIES: weakref.WeakSet[Memory] = weakref.WeakSet()


def _start_empty_in_child() -> None:
    # A thread of the parent may have held a lock at the fork.
    for memory in list(_MEMORIES):
        memory._start_empty()  # noqa: SLF001 - the class and this hook are one unit


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_empty_in_child)
