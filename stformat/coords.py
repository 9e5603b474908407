"""The only arithmetic on units and windows: full-resolution pixels, levels, microns.

Full-resolution pixels have x to the right and y down and are continuous: pixel ``(row i, column
j)`` covers ``[j, j + 1) x [i, i + 1)`` and has its centre at ``(j + 0.5, i + 0.5)``. The rules are
those of spec/stformat-0.1.md, "Coordinates" and "Tiles".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "UNIT_STEP",
    "TileGrid",
    "coverage",
    "grid_for_mpp",
    "grid_for_side",
    "mpp_at",
    "tile_reach_px",
    "tile_windows",
]

UNIT_STEP = 65536
"""Fixed-point one: steps between output pixels are multiples of 1/65536 of a level's pixel."""

MAX_STEP = 1 << 23
"""Largest step: beyond it the weights of one output pixel no longer fit 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """How tiles of one size and resolution lie on a pyramid level; integers throughout.

    The window of source pixels that a tile needs is `tile_windows`; its edge is `source_px`.
    """

    tile_px: int
    """Edge of a tile in output pixels."""

    level: int
    """Pyramid level that is read."""

    step: int
    """S: distance of output pixels in 1/65536 of a pixel of `level`; 65536 copies."""

    ratio: int
    """Q: the same distance in 1/65536 of a full-resolution pixel."""

    @property
    def is_copy(self) -> bool:
        """Whether tiles are pixels of the level as they are."""
        return self.step == UNIT_STEP

    @property
    def margin(self) -> int:
        """Source pixels read left of and above the window's own edge."""
        return 1 if self.step < UNIT_STEP else 0

    @property
    def source_px(self) -> int:
        """Edge of the window of source pixels, margin included, in pixels of `level`."""
        if self.step >= UNIT_STEP:
            return -(-self.tile_px * self.step // UNIT_STEP)
        last = (self.tile_px - 1) * self.step + ((self.step - UNIT_STEP) >> 1)
        # Bilinear: the last output pixel reads source pixels i and i + 1.
        return (last >> 16) + 2 + self.margin


def mpp_at(mpp: float, level: int) -> float:
    """Microns per pixel of a pyramid level.

    Parameters
    ----------
    mpp : float
        Microns per full-resolution pixel.
    level : int
        Pyramid level, 0 is full resolution.

    Returns
    -------
    float
        ``mpp * 2**level``: levels are exact halvings whatever their sizes round to.

    Examples
    --------
    >>> mpp_at(0.25, 3)
    2.0
    """
    return math.ldexp(mpp, level)


def grid_for_mpp(
    tile_px: int, *, target_mpp: float | None, mpp: float | None, n_levels: int
) -> TileGrid:
    """Choose the pyramid level and the step for tiles of a wanted resolution.

    Parameters
    ----------
    tile_px : int
        Edge of a tile in output pixels, at least 1.
    target_mpp : float or None
        Wanted microns per output pixel; None takes the slide's own.
    mpp : float or None
        Microns per full-resolution pixel, or None where unknown.
    n_levels : int
        Number of levels of the pyramid.

    Returns
    -------
    TileGrid
        Level k is the largest with ``2**k * 65536 <= Q * 129 / 128``, so that a resolution within
        1/128 of a level's own is taken from that level.

    Raises
    ------
    ValueError
        If `tile_px` is below 1, `target_mpp` is not positive and finite, `target_mpp` is given and
        `mpp` is unknown, or the step exceeds 2**23 (128 pixels of the coarsest level).

    Examples
    --------
    >>> grid_for_mpp(224, target_mpp=0.5, mpp=0.25, n_levels=5)
    TileGrid(tile_px=224, level=1, step=65536, ratio=131072)
    """
    if tile_px < 1:
        raise ValueError(f"tile_px must be at least 1, got {tile_px}")
    if target_mpp is None:
        return TileGrid(tile_px=tile_px, level=0, step=UNIT_STEP, ratio=UNIT_STEP)
    if not (math.isfinite(target_mpp) and target_mpp > 0):
        raise ValueError(f"mpp must be positive and finite, got {target_mpp}")
    if mpp is None:
        raise ValueError("tiles at an mpp need a slide whose own mpp is known, this one's is not")
    ratio = math.floor(UNIT_STEP * target_mpp / mpp + 0.5)
    return _grid(tile_px, ratio, n_levels)


def grid_for_side(tile_px: int, *, side_px: float, n_levels: int) -> TileGrid:
    """Choose the pyramid level and the step for tiles that cover a square of a wanted side.

    Parameters
    ----------
    tile_px : int
        Edge of a tile in output pixels, at least 1.
    side_px : float
        Side of the square in full-resolution pixels, positive.
    n_levels : int
        Number of levels of the pyramid.

    Returns
    -------
    TileGrid
        As from `grid_for_mpp`, for a resolution of ``side_px / tile_px`` full-resolution pixels.

    Raises
    ------
    ValueError
        If `tile_px` is below 1, `side_px` is not positive and finite, or the step is too large.

    Examples
    --------
    >>> grid_for_side(224, side_px=448.0, n_levels=3).level
    1
    """
    if tile_px < 1:
        raise ValueError(f"tile_px must be at least 1, got {tile_px}")
    if not (math.isfinite(side_px) and side_px > 0):
        raise ValueError(f"side_px must be positive and finite, got {side_px}")
    return _grid(tile_px, math.floor(UNIT_STEP * side_px / tile_px + 0.5), n_levels)


def _grid(tile_px: int, ratio: int, n_levels: int) -> TileGrid:
    if ratio < 1:
        raise ValueError("the wanted resolution is more than 65536 x finer than the slide's")
    level = 0
    while level + 1 < n_levels and (2 ** (level + 1)) * UNIT_STEP * 128 <= ratio * 129:
        level += 1
    step = (2 * ratio + 2**level) // (2 * 2**level)
    if step > MAX_STEP:
        raise ValueError(
            f"the wanted resolution is {step / UNIT_STEP:.0f} x coarser than the coarsest level; "
            "at most 128 x is possible"
        )
    return TileGrid(tile_px=tile_px, level=level, step=step, ratio=ratio)


def tile_windows(xy: NDArray[np.float64], grid: TileGrid) -> NDArray[np.int64]:
    """Place one window of source pixels around each centre.

    Parameters
    ----------
    xy : (n, 2) ndarray of float64
        Centres in full-resolution pixels, columns ``(x, y)``, finite.
    grid : TileGrid
        From `grid_for_mpp`.

    Returns
    -------
    (n, 2) ndarray of int64
        Columns ``(left, top)`` in pixels of ``grid.level``, margin included; a window covers
        ``grid.source_px`` pixels from there. Ties go to the larger index.

    Raises
    ------
    ValueError
        If `xy` is not of shape ``(n, 2)`` or holds a value that is not finite.

    Examples
    --------
    A 4-pixel tile around (10.5, 2): columns 9 to 12 and rows 0 to 3.

    >>> import numpy as np
    >>> grid = grid_for_mpp(4, target_mpp=None, mpp=None, n_levels=1)
    >>> tile_windows(np.array([[10.5, 2.0]]), grid)
    array([[9, 0]])
    """
    xy = np.asarray(xy, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise ValueError(f"centres must have shape (n, 2) with columns (x, y), got {xy.shape}")
    if not np.isfinite(xy).all():
        row = int(np.argmin(np.isfinite(xy).all(axis=1)))
        raise ValueError(f"centres must be finite, got {tuple(xy[row].tolist())} in row {row}")
    half = grid.tile_px * grid.ratio / (2 * UNIT_STEP)
    corner = np.floor((xy - half) / 2**grid.level + 0.5)
    windows: NDArray[np.int64] = corner.astype(np.int64) - grid.margin
    return windows


def coverage(
    xy: NDArray[np.float64], grid: TileGrid, image_shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Share of each tile's area that lies inside the image.

    Parameters
    ----------
    xy : (n, 2) ndarray of float64
        Centres in full-resolution pixels, columns ``(x, y)``.
    grid : TileGrid
        From `grid_for_mpp`.
    image_shape : tuple of int
        Height and width of ``grid.level`` in pixels.

    Returns
    -------
    (n,) ndarray of float64
        Area of the window inside the level over the area of the window; 1.0 is wholly inside.

    Examples
    --------
    >>> import numpy as np
    >>> grid = grid_for_mpp(4, target_mpp=None, mpp=None, n_levels=1)
    >>> coverage(np.array([[0.0, 5.0]]), grid, (10, 10))
    array([0.5])
    """
    corner = tile_windows(xy, grid) + grid.margin
    edge = grid.tile_px * grid.step / UNIT_STEP
    inside = np.ones(len(corner))
    for axis, size in ((0, image_shape[1]), (1, image_shape[0])):
        low = np.clip(corner[:, axis], 0, size)
        high = np.clip(corner[:, axis] + edge, 0, size)
        inside *= (high - low) / edge
    return inside


def tile_reach_px(tile_px: int, scale: float) -> float:
    """Return how far from its centre a tile reaches, whatever its grid, in full-resolution pixels.

    Parameters
    ----------
    tile_px : int
        Edge of a tile in its own pixels.
    scale : float
        Full-resolution pixels to one pixel of the tile.

    Returns
    -------
    float
        Half the edge; and two pixels of the level that is read, by which windows are rounded to
        whole pixels and by which resampling looks beside them.

    Examples
    --------
    >>> tile_reach_px(224, 1.0)
    114.02
    """
    # A level is read whose pixels are at most 129 / 128 of those of the tile.
    return tile_px * scale / 2 + 2 * max(1.0, 1.01 * scale)
