"""Whether a count matrix holds counts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stformat.check.table_view import TableView
from stformat.errors import Problem

__all__ = ["count_problems"]

_ABSURD_COUNT = 1_000_000
_FEWEST_ROWS = 10
_EQUAL_SHARE = 1e-3
_FINEST_BIN_UM = 8.0
_GENES = "Gene Expression"

_USE_RAW = (
    "convert the slide again from the raw counts (filtered_feature_bc_matrix, or the study's UMI "
    "table): stformat normalises when it reads"
)


def count_problems(table: TableView) -> Iterator[Problem]:
    """Yield what is wrong with the counts of a table.

    Parameters
    ----------
    table : TableView
        The table; its values are read in blocks.

    Yields
    ------
    Problem
        ``check.counts`` or ``check.zero-count-spots``.
    """
    yield from _value_problems(table)
    totals = table.totals()[table.in_tissue]
    n_zero = int(np.count_nonzero(totals == 0))
    # Bins finer than a cell are often empty.
    is_fine = table.attributes.shape == "square" and (
        (table.attributes.diameter_um or _FINEST_BIN_UM) < _FINEST_BIN_UM
    )
    if n_zero and not is_fine and (table.genes["feature_type"] == _GENES).any():
        yield Problem(
            "check.zero-count-spots",
            table.path,
            "spots flagged in_tissue must have counts",
            f"{n_zero} of {len(totals)} without any",
            "leave them out before normalising or training (obs['total_counts'] > 0); where they "
            "are many, check that counts and positions are of the same slide",
        )
    present = totals[totals > 0]
    if len(present) >= _FEWEST_ROWS and np.ptp(present) <= _EQUAL_SHARE * present.max():
        yield Problem(
            "check.counts",
            table.path,
            "sums of rows must differ, as sequencing depth does from spot to spot",
            f"{present.max():g} in all of {len(present)} rows in tissue that are not empty: "
            "values that were normalised, or thinned to one depth",
            _USE_RAW,
        )


def _value_problems(table: TableView) -> Iterator[Problem]:
    dtype = table.values_dtype
    n_values = n_fractions = 0
    largest, fraction = 0.0, 0.0
    for values in table.iter_values():
        n_values += len(values)
        largest = max(largest, float(values.max()))
        if dtype.kind == "f":
            is_fraction = values != np.rint(values)
            n_fractions += int(np.count_nonzero(is_fraction))
            if is_fraction.any():
                fraction = float(values[is_fraction][0])
    if n_fractions:
        yield Problem(
            "check.counts",
            table.path,
            "values must be counts, which are whole numbers",
            f"{n_fractions} of {n_values} stored values that are not, such as {fraction:.4g}",
            _USE_RAW,
        )
    if largest > _ABSURD_COUNT:
        yield Problem(
            "check.counts",
            table.path,
            f"a count of one gene in one spot is below {_ABSURD_COUNT}",
            f"{largest:.10g}",
            "check whether a column of sums or of identifiers was read as a gene, and convert the "
            "slide again without it",
        )
