"""Bins of one size as tables: places joined to counts, or bins of a finer size added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stformat.errors import CountsError, PositionsError, Problem
from stformat.kernels import pool_bins
from stformat.model import Counts, Note
from stformat.row_order import BYTES_PER_VALUE, ordered_blocks
from stformat.sources._bin_positions import BinPositions
from stformat.sources._notes import counted, named
from stformat.sources._packed_text import unpack
from stformat.sources._row_matrix import RowMatrix
from stformat.spill import Spill
from stformat.text_keys import rows_of

__all__ = ["Bins", "array_step", "coarser_bins", "join_bins", "kept_counts", "rows_of_names"]

_SHOWN = 6
_SUFFIX = b"-1"
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Bins that have both counts and a place, and how their counts are read."""

    names: NDArray[np.bytes_]
    """(n,) barcodes."""

    in_tissue: NDArray[np.bool_]
    """(n,) True where tissue covers the bin."""

    array_row: NDArray[np.int32]
    """(n,) row on the capture array."""

    array_col: NDArray[np.int32]
    """(n,) column on the capture array."""

    xy: NDArray[np.float64]
    """(n, 2) centres in full-resolution pixels of the source, columns ``(x, y)``."""

    counts: Callable[[NDArray[np.int64] | None], Counts]
    """Counts of some features, or of all for None, one row a bin."""

    notes: tuple[Note, ...]
    """What a user of the bins should know."""


def rows_of_names(
    barcodes: NDArray[np.bytes_], names: NDArray[np.bytes_]
) -> tuple[NDArray[np.int64], bool]:
    """Find the places of barcodes, with or without ``-1`` at their ends.

    Parameters
    ----------
    barcodes : (m,) ndarray of bytes
        Rows of counts.
    names : (n,) ndarray of bytes
        What has places, unique.

    Returns
    -------
    (m,) ndarray of int64
        Row of `names`, or -1.
    bool
        Whether one side leaves out the suffix that the other has.

    Examples
    --------
    >>> rows_of_names(np.array([b"c1-1"]), np.array([b"c0", b"c1"]))
    (array([1]), True)
    """
    rows = rows_of(barcodes, names)
    if (rows >= 0).any():
        return rows, False
    for first, second in ((barcodes, _with_suffix(names)), (_with_suffix(barcodes), names)):
        rows = rows_of(first, second)
        if (rows >= 0).any():
            return rows, True
    return rows, False


def _with_suffix(names: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    longer: NDArray[np.bytes_] = np.char.add(names, _SUFFIX)
    return longer


def join_bins(matrix: RowMatrix, positions: BinPositions, *, region: str, where: str) -> Bins:
    """Give each row of counts its place.

    Parameters
    ----------
    matrix : RowMatrix
        The counts.
    positions : BinPositions
        The places.
    region : str
        Name of the size, for notes.
    where : str
        Files that both come from, for messages.

    Returns
    -------
    Bins
        Rows that stand on both sides, in the order of the count matrix.

    Raises
    ------
    PositionsError
        If no row finds its place.
    """
    rows, is_suffixed = rows_of_names(matrix.barcodes, positions.names)
    is_joined = rows >= 0
    n_joined = int(np.count_nonzero(is_joined))
    if not n_joined:
        raise PositionsError(
            Problem(
                "positions.no-join",
                where,
                "barcodes of the counts must be those of the tissue positions",
                f"{', '.join(unpack(matrix.barcodes[:3])) or 'none'} in the counts, "
                f"{', '.join(unpack(positions.names[:3]))} in the positions",
                "check that both are of the same sample",
            )
        )
    notes = list(matrix.notes)
    if is_suffixed:
        joining = counted(n_joined, "barcode joins", "barcodes join")
        message = f"{joining} without the suffix -1, which one of the files leaves out."
        notes.append(Note(code="barcodes.suffix", message=message, count=n_joined))
    places = rows[is_joined]
    n_lost = len(rows) - n_joined
    if n_lost:
        lost = unpack(matrix.barcodes[np.flatnonzero(~is_joined)[:_SHOWN]])
        counts_have = counted(n_lost, "row of counts has", "rows of counts have")
        message = f"{region}: {counts_have} no place and cannot be stored: {_named(lost, n_lost)}."
        notes.append(Note(code="counts.without-position", message=message, count=n_lost))
    n_alone = len(positions.names) - n_joined
    if n_alone:
        bins = counted(
            n_alone, "bin has no counts and is not a row", "bins have no counts and are not rows"
        )
        message = f"{region}: {bins} of the table."
        notes.append(Note(code="bins.without-counts", message=message, count=n_alone))
    in_tissue = positions.in_tissue[places]
    n_off = n_joined - int(np.count_nonzero(in_tissue))
    if n_off:
        bins = counted(n_off, "row is a bin", "rows are bins")
        message = f"{region}: {bins} that the tissue positions flag as not in tissue."
        notes.append(Note(code="bins.off-tissue", message=message, count=n_off))
    return Bins(
        names=matrix.barcodes if not n_lost else matrix.barcodes[is_joined],
        in_tissue=in_tissue,
        array_row=positions.array_row[places],
        array_col=positions.array_col[places],
        xy=positions.xy[places],
        counts=kept_counts(matrix, is_joined if n_lost else None, n_joined),
        notes=tuple(notes),
    )


def _named(shown: list[str], number: int) -> str:
    """List the first few of some names, of which there may be millions."""
    return named(shown) if number <= len(shown) else f"{', '.join(shown)} and others"


def kept_counts(
    matrix: RowMatrix, is_kept: NDArray[np.bool_] | None, n_kept: int
) -> Callable[[NDArray[np.int64] | None], Counts]:
    """Return what reads the counts of some features, or of all for None, of the kept rows."""

    def counts(columns: NDArray[np.int64] | None) -> Counts:
        def blocks() -> Iterator[sparse.csr_array]:
            start = 0
            for block in matrix.iter_blocks():
                stop = start + block.shape[0]
                if is_kept is not None:
                    block = block[np.flatnonzero(is_kept[start:stop])]  # noqa: PLW2901 - narrowed
                yield block if columns is None else block[:, columns]
                start = stop

        n_columns = len(matrix.features.ids) if columns is None else len(columns)
        return Counts(
            shape=(n_kept, n_columns), dtype=matrix.dtype, iter_blocks=blocks, nnz=matrix.nnz
        )

    return counts


def coarser_bins(
    bins: Bins, positions: BinPositions, *, factor: int, size_um: int, scratch: Path | None
) -> Bins:
    """Add up bins of a finer size, exactly.

    Parameters
    ----------
    bins : Bins
        Bins of the finer size.
    positions : BinPositions
        All places of the finer size, also those without counts.
    factor : int
        Sides of finer bins along the side of a coarser one.
    size_um : int
        Side of a coarser bin in microns, for barcodes.
    scratch : pathlib.Path or None
        Directory for temporary files, used where the finer counts do not fit into memory.

    Returns
    -------
    Bins
        A row for each coarser bin that holds a finer one with counts, by row and column of the
        array. Its centre is that of all places in it; where some are missing, as at the edge of the
        array, they are made up for by the array's own step. It is in tissue where one of these is.

    Raises
    ------
    CountsError
        By the iteration of counts: if a sum is none of int32.
    """
    width = int(positions.array_col.max()) // factor + 1
    group_of = (bins.array_row // factor).astype(np.int64) * width + bins.array_col // factor
    groups, group_of = np.unique(group_of, return_inverse=True)
    array_row, array_col = np.divmod(groups, width)
    xy, in_tissue = _centres(positions, groups, width=width, factor=factor)
    names = [
        b"s_%03dum_%05d_%05d-1" % (size_um, row, col)
        for row, col in zip(array_row.tolist(), array_col.tolist(), strict=True)
    ]

    def counts(columns: NDArray[np.int64] | None) -> Counts:
        return _pooled_counts(bins.counts(columns), group_of, len(groups), scratch)

    return Bins(
        names=np.array(names, dtype=np.bytes_),
        in_tissue=in_tissue,
        array_row=array_row.astype(np.int32),
        array_col=array_col.astype(np.int32),
        xy=xy,
        counts=counts,
        notes=(),
    )


def _centres(
    positions: BinPositions, groups: NDArray[np.int64], *, width: int, factor: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Centres of coarser bins, and which are in tissue."""
    n_groups = len(groups)
    sums = np.zeros((4, n_groups))
    n_members = np.zeros(n_groups, dtype=np.int64)
    n_tissue = np.zeros(n_groups, dtype=np.int64)
    for start in range(0, len(positions.names), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        rows, cols = positions.array_row[block], positions.array_col[block]
        group = (rows // factor).astype(np.int64) * width + cols // factor
        place = np.minimum(np.searchsorted(groups, group), n_groups - 1)
        inside = groups[place] == group
        place = place[inside]
        xy = positions.xy[block][inside]
        for axis, values in enumerate((xy[:, 0], xy[:, 1], cols[inside], rows[inside])):
            sums[axis] += np.bincount(place, weights=values, minlength=n_groups)
        n_members += np.bincount(place, minlength=n_groups)
        n_tissue += np.bincount(place[positions.in_tissue[block][inside]], minlength=n_groups)
    x, y, col, row = sums / n_members
    group_row, group_col = np.divmod(groups, width)
    middle = (factor - 1) / 2
    missing = np.stack([group_col * factor + middle - col, group_row * factor + middle - row])
    centres = np.stack([x, y], axis=1)
    if missing.any():
        centres += missing.T @ array_step(positions)
    return centres, n_tissue > 0


def array_step(positions: BinPositions) -> NDArray[np.float64]:
    """Fit pixels of one step along the array's columns and rows: rows of a (2, 2) array.

    A regular sample of the bins tells, and twelve digits: the last ones depend on the machine's
    linear algebra, and a store must not.
    """
    step = -(-len(positions.names) // _ROWS_AT_ONCE)
    places = np.stack([positions.array_col[::step], positions.array_row[::step]], axis=1)
    xy = positions.xy[::step]
    linear = np.linalg.lstsq(places - places.mean(axis=0), xy - xy.mean(axis=0))[0]
    return np.array([[float(f"{value:.12g}") for value in row] for row in linear])


def _pooled_counts(
    counts: Counts, group_of: NDArray[np.int64], n_groups: int, scratch: Path | None
) -> Counts:
    def blocks() -> Iterator[sparse.csr_array]:
        order = np.argsort(group_of, kind="stable")
        ordered_groups = group_of[order]
        with Spill(scratch) as spill:
            if counts.nnz is not None:
                spill.expect(counts.nnz * BYTES_PER_VALUE)
            sent = done = 0
            held: list[sparse.csr_array] = []  # rows of one group, which may go on
            for block in ordered_blocks(counts, order, spill):
                done += block.shape[0]
                last = ordered_groups[done - 1]
                stop = sent + int(np.searchsorted(ordered_groups[sent:done], last))
                cut = max(0, stop - (done - block.shape[0]))
                if stop > sent:
                    yield _pooled([*held, block[:cut]], ordered_groups[sent:stop])
                    held = []
                    sent = stop
                held.append(block[cut:])
            if held:
                yield _pooled(held, ordered_groups[sent:])

    return Counts(
        shape=(n_groups, counts.shape[1]), dtype=counts.dtype, iter_blocks=blocks, nnz=counts.nnz
    )


def _pooled(parts: list[sparse.csr_array], groups: NDArray[np.int64]) -> sparse.csr_array:
    """Add up the rows of each group; groups ascend without gaps."""
    rows = parts[0] if len(parts) == 1 else sparse.csr_array(sparse.vstack(parts, format="csr"))
    n_groups = int(groups[-1] - groups[0]) + 1
    indptr: NDArray[Any] = rows.indptr.astype(np.int64)
    try:
        data, indices, starts = pool_bins(
            rows.data, rows.indices.astype(np.int32), indptr, groups - groups[0], n_groups
        )
    except OverflowError as error:
        raise CountsError(
            Problem(
                "counts.overflow",
                "bins of a coarser size",
                "sums of counts must fit in int32",
                str(error),
            )
        ) from error
    return sparse.csr_array((data, indices, starts), shape=(n_groups, rows.shape[1]))
