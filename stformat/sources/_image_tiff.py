"""TIFF and BigTIFF: which page is the image, whether its segments are all there.

TIFF 6.0; Adobe Photoshop TIFF Technical Notes (deflate, predictor); BigTIFF.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from xml.etree.ElementTree import ParseError

import numpy as np
import tifffile
from numpy.typing import NDArray

from stformat.errors import ImageError
from stformat.sources._image_file import InputFile, image_error
from stformat.sources._image_tags import plausible_mpp, um_per_unit
from stformat.sources._segments import SegmentGrid

__all__ = ["TIFF_SIGNATURES", "TiffLayout", "parse_tiff"]

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_MAX_PAGES = 1000

# tifffile lets errors of the parts it is made of through when tags are not what they should be.
_PARSER_ERRORS = (
    ValueError,  # TiffFileError, UnicodeDecodeError
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    OSError,
    MemoryError,
    struct.error,
    ParseError,
)

_NONE, _JPEG = 1, 7

_CODECS = {
    _NONE: "none",
    5: "lzw",
    _JPEG: "jpeg",
    8: "deflate",
    32946: "deflate",
    32773: "packbits",
    34926: "zstd",
    50000: "zstd",
}

# The most bytes that one compressed byte can stand for; a segment that claims more is a lie. JPEG
# segments are held to a bound of their own.
_MAX_RATIO = {"none": 1, "deflate": 1032, "lzw": 4096, "packbits": 64, "zstd": 65536}

_GRAY, _RGB, _YCBCR = 1, 2, 6
_CHANNELS = {_GRAY: 1, _RGB: 3, _YCBCR: 3}
_ALPHA_SAMPLES = {1, 2}
_REDUCED_OR_MASK = 0b101

_IMAGEJ_IMAGES = re.compile(r"^images=(\d+)", re.MULTILINE)
_OME_SIZE = re.compile(r"<(?:\w+:)?Pixels\b[^>]*?\bPhysicalSizeX=\"([^\"]+)\"")
_OME_UNIT = re.compile(r"<(?:\w+:)?Pixels\b[^>]*?\bPhysicalSizeXUnit=\"([^\"]+)\"")
_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")

_REMEDY = "convert it to an 8-bit RGB TIFF"
_COPY_AGAIN = "copy the file again from its source"


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffLayout:
    """One page of a TIFF: where its segments lie and how they are coded."""

    grid: SegmentGrid
    """How the segments tile the image."""

    codec: str
    """Name of the compression: ``"none"``, ``"deflate"``, ``"jpeg"``, ``"lzw"``, ..."""

    starts: NDArray[np.int64]
    """(n_planes, n_rows, n_columns) offset of each segment in the file."""

    lengths: NDArray[np.int64]
    """(n_planes, n_rows, n_columns) bytes of each segment."""

    has_predictor: bool
    """Whether samples are stored as differences from their left neighbours."""

    swap_bytes: bool
    """Whether 16-bit samples are stored in the other byte order than this machine's."""

    is_rgb: bool
    """Whether the page says that its samples are RGB, so that JPEG segments without a JFIF header
    hold no YCbCr."""

    jpeg_tables: bytes | None
    """Tables that the JPEG segments share."""

    has_alpha: bool
    """Whether a sample of opacity is stored and passed over."""

    orientation: int
    """Orientation tag, 1 to 8."""

    tag_mpp: float | None
    """Microns per pixel from OME-XML, Aperio's description or the resolution tags."""


def parse_tiff(file: InputFile, *, max_pixels: int) -> TiffLayout:
    """Read the header of a TIFF and choose the page that is the image.

    Parameters
    ----------
    file : InputFile
        A file that starts with a TIFF signature.
    max_pixels : int
        Most pixels that an image may declare.

    Returns
    -------
    TiffLayout
        The largest page, and the first of the file in every common layout: reduced levels, masks,
        labels and thumbnails are smaller or marked. Levels in sub-IFDs are never looked at.

    Raises
    ------
    ImageError
        If the tags are broken, the kind of image is not read, several pages are of the largest
        size, or segments are missing or reach beyond the end of the file.
    """
    try:
        with (
            file.stream() as stream,
            # The two formats that would make tifffile look at other files in the same directory.
            tifffile.TiffFile(stream, name=file.name, is_ome=False, is_ndtiff=False) as tiff,
        ):
            page = _largest_page(tiff, file.name)
            return _layout(page, tiff.byteorder, file, max_pixels)
    except ImageError:
        raise
    except _PARSER_ERRORS as error:
        raise image_error(
            "corrupt",
            file.name,
            "the tags of a TIFF must be readable",
            f"{type(error).__name__}: {error}"[:200],
            _COPY_AGAIN,
        ) from error


def _largest_page(tiff: tifffile.TiffFile, where: str) -> tifffile.TiffPage:
    """Choose the first of the pages with the most pixels, unless it is a plane of a stack."""
    largest: tifffile.TiffPage | None = None
    n_alike = 0
    for index, page in enumerate(tiff.pages):
        if index == _MAX_PAGES:
            raise _unsupported(where, f"more than {_MAX_PAGES} pages")
        if not isinstance(page, tifffile.TiffPage):
            raise _unsupported(where, "a page without tags of its own")
        if index > 0 and int(page.subfiletype) & _REDUCED_OR_MASK:
            continue
        if largest is None or _n_pixels(page) > _n_pixels(largest):
            largest, n_alike = page, 1
        elif page.hash == largest.hash:
            # Planes of a stack are written alike; a thumbnail of a tiny image is not.
            n_alike += 1
    if largest is None:
        raise image_error("corrupt", where, "a TIFF must hold an image", "no page")
    stack = _IMAGEJ_IMAGES.search(largest.description) if largest.is_imagej else None
    if n_alike > 1 or (stack is not None and int(stack[1]) > 1):
        raise _unsupported(where, "several planes of the same size")
    return largest


def _n_pixels(page: tifffile.TiffPage) -> int:
    return page.imagewidth * page.imagelength


def _layout(
    page: tifffile.TiffPage, byteorder: str, file: InputFile, max_pixels: int
) -> TiffLayout:
    """Check one page and describe it."""
    where = file.name
    width, height = page.imagewidth, page.imagelength
    if width < 1 or height < 1:
        raise image_error(
            "corrupt", where, "a TIFF page must declare its size", f"{width} x {height} pixels"
        )
    if width * height > max_pixels:
        raise image_error(
            "too-large",
            where,
            f"an image may have at most {max_pixels} pixels",
            f"{width} x {height}",
        )
    codec = _check_kind(page, where)
    n_channels = _CHANNELS[int(page.photometric)]
    planar = int(page.planarconfig) == 2 and page.samplesperpixel > 1
    n_stored = page.samplesperpixel if planar else 1
    grid = _grid(page, n_channels, 1 if planar else page.samplesperpixel, max_pixels, where)
    starts, lengths = _segments(page, grid, n_stored, where)
    starts, lengths = starts[: grid.n_planes], lengths[: grid.n_planes]
    _check_segments(grid, codec, starts, lengths, file)
    tables = page.jpegtables
    return TiffLayout(
        grid=grid,
        codec=codec,
        starts=starts,
        lengths=lengths,
        has_predictor=codec != "jpeg" and int(page.predictor) == 2,
        swap_bytes=grid.dtype.itemsize > 1 and byteorder != _native_order(),
        is_rgb=int(page.photometric) == _RGB,
        jpeg_tables=None if tables is None else bytes(tables),
        has_alpha=page.samplesperpixel > n_channels,
        orientation=_orientation(page),
        tag_mpp=_tag_mpp(page),
    )


def _check_kind(page: tifffile.TiffPage, where: str) -> str:
    """Refuse a page whose pixels are not read; return the name of its compression."""
    codec = _CODECS.get(int(page.compression))
    if codec is None:
        raise _unsupported(where, f"compression {_name(page.compression)}")
    photometric = int(page.photometric) if page.photometric is not None else -1
    if photometric not in _CHANNELS or (photometric == _YCBCR and codec != "jpeg"):
        raise _unsupported(where, f"photometric {_name(page.photometric)}, compression {codec}")
    sample = page.bitspersample, page.sampleformat
    if sample not in {(8, 1), (16, 1)} or (codec == "jpeg" and page.bitspersample != 8):
        raise _unsupported(
            where, f"samples of {page.bitspersample} bits, format {_name(page.sampleformat)}"
        )
    extra = tuple(int(kind) for kind in page.extrasamples)
    n_extra = page.samplesperpixel - _CHANNELS[photometric]
    is_alpha = n_extra == 1 and (
        photometric == _RGB or (photometric == _GRAY and extra and extra[0] in _ALPHA_SAMPLES)
    )
    if n_extra != 0 and not is_alpha:
        raise _unsupported(where, f"{page.samplesperpixel} samples a pixel")
    if codec == "jpeg" and page.samplesperpixel > 3 and int(page.planarconfig) == 1:
        raise _unsupported(where, f"JPEG segments of {page.samplesperpixel} samples")
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise _unsupported(where, "a volume")
    if codec != "jpeg" and int(page.predictor) not in {1, 2}:
        raise _unsupported(where, f"predictor {_name(page.predictor)}")
    if codec != "jpeg" and int(page.fillorder) != 1:
        raise _unsupported(where, "bits stored in reverse order")
    return codec


def _grid(
    page: tifffile.TiffPage, n_channels: int, samples: int, max_pixels: int, where: str
) -> SegmentGrid:
    """Describe the strips or tiles of a page."""
    if page.is_tiled:
        height, width = page.tilelength, page.tilewidth
    else:
        height, width = min(page.rowsperstrip, page.imagelength), page.imagewidth
    if height < 1 or width < 1 or height * width > max_pixels:
        raise image_error(
            "corrupt",
            where,
            f"strips and tiles must have 1 to {max_pixels} pixels",
            f"{width} x {height}",
        )
    return SegmentGrid(
        shape=(n_channels, page.imagelength, page.imagewidth),
        dtype=np.dtype(np.uint8 if page.bitspersample == 8 else np.uint16),
        height=height,
        width=width,
        samples=samples,
    )


def _segments(
    page: tifffile.TiffPage, grid: SegmentGrid, n_stored: int, where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Arrange offsets and byte counts as the grid lies, one plane for each stored channel."""
    shape = (n_stored, grid.n_rows, grid.n_columns)
    n_expected = n_stored * grid.n_rows * grid.n_columns
    if not len(page.dataoffsets) == len(page.databytecounts) == n_expected:
        raise image_error(
            "truncated",
            where,
            f"{grid.shape[2]} x {grid.shape[1]} pixels need {n_expected} strips or tiles",
            f"{len(page.dataoffsets)} offsets and {len(page.databytecounts)} byte counts",
            _COPY_AGAIN,
        )
    starts = np.array(page.dataoffsets, dtype=np.int64).reshape(shape)
    lengths = np.array(page.databytecounts, dtype=np.int64).reshape(shape)
    return starts, lengths


def _check_segments(
    grid: SegmentGrid,
    codec: str,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    file: InputFile,
) -> None:
    """Refuse segments that are missing, reach beyond the file, or cannot hold their pixels."""
    # Compared by subtraction: a sum of two hostile numbers may wrap around.
    beyond = (starts <= 0) | (lengths <= 0) | (starts > file.size - lengths)
    _refuse(beyond, starts, lengths, f"inside the file of {file.size} bytes", file.name)
    ratio = _MAX_RATIO.get(codec)
    if ratio is None:
        return
    row_bytes = grid.width * grid.samples * grid.dtype.itemsize
    tops = np.arange(grid.n_rows, dtype=np.int64) * grid.height
    needed = np.minimum(grid.height, grid.shape[1] - tops)[:, None] * row_bytes
    short = lengths < -(-needed // ratio)
    _refuse(short, starts, lengths, f"large enough for {grid.height} rows of pixels", file.name)


def _refuse(
    bad: NDArray[np.bool_],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    rule: str,
    where: str,
) -> None:
    """Raise if any segment is bad, naming the first."""
    if not bad.any():
        return
    first = np.unravel_index(int(np.argmax(bad)), bad.shape)
    raise image_error(
        "truncated",
        where,
        f"every strip or tile must lie {rule}" if "inside" in rule else f"each must be {rule}",
        f"one of {lengths[first]} bytes at offset {starts[first]}"
        + (f" and {int(bad.sum()) - 1} others" if bad.sum() > 1 else ""),
        _COPY_AGAIN,
    )


def _native_order() -> str:
    return "<" if np.dtype(np.uint16).newbyteorder("<").isnative else ">"


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(274)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _tag_mpp(page: tifffile.TiffPage) -> float | None:
    """Read microns per pixel from the most specific claim there is."""
    description = page.description
    ome = _OME_SIZE.search(description)
    if ome is not None:
        unit = _OME_UNIT.search(description)
        # The schema's default unit is the micrometre, spelled with either of two letters mu.
        if unit is not None and unit[1] not in {"µm", "μm", "um", "&#181;m", "&#xB5;m"}:
            return None
        return _mpp_of_text(ome[1])
    if description.startswith("Aperio"):
        aperio = _APERIO_MPP.search(description)
        if aperio is not None:
            return _mpp_of_text(aperio[1])
    return _resolution_mpp(page)


def _mpp_of_text(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return plausible_mpp(value, value)


def _resolution_mpp(page: tifffile.TiffPage) -> float | None:
    """Read XResolution and YResolution, rationals of pixels in a unit."""
    scale = um_per_unit(int(page.tags.valueof(296, 2)))
    claims = [page.tags.valueof(282), page.tags.valueof(283)]
    if scale is None or any(not isinstance(claim, tuple) or len(claim) != 2 for claim in claims):
        return None
    (x, x_unit), (y, y_unit) = claims
    return plausible_mpp(scale * x_unit / x, scale * y_unit / y) if x and y else None


def _name(value: object) -> str:
    """Name a tag's value: tifffile gives an enumeration where it knows the number."""
    name = getattr(value, "name", None)
    return str(value) if name is None else f"{name} ({int(value)})"  # type: ignore[call-overload]


def _unsupported(where: str, found: str) -> ImageError:
    return image_error(
        "unsupported",
        where,
        "a TIFF must hold one grayscale or RGB image of 8 or 16 bits, uncompressed or with "
        "deflate, LZW, PackBits, zstd or JPEG",
        found,
        _REMEDY,
    )
