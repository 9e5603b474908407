"""Both layouts of a count matrix against SciPy."""

import dataclasses
import shutil
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stformat import row_order
from stformat.errors import CountsError, StoreWriteError
from stformat.model import Counts
from stformat.row_order import ordered_blocks
from stformat.spill import Spill
from stformat.store import counts_writer, layout
from stformat.store.counts_writer import CountsSummary
from stformat.testing.records import make_counts


def write_counts(by_row, by_gene, counts, order, *, memory_bytes=None, **told) -> CountsSummary:
    with Spill(None, memory_bytes=memory_bytes) as spill:
        return counts_writer.write_counts(by_row, by_gene, counts, order, spill, **told)


def random_matrix(shape, dtype, seed, largest=300):
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, largest + 1, shape) * (rng.random(shape) < 0.4)
    return sparse.csr_array((dense * (1 if dtype is np.int32 else 0.5)).astype(dtype))


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def read(directory):
    with zarr.config.set({"array.read_missing_chunks": False}):
        return anndata.io.read_elem(zarr.open_group(str(directory), mode="r"))


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 20), st.integers(1, 15)),
    dtype=st.sampled_from([np.int32, np.float32]),
    block_rows=st.integers(1, 25),
    bucket_rows=st.sampled_from([1, 3, 1 << 16]),
    memory_bytes=st.sampled_from([0, 100, 1000, 1 << 28]),
    seed=st.integers(0, 2**32),
)
def test_both_layouts_hold_the_reordered_matrix(  # noqa: PLR0917 - what Hypothesis varies
    shape, dtype, block_rows, bucket_rows, memory_bytes, seed
):
    matrix = random_matrix(shape, dtype, seed)
    order = np.random.default_rng(seed).permutation(shape[0])
    with tempfile.TemporaryDirectory() as folder:
        by_row, by_gene = Path(folder, "X"), Path(folder, "by_gene")
        counts = make_counts(matrix, block_rows=block_rows)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(row_order, "BUCKET_ROWS", bucket_rows)
            summary = write_counts(by_row, by_gene, counts, order, memory_bytes=memory_bytes)
        expected = matrix.toarray()[order]
        stored, transposed = read(by_row), read(by_gene)
        assert (stored.format, transposed.format) == ("csr", "csc")
        assert stored.dtype == dtype
        np.testing.assert_array_equal(stored.toarray(), expected)
        np.testing.assert_array_equal(transposed.toarray(), expected)
        assert stored.has_canonical_format
        assert transposed.has_canonical_format
        for group in (by_row, by_gene):
            arrays = zarr.open_group(str(group), mode="r")
            assert arrays["indices"].dtype == np.int32
            assert arrays["indptr"].dtype == np.int32
        np.testing.assert_array_equal(summary.total_counts, expected.sum(axis=1))
        assert summary.total_counts.dtype == (np.int64 if dtype is np.int32 else np.float64)
        np.testing.assert_array_equal(summary.n_genes, (expected > 0).sum(axis=1))
        assert (summary.nnz, summary.total) == (matrix.nnz, expected.sum(dtype=np.float64))


def test_a_matrix_of_more_values_than_int32_counts_has_wide_indices(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "index_type", lambda nnz: np.dtype(np.int64 if nnz else np.int32))
    matrix = random_matrix((20, 9), np.int32, seed=0)
    order = np.arange(20)
    counts = dataclasses.replace(make_counts(matrix), nnz=matrix.nnz)
    write_counts(tmp_path / "X", tmp_path / "by_gene", counts, order)
    for name in ("X", "by_gene"):
        group = zarr.open_group(str(tmp_path / name), mode="r")
        assert {group[part].dtype for part in ("indices", "indptr")} == {np.dtype(np.int64)}
        np.testing.assert_array_equal(read(tmp_path / name).toarray(), matrix.toarray())


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, "uint8"), (256, "uint16"), (65_536, "uint32"), (0, "uint8")]
)
def test_the_gene_major_copy_is_as_narrow_as_it_can_be(tmp_path, largest, dtype):
    dense = np.zeros((5, 3), np.int32)
    dense[0, 0], dense[4, 2] = min(1, largest), largest
    write_counts(tmp_path / "X", tmp_path / "G", make_counts(sparse.csr_array(dense)), np.arange(5))
    assert zarr.open_group(str(tmp_path / "G"), mode="r")["data"].dtype == dtype
    np.testing.assert_array_equal(read(tmp_path / "G").toarray(), dense)


def test_bytes_do_not_depend_on_blocks_or_bands(tmp_path, monkeypatch):
    matrix = random_matrix((50, 40), np.int32, 1)
    order = np.random.default_rng(0).permutation(50)
    write_counts(tmp_path / "a" / "X", tmp_path / "a" / "G", make_counts(matrix), order)
    monkeypatch.setattr(row_order, "BLOCK_NNZ", 30)
    monkeypatch.setattr(counts_writer, "_BAND_NNZ", 17)
    counts = make_counts(matrix, block_rows=11)
    assert len(list(ordered_blocks(counts, order, Spill(None)))) > 10
    write_counts(tmp_path / "b" / "X", tmp_path / "b" / "G", counts, order)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_blocks_respect_their_bound_but_for_long_rows(monkeypatch):
    monkeypatch.setattr(row_order, "BLOCK_NNZ", 4)
    dense = np.zeros((5, 6), np.int32)
    for row, length in enumerate([2, 2, 6, 0, 3]):
        dense[row, :length] = 1
    counts = make_counts(sparse.csr_array(dense))
    blocks = list(ordered_blocks(counts, np.arange(5), Spill(None)))
    assert [block.shape[0] for block in blocks] == [2, 1, 2]
    np.testing.assert_array_equal(sparse.vstack(blocks).toarray(), dense)


def broken_counts(data, indices, indptr, *, n_vars=4, dtype=np.int32, n_obs=None):
    block = sparse.csr_array((len(indptr) - 1, n_vars), dtype=dtype)
    block.data = np.array(data, dtype)
    block.indices = np.array(indices, np.int32)
    block.indptr = np.array(indptr, np.int32)
    shape = (len(indptr) - 1 if n_obs is None else n_obs, 4)
    return Counts(shape=shape, dtype=np.dtype(np.int32), iter_blocks=lambda: iter([block]))


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        (broken_counts([1, 0], [0, 1], [0, 2]), "counts.explicit-zero"),
        (broken_counts([1, 2], [1, 0], [0, 2]), "counts.order"),
        (broken_counts([1, 2], [1, 1], [0, 2]), "counts.order"),
        (broken_counts([1, 2], [0, 4], [0, 2]), "counts.column"),
        (broken_counts([1, 2], [-1, 1], [0, 2]), "counts.column"),
        (broken_counts([1, -2], [0, 1], [0, 2]), "counts.value"),
        (broken_counts([1], [0], [0, 1], n_obs=2), "counts.rows"),
        (broken_counts([1], [0], [0, 1], n_vars=5), "counts.block"),
        (broken_counts([1], [0], [0, 1], dtype=np.float32), "counts.block"),
    ],
)
def test_broken_promises_are_said(tmp_path, counts, code):
    with pytest.raises(CountsError) as caught:
        write_counts(tmp_path / "X", tmp_path / "G", counts, np.arange(counts.shape[0]))
    assert caught.value.problems[0].code == code
    assert not list(tmp_path.rglob("zarr.json"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
def test_float_values_must_be_finite_and_positive(tmp_path, value):
    matrix = sparse.csr_array(np.array([[1.5, value]], np.float32))
    with pytest.raises(CountsError, match=r"finite and not negative, found .* in row 0, column 1"):
        write_counts(tmp_path / "X", tmp_path / "G", make_counts(matrix), np.arange(1))


def test_the_same_column_in_the_next_row_is_no_repeat(tmp_path):
    matrix = sparse.csr_array(np.array([[0, 1], [1, 0], [0, 1]], np.int32))
    write_counts(tmp_path / "X", tmp_path / "G", make_counts(matrix), np.arange(3))
    np.testing.assert_array_equal(read(tmp_path / "X").toarray(), matrix.toarray())


def test_the_source_is_read_once(tmp_path):
    calls = []
    counts = make_counts(random_matrix((9, 5), np.int32, 0))

    def counted():
        calls.append(1)
        return counts.iter_blocks()

    counted_counts = dataclasses.replace(counts, iter_blocks=counted)
    write_counts(tmp_path / "X", tmp_path / "G", counted_counts, np.arange(9))
    assert calls == [1]


def test_progress_names_its_steps_in_order(tmp_path):
    events = []
    counts = make_counts(random_matrix((9, 5), np.int32, 0))
    write_counts(tmp_path / "X", tmp_path / "G", counts, np.arange(9), progress=events.append)
    assert list(dict.fromkeys(event.step for event in events)) == ["counts", "matrix", "by-gene"]
    for step, total in (("counts", 9), ("matrix", 9), ("by-gene", 5)):
        done = [event.done for event in events if event.step == step]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, total)


def test_too_little_room_on_disk_is_said_before_counts_are_read(tmp_path, monkeypatch):
    matrix = random_matrix((50, 40), np.int32, 1)
    unread = dataclasses.replace(
        make_counts(matrix), nnz=matrix.nnz, iter_blocks=lambda: pytest.fail("counts were read")
    )
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=matrix.nnz))
    with pytest.raises(StoreWriteError) as caught:
        write_counts(tmp_path / "X", tmp_path / "G", unread, np.arange(50), memory_bytes=100)
    assert caught.value.problems[0].code == "scratch.space"
    known = dataclasses.replace(make_counts(matrix), nnz=matrix.nnz)
    write_counts(tmp_path / "X", tmp_path / "G", known, np.arange(50))


def test_values_and_indices_are_cut_as_every_vector(tmp_path):
    matrix = sparse.csr_array(np.ones((40_000, 1), np.int32))
    by_row, by_gene = tmp_path / "X", tmp_path / "by_gene"
    write_counts(by_row, by_gene, make_counts(matrix), np.arange(40_000))
    for directory in (by_row, by_gene):
        group = zarr.open_group(str(directory), mode="r")
        assert group["data"].chunks == group["indices"].chunks == (32_768,)
        assert group["data"].shards == (65_536,)
    assert zarr.open_array(str(by_row / "indptr"), mode="r").chunks == (32_768,)
