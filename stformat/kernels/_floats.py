"""Tiles of pixels to normalised floats, mirrored and turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from stformat.kernels._arguments import read_only, result, twins_for

__all__ = ["tiles_to_float"]

SAMPLES = (np.uint8, np.uint16)
FLOATS = (np.float32, np.float16)
# A block of work lasts some 100 us: long beside handing it to a thread, short beside a call.
BLOCK_SAMPLES = 1 << 18


def tiles_to_float(
    tiles: NDArray[Any],
    *,
    mean: Sequence[float] | NDArray[np.floating[Any]] | None = None,
    std: Sequence[float] | NDArray[np.floating[Any]] | None = None,
    scale: float | None = None,
    flips: NDArray[np.bool_] | None = None,
    turns: NDArray[np.integer[Any]] | None = None,
    dtype: DTypeLike = np.float32,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Turn tiles of pixels into the floats a model takes, in one pass.

    Parameters
    ----------
    tiles : (n, n_c, n_y, n_x) ndarray of uint8 or uint16
        Tiles, axes ``('c', 'y', 'x')`` after the first.
    mean : (n_c,) sequence of float, optional
        What is subtracted from each channel after scaling. Default: 0.
    std : (n_c,) sequence of float, optional
        What each channel is divided by after that, positive. Default: 1.
    scale : float, optional
        What pixels are multiplied by, positive. Default: 1/255 or 1/65535, so that the largest
        pixel becomes 1.
    flips : (n,) or (n, 2) ndarray of bool, optional
        Which tiles are mirrored: column 0 swaps left and right, column 1 top and bottom. One
        dimension stands for column 0.
    turns : (n,) ndarray of integers, optional
        Quarter turns of each tile counter-clockwise as it is displayed, y down; any integer, after
        mirroring. `flips` and `turns` are NumPy arrays, also for tiles on a GPU.
    dtype : {float32, float16}, default: float32
        Type of the result.
    out : (n, n_c, n_y, n_x) ndarray, optional
        C-contiguous array of type `dtype` to write to.

    Returns
    -------
    (n, n_c, n_y, n_x) ndarray
        ``((x * scale) - mean) / std``, mirrored and turned; `out` where it was given.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If a shape is not as above, a number is not finite or, for `scale` and `std`, not positive,
        or tiles that are not square are to be turned by an odd number of quarters.

    Notes
    -----
    With ``a = float32(scale / std)`` and ``b = float32(-mean / std)``, each computed in float64,
    a value is ``float32(float32(x * a) + b)``: two roundings, no fused multiply-add, the same bits
    everywhere. The error is at most 1.5 * 2**-23 of the larger of ``|x * a|`` and ``|b|``. A
    float16 is rounded from that float32, ties to even; beyond its range it is infinite.

    In NumPy a tile is ``np.rot90(np.flip(values, axes), turns, axes=(1, 2))`` with axis 2 in
    ``axes`` for column 0 of `flips` and axis 1 for column 1.

    Examples
    --------
    >>> import numpy as np
    >>> tiles = np.array([[[[0, 51], [102, 255]]]], dtype=np.uint8)
    >>> tiles_to_float(tiles, mean=[0.5], std=[0.5])[0, 0].round(4)
    array([[-1. , -0.6],
           [-0.2,  1. ]], dtype=float32)
    >>> tiles_to_float(tiles, scale=1, turns=np.array([1]))[0, 0]
    array([[ 51., 255.],
           [  0., 102.]], dtype=float32)
    """
    twins = twins_for(tiles=tiles)
    tiles = read_only("tiles", tiles, n_dims=4, dtypes=SAMPLES)
    dtype = np.dtype(dtype)
    if dtype not in FLOATS:
        raise TypeError(f"dtype must be float32 or float16, got {dtype}")
    n, n_c, height, width = tiles.shape
    factors, offsets = _line(tiles.dtype, n_c, mean, std, scale)
    flips = _flips(flips, n)
    turns = _turns(turns, n)
    if height != width and (turns % 2 == 1).any():
        raise ValueError(f"tiles must be square to be turned by 90 degrees, got {height} x {width}")
    floats = result(out, (n, n_c, height, width), dtype, twins.xp)
    # float16 goes by its bits: not every compiler computes with that type.
    target = floats.view(np.uint16) if dtype == np.float16 else floats
    twin = twins.tiles_to_half if dtype == np.float16 else twins.tiles_to_float

    def block(start: int, stop: int) -> None:
        some = slice(start, stop)
        twin(tiles[some], factors, offsets, flips[some], turns[some], target[some])

    twins.run_blocks(block, n, block=1 + BLOCK_SAMPLES * n // max(1, floats.size))
    return floats


def _line(
    samples: np.dtype[Any],
    n_c: int,
    mean: ArrayLike | None,
    std: ArrayLike | None,
    scale: float | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the factor and the offset of each channel."""
    scale = 1 / np.iinfo(samples).max if scale is None else float(scale)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    means = _channels("mean", np.zeros(n_c) if mean is None else mean, n_c)
    stds = _channels("std", np.ones(n_c) if std is None else std, n_c)
    if not (stds > 0).all():
        raise ValueError(f"std must be positive, got {stds.tolist()}")
    # 0 - mean: a mean of 0 offsets by 0, not by -0.
    line = (scale / stds).astype(np.float32), ((0 - means) / stds).astype(np.float32)
    for values in line:
        values.flags.writeable = False
    return line


def _channels(name: str, values: ArrayLike, n_c: int) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != (n_c,):
        raise ValueError(f"{name} must have one number a channel, {n_c}, got {numbers.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, got {numbers.tolist()}")
    return numbers


def _flips(flips: NDArray[np.bool_] | None, n: int) -> NDArray[np.bool_]:
    if flips is None:
        return np.zeros((n, 2), np.bool_)
    flips = np.asarray(flips)
    if flips.dtype != np.bool_:
        raise TypeError(f"flips must be of type bool, got {flips.dtype}")
    if flips.shape not in {(n,), (n, 2)}:
        raise ValueError(f"flips must have shape ({n},) or ({n}, 2), got {flips.shape}")
    both = np.zeros((n, 2), np.bool_)
    both[:, : flips.size // n if n else 0] = flips.reshape(n, -1) if n else False
    return both


def _turns(turns: NDArray[np.integer[Any]] | None, n: int) -> NDArray[np.uint8]:
    if turns is None:
        return np.zeros(n, np.uint8)
    turns = np.asarray(turns)
    if turns.dtype.kind not in "iu":
        raise TypeError(f"turns must be integers, got {turns.dtype}")
    if turns.shape != (n,):
        raise ValueError(f"turns must have one number a tile, {n}, got {turns.shape}")
    return (turns % 4).astype(np.uint8)
