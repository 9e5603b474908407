"""Microns per pixel from the array that spots lie on, where no document of the vendor tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stformat.model import Mpp, MppMethod, Note
from stformat.sources._lattice import Lattice, fit_lattice, lattice_step

__all__ = ["ArrayScale", "measure_array", "measure_pitch"]

PITCH_1K_UM = 200.0
"""Distance of neighbouring spots on the 1k array."""

COLUMNS_1K, ROWS_1K = 33, 35
"""Size of the 1k array: x runs from 1 to 33, y from 1 to 35."""

MAX_RESIDUAL = 0.25
"""Beyond this share of the pitch, positions do not follow the array and give no scale."""

CONTRADICTION = 0.05
"""Relative difference of two values of mpp that is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayScale:
    """Sizes of the array, in pixels and in microns, where they are known."""

    mpp: Mpp
    """Microns per pixel."""

    pitch_px: float | None
    """Distance of neighbouring centres in pixels: as fitted, or as known from microns."""

    pitch_um: float | None
    """Distance of neighbouring centres in microns."""


def measure_array(
    array_xy: NDArray[np.float64],
    pixel_xy: NDArray[np.float64],
    *,
    new_xy: NDArray[np.float64] | None = None,
    mpp: float | None,
    pitch_um: float | None,
    tag_mpp: float | None,
) -> tuple[ArrayScale, tuple[Note, ...]]:
    """Fit an array to its pixels, and find microns per pixel: given > lattice > image tags.

    Parameters
    ----------
    array_xy : (n, 2) ndarray of float64
        Nominal positions on the array, in units of its columns and rows.
    pixel_xy : (n, 2) ndarray of float64
        Positions in full-resolution pixels, columns ``(x, y)``.
    new_xy : (n, 2) ndarray of float64, optional
        Positions on the array as measured; they are fitted where they are given.
    mpp : float or None
        Microns per pixel, as given.
    pitch_um : float or None
        Distance of neighbouring spots in microns, as given; without one it is 200 um where the
        array is the 1k one, which shows in a full grid within 1..33 x 1..35.
    tag_mpp : float or None
        Microns per pixel, as the tags of the image say.

    Returns
    -------
    ArrayScale
        What is known of the sizes.
    tuple of Note
        Positions that do not follow the array, scales that contradict each other, no scale.
    """
    step = lattice_step(array_xy)
    lattice = _fit(array_xy, new_xy, pixel_xy, step)
    notes: tuple[Note, ...] = ()
    if lattice is not None and lattice.residual > MAX_RESIDUAL:
        notes = (
            Note(
                code="positions.off-array",
                message=(
                    f"Pixel positions do not follow array positions (residual "
                    f"{lattice.residual:.2f} of the pitch): no scale is taken from them."
                ),
                count=len(array_xy),
            ),
        )
        lattice = None
    if pitch_um is None and _is_1k(array_xy, step):
        pitch_um = PITCH_1K_UM
    scale, scale_notes = measure_pitch(
        lattice.pitch_px if lattice else None,
        lattice.residual if lattice else None,
        mpp=mpp,
        pitch_um=pitch_um,
        tag_mpp=tag_mpp,
    )
    return scale, (*notes, *scale_notes)


def measure_pitch(
    pitch_px: float | None,
    residual: float | None,
    *,
    mpp: float | None,
    pitch_um: float | None,
    tag_mpp: float | None,
) -> tuple[ArrayScale, tuple[Note, ...]]:
    """Find microns per pixel from a pitch in pixels: given > lattice > image tags.

    Parameters
    ----------
    pitch_px : float or None
        Distance of neighbouring spots in pixels, as fitted.
    residual : float or None
        Root mean square residual of the fit over the pitch.
    mpp, pitch_um, tag_mpp : float or None
        As for `measure_array`.

    Returns
    -------
    ArrayScale
        What is known of the sizes.
    tuple of Note
        Scales that contradict each other, or that there is none.

    Examples
    --------
    >>> scale, notes = measure_pitch(250.0, 0.001, mpp=None, pitch_um=100.0, tag_mpp=0.5)
    >>> scale.mpp.value, scale.mpp.method, [note.code for note in notes]
    (0.4, 'lattice', ['mpp.contradiction'])
    """
    from_lattice = pitch_um / pitch_px if pitch_um and pitch_px else None
    candidates: tuple[tuple[MppMethod, float | None], ...] = (
        ("given", mpp),
        ("lattice", from_lattice),
        ("image-tags", tag_mpp),
    )
    unknown: tuple[MppMethod, None] = ("unknown", None)
    method, value = next((known for known in candidates if known[1] is not None), unknown)
    notes = [
        Note(
            code="mpp.contradiction",
            message=(
                f"Microns per pixel: {value:.4f} ({method}) is taken, {other:.4f} "
                f"({other_method}) differs by {abs(other / value - 1):.0%}."
            ),
        )
        for other_method, other in candidates
        if value is not None and other is not None and abs(other / value - 1) > CONTRADICTION
    ]
    if value is None:
        message = "Microns per pixel are unknown: pass --pitch-um, the distance of spots, or --mpp."
        notes.append(Note(code="mpp.unknown", message=message))
    if pitch_px is None and pitch_um and value:
        pitch_px = pitch_um / value
    return (
        ArrayScale(
            mpp=Mpp(value=value, method=method, residual=residual),
            pitch_px=pitch_px,
            pitch_um=pitch_um,
        ),
        tuple(notes),
    )


def _fit(
    array_xy: NDArray[np.float64],
    new_xy: NDArray[np.float64] | None,
    pixel_xy: NDArray[np.float64],
    step: float,
) -> Lattice | None:
    """Fit measured array positions where there are any, nominal ones otherwise."""
    for places in (new_xy, array_xy):
        if places is not None:
            lattice = fit_lattice(places, pixel_xy, step=step)
            if lattice is not None:
                return lattice
    return None


def _is_1k(array_xy: NDArray[np.float64], step: float) -> bool:
    places = np.rint(array_xy)
    is_within = (places >= 1).all() and (places <= (COLUMNS_1K, ROWS_1K)).all()
    return step == 1.0 and len(np.unique(places, axis=0)) > 1 and bool(is_within)
