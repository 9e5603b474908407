"""Colours of brightfield tiles changed in optical density."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._arguments import read_only, result, twins_for

__all__ = ["change_stains"]

UNIT_DENSITY = 4096
"""Fixed-point one, of densities and of what they are multiplied by."""

MOST = 7.0
"""Most that a factor or an offset may be: sums of three products stay in 32 bits."""

# A block of work lasts some 100 us: long beside handing it to a thread, short beside a call.
BLOCK_SAMPLES = 1 << 16


def change_stains(
    tiles: NDArray[np.uint8],
    changes: NDArray[np.float64],
    *,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Change the colours of brightfield tiles, each by an affine map of its optical densities.

    Parameters
    ----------
    tiles : (n, 3, n_y, n_x) ndarray of uint8
        Tiles, axes ``('c', 'y', 'x')`` after the first, channels red, green and blue.
    changes : (n, 3, 4) ndarray of float64
        Of each tile: the density of channel c becomes ``sum(changes[c, k] * density[k])`` over the
        three channels, plus ``changes[c, 3]``. A NumPy array, also for tiles on a GPU.
    out : (n, 3, n_y, n_x) ndarray of uint8, optional
        C-contiguous array to write to; may be `tiles`.

    Returns
    -------
    (n, 3, n_y, n_x) ndarray of uint8
        The tiles; `out` where it was given.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If a shape is not as above, or a number is not finite or beyond 7 either way.

    Notes
    -----
    The density of a sample v is ``ln(256 / (v + 1))``: 0 for white. In integers: densities and
    `changes` are rounded to multiples of 1/4096, halves to even; a changed density is
    ``(sum + 2048) >> 12``, at least 0 and at most that of black; its sample is
    ``256 * exp(-density) - 1``, rounded. The map that changes nothing returns every sample.

    Examples
    --------
    Twice the density of everything:

    >>> import numpy as np
    >>> twice = np.concatenate([2 * np.eye(3), np.zeros((3, 1))], axis=1)
    >>> grey = np.full((1, 3, 1, 1), 127, np.uint8)
    >>> change_stains(grey, twice[np.newaxis]).ravel()
    array([63, 63, 63], dtype=uint8)
    """
    twins = twins_for(tiles=tiles)
    tiles = read_only("tiles", tiles, n_dims=4, dtypes=(np.uint8,))
    if tiles.shape[1] != 3:
        raise ValueError(f"tiles must have three channels, got shape {tiles.shape}")
    factors = _fixed(changes, len(tiles))
    densities, samples = _tables()
    changed = result(out, tiles.shape, np.dtype(np.uint8), twins.xp)

    def block(start: int, stop: int) -> None:
        some = slice(start, stop)
        twins.change_stains(tiles[some], factors[some], densities, samples, changed[some])

    twins.run_blocks(block, len(tiles), block=1 + BLOCK_SAMPLES * len(tiles) // max(1, tiles.size))
    return changed


def _fixed(changes: NDArray[np.float64], n: int) -> NDArray[np.int32]:
    changes = np.asarray(changes)
    if changes.dtype != np.float64:
        raise TypeError(f"changes must be of type float64, got {changes.dtype}")
    if changes.shape != (n, 3, 4):
        raise ValueError(f"changes must have shape ({n}, 3, 4), got {changes.shape}")
    if not (np.abs(changes) <= MOST).all():
        raise ValueError(f"changes must be finite and between -{MOST:g} and {MOST:g}")
    factors = np.rint(changes * UNIT_DENSITY).astype(np.int32)
    factors.flags.writeable = False
    return factors


@cache
def _tables() -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the density of each sample, and the sample of each density up to that of black."""
    densities = np.rint(UNIT_DENSITY * np.log(256 / np.arange(1, 257))).astype(np.int32)
    every = np.arange(densities[0] + 1) / UNIT_DENSITY
    samples = np.rint(256 * np.exp(-every) - 1).astype(np.uint8)
    tables: tuple[NDArray[Any], ...] = (densities, samples)
    for table in tables:
        table.flags.writeable = False
    return densities, samples
