"""What image metadata claim of orientation and resolution; claims that make no sense are none."""

from __future__ import annotations

import math
import struct

__all__ = ["exif_orientation", "plausible_mpp", "um_per_unit"]

_MAX_MPP = 25.0
"""Coarser than any microscope: 1016 dpi. Printers and screens claim 72 to 600 dpi."""

_MIN_MPP = 0.01

_ORIENTATION_TAG = 274
_TYPE_SHORT = 3


def um_per_unit(unit: int) -> float | None:
    """Microns in a TIFF ResolutionUnit: 2 is the inch, 3 the centimetre.

    Examples
    --------
    >>> um_per_unit(3)
    10000.0
    """
    return {2: 25_400.0, 3: 10_000.0}.get(unit)


def plausible_mpp(x: float, y: float) -> float | None:
    """Return microns per pixel if both axes agree on a resolution that a microscope can have.

    Parameters
    ----------
    x, y : float
        Microns per pixel as claimed for each axis.

    Returns
    -------
    float or None
        `x`, or None where the claim is a screen's or a printer's, or no number at all.

    Examples
    --------
    >>> plausible_mpp(0.25, 0.25)
    0.25
    >>> plausible_mpp(25400 / 72, 25400 / 72) is None
    True
    """
    if not (math.isfinite(x) and math.isfinite(y) and _MIN_MPP <= x <= _MAX_MPP):
        return None
    return x if math.isclose(x, y, rel_tol=0.01) else None


def exif_orientation(exif: bytes) -> int:
    """Read the orientation tag out of an EXIF block, which is a small TIFF.

    Parameters
    ----------
    exif : bytes
        The block from its byte order mark on.

    Returns
    -------
    int
        1 to 8; 1, "as stored", where the block holds no such tag or is broken. Pixels are never
        turned by it, so a broken block does not make an image unreadable.

    Examples
    --------
    >>> exif_orientation(bytes.fromhex("4d4d002a00000008 0001 0112 0003 00000001 00060000"))
    6
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return 1
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (n_tags,) = struct.unpack_from(f"{order}H", exif, start)
    for at in range(start + 2, min(start + 2 + 12 * n_tags, len(exif) - 11), 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHIH", exif, at)
        if tag == _ORIENTATION_TAG and kind == _TYPE_SHORT and count == 1 and 1 <= value <= 8:
            return int(value)
    return 1
