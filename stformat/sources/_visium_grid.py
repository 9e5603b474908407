"""The hexagonal array of Visium, fitted to pixels: pitch, scale and the size of a spot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stformat.errors import PositionsError, Problem
from stformat.model import Mpp, MppMethod, Note
from stformat.sources._lattice import fit_lattice, lattice_step
from stformat.sources._scalefactors import ScaleFactors

__all__ = ["VisiumGrid", "VisiumScale", "fit_grid", "measure"]

PITCH_UM = 100.0
"""Distance of neighbouring spots of one row of a Visium array."""

DIAMETER_UM = 55.0
"""Diameter of a printed spot."""

FIDUCIAL_UM = 105.0
"""Diameter that ``fiducial_diameter_fullres`` stands for."""

CONTRADICTION = 0.05
"""Relative difference of two values of mpp that is reported."""

MIN_SPOTS = 100
"""Spots from which a lattice outweighs a fiducial that contradicts it."""

MAX_RESIDUAL = 0.25
"""Beyond this share of the pitch, positions do not follow the array and give no scale."""

# Spread of the three distances to neighbours over their mean: rounded pixels of a small array reach
# a twelfth, a square array two fifths.
_MAX_DISTORTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumGrid:
    """How array positions lie in pixels."""

    pitch_px: float
    """Distance of neighbouring centres in full-resolution pixels; on a hexagonal array along a
    row, where it is 100 um, exactly (rows are a little closer or farther by version)."""

    residual: float
    """Root mean square distance of spots from the fit, over the pitch."""

    is_hexagonal: bool
    """Whether every second place of the array is empty and all neighbours are equally far."""

    n_spots: int
    """How many spots were fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisiumScale:
    """Sizes in pixels of the image that is stored, and in microns where they are known."""

    mpp: Mpp
    """Microns per pixel."""

    pitch_px: float | None
    """Distance of neighbouring centres in pixels."""

    pitch_um: float | None
    """Distance of neighbouring centres in microns."""

    radius_px: float
    """Radius of a spot in pixels."""

    diameter_um: float | None
    """Diameter of a spot in microns."""


def fit_grid(
    array_xy: NDArray[np.int64],
    xy: NDArray[np.float64],
    section: NDArray[np.object_] | None,
) -> VisiumGrid | None:
    """Fit the array to pixels, each section for itself.

    Parameters
    ----------
    array_xy : (n, 2) ndarray of int64
        Places on the array, columns ``(array_col, array_row)``.
    xy : (n, 2) ndarray of float64
        Centres in full-resolution pixels, columns ``(x, y)``.
    section : (n,) ndarray of str or None
        Section of each spot, where a slide is stitched from several arrays.

    Returns
    -------
    VisiumGrid or None
        Pitch and residual of the sections taken together: their median and their largest. None
        where too few spots say nothing, or sections are not of one scale.

    Examples
    --------
    >>> import numpy as np
    >>> array_xy = np.array([[0, 0], [2, 0], [1, 1], [3, 1]])
    >>> grid = fit_grid(array_xy, array_xy * [50.0, 86.6], None)
    >>> round(grid.pitch_px, 6), grid.is_hexagonal
    (100.0, True)
    """
    parts = (
        [np.ones(len(xy), dtype=np.bool_)]
        if section is None
        else [section == name for name in sorted(set(section.tolist()))]
    )
    grids = [grid for part in parts if (grid := _fit_one(array_xy[part], xy[part]))]
    if not grids:
        return None
    pitches = [grid.pitch_px for grid in grids]
    if max(pitches) > (1 + CONTRADICTION) * min(pitches):
        return None
    return VisiumGrid(
        pitch_px=float(np.median(pitches)),
        residual=max(grid.residual for grid in grids),
        is_hexagonal=all(grid.is_hexagonal for grid in grids),
        n_spots=sum(grid.n_spots for grid in grids),
    )


def _fit_one(array_xy: NDArray[np.int64], xy: NDArray[np.float64]) -> VisiumGrid | None:
    places = array_xy.astype(np.float64)
    if len(xy) < 3:
        return None
    step = lattice_step(places)
    lattice = fit_lattice(places, xy, step=step)
    if lattice is None:
        return None
    linear = np.linalg.lstsq(places - places.mean(axis=0), xy - xy.mean(axis=0))[0]
    neighbours = np.array([[2.0, 0.0], [1.0, 1.0], [1.0, -1.0]]) @ linear
    distances = np.linalg.norm(neighbours, axis=1)
    is_hexagonal = bool(
        len(set((array_xy.sum(axis=1) % 2).tolist())) == 1
        and np.ptp(distances) <= _MAX_DISTORTION * distances.mean()
    )
    # Twelve digits: the last ones depend on the machine's linear algebra, and a store must not.
    pitch_px = float(f"{distances[0]:.12g}") if is_hexagonal else lattice.pitch_px
    residual = float(f"{lattice.residual * lattice.pitch_px / pitch_px:.6f}")
    if residual > MAX_RESIDUAL:
        return None
    return VisiumGrid(
        pitch_px=pitch_px, residual=residual, is_hexagonal=is_hexagonal, n_spots=len(xy)
    )


def measure(
    grid: VisiumGrid | None,
    factors: ScaleFactors,
    *,
    image_scale: float,
    mpp: float | None,
    pitch_um: float | None,
    tag_mpp: float | None,
) -> tuple[VisiumScale, tuple[Note, ...]]:
    """Find microns per pixel and the size of a spot.

    Parameters
    ----------
    grid : VisiumGrid or None
        From `fit_grid`.
    factors : ScaleFactors
        Of the folder.
    image_scale : float
        Pixels of the stored image for one full-resolution pixel of the source.
    mpp : float or None
        Microns per pixel of the stored image, as given.
    pitch_um : float or None
        Distance of neighbouring spots in microns, as given.
    tag_mpp : float or None
        Microns per pixel of the stored image, as its tags say.

    Returns
    -------
    VisiumScale
        Microns per pixel are as given, else from the lattice, else from the fiducial, else from
        the image's tags. Only a hexagonal array has a pitch of 100 um for certain; others give no
        scale without `pitch_um`, and their fiducial is not trusted. A lattice of fewer than 100
        spots and a fiducial that contradict each other leave the scale unknown. A spot of a
        hexagonal array is 55 um wide, 0.55 of the pitch; elsewhere as wide as Space Ranger has it.
    tuple of Note
        ``mpp.agreement``, ``mpp.contradiction``, ``mpp.unknown``.

    Raises
    ------
    PositionsError
        If nothing says how large a spot is.
    """
    is_visium = grid is not None and grid.is_hexagonal and pitch_um in {None, PITCH_UM}
    known_um = pitch_um if pitch_um is not None else (PITCH_UM if is_visium else None)
    lattice = known_um / (grid.pitch_px * image_scale) if grid and known_um else None
    fiducial = (
        FIDUCIAL_UM / (factors.fiducial_diameter_px * image_scale)
        if factors.fiducial_diameter_px
        else None
    )
    method, value, notes = _choose(
        {"given": mpp, "lattice": lattice, "fiducial": fiducial, "image-tags": tag_mpp},
        is_fiducial_trusted=grid is None or known_um is not None,
        is_lattice_strong=grid is not None and grid.n_spots >= MIN_SPOTS,
    )
    residual = grid.residual if grid else None
    scale_mpp = Mpp(value=value, method=method, residual=residual)
    radius_px, diameter_um = _size(
        grid, factors, image_scale=image_scale, mpp=value, is_visium=is_visium, pitch_um=pitch_um
    )
    return (
        VisiumScale(
            mpp=scale_mpp,
            pitch_px=grid.pitch_px * image_scale if grid else None,
            pitch_um=known_um if grid else None,
            radius_px=radius_px,
            diameter_um=diameter_um,
        ),
        notes,
    )


def _choose(
    candidates: dict[MppMethod, float | None],
    *,
    is_fiducial_trusted: bool,
    is_lattice_strong: bool,
) -> tuple[MppMethod, float | None, tuple[Note, ...]]:
    lattice, fiducial = candidates["lattice"], candidates["fiducial"]
    notes = []
    is_undecided = False
    if lattice and fiducial:
        difference = abs(fiducial / lattice - 1)
        if difference <= CONTRADICTION:
            message = (
                f"Microns per pixel: {lattice:.5g} from the lattice and {fiducial:.5g} from the "
                f"fiducials agree within {difference:.2%}."
            )
            notes.append(Note(code="mpp.agreement", message=message))
        elif not is_lattice_strong and candidates["given"] is None:
            is_undecided = True
            message = (
                f"Microns per pixel: {lattice:.5g} from the lattice of few spots and "
                f"{fiducial:.5g} from the fiducials differ by {difference:.0%}: none is taken."
            )
            notes.append(Note(code="mpp.contradiction", message=message))
    usable = {
        method: value
        for method, value in candidates.items()
        if value is not None and not is_undecided and (method != "fiducial" or is_fiducial_trusted)
    }
    if not usable:
        hint = f" (the fiducials alone say {fiducial:.5g})" if fiducial and not lattice else ""
        message = (
            f"Microns per pixel are unknown{hint}: pass --pitch-um, the distance of spots, or "
            "--mpp."
        )
        return "unknown", None, (*notes, Note(code="mpp.unknown", message=message))
    method, value = next(iter(usable.items()))
    notes.extend(
        Note(
            code="mpp.contradiction",
            message=(
                f"Microns per pixel: {value:.5g} ({method}) is taken, {other:.5g} "
                f"({other_method}) differs by {abs(other / value - 1):.0%}."
            ),
        )
        for other_method, other in candidates.items()
        if other is not None and abs(other / value - 1) > CONTRADICTION
    )
    return method, value, tuple(notes)


def _size(
    grid: VisiumGrid | None,
    factors: ScaleFactors,
    *,
    image_scale: float,
    mpp: float | None,
    is_visium: bool,
    pitch_um: float | None,
) -> tuple[float, float | None]:
    """Radius of a spot in pixels of the stored image, and its diameter in microns."""
    if grid is not None and is_visium:
        return grid.pitch_px * image_scale * DIAMETER_UM / PITCH_UM / 2, DIAMETER_UM
    if grid is None and pitch_um is None and mpp is not None and factors.fiducial_diameter_px:
        return DIAMETER_UM / mpp / 2, DIAMETER_UM
    if factors.spot_diameter_px is not None:
        diameter_px = factors.spot_diameter_px * image_scale
        return diameter_px / 2, None if mpp is None else diameter_px * mpp
    raise PositionsError(
        Problem(
            "positions.spot-size",
            "scalefactors_json.json",
            "spot_diameter_fullres is needed where spots are not on the hexagonal array of Visium",
            "none",
        )
    )
