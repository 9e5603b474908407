"""A pyramid written in one pass over the source: bands of rows in, shards of every level out.

Specification: spec/stformat-0.1.md, "Image".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.errors import ImageError, Problem
from stformat.kernels import _pool, downsample_2x2
from stformat.metadata.zarr_array import array_document
from stformat.model import Image, JpegTiles, Progress, ProgressEvent, silent
from stformat.store import layout
from stformat.store.image_codecs import ZSTD, ImageCodec, kept_tiles
from stformat.store.journal import NO_JOURNAL, Journal
from stformat.store.nodes import write_document
from stformat.store.shard import ShardWriter

__all__ = ["write_pyramid"]

STEP = "image"
"""Name of the step in progress events."""


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
        more, since the coarser levels are made of them, and encoded where the codec loses
        something, but not written.
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
    Memory: one row of inner chunks at each level, decoded and encoded, that is about
    ``4 * n_c * chunk_px * n_x`` samples, and one band of the source.
    """
    if chunk_px % 2 or shard_px % chunk_px:
        raise ValueError(
            f"chunk_px must be even and divide shard_px, got {chunk_px} and {shard_px}"
        )
    n_c, height, width = image.shape
    shapes = layout.level_shapes(height, width, smallest_px=smallest_px)
    progress(ProgressEvent(step=STEP, done=0, total=height, unit="px rows"))
    with ExitStack() as stack:
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
                journal=journal,
            )
            stack.callback(writer.close)
            levels.append(writer)
        finest = levels[-1]
        for band in _checked_bands(image, chunk_px):
            before = finest.n_rows
            finest.write_rows(band)
            if finest.n_rows // chunk_px > before // chunk_px:
                progress(ProgressEvent(step=STEP, done=finest.n_rows, total=height, unit="px rows"))
        finest.finish()
    progress(ProgressEvent(step=STEP, done=height, total=height, unit="px rows"))
    return len(shapes)


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


class _LevelWriter:
    """One level: collects a row of inner chunks, encodes it, hands its halves to the next."""

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
        journal: Journal,
    ) -> None:
        n_c, height, width = shape
        self._directory = directory
        self._shape = shape
        self._codec = codec
        self._tiles = tiles
        self._chunk_px = chunk_px
        self._coarser = coarser
        self._journal = journal
        self._n_chunks = (-(-height // chunk_px), -(-width // chunk_px))
        self._shards = layout.image_shards(n_c, height, width, chunk_px=chunk_px, shard_px=shard_px)
        # Zero columns at the right: the padding of the last inner chunk of each row.
        self._buffer = np.zeros((n_c, chunk_px, self._n_chunks[1] * chunk_px), dtype=dtype)
        self._filled = 0
        self._chunk_row = 0
        self._open: list[ShardWriter] = []
        self._is_kept = False
        self.n_rows = 0

    def write_rows(self, rows: NDArray[np.unsignedinteger]) -> None:
        """Take any number of rows of the level, from the top downwards."""
        start = 0
        while start < rows.shape[1]:
            stop = min(rows.shape[1], start + self._chunk_px - self._filled)
            filled = self._filled + stop - start
            self._buffer[:, self._filled : filled, : self._shape[2]] = rows[:, start:stop]
            self._filled = filled
            self.n_rows += stop - start
            start = stop
            if self._filled == self._chunk_px:
                self._write_chunk_row()

    def finish(self) -> None:
        """Write what rows are left, then the metadata; the coarser levels likewise."""
        if self._filled:
            self._buffer[:, self._filled :] = 0
            self._write_chunk_row()
        write_document(
            self._directory,
            array_document(
                shape=self._shape,
                dtype=self._buffer.dtype,
                chunks=layout.image_chunks(self._shape[0], chunk_px=self._chunk_px),
                shards=self._shards,
                codecs=self._codec.codecs(self._buffer.dtype),
                dimension_names=("c", "y", "x"),
            ),
        )
        if self._coarser is not None:
            self._coarser.finish()

    def close(self) -> None:
        """Close the open shards as they are."""
        for shard in self._open:
            shard.close()

    def _write_chunk_row(self) -> None:
        n_rows, n_cols = self._n_chunks
        per_y, per_x = (self._shards[axis] // self._chunk_px for axis in (1, 2))
        shard_row, row = divmod(self._chunk_row, per_y)
        part = self._directory / "c" / "0" / str(shard_row)
        if row == 0:
            self._is_kept = self._journal.is_finished(part)
            if not self._is_kept:
                self._open_shards(part, -(-n_cols // per_x))
        halved = self._halved_rows()
        if self._is_kept and self._codec.decode is None:
            _pool.map_chunks(lambda column: self._halve(column, halved), range(n_cols))
        else:
            chunks = _pool.map_chunks(lambda column: self._encode(column, halved), range(n_cols))
            for column, encoded in enumerate([] if self._is_kept else chunks):
                self._open[column // per_x].append((0, row, column % per_x), encoded)
        self._chunk_row += 1
        self._filled = 0
        if self._open and (row == per_y - 1 or self._chunk_row == n_rows):
            for number, shard in enumerate(self._open):
                inside = (1, row + 1, min(per_x, n_cols - number * per_x))
                shard.finish(grid=(1, per_y, per_x), inside=inside)
            self._open = []
            self._journal.finish(part)
        if self._coarser is not None and halved is not None:
            self._coarser.write_rows(halved)

    def _open_shards(self, part: Path, n_shards: int) -> None:
        for column in range(n_shards):
            self._open.append(ShardWriter(part / str(column)))

    def _halved_rows(self) -> NDArray[Any] | None:
        if self._coarser is None:
            return None
        n_c, _, width = self._shape
        return np.empty((n_c, (self._filled + 1) // 2, (width + 1) // 2), self._buffer.dtype)

    def _encode(self, column: int, halved: NDArray[Any] | None) -> bytes:
        """Encode one inner chunk, and put its half in place; columns may run in any order."""
        left = column * self._chunk_px
        height, width = self._filled, min(self._chunk_px, self._shape[2] - left)
        chunk = self._buffer[:, :, left : left + self._chunk_px]
        stream = None if self._tiles is None else self._tiles.read(self._chunk_row, column)
        if stream is not None and self._codec.keep is not None:
            self._halve(column, halved)
            return self._codec.keep(stream)
        encoded = self._codec.encode(chunk, (height, width))
        if self._codec.decode is not None and halved is not None:
            # The next level is made of the pixels that readers of this one will see.
            decoded = np.empty(chunk.shape, chunk.dtype)
            self._codec.decode(encoded, decoded)
            chunk[:, :height, :width] = decoded[:, :height, :width]
        self._halve(column, halved)
        return encoded

    def _halve(self, column: int, halved: NDArray[Any] | None) -> None:
        """Put the half of one inner chunk in place."""
        if halved is None:
            return
        left = column * self._chunk_px
        width = min(self._chunk_px, self._shape[2] - left)
        pixels = self._buffer[:, : self._filled, left : left + width]
        half = downsample_2x2(np.ascontiguousarray(pixels))
        halved[:, :, left // 2 : left // 2 + half.shape[2]] = half
