"""Whether spots lie where the tissue is: axes, scale, and the edges of the image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stformat.check.table_view import TableView
from stformat.check.tissue import SmallImage, TissueMask
from stformat.errors import Problem

__all__ = ["placement_problems"]

_FEWEST_SPOTS = 10
_WELL_PLACED = 0.7
_CLEAR_GAIN = 0.25
_SMALL_CORNER = 1 / 3
_BEYOND = 1.2
_ONE_FACTOR = 1.6
_FACTOR_STEPS = np.geomspace(1 / 1.6, 1.6, 33)

_READ_ORDER = (
    "x and y were probably read in the wrong order (Space Ranger: x is pxl_col_in_fullres, y is "
    "pxl_row_in_fullres): correct the positions and convert the slide again"
)
_TURNED_IMAGE = (
    "the image was probably mirrored or turned after the positions were measured: convert the "
    "slide again with the image that belongs to the positions"
)

# Swap x and y, then mirror x, then mirror y: all that maps a rectangle with its axes onto one.
_SYMMETRIES: dict[tuple[bool, bool, bool], str] = {
    (True, False, False): "x and y swapped",
    (False, True, False): "positions mirrored left to right",
    (False, False, True): "positions mirrored top to bottom",
    (False, True, True): "positions turned by 180 degrees",
    (True, True, False): "positions turned by 90 degrees clockwise",
    (True, False, True): "positions turned by 90 degrees anticlockwise",
    (True, True, True): "x and y swapped and positions turned by 180 degrees",
}


def placement_problems(
    table: TableView, image: SmallImage, mask: TissueMask | None
) -> Iterator[Problem]:
    """Yield what is wrong with the places of spots on the image.

    A wrong scale explains wrong places, and swapped axes explain spots outside the image: only the
    first explanation is given.

    Parameters
    ----------
    table : TableView
        The spots.
    image : SmallImage
        The image.
    mask : TissueMask or None
        Where tissue is; None where the image does not tell.

    Yields
    ------
    Problem
        ``check.scale``, ``check.axis-swap`` or ``check.spots-outside``.
    """
    xy = table.xy[table.in_tissue]
    if len(xy) >= _FEWEST_SPOTS:
        problem = _scale_problem(table, xy, image, mask)
        if problem is None and mask is not None:
            problem = _symmetry_problem(table, xy, image, mask)
        if problem is not None:
            yield problem
            return
    yield from _outside_problems(table, image)


def _scale_problem(
    table: TableView, xy: NDArray[np.float64], image: SmallImage, mask: TissueMask | None
) -> Problem | None:
    size = np.array([image.width, image.height], dtype=np.float64)
    low, high = np.percentile(xy, [1, 99], axis=0)
    tissue_low, tissue_high = (np.zeros(2), size) if mask is None else mask.bounds()
    extent, tissue_extent = high - low, tissue_high - tissue_low
    if not (extent > 0).all():
        return None
    is_corner = bool(
        (extent < _SMALL_CORNER * tissue_extent).all()
        and (high < _SMALL_CORNER * tissue_high).all()
    )
    ratios = high / tissue_high
    is_beyond = bool(
        (high > _BEYOND * size).any()
        and (ratios > 1).all()
        and ratios.max() < _ONE_FACTOR * ratios.min()
    )
    if not (is_corner or is_beyond):
        return None
    factor = float(np.sqrt(np.prod(tissue_extent / extent)))
    if mask is not None:
        given, best, factor = _best_factor(xy, mask, factor)
        if not _is_clearly_better(given, best):
            return None
    right, bottom = high.round().astype(int).tolist()
    return Problem(
        "check.scale",
        table.path,
        "positions must be pixels of the image in the store",
        f"spots in tissue up to x = {right}, y = {bottom} on an image of {image.width} x "
        f"{image.height} px; multiplied by about {factor:.2g} they would fit",
        "positions and image are probably of two resolutions (a hires image or its positions, "
        "beside full resolution): convert the slide again with the image that the positions were "
        "measured on, or multiply the positions by the scale factor in scalefactors_json.json",
    )


def _best_factor(
    xy: NDArray[np.float64], mask: TissueMask, first: float
) -> tuple[float, float, float]:
    """Return the share on tissue as given, and the largest at any factor near the first guess."""
    factors = first * _FACTOR_STEPS
    shares = np.array([mask.share_on_tissue(xy * factor) for factor in factors])
    best = np.flatnonzero(shares == shares.max())
    return mask.share_on_tissue(xy), float(shares.max()), float(factors[best[len(best) // 2]])


def _symmetry_problem(
    table: TableView, xy: NDArray[np.float64], image: SmallImage, mask: TissueMask
) -> Problem | None:
    given = mask.share_on_tissue(xy)
    shares = {
        symmetry: mask.share_on_tissue(_moved(xy, symmetry, image)) for symmetry in _SYMMETRIES
    }
    symmetry, best = max(shares.items(), key=lambda item: item[1])
    if not _is_clearly_better(given, best):
        return None
    return Problem(
        "check.axis-swap",
        table.path,
        "spots flagged in_tissue must lie on tissue",
        f"{given:.0%} of {len(xy)} on it; with {_SYMMETRIES[symmetry]}, {best:.0%}",
        _READ_ORDER if symmetry == (True, False, False) else _TURNED_IMAGE,
    )


def _is_clearly_better(given: float, other: float) -> bool:
    return given < _WELL_PLACED <= other and other >= given + _CLEAR_GAIN


def _moved(
    xy: NDArray[np.float64], symmetry: tuple[bool, bool, bool], image: SmallImage
) -> NDArray[np.float64]:
    is_swapped, mirrors_x, mirrors_y = symmetry
    x, y = xy.T[::-1] if is_swapped else xy.T
    return np.stack(
        [image.width - x if mirrors_x else x, image.height - y if mirrors_y else y], axis=1
    )


def _outside_problems(table: TableView, image: SmallImage) -> Iterator[Problem]:
    xy, in_tissue = table.xy, table.in_tissue
    is_outside = (xy < 0).any(axis=1) | (xy[:, 0] >= image.width) | (xy[:, 1] >= image.height)
    n_outside = int(np.count_nonzero(is_outside))
    n_tissue = int(np.count_nonzero(is_outside & in_tissue))
    where = f"outside the image of {image.width} x {image.height} px"
    if n_tissue:
        others = n_outside - n_tissue
        beside = f" (and {others} that are not in tissue, which is normal)" if others else ""
        yield Problem(
            "check.spots-outside",
            table.path,
            "spots flagged in_tissue must lie on the image",
            f"{n_tissue} of {np.count_nonzero(in_tissue)} {where}{beside}",
            "their tiles are background: leave them out (obs['in_image']), or convert the slide "
            "again with an image that was not cropped",
        )
    if 2 * (n_outside - n_tissue) > table.n_obs:
        yield Problem(
            "check.spots-outside",
            table.path,
            "most spots must lie on the image, though some of those not in tissue may not",
            f"{n_outside - n_tissue} of {table.n_obs} not in tissue and {where}",
            "check that image and positions are of the same slide and resolution",
        )
