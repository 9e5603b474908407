"""Sparse counts: compiled twins against the definition, the definition against hand and SciPy."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stformat import kernels
from stformat.kernels import _reference

compiled = settings(deadline=None, max_examples=60)
INTEGERS = [np.uint8, np.uint16, np.uint32, np.int32, np.int64]
FLOATS = [np.float32, np.float64]
# Values with the columns they come with: enough to meet each conversion. Compiling every pair would
# take most of the suite's time.
DENSIFIED = {np.uint8: np.int64, np.int32: np.int32, np.float32: np.int32}


@st.composite
def matrices(draw, dtypes=(*INTEGERS, *FLOATS), columns=None):
    """CSR parts: empty rows, rows longer than the lanes of a sum, unsorted columns."""
    lengths = draw(st.lists(st.sampled_from([0, 0, 1, 2, 5, 63, 64, 65, 200]), max_size=6))
    n_vars = 200 + draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    dtype = draw(st.sampled_from(list(dtypes)))
    offsets = columns[dtype] if columns else draw(st.sampled_from([np.int32, np.int64]))
    dtype = np.dtype(dtype)
    nnz = sum(lengths)
    small, large = rng.geometric(0.5, nnz), rng.integers(0, 200, nnz)
    data = np.where(rng.random(nnz) < 0.7, small, large).astype(dtype)
    if dtype.kind == "f" and draw(st.booleans()):
        data = (data * rng.random(nnz) * 10.0 ** rng.integers(-12, 9, nnz)).astype(dtype)
    if draw(st.booleans()):
        data.flags.writeable = False
    indices = [rng.permutation(n_vars)[:length] for length in lengths]
    indices = np.concatenate([*indices, []]).astype(offsets)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(offsets)
    return data, indices, indptr, n_vars


def or_own_sums(totals):
    return np.empty(0) if totals is None else totals


targets = st.sampled_from([1.0, 1e4, 3.7e-9, 1e12]) | st.floats(1e-3, 1e7)


def assert_within_one_ulp(actual, expected):
    assert actual.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(expected))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    ulps = actual[finite].view(np.int32).astype(int) - expected[finite].view(np.int32)
    # A value of -0.0 may come back as 0.0.
    is_zero = (actual[finite] == 0) & (expected[finite] == 0)
    assert np.abs(ulps[~is_zero]).max(initial=0) <= 1


@compiled
@given(matrices())
def test_row_sums_are_their_definition(kernels, matrix):
    data, _, indptr, _ = matrix
    expected = np.empty(len(indptr) - 1)
    _reference.row_sums(data, indptr, expected)
    np.testing.assert_array_equal(kernels.row_sums(data, indptr), expected)


@given(matrices(INTEGERS))
def test_sums_of_counts_are_exact(matrix):
    data, _, indptr, _ = matrix
    sums = np.empty(len(indptr) - 1)
    _reference.row_sums(data, indptr, sums)
    exact = [sum(data[a:b].tolist()) for a, b in pairwise(indptr)]
    assert sums.tolist() == exact


def test_sums_of_large_counts_are_exact(kernels):
    data = np.array([2**31 - 1] * 3 + [2**52, 1], np.int64)
    sums = kernels.row_sums(data, np.array([0, 3, 5]))
    assert sums.tolist() == [3 * (2**31 - 1), 2**52 + 1]


def test_order_of_a_sum_of_fractions_by_hand(kernels):
    # 1e16 + 1 drops the 1, but the two land in different lanes and meet last.
    data = np.zeros(65)
    data[0], data[1], data[64] = 1e16, 1.0, -1e16
    assert kernels.row_sums(data, np.array([0, 65])).tolist() == [1.0]


@compiled
@given(matrices(), targets, st.booleans())
def test_normalize_is_its_definition(kernels, matrix, target_sum, has_totals):
    data, _, indptr, _ = matrix
    totals = np.arange(len(indptr) - 1) * 1234.5 if has_totals else None
    expected = np.empty(len(data), np.float32)
    _reference.normalize_log1p(data, indptr, target_sum, or_own_sums(totals), expected)
    normalized = np.empty(len(data), np.float32)
    result = kernels.normalize_log1p(
        data, indptr, target_sum=target_sum, totals=totals, out=normalized
    )
    assert result is normalized
    assert_within_one_ulp(normalized, expected)


@compiled
@given(matrices([np.float32]), targets, st.booleans())
def test_in_place_gives_the_same_bits(kernels, matrix, target_sum, has_totals):
    data, _, indptr, _ = matrix
    totals = np.arange(len(indptr) - 1) * 1234.5 if has_totals else None
    values = data.copy()
    kernels.normalize_log1p_inplace(values, indptr, target_sum=target_sum, totals=totals)
    expected = kernels.normalize_log1p(data, indptr, target_sum=target_sum, totals=totals)
    np.testing.assert_array_equal(values.view(np.int32), expected.view(np.int32))


def test_normalize_definition_by_hand():
    # A row of total 4 scaled to 8: log(1 + 2) and log(1 + 6); a row of zeros stays zero.
    data, indptr = np.array([1, 3, 0], np.int32), np.array([0, 2, 3])
    normalized = np.empty(3, np.float32)
    _reference.normalize_log1p(data, indptr, 8.0, or_own_sums(None), normalized)
    assert normalized.tolist() == [np.float32(math.log(3)), np.float32(math.log(7)), 0.0]
    _reference.normalize_log1p(data, indptr, 8.0, np.array([16.0, 0.0]), normalized)
    assert normalized.tolist() == [np.float32(math.log1p(0.5)), np.float32(math.log1p(1.5)), 0.0]


def test_log1p_over_its_whole_range(kernels):
    """Every binade of float64, and the neighbours of where the exponent changes."""
    binades = np.ldexp(1.0, np.arange(-1074, 1024))
    steps = (np.ldexp(1.0, np.arange(0, 60)) * math.sqrt(2)) - 1
    values = np.concatenate([binades * scale for scale in (1.0, 1.37, 1.93)] + [steps])
    values = np.concatenate([values, np.nextafter(values, 0), np.nextafter(values, np.inf), [0]])
    values = values[np.isfinite(values)]
    indptr = np.array([0, len(values)])
    totals = np.ones(1)
    expected = np.log1p(values).astype(np.float32)
    actual = kernels.normalize_log1p(values, indptr, target_sum=1.0, totals=totals)
    assert_within_one_ulp(actual, expected)
    # float64 inside: rounding to float32 hides all but near ties.
    assert np.count_nonzero(actual != expected) <= len(values) // 1000


def test_log1p_is_correctly_rounded_but_for_one_in_a_million(kernels):
    rng = np.random.default_rng(7)
    values = np.concatenate([rng.random(200_000) * 9, 10.0 ** rng.uniform(-9, 9, 200_000)])
    expected = np.log1p(values).astype(np.float32)
    actual = kernels.normalize_log1p(
        values, np.array([0, len(values)]), target_sum=1.0, totals=np.ones(1)
    )
    assert np.count_nonzero(actual != expected) <= 4


@pytest.mark.parametrize("value", [-1e-3, -1.0, -3.0, np.nan, np.inf, -np.inf])
def test_what_is_no_count_gives_nan(kernels, value):
    data, indptr = np.array([value, 2.0], np.float32), np.array([0, 2])
    totals = np.ones(1)
    expected = np.empty(2, np.float32)
    _reference.normalize_log1p(data, indptr, 1.0, totals, expected)
    actual = kernels.normalize_log1p(data, indptr, target_sum=1.0, totals=totals)
    dense = kernels.densify(
        data, np.array([0, 1]), indptr, gene_map=np.array([0, 1]), n_out=2, log1p=True
    )
    for values in (expected, actual, dense[0]):
        assert np.isnan(values[0])
        assert values[1] == np.float32(math.log(3))


@st.composite
def gene_maps(draw, n_vars):
    n_out = draw(st.integers(0, n_vars + 2))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    chosen = rng.permutation(n_vars)[: min(n_out, n_vars)]
    gene_map = np.full(n_vars, -1, np.int64)
    gene_map[chosen] = rng.permutation(n_out)[: len(chosen)]
    return gene_map, n_out


@compiled
@given(
    matrices(DENSIFIED, DENSIFIED),
    st.none() | targets,
    st.tuples(st.booleans(), st.booleans()),
    st.data(),
)
def test_densify_is_its_definition(kernels, matrix, target_sum, flags, data_of):
    log1p, has_totals = flags
    data, indices, indptr, n_vars = matrix
    gene_map, n_out = data_of.draw(gene_maps(n_vars))
    n_obs = len(indptr) - 1
    totals = np.arange(n_obs) * 1234.5 if has_totals and target_sum is not None else None
    rows = data_of.draw(st.none() | st.lists(st.integers(0, max(0, n_obs - 1))).map(np.int64))
    rows = None if n_obs == 0 else rows
    chosen = np.arange(n_obs) if rows is None else rows
    factors = (1.0, np.ones(n_obs)) if target_sum is None else (target_sum, totals)
    expected = np.full((len(chosen), n_out), np.nan, np.float32)
    definition = _reference.densify_log1p if log1p else _reference.densify
    definition(
        data,
        indices,
        indptr[:-1][chosen],
        indptr[1:][chosen],
        factors[0],
        np.empty(0) if factors[1] is None else factors[1][chosen],
        gene_map,
        expected,
    )
    dense = kernels.densify(
        data,
        indices,
        indptr,
        gene_map=gene_map,
        n_out=n_out,
        rows=rows,
        totals=totals,
        target_sum=target_sum,
        log1p=log1p,
    )
    if log1p:
        assert_within_one_ulp(dense, expected)
    else:
        np.testing.assert_array_equal(dense, expected)


@compiled
@given(matrices(DENSIFIED, DENSIFIED), targets)
def test_densify_gives_the_bits_of_normalize(kernels, matrix, target_sum):
    data, indices, indptr, n_vars = matrix
    dense = kernels.densify(
        data,
        indices,
        indptr,
        gene_map=np.arange(n_vars),
        n_out=n_vars,
        target_sum=target_sum,
        log1p=True,
    )
    normalized = kernels.normalize_log1p(data, indptr, target_sum=target_sum)
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    np.testing.assert_array_equal(dense[row, indices].view(np.int32), normalized.view(np.int32))


def test_densify_equals_scipy(kernels):
    rng = np.random.default_rng(5)
    matrix = sparse.random_array((40, 30), density=0.3, format="csr", rng=rng, dtype=np.float64)
    matrix.data = np.ceil(matrix.data * 50)
    genes = rng.permutation(30)[:11]
    gene_map = np.full(30, -1)
    gene_map[genes] = np.arange(11)
    rows = np.array([3, 39, 3, 0])
    arrays = (matrix.data.astype(np.int32), matrix.indices, matrix.indptr)
    out = np.full((4, 11), np.nan, np.float32)
    raw = kernels.densify(*arrays, gene_map=gene_map, n_out=11, rows=rows, out=out)
    np.testing.assert_array_equal(raw, matrix[rows][:, genes].toarray())
    out.fill(np.nan)
    dense = kernels.densify(
        *arrays, gene_map=gene_map, n_out=11, rows=rows, target_sum=100.0, log1p=True, out=out
    )
    assert dense is out
    scaled = matrix.toarray() * (100.0 / matrix.sum(axis=1))[:, None]
    np.testing.assert_allclose(dense, np.log1p(scaled)[rows][:, genes], rtol=1e-6)


def test_a_batch_is_cut_whatever_the_other_rows_are(kernels):
    """A batch costs what its rows cost: offsets and totals of others are not looked at."""
    dense = kernels.densify(
        np.array([1, 2, 3], np.int32),
        np.array([0, 1, 0]),
        np.array([0, 2, 3, 99]),
        gene_map=np.array([0, 1]),
        n_out=2,
        rows=np.array([1, 0]),
        totals=np.array([3.0, 3.0, np.nan]),
        target_sum=3.0,
    )
    np.testing.assert_array_equal(dense, [[3, 0], [1, 2]])


data = np.array([1, 2, 3], np.int32)
indices = np.array([0, 1, 0])
indptr = np.array([0, 2, 3])
gene_map = np.array([0, 1])


def normalize(**changes):
    arguments = {"data": data, "indptr": indptr, "target_sum": 1.0} | changes
    return kernels.normalize_log1p(**arguments)


def densify(**changes):
    arguments = {"data": data, "indices": indices, "indptr": indptr, "gene_map": gene_map}
    return kernels.densify(**(arguments | {"n_out": 2} | changes))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.row_sums([1], indptr), TypeError, "data .*NumPy array, got list"),
        (lambda: kernels.row_sums(data > 0, indptr), TypeError, "float64, got bool"),
        (lambda: kernels.row_sums(data, indptr * 1.0), TypeError, "int32, got float64"),
        (lambda: kernels.row_sums(data, indptr[:0]), ValueError, "number of values, 3"),
        (lambda: kernels.row_sums(data, indptr[1:]), ValueError, r"3, got \[2\] to \[3\]"),
        (lambda: kernels.row_sums(data, indptr[:2]), ValueError, r"3, got \[0\] to \[2\]"),
        (
            lambda: kernels.row_sums(data, np.array([0, 4, 3])),
            ValueError,
            "got 4 and then 3 at row 1",
        ),
        (lambda: normalize(target_sum=0.0), ValueError, "positive and finite, got 0.0"),
        (lambda: normalize(target_sum=math.inf), ValueError, "positive and finite, got inf"),
        (lambda: normalize(totals=np.ones(3)), ValueError, "one value a row, 2, got 3"),
        (lambda: normalize(totals=np.ones(2, int)), TypeError, "float64, got int64"),
        (lambda: normalize(totals=[1.0, 1.0]), TypeError, "totals .*list"),
        (lambda: normalize(totals=np.array([1.0, -2.0])), ValueError, "got -2.0 for row 1"),
        (lambda: normalize(totals=np.array([np.nan, 2.0])), ValueError, "got nan for row 0"),
        (
            lambda: kernels.normalize_log1p_inplace(data, indptr, target_sum=1.0),
            ValueError,
            "float32, got .*int32",
        ),
        (lambda: densify(n_out=2**31), ValueError, "n_out must be below 2"),
        (lambda: densify(indices=indices[:2]), ValueError, "one entry a value, 3, got 2"),
        (lambda: densify(indices=np.array([0, 2, 0])), ValueError, "2 genes, got 2 at 1"),
        (lambda: densify(indices=np.array([0, 1, -1])), ValueError, "2 genes, got -1 at 2"),
        (
            lambda: densify(indices=np.array([0, 1, 9]), log1p=True),
            ValueError,
            "2 genes, got 9 at 2",
        ),
        (lambda: densify(gene_map=np.array([0, 0])), ValueError, "got 0 for genes 0 and 1"),
        (lambda: densify(gene_map=np.array([0, 2])), ValueError, "2 columns, got 2 for gene 1"),
        (lambda: densify(gene_map=np.array([-2, 0])), ValueError, "2 columns, got -2 for gene 0"),
        (lambda: densify(rows=np.array([0, 2])), ValueError, "rows of 2, got 2 at 1"),
        (lambda: densify(rows=np.array([-1])), ValueError, "rows of 2, got -1 at 0"),
        (lambda: densify(rows=[0]), TypeError, "rows .*list"),
        (
            lambda: densify(rows=np.array([1, 0]), indptr=np.array([0, 4, 3])),
            ValueError,
            "got 4 and then 3 at row 1",
        ),
        (
            lambda: densify(rows=np.array([1]), indptr=np.array([0, 2, 4])),
            ValueError,
            "leave the 3 values, got 2 and then 4 at row 1",
        ),
        (
            lambda: densify(rows=np.array([0]), indptr=np.array([-1, 2, 3])),
            ValueError,
            "got -1 and then 2 at row 0",
        ),
        (
            lambda: densify(rows=np.array([1]), target_sum=1.0, totals=np.array([1.0, np.nan])),
            ValueError,
            "got nan for row 1",
        ),
        (lambda: densify(totals=np.ones(2)), ValueError, "target_sum to scale to"),
        (lambda: densify(out=np.empty((2, 3), np.float32)), ValueError, r"\(2, 2\).*\(2, 3\)"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_in_place_refuses_what_it_cannot_write_to():
    values = np.ones(3, np.float32)
    values.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        kernels.normalize_log1p_inplace(values, indptr, target_sum=1.0)
