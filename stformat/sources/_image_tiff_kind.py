"""What the pixels of a TIFF page are: how they are stored, which channels they make.

Rules, each recorded as a note where it changes or drops something:

========================  ==========================================================================
stored                    read as
========================  ==========================================================================
gray of 1, 2 or 4 bits    uint8, scaled exactly so that the brightest code is 255
gray of 8 or 16 bits      uint8 or uint16 as stored
min-is-white              inverted, so that 0 is black
RGB of 8 or 16 bits       as stored
palette                   RGB through the colour map, the upper 8 bits of its 16; a map without any
                          value above 255 holds 8-bit colours, as libtiff takes it
YCbCr without JPEG        RGB in libtiff's arithmetic, each difference shared by its block
L*a*b* of 8 or 16 bits    sRGB by LittleCMS; what lies outside its gamut is clipped
signed gray, 8 or 16 bits unsigned: 2**(bits - 1) is added to every sample, whatever they are
an alpha channel          dropped
further samples           channels of fluorescence; of brightfield dropped after RGB and after one
                          sample of gray, refused where gray has more than one
========================  ==========================================================================

CMYK is refused: what RGB it means depends on a profile and an intent that the file does not tell.
So are signed colours: moved like gray they would be others, and nothing says where black is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np
import tifffile
from numpy.typing import NDArray

from stformat.errors import ImageError
from stformat.model import Note
from stformat.sources._ccitt import CcittCoding
from stformat.sources._image_file import image_error
from stformat.sources._image_lab import LabCoding
from stformat.sources._image_planes import MAX_CHANNELS
from stformat.sources._image_tiff_samples import StoredSamples, YcbcrCoding

__all__ = ["PixelKind", "pixel_kind"]

_CODECS = {
    1: "none",
    2: "ccitt",
    3: "ccitt",
    4: "ccitt",
    5: "lzw",
    6: "jpeg",
    7: "jpeg",
    8: "deflate",
    32946: "deflate",
    32773: "packbits",
    33003: "jpeg2000",
    33005: "jpeg2000",
    34712: "jpeg2000",
    34926: "zstd",
    34927: "webp",
    50000: "zstd",
    50001: "webp",
}
_APERIO_YCBCR = 33003
_OLD_JPEG = 6

# These know of pixels, so the tags on how bytes become samples do not concern them.
_PIXEL_CODECS = {"jpeg", "jpeg2000", "webp"}

_WHITE_IS_0, _BLACK_IS_0, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_CIE_LAB, _ICC_LAB, _ITU_LAB = 8, 9, 10
_LAB: Mapping[int, LabCoding] = MappingProxyType({_CIE_LAB: "cie", _ICC_LAB: "icc"})
_GRAY = {_WHITE_IS_0, _BLACK_IS_0}
_CHANNELS = {
    _WHITE_IS_0: 1, _BLACK_IS_0: 1, _RGB: 3, _PALETTE: 1, _YCBCR: 3, _CIE_LAB: 3, _ICC_LAB: 3,
}  # fmt: skip
_ALPHA_SAMPLES = {1, 2}
_UNSIGNED, _SIGNED = 1, 2

_ALL_BITS = frozenset({1, 2, 4, 8, 16})
_CODEC_BITS = {
    "ccitt": frozenset({1}),
    "jpeg": frozenset({8}),
    "webp": frozenset({8}),
    "jpeg2000": frozenset({8, 16}),
}
_PHOTOMETRIC_BITS = {
    _RGB: frozenset({8, 16}),
    _CIE_LAB: frozenset({8, 16}),
    _ICC_LAB: frozenset({8, 16}),
    _YCBCR: frozenset({8}),
    _PALETTE: frozenset({1, 2, 4, 8}),
}
# JPEG of four components is CMYK, which a fourth sample of opacity is not.
_CODEC_SAMPLES = {"ccitt": {1}, "jpeg": {1, 2, 3}, "webp": {3, 4}, "jpeg2000": {1, 2, 3, 4}}

_T4_OPTIONS, _T6_OPTIONS = 292, 293
_TWO_DIMENSIONAL, _UNCOMPRESSED_MODE = 1, 2
_WHITE_POINT = 318
_D50, _WHITE_POINT_TOLERANCE = (0.3457, 0.3585), 0.001
_YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 529, 530, 532

_TO_RGB = "convert it to an 8-bit RGB TIFF"
_WITH_PROFILE = "convert it to an RGB TIFF by its profile: magick in.tif -colorspace sRGB out.tif"


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelKind:
    """What the pixels of a page are."""

    codec: str
    """Name of the compression: ``"none"``, ``"deflate"``, ``"jpeg"``, ``"ccitt"``, ..."""

    stored: StoredSamples
    """How samples lie in a decompressed strip or tile."""

    n_channels: int
    """Channels of the image."""

    n_values: int
    """Values of a pixel in a strip or tile once it is read; those beyond `n_channels` are passed
    over."""

    is_planar: bool
    """Whether channels are stored one after the other."""

    names: tuple[str, ...]
    """Names of channels that say more than how many there are: red, green and blue."""

    is_rgb: bool = False
    """Whether the page says that its samples are RGB, so that JPEG segments without a JFIF header
    hold no YCbCr."""

    ccitt: CcittCoding | None = None
    """How black and white rows are coded, where they are."""

    ycbcr_after_decoding: YcbcrCoding | None = None
    """Given where a decoder leaves YCbCr as it is."""

    notes: tuple[Note, ...] = ()
    """What was changed or dropped."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a value."""
        return np.dtype(np.uint16 if self.stored.bits == 16 else np.uint8)


def pixel_kind(
    page: tifffile.TiffPage, *, stain: Literal["he", "if"], swap_bytes: bool, where: str
) -> PixelKind:
    """Say what the pixels of a page are, or refuse them.

    Parameters
    ----------
    page : tifffile.TiffPage
        The page, or the first one of several channels.
    stain : {"he", "if"}
        Whether samples of unsaid meaning are channels.
    swap_bytes : bool
        Whether the file has the other byte order than this machine.
    where : str
        The file, for messages.

    Returns
    -------
    PixelKind
        How to read them.

    Raises
    ------
    ImageError
        If the kind of pixels is not read.
    """
    photometric = int(page.photometric) if page.photometric is not None else -1
    codec = _codec(page, photometric, where)
    _check_samples(page, codec, photometric, where)
    is_decoded = codec in _PIXEL_CODECS
    ycbcr = _ycbcr_coding(page, where) if photometric == _YCBCR and not is_decoded else None
    n_channels, notes = _channels(page, photometric, stain, where)
    is_planar = int(page.planarconfig) == 2 and page.samplesperpixel > 1
    palette = None
    if photometric == _PALETTE:
        palette, palette_notes = _palette(page, where)
        notes += palette_notes
        n_channels = 3
    stored = StoredSamples(
        bits=page.bitspersample,
        per_pixel=1 if is_planar else page.samplesperpixel,
        is_signed=page.sampleformat == _SIGNED,
        is_inverted=photometric == _WHITE_IS_0,
        has_predictor=not is_decoded and codec != "ccitt" and int(page.predictor) == 2,
        swap_bytes=not is_decoded and page.bitspersample == 16 and swap_bytes,
        reverse_bits=not is_decoded and int(page.fillorder) == 2,
        palette=palette,
        ycbcr=ycbcr,
        lab=_LAB.get(photometric),
    )
    return PixelKind(
        codec=codec,
        stored=stored,
        n_channels=n_channels,
        n_values=3 if palette is not None else stored.per_pixel,
        is_planar=is_planar,
        names=() if photometric in _GRAY else ("r", "g", "b"),
        is_rgb=photometric == _RGB,
        ccitt=_ccitt_coding(page, where) if codec == "ccitt" else None,
        ycbcr_after_decoding=YcbcrCoding() if int(page.compression) == _APERIO_YCBCR else None,
        notes=notes + _value_notes(page, stored),
    )


def _codec(page: tifffile.TiffPage, photometric: int, where: str) -> str:
    """Name the compression; refuse one that is not read, or not of this photometric."""
    codec = _CODECS.get(int(page.compression))
    if codec is None:
        raise _unsupported(where, f"compression {_name(page.compression)}")
    if photometric in {_CMYK, _ITU_LAB}:
        raise _unsupported(where, f"photometric {_name(page.photometric)}", _WITH_PROFILE)
    if photometric in _LAB:
        _check_white_point(page, where)
    is_read = photometric in _CHANNELS
    if codec == "jpeg2000":
        allowed = {_RGB, _YCBCR} if int(page.compression) == _APERIO_YCBCR else {_BLACK_IS_0, _RGB}
        is_read = photometric in allowed
    elif codec == "webp":
        is_read = photometric == _RGB
    elif codec == "jpeg":
        is_read = is_read and photometric not in {_PALETTE, *_LAB}
    elif codec == "ccitt":
        is_read = photometric in _GRAY
    if not is_read:
        raise _unsupported(where, f"photometric {_name(page.photometric)}, compression {codec}")
    return codec


def _check_white_point(page: tifffile.TiffPage, where: str) -> None:
    """Refuse L*a*b* under another white than D50, which both encodings are for."""
    white = _rationals(page, _WHITE_POINT, _D50)
    if not all(
        abs(value - expected) <= _WHITE_POINT_TOLERANCE
        for value, expected in zip(white, _D50, strict=True)
    ):
        found = " and ".join(f"{value:.4f}" for value in white)
        raise _unsupported(where, f"L*a*b* with a white point of {found}", _WITH_PROFILE)


def _check_samples(page: tifffile.TiffPage, codec: str, photometric: int, where: str) -> None:
    """Refuse samples that are not read."""
    bits = page.bitspersample
    allowed = _CODEC_BITS.get(codec, _ALL_BITS) & _PHOTOMETRIC_BITS.get(photometric, _ALL_BITS)
    is_signed = (
        page.sampleformat == _SIGNED
        and bits in {8, 16}
        and codec not in _PIXEL_CODECS
        and photometric in _GRAY
    )
    if bits not in allowed or not (page.sampleformat == _UNSIGNED or is_signed):
        raise _unsupported(
            where,
            f"{_name(page.photometric)} samples of {bits} bits, format {_name(page.sampleformat)}",
        )
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise _unsupported(where, "a volume")
    if int(page.planarconfig) == 2:
        is_read = photometric not in {_YCBCR, *_LAB} and codec not in {"jpeg2000", "webp"}
    else:
        is_read = page.samplesperpixel in _CODEC_SAMPLES.get(codec, {page.samplesperpixel})
    if not is_read:
        raise _unsupported(where, f"{codec} segments of {page.samplesperpixel} samples")
    if codec in _PIXEL_CODECS:
        return
    predictor = int(page.predictor)
    if predictor not in {1, 2} or (predictor == 2 and (bits < 8 or photometric == _YCBCR)):
        raise _unsupported(where, f"predictor {_name(page.predictor)} of {bits}-bit samples")


def _channels(
    page: tifffile.TiffPage, photometric: int, stain: Literal["he", "if"], where: str
) -> tuple[int, tuple[Note, ...]]:
    """Count the channels that are read, and note the samples that are not."""
    n_samples = page.samplesperpixel
    n_colours = _CHANNELS[photometric]
    n_extra = n_samples - n_colours
    if n_extra < 0 or n_samples > MAX_CHANNELS:
        raise _unsupported(where, f"{n_samples} samples a pixel")
    if n_extra == 0:
        return n_colours, ()
    if photometric in {_PALETTE, _YCBCR}:
        raise _unsupported(where, f"{_name(page.photometric)} of {n_samples} samples a pixel")
    n_pixels = page.imagewidth * page.imagelength
    kinds = [int(kind) for kind in page.extrasamples][:n_extra]
    n_alpha = sum(kind in _ALPHA_SAMPLES for kind in kinds)
    if n_colours == 1 and stain == "if":
        # Opacity is written last; where it is not, what stands before it is no image to show.
        if n_alpha and not (n_alpha == 1 and kinds[-1] in _ALPHA_SAMPLES):
            raise _unsupported(where, f"opacity before the last of {n_samples} samples a pixel")
        return n_samples - n_alpha, _alpha_note(n_pixels) if n_alpha else ()
    if n_colours == 1 and n_extra > 1:
        raise _unsupported(
            where,
            f"several planes: {n_samples} samples a pixel",
            "if they are channels of fluorescence pass --stain if, else save one of them",
        )
    if n_alpha == n_extra == 1:
        return n_colours, _alpha_note(n_pixels)
    message = f"{n_extra} samples a pixel beyond gray or colour were dropped."
    return n_colours, (Note(code="image.samples-dropped", message=message, count=n_pixels),)


def _palette(page: tifffile.TiffPage, where: str) -> tuple[NDArray[np.uint8], tuple[Note, ...]]:
    """Read the colour map as 8-bit colours."""
    stored = page.colormap
    if stored is None or stored.shape != (3, 2**page.bitspersample):
        found = "none" if stored is None else f"shape {stored.shape}"
        raise image_error(
            "corrupt", where, f"a colour map must have 3 x {2**page.bitspersample} values", found
        )
    wide = np.ascontiguousarray(stored.T).astype(np.uint16)
    is_narrow = int(wide.max()) < 256
    note = Note(
        code="image.palette-applied",
        message="Pixels were indices of a colour map"
        + (" of 8-bit colours" if is_narrow else "")
        + "; they were replaced by its colours.",
        count=page.imagewidth * page.imagelength,
    )
    return (wide if is_narrow else wide >> 8).astype(np.uint8), (note,)


def _ycbcr_coding(page: tifffile.TiffPage, where: str) -> YcbcrCoding:
    """Read the tags on YCbCr; what has no tag is as TIFF 6.0 sets it."""
    default = YcbcrCoding()
    across, down = page.tags.valueof(_YCBCR_SUBSAMPLING, (2, 2))
    coefficients = _rationals(page, _YCBCR_COEFFICIENTS, default.coefficients)
    reference = _rationals(page, _REFERENCE_BLACK_WHITE, default.reference)
    spans = reference[1::2], reference[::2]
    if (
        not {across, down} <= {1, 2, 4}
        or not all(0 < share < 1 for share in coefficients)
        or not all(abs(code) < 1024 for code in reference)
        or any(white - black < 1 for white, black in zip(*spans, strict=True))
    ):
        raise image_error(
            "corrupt",
            where,
            "the tags on YCbCr must be what TIFF 6.0 allows",
            f"subsampling {across} x {down}, coefficients {coefficients}, reference {reference}",
            _TO_RGB,
        )
    return YcbcrCoding(
        across=across,
        down=down,
        coefficients=cast("tuple[float, float, float]", coefficients),
        reference=cast("tuple[float, float, float, float, float, float]", reference),
    )


def _rationals(page: tifffile.TiffPage, tag: int, default: tuple[float, ...]) -> tuple[float, ...]:
    """Read a tag of as many rational numbers as `default` has."""
    value = page.tags.valueof(tag)
    if value is None:
        return default
    if len(value) != 2 * len(default):
        return (math.nan,) * len(default)
    return tuple(
        number / unit if unit else math.nan
        for number, unit in zip(value[::2], value[1::2], strict=True)
    )


def _ccitt_coding(page: tifffile.TiffPage, where: str) -> CcittCoding:
    compression = int(page.compression)
    tag = {3: _T4_OPTIONS, 4: _T6_OPTIONS}.get(compression)
    options = 0 if tag is None else int(page.tags.valueof(tag, 0))
    if options & _UNCOMPRESSED_MODE:
        raise _unsupported(where, "CCITT data with parts that are not compressed")
    schemes: dict[int, Literal["rle", "g3", "g4"]] = {2: "rle", 3: "g3", 4: "g4"}
    return CcittCoding(
        scheme=schemes[compression],
        is_two_dimensional=compression == 3 and bool(options & _TWO_DIMENSIONAL),
    )


def _value_notes(page: tifffile.TiffPage, stored: StoredSamples) -> tuple[Note, ...]:
    """Note what happens to every sample."""
    n_pixels = page.imagewidth * page.imagelength
    notes: list[Note] = []
    if stored.bits < 8 and stored.palette is None:
        message = f"Samples of {stored.bits} bits were scaled to 8: the brightest is 255."
        notes.append(Note(code="image.scaled-to-8-bits", message=message, count=n_pixels))
    if stored.is_inverted:
        message = "The image stores white as 0; its samples were inverted."
        notes.append(Note(code="image.inverted", message=message, count=n_pixels))
    if stored.is_signed:
        message = (
            f"Samples are signed; {stored.offset} was added to each, so that none is negative."
        )
        notes.append(Note(code="image.signed-samples", message=message, count=n_pixels))
    if stored.lab is not None:
        message = (
            "Pixels were CIE L*a*b*; they were converted to sRGB by LittleCMS, relative "
            "colorimetric under D50. Colours outside sRGB were clipped, so this cannot be undone."
        )
        notes.append(Note(code="image.converted-from-lab", message=message, count=n_pixels))
    return tuple(notes)


def _alpha_note(n_pixels: int) -> tuple[Note, ...]:
    message = "The image has a channel of opacity, which was dropped; colours are as stored."
    return (Note(code="image.alpha-dropped", message=message, count=n_pixels),)


def _name(value: object) -> str:
    """Name a tag's value: tifffile gives an enumeration where it knows the number."""
    name = getattr(value, "name", None)
    return str(value) if name is None else f"{name} ({int(value)})"  # type: ignore[call-overload]


def _unsupported(where: str, found: str, remedy: str = _TO_RGB) -> ImageError:
    return image_error(
        "unsupported",
        where,
        "a TIFF must hold gray, palette, RGB or YCbCr samples of up to 8 bits or of 16, "
        "uncompressed or with deflate, LZW, PackBits, zstd, CCITT, JPEG, JPEG 2000 or WebP",
        found,
        remedy,
    )
