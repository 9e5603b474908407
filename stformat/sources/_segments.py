"""Bands of rows from an image stored in pieces, each piece decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._pool import map_chunks, thread_count
from stformat.scratch import scratch_array
from stformat.sources._image_file import FileIdentity, InputFile

__all__ = ["Segment", "SegmentGrid", "SegmentedImage"]

_HELD_ROW_LIMIT = 64 * 2**20
"""Bytes of one row of segments that are held in memory while several bands are cut from it."""

_BAND_LIMIT = 128 * 2**20
"""Bytes of a band that are held in memory."""

_RAW_BLOCK = 4 * 2**20
"""Bytes of uncompressed pixels that one task reads at a time."""


class Segment(NamedTuple):
    """Place of a segment in its grid."""

    plane: int
    row: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentGrid:
    """How equally large segments tile an image; those at the right and bottom may overhang it."""

    shape: tuple[int, int, int]
    """Channels wanted, height and width of the image: axes ``('c', 'y', 'x')``."""

    dtype: np.dtype[Any]
    """Type of a sample: uint8 or uint16, native byte order."""

    height: int
    """Rows of a segment."""

    width: int
    """Columns of a segment."""

    samples: int
    """Samples of a pixel in a segment; those beyond the channels wanted are passed over."""

    @property
    def n_planes(self) -> int:
        """Separately stored channels: 1 where the samples of a pixel lie side by side."""
        return 1 if self.samples > 1 else self.shape[0]

    @property
    def n_rows(self) -> int:
        """Rows of segments."""
        return -(-self.shape[1] // self.height)

    @property
    def n_columns(self) -> int:
        """Segments in a row."""
        return -(-self.shape[2] // self.width)

    @property
    def segment_shape(self) -> tuple[int, int, int]:
        """Shape of a whole segment: axes ``('y', 'x', 'sample')``."""
        return (self.height, self.width, self.samples)

    @property
    def segment_bytes(self) -> int:
        """Bytes of a whole segment."""
        return self.height * self.width * self.samples * self.dtype.itemsize

    def visible(self, segment: Segment) -> tuple[int, int]:
        """Return how many rows and columns of a segment lie inside the image."""
        return (
            min(self.height, self.shape[1] - segment.row * self.height),
            min(self.width, self.shape[2] - segment.column * self.width),
        )

    def in_row(self, row: int) -> list[Segment]:
        """List the segments of one row of the grid, plane by plane."""
        return [
            Segment(plane, row, column)
            for plane in range(self.n_planes)
            for column in range(self.n_columns)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedImage:
    """An image file whose segments can be decoded one by one, in any thread."""

    path: Path
    """The file."""

    identity: FileIdentity
    """State of the file when its header was read."""

    grid: SegmentGrid
    """How the segments lie."""

    decode: Callable[[InputFile, Segment, NDArray[Any]], None]
    """``decode(file, segment, out)`` fills the visible part of `out`, an array of the grid's
    segment shape."""

    read_rows: Callable[[InputFile, Segment, int, NDArray[Any]], None] | None = None
    """``read_rows(file, segment, first, out)`` fills `out` with the rows of the segment from
    `first` on; given where segments are not compressed, so that no whole one need be held."""

    decoder_bytes: int = 0
    """Bytes that decoding a segment takes beside the segment itself."""

    scratch: Path | None = None
    """Directory of buffers that are too large for memory."""

    def iter_bands(self, height: int) -> Iterator[NDArray[np.unsignedinteger]]:
        """Yield bands of rows from the top; see `stformat.model.Image.iter_bands`."""
        if height < 1:
            raise ValueError(f"the height of a band must be at least 1, got {height}")
        if self.read_rows is not None:
            return self._iter_bands(height, partial(_fill_from_rows, self, self.read_rows))
        return self._iter_bands(height, _RowHolder(self).fill)

    def _iter_bands(
        self, height: int, fill: Callable[[InputFile, int, NDArray[Any]], None]
    ) -> Iterator[NDArray[np.unsignedinteger]]:
        n_channels, n_rows, n_columns = self.grid.shape
        with InputFile.reopen(self.path, self.identity) as file:
            # One buffer serves every band: a consumer is done with a band when it asks for more.
            height = min(height, n_rows)
            n_samples = n_channels * height * n_columns
            buffer = scratch_array(
                (n_samples,), self.grid.dtype, self.scratch, in_memory=_BAND_LIMIT
            )
            for top in range(0, n_rows, height):
                shape = (n_channels, min(height, n_rows - top), n_columns)
                band = buffer[: shape[0] * shape[1] * shape[2]].reshape(shape)
                fill(file, top, band)
                yield band


class _RowHolder:
    """Fills bands from segments that are decoded as a whole.

    A row of segments that lies inside a band is decoded piece by piece. One that reaches over the
    edge of a band is decoded into a buffer and stays there until the bands have passed it.
    """

    def __init__(self, image: SegmentedImage) -> None:
        self._image = image
        self._held: NDArray[Any] | None = None
        self._held_row = -1
        # Every task holds a segment: few threads at a time where segments are large.
        per_task = max(1, image.grid.segment_bytes + image.decoder_bytes)
        self._n_threads = max(1, min(thread_count(), _HELD_ROW_LIMIT // per_task))

    def fill(self, file: InputFile, top: int, band: NDArray[Any]) -> None:
        """Write the pixels from row `top` of the image into a band."""
        grid = self._image.grid
        bottom = top + band.shape[1]
        inside: list[Segment] = []
        for row in range(top // grid.height, -(-bottom // grid.height)):
            row_top = row * grid.height
            if row_top >= top and min(row_top + grid.height, grid.shape[1]) <= bottom:
                inside += grid.in_row(row)
            else:
                self._copy_held(file, row, top, band)
        self._map(partial(self._decode_into_band, file, top, band), inside)

    def _decode_into_band(
        self, file: InputFile, top: int, band: NDArray[Any], segment: Segment
    ) -> None:
        grid = self._image.grid
        pixels = scratch_array(grid.segment_shape, grid.dtype, self._image.scratch)
        self._image.decode(file, segment, pixels)
        _place(grid, segment, pixels, band, first=0, top=top)

    def _copy_held(self, file: InputFile, row: int, top: int, band: NDArray[Any]) -> None:
        grid = self._image.grid
        segments = grid.in_row(row)
        if self._held is None:
            self._held = scratch_array(
                (len(segments), *grid.segment_shape),
                grid.dtype,
                self._image.scratch,
                in_memory=_HELD_ROW_LIMIT,
            )
        held = self._held
        if self._held_row != row:
            self._map(
                lambda item: self._image.decode(file, item[1], held[item[0]]),
                list(enumerate(segments)),
            )
            self._held_row = row
        self._map(
            lambda item: _place(grid, item[1], held[item[0]], band, first=0, top=top),
            list(enumerate(segments)),
        )

    def _map[T](self, function: Callable[[T], None], items: list[T]) -> None:
        map_chunks(function, items, n_threads=self._n_threads)


def _fill_from_rows(
    image: SegmentedImage,
    read_rows: Callable[[InputFile, Segment, int, NDArray[Any]], None],
    file: InputFile,
    top: int,
    band: NDArray[Any],
) -> None:
    """Write the pixels from row `top` of the image into a band, reading only the rows it needs."""
    grid = image.grid
    bottom = top + band.shape[1]
    row_bytes = grid.width * grid.samples * grid.dtype.itemsize
    step = max(1, _RAW_BLOCK // row_bytes)
    tasks: list[tuple[Segment, int, int]] = []
    for row in range(top // grid.height, -(-bottom // grid.height)):
        first = max(top - row * grid.height, 0)
        stop = min(bottom - row * grid.height, grid.height)
        tasks += [
            (segment, start, min(start + step, stop))
            for segment in grid.in_row(row)
            for start in range(first, stop, step)
        ]

    def read_into_band(task: tuple[Segment, int, int]) -> None:
        segment, start, stop = task
        # A single row of a file that is nearly empty may be declared larger than memory.
        shape = (stop - start, grid.width, grid.samples)
        pixels = scratch_array(shape, grid.dtype, image.scratch)
        read_rows(file, segment, start, pixels)
        _place(grid, segment, pixels, band, first=start, top=top)

    map_chunks(read_into_band, tasks)


def _place(
    grid: SegmentGrid,
    segment: Segment,
    pixels: NDArray[Any],
    band: NDArray[Any],
    *,
    first: int,
    top: int,
) -> None:
    """Copy the rows of a segment from `first` on into a band that starts at row `top`."""
    visible_rows, n_columns = grid.visible(segment)
    y = segment.row * grid.height + first
    x = segment.column * grid.width
    start = max(top, y)
    stop = min(top + band.shape[1], y + min(len(pixels), visible_rows - first))
    rows = slice(start - y, stop - y)
    for sample in range(min(grid.samples, grid.shape[0])):
        np.copyto(
            band[segment.plane + sample, start - top : stop - top, x : x + n_columns],
            pixels[rows, :n_columns, sample],
        )
