from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xarray.core import indexing

from stformat.store.commit import replace_store
from stformat.store.lazy_image import LevelArray, read_pixels
from stformat.store.reader import open_slide
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

HEIGHT, WIDTH = 1100, 2300


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "slide"
    with replace_store(path) as directory:
        write_slide(make_record(image_px=(HEIGHT, WIDTH)), directory)
    with open_slide(path) as slide:
        yield slide


@pytest.fixture(scope="module")
def whole(slide):
    return slide.read_region(0, 0, 0, HEIGHT, WIDTH)


def positions(size):
    at = st.lists(st.integers(0, size - 1), min_size=1, max_size=30)
    steps = st.builds(
        lambda start, step: list(range(start, size, step)),
        st.integers(0, size - 1),
        st.integers(1, 700),
    )
    return st.one_of(at, steps, steps.map(lambda chosen: chosen[::-1]))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=positions(HEIGHT), cols=positions(WIDTH))
def test_pixels_are_those_where_rows_and_columns_cross(slide, whole, rows, cols):
    pixels = read_pixels(slide.opened.engine.level(0), np.array(rows), np.array(cols))
    np.testing.assert_array_equal(pixels, whole[:, rows][:, :, cols])


def test_chunks_between_wanted_pixels_are_not_read(slide, monkeypatch):
    level = slide.opened.engine.level(0)
    asked = []
    visit = level.visit_chunks
    monkeypatch.setattr(
        level, "visit_chunks", lambda chunks, copy: (asked.append(chunks), visit(chunks, copy))
    )
    read_pixels(level, np.array([5, 1030]), np.array([2299, 3, 4]))
    (chunks,) = asked
    # Nine chunks a row: the first and the last of the first row and of the fifth.
    assert chunks.tolist() == [0, 8, 36, 44]


def test_a_strided_read_takes_the_memory_of_its_result(slide, whole):
    slide.image[:, :1, :1].to_numpy()
    slide.opened.cache.clear()
    slide.opened.cache.max_bytes, kept = 0, slide.opened.cache.max_bytes
    try:
        tracemalloc.start()
        part = slide.image[:, ::16, ::16].to_numpy()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        slide.opened.cache.max_bytes = kept
    np.testing.assert_array_equal(part, whole[:, ::16, ::16])
    # 7.6 MB lie between the first pixel and the last; a chunk is 0.2 MB, and two threads may each
    # hold a MiB of a file.
    assert peak < whole.nbytes / 2


def test_indexers_of_xarray_are_read(slide, whole):
    array = LevelArray(slide=slide, level=0, shape=whole.shape, dtype=whole.dtype)
    assert array[indexing.BasicIndexer((0, slice(5, 5), slice(None)))].shape == (0, WIDTH)
    chosen = array[indexing.OuterIndexer((np.array([2, 0]), np.array([7, -1]), slice(None, 9, -1)))]
    np.testing.assert_array_equal(chosen, whole[[2, 0]][:, [7, -1]][:, :, :9:-1])


def test_the_image_pickles_by_reopening(slide, whole):
    part = pickle.loads(pickle.dumps(slide.image[:, 300:310]))  # noqa: S301 - pickled here
    np.testing.assert_array_equal(part.to_numpy(), whole[:, 300:310])


def test_the_image_has_places_in_pixels_and_in_microns(slide, whole):
    part = slide.image.sel(x_um=slice(100, 110), y=slice(20, 30))
    np.testing.assert_array_equal(part.to_numpy(), whole[:, 20:30, 200:220])
