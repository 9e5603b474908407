"""Kernels of images: tiles cut, assembled and resampled, pyramid levels halved."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stformat.kernels._arguments import contiguous, read_only, result, twins_for

__all__ = [
    "ChunkScatter",
    "downsample_2x2",
    "gather_tiles",
    "gather_windows",
    "resample_tiles",
    "scatter_chunk",
]

SAMPLES = (np.uint8, np.uint16)
UNIT_STEP = 65536
MAX_STEP = 1 << 23
# A block of work lasts some 100 us: long beside handing it to a thread, short beside a call.
BLOCK_SAMPLES = 1 << 20


def gather_tiles[T: np.unsignedinteger[Any]](
    image: NDArray[T],
    windows: NDArray[np.int64],
    tile_px: int,
    *,
    fill_value: int = 0,
    out: NDArray[T] | None = None,
) -> NDArray[T]:
    """Cut one square tile out of an image for each window.

    Parameters
    ----------
    image : (n_c, n_y, n_x) ndarray of uint8 or uint16
        One pyramid level, axes ``('c', 'y', 'x')``.
    windows : (n, 2) ndarray of int64
        Columns ``(left, top)``: the pixel of `image` that is the first of the tile. Windows may
        repeat, overlap and lie partly or wholly outside the image.
    tile_px : int
        Edge of a tile in pixels, at least 1.
    fill_value : int, default: 0
        Value of tile pixels that lie outside the image.
    out : (n, n_c, tile_px, tile_px) ndarray, optional
        C-contiguous array of the type of `image` to write to, apart from it in memory.

    Returns
    -------
    (n, n_c, tile_px, tile_px) ndarray
        Tiles in the order of `windows`, of the type of `image`; `out` where it was given.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If a shape is not as above, `tile_px` is below 1 or `fill_value` is no value of the type
        of `image`.

    See Also
    --------
    stformat.coords.tile_windows : Windows around spots.

    Examples
    --------
    A tile that overhangs the upper edge is padded with `fill_value`:

    >>> import numpy as np
    >>> image = np.arange(9, dtype=np.uint8).reshape(1, 3, 3)
    >>> gather_tiles(image, np.array([[0, -1]]), 3, fill_value=255)[0, 0]
    array([[255, 255, 255],
           [  0,   1,   2],
           [  3,   4,   5]], dtype=uint8)
    """
    twins = twins_for(image=image, windows=windows)
    image = read_only("image", image, n_dims=3, dtypes=SAMPLES)
    windows = _windows(windows)
    if tile_px < 1:
        raise ValueError(f"tile_px must be at least 1, got {tile_px}")
    largest = np.iinfo(image.dtype).max
    if not 0 <= fill_value <= largest:
        raise ValueError(f"fill_value must be between 0 and {largest}, got {fill_value}")
    tiles = result(out, (len(windows), image.shape[0], tile_px, tile_px), image.dtype, twins.xp)

    def block(start: int, stop: int) -> None:
        twins.gather_tiles(image, windows[start:stop], fill_value, tiles[start:stop])

    twins.run_blocks(block, len(tiles), block=_tiles_in_block(tiles))
    return tiles


def gather_windows[T: np.unsignedinteger[Any]](
    pixels: NDArray[T],
    starts: NDArray[np.int64],
    strides: NDArray[np.int64],
    places: NDArray[np.int64],
    out: NDArray[T],
) -> None:
    """Cut square tiles out of several images that share one array, in one call.

    Parameters
    ----------
    pixels : (m,) ndarray of uint8 or uint16
        C-contiguous: any number of images ``(c, y, x)`` one behind the other, whatever their sizes.
    starts : (n,) ndarray of int64
        Where the first pixel of each window is in `pixels`.
    strides : (n, 2) ndarray of int64
        Columns ``(channel, row)``: how many pixels lie between one channel of a window and the
        next, and between one row and the next. Not negative.
    places : (n,) ndarray of int64
        Tile of `out` that each window fills, each once.
    out : (k, n_c, tile_px, tile_px) ndarray
        C-contiguous tiles, of the type of `pixels` and apart from it in memory. Others than those
        that are named are left as they are.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If a shape is not as above, a window does not lie within `pixels`, or `places` names a tile
        that `out` lacks; nothing is written.

    Examples
    --------
    An image of 2 x 2 pixels, and behind it one of 2 x 3, of which a window begins at column 1:

    >>> import numpy as np
    >>> pixels = np.arange(10, dtype=np.uint8)
    >>> tiles = np.zeros((2, 1, 2, 2), np.uint8)
    >>> strides = np.array([[4, 2], [6, 3]])
    >>> gather_windows(pixels, np.array([0, 5]), strides, np.array([1, 0]), tiles)
    >>> tiles[:, 0].tolist()
    [[[5, 6], [8, 9]], [[0, 1], [2, 3]]]
    """
    twins = twins_for(pixels=pixels, starts=starts, strides=strides, places=places, out=out)
    pixels = contiguous(read_only("pixels", pixels, n_dims=1, dtypes=SAMPLES))
    starts = contiguous(read_only("starts", starts, n_dims=1, dtypes=(np.int64,)))
    strides = contiguous(read_only("strides", strides, n_dims=2, dtypes=(np.int64,)))
    places = contiguous(read_only("places", places, n_dims=1, dtypes=(np.int64,)))
    n = len(starts)
    if strides.shape != (n, 2) or places.shape != (n,):
        raise ValueError(
            f"strides and places must have shapes ({n}, 2) and ({n},), as many as starts, got "
            f"{strides.shape} and {places.shape}"
        )
    _check_tiles(out)
    result(out, out.shape, pixels.dtype, twins.xp)
    _check_spans(starts, strides, len(pixels), out)
    is_place = (places >= 0) & (places < len(out))
    if not is_place.all():
        at = int(is_place.argmin())
        raise ValueError(f"places must name one of {len(out)} tiles, got {places[at]} at {at}")

    def block(start: int, stop: int) -> None:
        some = slice(start, stop)
        twins.gather_windows(pixels, starts[some], strides[some], places[some], out)

    twins.run_blocks(block, n, block=_tiles_in_block(out))


def scatter_chunk[T: np.unsignedinteger[Any]](  # noqa: PLR0917 - where, what, whereto: one call a chunk
    chunk: NDArray[T],
    top: int,
    left: int,
    windows: NDArray[np.int64],
    which: NDArray[np.int64],
    out: NDArray[T],
) -> None:
    """Copy the part of a chunk that each listed window overlaps into its tile.

    Parameters
    ----------
    chunk : (n_c, n_y, n_x) ndarray of uint8 or uint16
        Decoded pixels of a level, axes ``('c', 'y', 'x')``.
    top, left : int
        Row and column of the level where the chunk begins, at least 0.
    windows : (m, 2) ndarray of int64
        Columns ``(left, top)`` of windows in pixels of the level; their edge is that of the tiles.
    which : (m,) ndarray of int64
        Tile of `out` that each window fills.
    out : (n, n_c, tile_px, tile_px) ndarray
        C-contiguous tiles, of the type of `chunk`. Pixels that the chunk does not hold are left
        as they are.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If a shape is not as above or `which` names a tile that `out` lacks; nothing is written.

    Notes
    -----
    Runs in the calling thread and holds the GIL only to check its arguments: callers that decode
    chunks in threads call it from there. Different chunks of one level write different pixels.

    Examples
    --------
    The window begins one pixel to the left of the chunk:

    >>> import numpy as np
    >>> tiles = np.zeros((1, 1, 2, 3), dtype=np.uint8)[..., :2].copy()
    >>> chunk = np.array([[[5, 6], [7, 8]]], dtype=np.uint8)
    >>> scatter_chunk(chunk, 0, 256, np.array([[255, 0]]), np.array([0]), tiles)
    >>> tiles[0, 0]
    array([[0, 5],
           [0, 7]], dtype=uint8)
    """
    ChunkScatter(windows, which, out)(chunk, top, left, slice(None))


class ChunkScatter:
    """Does as `scatter_chunk` for chunk after chunk, and checks once what these share.

    Parameters
    ----------
    windows : (m, 2) ndarray of int64
        Columns ``(left, top)`` of windows in pixels of the level; their edge is that of the tiles.
    which : (m,) ndarray of int64
        Tile of `out` that each window fills.
    out : (n, n_c, tile_px, tile_px) ndarray of uint8 or uint16
        C-contiguous tiles.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If a shape is not as above or `which` names a tile that `out` lacks.

    Examples
    --------
    >>> import numpy as np
    >>> tiles = np.zeros((2, 1, 2, 2), dtype=np.uint8)
    >>> scatter = ChunkScatter(np.array([[0, 0], [1, 0]]), np.array([1, 0]), tiles)
    >>> scatter(np.array([[[5, 6], [7, 8]]], dtype=np.uint8), 0, 0, slice(1, 2))
    >>> tiles[0, 0]
    array([[6, 0],
           [8, 0]], dtype=uint8)
    """

    def __init__(
        self,
        windows: NDArray[np.int64],
        which: NDArray[np.int64],
        out: NDArray[np.unsignedinteger[Any]],
    ) -> None:
        self._twins = twins_for(windows=windows, which=which, out=out)
        self._windows = _windows(windows)
        self._which = contiguous(read_only("which", which, n_dims=1, dtypes=(np.int64,)))
        if len(which) != len(windows):
            raise ValueError(f"which must name a tile a window, {len(windows)}, got {len(which)}")
        is_tile = (which >= 0) & (which < len(out))
        if not is_tile.all():
            place = int(is_tile.argmin())
            raise ValueError(
                f"which must name one of {len(out)} tiles, got {which[place]} at {place}"
            )
        _check_tiles(out)
        read_only("out", out, n_dims=4, dtypes=SAMPLES)
        self._out = result(out, out.shape, out.dtype, self._twins.xp)

    def __call__(
        self, chunk: NDArray[np.unsignedinteger[Any]], top: int, left: int, some: slice
    ) -> None:
        """Copy the part of a chunk that some of the windows overlap into their tiles.

        Parameters
        ----------
        chunk : (n_c, n_y, n_x) ndarray
            Decoded pixels of the level, of the type of the tiles.
        top, left : int
            Row and column of the level where the chunk begins, at least 0.
        some : slice
            The windows.

        Raises
        ------
        TypeError
            If `chunk` is no array of the type of the tiles.
        ValueError
            If it has other channels, or `top` or `left` is below 0.
        """
        chunk = read_only("chunk", chunk, n_dims=3, dtypes=(self._out.dtype.type,))
        if chunk.shape[0] != self._out.shape[1]:
            raise ValueError(
                f"chunk must have the {self._out.shape[1]} channels of out, got {chunk.shape[0]}"
            )
        if min(top, left) < 0:
            raise ValueError(f"top and left must be at least 0, got {top} and {left}")
        self._twins.scatter_chunk(
            chunk, top, left, self._windows[some], self._which[some], self._out
        )


def resample_tiles[T: np.unsignedinteger[Any]](
    source: NDArray[T], *, tile_px: int, step: int, out: NDArray[T] | None = None
) -> NDArray[T]:
    """Resample windows of source pixels to tiles of another resolution, in integers.

    Parameters
    ----------
    source : (n, n_c, source_px, source_px) ndarray of uint8 or uint16
        Windows of pixels of one level. ``source_px`` is ``ceil(tile_px * step / 65536)`` for a
        step above 65536. Below, windows begin with one margin pixel on the left and on top, and
        ``source_px`` is ``floor(u / 65536) + 3`` where u is the position of the last output
        pixel, see Notes.
    tile_px : int
        Edge of a tile in output pixels, at least 1.
    step : int
        Distance of output pixels in 1/65536 of a source pixel, 1 to 2**23 but not 65536, which
        is a copy.
    out : (n, n_c, tile_px, tile_px) ndarray, optional
        C-contiguous array of the type of `source` to write to, apart from it in memory.

    Returns
    -------
    (n, n_c, tile_px, tile_px) ndarray
        Tiles of the type of `source`; `out` where it was given.

    Raises
    ------
    TypeError
        If an argument is no array of the type named above.
    ValueError
        If a shape is not as above, `tile_px` is below 1 or `step` is not as above.

    See Also
    --------
    stformat.coords.TileGrid : Chooses `step` and ``source_px`` for a wanted resolution.

    Notes
    -----
    With S the step, on each axis:

    - S > 65536: output j covers ``[j S, (j + 1) S)`` in 1/65536 source pixel. With the overlaps
      wy, wx of every source pixel p, its value is ``(sum(wy wx p) + S**2 // 2) // S**2``: the
      mean over the area, rounded half up. The sum stays below 2**63.
    - S < 65536: output j lies at ``u = j S + ((S - 65536) >> 1)`` from the centre of the window's
      first pixel, ``i = u >> 16`` (-1 is the margin pixel) and ``f = (u & 65535) >> 8``. The
      value is ``(sum(wy wx p) + 32768) >> 16`` over the four pixels at i and i + 1, with weights
      ``256 - f`` and f on each axis.

    Examples
    --------
    Two output pixels over three source pixels: the middle one is shared by both.

    >>> import numpy as np
    >>> source = np.array([[[[0, 60, 120]] * 3]], dtype=np.uint8)
    >>> resample_tiles(source, tile_px=2, step=98304)[0, 0]
    array([[ 20, 100],
           [ 20, 100]], dtype=uint8)
    """
    twins = twins_for(source=source)
    source = read_only("source", source, n_dims=4, dtypes=SAMPLES)
    if tile_px < 1:
        raise ValueError(f"tile_px must be at least 1, got {tile_px}")
    if not 1 <= step <= MAX_STEP or step == UNIT_STEP:
        raise ValueError(f"step must be 1 to {MAX_STEP} but not {UNIT_STEP}, a copy; got {step}")
    edge = _source_px(tile_px, step)
    if source.shape[2:] != (edge, edge):
        raise ValueError(
            f"source must have windows of {edge} x {edge} pixels for tile_px {tile_px} and step "
            f"{step}, got shape {source.shape}"
        )
    tiles = result(out, (*source.shape[:2], tile_px, tile_px), source.dtype, twins.xp)
    twin = twins.resample_coarser if step > UNIT_STEP else twins.resample_finer

    def block(start: int, stop: int) -> None:
        twin(source[start:stop], step, tiles[start:stop])

    twins.run_blocks(block, len(tiles), block=_tiles_in_block(source))
    return tiles


def downsample_2x2[T: np.unsignedinteger[Any]](image: NDArray[T]) -> NDArray[T]:
    """Halve an image: the next level of its pyramid.

    Parameters
    ----------
    image : (n_c, n_y, n_x) ndarray of uint8 or uint16
        One pyramid level or a band of it that begins at an even row, axes ``('c', 'y', 'x')``.

    Returns
    -------
    (n_c, ceil(n_y / 2), ceil(n_x / 2)) ndarray
        Means of squares of two pixels, rounded half up, of the type of `image`. At an odd edge
        the mean is over the pixels that exist.

    Raises
    ------
    TypeError
        If `image` is no array of the type named above.
    ValueError
        If `image` has not three dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> downsample_2x2(np.array([[[1, 2, 9], [3, 5, 10]]], dtype=np.uint8))
    array([[[ 3, 10]]], dtype=uint8)
    """
    twins = twins_for(image=image)
    image = read_only("image", image, n_dims=3, dtypes=SAMPLES)
    n_c, height, width = image.shape
    shape = (n_c, (height + 1) // 2, (width + 1) // 2)
    halved: NDArray[T] = twins.xp.empty(shape, image.dtype)

    def block(start: int, stop: int) -> None:
        twins.downsample_2x2(image, start, stop, halved)

    twins.run_blocks(block, halved.shape[1], block=1 + BLOCK_SAMPLES // max(1, 2 * n_c * width))
    return halved


def _windows(windows: NDArray[np.int64]) -> NDArray[np.int64]:
    windows = read_only("windows", windows, n_dims=2, dtypes=(np.int64,))
    if windows.shape[1] != 2:
        raise ValueError(
            f"windows must have shape (n, 2) with columns (left, top), got {windows.shape}"
        )
    return contiguous(windows)


def _check_tiles(out: NDArray[Any]) -> None:
    if out.ndim != 4 or out.shape[2] != out.shape[3]:
        raise ValueError(f"out must have shape (n, c, tile_px, tile_px), got {out.shape}")


def _check_spans(
    starts: NDArray[np.int64], strides: NDArray[np.int64], n_pixels: int, out: NDArray[Any]
) -> None:
    """Check that windows lie within so many pixels."""
    _, n_c, tile_px, _ = out.shape
    # Each term is held against the length beside their sum, which could leave its type.
    channel, row = strides[:, 0], strides[:, 1]
    is_inside = (starts >= 0) & (starts <= n_pixels)
    is_inside &= (channel >= 0) & (channel <= n_pixels // max(1, n_c - 1))
    is_inside &= (row >= 0) & (row <= n_pixels // max(1, tile_px - 1))
    last = starts + (n_c - 1) * channel + (tile_px - 1) * row
    is_inside &= last <= n_pixels - tile_px
    if not is_inside.all():
        at = int(is_inside.argmin())
        raise ValueError(
            f"windows must lie within {n_pixels} pixels, got start {starts[at]} and strides "
            f"{strides[at].tolist()} at {at}"
        )


def _tiles_in_block(tiles: NDArray[Any]) -> int:
    return 1 + BLOCK_SAMPLES * len(tiles) // max(1, tiles.size)


def _source_px(tile_px: int, step: int) -> int:
    """Edge of the windows that tiles are resampled from, margin included."""
    if step > UNIT_STEP:
        return -(-tile_px * step // UNIT_STEP)
    last = (tile_px - 1) * step + ((step - UNIT_STEP) >> 1)
    return (last >> 16) + 3
