"""A store that stformat writes is the one that the specification describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import anndata
import geopandas
import numpy as np
import pytest
import zarr

from stformat.metadata.zarr_array import parse_array
from stformat.store import layout

TEXT = (Path(__file__).resolve().parents[2] / "spec" / "stformat-0.1.md").read_text()
KINDS = {"int64": "int64", "float64": "float64", "bool": "bool", "categorical": "category"}


def rows_after(sentence):
    """Cells of the first table that follows a sentence."""
    table = TEXT.partition(sentence)[2].partition("|---")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[1:]]


@pytest.fixture(scope="module")
def table(small_store):
    return anndata.read_zarr(small_store / "tables" / "expression")


def test_tree_is_that_of_the_text(small_store):
    tree = TEXT.partition("## 3. Layout")[2].partition("```\n")[2].partition("```")[0]
    named = {
        name.removesuffix("/")
        for line in tree.splitlines()
        for name in re.split(r"\s{2,}", line.strip())[0].split(" ")
    }
    named -= {"slide.zarr", "...", "s1"}
    found = {
        part for path in small_store.rglob("*") for part in path.relative_to(small_store).parts
    }
    assert named <= found
    assert {path.name for path in small_store.iterdir()} <= named
    assert {path.name for path in (small_store / "tables" / "expression").iterdir()} <= named
    assert not [name for name in found if name.startswith(".")]


def test_obs_has_the_columns_of_the_text(table):
    expected = {
        name: KINDS[kind.partition(",")[0]]
        for names, kind, _ in rows_after("**obs** has the barcode as index")
        for name in re.findall(r"`(\w+)`", names)
        if name != "section"
    }
    assert {name: str(kind) for name, kind in table.obs.dtypes.items()} == expected
    assert list(table.obs) == list(expected)
    assert (table.obs.index.name, table.var.index.name) == ("barcode", "key")


def test_var_has_the_columns_of_the_text(table):
    assert list(table.var) == [
        cells[0].strip("`") for cells in rows_after("**var** has the source's own key as index")
    ]


def test_counts_have_the_types_of_the_text(small_store):
    group = zarr.open_group(small_store / "tables" / "expression" / "X", mode="r")
    expected = {
        cells[0].strip("`"): cells[1].partition(",")[0].partition(" or ")[0]
        for cells in rows_after("**X** holds raw counts")
    }
    assert {name: str(array.dtype) for name, array in group.arrays()} == expected


def test_rows_stand_in_the_order_of_the_text(small_store, table):
    xy = table.obs[["x", "y"]].to_numpy()
    source = np.empty_like(xy)
    source[table.obs["source_index"]] = xy
    assert layout.spatial_order(source).tolist() == table.obs["source_index"].tolist()
    shapes = geopandas.read_parquet(small_store / "shapes" / "spots" / "shapes.parquet")
    assert shapes.index.name == "spot_id"
    assert shapes.index.tolist() == table.obs["spot_id"].tolist() == list(range(table.n_obs))
    np.testing.assert_array_equal(np.column_stack([shapes.geometry.x, shapes.geometry.y]), xy)
    np.testing.assert_array_equal(table.obsm["spatial"], xy)


def test_own_arrays_are_cut_and_coded_as_the_text_says(small_store):
    own = [
        *small_store.glob("images/he/s*/zarr.json"),
        *small_store.glob("tables/*/X/*/zarr.json"),
        *small_store.glob("stformat/*/*/*/zarr.json"),
    ]
    assert len(own) > 8
    for path in own:
        metadata = parse_array(json.loads(path.read_bytes()), str(path))
        is_of_matrix = path.parent.name in {"data", "indices"}
        assert metadata.coding.compression == ("blosc" if is_of_matrix else "zstd")
        assert metadata.coding.has_crc32c if is_of_matrix else metadata.coding.has_content_checksum
        if len(metadata.shape) == 3:
            expected = layout.image_chunks(metadata.shape[0]), layout.image_shards(*metadata.shape)
        else:
            expected = layout.vector_chunks(metadata.shape[0])
        assert (metadata.chunks, metadata.shards) == expected


def test_gene_major_copy_is_the_matrix(small_store, table):
    by_gene = anndata.io.read_elem(
        zarr.open_group(small_store / "stformat" / "expression" / "by_gene", mode="r")
    )
    assert by_gene.format == "csc"
    assert by_gene.dtype == np.min_scalar_type(table.X.data.max())
    assert (by_gene.tocsr().astype(np.int32) != table.X).nnz == 0
