"""CIE L*a*b* pixels as sRGB.

TIFF 6.0, section 23; Adobe Photoshop TIFF Technical Notes (2002), "L*a*b* Images", which adds
samples of 16 bits and the encoding of ICC profiles; IEC 61966-2-1 (sRGB).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

__all__ = ["LabCoding", "lab_to_srgb"]

type LabCoding = Literal["cie", "icc"]
"""How a* and b* are stored: ``"cie"``, photometric 8, in two's complement; ``"icc"``, photometric
9, with half of the range added. L* of 100 is the greatest code, but 65280 in 16-bit ``"icc"``."""


def lab_to_srgb(lab: NDArray[Any], coding: LabCoding, *, out: NDArray[Any]) -> None:
    """Convert L*a*b* to sRGB, colours outside its gamut to the nearest code of each channel.

    Parameters
    ----------
    lab : (y, x, 3) ndarray of uint8 or uint16
        L*, a* and b* under the white of D50.
    coding : {"cie", "icc"}
        How they are stored.
    out : (y, x, 3) ndarray of the same type
        Red, green and blue; may be the memory of `lab`.

    Notes
    -----
    LittleCMS, from its L*a*b* profile to its sRGB profile, relative colorimetric: white becomes
    white. Up to 36 bytes a pixel are taken beside the pixels.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = np.array([[[255, 0, 0], [128, 0, 256 - 40]]], np.uint8)
    >>> lab_to_srgb(pixels, "cie", out=pixels)
    >>> pixels
    array([[[255, 255, 255],
            [ 78, 122, 188]]], dtype=uint8)
    """
    encoded = _as_profiles_have_it(lab, coding)
    out[...] = imagecodecs.cms_transform(
        encoded,
        _profile("lab2"),
        _profile("srgb"),
        colorspace="lab",
        outcolorspace="rgb",
        intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
        # Else saturated colours, interpolated on a coarse grid, are tens of codes off.
        flags=imagecodecs.CMS.FLAGS.NOOPTIMIZE,
    )


def _as_profiles_have_it(lab: NDArray[Any], coding: LabCoding) -> NDArray[Any]:
    """Encode L*a*b* as version 4 of ICC does: half of the codes is added to a* and b*."""
    middle = 1 << (8 * lab.itemsize - 1)
    encoded = np.array(lab, order="C")
    if coding == "cie":
        encoded[:, :, 1:] ^= middle
    if lab.itemsize == 1:
        return encoded
    wide = encoded.astype(np.uint32)
    if coding == "icc":
        wide[:, :, 0] = (wide[:, :, 0] * 257 + 128) // 256
    wide[:, :, 1:] = (wide[:, :, 1:] * 257 + 128) // 256
    return np.minimum(wide, 65535).astype(np.uint16)


@cache
def _profile(name: str) -> bytes:
    profile: bytes = imagecodecs.cms_profile(name)
    return profile
