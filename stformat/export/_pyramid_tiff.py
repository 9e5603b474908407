"""Pyramidal TIFF, tiled, written band by band of the store's own levels.

OME-TIFF specification 6, https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html,
where reduced levels are SubIFDs of their plane. Tools that know nothing of OME, OpenSlide among
them, take pages with the NewSubfileType of a reduced image for levels.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from stformat.errors import ExportError, Problem
from stformat.kernels._pool import read_ahead, thread_count
from stformat.model import Progress, ProgressEvent
from stformat.store.reader import Level, Slide

__all__ = ["check_interleaved", "count_rows", "write_generic_tiff", "write_ome_tiff"]

_TILE_PX = 512
_CODING: dict[str, Any] = {"compression": "zlib", "predictor": True, "tile": (_TILE_PX, _TILE_PX)}
_BUFFER_BYTES = 1 << 25
_MAX_CLASSIC_BYTES = (1 << 32) - (1 << 25)
"""Most bytes of pixels in a TIFF whose offsets have 32 bits, whatever they compress to."""

_REDUCED = 1
_UM_PER_CM = 1e4


def check_interleaved(slide: Slide, layout: str) -> None:
    """Refuse an image that has neither one channel nor three.

    Parameters
    ----------
    slide : Slide
        A slide with an image.
    layout : str
        What the image is to be part of, for the message.

    Raises
    ------
    ExportError
        If the image has other channels.
    """
    n_c = len(slide.channel_names)
    if n_c not in {1, 3}:
        raise ExportError(
            Problem(
                "export.channels",
                slide.slide_id,
                f"images of {layout} have 1 or 3 channels",
                f"{n_c}",
                "export it as ome-tiff or zip, which hold any number",
            )
        )


def write_ome_tiff(slide: Slide, path: Path, progress: Progress) -> None:
    """Write the image as OME-TIFF: lossless, tiled, with every level of the store.

    Parameters
    ----------
    slide : Slide
        A slide with an image.
    path : pathlib.Path
        The file.
    progress : callable
        Told of ``"image"``.

    Raises
    ------
    NoImageError
        If the slide has no image.

    Notes
    -----
    Three channels of brightfield are one RGB plane, all else one plane a channel, under its name.
    ``PhysicalSizeX`` and ``PhysicalSizeY`` are the slide's microns per pixel, where known. Planes
    are written one after another, so an image of n channels is decoded n times. Memory: two bands
    of 512 rows.
    """
    is_rgb = len(slide.channel_names) == 3 and slide.metadata.stain == "he"
    with tifffile.TiffWriter(path, ome=True, bigtiff=_is_big(slide)) as writer:
        for pages in _levels(slide, progress, is_interleaved=is_rgb):
            is_first = pages.level == 0
            writer.write(
                **pages.options,
                subifds=len(slide.levels) - 1 if is_first else None,
                subfiletype=None if is_first else _REDUCED,
                metadata=_ome_metadata(slide, is_rgb=is_rgb) if is_first else None,
            )


def write_generic_tiff(slide: Slide, path: Path, progress: Progress) -> None:
    """Write the image as a TIFF whose levels are pages, which OpenSlide and the like read.

    Parameters
    ----------
    slide : Slide
        A slide with an image of 1 or 3 channels.
    path : pathlib.Path
        The file.
    progress : callable
        Told of ``"image"``.

    Notes
    -----
    Resolution tags have the slide's microns per pixel, where known. Memory as `write_ome_tiff`.
    """
    with tifffile.TiffWriter(path, bigtiff=_is_big(slide)) as writer:
        for pages in _levels(slide, progress, is_interleaved=True):
            writer.write(
                **pages.options,
                subfiletype=_REDUCED if pages.level else None,
                metadata=None,
                **_resolution(slide, pages.level),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pages:
    """One level as it goes to the writer."""

    level: int
    options: Mapping[str, Any]


def _levels(slide: Slide, progress: Progress, *, is_interleaved: bool) -> Iterator[_Pages]:
    """Yield levels, full resolution first, with their pixels as they will be read."""
    n_c = len(slide.channel_names)
    planes = [slice(0, n_c)] if is_interleaved else [slice(c, c + 1) for c in range(n_c)]
    n_rows = sum(level.height for level in slide.levels) * len(planes)
    done = count_rows(progress, n_rows)
    for level in slide.levels:
        size = level.height, level.width
        shape = (*size, n_c) if is_interleaved and n_c > 1 else (n_c, *size)
        with closing(_tiles(slide, level, planes, done)) as tiles:
            yield _Pages(
                level=level.level,
                options={
                    "data": tiles,
                    "shape": shape if n_c > 1 else size,
                    "dtype": slide.dtype,
                    "photometric": "rgb" if is_interleaved and n_c > 1 else "minisblack",
                    "planarconfig": "contig" if is_interleaved and n_c > 1 else None,
                    "software": f"stformat {version('stformat')}",
                    "buffersize": _BUFFER_BYTES,
                    "maxworkers": thread_count(),
                    **_CODING,
                },
            )


def count_rows(progress: Progress, total: int) -> Callable[[int], None]:
    """Announce rows of pixels; return what is told how many more are done."""
    done = 0
    progress(ProgressEvent(step="image", total=total, unit="px rows"))

    def more(n_rows: int) -> None:
        nonlocal done
        done += n_rows
        progress(ProgressEvent(step="image", done=done, total=total, unit="px rows"))

    return more


def _tiles(
    slide: Slide, level: Level, planes: Sequence[slice], done: Callable[[int], None]
) -> Generator[NDArray[np.unsignedinteger]]:
    """Yield the tiles of each plane, (y, x) or (y, x, c); those at the edges as far as they go."""
    with closing(read_ahead(_bands(slide, level, planes))) as bands:
        for band in bands:
            pixels = band[0] if len(band) == 1 else band.transpose(1, 2, 0)
            for left in range(0, level.width, _TILE_PX):
                yield np.ascontiguousarray(pixels[:, left : left + _TILE_PX])
            done(len(pixels))


def _bands(
    slide: Slide, level: Level, planes: Sequence[slice]
) -> Generator[NDArray[np.unsignedinteger]]:
    for channels in planes:
        for top in range(0, level.height, _TILE_PX):
            height = min(_TILE_PX, level.height - top)
            yield slide.read_region(level.level, top, 0, height, level.width)[channels]


def _is_big(slide: Slide) -> bool:
    n_c, itemsize = len(slide.channel_names), slide.dtype.itemsize
    pixels = sum(level.height * level.width for level in slide.levels)
    return pixels * n_c * itemsize > _MAX_CLASSIC_BYTES


def _ome_metadata(slide: Slide, *, is_rgb: bool) -> dict[str, Any]:
    digest = slide.opened.store.commit.manifest_sha256
    sizes: dict[str, Any] = {}
    if slide.mpp is not None:
        for axis in "XY":
            sizes |= {f"PhysicalSize{axis}": slide.mpp, f"PhysicalSize{axis}Unit": "\u00b5m"}
    names = slide.channel_names
    channels = {} if is_rgb else {"Channel": {"Name": list(names)}}
    return {
        "axes": "YXS" if is_rgb else "CYX" if len(names) > 1 else "YX",
        "Name": slide.slide_id,
        # Of the store's own content: the same slide gives the same file.
        "UUID": str(uuid.UUID(digest[:32])),
        **sizes,
        **channels,
    }


def _resolution(slide: Slide, level: int) -> dict[str, Any]:
    if slide.mpp is None:
        return {}
    per_cm = _UM_PER_CM / slide.levels[level].downsample / slide.mpp
    return {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
