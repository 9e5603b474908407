"""A pyramid written in one pass over the source: bands of rows in, shards of every level out.

Specification: spec/stformat-0.1.md, "Image".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError, Problem
from stformat.kernels import _pool, downsample_2x2
from stformat.metadata.zarr_array import array_document
from stformat.model import Image, JpegTiles, Progress, ProgressEvent, silent
from stformat.scratch import scratch_array
from stformat.store import layout
from stformat.store.durable import fsync_ahead
from stformat.store.image_codecs import ZSTD, ImageCodec, kept_tiles
from stformat.store.journal import NO_JOURNAL, Journal
from stformat.store.nodes import refusals_of, write_document
from stformat.store.shard import ShardWriter

__all__ = ["write_pyramid"]

STEP = "image"
"""Name of the step in progress events."""

_ROWS_LIMIT = 128 * 2**20
"""Bytes of a row of inner chunks of level 0, decoded, that are held in memory; there are two."""

_ENCODED_LIMIT = 64 * 2**20
"""Bytes of inner chunks, decoded, that are encoded before they are written."""

_HALVED_ROWS = 16
"""Rows of a coarser level that one task makes."""


def write_pyramid(
    directory: Path,
    image: Image,
    *,
    codec: ImageCodec = ZSTD,
    chunk_px: int = layout.INNER_PX,
    shard_px: int = layout.SHARD_PX,
    smallest_px: int = layout.SMALLEST_LEVEL_PX,
    journal: Journal = NO_JOURNAL,
    progress: Progress = silent,
) -> int:
    """Write the levels ``s0``, ``s1``, ... of an image into the folder of its element.

    Every source pixel is asked for once and every shard is written once, front to back. A pixel
    of level k is ``(sum + m // 2) // m`` over the m = 1, 2 or 4 pixels of level k - 1, as they are
    read from it, that it covers and that exist.

    Parameters
    ----------
    directory : pathlib.Path
        Folder of the element, ``images/he``.
    image : Image
        The source; its bands may have any height.
    codec : ImageCodec, default: zstd
        How inner chunks are coded. Those of level 0 are the source's own JPEG tiles where the
        codec keeps them and they have the edge of a chunk.
    chunk_px, shard_px : int
        Edges of an inner chunk and of a shard; the chunk's is even, the shard's a multiple of it.
    smallest_px : int
        The pyramid ends at the first level whose longer edge is at most this.
    journal : Journal
        Knows the rows of shards, of any level, that are whole already. Their pixels are read once
        more, since the coarser levels are made of them, but neither encoded nor written.
    progress : Progress
        Told of every row of inner chunks of level 0, in pixel rows.

    Returns
    -------
    int
        Number of levels.

    Raises
    ------
    ImageError
        If the bands do not add up to the shape and type that `image` states, or the source turns
        out to be broken.
    StoreWriteError
        If the file system refuses.
    ValueError
        If `chunk_px` is odd or does not divide `shard_px`.

    Notes
    -----
    Four things happen at a time: the next band is decoded, inner chunks are encoded, those encoded
    before are written, and shards that are whole are flushed to the disk.

    Memory: a band of the source; two rows of inner chunks of level 0 and one of each other level,
    decoded, each in a file without a name in `directory` where it takes more than 128 or 64 MiB;
    and 64 MiB of inner chunks, decoded and encoded, or one where that is more.
    """
    if chunk_px % 2 or shard_px % chunk_px:
        raise ValueError(
            f"chunk_px must be even and divide shard_px, got {chunk_px} and {shard_px}"
        )
    n_c, height, width = image.shape
    shapes = layout.level_shapes(height, width, smallest_px=smallest_px)
    progress(ProgressEvent(step=STEP, done=0, total=height, unit="px rows"))
    with refusals_of(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        flush = stack.enter_context(fsync_ahead(journal.forget))
        queue = _WriteQueue()
        levels: list[_LevelWriter] = []
        for level in reversed(range(len(shapes))):
            writer = _LevelWriter(
                directory / f"s{level}",
                (n_c, *shapes[level]),
                image.dtype,
                codec=codec,
                tiles=None if level else kept_tiles(codec, image, chunk_px),
                chunk_px=chunk_px,
                shard_px=shard_px,
                coarser=levels[-1] if levels else None,
                queue=queue,
                flush=flush,
                journal=journal,
            )
            stack.callback(writer.close)
            levels.append(writer)
        finest = levels[-1]
        rows_ahead = _pool.read_ahead(_chunk_rows(image, chunk_px, directory))
        stack.enter_context(closing(rows_ahead))
        done = 0
        for rows in rows_ahead:
            finest.write_chunk_row(rows)
            done += rows.shape[1]
            if done % chunk_px == 0:
                progress(ProgressEvent(step=STEP, done=done, total=height, unit="px rows"))
        finest.finish()
    progress(ProgressEvent(step=STEP, done=height, total=height, unit="px rows"))
    return len(shapes)


def _chunk_rows(
    image: Image, chunk_px: int, scratch: Path
) -> Generator[NDArray[np.unsignedinteger]]:
    """Rows of an image by `chunk_px`, the last with what remains.

    An array stays as it is until the one after the next is asked for.
    """
    n_c, height, width = image.shape
    shape = n_c, min(chunk_px, height), width
    rows, other = (
        scratch_array(shape, image.dtype, scratch, in_memory=_ROWS_LIMIT) for _ in range(2)
    )
    filled = 0
    for band in _checked_bands(image, chunk_px):
        start = 0
        while start < band.shape[1]:
            stop = min(band.shape[1], start + shape[1] - filled)
            rows[:, filled : filled + stop - start] = band[:, start:stop]
            filled += stop - start
            start = stop
            if filled == shape[1]:
                yield rows
                rows, other = other, rows
                filled = 0
    if filled:
        yield rows[:, :filled]


def _checked_bands(image: Image, height: int) -> Iterator[NDArray[np.unsignedinteger]]:
    """Bands that are known to fit: channels, width, type and, in the end, the number of rows."""
    n_c, n_y, n_x = image.shape
    where = image.source.name if image.source is not None else "image"
    done = 0
    for band in image.iter_bands(height):
        fits = band.ndim == 3 and (band.shape[0], band.shape[2]) == (n_c, n_x)
        if not fits or band.shape[1] < 1 or band.dtype != image.dtype:
            raise ImageError(
                Problem(
                    "image.band",
                    where,
                    f"every band must be {image.dtype} of shape ({n_c}, rows, {n_x})",
                    f"{band.dtype} of shape {band.shape}",
                )
            )
        done += band.shape[1]
        if done > n_y:
            break
        yield band
    if done != n_y:
        raise ImageError(
            Problem(
                "image.rows",
                where,
                f"the bands must add up to {n_y} rows",
                f"{'at least ' if done > n_y else ''}{done}",
            )
        )


class _WriteQueue:
    """Encoded inner chunks that wait to be written: one thread writes them while others encode."""

    def __init__(self) -> None:
        self._waiting: list[tuple[ShardWriter, tuple[int, ...], bytes]] = []

    def encode(
        self,
        encode: Callable[[int], bytes],
        places: Mapping[int, tuple[ShardWriter, tuple[int, ...]]],
        *,
        n_threads: int,
    ) -> None:
        """Call ``encode(column)`` for every column, while what waited is written."""

        def work(column: int | None) -> bytes:
            if column is not None:
                return encode(column)
            self.flush()
            return b""

        _, *encoded = _pool.map_chunks(work, [None, *places], n_threads=n_threads)
        self._waiting = [
            (*place, chunk) for place, chunk in zip(places.values(), encoded, strict=True)
        ]

    def flush(self) -> None:
        """Write what waits."""
        for shard, position, chunk in self._waiting:
            shard.append(position, chunk)
        self._waiting = []


class _LevelWriter:
    """One level: encodes rows of inner chunks, and hands their halves to the coarser level."""

    def __init__(
        self,
        directory: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        *,
        codec: ImageCodec,
        tiles: JpegTiles | None,
        chunk_px: int,
        shard_px: int,
        coarser: _LevelWriter | None,
        queue: _WriteQueue,
        flush: Callable[[Path], None],
        journal: Journal,
    ) -> None:
        n_c, height, width = shape
        self._directory = directory
        self._shape = shape
        self._dtype = dtype
        self._codec = codec
        self._tiles = tiles
        self._coarser = coarser
        self._queue = queue
        self._flush = flush
        self._journal = journal
        self._chunk = layout.image_chunks(n_c, chunk_px=chunk_px)
        self._n_chunks = (-(-height // chunk_px), -(-width // chunk_px))
        self._shards = layout.image_shards(n_c, height, width, chunk_px=chunk_px, shard_px=shard_px)
        chunk_bytes = math.prod(self._chunk) * dtype.itemsize
        self._n_at_once = max(1, _ENCODED_LIMIT // chunk_bytes)
        self._n_threads = max(1, min(_pool.thread_count(), self._n_at_once))
        # Rows that a finer level has halved; as many as make a row of inner chunks.
        self._halved: NDArray[Any] | None = None
        self._filled = 0
        self._chunk_row = 0
        self._open: list[ShardWriter] = []
        self._is_kept = False

    def write_chunk_row(self, rows: NDArray[Any]) -> None:
        """Take the next row of inner chunks; only the last may have fewer rows of pixels."""
        n_rows, n_cols = self._n_chunks
        per_y, per_x = (self._shards[axis] // self._chunk[axis] for axis in (1, 2))
        shard_row, row = divmod(self._chunk_row, per_y)
        part = self._directory / "c" / "0" / str(shard_row)
        if row == 0:
            self._is_kept = self._journal.is_finished(part)
            if not self._is_kept:
                self._open = [ShardWriter(part / str(n)) for n in range(-(-n_cols // per_x))]
        if not self._is_kept or self._codec.decode is not None:
            self._encode(rows, row, per_x)
        self._chunk_row += 1
        if self._open and (row == per_y - 1 or self._chunk_row == n_rows):
            self._queue.flush()
            for number, shard in enumerate(self._open):
                inside = (1, row + 1, min(per_x, n_cols - number * per_x))
                shard.finish(grid=(1, per_y, per_x), inside=inside)
                self._flush(part / str(number))
            self._open = []
            self._journal.finish(part)
        if self._coarser is not None:
            self._coarser.take_half_of(rows)

    def take_half_of(self, rows: NDArray[Any]) -> None:
        """Halve rows of the finer level; with enough of them there is a row of inner chunks."""
        n_c, height, width = self._shape
        if self._halved is None:
            shape = n_c, min(self._chunk[1], height), width
            self._halved = scratch_array(shape, self._dtype, self._directory.parent)
        n_halved = (rows.shape[1] + 1) // 2
        target = self._halved[:, self._filled : self._filled + n_halved]

        def halve(start: int, stop: int) -> None:
            target[:, start:stop] = downsample_2x2(rows[:, 2 * start : 2 * stop])

        _pool.run_blocks(halve, n_halved, block=_HALVED_ROWS)
        self._filled += n_halved
        if self._filled == self._chunk[1]:
            self._write_halved(self._halved)

    def finish(self) -> None:
        """Write what rows are left, then the metadata; the coarser levels likewise."""
        if self._halved is not None and self._filled:
            self._write_halved(self._halved[:, : self._filled])
        write_document(
            self._directory,
            array_document(
                shape=self._shape,
                dtype=self._dtype,
                chunks=self._chunk,
                shards=self._shards,
                codecs=self._codec.codecs(self._dtype),
                dimension_names=("c", "y", "x"),
            ),
        )
        if self._coarser is not None:
            self._coarser.finish()

    def close(self) -> None:
        """Close the open shards as they are."""
        for shard in self._open:
            shard.close()

    def _write_halved(self, rows: NDArray[Any]) -> None:
        self._filled = 0
        self.write_chunk_row(rows)

    def _encode(self, rows: NDArray[Any], row: int, per_x: int) -> None:
        """Encode a row of inner chunks, some at once; the last of them wait to be written."""
        n_cols = self._n_chunks[1]
        encode = partial(self._encode_chunk, rows)
        for first in range(0, n_cols, self._n_at_once):
            columns = range(first, min(first + self._n_at_once, n_cols))
            if self._is_kept:
                _pool.map_chunks(encode, columns, n_threads=self._n_threads)
                continue
            self._queue.encode(
                encode,
                {c: (self._open[c // per_x], (0, row, c % per_x)) for c in columns},
                n_threads=self._n_threads,
            )

    def _encode_chunk(self, rows: NDArray[Any], column: int) -> bytes:
        """Encode one inner chunk of a row of them, zeros where it overhangs the level."""
        stream = None if self._tiles is None else self._tiles.read(self._chunk_row, column)
        if stream is not None and self._codec.keep is not None:
            return self._codec.keep(stream)
        edge = self._chunk[2]
        pixels = rows[:, :, column * edge : (column + 1) * edge]
        _, height, width = pixels.shape
        chunk = pixels
        if pixels.shape != self._chunk:
            chunk = np.zeros(self._chunk, self._dtype)
            chunk[:, :height, :width] = pixels
        encoded = self._codec.encode(chunk, (height, width))
        if self._codec.decode is not None and self._coarser is not None:
            # The next level is made of the pixels that readers of this one will see.
            decoded = np.empty(self._chunk, self._dtype)
            self._codec.decode(encoded, decoded)
            pixels[:] = decoded[:, :height, :width]
        return encoded
