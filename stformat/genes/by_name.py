"""Columns that bear the name of a gene that was looked for, where its key is not there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["columns_by_name"]


def columns_by_name(
    columns: NDArray[np.int64], places: NDArray[np.integer], named: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Fill in genes that were not found by key, where a name leaves no doubt.

    Parameters
    ----------
    columns : (n_genes,) ndarray of int64
        Column of each gene, -1 where the table has none of its key.
    places : (n_named,) ndarray of int
        Places of genes in `columns`, one for each column of the table that bears the name of one.
    named : (n_named,) ndarray of int
        Those columns; of several columns of one gene always the first.

    Returns
    -------
    (n_genes,) ndarray of int64
        `columns`, with the column of a name where the table has one such gene and it stands for no
        other gene; -1 elsewhere.

    Examples
    --------
    Of four genes the first is there by its key; the second by its name; two columns have the name
    of the third, and the fourth has a name of the column that is the first:

    >>> columns_by_name(np.array([5, -1, -1, -1]), np.array([1, 2, 2, 3]), np.array([0, 3, 4, 5]))
    array([ 5,  0, -1, -1])
    """
    wanted = columns[places] < 0
    pairs = np.unique(np.stack([places[wanted], named[wanted]]).astype(np.int64), axis=1)
    n_columns = np.bincount(pairs[0], minlength=1)
    n_genes = np.bincount(pairs[1], minlength=1)
    is_sure = (n_columns[pairs[0]] == 1) & (n_genes[pairs[1]] == 1)
    is_sure &= ~np.isin(pairs[1], columns)
    filled = columns.copy()
    filled[pairs[0, is_sure]] = pairs[1, is_sure]
    return filled
