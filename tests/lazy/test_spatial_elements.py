from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import dask
import geopandas.testing
import numpy as np
import pytest
import shapely

import stformat as stf
from stformat.errors import TableLookupError
from stformat.model import OutlineBatch, Outlines
from stformat.store.commit import replace_store
from stformat.store.writer import write_slide
from stformat.testing.records import make_record

pytest.importorskip("spatialdata")

# anndata sets options of pandas that are gone in pandas 4, whoever's data it copies or writes.
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated:DeprecationWarning")

RECORDS = {
    "spots": {},
    "bins": {"shape": "square", "count_dtype": np.float32},
    "cells": {"shape": "polygon"},
    "fluorescence": {"n_channels": 4, "pixel_dtype": np.uint16},
    "no-image": {"image_px": None},
    "no-mpp": {"mpp": None},
    "pyramid": {"image_px": (1500, 1101)},
}


def tissue():
    geometry = np.array([shapely.box(10, 20, 300, 400), shapely.box(5, 5, 9, 9)], dtype=object)
    columns = {"label": np.array(["tumour", None], dtype=object)}
    return Outlines(
        name="tissue",
        columns={"label": "text"},
        iter_batches=lambda: iter([OutlineBatch(geometry=geometry, columns=columns)]),
    )


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elements")
    for name, options in RECORDS.items():
        with replace_store(folder / name) as directory:
            write_slide(replace(make_record(**options), outlines=(tissue(),)), directory)
    return {name: folder / name for name in RECORDS}


# spatialdata.testing imports test modules of anndata, whose pytest marks are unknown to this suite.
COMPARE = """
import sys, spatialdata, stformat
from spatialdata.testing import assert_spatial_data_objects_are_identical
for path in sys.argv[1:]:
    with stformat.open_slide(path) as slide:
        ours = stformat.to_spatialdata(slide)
        theirs = spatialdata.read_zarr(path)
        assert_spatial_data_objects_are_identical(ours, theirs)
        assert ours.attrs == theirs.attrs
print("identical")
"""


def test_the_object_is_what_spatialdata_reads_itself(paths):
    result = subprocess.run(
        [sys.executable, "-c", COMPARE, *map(str, paths.values())],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stdout == "identical\n", result.stderr


def test_pixels_and_counts_stay_in_the_store(paths, chunks_read):
    with stf.open_slide(paths["pyramid"]) as slide:
        sdata = stf.to_spatialdata(slide, backed=True)
        image, counts = sdata["he"]["scale0"].image, sdata["expression"].X
        assert dask.is_dask_collection(image.data)
        assert dask.is_dask_collection(counts)
        assert image.chunks == ((3,), (1024, 476), (1024, 77))
        assert not [path for path, _ in chunks_read if path.startswith("images")]
        assert not [path for path, _ in chunks_read if path.endswith("X/data")]
        expected = slide.read_region(0, 300, 500, 100, 200)
        chunks_read.clear()
        part = image.isel(y=slice(300, 400), x=slice(500, 700)).to_numpy()
        # Five chunks a row; nothing of a dask chunk but what is wanted of it.
        assert chunks_read == [("images/he/s0", [6, 7])]
        np.testing.assert_array_equal(part, expected)
        np.testing.assert_array_equal(counts.compute().toarray(), slide.counts[:].toarray())


@pytest.mark.parametrize("name", ["spots", "bins", "no-image"])
def test_a_round_trip_keeps_the_slide(paths, tmp_path, name):
    with stf.open_slide(paths[name]) as slide:
        sdata = stf.to_spatialdata(slide, backed=name == "spots")
        copy = stf.from_spatialdata(sdata, tmp_path / "copy", slide_id=slide.slide_id)
        with stf.open_slide(copy) as again:
            assert again.obs.index.tolist() == slide.obs.index.tolist()
            np.testing.assert_array_equal(again.counts[:].toarray(), slide.counts[:].toarray())
            np.testing.assert_array_equal(again.obs[["x", "y"]], slide.obs[["x", "y"]])
            shapes = stf.to_spatialdata(again).shapes
            for element in ("tissue", slide.metadata.tables[0].region):
                found, given = shapes[element].geometry, sdata[element].geometry
                assert shapely.equals_exact(found.to_numpy(), given.to_numpy(), 1e-9).all()
            assert again.mpp == slide.mpp
            assert again.has_image == slide.has_image
            if slide.has_image:
                np.testing.assert_array_equal(again.image, slide.image)
    assert stf.verify_store(copy) == []


def test_tables_are_chosen_with_their_regions(tmp_path):
    record = make_record(n_obs=30)
    table = record.tables[0]
    bins = make_record(n_obs=12, shape="square", seed=1).tables[0]
    with replace_store(tmp_path / "two") as directory:
        write_slide(replace(record, tables=(table, replace(bins, name="binned"))), directory)
    with stf.open_slide(tmp_path / "two") as slide:
        whole = stf.to_spatialdata(slide)
        assert set(whole.tables) == {"expression", "binned"}
        assert len(whole.shapes) == 2
        one = stf.to_spatialdata(slide, tables=["binned"])
        assert set(one.tables) == {"binned"}
        assert set(one.shapes) == {bins.spots.region}
        geopandas.testing.assert_geodataframe_equal(
            one[bins.spots.region], whole[bins.spots.region]
        )
        with pytest.raises(TableLookupError, match="no_such"):
            stf.to_spatialdata(slide, tables=["no_such"])


def test_what_a_tool_does_to_attributes_stays_outside_of_the_slide(paths):
    with stf.open_slide(paths["no-image"]) as slide:
        sdata = stf.to_spatialdata(slide)
        sdata.attrs["stformat"]["slide_id"] = "mine"
        assert stf.to_spatialdata(slide).attrs["stformat"]["slide_id"] == "synthetic-0"


def test_a_missing_library_is_named_with_its_extra(paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with (
        stf.open_slide(paths["no-image"]) as slide,
        pytest.raises(ImportError, match=r"stformat\[spatialdata\]"),
    ):
        stf.to_spatialdata(slide)
