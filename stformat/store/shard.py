"""One shard file: inner chunks appended as they come to exist, the index and its checksum last.

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from stformat.store.nodes import refusals_of

__all__ = ["ZSTD_LEVEL", "ShardWriter", "encode_chunk"]

ZSTD_LEVEL = 1
"""Six times the encoding speed of level 3 for a few per cent of size; decoding is the same."""

_ABSENT = np.iinfo(np.uint64).max

# Stateless between calls, and it releases the GIL.
_ZSTD = Zstd(level=ZSTD_LEVEL, checksum=True)


def encode_chunk(chunk: NDArray[Any]) -> bytes:
    """Compress one inner chunk: little-endian bytes in C order under zstd with a checksum.

    Parameters
    ----------
    chunk : ndarray
        A whole inner chunk, padded where it overhangs its array.

    Returns
    -------
    bytes
        One zstd frame that states its content size and ends with the checksum of the content.

    Examples
    --------
    The descriptor of the frame, after its magic number, has the checksum flag (bit 2):

    >>> bool(encode_chunk(np.zeros((2, 3), np.uint16))[4] & 0b100)
    True
    """
    little = chunk.astype(chunk.dtype.newbyteorder("<"), order="C", copy=False)
    encoded: bytes = _ZSTD.encode(little)
    return encoded


class ShardWriter:
    """An open shard file that grows by one encoded inner chunk at a time.

    Until `finish` the file has no index, so no reader takes it for a shard.

    Parameters
    ----------
    path : pathlib.Path
        File to make; its folder is made where it is missing.

    Raises
    ------
    StoreWriteError
        If the file system refuses, or the file exists.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "c" / "0"
    >>> shard = ShardWriter(path)
    >>> shard.append((0,), encode_chunk(np.arange(4)))
    >>> shard.finish(grid=(2,), inside=(1,))
    >>> int.from_bytes(path.read_bytes()[-20:-12], "little") == 2**64 - 1  # position 1: absent
    True
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[tuple[int, ...], tuple[int, int]] = {}
        self._end = 0
        with refusals_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: closing a file after a failure then has nothing left to fail on.
            self._file = path.open("xb", buffering=0)

    def append(self, position: tuple[int, ...], encoded: bytes) -> None:
        """Write the next inner chunk.

        Parameters
        ----------
        position : tuple of int
            Its place in the grid of inner chunks of this shard.
        encoded : bytes
            From `encode_chunk`.

        Raises
        ------
        ValueError
            If the position was written before.
        StoreWriteError
            If the file system refuses.
        """
        if position in self._entries:
            raise ValueError(f"inner chunk {position} of {self._path.name} is written twice")
        self._write(encoded)
        self._entries[position] = (self._end, len(encoded))
        self._end += len(encoded)

    def finish(self, *, grid: tuple[int, ...], inside: tuple[int, ...]) -> None:
        """Write the index and its checksum, and close the file.

        Parameters
        ----------
        grid : tuple of int
            Inner chunks of a shard along each axis.
        inside : tuple of int
            How many of them, along each axis, hold at least one element of the array.

        Raises
        ------
        ValueError
            If an inner chunk inside the array was not written, or one outside it was.
        StoreWriteError
            If the file system refuses.
        """
        expected = set(np.ndindex(*inside))
        if self._entries.keys() != expected:
            wrong = sorted(self._entries.keys() ^ expected)
            raise ValueError(
                f"shard {self._path.name} must hold the inner chunks inside {inside}, "
                f"{len(wrong)} are missing or too many, the first is {wrong[0]}"
            )
        index = np.full((*grid, 2), _ABSENT, dtype="<u8")
        for position, entry in self._entries.items():
            index[position] = entry
        document = index.tobytes()
        self._write(document + google_crc32c.value(document).to_bytes(4, "little"))
        with refusals_of(self._path):
            self._file.close()

    def close(self) -> None:
        """Close the file as it is; after `finish` this does nothing."""
        self._file.close()

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        with refusals_of(self._path):
            # A disk that fills up accepts a part first and refuses at the next call.
            while rest:
                rest = rest[self._file.write(rest) :]
