"""Where the values of an array's chunks come from; here, chunks under zstd that we decode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stformat.metadata.zarr_array import ArrayMetadata
from stformat.store.chunk_bytes import ChunkBytes, ChunkRun
from stformat.store.chunk_codec import ChunkError, compressed_bound, decode_into
from stformat.store.files import StoreFiles

__all__ = ["ChunkSource", "ZstdChunks"]


class ChunkSource(Protocol):
    """Reads and decodes the chunks of one array; safe for threads."""

    def locate(self, chunks: NDArray[np.int64]) -> list[ChunkRun]:
        """Cut a request for chunks, given by flat number, into runs that are read independently."""

    def iter_run(
        self, run: ChunkRun, new_chunk: Callable[[], NDArray[Any]]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read a run: yield each chunk's place in the request and its verified values.

        `new_chunk` gives an array of the chunk's shape and type that may be decoded into.
        """


class ZstdChunks:
    """The chunks of an array that `ArrayMetadata.is_plain_zstd` describes.

    Parameters
    ----------
    files : StoreFiles
        Files of the store.
    path : str
        Path of the array.
    metadata : ArrayMetadata
        Of the array.

    Raises
    ------
    UnsupportedStoreError
        If the array is cut into pieces that are larger than any that are read.
    """

    def __init__(self, files: StoreFiles, path: str, metadata: ArrayMetadata) -> None:
        n_bytes = math.prod(metadata.chunks) * metadata.dtype.itemsize
        self._requires_checksum = metadata.has_checksums
        self._bytes = ChunkBytes(files, path, metadata, max_bytes=compressed_bound(n_bytes))

    def locate(self, chunks: NDArray[np.int64]) -> list[ChunkRun]:
        """Find the bytes of chunks; see `ChunkBytes.locate`."""
        return self._bytes.locate(chunks)

    def iter_run(
        self, run: ChunkRun, new_chunk: Callable[[], NDArray[Any]]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read and decode a run; see `ChunkSource`.

        Raises
        ------
        CorruptStoreError
            If the file ends early or a chunk is damaged.
        """
        for number, (position, frame) in zip(run.chunks, self._bytes.iter_run(run), strict=True):
            chunk = new_chunk()
            try:
                decode_into(frame, chunk, requires_checksum=self._requires_checksum)
            except ChunkError as error:
                raise self._bytes.corrupt(number, str(error)) from error
            yield position, chunk
