from __future__ import annotations

import pickle

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stformat as stf
from stformat.errors import NoImageError
from stformat.store.reader import open_slide


@pytest.fixture(scope="session")
def pyramid(store):
    with open_slide(store("pyramid")) as slide:
        yield slide


@pytest.fixture(scope="session")
def tree(pyramid):
    return stf.open_datatree(pyramid)


def test_every_level_is_a_child_with_its_pixels(pyramid, tree):
    assert list(tree.children) == ["s0", "s1", "s2"]
    assert tree.attrs == {"slide_id": "synthetic-0", "technology": "ST", "mpp": 0.5}
    for number, level in enumerate(pyramid.levels):
        image = tree[f"s{number}"]["image"]
        assert image.dims == ("c", "y", "x")
        assert image.dtype == np.uint8
        expected = pyramid.read_region(number, 0, 0, level.height, level.width)
        np.testing.assert_array_equal(image.to_numpy(), expected)


def test_coordinates_are_centres_in_full_resolution_pixels(tree):
    level = tree["s2"].dataset
    np.testing.assert_array_equal(level["x"], (np.arange(575) + 0.5) * 4)
    np.testing.assert_array_equal(level["y"], (np.arange(150) + 0.5) * 4)
    np.testing.assert_array_equal(level["x_um"], level["x"] * 0.5)
    np.testing.assert_array_equal(level["y_um"], level["y"] * 0.5)
    assert level["y_um"].dims == ("y",)
    assert set(level.xindexes) == {"c", "y", "x", "y_um", "x_um"}
    assert (level["x"].attrs, level["y_um"].attrs) == ({"units": "px"}, {"units": "um"})
    assert level["c"].to_numpy().tolist() == ["r", "g", "b"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.one_of(st.integers(-150, 149), st.slices(150), st.lists(st.integers(-150, 149))),
    cols=st.one_of(st.integers(-575, 574), st.slices(575), st.lists(st.integers(-575, 574))),
    channel=st.one_of(st.integers(-3, 2), st.slices(3)),
)
def test_any_indexer_reads_what_numpy_would(pyramid, tree, rows, cols, channel):
    whole = pyramid.read_region(2, 0, 0, 150, 575)
    rows, cols = (np.array(at, dtype=int) if isinstance(at, list) else at for at in (rows, cols))
    image = tree["s2"]["image"].isel(c=channel, y=rows, x=cols)
    np.testing.assert_array_equal(image.to_numpy(), whole[:, :, cols][:, rows][channel])


def test_only_the_wanted_chunks_are_read(pyramid, chunks_read):
    tree = stf.open_datatree(pyramid)
    repr(tree)
    assert chunks_read == []
    # Ten chunks wide: the fourth of the first row.
    tree["s0"]["image"].sel(x=slice(800, 1000), y=slice(40, 60)).to_numpy()
    assert chunks_read == [("images/he/s0", [3])]


def test_places_are_chosen_in_microns(pyramid, tree):
    whole = pyramid.read_region(1, 0, 0, 300, 1150)
    image = tree["s1"].image.sel(x_um=slice(100, 150), y_um=slice(20, 30.4))
    # A pixel of this level is 1 um wide; centres at the half.
    np.testing.assert_array_equal(image.to_numpy(), whole[:, 20:30, 100:150])
    near = tree["s1"].image.sel(x_um=[7.4, 100.6], y_um=3.1, method="nearest")
    np.testing.assert_array_equal(near.to_numpy(), whole[:, 3, [7, 100]])


def test_a_crop_in_microns_lines_up_with_one_in_pixels(tree):
    image = tree["s0"].image
    by_um, by_px = image.sel(x_um=slice(50, 60)), image.sel(x=slice(100, 120))
    xr.testing.assert_identical(by_um.load(), by_px.load())
    assert not (by_um.astype(int) - by_px).to_numpy().any()


def test_dask_chunks_follow_the_shards(store):
    with open_slide(store("wide")) as wide:
        image = stf.open_datatree(wide, chunks={})["s0"]["image"]
        assert image.chunks == ((3,), (300,), (4096, 4096, 308))
        expected = wide.read_region(0, 0, 0, 300, 8500)
        np.testing.assert_array_equal(image.to_numpy(), expected)


@pytest.mark.parametrize("chunks", [None, {}])
def test_a_tree_pickles_by_reopening_and_closes_what_it_opened(store, closed, tree, chunks):
    with stf.open_datatree(store("pyramid"), chunks=chunks) as opened:
        assert dask.is_dask_collection(opened["s0"]["image"].data) is (chunks is not None)
        pickled = pickle.dumps(opened)
        assert closed == []
    assert len(closed) == 1
    with pickle.loads(pickled) as copy:  # noqa: S301 - pickled above
        xr.testing.assert_identical(copy["s1"].dataset.compute(), tree["s1"].dataset.compute())


def test_a_slide_that_was_given_stays_open(store):
    with open_slide(store("pyramid")) as slide:
        with stf.open_datatree(slide) as tree:
            pass
        assert tree["s2"]["image"].isel(x=0).to_numpy().shape == (3, 150)


def test_an_unknown_mpp_has_no_microns(store):
    with stf.open_datatree(store("unknown-mpp")) as tree:
        assert set(tree["s0"].coords) == {"c", "x", "y"}
        assert "mpp" not in tree.attrs


def test_a_slide_without_an_image_has_no_tree(store):
    with pytest.raises(NoImageError, match="image"):
        stf.open_datatree(store("no-image"))
