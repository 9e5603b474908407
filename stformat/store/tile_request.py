"""From what a user asks of tiles to the windows that the engine cuts."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stformat.coords import TileGrid, grid_for_mpp, grid_for_side
from stformat.store.tiles import TileEngine, Tiles

__all__ = ["parse_centers", "parse_fill_value", "target_mpp", "tiles_at_mpp", "tiles_of_spots"]


def tiles_at_mpp(
    engine: TileEngine,
    centers_px: NDArray[np.float64],
    *,
    tile_px: int,
    target_mpp: float | None,
    mpp: float | None,
    fill_value: int,
) -> Tiles:
    """Place tiles of one resolution; None for `target_mpp` is the slide's own.

    Raises
    ------
    ValueError
        As from `stformat.coords.grid_for_mpp`.
    """
    grid = grid_for_mpp(tile_px, target_mpp=target_mpp, mpp=mpp, n_levels=engine.n_levels)
    return Tiles(
        engine,
        centers_px,
        grids=[grid],
        # One zero, seen n times: millions of tiles of one grid need no array to say so.
        grid_of_tile=np.broadcast_to(np.int64(0), len(centers_px)),
        fill_value=fill_value,
        mpp=mpp,
    )


def tiles_of_spots(
    engine: TileEngine,
    centers_px: NDArray[np.float64],
    radii_px: NDArray[np.float64],
    *,
    tile_px: int,
    mpp: float | None,
    fill_value: int,
) -> Tiles:
    """Place tiles on the squares of side ``2 * radius`` around spots.

    Raises
    ------
    ValueError
        As from `stformat.coords.grid_for_side`.
    """
    # Radii that differ by less than a tile can show share their grid; no spot still has one.
    radii, of_radius = np.unique(radii_px, return_inverse=True)
    sides = (2 * radii).tolist() or [float(tile_px)]
    numbers: dict[TileGrid, int] = {}
    number_of_radius = [
        numbers.setdefault(
            grid_for_side(tile_px, side_px=side, n_levels=engine.n_levels), len(numbers)
        )
        for side in sides
    ]
    return Tiles(
        engine,
        centers_px,
        grids=list(numbers),
        grid_of_tile=np.array(number_of_radius, dtype=np.int64)[of_radius],
        fill_value=fill_value,
        mpp=mpp,
    )


def target_mpp(
    tile_px: int,
    *,
    mpp: float | None,
    size_um: float | None,
    field: Literal["spot"] | None,
) -> float | None:
    """Return the resolution that a user asks for, of which there must be at most one.

    Raises
    ------
    ValueError
        If more than one of the three is given, or `field` is no field.
    """
    given = {"mpp": mpp, "size_um": size_um, "field": field}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ValueError(f"one of mpp, size_um and field must be given, got {', '.join(named)}")
    if field not in {None, "spot"}:
        raise ValueError(f"field must be None or 'spot', got {field!r}")
    if tile_px < 1:
        raise ValueError(f"tile_px must be at least 1, got {tile_px}")
    return mpp if size_um is None else size_um / tile_px


def parse_centers(centers_px: ArrayLike) -> NDArray[np.float64]:
    """Return centres as (n, 2) float64.

    Raises
    ------
    ValueError
        If they are not of that shape, or not finite.
    """
    centers = np.asarray(centers_px, dtype=np.float64)
    if centers.ndim != 2 or centers.shape[1] != 2:
        raise ValueError(f"centers_px must be (n, 2) with columns (x, y), got {centers.shape}")
    if not np.isfinite(centers).all():
        row = int(np.argmin(np.isfinite(centers).all(axis=1)))
        raise ValueError(f"centers_px must be finite, got {centers[row].tolist()} in row {row}")
    return centers


def parse_fill_value(fill_value: int | None, background: int, dtype: np.dtype[Any]) -> int:
    """Return the value outside the image: that given, or the background.

    Raises
    ------
    ValueError
        If it is no sample of the image's type.
    """
    if fill_value is None:
        return background
    largest = int(np.iinfo(dtype).max)
    if int(fill_value) != fill_value or not 0 <= fill_value <= largest:
        raise ValueError(f"fill_value must be an integer from 0 to {largest}, got {fill_value}")
    return int(fill_value)
