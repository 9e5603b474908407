"""The counts of a slide as a dask array of sparse blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import dask.array as da
import numpy as np
from dask.base import tokenize
from numpy.typing import NDArray
from scipy import sparse

from stformat.store.layout import VECTOR_SHARD
from stformat.store.reader import Slide
from stformat.store.row_index import RowIndex

__all__ = ["counts_as_dask", "sparse_blocks"]

type CsrType = type[sparse.csr_array | sparse.csr_matrix]


def counts_as_dask(slide: Slide, *, rows_per_block: int | None = None) -> da.Array:
    """Return the counts of a slide's bound table as a dask array whose blocks are sparse.

    This is the form in which scanpy and rapids-singlecell work through matrices that do not fit
    into memory.

    Parameters
    ----------
    slide : Slide
        The slide. Blocks are read through it while it is open; another process reopens the same
        version of the store, once.
    rows_per_block : int, optional
        Rows of a block, at least 1. By default a block begins at the first row that lies wholly in
        a shard of the stored values: about 4194304 stored values a block, 32 MiB, however many rows
        they are.

    Returns
    -------
    dask.array.Array
        ``(n_obs, n_vars)`` of ``slide.counts.dtype``; each block is a `scipy.sparse.csr_array` of
        some rows and all genes. A slice of rows reads those rows only. Its name follows from the
        store's content, so that equal graphs share their results.

    Raises
    ------
    ValueError
        If `rows_per_block` is below 1.

    Notes
    -----
    A block takes 8 bytes a stored value (int32 or float32, and its column) and 4 a row. Making the
    array loads 8 bytes a row of the table, and so does each process that reads blocks.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stformat as stf
    >>> from stformat.testing import make_slide, write_legacy_st
    >>> folder = Path(tempfile.mkdtemp())
    >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
    >>> with stf.open_slide(stf.convert_slide(source, folder / "slide.zarr")) as slide:
    ...     counts = stf.counts_as_dask(slide, rows_per_block=5)
    ...     block = counts[3:11].compute()
    ...     counts.chunksize, type(block).__name__, block.shape
    ((5, 2000), 'csr_array', (8, 2000))
    """
    if rows_per_block is not None and rows_per_block < 1:
        raise ValueError(f"rows_per_block must be at least 1, got {rows_per_block}")
    return sparse_blocks(slide, rows_per_block, sparse.csr_array)


def sparse_blocks(slide: Slide, rows_per_block: int | None, csr: CsrType) -> da.Array:
    """Return counts in blocks of either of SciPy's two types; see `counts_as_dask`."""
    if rows_per_block is None:
        heights = _shard_heights(slide.counts.indptr)
    else:
        n_whole, n_left = divmod(slide.n_obs, rows_per_block)
        heights = (rows_per_block,) * n_whole + ((n_left,) if n_left or not n_whole else ())
    blocks: da.Array = da.from_array(  # type: ignore[no-untyped-call]  # dask is typed in part
        _CountsMatrix(slide=slide, csr=csr),
        chunks=(heights, (slide.n_vars,)),
        name=f"counts-{tokenize(slide, csr, heights)}",
        asarray=False,
        meta=csr((0, 0), dtype=slide.counts.dtype),
    )
    return blocks


def _shard_heights(indptr: NDArray[np.int64]) -> tuple[int, ...]:
    """Return the heights of blocks, each of which begins with a shard of the stored values.

    Examples
    --------
    Rows of two and a half million values: the third is the first that the second shard holds whole.

    >>> _shard_heights(np.arange(5) * 2_500_000)
    (2, 2)
    """
    first_rows = np.searchsorted(indptr, np.arange(0, indptr[-1] + 1, VECTOR_SHARD))
    edges = np.unique([0, *first_rows, len(indptr) - 1])
    return tuple(np.diff(edges).tolist()) or (0,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _CountsMatrix:
    """What dask slices: rows are read, columns chosen from them."""

    slide: Slide
    csr: CsrType
    ndim: ClassVar[int] = 2

    @property
    def shape(self) -> tuple[int, int]:
        return self.slide.counts.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.slide.counts.dtype

    def __getitem__(self, key: tuple[RowIndex, Any]) -> sparse.csr_array | sparse.csr_matrix:
        rows, columns = key
        # One after the other: two lists at once would be pairs to SciPy, and are a product to dask.
        block = self.csr(self.slide.counts[rows])[:, columns]
        return block[0] if isinstance(rows, int | np.integer) else block
