"""TIFF and BigTIFF: where the strips and tiles of the image lie, and whether they are all there.

TIFF 6.0; Adobe Photoshop TIFF Technical Notes (deflate, predictor); BigTIFF.
"""

from __future__ import annotations

import logging
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from stformat.errors import ImageError
from stformat.sources._image_file import InputFile, image_error
from stformat.sources._image_planes import Planes, choose_planes, unique_names
from stformat.sources._image_tags import plausible_mpp, um_per_unit
from stformat.sources._image_tiff_directories import check_directories
from stformat.sources._image_tiff_kind import PixelKind, pixel_kind
from stformat.sources._segments import SegmentGrid

__all__ = ["TIFF_SIGNATURES", "TiffLayout", "parse_tiff"]

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

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
)

# The most bytes that one compressed byte can stand for; a segment that claims more is a lie. The
# other codecs are held to bounds of their own. JPEG takes a bit for a block of 64 samples, of which
# subsampling leaves 9 in 16 at the least.
_MAX_RATIO = {
    "none": 1,
    "deflate": 1032,
    "lzw": 4096,
    "packbits": 64,
    "zstd": 65536,
    "jpeg": 2048,
}

_MAX_CODED_PIXELS = 2**22
"""Most pixels of a JPEG 2000 or WebP tile: decoding one takes up to 32 bytes a pixel."""

_MAX_CODED_BYTES = 2**26
"""Most bytes of a JPEG 2000 or WebP tile, held in memory: twice what its pixels can have."""

_MAX_CCITT_BYTES = 2**18
"""Most bytes of CCITT data in an image: they hold up to 2 million codes, of a microsecond each."""

_MAX_CCITT_PIXELS = 2**28
"""Most pixels of a CCITT strip: a bit can stand for a row of any width."""

_OLD_JPEG = 6

_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9.]+)")

_REWRITE = "rewrite it without loss: tiffcp -c zip in.tif out.tif"
_COPY_AGAIN = "copy the file again from its source"


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffLayout:
    """The image of a TIFF: what its pixels are and where its segments lie."""

    grid: SegmentGrid
    """How the segments tile the image."""

    kind: PixelKind
    """How pixels are stored, and as what they are read."""

    starts: NDArray[np.int64]
    """(n_planes, n_rows, n_columns) offset of each segment in the file."""

    lengths: NDArray[np.int64]
    """(n_planes, n_rows, n_columns) bytes of each segment."""

    jpeg_tables: tuple[bytes | None, ...]
    """Tables that the JPEG segments of each plane share."""

    channel_names: tuple[str, ...]
    """One name a channel."""

    orientation: int
    """Orientation tag, 1 to 8."""

    tag_mpp: float | None
    """Microns per pixel from OME-XML, Aperio's description or the resolution tags."""

    n_focal: int
    """Focal planes of the file, of which the image is one."""


def parse_tiff(
    file: InputFile,
    *,
    max_pixels: int,
    stain: Literal["he", "if"],
    focal_plane: int | None,
) -> TiffLayout:
    """Read the header of a TIFF and choose the page, or the pages, that are the image.

    Parameters
    ----------
    file : InputFile
        A file that starts with a TIFF signature.
    max_pixels : int
        Most pixels that an image may declare.
    stain : {"he", "if"}
        Whether several planes, or samples of unsaid meaning, are channels.
    focal_plane : int or None
        Which focal plane to read, counted from 0; see `choose_planes`.

    Returns
    -------
    TiffLayout
        The image at full resolution; see `choose_planes`.

    Raises
    ------
    ImageError
        If the tags are broken, the kind of image is not read, or segments are missing or reach
        beyond the end of the file.
    """
    check_directories(file)
    try:
        with (
            _without_log_lines(),
            # Numbers of a damaged tag may overflow where tifffile compares them.
            np.errstate(all="ignore"),
            file.stream() as stream,
            # The two formats that would make tifffile look at other files in the same directory.
            tifffile.TiffFile(stream, name=file.name, is_ome=False, is_ndtiff=False) as tiff,
        ):
            planes = choose_planes(tiff, stain=stain, focal_plane=focal_plane, where=file.name)
            kind = pixel_kind(
                planes.pages[0],
                stain=stain,
                swap_bytes=tiff.byteorder != _native_order(),
                where=file.name,
            )
            return _layout(planes, kind, file, max_pixels)
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


@contextmanager
def _without_log_lines() -> Iterator[None]:
    """Keep tifffile's remarks on damaged tags, which Python prints where nobody listens, to itself.

    What matters of them ends in an error of our own. A filter is the least that does it: it is
    gone with the call, and lets the records of other threads through.
    """
    thread = threading.get_ident()

    def comes_from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger = logging.getLogger("tifffile")
    logger.addFilter(comes_from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(comes_from_elsewhere)


def _layout(planes: Planes, kind: PixelKind, file: InputFile, max_pixels: int) -> TiffLayout:
    """Check the pages and describe them."""
    where = file.name
    page = planes.pages[0]
    width, height = page.imagewidth, page.imagelength
    if width * height > max_pixels:
        raise image_error(
            "too-large",
            where,
            f"an image may have at most {max_pixels} pixels",
            f"{width} x {height}",
        )
    n_channels = len(planes.pages)
    if n_channels == 1:
        n_channels = kind.n_channels
    elif kind.n_values != 1 or kind.is_planar:
        raise image_error(
            "unsupported",
            where,
            "pages that are channels must have one sample a pixel",
            f"{page.samplesperpixel}, several planes",
            "save one page a channel",
        )
    grid = _grid(page, kind, n_channels, max_pixels, where)
    _check_size(grid, kind, where)
    segments = [_segments(page, grid, kind, where) for page in planes.pages]
    starts, lengths = (
        np.concatenate(parts)[: grid.n_planes] for parts in zip(*segments, strict=True)
    )
    _check_segments(grid, kind, starts, lengths, file)
    if int(page.compression) == _OLD_JPEG:
        _check_old_jpeg(starts, file)
    # Of a page that stores its planes one after the other all have the tables of the page.
    sources = planes.pages if len(planes.pages) > 1 else (page,) * grid.n_planes
    return TiffLayout(
        grid=grid,
        kind=kind,
        starts=starts,
        lengths=lengths,
        jpeg_tables=tuple(
            None if source.jpegtables is None else bytes(source.jpegtables) for source in sources
        ),
        channel_names=_channel_names(planes, kind, n_channels),
        orientation=_orientation(page),
        tag_mpp=_tag_mpp(page) if planes.mpp is None else planes.mpp,
        n_focal=planes.n_focal,
    )


def _channel_names(planes: Planes, kind: PixelKind, n_channels: int) -> tuple[str, ...]:
    """Name channels by their colours, by what the file says, or by their places."""
    if kind.names:
        return kind.names
    if n_channels == 1 and (len(planes.names) != 1 or not planes.names[0]):
        return ("intensity",)
    return unique_names(planes.names, n_channels)


def _grid(
    page: tifffile.TiffPage, kind: PixelKind, n_channels: int, max_pixels: int, where: str
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
        dtype=kind.dtype,
        height=height,
        width=width,
        samples=kind.n_values,
    )


def _check_size(grid: SegmentGrid, kind: PixelKind, where: str) -> None:
    """Refuse segments that a decoder without bounds of its own would be handed."""
    limits = {
        "jpeg2000": _MAX_CODED_PIXELS,
        "webp": _MAX_CODED_PIXELS,
        "ccitt": _MAX_CCITT_PIXELS,
    }
    limit = limits.get(kind.codec)
    if limit is not None and grid.height * grid.width > limit:
        raise image_error(
            "too-large",
            where,
            f"a strip or tile of {kind.codec} may have at most {limit} pixels",
            f"{grid.width} x {grid.height}",
            _REWRITE,
        )


def _segments(
    page: tifffile.TiffPage, grid: SegmentGrid, kind: PixelKind, where: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Arrange offsets and byte counts as the grid lies, one plane for each stored channel."""
    n_stored = page.samplesperpixel if kind.is_planar else 1
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
    kind: PixelKind,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    file: InputFile,
) -> None:
    """Refuse segments that are missing, reach beyond the file, or cannot hold their pixels."""
    # Compared by subtraction: a sum of two hostile numbers may wrap around.
    beyond = (starts <= 0) | (lengths <= 0) | (starts > file.size - lengths)
    _refuse(beyond, starts, lengths, f"inside the file of {file.size} bytes", file.name)
    ratio = _MAX_RATIO.get(kind.codec)
    if ratio is None:
        _check_coded_bytes(kind, lengths, file.name)
        return
    _, n_rows, n_columns = grid.shape
    last_height = n_rows - (grid.n_rows - 1) * grid.height
    last_width = n_columns - (grid.n_columns - 1) * grid.width
    # Rows are stored with the columns that overhang the image; a JPEG may leave them out.
    widths = grid.width, last_width if kind.codec == "jpeg" else grid.width
    needed = np.empty((grid.n_rows, grid.n_columns), np.int64)
    needed[:, :] = kind.stored.n_bytes(grid.height, widths[0])
    needed[:, -1] = kind.stored.n_bytes(grid.height, widths[1])
    needed[-1, :] = kind.stored.n_bytes(last_height, widths[0])
    needed[-1, -1] = kind.stored.n_bytes(last_height, widths[1])
    short = lengths < -(-needed // ratio)
    _refuse(short, starts, lengths, f"large enough for {grid.height} rows of pixels", file.name)


def _check_coded_bytes(kind: PixelKind, lengths: NDArray[np.int64], where: str) -> None:
    """Refuse more bytes than a decoder without bounds of its own should be handed."""
    is_ccitt = kind.codec == "ccitt"
    found = int(lengths.sum() if is_ccitt else lengths.max())
    limit = _MAX_CCITT_BYTES if is_ccitt else _MAX_CODED_BYTES
    if found > limit:
        raise image_error(
            "too-large",
            where,
            f"{'CCITT data' if is_ccitt else 'a tile of ' + kind.codec} may have at most {limit} "
            "bytes",
            f"{found}",
            _REWRITE,
        )


def _check_old_jpeg(starts: NDArray[np.int64], file: InputFile) -> None:
    """Refuse old-style JPEG whose strips are no streams of their own."""
    if file.read(int(starts.flat[0]), 2) != b"\xff\xd8":
        raise image_error(
            "unsupported",
            file.name,
            "a strip of old-style JPEG must be a whole JPEG stream",
            "one whose tables lie elsewhere in the file",
            _REWRITE,
        )


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
    """Read microns per pixel from Aperio's description, else from the resolution tags."""
    aperio = page.description.startswith("Aperio") and _APERIO_MPP.search(page.description)
    if not aperio:
        return _resolution_mpp(page)
    try:
        value = float(aperio[1])
    except ValueError:
        return None
    return plausible_mpp(value, value)


def _resolution_mpp(page: tifffile.TiffPage) -> float | None:
    """Read XResolution and YResolution, rationals of pixels in a unit."""
    unit = page.tags.valueof(296, 2)
    scale = um_per_unit(unit) if isinstance(unit, int) else None
    claims = [page.tags.valueof(282), page.tags.valueof(283)]
    if scale is None or any(not isinstance(claim, tuple) or len(claim) != 2 for claim in claims):
        return None
    (x, x_unit), (y, y_unit) = claims
    return plausible_mpp(scale * x_unit / x, scale * y_unit / y) if x and y else None
