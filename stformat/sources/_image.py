"""Histology images of any supported format as bands of rows, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stformat.errors import ImageError
from stformat.model import Image, JpegTiles, Note
from stformat.sources._bytes import image_source
from stformat.sources._image_file import InputFile, image_error
from stformat.sources._image_formats import not_an_image, refuse_slide_index
from stformat.sources._image_jpeg import decode_jpeg_file, parse_jpeg
from stformat.sources._image_jpeg_tiles import jpeg_tiles
from stformat.sources._image_openslide import open_with_openslide
from stformat.sources._image_planes import choose_focal_plane
from stformat.sources._image_png import PNG_SIGNATURE, decode_png_file, parse_png
from stformat.sources._image_tiff import TIFF_SIGNATURES, TiffLayout, parse_tiff
from stformat.sources._image_tiff_segments import TiffSegments
from stformat.sources._segments import SegmentedImage, SegmentGrid

__all__ = ["DEFAULT_MAX_PIXELS", "open_image"]

_COLOURS = {1: ("intensity",), 3: ("r", "g", "b")}

DEFAULT_MAX_PIXELS = 2**34
"""Most pixels that an image may declare: 131,072 x 131,072."""

_JPEG_SIGNATURE = b"\xff\xd8\xff"
_HEAD = 512


def open_image(
    path: Path,
    *,
    scratch: Path | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    stain: Literal["he", "if"] = "he",
    focal_plane: int | None = None,
) -> Image:
    """Open an image, JPEG, PNG or TIFF or a slide, to be read in bands of rows.

    Parameters
    ----------
    path : Path
        The image file. Its format is told by its bytes, never by its name.
    scratch : Path or None
        Directory for pieces of the image that are too large for memory: a whole JPEG or PNG, or a
        TIFF strip or tile, of more than 64 MiB, compressed or decoded, a row of TIFF tiles of more
        than 128 MiB, and a band of more than 256 MiB. The files there have no name and vanish with
        the process. None takes the system's directory for temporary files.
    max_pixels : int
        Most pixels that the image may declare, checked before anything is allocated.
    stain : {"he", "if"}
        Brightfield, one plane whose background is white, or fluorescence, whose background is
        black and whose planes of equal size are channels.
    focal_plane : int or None
        Which one to read of an image with several focal planes, counted from 0. None for an image
        with one; with several it is refused, since no one of them stands for all.

    Returns
    -------
    Image
        Full resolution only: of a TIFF the largest page, which is the first one in every common
        layout; smaller pages and sub-IFDs are never read. Pixels are as stored: the orientation
        tag is recorded, not applied; 16-bit samples stay uint16. What is stored in another way
        than as gray or RGB of 8 or 16 bits follows the rules of `_image_tiff_kind`; an alpha
        channel is dropped. `notes` says what was changed: ``image.alpha-dropped``,
        ``image.samples-dropped``, ``image.palette-applied``, ``image.scaled-to-8-bits``,
        ``image.inverted``, ``image.signed-samples``, ``image.converted-from-lab``; and
        ``image.focal-plane`` which one of several was read. YCbCr in JPEG is converted to RGB as
        libjpeg does it.

        RGB gives channels ``("r", "g", "b")``, one of gray ``("intensity",)``. Several planes of
        fluorescence are in the order of OME-XML, else of the file, named by OME-XML or by the tag
        PageName, else ``("ch0", "ch1", ...)``.

        Slides in other formats (NDPI, MRXS, VMS, BIF, SCN, DICOM ...) are read by OpenSlide where
        the extra ``openslide`` is installed; see `_image_openslide`.

    Raises
    ------
    ImageError
        If the file is no image, is truncated or corrupt, is of a kind that is not read (CMYK,
        floating point, signed colours, several time points, several planes of brightfield, slides
        in other formats without OpenSlide), has not the focal plane or has several and none is
        named, or declares more pixels than allowed or than its bytes can hold. Reading bands raises
        it for what only decoding finds.
    StoreWriteError
        While bands are read, if the scratch directory is full.

    Notes
    -----
    The header is checked here; of JPEG and PNG the whole stream is walked to its end. Every byte is
    read once more for the digest, of a file of more than 32 MiB not before somebody asks for it.
    Inputs are read by ``pread``. Broken entropy-coded data inside a JPEG whose markers are all in
    place cannot be told from an image.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import tifffile
    >>> pixels = np.arange(30, dtype=np.uint8).reshape(5, 2, 3)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "slide.tif")
    ...     tifffile.imwrite(path, pixels, photometric="rgb")
    ...     image = open_image(path)
    ...     print(image.shape, image.codec)
    ...     [band.shape for band in image.iter_bands(2)]
    (3, 5, 2) tiff/none
    [(3, 2, 2), (3, 2, 2), (3, 1, 2)]
    """
    try:
        return _open_plain(path, scratch, max_pixels, stain, focal_plane)
    except ImageError as refusal:
        if refusal.problems[0].code != "image.slide-format":
            raise
        choose_focal_plane(1, focal_plane, path.name)
        return open_with_openslide(path, refusal, max_pixels=max_pixels, stain=stain)


def _open_plain(
    path: Path,
    scratch: Path | None,
    max_pixels: int,
    stain: Literal["he", "if"],
    focal_plane: int | None,
) -> Image:
    with InputFile(path) as file:
        head = file.read(0, _HEAD)
        if head.startswith(TIFF_SIGNATURES):
            layout = parse_tiff(file, max_pixels=max_pixels, stain=stain, focal_plane=focal_plane)
            opened = _open_tiff(path, file, scratch, layout, focal_plane)
        elif head.startswith(PNG_SIGNATURE):
            choose_focal_plane(1, focal_plane, file.name)
            opened = _open_png(path, file, scratch, max_pixels)
        elif head.startswith(_JPEG_SIGNATURE):
            choose_focal_plane(1, focal_plane, file.name)
            opened = _open_jpeg(path, file, scratch, max_pixels)
        else:
            raise not_an_image(head, file.name)
    refuse_slide_index(path)
    grid = opened.pixels.grid
    return Image(
        shape=grid.shape,
        dtype=grid.dtype,
        channel_names=opened.channel_names,
        background=int(np.iinfo(grid.dtype).max) if stain == "he" else opened.zero,
        iter_bands=opened.pixels.iter_bands,
        codec=opened.codec,
        orientation=opened.orientation,
        tag_mpp=opened.tag_mpp,
        source=image_source(path, file.identity),
        notes=opened.notes,
        jpeg_tiles=opened.jpeg_tiles,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What the header of any format says."""

    pixels: SegmentedImage
    codec: str
    orientation: int
    tag_mpp: float | None
    channel_names: tuple[str, ...]
    jpeg_tiles: JpegTiles | None = None
    notes: tuple[Note, ...] = ()
    zero: int = 0
    """Value of a pixel without light, in fluorescence."""


def _open_tiff(
    path: Path,
    file: InputFile,
    scratch: Path | None,
    layout: TiffLayout,
    focal_plane: int | None,
) -> _Opened:
    segments = TiffSegments(layout, scratch)
    pixels = SegmentedImage(
        path=path,
        identity=file.identity,
        grid=layout.grid,
        decode=segments.decode,
        read_rows=segments.read_rows if segments.has_rows else None,
        decoder_bytes=segments.decoder_bytes,
        scratch=scratch,
    )
    return _Opened(
        pixels=pixels,
        codec=f"tiff/{layout.kind.codec}",
        orientation=layout.orientation,
        tag_mpp=layout.tag_mpp,
        channel_names=layout.channel_names,
        jpeg_tiles=jpeg_tiles(path, file.identity, layout),
        notes=layout.kind.notes + _focal_plane_note(layout.n_focal, focal_plane),
        zero=layout.kind.stored.offset,
    )


def _focal_plane_note(n_focal: int, focal_plane: int | None) -> tuple[Note, ...]:
    if n_focal == 1:
        return ()
    message = (
        f"The image has {n_focal} focal planes; number {focal_plane}, counted from 0, was read and "
        "the others left out."
    )
    return (Note(code="image.focal-plane", message=message, count=n_focal - 1),)


def _open_png(path: Path, file: InputFile, scratch: Path | None, max_pixels: int) -> _Opened:
    header = parse_png(file, max_pixels=max_pixels)
    pixels = SegmentedImage(
        path=path,
        identity=file.identity,
        grid=_one_segment(
            (header.samples - header.has_alpha, header.height, header.width),
            np.dtype(np.uint16 if header.bits == 16 else np.uint8),
            header.samples,
        ),
        decode=partial(decode_png_file, scratch=scratch),
        scratch=scratch,
    )
    return _Opened(
        pixels=pixels,
        codec="png",
        orientation=header.orientation,
        tag_mpp=header.tag_mpp,
        channel_names=_COLOURS[header.samples - header.has_alpha],
        notes=header.notes,
    )


def _open_jpeg(path: Path, file: InputFile, scratch: Path | None, max_pixels: int) -> _Opened:
    stream = parse_jpeg(file.read, file.name)
    if stream.width * stream.height > max_pixels:
        raise image_error(
            "too-large",
            file.name,
            f"an image may have at most {max_pixels} pixels",
            f"{stream.width} x {stream.height}",
        )
    n_channels = len(stream.components)
    if n_channels not in _COLOURS:
        raise image_error(
            "unsupported",
            file.name,
            "a JPEG must be grayscale or RGB",
            f"{n_channels} components",
            "convert it to an 8-bit RGB TIFF",
        )
    pixels = SegmentedImage(
        path=path,
        identity=file.identity,
        grid=_one_segment(
            (n_channels, stream.height, stream.width), np.dtype(np.uint8), n_channels
        ),
        decode=partial(decode_jpeg_file, scratch=scratch),
        scratch=scratch,
    )
    return _Opened(
        pixels=pixels,
        codec="jpeg",
        orientation=stream.orientation,
        tag_mpp=stream.tag_mpp,
        channel_names=_COLOURS[n_channels],
    )


def _one_segment(shape: tuple[int, int, int], dtype: np.dtype[Any], samples: int) -> SegmentGrid:
    """Describe an image that is stored as one piece."""
    return SegmentGrid(shape=shape, dtype=dtype, height=shape[1], width=shape[2], samples=samples)
