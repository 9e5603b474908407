"""SpatialData opens a store without a warning, joins it, and writes an identical copy."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import shapely

from stformat.store.writer import write_slide
from stformat.testing.records import make_record

spatialdata = pytest.importorskip("spatialdata")
get_transformation = pytest.importorskip("spatialdata.transformations").get_transformation

# anndata sets options of pandas that are gone in pandas 4, whoever's data it copies or writes.
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated:DeprecationWarning")

RECORDS = {
    "spots": {},
    "bins": {"shape": "square", "count_dtype": np.float32},
    "cells": {"shape": "polygon"},
    "fluorescence": {"n_channels": 4, "pixel_dtype": np.uint16},
    "no image": {"image_px": None},
    "no mpp": {"mpp": None},
    "pyramid": {"image_px": (1500, 1101)},
}


@pytest.fixture(scope="module", params=RECORDS)
def slide(request, tmp_path_factory):
    """A record and its store."""
    record = make_record(**RECORDS[request.param])
    path = tmp_path_factory.mktemp("interop") / "slide.zarr"
    path.mkdir()
    write_slide(record, path)
    return record, path


@pytest.fixture(scope="module")
def sdata(slide):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return spatialdata.read_zarr(slide[1])


def test_elements_are_there(slide, sdata):
    record, _ = slide
    region = record.tables[0].spots.region
    assert set(sdata.images) == ({"he"} if record.image else set())
    assert set(sdata.shapes) == {region}
    assert set(sdata.tables) == {"expression"}
    assert sdata.attrs["stformat"]["slide_id"] == record.slide_id
    for element in (*sdata.images.values(), *sdata.shapes.values()):
        expected = {"global"} if record.mpp.value is None else {"global", "microns"}
        assert set(get_transformation(element, get_all=True)) == expected


@pytest.mark.parametrize(
    "change", ["tocoo", "sort_indices", "sum_duplicates", "eliminate_zeros", "prune"]
)
def test_counts_can_be_changed_in_place(slide, change):
    """SciPy does so only where indices and indptr are of one type."""
    counts = spatialdata.read_zarr(slide[1])["expression"].X
    expected = counts.toarray()
    counts.has_sorted_indices = counts.has_canonical_format = False
    changed = getattr(counts, change)()
    np.testing.assert_array_equal((counts if changed is None else changed).toarray(), expected)


def test_pixels_are_those_of_the_source(slide, sdata):
    record, _ = slide
    if record.image is None:
        assert "he" not in sdata
        return
    (whole,) = record.image.iter_bands(record.image.shape[1])
    element = sdata["he"]
    finest = element["scale0"].image if "scale0" in getattr(element, "children", {}) else element
    assert finest.dims == ("c", "y", "x")
    assert finest.coords["c"].to_numpy().tolist() == list(record.image.channel_names)
    np.testing.assert_array_equal(finest.to_numpy(), whole)


def test_rows_join_their_shapes(slide, sdata):
    record, _ = slide
    spots = record.tables[0].spots
    table = sdata["expression"]
    assert sdata.get_annotated_regions(table) == [spots.region]
    shapes, joined = spatialdata.join_spatialelement_table(
        sdata=sdata, spatial_element_names=spots.region, table_name="expression", how="inner"
    )
    assert joined.n_obs == spots.n_obs
    centres = shapely.centroid(shapes[spots.region].geometry.to_numpy())
    xy = shapely.get_coordinates(centres)
    np.testing.assert_allclose(xy, joined.obs[["x", "y"]].to_numpy(), atol=1e-9)
    row_of = {barcode: row for row, barcode in enumerate(spots.barcodes)}
    rows = [row_of[barcode] for barcode in joined.obs_names]
    np.testing.assert_allclose(xy, spots.xy[rows], atol=1e-9)
    matrix = np.vstack([block.toarray() for block in record.tables[0].counts.iter_blocks()])
    np.testing.assert_array_equal(joined.X.toarray(), matrix[rows])
    matched = spatialdata.match_table_to_element(sdata, spots.region, "expression")
    assert matched.n_obs == spots.n_obs


# spatialdata.testing imports test modules of anndata, whose pytest marks are unknown to this suite.
COMPARE = """
import sys, spatialdata
from spatialdata.testing import assert_spatial_data_objects_are_identical
for ours, copy in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    ours, copy = spatialdata.read_zarr(ours), spatialdata.read_zarr(copy)
    assert_spatial_data_objects_are_identical(ours, copy)
    assert ours.attrs == copy.attrs
print("identical")
"""


def test_copies_are_identical(tmp_path):
    paths = []
    for name in ("spots", "bins"):
        ours, copy = tmp_path / name, tmp_path / f"{name}, copied"
        ours.mkdir()
        write_slide(make_record(**RECORDS[name]), ours)
        spatialdata.read_zarr(ours).write(copy)
        paths += [str(ours), str(copy)]
    result = subprocess.run(
        [sys.executable, "-c", COMPARE, *paths], capture_output=True, text=True, check=False
    )
    assert result.stdout == "identical\n", result.stderr
