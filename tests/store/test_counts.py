"""Counts read from a store equal SciPy's indexing of the matrix that was written."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from zarr.codecs import ZstdCodec

import stformat as stf
from stformat.errors import CorruptStoreError, GeneLookupError
from stformat.genes.lookup import GeneIndex
from stformat.metadata.stformat_v0_1 import TableAttributes
from stformat.store import chunk_source, vector_writer
from stformat.store import counts as counts_module
from stformat.store.chunk_cache import ChunkCache
from stformat.store.counts import CompressedReader, CountsReader

N_OBS, N_VARS = 57, 23


def write_compressed(root: zarr.Group, path: str, matrix) -> None:
    for name in ("data", "indices", "indptr"):
        values = getattr(matrix, name)
        array = root.create_array(
            f"{path}/{name}",
            shape=values.shape,
            dtype=values.dtype,
            chunks=(16,),
            shards=(64,),
            compressors=(ZstdCodec(level=1, checksum=True),),
            overwrite=True,
        )
        array[...] = values


@pytest.fixture(scope="module")
def matrix() -> sparse.csr_array:
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.7, (N_OBS, N_VARS)).astype(np.int32)
    dense[10:14] = 0
    dense[:, 5] = 0
    return sparse.csr_array(dense)


@pytest.fixture(scope="module")
def folder(matrix, tmp_path_factory):
    path = tmp_path_factory.mktemp("counts")
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    with zarr.config.set({"array.write_empty_chunks": True}):
        by_row, by_gene = matrix.copy(), matrix.tocsc()
        by_row.indptr = by_row.indptr.astype(np.int64)
        by_gene.data = by_gene.data.astype(np.uint8)
        by_gene.indptr = by_gene.indptr.astype(np.int64)
        write_compressed(root, "tables/expression/X", by_row)
        write_compressed(root, "stformat/expression/by_gene", by_gene)
    return path


@pytest.fixture(scope="module")
def open_counts(open_loose, matrix):
    keys = [f"k{column}" for column in range(N_VARS)]
    names = ["twice" if column in {3, 8} else f"name{column}" for column in range(N_VARS)]
    table = TableAttributes(
        name="expression",
        region="spots",
        shape="circle",
        diameter_um=None,
        pitch_um=None,
        pitch_px=None,
        gene_key="gene_id",
        n_obs=N_OBS,
        n_vars=N_VARS,
        nnz=matrix.nnz,
        total=float(matrix.sum()),
    )

    def opened(path) -> CountsReader:
        index = GeneIndex(keys, [None] * N_VARS, names)
        return CountsReader(open_loose(path), table, cache=ChunkCache(), gene_index=lambda: index)

    return opened


@pytest.fixture(scope="module", params=[2**20, 0], ids=["offsets kept", "offsets read"])
def counts(request, folder, open_counts) -> CountsReader:
    """Counts of a small matrix, read as those of small matrices are and as those of large ones."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(counts_module, "_MOST_KEPT_OFFSETS", request.param)
        return open_counts(folder)


def test_it_says_what_it_is(counts, matrix):
    assert counts.shape == matrix.shape
    assert counts.nnz == matrix.nnz
    assert counts.dtype == np.int32
    assert repr(counts) == f"<Counts expression: {N_OBS} x {N_VARS} int32, {matrix.nnz} stored>"


row_indices = st.one_of(
    st.integers(-N_OBS, N_OBS - 1),
    st.slices(N_OBS),
    st.lists(st.integers(-N_OBS, N_OBS - 1), min_size=1, max_size=30).map(np.array),
    st.lists(st.booleans(), min_size=N_OBS, max_size=N_OBS).map(np.array),
)


@settings(deadline=None)
@given(row_indices)
def test_rows_are_those_of_the_matrix(counts, matrix, rows):
    found = counts[rows]
    assert isinstance(found, sparse.csr_array)
    assert found.dtype == np.int32
    expected = matrix.toarray()[[rows] if isinstance(rows, int) else rows]
    np.testing.assert_array_equal(found.toarray(), expected)
    assert found.nnz == np.count_nonzero(expected)
    assert found.has_canonical_format


@given(st.lists(st.integers(0, N_OBS - 1), max_size=30))
def test_so_many_values_are_stored(counts, matrix, rows):
    rows = np.array(rows, np.int64)
    lengths = np.diff(matrix.indptr)[rows]
    np.testing.assert_array_equal(counts.n_stored_of_rows(rows), lengths)
    assert counts.n_stored_in_rows(rows) == lengths.sum()
    columns = np.arange(0, N_VARS, 3)
    assert counts.n_stored_in_columns(columns) == matrix[:, columns].nnz


def test_no_rows(counts):
    assert counts[[]].shape == (0, N_VARS)


@pytest.mark.parametrize("rows", [N_OBS, [-N_OBS - 1], np.ones(3, bool), "x"])
def test_wrong_rows_are_refused(counts, rows):
    with pytest.raises(IndexError):
        counts[rows]


@settings(deadline=None)
@given(st.lists(st.integers(0, N_VARS - 1), max_size=8))
def test_genes_are_the_columns_of_the_matrix(counts, matrix, columns):
    found = counts.genes([f"k{column}" for column in columns])
    assert isinstance(found, sparse.csc_array)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found.toarray(), matrix.toarray()[:, columns])


def test_genes_by_name(counts, matrix):
    np.testing.assert_array_equal(
        counts.genes(["name2", "k1"]).toarray(), matrix.toarray()[:, [2, 1]]
    )
    with pytest.raises(GeneLookupError, match="keys k3, k8"):
        counts.genes(["twice"])
    with pytest.raises(GeneLookupError, match=r"did you mean .*name12"):
        counts.genes(["nane12"])


def test_rows_that_touch_one_chunk_decode_it_once(folder, open_loose, monkeypatch, matrix):
    reader = CompressedReader(
        open_loose(folder),
        "tables/expression/X",
        n_major=N_OBS,
        n_minor=N_VARS,
        cache=ChunkCache(0),
    )
    _ = reader.indptr
    decoded: list[int] = []
    plain = chunk_source.decode_into
    monkeypatch.setattr(
        chunk_source, "decode_into", lambda *a, **k: (decoded.append(1), plain(*a, **k))
    )
    rows = np.array([2, 0, 1, 0, 2])
    reader.read(rows)
    last = int(matrix.indptr[3] - 1)
    assert len(decoded) == 2 * (last // 16 + 1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("indptr", lambda v: np.where(v == v[20], v[-1], v), id="an offset that falls"),
        pytest.param("indptr", lambda v: v[::-1], id="offsets backwards"),
        pytest.param("indptr", lambda v: v + 1, id="offsets from 1"),
        pytest.param("indptr", lambda v: v[:-1], id="an offset too few"),
        pytest.param("indices", lambda v: v + N_VARS, id="columns beyond the genes"),
        pytest.param("indices", lambda v: v - N_VARS, id="negative columns"),
        pytest.param("indices", lambda v: v[:-3], id="fewer columns than values"),
        pytest.param("data", lambda v: v[:-3], id="fewer values than columns"),
    ],
)
def test_a_matrix_that_is_none_is_damage(tmp_path, open_counts, matrix, name, change):
    root = zarr.open_group(str(tmp_path), mode="w", zarr_format=3)
    broken = {
        part: np.ascontiguousarray(change(values) if part == name else values)
        for part, values in (
            ("data", matrix.data),
            ("indices", matrix.indices),
            ("indptr", matrix.indptr.astype(np.int64)),
        )
    }
    for path in ("tables/expression/X", "stformat/expression/by_gene"):
        for part, values in broken.items():
            array = root.create_array(
                f"{path}/{part}", shape=values.shape, dtype=values.dtype, chunks=(4000,)
            )
            array[...] = values
    for kept in (2**20, 0):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(counts_module, "_MOST_KEPT_OFFSETS", kept)
            counts = open_counts(tmp_path)
        with pytest.raises(CorruptStoreError, match="tables/expression/X"):
            counts[:]


def test_counts_under_zstd_are_read_and_whole(small_source, small_store, tmp_path, monkeypatch):
    monkeypatch.setattr("stformat.store.counts_writer.COUNTS_CODEC", vector_writer.ZSTD)
    path = stf.convert_slide(small_source, tmp_path / "zstd.zarr")
    assert stf.verify_store(path) == []
    with stf.open_slide(path) as slide, stf.open_slide(small_store) as other:
        assert (slide.counts[:] != other.counts[:]).nnz == 0
        genes = list(slide.var.index[:3])
        assert (slide.counts.genes(genes) != other.counts.genes(genes)).nnz == 0
