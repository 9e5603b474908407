"""Buffers too large for memory, in files without a name."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stformat.errors import Problem, StoreWriteError

__all__ = ["IN_MEMORY_LIMIT", "scratch_array", "scratch_map"]

IN_MEMORY_LIMIT = 64 * 2**20
"""Bytes of one buffer that are held in memory; more go to disk."""

_BLOCK = 1 << 20


def scratch_array(
    shape: tuple[int, ...],
    dtype: DTypeLike,
    scratch: Path | None,
    *,
    in_memory: int = IN_MEMORY_LIMIT,
) -> NDArray[Any]:
    """Allocate an array in memory, or in a file without a name where it is large.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : dtype_like
        Type of an element.
    scratch : Path or None
        Directory of the file; None takes the system's directory for temporary files.
    in_memory : int
        Bytes up to which the array stays in memory.

    Returns
    -------
    ndarray
        C-contiguous, of undefined content. Its pages on disk are not anonymous memory: the system
        writes them out when memory is short.

    Raises
    ------
    StoreWriteError
        If the scratch directory cannot hold the array.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes <= in_memory:
        return np.empty(shape, dtype)
    return np.frombuffer(scratch_map(n_bytes, scratch), dtype).reshape(shape)


def scratch_map(n_bytes: int, scratch: Path | None) -> mmap.mmap:
    """Map a new file without a name; StoreWriteError if the directory cannot hold it."""
    directory = Path(tempfile.gettempdir()) if scratch is None else scratch
    try:
        with tempfile.TemporaryFile(dir=directory) as stream:
            _reserve(stream.fileno(), n_bytes)
            return mmap.mmap(stream.fileno(), n_bytes)
    except OSError as error:
        raise StoreWriteError(
            Problem(
                "scratch.no-space",
                "scratch directory",
                f"{n_bytes} bytes of temporary space are needed",
                error.strerror or type(error).__name__,
                "free some space or name another scratch directory",
            )
        ) from error


def _reserve(descriptor: int, n_bytes: int) -> None:
    """Give a file all its blocks: a write to a mapped page that has none ends in SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
        return
    zeros = bytes(_BLOCK)
    for start in range(0, n_bytes, _BLOCK):
        os.pwrite(descriptor, zeros[: n_bytes - start], start)
