"""The regular array that spots lie on, fitted to their pixels: pitch and how well it holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

__all__ = ["Lattice", "fit_lattice", "hexagonal_pitch", "lattice_step", "nearest_distance"]

MIN_SPOTS = 3
COMMON_SHARE = 0.25
"""Share of spots that must have a neighbour at a distance for it to be the array's own step."""

_NEIGHBOUR = 1.25  # of the nearest distance; the next ones of a hexagonal array are at 1.73
_HEXAGONAL_NEIGHBOURS = 5  # a square array has four


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """An affine map from array positions to pixels."""

    unit_px: float
    """Pixels for one unit of the array: the mean over its two axes."""

    step: float
    """Distance of neighbours in units of the array: 1 on a full grid, sqrt(2) on a checkerboard."""

    residual: float
    """Root mean square distance of spots from the map, over the pitch."""

    @property
    def pitch_px(self) -> float:
        """Distance of neighbouring centres in pixels."""
        return self.unit_px * self.step


def fit_lattice(
    array_xy: NDArray[np.float64], pixel_xy: NDArray[np.float64], *, step: float
) -> Lattice | None:
    """Fit the affine map from array positions to pixels by least squares.

    The axes of an array are not those of its image: the map may mirror, turn and transpose.

    Parameters
    ----------
    array_xy : (n, 2) ndarray of float64
        Positions on the array, in units of its rows and columns.
    pixel_xy : (n, 2) ndarray of float64
        Positions in full-resolution pixels, columns ``(x, y)``.
    step : float
        From `lattice_step`.

    Returns
    -------
    Lattice or None
        None for fewer than three spots, or where either positions lie on a line.

    Examples
    --------
    >>> import numpy as np
    >>> array_xy = np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0]])
    >>> fit_lattice(array_xy, 40.0 - 10.0 * array_xy, step=1.0).pitch_px
    10.0
    """
    if len(array_xy) < MIN_SPOTS or _is_line(array_xy) or _is_line(pixel_xy):
        return None
    centred = array_xy - array_xy.mean(axis=0)
    target = pixel_xy - pixel_xy.mean(axis=0)
    linear = np.linalg.lstsq(centred, target)[0]
    unit_px = float(np.linalg.norm(linear, axis=1).mean())
    # Twelve digits: the last ones depend on the machine's linear algebra, and a store must not.
    unit_px = float(f"{unit_px:.12g}")
    distance = np.sqrt(np.mean(np.sum((target - centred @ linear) ** 2, axis=1)))
    return Lattice(unit_px=unit_px, step=step, residual=float(f"{distance / unit_px / step:.6f}"))


def _is_line(points: NDArray[np.float64]) -> bool:
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spread[1] <= 1e-6 * spread[0])


def lattice_step(array_xy: NDArray[np.float64]) -> float:
    """Distance of neighbouring places of an array, in units of its rows and columns.

    Parameters
    ----------
    array_xy : (n, 2) ndarray of float64
        Positions on the array; rounded to whole rows and columns here.

    Returns
    -------
    float
        The smallest distance to the nearest neighbour that at least a quarter of the spots have:
        a few odd positions do not count. Where no distance is that common, the smallest; for a
        single place 1.

    Examples
    --------
    >>> import numpy as np
    >>> lattice_step(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 1.0]])) ** 2
    2.0000000000000004
    """
    places = np.unique(np.rint(array_xy).astype(np.int64), axis=0)
    if len(places) < 2:
        return 1.0
    nearest = KDTree(places).query(places, k=2)[0][:, 1]
    squares, n_spots = np.unique(np.rint(nearest**2).astype(np.int64), return_counts=True)
    common = squares[n_spots >= COMMON_SHARE * len(places)]
    return float(np.sqrt((common if common.size else squares)[0]))


def nearest_distance(points: NDArray[np.float64]) -> float | None:
    """Median distance from a point to its nearest neighbour.

    Parameters
    ----------
    points : (n, 2) ndarray of float64
        Positions.

    Returns
    -------
    float or None
        None for fewer than two points, or where most coincide.

    Examples
    --------
    >>> import numpy as np
    >>> nearest_distance(np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]]))
    10.0
    """
    if len(points) < 2:
        return None
    distance = float(np.median(KDTree(points).query(points, k=2)[0][:, 1]))
    return distance or None


def hexagonal_pitch(points: NDArray[np.float64]) -> tuple[float, float] | None:
    """Distance of neighbours along the rows of a hexagonal array whose places are not known.

    Neighbours lie in three directions. Two lead from row to row and mirror each other; the third,
    along a row, is the one whose distance is not that of another.

    Parameters
    ----------
    points : (n, 2) ndarray of float64
        Positions; some of the array may be missing.

    Returns
    -------
    tuple of float or None
        The distance, and the root mean square deviation of neighbours from the mean of their
        direction, over the distance. None where fewer than a quarter of the points have five
        neighbours or six.

    Examples
    --------
    >>> import numpy as np
    >>> column, row = np.meshgrid(np.arange(8), np.arange(8))
    >>> points = np.stack([column + row % 2 / 2, row * 3**0.5 / 2], axis=-1).reshape(-1, 2)
    >>> hexagonal_pitch(10.0 * points)
    (10.0, 0.0)
    """
    if len(points) <= _HEXAGONAL_NEIGHBOURS + 1:
        return None
    distances, neighbours = KDTree(points).query(points, k=_HEXAGONAL_NEIGHBOURS + 2)
    distances, neighbours = distances[:, 1:], neighbours[:, 1:]
    is_near = distances <= _NEIGHBOUR * np.median(distances[:, 0])
    is_inner = np.count_nonzero(is_near, axis=1) >= _HEXAGONAL_NEIGHBOURS
    if np.count_nonzero(is_inner) < COMMON_SHARE * len(points) or not distances[is_near].all():
        return None
    start, place = np.nonzero(is_near)
    step = points[neighbours[start, place]] - points[start]
    angle = np.arctan2(step[:, 1], step[:, 0])
    # Six times an angle is the same for all six neighbours: their mean is the array's own.
    turn = np.angle(np.exp(6j * angle).mean()) / 6
    direction = np.rint((angle - turn) / (np.pi / 3)).astype(np.int64) % 3
    found = distances[is_near]
    n_found = np.bincount(direction, minlength=3)
    if not n_found.all():
        return None
    means = np.bincount(direction, weights=found) / n_found
    row = int(np.abs(means - np.median(means)).argmax())
    # Twelve digits, as above.
    pitch = float(f"{means[row]:.12g}")
    return pitch, float(f"{np.sqrt(np.mean((found - means[direction]) ** 2)) / pitch:.6f}")
