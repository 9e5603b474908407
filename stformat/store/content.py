"""Whether the bytes of a store decode, and its copies of the counts agree: reads everything once.

Specification: spec/stformat-0.1.md, sections 5 to 8. One chunk a thread and one block of values
are held at a time, besides a few numbers a row and a gene.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.errors import Problem, StoreError
from stformat.metadata.stformat_v0_1 import TableAttributes
from stformat.metadata.zarr_array import ArrayMetadata
from stformat.store.arrays import ArrayReader
from stformat.store.layout import by_gene_path, spots_path
from stformat.store.opened import CommittedStore
from stformat.store.zarr_bridge import UNREADABLE, open_array

__all__ = ["chunk_problems", "table_problems"]

_CHUNKS_AT_ONCE = 1024
_VALUES_AT_ONCE = 1 << 20
_MOST_PROBLEMS = 100
_REMEDY = "restore the store from a copy, or convert the slide again"


def chunk_problems(
    store: CommittedStore, path: str, n_files: int, *, is_own: bool
) -> Iterator[Problem]:
    """Yield a problem for each chunk of an array that does not decode, at most 100.

    Parameters
    ----------
    store : CommittedStore
        The store.
    path : str
        Path of the array.
    n_files : int
        Files that the manifest lists below the array, its zarr.json not counted.
    is_own : bool
        Whether the format lays the array out: then every chunk is there, under a checksum.

    Yields
    ------
    Problem
        What is missing or does not decode.
    """
    try:
        metadata = store.array(path)
        if is_own and not _has_own_codecs(path, metadata):
            yield _problem("verify.codecs", path, "shards of a codec with checksums", "others")
            return
        n_expected = math.prod(_grid(metadata.shape, metadata.shards or metadata.chunks))
        if n_files < n_expected and is_own:
            yield _problem("verify.shards", path, f"{n_expected} shards", f"{n_files} files")
        elif n_files >= n_expected and metadata.has_checksums:
            yield from itertools.islice(_undecodable(store, path, metadata), _MOST_PROBLEMS)
    except StoreError as error:
        yield from error.problems


def table_problems(store: CommittedStore, table: TableAttributes) -> Iterator[Problem]:
    """Yield what is wrong with the matrices and the places of a table.

    Parameters
    ----------
    store : CommittedStore
        The store; its metadata agree with its root attribute.
    table : TableAttributes
        The table.

    Yields
    ------
    Problem
        Where a matrix is not what the specification asks for, or the two copies of it, or the two
        copies of the centres, differ.
    """
    shape = (table.n_obs, table.n_vars)
    by_row = _Matrix(store, f"tables/{table.name}/X", shape, is_by_row=True)
    by_gene = _Matrix(store, by_gene_path(table.name), shape, is_by_row=False)
    try:
        yield from by_row.scan()
        yield from by_gene.scan()
        if not (by_row.is_sound and by_gene.is_sound):
            return
        if by_row.fingerprint != by_gene.fingerprint:
            yield _problem("verify.by-gene", by_gene.path, f"the values of {by_row.path}", "others")
        if not math.isclose(by_row.total, table.total, rel_tol=by_row.tolerance):
            yield _problem(
                "verify.total", by_row.path, f"a sum of {table.total}", f"{by_row.total}"
            )
        yield from _summary_problems(store, table, by_row)
        for name in ("x", "y"):
            own, theirs = f"{spots_path(table.name)}/{name}", f"tables/{table.name}/obs/{name}"
            if not _are_equal(ArrayReader(store, own), ArrayReader(store, theirs)):
                yield _problem("verify.spots", own, f"the values of {theirs}", "others")
    except StoreError as error:
        yield from error.problems


class _Matrix:
    """One copy of a count matrix, read from its beginning to its end."""

    def __init__(
        self, store: CommittedStore, path: str, shape: tuple[int, int], *, is_by_row: bool
    ) -> None:
        self.path = path
        self._n_vars = shape[1]
        self._n_minor = shape[1] if is_by_row else shape[0]
        self._is_by_row = is_by_row
        self._data = ArrayReader(store, f"{path}/data")
        self._indices = ArrayReader(store, f"{path}/indices")
        self._indptr = ArrayReader(store, f"{path}/indptr")
        # Sums of whole numbers are exact; others depend on the order of the terms.
        self.tolerance = 0.0 if self._data.dtype.kind in "iu" else 1e-9
        self.is_sound = False
        self.total = 0.0
        self.fingerprint = 0
        """Sum of a hash of (row, column, value) over all values: the same for any order."""
        self.lengths: NDArray[np.int64]
        """Stored values of each row, or of each gene."""
        self.sums: NDArray[np.float64]
        """Sum of each row, or of each gene."""

    def scan(self) -> Iterator[Problem]:
        """Read it; yields the first problem of its kind and stops where there is one."""
        nnz = self._data.shape[0]
        indptr = self._indptr.read_1d(0, self._indptr.shape[0])
        self.lengths = np.diff(indptr)
        if indptr[0] != 0 or indptr[-1] != nnz or (self.lengths < 0).any():
            yield _problem(
                "verify.indptr", self.path, f"an indptr that ascends from 0 to {nnz}", "another"
            )
            return
        self.sums = np.zeros(len(self.lengths))
        before = -1, -1
        for start in range(0, nnz, _VALUES_AT_ONCE):
            block = self._read(indptr, start, min(start + _VALUES_AT_ONCE, nnz))
            fault = block.fault(before, self._n_minor)
            if fault:
                yield _problem(fault[0], self.path, fault[1], f"others from value {start} on")
                return
            self._add(block)
            before = int(block.major[-1]), int(block.minor[-1])
        self.total = float(self.sums.sum())
        self.is_sound = True

    def _read(self, indptr: NDArray[np.int64], start: int, stop: int) -> _Block:
        first = int(np.searchsorted(indptr, start, side="right")) - 1
        last = int(np.searchsorted(indptr, stop, side="left"))
        bounds = np.clip(indptr[first : last + 1], start, stop)
        return _Block(
            major=np.repeat(np.arange(first, last), np.diff(bounds)),
            minor=self._indices.read_1d(start, stop).astype(np.int64),
            values=self._data.read_1d(start, stop).astype(np.float64),
        )

    def _add(self, block: _Block) -> None:
        first, last = block.major[0], block.major[-1] + 1
        self.sums[first:last] += np.bincount(
            block.major - first, weights=block.values, minlength=last - first
        )
        row, column = block.major, block.minor
        if not self._is_by_row:
            row, column = column, row
        place = (row * self._n_vars + column).astype(np.uint64)
        hashed = _mixed(_mixed(place) + block.values.view(np.uint64))
        self.fingerprint = (self.fingerprint + int(hashed.sum(dtype=np.uint64))) % 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Some consecutive values of a matrix."""

    major: NDArray[np.int64]
    minor: NDArray[np.int64]
    values: NDArray[np.float64]

    def fault(self, before: tuple[int, int], n_minor: int) -> tuple[str, str] | None:
        """Return the code of what does not hold, and what must, given the place before these."""
        if (self.minor < 0).any() or (self.minor >= n_minor).any():
            return "verify.indices", f"indices from 0 to {n_minor - 1}"
        major, minor = np.append(before[0], self.major), np.append(before[1], self.minor)
        if ((major[1:] == major[:-1]) & (minor[1:] <= minor[:-1])).any():
            return "verify.indices", "indices that ascend in a row or a gene"
        if not (self.values > 0).all() or np.isinf(self.values).any():
            return "verify.values", "finite values above 0"
        return None


def _summary_problems(
    store: CommittedStore, table: TableAttributes, matrix: _Matrix
) -> Iterator[Problem]:
    """Compare the columns of obs that sum up the rows of X, where they are."""
    obs = f"tables/{table.name}/obs"
    present = set(store.children(obs))
    for name, expected in (("n_genes", matrix.lengths), ("total_counts", matrix.sums)):
        if name not in present:
            continue
        column = ArrayReader(store, f"{obs}/{name}")
        if column.shape != (table.n_obs,):
            yield _problem("verify.sums", f"{obs}/{name}", f"{table.n_obs} rows", f"{column.shape}")
        elif not np.allclose(
            column.read_1d(0, table.n_obs), expected, rtol=matrix.tolerance, atol=0
        ):
            yield _problem("verify.sums", f"{obs}/{name}", f"those of {matrix.path}", "others")


def _has_own_codecs(path: str, metadata: ArrayMetadata) -> bool:
    """Return whether an array has the shards and one of the codings that the format gives it."""
    coding = metadata.coding
    if coding is None or metadata.shards is None:
        return False
    is_zstd = coding.compression == "zstd"
    # One checksum a chunk: of the content where zstd has it, else of the compressed bytes.
    checksums = coding.has_content_checksum, coding.has_crc32c
    if checksums != (is_zstd, not is_zstd):
        return False
    is_image = path.startswith("images/")
    is_of_matrix = path.rpartition("/")[2] in {"data", "indices"}
    return is_zstd or is_image or (is_of_matrix and coding.compression == "blosc")


def _undecodable(store: CommittedStore, path: str, metadata: ArrayMetadata) -> Iterator[Problem]:
    n_chunks = math.prod(_grid(metadata.shape, metadata.chunks))
    if metadata.coding is not None:
        reader = ArrayReader(store, path)
        for start in range(0, n_chunks, _CHUNKS_AT_ONCE):
            numbers = np.arange(start, min(start + _CHUNKS_AT_ONCE, n_chunks))
            yield from _bad_chunks(reader, numbers)
        return
    yield from _bad_regions(store, path, metadata)


def _bad_chunks(reader: ArrayReader, numbers: NDArray[np.int64]) -> Iterator[Problem]:
    """Decode many chunks at once; one by one where that fails, to name each."""
    try:
        reader.visit_chunks(numbers, _ignore)
    except StoreError as error:
        if len(numbers) == 1:
            yield from error.problems
            return
        for number in numbers:
            yield from _bad_chunks(reader, np.array([number]))


def _bad_regions(store: CommittedStore, path: str, metadata: ArrayMetadata) -> Iterator[Problem]:
    """Decode chunks of text, or of another encoding, through zarr-python."""
    try:
        array = open_array(store, path)
        for index in np.ndindex(*_grid(metadata.shape, metadata.chunks)):
            region = tuple(
                slice(i * edge, (i + 1) * edge)
                for i, edge in zip(index, metadata.chunks, strict=True)
            )
            array[region]
    except StoreError as error:
        yield from error.problems
    except UNREADABLE as error:
        yield _problem("verify.chunk", path, "chunks that decode", f"{error}")


def _are_equal(first: ArrayReader, second: ArrayReader) -> bool:
    return first.shape == second.shape and all(
        np.array_equal(
            first.read_1d(start, min(start + _VALUES_AT_ONCE, first.shape[0])),
            second.read_1d(start, min(start + _VALUES_AT_ONCE, first.shape[0])),
        )
        for start in range(0, first.shape[0], _VALUES_AT_ONCE)
    )


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter the bits of each value: the finalizer of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _grid(shape: Collection[int], edges: Collection[int]) -> tuple[int, ...]:
    return tuple(-(-size // edge) for size, edge in zip(shape, edges, strict=True))


def _ignore(_position: int, _chunk: NDArray[Any]) -> None:
    """Take a decoded chunk: that it decoded is all that is asked."""


def _problem(code: str, where: str, expected: str, found: str) -> Problem:
    return Problem(code, where, f"{expected} must be there", found, _REMEDY)
