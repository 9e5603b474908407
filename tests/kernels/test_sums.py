"""Moments of genes and pooled rows: twins against the definition, the definition against hand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stformat import kernels
from stformat.kernels import _reference

compiled = settings(deadline=None, max_examples=60)
# Values with the columns they come with: compiling every pair would take most of the suite's time.
COLUMNS = {np.uint16: np.int32, np.int64: np.int64, np.float32: np.int32}
WHOLE = {np.uint16: np.int32, np.int64: np.int64}


@st.composite
def matrices(draw, columns=COLUMNS):
    """CSR parts with empty rows, unsorted columns, explicit zeros and large values."""
    n_rows, n_vars = draw(st.integers(0, 12)), draw(st.sampled_from([1, 3, 63, 64, 65, 200]))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    dtype = draw(st.sampled_from(list(columns)))
    lengths = rng.integers(0, n_vars + 1, n_rows)
    nnz = int(lengths.sum())
    # Squares about 2**32, where they begin to have a high half.
    large = rng.integers(0, 60_000 if dtype is np.uint16 else 100_000, nnz)
    data = np.where(rng.random(nnz) < 0.8, rng.integers(0, 9, nnz), large)
    data = data.astype(dtype)
    if data.dtype.kind == "f" and draw(st.booleans()):
        data = (data * rng.random(nnz) * 10.0 ** rng.integers(-6, 6, nnz)).astype(dtype)
    indices = [rng.permutation(n_vars)[:length] for length in lengths]
    indices = np.concatenate([*indices, []]).astype(columns[dtype])
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(columns[dtype])
    return data, indices, indptr, n_vars


def in_blocks(kernels, matrix, cuts):
    """Moments of blocks of rows, one after the other."""
    data, indices, indptr, n_vars = matrix
    state = None
    for start, stop in zip([0, *cuts], [*cuts, len(indptr) - 1], strict=True):
        values = slice(indptr[start], indptr[stop])
        offsets = indptr[start : stop + 1] - indptr[start]
        state = kernels.gene_moments(data[values], indices[values], offsets, n_vars, state=state)
    return state


@compiled
@given(matrices(), st.lists(st.integers(0, 100), max_size=3))
def test_moments_are_their_definition_whatever_the_blocks(matrix, cuts):
    data, indices, indptr, n_vars = matrix
    n_rows = len(indptr) - 1
    moments = in_blocks(kernels, matrix, sorted(cut % (n_rows + 1) for cut in cuts))
    assert moments.n_obs == n_rows
    if data.dtype.kind == "f":
        sums, squares = np.zeros(n_vars), np.zeros(n_vars)
        _reference.value_moments(data, indices, sums, squares)
        np.testing.assert_array_equal(moments.sums, sums)
        np.testing.assert_array_equal(moments.squares, squares)
        return
    sums, high, low = np.zeros(n_vars, np.int64), *np.zeros((2, n_vars), np.uint64)
    _reference.count_moments(data, indices, sums, high, low)
    np.testing.assert_array_equal(moments.sums, sums)
    total = [(h << 32) + rest for h, rest in zip(high.tolist(), low.tolist(), strict=True)]
    assert [(h << 32) + rest for h, rest in zip(*moments.squares.tolist(), strict=True)] == total
    assert (moments.squares[1] < 2**32).all()


@compiled
@given(matrices(WHOLE))
def test_moments_of_counts_are_correctly_rounded(kernels, matrix):
    data, indices, indptr, n_vars = matrix
    moments = kernels.gene_moments(*matrix)
    n = len(indptr) - 1
    for gene in range(n_vars):
        seen = [Fraction(int(value)) for value in data[indices == gene]]
        if n > 0:
            mean = sum(seen) / Fraction(n)
            assert moments.mean[gene] == float(mean)
        if n > 1:
            centred = sum((x - mean) ** 2 for x in seen) + (n - len(seen)) * mean**2
            assert moments.variance[gene] == float(centred / (n - 1))


@compiled
@given(matrices())
def test_moments_equal_numpy(kernels, matrix):
    data, indices, indptr, n_vars = matrix
    n = len(indptr) - 1
    moments = kernels.gene_moments(*matrix)
    if n < 2:
        assert np.isnan(moments.variance).all()
        assert np.isnan(moments.mean).all() == (n == 0)
        return
    dense = sparse.csr_array((data, indices, indptr), shape=(n, n_vars)).toarray().astype(float)
    # Counts are correctly rounded: what remains is NumPy's own error in adding 12 rows twice.
    np.testing.assert_array_max_ulp(moments.mean, dense.mean(axis=0), 12)
    scale = (dense**2).mean(axis=0)
    error = np.abs(moments.variance - dense.var(axis=0, ddof=1))
    assert (error <= 3 * (n + 1) * 2**-52 * scale * n / (n - 1)).all()


def test_moments_of_the_largest_counts_are_exact(kernels):
    largest = 2**32 - 1
    data, columns = np.array([largest, -largest, largest]), np.array([1, 0, 1])
    moments = kernels.gene_moments(data, columns, np.array([0, 2, 3]), 2)
    assert moments.mean.tolist() == [-largest / 2, float(largest)]
    assert moments.variance.tolist() == [largest**2 / 2, 0.0]


def test_moments_do_not_depend_on_the_order_of_rows_of_counts(kernels):
    rng = np.random.default_rng(2)
    matrix = sparse.random_array((300, 40), density=0.4, format="csr", rng=rng)
    matrix.data = rng.integers(1, 2**31, len(matrix.data))
    shuffled = matrix[rng.permutation(300)]
    first, second = (
        kernels.gene_moments(m.data, m.indices, m.indptr, 40) for m in (matrix, shuffled)
    )
    np.testing.assert_array_equal(first.variance, second.variance)


def test_state_is_not_changed(kernels):
    block = np.array([3], np.int32), np.array([0]), np.array([0, 1]), 1
    state = kernels.gene_moments(*block)
    kernels.gene_moments(*block, state=state)
    assert (state.n_obs, state.sums.tolist(), state.squares.tolist()) == (1, [3], [[0], [9]])


@st.composite
def groupings(draw, columns=COLUMNS):
    matrix = draw(matrices(columns))
    n_groups = draw(st.integers(1, 5))
    n_rows = len(matrix[2]) - 1
    group = draw(st.lists(st.integers(-1, n_groups - 1), min_size=n_rows, max_size=n_rows))
    return *matrix, np.array(group, np.int64), n_groups


@compiled
@given(groupings())
def test_pooling_is_its_definition(kernels, case):
    data, indices, indptr, n_vars, group, n_groups = case
    expected = _reference.pool_bins(data, indices, indptr, group, n_groups, n_vars)
    pooled = kernels.pool_bins(data, indices, indptr, group, n_groups)
    for actual, wanted in zip(pooled, expected[:3], strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert pooled[0].dtype == (data.dtype if data.dtype.kind == "f" else np.int32)
    assert (pooled[1].dtype, pooled[2].dtype) == (indices.dtype, indptr.dtype)


@compiled
@given(groupings(WHOLE))
def test_pooling_equals_a_product_of_matrices(kernels, case):
    data, indices, indptr, n_vars, group, n_groups = case
    rows = np.flatnonzero(group >= 0)
    chosen = sparse.csr_array(
        (np.ones(len(rows), np.int64), (group[rows], rows)), shape=(n_groups, len(group))
    )
    matrix = sparse.csr_array((data.astype(np.int64), indices, indptr), (len(group), n_vars))
    pooled = kernels.pool_bins(data, indices, indptr, group, n_groups)
    result = sparse.csr_array(pooled, shape=(n_groups, n_vars))
    assert result.has_sorted_indices
    np.testing.assert_array_equal(result.toarray(), (chosen @ matrix).toarray())


def test_pooling_definition_by_hand():
    data, indices = np.array([1, 0, 2, 7, 9], np.int32), np.array([3, 0, 3, 1, 2])
    pooled = _reference.pool_bins(
        data, indices, np.array([0, 2, 3, 4, 5]), np.array([1, 1, 0, -1]), 3, 4
    )
    assert [part.tolist() for part in pooled[:3]] == [[7, 0, 3], [1, 0, 3], [0, 1, 3, 3]]
    assert pooled[3] == -1


ONE_COLUMN = np.zeros(3, np.int32), np.array([0, 1, 2, 3])


@pytest.mark.parametrize(
    "values",
    [[2**30, 2**30, 0], [-(2**31), 0, -1], [2**40, -(2**40), 0], [2**62, 2**62, 2**63 - 1]],
)
def test_pooled_sums_beyond_int32_are_refused(kernels, values):
    data, group = np.array(values), np.array([1, 1, 1])
    with pytest.raises(OverflowError, match="int32, those of group 1"):
        kernels.pool_bins(data, *ONE_COLUMN, group, 2)
    assert _reference.pool_bins(data, *ONE_COLUMN, group, 2, 1)[3] == 1


def test_pooled_sums_at_the_edges_of_int32_are_kept(kernels):
    data = np.array([2**31 - 2, 1, -(2**31)])
    pooled = kernels.pool_bins(data, *ONE_COLUMN, np.array([0, 0, 1]), 2)
    assert pooled[0].tolist() == [2**31 - 1, -(2**31)]


data = np.array([1, 2, 3], np.int32)
indices = np.array([0, 1, 0])
indptr = np.array([0, 2, 3])
group = np.array([0, 1])


def moments(**changes):
    arguments = {"data": data, "indices": indices, "indptr": indptr, "n_vars": 2}
    return kernels.gene_moments(**(arguments | changes))


def pool(**changes):
    arguments = {"data": data, "indices": indices, "indptr": indptr, "group": group}
    return kernels.pool_bins(**(arguments | {"n_groups": 2} | changes))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: moments(indices=indices[:2]), ValueError, "a value, 3, got 2"),
        (lambda: moments(indices=np.array([0, 1, 2])), ValueError, "2 genes, got 2 at 2"),
        (lambda: moments(indices=np.array([0, -1, 2])), ValueError, "2 genes, got -1 at 1"),
        (
            lambda: moments(data=data + np.int64(2**32)),
            ValueError,
            "2\\*\\*32 .* got 4294967297 at 0",
        ),
        (lambda: moments(data=data * 1.0, indices=indices + 1), ValueError, "got 2 at 1"),
        (lambda: moments(n_vars=-1), ValueError, "at least 0, got -1"),
        (lambda: moments(n_vars=3, state=moments()), ValueError, "3 genes, got 2"),
        (lambda: moments(data=data * 1.0, state=moments()), TypeError, "floats.*integers"),
        (lambda: moments(state=moments(data=data * 1.0)), TypeError, "integers.*floats"),
        (lambda: pool(indptr=indptr[1:]), ValueError, r"3, got \[2\] to \[3\]"),
        (lambda: pool(indices=np.array([0, 1, -1])), ValueError, "got -1 at 2"),
        (lambda: pool(indices=np.array([0, 1, 2**31])), ValueError, "got 2147483648 at 2"),
        (lambda: pool(group=np.array([0, 2])), ValueError, "group must be -1 to 1, got 2 at 1"),
        (lambda: pool(group=np.array([-2, 0])), ValueError, "got -2 at 0"),
        (lambda: pool(group=group[:1]), ValueError, "a row, 2, got 1"),
        (lambda: pool(group=group * 1.0), TypeError, "int64, got float64"),
        (lambda: pool(n_groups=-1), ValueError, "at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_rows_have_a_limit():
    state = kernels.GeneMoments(n_obs=2**31, sums=np.zeros(2, np.int64), squares=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"2\*\*31 over all blocks"):
        moments(state=state)
