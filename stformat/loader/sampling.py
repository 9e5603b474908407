"""Weights by which rows are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stformat.loader.inventory import Inventory
from stformat.loader.shelf import entries
from stformat.store.row_index import RowIndex, row_positions

__all__ = ["balanced_weights", "parse_weights"]


_DIGITS = 200
"""Largest weights from 10**-200 to 10**200 are added up as they are."""


def balanced_weights(
    labels: Sequence[ArrayLike], rows: Sequence[RowIndex | None] | None = None
) -> list[NDArray[np.float64]]:
    """Return weights by which every label is drawn equally often.

    Parameters
    ----------
    labels : sequence of (n_obs,) array_like
        For each slide a label for each row of its table: text, numbers or categories; None and NaN
        stand for none.
    rows : sequence of (int array, mask, slice or None), optional
        Rows of each slide that are loaded, as `TileLoader` takes them: labels are balanced among
        these. Default: all rows of all slides.

    Returns
    -------
    list of (n_obs,) ndarray of float64
        For each slide the weight of each row of its table: one over the number of loaded rows, of
        all slides, that have its label; 0 for rows without, and for those that are not loaded.

    Raises
    ------
    ValueError
        If `rows` has not an entry for each slide.
    IndexError
        If `rows` are none of a slide's.

    Examples
    --------
    >>> balanced_weights([["tumour", "stroma", "stroma"], ["stroma", None]])
    [array([1.        , 0.33333333, 0.33333333]), array([0.33333333, 0.        ])]

    Of the first slide only two rows are loaded:

    >>> balanced_weights([["tumour", "stroma", "stroma"], ["stroma", None]], [[0, 1], None])
    [array([1. , 0.5, 0. ]), array([0.5, 0. ])]
    """
    import pandas as pd  # noqa: PLC0415 - knows what a missing label is

    arrays = [np.asarray(of_slide, dtype=object) for of_slide in labels]
    if rows is not None and len(rows) != len(arrays):
        raise ValueError(f"rows must have an entry for each of {len(arrays)} slides")
    is_loaded = [np.ones(len(array), dtype=np.bool_) for array in arrays]
    for of_slide, selection in zip(is_loaded, rows or (), strict=False):
        if selection is not None:
            of_slide[:] = False
            of_slide[row_positions(selection, len(of_slide))] = True
    codes, known = pd.factorize(np.concatenate(arrays))
    counted = (codes >= 0) & np.concatenate(is_loaded)
    counts = np.bincount(codes[counted], minlength=len(known))
    weights = np.zeros(len(codes))
    weights[counted] = 1 / counts[codes[counted]]
    return np.split(weights, np.cumsum([len(array) for array in arrays])[:-1])


def parse_weights(
    weights: Sequence[float | ArrayLike], inventory: Inventory
) -> list[NDArray[np.float64]]:
    """Return a weight for every row that is loaded.

    Raises
    ------
    ValueError
        If there is not one entry a slide and one weight a row of its table, or a weight is negative
        or not finite, or all are zero.
    TypeError
        If they are no list.
    """
    of_rows = []
    for slide, given in enumerate(entries("weights", weights, len(inventory.slide_ids))):
        values = np.asarray(given, dtype=np.float64)
        n_obs = inventory.n_obs[slide]
        if values.shape not in {(), (n_obs,)}:
            raise ValueError(
                f"weights of slide {slide}, {inventory.slide_ids[slide]}, must be one number or "
                f"one for each of the {n_obs} rows of its table, got shape {values.shape}"
            )
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(
                f"weights must be finite and not negative, those of slide {slide}, "
                f"{inventory.slide_ids[slide]}, are not"
            )
        rows = inventory.rows[slide]
        every = np.broadcast_to(values, n_obs)
        of_rows.append(every if rows is None else every[rows])
    if not any(values.any() for values in of_rows):
        raise ValueError("weights of the rows that are loaded must not all be zero")
    largest = max(float(values.max(initial=0)) for values in of_rows)
    if not 10.0**-_DIGITS < largest < 10.0**_DIGITS:
        # Only ratios count; sums of such weights would overflow, or lose their digits.
        return [values / largest for values in of_rows]
    return of_rows
