"""AnnData's attributes, held to what AnnData itself writes."""

import anndata
import pytest
import zarr
from scipy import sparse

from stformat.metadata import anndata_zarr


@pytest.mark.parametrize("encoding", ["csr_matrix", "csc_matrix"])
def test_sparse_groups_are_as_anndata_writes_them(encoding):
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    kind = sparse.csr_array if encoding == "csr_matrix" else sparse.csc_array
    anndata.io.write_elem(group, "X", kind((3, 2), dtype="int32"))
    assert dict(group["X"].attrs) == anndata_zarr.sparse_attributes(encoding, (3, 2))


# anndata sets options of pandas that are gone in pandas 4, whoever's data it copies or writes.
@pytest.mark.filterwarnings("ignore:The '.*' option is deprecated:DeprecationWarning")
def test_a_table_is_an_anndata_group():
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    anndata.io.write_elem(group, "table", anndata.AnnData(shape=(3, 2)))
    assert dict(group["table"].attrs) == anndata_zarr.anndata_attributes()
    assert set(anndata_zarr.EMPTY_MAPPINGS) <= set(group["table"].keys())
