"""Chosen genes of sparse counts: the twins against the definition, the definition against SciPy."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from scipy import sparse

from stformat import kernels as public
from stformat.kernels import _counts, _reference

# Values with the columns they come with: enough to meet each conversion.
TYPES = {np.uint16: np.int64, np.int32: np.int32, np.float32: np.int32}
compiled = settings(max_examples=60)


@st.composite
def selections(draw):
    """CSR parts and a map of their genes: none wanted, some or all, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n_vars, n_out = draw(st.integers(1, 80)), draw(st.integers(0, 90))
    lengths = np.minimum(draw(st.lists(st.sampled_from([0, 1, 3, 70]), max_size=9)), n_vars)
    dtype = draw(st.sampled_from(list(TYPES)))
    indices = [rng.permutation(n_vars)[: int(length)] for length in lengths]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    data = rng.integers(0, 60_000, indptr[-1]).astype(dtype)
    gene_map = np.full(n_vars, -1)
    n_wanted = draw(st.integers(0, min(n_vars, n_out)))
    gene_map[rng.permutation(n_vars)[:n_wanted]] = rng.permutation(n_out)[:n_wanted]
    indices = np.concatenate([*indices, []]).astype(TYPES[dtype])
    return data, indices, indptr, gene_map, n_out


def select(kernels, selection):
    data, indices, indptr, gene_map, n_out = selection
    data, indices = data.copy(), indices.copy()
    selected = kernels.select_genes_inplace(data, indices, indptr, gene_map=gene_map, n_out=n_out)
    return data[: selected[-1]], indices[: selected[-1]], selected


@compiled
@drawn(selections(), st.sampled_from([1, 100, 1 << 17]))
def test_selected_genes_are_their_definition(kernels, selection, block_values):
    data, indices, indptr, gene_map, _ = selection
    expected, columns, lengths = data.copy(), indices.copy(), np.empty(len(indptr) - 1, np.int64)
    _reference.select_genes(expected, columns, indptr, gene_map, lengths)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_counts, "BLOCK_VALUES", block_values)
        values, targets, selected = select(kernels, selection)
    np.testing.assert_array_equal(selected, np.append(0, np.cumsum(lengths)))
    np.testing.assert_array_equal(values, expected[: len(values)])
    np.testing.assert_array_equal(targets, columns[: len(values)])
    assert (values.dtype, targets.dtype) == (data.dtype, indices.dtype)


@compiled
@drawn(selections())
def test_the_definition_is_scipys_choice_of_columns(selection):
    data, indices, indptr, gene_map, n_out = selection
    whole = sparse.csr_array((data, indices, indptr), shape=(len(indptr) - 1, len(gene_map)))
    wanted = np.flatnonzero(gene_map >= 0)
    expected = np.zeros((whole.shape[0], n_out), data.dtype)
    expected[:, gene_map[wanted]] = whole[:, wanted].toarray()
    lengths = np.empty(len(indptr) - 1, np.int64)
    values, columns = data.copy(), indices.copy()
    _reference.select_genes(values, columns, indptr, gene_map, lengths)
    dense = np.zeros_like(expected)
    bounds = pairwise(np.append(0, np.cumsum(lengths)).tolist())
    for row, (start, stop) in enumerate(bounds):
        dense[row, columns[start:stop]] = values[start:stop]
    np.testing.assert_array_equal(dense, expected)


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        ("indptr must run from 0", {"indptr": np.array([0, 2])}),
        ("indices must have one entry a value", {"indices": np.array([0, 1])}),
        ("gene_map must map to -1 or one of 2 columns", {"gene_map": np.array([2, -1, 0])}),
        ("gene_map must map genes to different columns", {"gene_map": np.array([0, -1, 0])}),
        ("n_out must be below 2", {"n_out": 2**31}),
    ],
)
def test_what_is_no_selection_is_refused_and_nothing_moved(kernels, message, wrong):
    given = {
        "data": np.array([4, 1, 2], np.int32),
        "indices": np.array([0, 1, 2]),
        "indptr": np.array([0, 2, 3]),
        "gene_map": np.array([1, -1, 0]),
        "n_out": 2,
    } | wrong
    before = {name: np.copy(value) for name, value in given.items()}
    csr = [given[name] for name in ("data", "indices", "indptr")]
    with pytest.raises(ValueError, match=message):
        kernels.select_genes_inplace(*csr, gene_map=given["gene_map"], n_out=given["n_out"])
    for name, value in given.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("column", [3, -1])
def test_a_column_without_a_gene_is_refused(kernels, column):
    data, indices = np.array([4, 1, 2], np.int32), np.array([0, column, 2])
    with pytest.raises(ValueError, match=f"columns of 3 genes, got {column} at 1"):
        kernels.select_genes_inplace(
            data, indices, np.array([0, 2, 3]), gene_map=np.array([1, -1, 0]), n_out=2
        )


def test_arrays_that_lie_apart_are_refused():
    indices = np.array([0, 1])
    with pytest.raises(ValueError, match="C-contiguous"):
        public.select_genes_inplace(
            np.ones(4, np.int32)[::2], indices, np.array([0, 2]),
            gene_map=np.array([0, 1]), n_out=2,
        )  # fmt: skip
