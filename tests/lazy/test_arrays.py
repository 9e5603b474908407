from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xarray.core import indexing

from stformat.lazy.arrays import ExpressionArray, RowChunks, row_chunks
from stformat.store.layout import SHARD_PX, spatial_order
from stformat.store.lazy_array import OuterArray


@given(
    xy=st.lists(st.tuples(*[st.floats(-5000, 20000)] * 2), max_size=60),
    max_rows=st.integers(1, 20),
)
def test_row_chunks_keep_to_one_cell_and_to_the_limit(xy, max_rows):
    xy = np.array(xy, dtype=np.float64).reshape(-1, 2)
    xy = xy[spatial_order(xy)]
    chunks = row_chunks(xy, max_rows=max_rows)
    assert sum(chunks) == len(xy)
    assert max(chunks) <= max_rows
    cells = np.floor(xy / SHARD_PX).tolist()
    stops = np.cumsum(chunks)
    for start, stop in zip(stops - chunks, stops, strict=True):
        assert all(cell == cells[start] for cell in cells[start:stop])


def test_row_chunks_are_no_more_than_cells_and_limit_need():
    # 5 rows in one cell and 7 in the next, at most 3 a chunk.
    xy = np.array([[1.0, 1.0]] * 5 + [[5000.0, 1.0]] * 7)
    assert row_chunks(xy, max_rows=3) == (3, 2, 3, 2, 2)
    assert row_chunks(xy, max_rows=100) == (5, 7)


def test_preferred_chunks_name_obs_alone_and_are_never_copied_with_a_second_slide(wide):
    chunks = RowChunks(wide, 1)
    assert list(chunks) == ["obs"]
    assert len(chunks) == 1
    assert "c" not in chunks
    assert copy.deepcopy(chunks) is chunks


def test_an_array_without_take_is_no_lazy_array():
    with pytest.raises(NotImplementedError):
        OuterArray().take(np.array([0]))


def test_backend_arrays_keep_to_what_xarray_asks_of_them(wide):
    array = ExpressionArray(
        slide=wide,
        columns=None,
        normalize=None,
        target_sum=None,
        shape=(wide.n_obs, wide.n_vars),
        dtype=np.dtype(np.float32),
    )
    counts = wide.counts[:].toarray()
    rows, genes = np.array([-1, 3]), np.array([2, -30])
    outer = array[indexing.OuterIndexer((rows, genes))]
    np.testing.assert_array_equal(outer, counts[np.ix_(rows, genes)])
    one = array[indexing.BasicIndexer((-2, slice(None, None, -1)))]
    np.testing.assert_array_equal(one, counts[-2, ::-1])
    none = array[indexing.OuterIndexer((np.array([], dtype=int), slice(2, 2)))]
    assert none.shape == (0, 0)
