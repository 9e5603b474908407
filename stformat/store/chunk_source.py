"""Where the values of an array's chunks come from; here, chunks of a coding that we decode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stformat.metadata.zarr_array import ArrayMetadata
from stformat.metadata.zarr_codecs import ChunkCoding, Compression
from stformat.store.chunk_blosc import blosc_bound, decode_blosc
from stformat.store.chunk_bytes import ChunkBytes, ChunkRun
from stformat.store.chunk_codec import (
    CRC32C_BYTES,
    ChunkError,
    compressed_bound,
    decode_into,
    without_crc32c,
)
from stformat.store.chunk_jpeg import decode_jpeg, jpeg_bound
from stformat.store.files import StoreFiles

__all__ = ["ChunkSource", "CodedChunks"]

_BOUNDS: Mapping[Compression, Callable[[int], int]] = MappingProxyType(
    {"zstd": compressed_bound, "blosc": blosc_bound, "jpeg": jpeg_bound}
)


class ChunkSource(Protocol):
    """Finds and decodes the chunks of one array; safe for threads."""

    def locate(self, chunks: NDArray[np.int64]) -> list[ChunkRun]:
        """Cut a request for chunks, given by flat number, into runs decoded independently."""

    def iter_run(
        self, run: ChunkRun, data: memoryview, new_chunk: Callable[[int], NDArray[Any]]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Decode a run: yield each chunk's place in the request and its verified values.

        `data` are the bytes of the run, ``new_chunk(place)`` gives a C-contiguous array of the
        chunk's shape and type that may be decoded into.
        """


class CodedChunks:
    """The chunks of an array that `ArrayMetadata.coding` describes.

    Parameters
    ----------
    files : StoreFiles
        Files of the store.
    path : str
        Path of the array.
    metadata : ArrayMetadata
        Of the array.
    coding : ChunkCoding
        Its coding.

    Raises
    ------
    UnsupportedStoreError
        If the array is cut into pieces that are larger than any that are read.
    """

    def __init__(
        self, files: StoreFiles, path: str, metadata: ArrayMetadata, coding: ChunkCoding
    ) -> None:
        n_bytes = math.prod(metadata.chunks) * metadata.dtype.itemsize
        limit = _BOUNDS[coding.compression](n_bytes) + CRC32C_BYTES
        self._coding = coding
        self._bytes = ChunkBytes(files, path, metadata, max_bytes=limit)

    def locate(self, chunks: NDArray[np.int64]) -> list[ChunkRun]:
        """Find the bytes of chunks; see `ChunkBytes.locate`."""
        return self._bytes.locate(chunks)

    def iter_run(
        self, run: ChunkRun, data: memoryview, new_chunk: Callable[[int], NDArray[Any]]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """Decode a run; see `ChunkSource`.

        Raises
        ------
        CorruptStoreError
            If a chunk is damaged.
        """
        for number, position, encoded in run.iter_chunks(data):
            chunk = new_chunk(position)
            try:
                self._decode(encoded, chunk)
            except ChunkError as error:
                raise self._bytes.corrupt(number, str(error)) from error
            yield position, chunk

    def _decode(self, encoded: memoryview, chunk: NDArray[Any]) -> None:
        compressed = without_crc32c(encoded) if self._coding.has_crc32c else encoded
        match self._coding.compression:
            case "zstd":
                decode_into(compressed, chunk, requires_checksum=self._coding.has_content_checksum)
            case "blosc":
                decode_blosc(compressed, chunk)
            case "jpeg":
                decode_jpeg(compressed, chunk)
