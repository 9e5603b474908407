"""Sizes that Space Ranger measures on an image, ``scalefactors_json.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stformat.errors import PositionsError, Problem
from stformat.sources._text import read_text

__all__ = ["ScaleFactors", "is_scalefactors", "read_scalefactors"]

MAX_BYTES = 1 << 20
"""Largest document that is read: 1 MiB."""

_LARGEST = 1e12  # beyond any size in pixels

_KEYS = {
    "fiducial_diameter_px": "fiducial_diameter_fullres",
    "spot_diameter_px": "spot_diameter_fullres",
    "hires_scale": "tissue_hires_scalef",
    "lowres_scale": "tissue_lowres_scalef",
    "bin_size_um": "bin_size_um",
    "microns_per_px": "microns_per_pixel",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleFactors:
    """What the document says; None where it does not."""

    fiducial_diameter_px: float | None = None
    """Diameter of a fiducial in full-resolution pixels: 105 um on every Visium array."""

    spot_diameter_px: float | None = None
    """Diameter that Space Ranger gives its spots in full-resolution pixels: 60, 65 or 70 um by its
    version, where 55 um are printed."""

    hires_scale: float | None = None
    """Pixels of ``tissue_hires_image`` for one full-resolution pixel; may exceed 1."""

    lowres_scale: float | None = None
    """Pixels of ``tissue_lowres_image`` for one full-resolution pixel."""

    bin_size_um: float | None = None
    """Side of a bin in microns: of Visium HD alone."""

    microns_per_px: float | None = None
    """Microns per full-resolution pixel: of Visium HD alone."""


def is_scalefactors(path: Path) -> bool:
    """Say whether a file is such a document, by its content.

    Parameters
    ----------
    path : pathlib.Path
        Any file.

    Returns
    -------
    bool
        True for a JSON object with at least one of the members that `ScaleFactors` has.
    """
    try:
        document = json.loads(_read(path))
    except (PositionsError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and not document.keys().isdisjoint(_KEYS.values())


def read_scalefactors(path: Path) -> ScaleFactors:
    """Read the document.

    Parameters
    ----------
    path : pathlib.Path
        JSON, gzip-compressed or not.

    Returns
    -------
    ScaleFactors
        Its members; others are passed over.

    Raises
    ------
    PositionsError
        If the file is no JSON object, or a member is no positive number.
    """
    try:
        document = json.loads(_read(path))
    except PositionsError:
        raise
    except (ValueError, RecursionError) as error:
        raise PositionsError(
            Problem("scalefactors.json", path.name, "the file must be JSON", str(error))
        ) from error
    if not isinstance(document, dict):
        raise PositionsError(
            Problem(
                "scalefactors.json",
                path.name,
                "the document must be an object",
                type(document).__name__,
            )
        )
    values: dict[str, float] = {}
    for field, key in _KEYS.items():
        value = document.get(key)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and 0 < value < _LARGEST):
            raise PositionsError(
                Problem(
                    "scalefactors.value",
                    f"{path.name}, {key}",
                    "a positive number is needed",
                    repr(value),
                )
            )
        values[field] = float(value)
    return ScaleFactors(**values)


def _read(path: Path) -> str:
    return read_text(path, topic="scalefactors", error=PositionsError, max_bytes=MAX_BYTES)
