from __future__ import annotations

import anndata
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

import stformat as stf
from stformat.errors import BarcodeLookupError, GeneLookupError
from stformat.store.counts import CountsReader

# anndata sets options of pandas that are gone in pandas 4, whoever's data it copies or writes.
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def table(wide):
    return stf.to_anndata(wide)


def test_the_table_is_what_anndata_reads_itself(store, table):
    group = zarr.open_group(str(store("wide") / "tables/expression"), mode="r")
    stored = anndata.io.read_elem(group)
    pd.testing.assert_frame_equal(table.obs, stored.obs)
    pd.testing.assert_frame_equal(table.var, stored.var)
    assert type(table.X) is type(stored.X)
    assert table.X.dtype == stored.X.dtype == np.int32
    np.testing.assert_array_equal(table.X.toarray(), stored.X.toarray())
    np.testing.assert_array_equal(table.obsm["spatial"], stored.obsm["spatial"])
    assert table.uns["spatialdata_attrs"] == stored.uns["spatialdata_attrs"]


def test_the_image_and_its_scale_stand_where_scanpy_looks(store):
    with stf.open_slide(store("pyramid")) as slide:
        library = stf.to_anndata(slide).uns["spatial"]["synthetic-0"]
        image = library["images"]["hires"]
        # 600 x 2300 pixels: the first level of at most 2000 is the second.
        assert (image.shape, image.dtype) == ((300, 1150, 3), np.uint8)
        np.testing.assert_array_equal(image, slide.thumbnail(2000).transpose(1, 2, 0))
        assert library["scalefactors"] == {
            "tissue_hires_scalef": 0.5,
            "spot_diameter_fullres": np.median(2 * slide.radius_px),
        }
        assert library["metadata"] == {"technology": "ST", "mpp": 0.5}


def test_sixteen_bits_become_eight(store):
    with stf.open_slide(store("fluorescence")) as slide:
        image = stf.to_anndata(slide).uns["spatial"]["synthetic-0"]["images"]["hires"]
        pixels = slide.read_region(0, 0, 0, 300, 400).transpose(1, 2, 0)
        np.testing.assert_array_equal(image, pixels // 257)
        assert image.dtype == np.uint8


def test_without_an_image_the_places_stay(store):
    with stf.open_slide(store("no-image")) as slide:
        table = stf.to_anndata(slide)
        np.testing.assert_array_equal(table.obsm["spatial"], slide.obs[["x", "y"]])
        # Where scanpy and squidpy find an entry they look for an image in it.
        assert set(table.uns) == {"spatialdata_attrs"}
    with stf.open_slide(store("unknown-mpp")) as slide:
        metadata = stf.to_anndata(slide).uns["spatial"]["synthetic-0"]["metadata"]
        assert metadata == {"technology": "ST"}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
@given(
    rows=st.none() | st.lists(st.integers(0, 39), min_size=1, unique=True),
    genes=st.none() | st.lists(st.integers(0, 29), min_size=1, unique=True),
    backed=st.booleans(),
)
def test_rows_and_genes_come_in_the_order_asked_for(wide, table, rows, genes, backed):
    names = None if genes is None else [f"G{gene}" for gene in genes]
    part = stf.to_anndata(wide, rows=rows, genes=names, backed=backed)
    rows, genes = (slice(None) if chosen is None else chosen for chosen in (rows, genes))
    assert isinstance(part.X, da.Array if backed else sparse.csr_matrix)
    counts = part.X.compute() if backed else part.X
    np.testing.assert_array_equal(counts.toarray(), table.X.toarray()[rows][:, genes])
    pd.testing.assert_frame_equal(part.obs, wide.obs.iloc[rows])
    pd.testing.assert_frame_equal(part.var, wide.var.iloc[genes])
    np.testing.assert_array_equal(part.obsm["spatial"], wide.obs[["x", "y"]].iloc[rows])


def test_rows_are_chosen_by_barcode_and_by_mask(wide, table):
    barcodes = table.obs_names[[7, 3]]
    assert stf.to_anndata(wide, rows=list(barcodes)).obs_names.tolist() == barcodes.tolist()
    in_tissue = wide.obs["in_tissue"].to_numpy()
    assert stf.to_anndata(wide, rows=in_tissue).n_obs == in_tissue.sum()
    with pytest.raises(BarcodeLookupError, match="NO-SUCH"):
        stf.to_anndata(wide, rows=["NO-SUCH"])
    with pytest.raises(GeneLookupError, match="NO-SUCH"):
        stf.to_anndata(wide, genes=["NO-SUCH"])


def test_one_gene_of_all_rows_is_read_gene_by_gene(wide, monkeypatch):
    def refuse(*_arguments):
        raise AssertionError

    monkeypatch.setattr(CountsReader, "__getitem__", refuse)
    assert stf.to_anndata(wide, genes=["G4"]).shape == (40, 1)


def test_backed_counts_stay_in_the_store(wide, monkeypatch):
    rows_read = []
    original = CountsReader.__getitem__

    def spy(self, rows):
        rows_read.append(rows)
        return original(self, rows)

    monkeypatch.setattr(CountsReader, "__getitem__", spy)
    table = stf.to_anndata(wide, backed=True)
    assert rows_read == []
    table[3:5].to_memory()
    assert rows_read == [slice(3, 5, None)]


def test_changing_the_table_leaves_the_slide_alone(wide, table):
    mine = stf.to_anndata(wide)
    mine.obs["total_counts"] = 0
    mine.var["gene_name"] = "none"
    pd.testing.assert_frame_equal(stf.to_anndata(wide).obs, table.obs)
    pd.testing.assert_frame_equal(stf.to_anndata(wide).var, table.var)


@pytest.mark.parametrize("backed", [False, True])
def test_the_table_is_written_as_h5ad(wide, table, tmp_path, backed):
    stf.to_anndata(wide, backed=backed).write_h5ad(tmp_path / "table.h5ad")
    copy = anndata.read_h5ad(tmp_path / "table.h5ad")
    np.testing.assert_array_equal(copy.X.toarray(), table.X.toarray())
    library, expected = (each.uns["spatial"]["synthetic-0"] for each in (copy, table))
    np.testing.assert_array_equal(library["images"]["hires"], expected["images"]["hires"])
    assert library["scalefactors"] == expected["scalefactors"]
