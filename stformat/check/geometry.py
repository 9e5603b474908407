"""Whether resolution, spacing and size of spots agree with one another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stformat.check.table_view import TableView
from stformat.errors import Problem
from stformat.metadata.stformat_v0_1 import StformatAttributes

__all__ = ["duplicate_position_problems", "resolution_problems", "spacing_problems"]

_TOLERANCE = 0.05
_FINEST_MPP, _COARSEST_MPP = 0.05, 10.0
_REDUCED = {"image.hires-fallback", "image.lowres-fallback"}
"""Notes of a slide whose image is known not to be the full-resolution one."""

_GIVE_MPP = "convert the slide again with --mpp, or with --pitch-um of the array that was used"


def resolution_problems(slide: StformatAttributes) -> Iterator[Problem]:
    """Yield a problem where no microscope image has the slide's microns per pixel.

    Parameters
    ----------
    slide : StformatAttributes
        The root attribute of the store.

    Yields
    ------
    Problem
        ``check.mpp-contradiction``.
    """
    mpp = slide.mpp.value
    is_reduced = any(note.code in _REDUCED for note in slide.notes)
    if mpp is None or slide.image is None or is_reduced or _FINEST_MPP <= mpp <= _COARSEST_MPP:
        return
    yield Problem(
        "check.mpp-contradiction",
        "stformat.mpp",
        f"a full-resolution image has between {_FINEST_MPP} and {_COARSEST_MPP:g} um/px, most have "
        "0.2 to 1",
        f"{mpp:.4g} um/px ({slide.mpp.method})",
        _GIVE_MPP,
    )


def spacing_problems(table: TableView, mpp: float | None) -> Iterator[Problem]:
    """Yield a problem where pitch, resolution and spot size contradict one another.

    Parameters
    ----------
    table : TableView
        The spots.
    mpp : float or None
        Microns per full-resolution pixel, where known.

    Yields
    ------
    Problem
        ``check.mpp-contradiction``.
    """
    known = table.attributes
    if known.pitch_px is None:
        return
    if mpp is not None and known.pitch_um is not None:
        implied = known.pitch_um / known.pitch_px
        if abs(mpp / implied - 1) > _TOLERANCE:
            yield Problem(
                "check.mpp-contradiction",
                table.path,
                f"microns per pixel must agree within {_TOLERANCE:.0%} with the pitch of "
                f"{known.pitch_um:g} um = {known.pitch_px:.4g} px, which is {implied:.4g} um/px",
                f"{mpp:.4g} um/px",
                _GIVE_MPP,
            )
    radius = float(table.radii().max(initial=0.0))
    if radius > known.pitch_px:
        yield Problem(
            "check.mpp-contradiction",
            table.path,
            "the radius of a spot must be below the distance of neighbours, "
            f"{known.pitch_px:.4g} px",
            f"{radius:.4g} px",
            "check that spot size and positions are of the same resolution (spot_diameter_fullres "
            "goes with full-resolution pixels), and convert the slide again",
        )


def duplicate_position_problems(table: TableView) -> Iterator[Problem]:
    """Yield a problem where several spots lie at one place.

    Parameters
    ----------
    table : TableView
        The spots.

    Yields
    ------
    Problem
        ``check.duplicate-positions``.
    """
    xy = table.xy[np.lexsort(table.xy.T)]
    is_repeated = (xy[1:] == xy[:-1]).all(axis=1)
    if not is_repeated.any():
        return
    x, y = xy[1:][is_repeated][0].tolist()
    yield Problem(
        "check.duplicate-positions",
        table.path,
        "every spot must have a place of its own",
        f"{np.count_nonzero(is_repeated)} of {table.n_obs} spots at the place of another, such as "
        f"x = {x:g}, y = {y:g}",
        "check that positions of several sections or arrays were not put into one file, and that "
        "none were filled in",
    )
