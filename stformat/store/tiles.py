"""The tile engine: windows of a pyramid, each chunk read, verified and decoded once a request.

Specification: spec/stformat-0.1.md, "Coordinates" and "Tiles".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stformat import coords, kernels
from stformat.coords import TileGrid
from stformat.errors import Problem, UnsupportedStoreError
from stformat.kernels._pool import read_ahead
from stformat.store.arrays import ArrayReader
from stformat.store.chunk_groups import group_by_chunk
from stformat.store.chunk_windows import window_chunks
from stformat.store.regions import read_regions
from stformat.store.row_index import RowIndex, row_positions

__all__ = ["TileEngine", "Tiles"]

_BATCH_BYTES = 32 * 2**20
"""Source windows held at a time while tiles are resampled."""

_ITERATED_AT_ONCE = 64
"""Tiles read at a time where they are iterated one by one."""


class TileEngine:
    """Cuts windows out of the levels of one image; safe for threads.

    A request allocates its result and the chunks in flight (one a thread); chunks are kept only
    where the readers' shared cache keeps them.

    Parameters
    ----------
    levels : sequence of ArrayReader
        The pyramid, full resolution first, axes ``('c', 'y', 'x')``.
    background : int
        Sample value outside a level.

    Raises
    ------
    UnsupportedStoreError
        If a level is no such array, is cut along its channels, or differs in them from the first.
    """

    def __init__(self, levels: Sequence[ArrayReader], *, background: int) -> None:
        self._levels = tuple(levels)
        self.background = background
        for level in self._levels:
            self._check_level(level)

    @property
    def n_levels(self) -> int:
        """Number of levels."""
        return len(self._levels)

    @property
    def n_c(self) -> int:
        """Number of channels."""
        return self._levels[0].shape[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample: uint8 or uint16."""
        return self._levels[0].dtype

    def level_shape(self, level: int) -> tuple[int, int]:
        """Return height and width of a level in its own pixels."""
        _, height, width = self.level(level).shape
        return height, width

    def level_codec(self, level: int) -> str:
        """Return the name of what the pixels of a level are compressed with."""
        return self.level(level).metadata.compression

    def read_region(
        self, level: int, top: int, left: int, height: int, width: int
    ) -> NDArray[np.unsignedinteger]:
        """Read a rectangle of a level.

        Parameters
        ----------
        level : int
            Pyramid level, 0 is full resolution.
        top, left : int
            First row and column in pixels of the level; may be negative.
        height, width : int
            Size in pixels of the level, at least 1.

        Returns
        -------
        (c, height, width) ndarray of uint8 or uint16
            The pixels; what lies outside the level is background.

        Raises
        ------
        ValueError
            If there is no such level, or the size is below 1.
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        if height < 1 or width < 1:
            raise ValueError(f"height and width must be at least 1, got {height} and {width}")
        reader = self.level(level)
        out = np.empty((self.n_c, height, width), dtype=self.dtype)
        read_regions(reader, [(top, left)], [out], background=self.background)
        return out

    def cut(
        self,
        windows: NDArray[np.int64],
        grid: TileGrid,
        *,
        fill_value: int,
        out: NDArray[np.unsignedinteger] | None = None,
        places: NDArray[np.int64] | None = None,
        go_on: Callable[[], object] | None = None,
    ) -> NDArray[np.unsignedinteger]:
        """Cut square tiles.

        Parameters
        ----------
        windows : (n, 2) ndarray of int64
            Columns ``(left, top)`` in pixels of ``grid.level``, from `coords.tile_windows`; in any
            order, with or without repetition.
        grid : TileGrid
            Size, level and step.
        fill_value : int
            Sample value outside the level.
        out : (n, c, tile_px, tile_px) ndarray, optional
            C-contiguous array of the image's type to write to.
        places : (n,) ndarray of int64, optional
            Where in `out`, which may then have more tiles, each one goes. Default: in the order of
            `windows`.
        go_on : callable, optional
            Called for each chunk; what it raises ends the request.

        Returns
        -------
        (n, c, tile_px, tile_px) ndarray of uint8 or uint16
            The tiles in the order of `windows` or in their places; `out` where it was given.

        Raises
        ------
        ValueError
            If there is no such level.
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        if out is None:
            shape = (len(windows), self.n_c, grid.tile_px, grid.tile_px)
            out = np.empty(shape, dtype=self.dtype)
        places = np.arange(len(windows)) if places is None else places
        if grid.is_copy:
            self._gather(windows, grid.level, fill_value, out, places, go_on)
            return out
        # Neighbours share chunks: with the rows of chunks in turn, most stay in the cache.
        edge_y = self.level(grid.level).metadata.chunks[1]
        order = np.lexsort((windows[:, 0], windows[:, 1] // edge_y))
        window_bytes = self.n_c * grid.source_px**2 * self.dtype.itemsize
        size = max(1, _BATCH_BYTES // window_bytes)
        shape = (min(size, len(order)), self.n_c, grid.source_px, grid.source_px)
        sources = np.empty(shape, dtype=self.dtype)
        resampled = np.empty((len(sources), *out.shape[1:]), dtype=self.dtype)
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            source, tiles = sources[: len(batch)], resampled[: len(batch)]
            here = np.arange(len(batch))
            self._gather(windows[batch], grid.level, fill_value, source, here, go_on)
            kernels.resample_tiles(source, tile_px=grid.tile_px, step=grid.step, out=tiles)
            out[places[batch]] = tiles
        return out

    def _gather(  # noqa: PLR0917 - as `cut`, which checks what it hands on
        self,
        windows: NDArray[np.int64],
        level: int,
        fill_value: int,
        out: NDArray[np.unsignedinteger],
        places: NDArray[np.int64],
        go_on: Callable[[], object] | None,
    ) -> None:
        """Copy windows out of a level to their places, chunk by chunk."""
        reader = self.level(level)
        _, height, width = reader.shape
        _, edge_y, edge_x = reader.metadata.chunks
        edge_px = out.shape[3]
        left, top = windows.T
        is_inside = (left >= 0) & (top >= 0) & (left + edge_px <= width) & (top + edge_px <= height)
        out[places[~is_inside]] = fill_value
        of_window, chunk = window_chunks(windows, edge_px, (height, width), (edge_y, edge_x))
        groups = group_by_chunk(chunk)
        rows, cols = np.divmod(groups.chunks, reader.grid[2])
        # In the order of the chunks: what one of them needs is then a slice.
        which = of_window[groups.order]
        scatter = kernels.ChunkScatter(windows[which], places[which], out)
        tops, lefts, bounds = (
            (rows * edge_y).tolist(),
            (cols * edge_x).tolist(),
            groups.bounds.tolist(),
        )

        def visit(position: int, values: NDArray[Any]) -> None:
            if go_on is not None:
                go_on()
            scatter(
                np.ascontiguousarray(values),  # a copy only of chunks that overhang the level
                tops[position],
                lefts[position],
                slice(bounds[position], bounds[position + 1]),
            )

        reader.visit_chunks(groups.chunks, visit)

    def level(self, level: int) -> ArrayReader:
        """Return the array of a level, or raise ValueError if there is none."""
        if not 0 <= level < len(self._levels):
            raise ValueError(
                f"level {level} does not exist: this image has levels 0 to {len(self._levels) - 1}"
            )
        return self._levels[level]

    def _check_level(self, level: ArrayReader) -> None:
        meta = level.metadata
        if (
            len(meta.shape) != 3
            or meta.data_type not in {"uint8", "uint16"}
            or 0 in meta.shape
            or meta.chunks[0] != meta.shape[0]
            or (meta.shape[0], meta.data_type) != (self.n_c, self._levels[0].metadata.data_type)
        ):
            raise UnsupportedStoreError(
                Problem(
                    "image.level",
                    level.path,
                    "a level must be (c, y, x) of uint8 or uint16, its chunks whole in c, and all "
                    "levels of one type",
                    f"{meta.data_type} {meta.shape} in chunks {meta.chunks}",
                )
            )


class Tiles:
    """Square tiles around centres, cut when they are asked for.

    Indexing reads: ``tiles[i]`` is one tile ``(c, y, x)``; ``tiles[i:j]``, ``tiles[rows]`` and
    ``tiles[mask]`` are arrays ``(n, c, y, x)``. Every chunk that one such request touches is
    decoded once, whatever the order of the rows, so that one large request costs much less than
    many small ones.

    Parameters
    ----------
    engine : TileEngine
        The image.
    centers_px : (n, 2) ndarray of float64
        Centres in full-resolution pixels, columns ``(x, y)``, finite.
    grids : sequence of TileGrid
        Sizes and resolutions that occur, at least one; all of one `tile_px`.
    grid_of_tile : (n,) ndarray of int64
        Which of `grids` each tile lies on.
    fill_value : int
        Sample value outside the image.
    mpp : float or None
        Microns per full-resolution pixel, or None where unknown.
    """

    def __init__(
        self,
        engine: TileEngine,
        centers_px: NDArray[np.float64],
        *,
        grids: Sequence[TileGrid],
        grid_of_tile: NDArray[np.int64],
        fill_value: int,
        mpp: float | None,
    ) -> None:
        self._engine = engine
        self._centers = centers_px
        self._grids = tuple(grids)
        self._grid_of_tile = grid_of_tile
        self._fill_value = fill_value
        self._mpp = mpp

    def __len__(self) -> int:
        return len(self._centers)

    def __repr__(self) -> str:
        n, n_c, tile_px, _ = self.shape
        levels = sorted({grid.level for grid in self._grids})
        where = f"level {_span(levels)}" + (", resampled" if not self._is_copy else "")
        ratios = sorted(grid.ratio / coords.UNIT_STEP for grid in self._grids)
        mpp = self._mpp
        at = "mpp unknown" if mpp is None else f"mpp {_span([mpp * ratio for ratio in ratios])}"
        return f"<Tiles: {n} of {n_c} x {tile_px} x {tile_px} px {self.dtype}, {where}, {at}>"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all tiles at once: axes ``('tile', 'c', 'y', 'x')``."""
        tile_px = self._grids[0].tile_px
        return len(self), self._engine.n_c, tile_px, tile_px

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a sample: uint8 or uint16."""
        return self._engine.dtype

    @property
    def coverage(self) -> NDArray[np.float64]:
        """(n,) share of each tile's area that lies inside the image: 1.0 is wholly inside."""
        shares = np.empty(len(self))
        for tiles, grid in self._by_grid(np.arange(len(self))):
            shape = self._engine.level_shape(grid.level)
            shares[tiles] = coords.coverage(self._centers[tiles], grid, shape)
        return shares

    def __getitem__(self, index: RowIndex) -> NDArray[np.unsignedinteger]:
        tiles = self._read(row_positions(index, len(self)))
        return tiles[0] if isinstance(index, int | np.integer) else tiles

    def __iter__(self) -> Iterator[NDArray[np.unsignedinteger]]:
        for batch in self.iter_batches(_ITERATED_AT_ONCE):
            yield from batch

    def take(
        self, index: RowIndex, *, out: NDArray[np.unsignedinteger] | None = None
    ) -> NDArray[np.unsignedinteger]:
        """Read tiles into an array that may exist already.

        Parameters
        ----------
        index : int, slice, (m,) array of int or (n,) array of bool
            As for ``tiles[index]``.
        out : (m, c, tile_px, tile_px) ndarray, optional
            C-contiguous array of the image's type to write to: for large batches, new memory takes
            as long as cutting the tiles.

        Returns
        -------
        (m, c, tile_px, tile_px) ndarray of uint8 or uint16
            The tiles, also of a single one; `out` where it was given.

        Raises
        ------
        IndexError
            If the index selects no tiles of these.
        ValueError
            If `out` is not such an array; nothing is written.
        CorruptStoreError
            If a chunk is missing or damaged; `out` may then hold a part of the tiles.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import stformat as stf
        >>> from stformat.testing import make_slide, write_legacy_st
        >>> folder = Path(tempfile.mkdtemp())
        >>> source = write_legacy_st(make_slide(height=600, width=700, seed=0), folder / "source")
        >>> with stf.open_slide(stf.convert_slide(source, folder / "slide.zarr")) as slide:
        ...     tiles = slide.tiles(64)
        ...     batch = np.empty((2, *tiles.shape[1:]), tiles.dtype)
        ...     tiles.take([3, 1], out=batch) is batch
        True
        """
        positions = row_positions(index, len(self))
        if out is not None:
            shape = (len(positions), *self.shape[1:])
            is_writable = out.flags.c_contiguous and out.flags.writeable
            if out.shape != shape or out.dtype != self.dtype or not is_writable:
                raise ValueError(
                    f"out must be C-contiguous, writeable, of {self.dtype} and shape {shape}, got "
                    f"{out.dtype} of shape {out.shape}"
                )
        return self._read(positions, out)

    def iter_batches(
        self,
        n: int,
        *,
        dtype: DTypeLike | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Yield the tiles in turn, `n` at a time, the next batch being read meanwhile.

        Parameters
        ----------
        n : int
            Tiles in a batch, at least 1; the last batch has what remains.
        dtype : {float32, float16}, optional
            Yield ``(tiles / largest sample - mean) / std`` of this type, as
            `stformat.kernels.tiles_to_float` computes it. Default: the samples as stored.
        mean, std : (c,) sequence of float, optional
            Of each channel, for floats. Default: 0 and 1.

        Yields
        ------
        (n, c, tile_px, tile_px) ndarray
            The next tiles, in an array of their own. One more batch is in memory meanwhile.

        Raises
        ------
        ValueError
            If `n` is below 1, or `mean` or `std` is given without a float `dtype` or does not fit
            the channels.
        TypeError
            If `dtype` is another type.
        CorruptStoreError
            If a chunk is missing or damaged.
        """
        if n < 1:
            raise ValueError(f"a batch holds at least 1 tile, got {n}")
        if dtype is None and not (mean is None and std is None):
            raise ValueError("mean and std must come with a dtype of float32 or float16, got none")

        def batches() -> Generator[NDArray[Any]]:
            for start in range(0, len(self), n):
                tiles: NDArray[np.unsignedinteger] = self[start : start + n]
                if dtype is None:
                    yield tiles
                else:
                    yield kernels.tiles_to_float(tiles, mean=mean, std=std, dtype=dtype)

        # Closed with this generator, so that a loop that ends early leaves no thread.
        with closing(read_ahead(batches())) as ahead:
            yield from ahead

    @property
    def _is_copy(self) -> bool:
        return all(grid.is_copy for grid in self._grids)

    def _read(
        self, tiles: NDArray[np.int64], out: NDArray[np.unsignedinteger] | None = None
    ) -> NDArray[np.unsignedinteger]:
        if len(self._grids) == 1:
            return self._cut(tiles, self._grids[0], out)
        if out is None:
            out = np.empty((len(tiles), *self.shape[1:]), dtype=self.dtype)
        for here, grid in self._by_grid(tiles):
            out[here] = self._cut(tiles[here], grid, None)
        return out

    def _by_grid(self, tiles: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], TileGrid]]:
        """Yield the places in `tiles` of those on each grid that occurs."""
        of_grid = self._grid_of_tile[tiles]
        for number in np.unique(of_grid):
            yield np.flatnonzero(of_grid == number), self._grids[number]

    def _cut(
        self,
        tiles: NDArray[np.int64],
        grid: TileGrid,
        out: NDArray[np.unsignedinteger] | None,
    ) -> NDArray[np.unsignedinteger]:
        windows = coords.tile_windows(self._centers[tiles], grid)
        return self._engine.cut(windows, grid, fill_value=self._fill_value, out=out)


def _span(values: Sequence[float]) -> str:
    low, high = f"{values[0]:g}", f"{values[-1]:g}"
    return low if low == high else f"{low} to {high}"
