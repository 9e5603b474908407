"""A Matrix Market matrix of any size: parsed once, kept as sparse rows, on disk where large."""

from __future__ import annotations

import weakref
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, Problem
from stformat.model import Note
from stformat.row_order import row_starts, stop_of_batch
from stformat.sources._counts_10x import (
    Features,
    check_packed_rows,
    clean_counts,
    value_notes,
    value_type,
)
from stformat.sources._counts_mtx import (
    MtxEntries,
    MtxFiles,
    check_lists,
    opened_mtx,
    read_features_mtx,
    refuse_pointer,
)
from stformat.sources._packed_text import packed_blocks
from stformat.sources._sniff import GZIP_ERRORS, open_text
from stformat.spill import Pile, Spill

__all__ = ["SpilledMtx", "spill_counts_mtx"]

MEMORY_BYTES = 1 << 26
"""Bytes of entries that stay in memory: 64 MiB."""

BLOCK_NNZ = 1 << 20
"""Stored values of a block that is given, unless a single row has more."""

BUCKET_BYTES = 1 << 26
"""Bytes of entries that are put in order at once, where the file has them in none."""

MAX_BUCKETS = 128
"""Most buckets: each may be an open file."""

_BLOCK_ROWS = 1 << 16
_LIST_BYTES = 1 << 20
_ROW = np.dtype(np.int32)


class SpilledMtx:
    """A count matrix whose rows may be read again and again; made by `spill_counts_mtx`.

    Its files have no name, and end with the last use of the matrix.
    """

    def __init__(
        self,
        held: ExitStack,
        where: str,
        rows: _Rows,
        *,
        barcodes: NDArray[np.bytes_],
        features: Features,
    ) -> None:
        weakref.finalize(self, held.close)
        self._where = where
        self._rows = rows
        self.barcodes = barcodes
        """(n_rows,) names of the rows, unique."""

        self.features = features
        """Columns."""

        self.nnz = len(rows.values)
        """Stored values, zeros among them."""

        self.dtype: np.dtype[np.int32] | np.dtype[np.float32] = (
            np.dtype(np.float32) if rows.n_non_integer else np.dtype(np.int32)
        )
        """int32, or float32 where a value is no integer."""

        self.notes: tuple[Note, ...] = value_notes(where, rows.n_zeros, rows.n_non_integer)
        """Zeros that the file stores, and values that are no integers."""

    def iter_blocks(self) -> Iterator[sparse.csr_array]:
        """Yield blocks of whole rows in the order of the barcodes, in canonical form."""
        starts = row_starts(self._rows.lengths)
        n_rows, n_features = len(self.barcodes), len(self.features.ids)
        start = 0
        while start < n_rows:
            stop = min(stop_of_batch(starts, start, BLOCK_NNZ), start + _BLOCK_ROWS)
            entries = slice(starts[start], starts[stop])
            block, _ = clean_counts(
                f"{self._where}, barcodes {start + 1} to {stop}",
                self._rows.values[entries],
                self._rows.features[entries],
                starts[start : stop + 1] - starts[start],
                shape=(stop - start, n_features),
            )
            yield block if block.dtype == self.dtype else block.astype(self.dtype)
            start = stop


def spill_counts_mtx(files: MtxFiles, *, scratch: Path | None) -> SpilledMtx:
    """Parse a Matrix Market folder once, into memory or, where it is large, into files.

    Parameters
    ----------
    files : MtxFiles
        From `stformat.sources._counts_mtx.find_mtx`.
    scratch : pathlib.Path or None
        Directory of the files; None is the system's own.

    Returns
    -------
    SpilledMtx
        The matrix.

    Raises
    ------
    CountsError
        As `stformat.sources._counts_mtx.read_counts_mtx`; a feature that stands twice in a row is
        found when the row is read.
    StoreWriteError
        If the file system refuses.

    Notes
    -----
    Memory: a block of text, the barcodes, 4 bytes a row, 12 while rows are read, and `MEMORY_BYTES`
    of entries; entries that are in no order are put into it 64 MiB at a time. On disk 12 bytes an
    entry, 16 where values are real numbers, and as much again for a matrix in no order.
    """
    where = files.matrix.name
    features = read_features_mtx(files)
    barcodes = _read_barcodes(files)
    with ExitStack() as held, opened_mtx(files.matrix) as entries:
        shape = (entries.n_features, entries.n_barcodes)
        check_lists(where, shape, n_features=len(features.ids), n_barcodes=len(barcodes))
        spill = held.enter_context(Spill(scratch, memory_bytes=MEMORY_BYTES))
        rows = _Rows(entries, spill, where)
        return SpilledMtx(held.pop_all(), where, rows, barcodes=barcodes, features=features)


def _read_barcodes(files: MtxFiles) -> NDArray[np.bytes_]:
    if files.barcodes is None:
        raise CountsError(
            Problem(
                "counts.missing",
                files.matrix.name,
                "barcodes.tsv is needed beside the matrix",
                "none",
            )
        )
    name = files.barcodes.name
    barcodes = packed_blocks(name, _first_fields(files.barcodes), topic="counts", error=CountsError)
    check_packed_rows(name, barcodes)
    return barcodes


def _first_fields(path: Path) -> Iterator[NDArray[np.object_]]:
    """Yield the first field of each line, blank ones apart, in blocks."""
    with open_text(path) as file:
        is_first = True
        while True:
            try:
                lines = file.readlines(_LIST_BYTES)
            except GZIP_ERRORS as error:
                raise CountsError(
                    Problem(
                        "counts.truncated",
                        path.name,
                        "the compressed file must be whole",
                        f"damaged or cut-off gzip data ({error})",
                        "copy the file again from its source",
                    )
                ) from error
            if not lines:
                return
            if is_first:
                refuse_pointer(path.name, lines[0])
                lines[0] = lines[0].removeprefix(BOM_UTF8)
                is_first = False
            fields = [line.split(b"\t", 1)[0].strip().strip(b'"') for line in lines if line.strip()]
            block = np.empty(len(fields), dtype=object)
            block[:] = fields
            yield block


class _Rows:
    """The entries of a matrix, row after row."""

    def __init__(self, entries: MtxEntries, spill: Spill, where: str) -> None:
        self._type = np.dtype(np.int32 if entries.value_type is np.int64 else np.float64)
        self._where = where
        self.n_zeros = self.n_non_integer = 0
        self.lengths = np.zeros(entries.n_barcodes, dtype=np.int32)
        spill.expect(entries.n_entries * (2 * _ROW.itemsize + self._type.itemsize))
        piles = spill.pile(), spill.pile(), spill.pile()
        if not self._append_all(entries, *piles):
            piles = self._in_order(spill, *piles)
        rows, features, values = piles
        rows.clear()
        self.features = features.joined(_ROW)
        """(n_entries,) int32."""

        self.values = values.joined(self._type)
        """(n_entries,) int32 or float64."""
        if not spill.is_on_disk:  # what is joined is a copy
            features.clear()
            values.clear()

    def _append_all(self, entries: MtxEntries, rows: Pile, features: Pile, values: Pile) -> bool:
        """Read all entries; return whether they stand row after row."""
        last = 0
        is_ordered = True
        for feature, barcode, value in entries.blocks():
            self.n_non_integer += value_type(self._where, value)[1]
            self.n_zeros += len(value) - int(np.count_nonzero(value))
            is_ordered &= bool(barcode[0] >= last and (barcode[1:] >= barcode[:-1]).all())
            last = int(barcode[-1])
            low, high = int(barcode.min()), int(barcode.max()) + 1
            self.lengths[low:high] += np.bincount(barcode - low).astype(np.int32)
            rows.append(barcode)
            features.append(feature)
            values.append(value.astype(self._type, copy=False))
        return is_ordered

    def _in_order(
        self, spill: Spill, rows: Pile, features: Pile, values: Pile
    ) -> tuple[Pile, Pile, Pile]:
        """Put entries row after row, those of one row in the order of the file."""
        entry = np.dtype([("row", _ROW), ("feature", _ROW), ("value", self._type)])
        n_bytes = int(self.lengths.sum(dtype=np.int64)) * entry.itemsize
        n_buckets = min(MAX_BUCKETS, max(1, -(-n_bytes // BUCKET_BYTES)))
        # Rows of a bucket have about as many entries as those of any other.
        starts = row_starts(self.lengths)[:-1]
        bucket_of = (starts * n_buckets // max(1, int(starts[-1]) + 1)).astype(np.uint8)
        buckets = [spill.pile() for _ in range(n_buckets)]
        pieces = zip(rows.pieces(), features.pieces(), values.pieces(), strict=True)
        for row, feature, value in pieces:
            entries = np.empty(len(row), dtype=entry)
            entries["row"], entries["feature"], entries["value"] = row, feature, value
            _scatter(entries, bucket_of[row], buckets)
        for pile in (rows, features, values):
            pile.clear()
        for bucket in buckets:
            unordered = bucket.joined(entry)
            order = np.argsort(unordered["row"], kind="stable")
            features.append(np.ascontiguousarray(unordered["feature"][order]))
            values.append(np.ascontiguousarray(unordered["value"][order]))
            bucket.clear()
        return rows, features, values


def _scatter(entries: NDArray[Any], bucket: NDArray[np.uint8], buckets: list[Pile]) -> None:
    """Append entries to their buckets."""
    order = np.argsort(bucket, kind="stable")
    ends = np.cumsum(np.bincount(bucket, minlength=len(buckets)))
    for pile, start, stop in zip(buckets, [0, *ends[:-1]], ends, strict=True):
        if stop > start:
            pile.append(entries[order[start:stop]])
