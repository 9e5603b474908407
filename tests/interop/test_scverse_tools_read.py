"""AnnData, scanpy and dask-backed reading of a table as it stands in a store."""

import anndata
import numpy as np
import pytest
import zarr

from stformat.store.writer import write_slide
from stformat.testing.records import make_record

# anndata sets options of pandas that are gone in pandas 4, whoever's data it copies or writes.
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    record = make_record(n_obs=60, n_vars=50)
    path = tmp_path_factory.mktemp("scverse") / "slide.zarr"
    path.mkdir()
    write_slide(record, path)
    return record, path


@pytest.fixture
def table(slide):
    return anndata.io.read_elem(zarr.open_group(str(slide[1] / "tables/expression"), mode="r"))


# One row is empty on purpose.
@pytest.mark.filterwarnings("ignore:Some cells have zero counts:UserWarning")
def test_scanpy_normalises_the_table(table):
    scanpy = pytest.importorskip("scanpy")
    raw = table.X.toarray().astype(np.float64)
    scanpy.pp.normalize_total(table, target_sum=1e4)
    scanpy.pp.log1p(table)
    totals = table.obs["total_counts"].to_numpy()[:, None]
    expected = np.log1p(np.divide(raw * 1e4, totals, out=np.zeros_like(raw), where=totals > 0))
    np.testing.assert_allclose(table.X.toarray(), expected, rtol=1e-6)


def test_rows_and_genes_are_read_without_the_rest(slide):
    record, path = slide
    matrix = np.vstack([block.toarray() for block in record.tables[0].counts.iter_blocks()])
    order = anndata.io.read_elem(
        zarr.open_array(str(path / "tables/expression/obs/source_index"), mode="r")
    )
    by_row = anndata.io.sparse_dataset(zarr.open_group(str(path / "tables/expression/X"), mode="r"))
    np.testing.assert_array_equal(by_row[5:9].toarray(), matrix[order[5:9]])
    by_gene = anndata.io.sparse_dataset(
        zarr.open_group(str(path / "stformat/expression/by_gene"), mode="r")
    )
    np.testing.assert_array_equal(by_gene[:, 3:6].toarray(), matrix[order][:, 3:6])


def test_the_whole_table_is_read_lazily(slide):
    record, path = slide
    group = zarr.open_group(str(path / "tables/expression"), mode="r")
    lazy = anndata.experimental.read_elem_lazy(group["X"])
    assert lazy.shape == record.tables[0].counts.shape
    whole = anndata.io.read_elem(group["X"])
    np.testing.assert_array_equal(lazy.compute().toarray(), whole.toarray())
