from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import xarray as xr

import stformat as stf
from stformat.errors import NoImageError
from stformat.lazy.backend import StformatBackend


def test_xarray_finds_the_engine():
    engine = xr.backends.list_engines()["stformat"]
    assert isinstance(engine, StformatBackend)
    assert "spatial transcriptomics" in repr(engine)


def test_the_engine_opens_what_open_dataset_opens(store):
    options = {"tile_px": 16, "mpp": 0.7, "genes": ["G4"], "normalize": "log1p", "target_sum": 50.0}
    with (
        xr.open_dataset(store("wide"), engine="stformat", **options) as by_engine,
        stf.open_dataset(store("wide"), **options) as dataset,
    ):
        xr.testing.assert_identical(by_engine.load(), dataset.load())


@pytest.mark.parametrize("chunks", [{}, {"obs": 40}, "auto"])
def test_the_engine_makes_dask_arrays(store, chunks):
    # Text cannot be measured, so dask refuses to chunk it by size: xarray's own engines alike.
    drop = ["barcode", "gene_key", "gene_id", "gene_name"] if chunks == "auto" else None
    with xr.open_dataset(
        store("no-image"), engine="stformat", chunks=chunks, drop_variables=drop
    ) as dataset:
        assert dataset.chunks["obs"]
        with stf.open_dataset(store("no-image")) as eager:
            np.testing.assert_array_equal(dataset["expression"], eager["expression"])


def test_variables_can_be_dropped(store):
    for drop in ("tiles", ["tiles", "no such variable"]):
        with xr.open_dataset(store("wide"), engine="stformat", drop_variables=drop) as dataset:
            assert list(dataset.data_vars) == ["expression"]


def test_an_unknown_option_is_refused(store):
    with pytest.raises(TypeError, match="tile_size"):
        xr.open_dataset(store("wide"), engine="stformat", tile_size=3)


def test_the_engine_is_guessed_from_the_root_attribute(store):
    path = store("wide")
    for spelled in (path, str(path), f"{path}/"):
        assert StformatBackend().guess_can_open(spelled)
        with xr.open_dataset(spelled) as dataset:
            assert "tiles" in dataset
    with xr.open_datatree(path) as tree:
        assert next(iter(tree.children)) == "s0"


def test_the_zarr_engine_leaves_a_store_to_this_one(store, tmp_path):
    # Both claim a store whose name ends in .zarr; xarray asks in alphabetical order.
    path = tmp_path / "slide.zarr"
    shutil.copytree(store("no-image"), path)
    claiming = [
        name for name, engine in xr.backends.list_engines().items() if engine.guess_can_open(path)
    ]
    assert claiming == ["stformat", "zarr"]
    with xr.open_dataset(path) as dataset:
        assert "expression" in dataset
    with xr.open_dataset(path, engine="zarr") as group:
        assert not group.variables


@pytest.mark.parametrize(
    "root",
    [
        None,
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"attributes": 3}',
        b'{"attributes": {}}',
        b'{"attributes": {"stformat": true}}',
        b'{"attributes": {"spatialdata_attrs": {"version": "0.2"}}}',
    ],
)
def test_other_folders_are_not_claimed(tmp_path, root):
    if root is not None:
        (tmp_path / "zarr.json").write_bytes(root)
    assert StformatBackend().guess_can_open(tmp_path) is False


def test_other_things_are_not_claimed(tmp_path):
    a_file = tmp_path / "zarr.json"
    a_file.write_text(json.dumps({"attributes": {"stformat": {}}}))
    for other in (a_file, tmp_path / "missing", "nul\0byte", "https://host/slide", b"CDF", 3, None):
        assert StformatBackend().guess_can_open(other) is False
    assert StformatBackend().guess_can_open(tmp_path) is True


def test_groups_are_the_levels(store):
    groups = xr.open_groups(store("pyramid"), engine="stformat")
    assert list(groups) == ["/", "/s0", "/s1", "/s2"]
    groups["/"].close()
    with xr.open_datatree(
        store("pyramid"), engine="stformat", drop_variables=["x_um", "y_um"]
    ) as tree:
        assert set(tree["s1"].coords) == {"c", "x", "y"}


def test_a_slide_without_an_image_has_no_levels(store):
    with pytest.raises(NoImageError, match="synthetic-0"):
        xr.open_datatree(store("no-image"), engine="stformat")
