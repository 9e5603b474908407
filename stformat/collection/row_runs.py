"""A sample of what identifies rows of counts, whatever rows and genes are called or left out.

Specification: spec/decisions/0030.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_SAMPLED", "merge_samples", "sample_runs", "smallest_above_0"]

N_SAMPLED = 128
"""Runs that a sample keeps: those of the smallest hashes."""

RUN_BITS = 14
"""Bits that a run holds at least."""

N_LARGEST = 64
"""Values of a row among which runs are looked for: the largest."""

# A product of whole numbers below 2**14 is below it by 8e-5 bits at least: with less tolerance
# than that, rounded logarithms compare as exact ones do.
_TOLERANCE = 5e-7
_BASE = 0x9E3779B97F4A7C15
_MOST = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def sample_runs(
    data: NDArray[Any],
    indptr: NDArray[np.int64],
    *,
    unit: float | None = None,
    run_bits: int = RUN_BITS,
) -> NDArray[np.uint64]:
    """Sample runs of neighbours among the largest values of each row.

    Values of a row are taken in units of its smallest above 0, of counts mostly 1, rounded; the 64
    largest, in descending order, are ``v[0] >= v[1] >= ...``. A run begins at each of them and is
    the shortest for which ``(1 + v[i] - v[i + 1])``, multiplied over its neighbours, comes to
    2**14, so that it is hardly ever found in another slide. Deep rows have several runs, shallow
    ones have none. A gene more or less changes only the runs that its value lies in.

    Parameters
    ----------
    data : (nnz,) ndarray
        Values of the rows, in any order within each; those below 0 count as 0.
    indptr : (n_rows + 1,) ndarray of int64
        Where each row begins.
    unit : float, optional
        Unit of the values; by default of each row the smallest above 0.
    run_bits : int, default: 14
        Bits that a run holds at least; samples of different ones do not compare.

    Returns
    -------
    (at most 128,) ndarray of uint64
        The smallest hashes of runs, ascending, each once.

    Examples
    --------
    >>> deep, shallow = [900, 840, 700, 610, 1], [3, 2, 1, 1, 1]
    >>> indptr = np.array([0, 5, 10])
    >>> sample = sample_runs(np.array(deep + shallow), indptr)
    >>> mixed = sample_runs(np.array([2, 1, 3, 1, 1] + deep[::-1]), indptr)
    >>> len(sample), np.array_equal(sample, mixed)
    (3, True)
    """
    values = _largest_values(data, indptr, unit, run_bits)
    steps = np.log2(1.0 + (values[:, :-1] - values[:, 1:]))
    bits = np.append(np.zeros((len(values), 1)), np.cumsum(steps, axis=1), axis=1)
    hashes = _prefix_hashes(values)
    powers = [pow(_BASE, n, 1 << 64) for n in range(N_LARGEST + 1)]
    power = np.array(powers, dtype=np.uint64)
    found = [np.empty(0, dtype=np.uint64)]
    least = run_bits - _TOLERANCE
    for start in range(N_LARGEST - 1):
        rows = np.flatnonzero(bits[:, -1] - bits[:, start] >= least)
        is_long = bits[rows, start + 1 :] - bits[rows, start, None] >= least
        stops = start + 1 + is_long.argmax(axis=1)
        is_whole = values[rows, stops] > 0  # the step down to nothing says nothing
        rows, stops = rows[is_whole], stops[is_whole]
        found.append(hashes[rows, stops + 1] - hashes[rows, start] * power[stops + 1 - start])
    return merge_samples(_mixed(np.concatenate(found)))


def smallest_above_0(data: NDArray[Any]) -> float:
    """Return the smallest value above 0; infinity where there is none."""
    return float(np.where(data > 0, data, np.inf).min(initial=np.inf))


def merge_samples(*samples: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the sample of rows that were sampled in parts."""
    return np.unique(np.concatenate(samples))[:N_SAMPLED]


def _largest_values(
    data: NDArray[Any], indptr: NDArray[np.int64], unit: float | None, run_bits: int
) -> NDArray[np.float64]:
    """Return the largest values of rows that may have a run, descending, 0 where there are less."""
    lengths = np.diff(indptr)
    holds = np.flatnonzero(lengths > 0)
    starts = indptr[holds]
    if len(holds) == 0:
        return np.empty((0, N_LARGEST))
    if unit is None:
        units = np.minimum.reduceat(np.where(data > 0, data, np.inf), starts)
    else:
        units = np.full(len(holds), unit, dtype=np.float64)
    values = np.round(np.maximum(data, 0) / np.repeat(units, lengths[holds])).astype(np.float32)
    # log2(1 + step) is at most the step, and all steps add up to the largest value.
    may_have = np.zeros(len(lengths), dtype=np.bool_)
    may_have[holds] = np.maximum.reduceat(values, starts) >= run_bits
    kept = np.repeat(may_have, lengths)
    lengths = lengths[may_have]
    row = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
    # Floats that are not negative are in the order of their bits.
    down = _MOST - values[kept].view(np.uint32).astype(np.uint64)
    key = np.sort((row << _SHIFT) | down)
    ordered = (_MOST - (key & _MOST)).astype(np.uint32).view(np.float32)
    starts = np.cumsum(lengths) - lengths
    is_value = np.arange(N_LARGEST) < lengths[:, None]
    found = np.zeros(is_value.shape)
    found[is_value] = ordered[(starts[:, None] + np.arange(N_LARGEST))[is_value]]
    return found


def _prefix_hashes(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return polynomials modulo 2**64 of the first 0, 1, ... values of each row."""
    bits = _mixed(values.astype(np.float32).view(np.uint32).astype(np.uint64) + np.uint64(1))
    hashes = np.zeros((len(values), N_LARGEST + 1), dtype=np.uint64)
    for column in range(N_LARGEST):
        hashes[:, column + 1] = hashes[:, column] * np.uint64(_BASE) + bits[:, column]
    return hashes


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return hashes of 64-bit values: the finaliser of SplitMix64."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
