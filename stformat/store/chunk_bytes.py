"""Where the bytes of an array's chunks lie, alone or in shards: found by the shard index.

Specification: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
version 1.0, index at the end of the shard, as little-endian integers under crc32c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from stformat.errors import CorruptStoreError, Problem, UnsupportedStoreError
from stformat.kernels._pool import thread_count
from stformat.metadata.zarr_array import ArrayMetadata
from stformat.store.chunk_groups import group_by_chunk
from stformat.store.files import StoreFiles
from stformat.store.read_ahead import map_reads

__all__ = ["ChunkBytes", "ChunkRun", "chunk_grid"]

_MISSING = np.uint64(2**64 - 1)
_MAX_CHUNK_BYTES = 160 * 2**20
_MAX_SHARD_CHUNKS = 2**20
_MAX_CHUNKS = 2**40
_MAX_RUN_BYTES = 2**20
_ENTRY_BYTES = 16
_CHECKSUM_BYTES = 4
_REMEDY = "run `stformat verify`; convert the slide again or copy it anew"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRun:
    """Adjacent chunks of one file, decoded one after the other; the lists are parallel."""

    key: str
    """Path of the file from the root of the store."""

    starts: list[int]
    """First byte of each chunk, ascending."""

    lengths: list[int]
    """Bytes of each chunk."""

    positions: list[int]
    """Place of each chunk in the request."""

    chunks: list[int]
    """Flat number of each chunk."""

    @property
    def start(self) -> int:
        """First byte of the run."""
        return self.starts[0]

    @property
    def n_bytes(self) -> int:
        """Bytes of the run."""
        return self.starts[-1] + self.lengths[-1] - self.starts[0]

    def iter_chunks(self, data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Yield flat number, place in the request and bytes of each chunk of the run's bytes."""
        columns = zip(self.chunks, self.positions, self.starts, self.lengths, strict=True)
        first = self.start
        for number, position, start, n_bytes in columns:
            yield number, position, data[start - first : start - first + n_bytes]


def chunk_grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many chunks cover an array along each axis.

    Examples
    --------
    >>> chunk_grid((3, 1000, 512), (3, 256, 256))
    (1, 4, 2)
    """
    return tuple(-(-size // edge) for size, edge in zip(shape, chunks, strict=True))


class ChunkBytes:
    """Finds the chunks of one array as they are stored; safe for threads.

    Shard indices are read once and kept: 16 bytes for each chunk of a shard that was touched.

    Parameters
    ----------
    files : StoreFiles
        Files of the store.
    path : str
        Path of the array.
    metadata : ArrayMetadata
        Of the array; the index of its shards, if it has them, stands at the end under crc32c.
    max_bytes : int
        Most bytes that a chunk can take as it is stored.

    Raises
    ------
    UnsupportedStoreError
        If the array is cut so that no memory could hold its pieces: a chunk may take up to 160
        MiB, a shard may hold 2**20 chunks and the array 2**40.
    """

    def __init__(
        self, files: StoreFiles, path: str, metadata: ArrayMetadata, *, max_bytes: int
    ) -> None:
        self._files = files
        self._path = path
        self._metadata = metadata
        self._grid = chunk_grid(metadata.shape, metadata.chunks)
        # A file without shards is a shard of one chunk.
        self._shard_chunks = chunk_grid(metadata.shards or metadata.chunks, metadata.chunks)
        self._shard_grid = chunk_grid(self._grid, self._shard_chunks)
        self._max_bytes = max_bytes
        self._spans: dict[int, NDArray[np.uint64]] = {}
        self._check_sizes()

    def locate(self, chunks: NDArray[np.int64]) -> list[ChunkRun]:
        """Find the bytes of chunks and join adjacent ones to runs, some for each thread.

        Raises
        ------
        CorruptStoreError
            If a shard's index is damaged, or holds no bytes for one of the chunks.
        """
        index = np.unravel_index(chunks, self._grid)
        in_shard = tuple(i % n for i, n in zip(index, self._shard_chunks, strict=True))
        of_shard = tuple(i // n for i, n in zip(index, self._shard_chunks, strict=True))
        slot = np.ravel_multi_index(in_shard, self._shard_chunks)
        shard = np.ravel_multi_index(of_shard, self._shard_grid)
        groups = group_by_chunk(shard)
        spans = np.empty((len(chunks), 2), dtype=np.uint64)
        for position, of_chunks in enumerate(self._spans_of(groups.chunks.tolist())):
            here = groups.pieces(position)
            spans[here] = of_chunks[slot[here]]
        absent = spans[:, 0] == _MISSING
        if absent.any():
            raise self.corrupt(int(chunks[np.argmax(absent)]), "no bytes for it in its shard")
        return self._join(chunks, shard, spans.astype(np.int64))

    def read(self, number: int) -> memoryview:
        """Return the bytes of one chunk.

        Raises
        ------
        CorruptStoreError
            If it has none, or its file ends early.
        """
        (run,) = self.locate(np.array([number]))
        return memoryview(self._files.read_range(run.key, run.start, run.n_bytes))

    def corrupt(self, number: int, found: str) -> CorruptStoreError:
        """Return the error that says what is wrong with the chunk of a flat number."""
        index = tuple(int(i) for i in np.unravel_index(number, self._grid))
        return CorruptStoreError(
            Problem(
                "array.chunk",
                f"{self._path}, chunk {index}",
                "a chunk must be as it was committed",
                found,
                _REMEDY,
            )
        )

    def _check_sizes(self) -> None:
        """Refuse what no memory could hold, before anything is allocated for it."""
        meta = self._metadata
        for holds, rule in (
            (math.prod(self._grid) <= _MAX_CHUNKS, "an array must have at most 2**40 chunks"),
            (self._max_bytes <= _MAX_CHUNK_BYTES, "a chunk must take at most 160 MiB"),
            (
                math.prod(self._shard_chunks) <= _MAX_SHARD_CHUNKS,
                "a shard must hold at most 2**20 chunks",
            ),
        ):
            if not holds:
                found = f"shape {meta.shape}, chunks {meta.chunks}, shards {meta.shards}"
                raise UnsupportedStoreError(Problem("array.size", self._path, rule, found))

    def _join(
        self,
        chunks: NDArray[np.int64],
        shard: NDArray[np.int64],
        spans: NDArray[np.int64],
    ) -> list[ChunkRun]:
        if not len(chunks):
            return []
        order = np.lexsort((spans[:, 0], shard))
        starts, lengths = spans[order].T
        # Few bytes are still shared out between the threads; many are read a MiB at a time.
        share = int(lengths.sum()) // (4 * thread_count())
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = (np.diff(shard[order]) != 0) | (starts[1:] != starts[:-1] + lengths[:-1])
        run_start = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
        block = (starts - starts[run_start]) // max(1, min(share, _MAX_RUN_BYTES))
        is_new[1:] |= np.diff(block) != 0
        # Lists are cut much faster than arrays, and a request may have many thousand runs.
        bounds = [*np.flatnonzero(is_new).tolist(), len(order)]
        of_run = shard[order][bounds[:-1]].tolist()
        keys = {number: self._key(number) for number in set(of_run)}
        columns = [column.tolist() for column in (starts, lengths, order, chunks[order])]
        runs = []
        for number, (begin, end) in zip(of_run, pairwise(bounds), strict=True):
            starts_of, lengths_of, positions, numbers = (column[begin:end] for column in columns)
            runs.append(
                ChunkRun(
                    key=keys[number],
                    starts=starts_of,
                    lengths=lengths_of,
                    positions=positions,
                    chunks=numbers,
                )
            )
        return runs

    def _key(self, shard: int) -> str:
        index = np.unravel_index(shard, self._shard_grid)
        return f"{self._path}/{self._metadata.separator.join(['c', *(str(i) for i in index)])}"

    def _spans_of(self, shards: list[int]) -> list[NDArray[np.uint64]]:
        """Return first byte and length of every chunk of each shard: shape (n, 2)."""
        missing = [shard for shard in shards if shard not in self._spans]
        keys = [self._key(shard) for shard in missing]
        try:
            found = map_reads(self._read_spans, keys, self._files.costs)
        except CorruptStoreError:
            self._files.check_version()  # what was replaced looks damaged
            raise
        self._spans.update(zip(missing, found, strict=True))
        return [self._spans[shard] for shard in shards]

    def _read_spans(self, key: str) -> NDArray[np.uint64]:
        if self._metadata.shards is None:
            end = self._files.size(key)
            spans = np.array([[0, end]], dtype=np.uint64)
        else:
            spans, end = self._read_index(key)
        there = spans[:, 0] != _MISSING
        first, length = spans[there].T
        if (
            (first > end) | (length > end - np.minimum(first, end)) | (length > self._max_bytes)
        ).any():
            raise CorruptStoreError(
                Problem(
                    "array.shard-index",
                    key,
                    f"every chunk must lie in its file and take at most {self._max_bytes} bytes",
                    f"a chunk that reaches beyond byte {end}, or a longer one",
                    _REMEDY,
                )
            )
        return spans

    def _read_index(self, key: str) -> tuple[NDArray[np.uint64], int]:
        """Return the index of a shard and the byte where it begins."""
        n_bytes = math.prod(self._shard_chunks) * _ENTRY_BYTES
        tail, size = self._files.read_tail(key, n_bytes + _CHECKSUM_BYTES)
        end = size - n_bytes - _CHECKSUM_BYTES
        if end >= 0:
            body, checksum = tail[:n_bytes], tail[n_bytes:]
            if google_crc32c.value(body) == int.from_bytes(checksum, "little"):
                return np.frombuffer(body, dtype="<u8").reshape(-1, 2), end
        raise CorruptStoreError(
            Problem(
                "array.shard-index",
                key,
                "a shard must end with its index and the checksum of it",
                f"{size} bytes that do not",
                _REMEDY,
            )
        )
