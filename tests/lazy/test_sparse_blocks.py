from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import stformat as stf
from stformat.lazy import sparse_blocks
from stformat.lazy.sparse_blocks import _shard_heights
from stformat.store.counts import CountsReader


@pytest.fixture(scope="module")
def counts(wide):
    return wide.counts[:].toarray()


def test_blocks_are_sparse_rows_of_all_genes(wide, counts):
    blocks = stf.counts_as_dask(wide, rows_per_block=16)
    assert blocks.chunks == ((16, 16, 8), (30,))
    assert blocks.dtype == np.int32
    assert isinstance(blocks._meta, sparse.csr_array)
    for number, first in enumerate((0, 16, 32)):
        block = blocks.blocks[number].compute()
        assert isinstance(block, sparse.csr_array)
        np.testing.assert_array_equal(block.toarray(), counts[first : first + 16])
    np.testing.assert_array_equal(blocks.compute().toarray(), counts)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), rows_per_block=st.integers(1, 50))
def test_any_index_reads_what_numpy_would(wide, counts, data, rows_per_block):
    blocks = stf.counts_as_dask(wide, rows_per_block=rows_per_block)
    rows = data.draw(
        st.one_of(st.slices(40), st.integers(-40, 39), st.lists(st.integers(0, 39), min_size=1))
    )
    genes = data.draw(st.one_of(st.slices(30), st.lists(st.integers(0, 29), min_size=1)))
    part = blocks[rows][..., genes].compute()
    expected = counts[rows][..., genes]
    assert part.shape == expected.shape
    np.testing.assert_array_equal(part.toarray(), expected)


def test_a_slice_of_rows_reads_no_other_rows(wide, monkeypatch):
    asked = []
    original = CountsReader.__getitem__

    def spy(self, rows):
        asked.append(rows)
        return original(self, rows)

    blocks = stf.counts_as_dask(wide, rows_per_block=10)
    monkeypatch.setattr(CountsReader, "__getitem__", spy)
    blocks[13:17].compute()
    assert asked == [slice(13, 17, None)]


@given(
    lengths=st.lists(st.integers(0, 40), max_size=50),
    shard=st.integers(1, 60),
)
def test_blocks_begin_where_shards_do(lengths, shard):
    indptr = np.append(0, np.cumsum(lengths)).astype(np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_blocks, "VECTOR_SHARD", shard)
        heights = _shard_heights(indptr)
    assert sum(heights) == len(lengths)
    edges = np.append(0, np.cumsum(heights)).astype(int)
    for start, stop in pairwise(edges):
        # Whole rows of one shard, and at most one row that the next shard cuts.
        assert indptr[max(start, stop - 1)] - indptr[start] < shard
        assert start == 0 or indptr[start] // shard > (indptr[start] - lengths[start - 1]) // shard


def test_equal_counts_have_equal_names(store, wide):
    with stf.open_slide(store("wide")) as again:
        assert stf.counts_as_dask(again).name == stf.counts_as_dask(wide).name
    assert stf.counts_as_dask(wide, rows_per_block=3).name != stf.counts_as_dask(wide).name


def test_blocks_pickle_as_the_path_of_their_store(store, counts):
    with stf.open_slide(store("wide")) as slide:
        pickled = pickle.dumps(stf.counts_as_dask(slide, rows_per_block=16))
    assert len(pickled) < 4000
    # The slide that made them is closed by now.
    blocks = pickle.loads(pickled)  # noqa: S301 - pickled above
    np.testing.assert_array_equal(blocks.compute().toarray(), counts)


def test_a_block_has_a_row_at_least(wide):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        stf.counts_as_dask(wide, rows_per_block=0)
