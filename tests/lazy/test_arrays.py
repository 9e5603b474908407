from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stformat.lazy import arrays
from stformat.lazy.arrays import LevelArray, RowChunks, row_chunks
from stformat.store.layout import SHARD_PX, spatial_order


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


@given(positions=st.lists(st.integers(0, 30_000), min_size=1, max_size=40))
def test_spans_cover_positions_in_windows_of_a_shard_at_most(positions):
    spans = list(arrays._spans(np.array(positions)))
    covered = [place for start, stop in spans for place in positions if start <= place < stop]
    assert sorted(covered) == sorted(positions)
    assert all(stop - start <= SHARD_PX for start, stop in spans)


def test_pixels_far_apart_are_read_in_small_windows(wide, reads):
    shape = (3, wide.levels[0].height, wide.levels[0].width)
    level = LevelArray(slide=wide, level=0, shape=shape, dtype=np.dtype(np.uint8))
    pixels = level.take(np.array([2, 0]), np.array([7, 3, 7]), np.array([8000, 5, 5000]))
    whole = wide.read_region(0, 0, 0, *shape[1:])
    np.testing.assert_array_equal(pixels, whole[np.ix_([2, 0], [7, 3, 7], [8000, 5, 5000])])
    windows = [rows for name, rows in reads if name == "read_region"][:-1]
    assert windows == [(0, 3, 5, 5, 1), (0, 3, 5000, 5, 1), (0, 3, 8000, 5, 1)]


def test_an_array_without_take_is_no_slide_array():
    with pytest.raises(NotImplementedError):
        arrays.SlideArray().take(np.array([0]))
