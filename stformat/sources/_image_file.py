"""Bytes of an image file by position, and buffers too large for memory on disk."""

from __future__ import annotations

import io
import math
import mmap
import os
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stformat.errors import ImageError, Problem, StoreWriteError

__all__ = ["IN_MEMORY_LIMIT", "FileIdentity", "InputFile", "image_error", "scratch_array"]

IN_MEMORY_LIMIT = 64 * 2**20
"""Bytes of one compressed or decoded piece of an image that are held in memory; more go to disk."""

_BLOCK = 1 << 20


def image_error(kind: str, where: str, expected: str, found: str, remedy: str = "") -> ImageError:
    """Make the error of one problem with an image, code ``image.<kind>``."""
    return ImageError(Problem(f"image.{kind}", where, expected, found, remedy))


class FileIdentity(NamedTuple):
    """What changes when a file is replaced or written to."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class InputFile:
    """A regular file read by position, so that threads can share it.

    Reads go through ``pread``, never through a memory map: a file that another process truncates
    must end in an error, not in a signal.

    Parameters
    ----------
    path : Path
        A regular file.

    Raises
    ------
    ImageError
        If the path cannot be opened or is no regular file.
    """

    __slots__ = ("_descriptor", "identity", "name")

    name: str
    """File name without its directory, for messages."""

    identity: FileIdentity
    """State of the file when it was opened."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            # Opening a named pipe without O_NONBLOCK waits for a writer that may never come.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise image_error(
                "unreadable", path.name, "an image must be a readable file", _reason(error)
            ) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            found = "a directory" if stat.S_ISDIR(status.st_mode) else "a special file"
            raise image_error("unreadable", path.name, "an image must be a regular file", found)
        self._descriptor = descriptor
        self.identity = FileIdentity(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        )

    @property
    def size(self) -> int:
        """Size in bytes when the file was opened."""
        return self.identity.size

    def read(self, start: int, length: int) -> bytes:
        """Return the bytes from `start`, fewer than `length` only at the end of the file."""
        buffer = bytearray(max(0, min(length, self.size - start)))
        n_read = self._fill(start, memoryview(buffer))
        return bytes(memoryview(buffer)[:n_read])

    def read_into(self, start: int, out: NDArray[Any]) -> None:
        """Fill a C-contiguous array with the bytes from `start`; ImageError if there are fewer."""
        self._fill_all(start, memoryview(out.reshape(-1).view(np.uint8)))

    def _fill_all(self, start: int, view: memoryview) -> None:
        """Fill `view`; ImageError if the file ends before."""
        n_read = self._fill(start, view)
        if n_read < len(view):
            raise image_error(
                "truncated",
                self.name,
                f"{len(view)} bytes of pixels must follow offset {start}",
                f"the end of the file after {n_read}",
                "copy the file again from its source",
            )

    def _fill(self, start: int, view: memoryview) -> int:
        """Read until `view` is full or the file ends; return the number of bytes read."""
        n_read = 0
        while n_read < len(view):
            block = view[n_read : n_read + 64 * _BLOCK]
            try:
                n_block = os.preadv(self._descriptor, [block], start + n_read)
            except OSError as error:
                raise image_error(
                    "unreadable", self.name, "an image must be readable", _reason(error)
                ) from error
            if n_block == 0:
                break
            n_read += n_block
        return n_read

    def load(self, start: int, length: int, scratch: Path | None) -> bytearray | mmap.mmap:
        """Return `length` bytes from `start`, as a copy on disk where they are many."""
        data = bytearray(length) if length <= IN_MEMORY_LIMIT else _scratch_map(length, scratch)
        self._fill_all(start, memoryview(data))
        return data

    def stream(self) -> io.BufferedReader:
        """Open the same file as a stream, for libraries that parse one; the caller closes it."""
        return os.fdopen(os.dup(self._descriptor), "rb")

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


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
    return np.frombuffer(_scratch_map(n_bytes, scratch), dtype).reshape(shape)


def _scratch_map(n_bytes: int, scratch: Path | None) -> mmap.mmap:
    """Map a new file without a name."""
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
                f"{n_bytes} bytes of temporary space are needed to decode the image",
                _reason(error),
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


def _reason(error: OSError) -> str:
    """Say why the system refused, without the path: messages may end up in a store."""
    return error.strerror or type(error).__name__
