"""Bytes of an image file by position."""

from __future__ import annotations

import io
import mmap
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError, Problem
from stformat.scratch import IN_MEMORY_LIMIT, scratch_map

__all__ = ["FileIdentity", "InputFile", "image_error"]

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

    @classmethod
    def reopen(cls, path: Path, identity: FileIdentity) -> Self:
        """Open a file that was open before; ImageError if it is not the same any more."""
        file = cls(path)
        if file.identity != identity:
            file.close()
            raise image_error(
                "changed",
                file.name,
                "an image must stay as it is while it is read",
                "a file that was replaced or written to",
            )
        return file

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
        data = bytearray(length) if length <= IN_MEMORY_LIMIT else scratch_map(length, scratch)
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


def _reason(error: OSError) -> str:
    """Say why the system refused, without the path: messages may end up in a store."""
    return error.strerror or type(error).__name__
