"""How much genes vary beyond a model without structure: variance of their Pearson residuals.

The model and its clipping are those of Lause, Berens and Kobak, Genome Biology 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.collection.count_blocks import CountBlock

__all__ = ["THETA", "most_variable", "residual_variances"]

THETA = 100.0
"""Inverse overdispersion of the model, the same for every gene."""

_DENSE_VALUES = 1 << 20


def residual_variances(
    blocks: Callable[[], Iterable[CountBlock]], n_genes: int
) -> NDArray[np.float64]:
    """Return the variance of clipped Pearson residuals of each gene.

    A count x of a row with total t and a gene with sum g, of all counts s, has the residual
    ``(x - m) / sqrt(m + m**2 / THETA)`` with ``m = t * g / s``, clipped to the square root of the
    number of rows.

    Parameters
    ----------
    blocks : callable
        Returns the rows, block after block; called twice. Rows without counts must be left out.
    n_genes : int
        Number of genes.

    Returns
    -------
    (n_genes,) ndarray of float64
        Variance over rows, with ``n``; NaN of a gene without counts, which has no residuals.

    Raises
    ------
    ValueError
        If there are no rows.

    Notes
    -----
    Takes time for every pair of row and gene, whether it has a count or not.
    """
    state: kernels.GeneMoments | None = None
    for block in blocks():
        state = kernels.gene_moments(block.data, block.indices, block.indptr, n_genes, state=state)
    if state is None or not state.n_obs:
        raise ValueError("Pearson residuals need rows with counts, got none")
    gene_sums = state.sums.astype(np.float64)
    expressed = np.flatnonzero(gene_sums > 0)
    place = np.full(n_genes, -1, dtype=np.int64)
    place[expressed] = np.arange(len(expressed))
    share = gene_sums[expressed] / gene_sums.sum()
    clip = math.sqrt(state.n_obs)
    sums, squares = np.zeros(len(expressed)), np.zeros(len(expressed))
    step = max(1, _DENSE_VALUES // len(expressed))
    for block in blocks():
        for start in range(0, block.n_rows, step):
            counts = _dense(block, start, min(start + step, block.n_rows), place, len(expressed))
            residuals = _residuals(counts, share, clip)
            sums += residuals.sum(axis=0)
            squares += np.square(residuals).sum(axis=0)
    variances = np.full(n_genes, np.nan)
    variances[expressed] = squares / state.n_obs - np.square(sums / state.n_obs)
    return variances


def most_variable(variances: Iterable[NDArray[np.float64]], n_top: int) -> NDArray[np.int64]:
    """Choose the genes whose residuals vary most in most batches.

    Parameters
    ----------
    variances : iterable of (n_genes,) ndarray of float64
        From `residual_variances`, one a batch.
    n_top : int
        How many genes, at least 1.

    Returns
    -------
    (k,) ndarray of int64
        Places of genes that have a variance in any batch: by the number of batches that have them
        among their own first `n_top`, most first; then by the median of their ranks there; then as
        they come.

    Examples
    --------
    >>> most_variable([np.array([1.0, 9.0, 4.0]), np.array([2.0, 1.0, 5.0])], 2)
    array([2, 1])
    """
    every = np.array(list(variances))
    # NaN comes last.
    ranks = np.argsort(np.argsort(-every, axis=1, kind="stable"), axis=1)
    is_top = (ranks < n_top) & ~np.isnan(every)
    n_batches = is_top.sum(axis=0)
    median = np.ma.median(np.ma.masked_array(ranks, mask=~is_top), axis=0)
    order = np.lexsort([np.ma.filled(median.astype(np.float64), np.inf), -n_batches])
    has_variance = ~np.isnan(every).all(axis=0)
    return order[has_variance[order]][:n_top].astype(np.int64)


def _dense(
    block: CountBlock, start: int, stop: int, place: NDArray[np.int64], n_genes: int
) -> NDArray[np.float64]:
    some = slice(block.indptr[start], block.indptr[stop])
    rows = np.repeat(np.arange(stop - start), np.diff(block.indptr[start : stop + 1]))
    counts = np.zeros((stop - start, n_genes))
    counts[rows, place[block.indices[some]]] = block.data[some]
    return counts


def _residuals(
    counts: NDArray[np.float64], share: NDArray[np.float64], clip: float
) -> NDArray[np.float64]:
    expected = counts.sum(axis=1, keepdims=True) * share
    residuals = counts
    residuals -= expected
    residuals /= np.sqrt(expected + np.square(expected) / THETA)
    return np.clip(residuals, -clip, clip, out=residuals)
