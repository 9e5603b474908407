"""Arrays of a store by the chunk: each chunk read once a request, verified, then decoded."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.errors import Problem, UnsupportedStoreError
from stformat.kernels._pool import map_chunks
from stformat.metadata.zarr_array import ArrayMetadata
from stformat.store.chunk_bytes import ChunkRun, chunk_grid
from stformat.store.chunk_cache import ChunkCache
from stformat.store.chunk_groups import group_by_chunk
from stformat.store.chunk_source import ChunkSource, CodedChunks
from stformat.store.opened import CommittedStore
from stformat.store.read_ahead import RunReader

__all__ = ["ArrayReader", "Visit"]

_MAX_REQUEST_CHUNKS = 2**22
_NOWHERE: Mapping[int, NDArray[Any]] = MappingProxyType({})

type Visit = Callable[[int, NDArray[Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a request takes: chunks at hand and runs of bytes to read."""

    chunks: NDArray[np.int64]
    cached: list[tuple[int, NDArray[Any]]]
    missing: list[int]
    runs: list[ChunkRun]
    keeps_chunks: bool


class ArrayReader:
    """Reads one array of a store; safe for threads and after a fork.

    Every chunk is verified as it is read: its checksum by this library where the array has a
    coding that it knows (`ArrayMetadata.coding`), else whatever its codecs verify, by zarr-python.

    Parameters
    ----------
    store : CommittedStore
        The open store.
    path : str
        Path of the array from the root of the store.
    cache : ChunkCache, optional
        Shared with the other arrays of a slide. Without one no chunk outlives its request.
    kept_bytes : int, optional
        A request for more leaves no chunk in `cache`; by default, and at most, half of its size.

    Raises
    ------
    CorruptStoreError
        If there is no such array.
    UnsupportedStoreError
        If its codecs are not among those allowed, it holds no numbers, or it is cut into pieces
        that are larger than any that are read.

    Attributes
    ----------
    path : str
        Path of the array.
    metadata : ArrayMetadata
        Its metadata.
    """

    def __init__(
        self,
        store: CommittedStore,
        path: str,
        *,
        cache: ChunkCache | None = None,
        kept_bytes: int | None = None,
    ) -> None:
        self.path = path
        self.metadata: ArrayMetadata = store.array(path)
        self._store = store
        self._cache = ChunkCache(0) if cache is None else cache
        # A request that would fill most of the cache only pushes out what the next one needs.
        half = self._cache.max_bytes // 2
        self._kept_bytes = half if kept_bytes is None else min(kept_bytes, half)
        self._source = self._open_source()

    def __repr__(self) -> str:
        return f"<ArrayReader {self.path}: {self.metadata.data_type} {self.shape}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.metadata.shape

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the numbers."""
        return self.metadata.dtype

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each axis; a chunk's flat number is its place in C order."""
        return chunk_grid(self.shape, self.metadata.chunks)

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of one decoded chunk."""
        return math.prod(self.metadata.chunks) * self.dtype.itemsize

    def read_chunk(self, index: tuple[int, ...]) -> NDArray[Any]:
        """Read one chunk.

        Parameters
        ----------
        index : tuple of int
            Index of the chunk in `grid`.

        Returns
        -------
        ndarray
            A copy of the chunk, cut to the bounds of the array.

        Raises
        ------
        IndexError
            If `grid` has no such chunk.
        CorruptStoreError
            If the chunk is missing or damaged.
        """
        if len(index) != len(self.grid) or not all(
            0 <= i < n for i, n in zip(index, self.grid, strict=True)
        ):
            raise IndexError(f"{self.path} has a grid of {self.grid} chunks, got index {index}")
        chunks: list[NDArray[Any]] = []
        number = np.array([np.ravel_multi_index(index, self.grid)], dtype=np.int64)
        self.visit_chunks(number, lambda _, chunk: chunks.append(chunk.copy()))
        return chunks[0]

    def visit_chunks(self, chunks: NDArray[np.int64], visit: Visit) -> None:
        """Read, verify and decode each of some chunks once, in the shared thread pool.

        Parameters
        ----------
        chunks : (k,) ndarray of int64
            Flat numbers of chunks, each once.
        visit : callable
            ``visit(position, chunk)`` is called once for each, from several threads at once and in
            no certain order; `position` is the chunk's place in `chunks`. The chunk is cut to the
            bounds of the array, must not be written to, and is valid during the call only.

        Raises
        ------
        CorruptStoreError
            If a chunk is missing or damaged; which of the others were visited is then uncertain.
        """
        self._visit(self._plan(chunks), visit)

    def read_1d(self, start: int, stop: int) -> NDArray[Any]:
        """Read elements ``start`` to ``stop - 1`` of a 1-D array; see `read_1d_ranges`."""
        return self.read_1d_ranges(np.array([start]), np.array([stop]))

    def read_1d_ranges(
        self,
        starts: NDArray[np.integer],
        stops: NDArray[np.integer],
        *,
        empty: Callable[[int], NDArray[Any]] | None = None,
    ) -> NDArray[Any]:
        """Read ranges of a 1-D array, one after the other.

        Parameters
        ----------
        starts, stops : (m,) ndarray of int
            First element of each range and the one after its last. Ranges come in any order, and
            may overlap and repeat.
        empty : callable, optional
            Returns the array that is read to, of so many elements of type `dtype` or of one that
            holds its values. Default: new memory.

        Returns
        -------
        (sum(stops - starts),) ndarray
            The ranges, concatenated. Each chunk that they touch is decoded once.

        Raises
        ------
        ValueError
            If the array is not 1-D, or a range does not lie within it.
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        starts, stops = _join_adjacent(*self._check_ranges(starts, stops))
        pieces, of_chunk = _cut_ranges(starts, stops, self._edge(starts, stops))
        groups = group_by_chunk(of_chunk)
        # Located before anything is allocated: a declared size that no file backs fails here.
        plan = self._plan(groups.chunks)
        n_elements = int((stops - starts).sum())
        out = np.empty(n_elements, dtype=self.dtype) if empty is None else empty(n_elements)
        pieces, bounds = pieces[groups.order], groups.bounds.tolist()
        whole = self._whole_chunks(pieces, groups.bounds, out)

        def copy(position: int, chunk: NDArray[Any]) -> None:
            if chunk is whole.get(position):
                return
            for source, length, target in pieces[slice(*bounds[position : position + 2])].tolist():
                out[target : target + length] = chunk[source : source + length]

        self._visit(plan, copy, whole)
        return out

    def _whole_chunks(
        self, pieces: NDArray[np.int64], bounds: NDArray[np.int64], out: NDArray[Any]
    ) -> dict[int, NDArray[Any]]:
        """Return where chunks go that are wanted once and whole: decoded there, not copied."""
        edge = self.metadata.chunks[0]
        if out.dtype != self.dtype or not out.flags.c_contiguous:
            return {}
        first = bounds[:-1]
        is_whole = (np.diff(bounds) == 1) & (pieces[first, 1] == edge)
        targets = pieces[first[is_whole], 2].tolist()
        return {
            position: out[target : target + edge]
            for position, target in zip(np.flatnonzero(is_whole).tolist(), targets, strict=True)
        }

    def take_1d(self, positions: NDArray[np.integer]) -> NDArray[Any]:
        """Read single elements of a 1-D array.

        Parameters
        ----------
        positions : (m,) ndarray of int
            Positions in any order, with or without repetition.

        Returns
        -------
        (m,) ndarray
            The elements. Each chunk that they touch is decoded once.

        Raises
        ------
        ValueError
            If the array is not 1-D, or a position does not lie within it.
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        at, stops = self._check_ranges(positions, np.asarray(positions) + 1)
        edge = self._edge(at, stops)
        groups = group_by_chunk(at // edge)
        out = np.empty(len(at), dtype=self.dtype)

        def copy(position: int, chunk: NDArray[Any]) -> None:
            here = groups.pieces(position)
            out[here] = chunk[at[here] - groups.chunks[position] * edge]

        self.visit_chunks(groups.chunks, copy)
        return out

    def _open_source(self) -> ChunkSource:
        coding = self.metadata.coding
        if coding is not None:
            return CodedChunks(self._store.files, self.path, self.metadata, coding)
        from stformat.store.zarr_bridge import ZarrChunks  # noqa: PLC0415 - zarr is dear to import

        return ZarrChunks(self._store, self.path, self.metadata)

    def _check_ranges(
        self, starts: NDArray[np.integer], stops: NDArray[np.integer]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if len(self.shape) != 1:
            raise ValueError(f"{self.path} must have one axis, has shape {self.shape}")
        first = np.asarray(starts, dtype=np.int64)
        last = np.asarray(stops, dtype=np.int64)
        outside = (first < 0) | (last < first) | (last > self.shape[0])
        if outside.any():
            at = int(np.argmax(outside))
            raise ValueError(
                f"{self.path} has elements 0 to {self.shape[0]}, got the range {first[at]} to "
                f"{last[at]}"
            )
        return first, last

    def _edge(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> int:
        """Return the length of a chunk, for a request that can be planned in memory."""
        edge = self.metadata.chunks[0]
        if int((-(-stops // edge) - starts // edge).sum()) > _MAX_REQUEST_CHUNKS:
            raise UnsupportedStoreError(
                Problem(
                    "array.request-size",
                    self.path,
                    "one request may touch at most 2**22 chunks",
                    f"{len(starts)} ranges in chunks of {edge} elements",
                    "ask for less at a time",
                )
            )
        return edge

    def _plan(self, chunks: NDArray[np.int64]) -> _Plan:
        uses_cache = len(chunks) * self.chunk_bytes <= self._kept_bytes
        cached: list[tuple[int, NDArray[Any]]] = []
        missing = np.arange(len(chunks))
        if uses_cache:
            found = [self._cache.get((self.path, number)) for number in chunks.tolist()]
            cached = [(at, chunk) for at, chunk in enumerate(found) if chunk is not None]
            missing = np.array([at for at, chunk in enumerate(found) if chunk is None], dtype=int)
        return _Plan(
            chunks=chunks,
            cached=cached,
            missing=missing.tolist(),
            runs=self._source.locate(chunks[missing]) if len(missing) else [],
            keeps_chunks=uses_cache,
        )

    def _visit(
        self, plan: _Plan, visit: Visit, places: Mapping[int, NDArray[Any]] = _NOWHERE
    ) -> None:
        """Visit chunks; where none are kept, those that have a place are decoded there."""
        scratch = threading.local()

        def new_chunk(wanted: int) -> NDArray[Any]:
            if plan.keeps_chunks:
                return self._cache.empty(self.metadata.chunks, self.dtype)
            place = places.get(plan.missing[wanted])
            if place is not None:
                return place
            if not hasattr(scratch, "chunk"):
                scratch.chunk = np.empty(self.metadata.chunks, dtype=self.dtype)
            chunk: NDArray[Any] = scratch.chunk
            return chunk

        insides = self._insides(plan.chunks)

        def show(position: int, chunk: NDArray[Any]) -> None:
            inside = insides.get(position)
            visit(position, chunk if inside is None else chunk[inside])

        def decode_run(number: int) -> None:
            run = plan.runs[number]
            with reader.read(number) as data:
                for wanted, chunk in self._source.iter_run(run, data, new_chunk):
                    position = plan.missing[wanted]
                    if plan.keeps_chunks:
                        self._cache.put((self.path, int(plan.chunks[position])), chunk)
                    show(position, chunk)

        with RunReader(self._store.files, plan.runs) as reader:
            for position, chunk in plan.cached:
                show(position, chunk)
            map_chunks(decode_run, range(len(plan.runs)))

    def _insides(self, chunks: NDArray[np.int64]) -> dict[int, tuple[slice, ...]]:
        """Return the part that lies within the array of each chunk that overhangs its end."""
        index = np.stack(np.unravel_index(chunks, self.grid), axis=1)
        edges = np.array(self.metadata.chunks)
        ends = np.array(self.shape) - index * edges
        overhanging = np.flatnonzero((ends < edges).any(axis=1))
        return {
            position: tuple(slice(end) for end in row)
            for position, row in zip(overhanging.tolist(), ends[overhanging].tolist(), strict=True)
        }


def _join_adjacent(
    starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Join each range that begins where the one before it ends, and drop empty ones."""
    there = stops > starts
    starts, stops = starts[there], stops[there]
    apart = starts[1:] != stops[:-1]
    first = np.append(True, apart)[: len(starts)]
    last = np.append(apart, True)[: len(starts)]
    return starts[first], stops[last]


def _cut_ranges(
    starts: NDArray[np.int64], stops: NDArray[np.int64], edge: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut ranges, none empty, where chunks of `edge` elements meet.

    Returns
    -------
    pieces : (m, 3) ndarray of int64
        Columns: first element within the chunk, length, first element within the request.
    chunk : (m,) ndarray of int64
        Chunk of each piece.
    """
    first = starts // edge
    n_pieces = (stops - 1) // edge - first + 1
    of_range = np.repeat(np.arange(len(starts)), n_pieces)
    nth = np.arange(len(of_range)) - (np.cumsum(n_pieces) - n_pieces)[of_range]
    chunk = first[of_range] + nth
    low = np.maximum(starts[of_range], chunk * edge)
    length = np.minimum(stops[of_range], (chunk + 1) * edge) - low
    target = np.cumsum(length) - length
    return np.stack([low - chunk * edge, length, target], axis=1), chunk
