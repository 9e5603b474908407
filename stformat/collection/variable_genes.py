"""Highly variable genes of any number of slides, read as a stream.

Flavours ``seurat`` and ``cell_ranger`` are those of `scanpy.pp.highly_variable_genes` after
`scanpy.pp.normalize_total` and `scanpy.pp.log1p`; ``pearson_residuals`` is that of
`scanpy.experimental.pp.highly_variable_genes` (Lause, Berens and Kobak 2021) on raw counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stformat import kernels
from stformat.collection.count_blocks import CountBlock, SlideOpener, iter_blocks
from stformat.collection.pearson_residuals import most_variable, residual_variances
from stformat.errors import StformatError
from stformat.genes.dispersion import (
    Dispersions,
    normalized_dispersions,
    variable_in_batches,
    variable_top,
)

__all__ = ["CountSource", "VariableRule", "variable_genes"]

type VariableFlavor = Literal["seurat", "cell_ranger", "pearson_residuals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableRule:
    """How variable genes are chosen."""

    n_top: int
    """How many."""

    flavor: VariableFlavor = "seurat"
    """Whose rule."""

    batches: Literal["together", "slide"] = "together"
    """All rows as one, or each slide by itself and the results joined."""

    target_sum: float | None = None
    """What rows are scaled to; None is the median total over the genes, of rows that have any."""

    n_bins: int = 20
    """Bins of means, of flavour ``seurat``."""

    expressed_only: bool = True
    """Rows without any count of the genes, and genes without any count, are left out; always of
    flavour ``pearson_residuals``, which has no residuals for them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountSource:
    """A slide, and where the genes are in it."""

    slide_id: str
    """Identifier of the slide."""

    opened: SlideOpener
    """Opens the slide, bound to a table, as often as it is to be read."""

    columns: Callable[[], NDArray[np.int64]]
    """Returns the (n_genes,) column of each gene, or -1."""

    rows: NDArray[np.int64] | None
    """(m,) positions of the rows that count, or None for all."""

    def blocks(self, *, expressed_only: bool) -> Iterator[CountBlock]:
        """Read the counts, block after block."""
        with self.opened() as slide:
            for block in iter_blocks(slide, self.columns(), rows=self.rows):
                yield block.without_empty_rows() if expressed_only else block


def variable_genes(
    sources: Sequence[CountSource], keys: Sequence[str], rule: VariableRule
) -> NDArray[np.int64]:
    """Choose highly variable genes.

    Parameters
    ----------
    sources : sequence of CountSource
        Slides with the column of each gene.
    keys : sequence of str
        Key of each gene, unique.
    rule : VariableRule
        How they are chosen.

    Returns
    -------
    (k,) ndarray of int64
        Places of the genes in `keys`: ascending; of flavour ``pearson_residuals`` the most
        variable first.

    Raises
    ------
    ValueError
        If there are too few rows or genes to compare, or none varies; of one slide, it is named.

    Notes
    -----
    Reads the counts once, twice for ``pearson_residuals`` and for ``cell_ranger`` without
    `VariableRule.target_sum`. Keeps 8 bytes a row and, for a batch, some 100 bytes a gene.
    """
    batches = [sources] if rule.batches == "together" else [[source] for source in sources]
    if rule.flavor == "pearson_residuals":
        variances: list[NDArray[np.float64]] = []
        for batch in batches:
            with _named(batch):
                blocks = partial(_nonempty_blocks, batch)
                variances.append(residual_variances(blocks, len(keys)))
        found = most_variable(variances, rule.n_top)
    else:
        found = _most_dispersed(batches, keys, rule)
    if not len(found):
        raise ValueError("variable genes need several that differ in how they vary, got too few")
    return found


def _most_dispersed(
    batches: Sequence[Sequence[CountSource]], keys: Sequence[str], rule: VariableRule
) -> NDArray[np.int64]:
    moments = _batch_moments(batches, len(keys), rule)
    is_expressed = np.any([mean > 0 for mean, _ in moments], axis=0)
    found: list[tuple[NDArray[np.bool_], Dispersions]] = []
    for batch, (mean, variance) in zip(batches, moments, strict=True):
        is_kept = np.ones(len(keys), dtype=np.bool_)
        if rule.expressed_only or rule.batches == "slide":
            is_kept = mean > 0
        flavor: Literal["seurat", "cell_ranger"] = (
            "cell_ranger" if rule.flavor == "cell_ranger" else "seurat"
        )
        with _named(batch):
            dispersions = normalized_dispersions(
                mean[is_kept], variance[is_kept], flavor=flavor, n_bins=rule.n_bins
            )
        found.append((is_kept, dispersions))
    if rule.batches == "slide":
        if not any(np.isfinite(one.normalized).any() for _, one in found):
            return np.empty(0, dtype=np.int64)
        known = np.flatnonzero(is_expressed) if rule.expressed_only else np.arange(len(keys))
        batches_of_known = [(kept[known], one) for kept, one in found]
        names = [keys[place] for place in known.tolist()]
        return known[variable_in_batches(batches_of_known, names, rule.n_top)]
    ((is_kept, dispersions),) = found
    return np.flatnonzero(is_kept)[variable_top(dispersions.normalized, rule.n_top)]


@contextmanager
def _named(batch: Sequence[CountSource]) -> Iterator[None]:
    """Say of which slide it is, where rows are of one, that something cannot be computed."""
    try:
        yield
    except ValueError as error:
        if len(batch) != 1 or isinstance(error, StformatError):
            raise
        raise ValueError(f"{error}, in slide {batch[0].slide_id}") from error


def _nonempty_blocks(batch: Iterable[CountSource]) -> Iterator[CountBlock]:
    for source in batch:
        yield from source.blocks(expressed_only=True)


def _batch_moments(
    batches: Sequence[Sequence[CountSource]], n_genes: int, rule: VariableRule
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return mean and variance of normalised values of each gene in each batch."""
    # Scaling all rows alike scales means and deviations, so the median may come after: but not of
    # logarithms.
    is_scaled_first = rule.flavor == "cell_ranger"
    target = 1.0
    if is_scaled_first:
        target = rule.target_sum or _median(_totals(batches, rule))
    totals: list[NDArray[np.float64]] = []
    moments = []
    for batch in batches:
        with _named(batch):
            moments.append(_moments(batch, n_genes, rule, target, totals))
    if is_scaled_first:
        return moments
    target = rule.target_sum or _median(totals)
    return [(mean * target, variance * target**2) for mean, variance in moments]


def _moments(
    batch: Sequence[CountSource],
    n_genes: int,
    rule: VariableRule,
    target: float,
    totals: list[NDArray[np.float64]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance over rows scaled to a total; append the totals before."""
    state: kernels.GeneMoments | None = None
    for source in batch:
        for block in source.blocks(expressed_only=rule.expressed_only):
            sums = kernels.row_sums(block.data, block.indptr)
            totals.append(sums)
            scale = np.divide(target, sums, out=np.zeros_like(sums), where=sums > 0)
            values = block.data * np.repeat(scale, np.diff(block.indptr))
            if rule.flavor == "cell_ranger":
                np.log1p(values, out=values)
            state = kernels.gene_moments(values, block.indices, block.indptr, n_genes, state=state)
    if state is None or state.n_obs < 2:
        raise ValueError("variable genes need two rows with counts at least, got fewer")
    mean, variance = state.mean, state.variance
    # Below the bound of rounding that `gene_moments` states, values that differ cannot be told.
    rounding = 3 * state.n_obs * 2.0**-53 * (variance + np.square(mean))
    return mean, np.where(variance <= rounding, 0.0, variance)


def _totals(
    batches: Iterable[Iterable[CountSource]], rule: VariableRule
) -> list[NDArray[np.float64]]:
    return [
        kernels.row_sums(block.data, block.indptr)
        for batch in batches
        for source in batch
        for block in source.blocks(expressed_only=rule.expressed_only)
    ]


def _median(totals: Sequence[NDArray[np.float64]]) -> float:
    every = np.concatenate([*totals, np.empty(0)])
    every = every[every > 0]
    if not len(every):
        raise ValueError("variable genes need rows with counts, got none")
    return float(np.median(every))
