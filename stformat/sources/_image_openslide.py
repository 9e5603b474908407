"""Slides in formats that are no plain images, read by OpenSlide where it is installed.

https://openslide.org/formats
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError
from stformat.kernels._pool import map_chunks
from stformat.model import Image, Note
from stformat.sources._bytes import image_source
from stformat.sources._image_file import InputFile, image_error
from stformat.sources._image_tags import plausible_mpp

if TYPE_CHECKING:
    import openslide

__all__ = ["open_with_openslide"]

_TILE_PX = 1024
"""Edge of what one task reads: 4 MiB a thread."""

_WHITE = 255
_OPAQUE = 255


def open_with_openslide(path: Path, refusal: ImageError, *, max_pixels: int, stain: str) -> Image:
    """Open a slide that the readers of plain images have refused.

    Parameters
    ----------
    path : Path
        The file that stands for the slide; others may belong to it.
    refusal : ImageError
        Why the file is no plain image; raised where OpenSlide is not installed or has no reader
        for the format either.
    max_pixels : int
        Most pixels that the slide may declare.
    stain : {"he", "if"}
        OpenSlide reads brightfield alone.

    Returns
    -------
    Image
        Level 0, RGB of 8 bits. Places that were not scanned are white, and what is half
        transparent is laid on white. The note ``image.by-openslide`` names the format, the
        version of OpenSlide and its digest of the slide, which covers files beside `path`.

    Raises
    ------
    ImageError
        `refusal`, or if the slide is damaged, too large, or of fluorescence.
    """
    try:
        import openslide  # noqa: PLC0415 - an extra
    except ImportError:
        raise refusal from None
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor is None:
        raise refusal
    if stain != "he":
        raise image_error(
            "unsupported",
            path.name,
            "a slide that OpenSlide reads must be brightfield",
            f"a {vendor} slide of fluorescence",
            "write its channels as an OME-TIFF",
        )
    with InputFile(path) as file:
        identity = file.identity
    try:
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
            properties = dict(slide.properties)
    except openslide.OpenSlideError as error:
        raise _damaged(path, error) from error
    if width * height > max_pixels:
        raise image_error(
            "too-large",
            path.name,
            f"an image may have at most {max_pixels} pixels",
            f"{width} x {height}",
        )
    return Image(
        shape=(3, height, width),
        dtype=np.dtype(np.uint8),
        channel_names=("r", "g", "b"),
        background=_WHITE,
        iter_bands=_Slide(path, width, height).iter_bands,
        codec=f"openslide/{vendor}",
        tag_mpp=_mpp(properties),
        source=image_source(path, identity),
        notes=(
            Note(
                code="image.by-openslide",
                message=f"The image is a {vendor} slide, read by OpenSlide "
                f"{openslide.__library_version__}; places that were not scanned are white. "
                f"OpenSlide's digest is {properties.get('openslide.quickhash-1', 'unknown')}.",
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Slide:
    """Level 0 of a slide."""

    path: Path
    width: int
    height: int

    def iter_bands(self, height: int) -> Iterator[NDArray[np.unsignedinteger]]:
        """Yield bands of rows from the top; see `stformat.model.Image.iter_bands`."""
        import openslide  # noqa: PLC0415 - an extra

        if height < 1:
            raise ValueError(f"the height of a band must be at least 1, got {height}")
        try:
            with openslide.OpenSlide(self.path) as slide:
                for top in range(0, self.height, height):
                    yield self._band(slide, top, min(height, self.height - top))
        except openslide.OpenSlideError as error:
            raise _damaged(self.path, error) from error

    def _band(self, slide: openslide.OpenSlide, top: int, n_rows: int) -> NDArray[np.uint8]:
        band = np.empty((3, n_rows, self.width), np.uint8)

        def read(corner: tuple[int, int]) -> None:
            y, x = corner
            size = min(_TILE_PX, self.width - x), min(_TILE_PX, n_rows - y)
            pixels = np.asarray(slide.read_region((x, top + y), 0, size))
            band[:, y : y + size[1], x : x + size[0]] = _on_white(pixels).transpose(2, 0, 1)

        map_chunks(
            read,
            [(y, x) for y in range(0, n_rows, _TILE_PX) for x in range(0, self.width, _TILE_PX)],
        )
        return band


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay ``(y, x, rgba)`` pixels, whose colours are not weighted by their opacity, on white."""
    colours, opacity = pixels[:, :, :3], pixels[:, :, 3:]
    if (opacity == _OPAQUE).all():
        return colours
    weighted = colours.astype(np.uint32) * opacity + _WHITE * (_OPAQUE - opacity.astype(np.uint32))
    laid: NDArray[np.uint8] = ((weighted + _OPAQUE // 2) // _OPAQUE).astype(np.uint8)
    return laid


def _mpp(properties: dict[str, str]) -> float | None:
    """Microns per pixel, where both axes say the same within a hundredth."""
    try:
        x, y = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return None
    return plausible_mpp(x, y)


def _damaged(path: Path, error: Exception) -> ImageError:
    return image_error(
        "corrupt",
        path.name,
        "a slide must be whole",
        f"OpenSlide says: {error}",
        "copy the slide again, with all the files that belong to it",
    )
