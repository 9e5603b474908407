"""Images of SpatialData as bands of rows, whatever they are held in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stformat.errors import CountsError, ImageError, Problem
from stformat.model import Image, Note, SourceFile
from stformat.sources._notes import named
from stformat.sources._spatialdata_systems import Systems, parse_systems
from stformat.sources._zarr_nodes import damage_told, open_array, open_group, refuse_size
from stformat.sources._zarr_raw import raw_rows

__all__ = ["Raster", "as_image", "read_raster"]

_COLOURS = ("r", "g", "b")
_RAW_ROWS = 256
"""Rows that are read at a time of a chunk that can be read in part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """Level 0 of an image element."""

    name: str
    """Name of the element."""

    axes: tuple[str, ...]
    """Axes of the array: ``("c", "y", "x")`` or ``("y", "x", "c")``."""

    shape: tuple[int, ...]
    """Shape of the array."""

    dtype: np.dtype[Any]
    """Type of a sample."""

    channels: tuple[str, ...]
    """Labels of the channels; empty where there are none."""

    chunk_rows: tuple[int, ...]
    """Rows at which chunks begin, from 0, ascending, and the height."""

    codec: str
    """How it is compressed."""

    systems: Systems
    """Coordinate systems of its pixels."""

    read: Callable[[int, int], NDArray[Any]]
    """``read(top, bottom)`` returns some rows, axes as `axes`. Raises ImageError."""


def read_raster(path: Path, name: str) -> Raster:
    """Open an image element of a container.

    Parameters
    ----------
    path : pathlib.Path
        Its group, with ``multiscales`` among the attributes of itself or of ``ome``.
    name : str
        Its name.

    Returns
    -------
    Raster
        Its first level. Nothing is read but metadata.

    Raises
    ------
    InputError
        If it is damaged, or no image.
    """
    where = f"images/{name}"
    attributes = open_group(path, where).attributes
    ome = attributes.get("ome", attributes)
    try:
        (multiscale,) = ome["multiscales"]
        axes = tuple(str(axis["name"]) for axis in multiscale["axes"])
        level = str(multiscale["datasets"][0]["path"])
        labels = ome.get("omero", {}).get("channels", [])
        channels = tuple(str(channel["label"]) for channel in labels)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _invalid(where, "one multiscale of OME-NGFF is needed", str(error)) from error
    if not (path / level).resolve().is_relative_to(path.resolve()):
        raise _invalid(where, "levels must lie in the element", repr(level))
    array = open_array(path / level, f"{where}/{level}")
    refuse_size(path / level, f"{where}/{level}", array)
    if len(axes) != len(array.shape) or set(axes) not in ({"c", "y", "x"}, {"y", "x"}):
        raise _invalid(where, "axes must be c, y and x", f"{axes} of shape {array.shape}")
    height = array.shape[axes.index("y")]
    step = array.chunks[axes.index("y")]
    raw = raw_rows(path / level, where, array, axes.index("y"))
    if raw is not None:
        step = _RAW_ROWS
    compressors = [type(codec).__name__ for codec in array.compressors]

    def read(top: int, bottom: int) -> NDArray[Any]:
        rows = tuple(slice(top, bottom) if axis == "y" else slice(None) for axis in axes)
        try:
            if raw is not None:
                return raw(top, bottom)
            return damage_told(where, lambda: np.asarray(array[rows]))
        except CountsError as error:
            raise ImageError(
                Problem(
                    "image.damaged",
                    where,
                    "chunks of the image must decode",
                    error.problems[0].found,
                    "copy the container again from its source",
                )
            ) from error

    return Raster(
        name=name,
        axes=axes,
        shape=array.shape,
        dtype=array.dtype,
        channels=channels,
        chunk_rows=(*range(0, height, max(1, step)), height),
        codec=f"zarr/{_codec_name(compressors)}",
        systems=parse_systems(multiscale.get("coordinateTransformations"), axes=axes, where=where),
        read=read,
    )


def _codec_name(compressors: Sequence[str]) -> str:
    return "+".join(name.lower().removesuffix("codec") for name in compressors) or "none"


def as_image(
    raster: Raster,
    *,
    stain: Literal["he", "if"],
    background: int | None = None,
    orientation: int = 1,
    source: SourceFile | None,
) -> Image:
    """Give a raster as the image of a slide.

    Parameters
    ----------
    raster : Raster
        The raster.
    stain : {"he", "if"}
        Brightfield has three channels, or one, or a fourth of opacity, which is left out.
    background : int, optional
        Sample value outside the image; by default white for brightfield and 0 for fluorescence.
    orientation : int, default: 1
        Orientation tag, where it is known.
    source : SourceFile or None
        What the image is read from.

    Returns
    -------
    Image
        The image. Memory of a band: the rows of chunks that it touches; of a single chunk without
        compression, 256 rows.

    Raises
    ------
    ImageError
        If samples are neither uint8 nor uint16, there are no pixels, or channels do not fit the
        stain.
    """
    sizes = dict(zip(raster.axes, raster.shape, strict=True))
    n_c, height, width = sizes.get("c", 1), sizes["y"], sizes["x"]
    where = f"images/{raster.name}"
    if raster.dtype not in (np.uint8, np.uint16) or min(n_c, height, width) < 1:
        raise ImageError(
            Problem(
                "image.type",
                where,
                "an image must be uint8 or uint16 with at least one pixel",
                f"{raster.dtype} of shape {raster.shape}",
                "convert its samples first: how is not for a converter to guess",
            )
        )
    notes: tuple[Note, ...] = ()
    if stain == "he":
        names, n_kept = _brightfield(where, n_c, raster.channels)
        if n_kept < n_c:
            message = f"The channel of opacity of {where} was left out."
            notes = (Note(code="image.alpha-dropped", message=message),)
    else:
        n_kept = n_c
        is_named = len(set(raster.channels)) == n_c
        names = raster.channels if is_named else tuple(f"ch{number}" for number in range(n_c))
    dtype = np.dtype(np.uint8) if raster.dtype == np.uint8 else np.dtype(np.uint16)
    if background is None:
        background = int(np.iinfo(dtype).max) if stain == "he" else 0
    return Image(
        shape=(n_kept, height, width),
        dtype=dtype,
        channel_names=names,
        background=background,
        iter_bands=lambda rows: _bands(raster, dtype, n_kept, rows),
        codec=raster.codec,
        orientation=orientation,
        source=source,
        notes=notes,
    )


def _brightfield(where: str, n_c: int, labels: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    is_rgba = n_c == 4 and tuple(label.lower() for label in labels) == (*_COLOURS, "a")
    if n_c == 3 or is_rgba:
        return _COLOURS, 3
    if n_c == 1:
        return ("intensity",), 1
    raise ImageError(
        Problem(
            "image.channels",
            where,
            "a brightfield image has the channels r, g, b, or one",
            f"{n_c}: {named(labels) or 'without labels'}",
            "pass stain='if' for fluorescence",
        )
    )


def _bands(
    raster: Raster, dtype: np.dtype[Any], n_c: int, height: int
) -> Iterator[NDArray[np.unsignedinteger]]:
    """Read whole rows of chunks, each once, and cut them into bands."""
    total = raster.chunk_rows[-1]
    held = np.zeros((n_c, 0, 0), dtype)
    first = bottom = 0  # rows that are held
    for top in range(0, total, height):
        stop = min(total, top + height)
        if bottom < stop:
            below = next(row for row in raster.chunk_rows if row >= stop)
            new = _planes(raster, raster.read(bottom, below))[:n_c].astype(dtype, copy=False)
            held = np.concatenate([held[:, top - first :], new], axis=1) if bottom > top else new
            first, bottom = top, below
        yield np.ascontiguousarray(held[:, top - first : stop - first])


def _planes(raster: Raster, rows: NDArray[Any]) -> NDArray[Any]:
    if "c" not in raster.axes:
        return rows.transpose([raster.axes.index(axis) for axis in "yx"])[None]
    return rows.transpose([raster.axes.index(axis) for axis in "cyx"])


def _invalid(where: str, expected: str, found: str) -> ImageError:
    return ImageError(Problem("image.ngff", where, expected, found[:200]))
