"""Visium HD folders of other projects: they convert, verify, and open in SpatialData."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import sparse

import stformat as stf
from stformat.errors import PositionsError, UnknownSourceError
from stformat.sources import read_slide, visium, visium_hd

# anndata sets options of pandas that are gone in pandas 4, whoever's data it copies or writes.
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated:DeprecationWarning")

SEURAT = "seurat_visium_hd"

# With the sums of a count by pandas over the rows whose barcodes have a place.
# Folder, options: name, rows, columns, nnz and sum of each table.
CONVERTED = [
    (
        SEURAT,
        None,
        [("square_008um", 2695, 100, 50355, 132231), ("square_016um", 642, 100, 11863, 31242)],
    ),
    (
        f"{SEURAT}/outs/binned_outputs/square_008um",
        "24",
        [("square_024um", 2514, 100, 48346, 132231)],
    ),
    (
        "visiumio/binned_outputs/square_002um",
        "2,8",
        [("square_002um", 10, 10, 0, 0), ("square_008um", 10, 10, 0, 0)],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "bins", "tables"), CONVERTED)
def test_folders_convert_and_open_in_spatialdata(real_data, tmp_path, folder, bins, tables):
    spatialdata = pytest.importorskip("spatialdata")
    assert visium.KIND.looks_like(real_data / folder) is None
    assert "Visium HD" in visium_hd.KIND.looks_like(real_data / folder)
    store = stf.convert_slide(real_data / folder, tmp_path / "slide.zarr", bins=bins)
    assert stf.verify_store(store) == []
    with stf.open_slide(store) as slide:
        found = [
            (table.region, table.n_obs, table.n_vars, table.nnz, table.total)
            for table in slide.metadata.tables
        ]
        assert found == tables
        assert slide.metadata.mpp.method == "file"
        assert slide.has_image
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdata = spatialdata.read_zarr(store)
    for region, n_obs, *_ in tables:
        joined = spatialdata.match_table_to_element(sdata, region, f"expression_{region}")
        assert joined.n_obs == n_obs
        assert (sdata.shapes[region].geom_type == "Polygon").all()
    # Both projects cut their files from others: 8 um bins 16 um apart, half of them off the image.
    codes = {problem.code for problem in stf.check_store(store)}
    assert codes <= {
        "check.mpp-contradiction", "check.spots-outside", "check.zero-count-spots",
        "check.blank-image", "check.duplicate-positions", "check.scale", "check.counts",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("folder", "bins", "region", "shape"),
    [
        (f"{SEURAT}/outs", 8, "square_008um", (2695, 100)),
        (f"{SEURAT}/outs/binned_outputs", 16, "square_016um", (642, 100)),
        ("visiumio", None, "square_002um", (10, 10)),
    ],
)
def test_parts_of_the_folders_may_be_named(real_data, folder, bins, region, shape):
    (table,) = read_slide(real_data / folder, options={"bins": bins}).tables
    assert (table.spots.region, table.counts.shape) == (region, shape)


def test_counts_and_places_are_those_of_the_files(real_data):
    folder = real_data / SEURAT / "outs/binned_outputs/square_008um"
    with h5py.File(folder / "filtered_feature_bc_matrix.h5") as file:
        group = file["matrix"]
        parts = tuple(group[name][:] for name in ("data", "indices", "indptr"))
        matrix = sparse.csr_array(parts, shape=group["shape"][:][::-1])
        barcodes = group["barcodes"][:].tolist()
    (table,) = read_slide(folder).tables
    stored = sparse.vstack(list(table.counts.iter_blocks()), format="csr")
    assert (stored != matrix).nnz == 0
    assert table.spots.barcodes.tolist() == barcodes
    places = pq.read_table(folder / "spatial/tissue_positions.parquet").to_pandas()
    places = places.set_index("barcode").loc[[barcode.decode() for barcode in barcodes]]
    scale = 0.25404352
    np.testing.assert_array_equal(table.spots.xy[:, 0], places["pxl_col_in_fullres"] * scale)
    np.testing.assert_array_equal(table.spots.xy[:, 1], places["pxl_row_in_fullres"] * scale)
    np.testing.assert_array_equal(table.spots.in_tissue, places["in_tissue"] == 1)
    assert (~table.spots.in_tissue).sum() == 1327


def test_what_lacks_something_says_what(real_data):
    with pytest.raises(PositionsError) as caught:
        read_slide(real_data / "visiumio" / "segmented_outputs")
    assert caught.value.problems[0].code == "cells.incomplete"
    assert "cells.incomplete" in {note.code for note in read_slide(real_data / "visiumio").notes}
    with pytest.raises(UnknownSourceError) as unknown:
        read_slide(real_data / SEURAT, kind="visium")
    assert unknown.value.problems[0].code == "source.visium-hd"
