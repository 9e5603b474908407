"""Which genes vary more than others of their mean: dispersions normalised within bins of means.

The rules are those of `scanpy.pp.highly_variable_genes` (flavours ``seurat`` and ``cell_ranger``),
which follow Satija et al. 2015 and Zheng et al. 2017; here from means and variances alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["Dispersions", "Flavor", "normalized_dispersions", "variable_in_batches", "variable_top"]

type Flavor = Literal["seurat", "cell_ranger"]

_UNEXPRESSED_MEAN = 1e-12
# Median absolute deviation of a normal distribution of standard deviation 1: its 0.75 quantile.
_NORMAL_MAD = 0.6744897501960817


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dispersions:
    """Dispersions of genes; made by `normalized_dispersions`."""

    means: NDArray[np.float64]
    """(n_genes,) mean of each gene, of flavour ``seurat`` as ``log1p``."""

    dispersions: NDArray[np.float64]
    """(n_genes,) variance over mean, of flavour ``seurat`` as ``log``; NaN where that is of 0."""

    normalized: NDArray[np.float64]
    """(n_genes,) `dispersions`, centred and scaled within bins of `means`; may be NaN."""


def normalized_dispersions(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    *,
    flavor: Flavor = "seurat",
    n_bins: int = 20,
) -> Dispersions:
    """Compare the dispersion of each gene with those of genes of about its mean.

    Parameters
    ----------
    mean, variance : (n_genes,) ndarray of float64
        Mean, and variance with ``n - 1``, of each gene: of values scaled to one total a row
        (``seurat``), or of ``log1p`` of these (``cell_ranger``).
    flavor : {"seurat", "cell_ranger"}, default: "seurat"
        Bins of equal width with mean and standard deviation of logarithms, or bins of equal number
        with median and median absolute deviation.
    n_bins : int, default: 20
        Number of bins of ``seurat``; ``cell_ranger`` has always 20.

    Returns
    -------
    Dispersions
        As scanpy gives them.

    Raises
    ------
    ValueError
        If bins of equal number cannot be told apart, for many genes have one mean.

    Examples
    --------
    >>> mean = np.array([1.0, 1.1, 1.2, 4.0])
    >>> found = normalized_dispersions(mean, np.array([1.0, 4.0, 2.0, 8.0]), n_bins=2)
    >>> found.normalized.round(2)
    array([-0.92,  1.06, -0.14,  1.  ])
    """
    means = np.where(mean == 0, _UNEXPRESSED_MEAN, mean)
    dispersions = variance / means
    if flavor == "seurat":
        with np.errstate(divide="ignore"):
            dispersions = np.log(np.where(dispersions == 0, np.nan, dispersions))
        means = np.log1p(means)
        bins = pd.cut(pd.Series(means), n_bins, labels=False)
        centre, spread = _mean_and_deviation(pd.Series(dispersions), bins)
    else:
        edges = [-np.inf, *np.percentile(means, np.arange(10, 105, 5)).tolist(), np.inf]
        if len(set(edges)) < len(edges):
            raise ValueError("bins of equal number need genes of different means, got too few")
        bins = pd.cut(pd.Series(means), edges, labels=False)
        centre, spread = _median_and_deviation(pd.Series(dispersions), bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        normalized = (dispersions - centre) / spread
    return Dispersions(means=means, dispersions=dispersions, normalized=normalized)


def _mean_and_deviation(
    values: pd.Series[float], bins: pd.Series[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grouped = values.groupby(bins)
    centre = grouped.transform("mean").to_numpy(np.float64, copy=True)
    spread = grouped.transform("std").to_numpy(np.float64, copy=True)
    # A gene alone in its bin gets 1.
    is_alone = np.isnan(spread)
    spread[is_alone] = centre[is_alone]
    centre[is_alone] = 0.0
    return centre, spread


def _median_and_deviation(
    values: pd.Series[float], bins: pd.Series[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centre = values.groupby(bins).transform("median")
    spread = (values - centre).abs().groupby(bins).transform("median") / _NORMAL_MAD
    return centre.to_numpy(np.float64), spread.to_numpy(np.float64)


def variable_top(normalized: NDArray[np.float64], n_top: int) -> NDArray[np.bool_]:
    """Choose the genes of the largest normalised dispersions.

    Parameters
    ----------
    normalized : (n_genes,) ndarray of float64
        From `normalized_dispersions`.
    n_top : int
        How many, at least 1.

    Returns
    -------
    (n_genes,) ndarray of bool
        `n_top` genes, more where several share the last place, fewer where fewer have one.

    Examples
    --------
    >>> variable_top(np.array([0.5, np.nan, 2.0, 1.0]), 2)
    array([False, False,  True,  True])
    """
    known = np.sort(normalized[~np.isnan(normalized)])[::-1]
    if not len(known):
        return np.zeros(len(normalized), dtype=np.bool_)
    cutoff = known[min(n_top, len(known)) - 1]
    return np.asarray(~np.isnan(normalized) & (normalized >= cutoff))


def variable_in_batches(
    batches: Sequence[tuple[NDArray[np.bool_], Dispersions]],
    names: Sequence[str],
    n_top: int,
) -> NDArray[np.bool_]:
    """Choose the genes that vary in most batches.

    Parameters
    ----------
    batches : sequence of (mask, Dispersions)
        Which genes each batch expresses, and the dispersions of these.
    names : sequence of str
        Name of each gene.
    n_top : int
        How many, at least 1.

    Returns
    -------
    (n_genes,) ndarray of bool
        The first `n_top` genes by the number of batches that have them among their own, then by
        the mean of normalised dispersions, 0 where a batch does not express a gene, then by name.
    """
    n_genes = len(names)
    n_batches = np.zeros(n_genes, dtype=np.int64)
    sums, n_known = np.zeros(n_genes), np.zeros(n_genes)
    for expressed, found in batches:
        n_batches[expressed] += variable_top(found.normalized, n_top)
        normalized = np.zeros(n_genes)
        normalized[expressed] = found.normalized
        is_known = ~np.isnan(normalized)
        sums[is_known] += normalized[is_known]
        n_known += is_known
    mean = np.divide(sums, n_known, out=np.full(n_genes, np.nan), where=n_known > 0)
    by_name = np.argsort(np.argsort(np.asarray(names, dtype=object), kind="stable"))
    order = np.lexsort([by_name, -np.nan_to_num(mean, nan=-np.inf, posinf=np.inf), -n_batches])
    chosen = np.zeros(n_genes, dtype=np.bool_)
    chosen[order[:n_top]] = True
    return chosen
