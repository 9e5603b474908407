"""What an epoch reads and in which order: pure functions of seed, epoch, rows and sizes in bytes.

Rows of a slide stand in spatial order. They are cut into blocks of neighbours, whose pixels and
counts are read together; an epoch permutes the blocks of all slides, cuts their sequence into
groups that fit in memory, permutes the rows of each group and cuts them into batches. A group is
the unit of work: it holds whole batches, so that any number of workers makes the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Blocks",
    "EpochPlan",
    "GroupPlan",
    "Part",
    "cut_blocks",
    "draw_rows",
    "map_runs",
    "plan_epoch",
]

CELL_PX = 4096
"""Rows are ordered by cells of this edge, and inside one by their Morton code."""

SMALLEST_SQUARE_PX = 256
"""Blocks are not cut along squares below this edge, but by their number of rows."""

_BLOCKS, _ROWS, _DRAWS = range(3)

type Bytes = Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.int64]]
"""Bytes in memory of so many rows whose centres lie so far apart along ``(x, y)``, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """Runs of neighbouring rows, of every slide in turn."""

    slide: NDArray[np.int64]
    """(n,) index of the slide."""

    start: NDArray[np.int64]
    """(n,) first row, as a place among the rows of the slide that are loaded."""

    stop: NDArray[np.int64]
    """(n,) the place after the last row."""

    n_bytes: NDArray[np.int64]
    """(n,) what the block takes in memory, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Rows of one block that a group holds."""

    slide: int
    """Index of the slide."""

    start: int
    """First of the rows, as a place among those of the slide that the epoch has."""

    stop: int
    """The place after the last one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupPlan:
    """One group: what is read at once, and the batches that are cut from it."""

    parts: tuple[Part, ...]
    """What is read. Rows of the group are numbered through all parts."""

    order: NDArray[np.int64]
    """(n,) rows of the group in the order in which batches have them."""

    first_batch: int
    """Place of the group's first batch in the epoch."""

    batch_size: int
    """Rows of a batch; the last of the epoch may have fewer."""

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return -(-len(self.order) // self.batch_size)

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the rows of a batch, numbered as in `order`."""
        return self.order[number * self.batch_size : (number + 1) * self.batch_size]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpochPlan:
    """The groups of one epoch, or of one rank's share of it."""

    seed: int
    """What random choices begin from."""

    epoch: int
    """Number of the epoch."""

    rank: int
    """Whose share it is."""

    batch_size: int
    """Rows of a batch."""

    is_shuffled: bool
    """Whether the rows of a group are permuted."""

    slide: NDArray[np.int64]
    """(n,) slide of each block, in the order of the epoch."""

    start: NDArray[np.int64]
    """(n,) first row of each block."""

    ends: NDArray[np.int64]
    """(n,) rows of the epoch up to the end of each block."""

    bounds: NDArray[np.int64]
    """(n_groups + 1,) rows of the epoch before each group."""

    @property
    def n_rows(self) -> int:
        """Rows of the epoch."""
        return int(self.bounds[-1] - self.bounds[0])

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.bounds) - 1

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return -(-self.n_rows // self.batch_size)

    def first_batch(self, group: int) -> int:
        """Return the place in the epoch of the first batch of a group."""
        return int(self.bounds[group] - self.bounds[0]) // self.batch_size

    def group_of_batch(self, batch: int) -> int:
        """Return the group that a batch is cut from; `n_groups` past the last batch."""
        row = self.bounds[0] + batch * self.batch_size
        return int(np.searchsorted(self.bounds[1:], row, side="right"))

    def group(self, group: int) -> GroupPlan:
        """Return a group of the epoch."""
        low, high = self.bounds[group : group + 2].tolist()
        first = int(np.searchsorted(self.ends, low, side="right"))
        last = int(np.searchsorted(self.ends, high, side="left"))
        parts = []
        for block in range(first, last + 1):
            begins = int(self.ends[block - 1]) if block else 0
            shift = int(self.start[block]) - begins
            start, stop = max(low, begins), min(high, int(self.ends[block]))
            if stop > start:
                slide = int(self.slide[block])
                parts.append(Part(slide=slide, start=start + shift, stop=stop + shift))
        order = np.arange(high - low)
        if self.is_shuffled:
            _random(self.seed, self.epoch, _ROWS, self.rank, group).shuffle(order)
        return GroupPlan(
            parts=tuple(parts),
            order=order,
            first_batch=self.first_batch(group),
            batch_size=self.batch_size,
        )


def cut_blocks(xy: NDArray[np.float64], n_bytes: Bytes, *, block_bytes: int) -> NDArray[np.int64]:
    """Cut the rows of a slide into blocks of neighbours.

    Parameters
    ----------
    xy : (n, 2) ndarray of float64
        Centres in full-resolution pixels, columns ``(x, y)``, in the order of the store.
    n_bytes : callable
        Takes (k,) numbers of rows and (k, 2) distances between their outermost centres along x
        and y in full-resolution pixels, and returns the bytes that each such run takes.
    block_bytes : int
        Most bytes of a block, unless a single row takes more.

    Returns
    -------
    (n_blocks + 1,) ndarray of int64
        Where blocks begin and end. Blocks are whole cells of the order of rows, which are those of
        the image's shards; cells that take too much are quartered until they do not, and neighbours
        in the order that fit a block together are joined.

    Examples
    --------
    >>> xy = np.array([[10.0, 10], [20, 10], [5000, 10], [9000, 10]])
    >>> cut_blocks(xy, lambda n_rows, extent_px: n_rows, block_bytes=2)
    array([0, 2, 4])
    """
    n = len(xy)
    if n == 0:
        return np.zeros(1, np.int64)
    edge = CELL_PX
    bounds = _bounds_of_squares(xy, edge)
    while edge > SMALLEST_SQUARE_PX:
        edge //= 2
        is_large = map_runs(n_bytes, xy, bounds) > block_bytes
        if not is_large.any():
            break
        finer = _bounds_of_squares(xy, edge)[1:-1]
        inside = is_large[np.searchsorted(bounds, finer, side="right") - 1]
        bounds = np.union1d(bounds, finer[inside])
    while True:
        is_large = map_runs(n_bytes, xy, bounds) > block_bytes
        is_large &= np.diff(bounds) > 1
        if not is_large.any():
            break
        bounds = np.union1d(bounds, (bounds[:-1] + bounds[1:])[is_large] // 2)
    return _joined(xy, bounds, n_bytes, block_bytes)


def draw_rows(
    weights: Sequence[NDArray[np.float64]], n: int, *, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Draw rows of all slides with replacement.

    Parameters
    ----------
    weights : sequence of (n_rows,) ndarray of float64
        For each slide the weight of each row: not negative, and not all zero.
    n : int
        How many rows to draw.
    seed, epoch : int
        What the draw depends on, beside the weights.

    Returns
    -------
    list of (k,) ndarray of int64
        For each slide the rows that were drawn, ascending, each as often as it was.

    Examples
    --------
    >>> draw_rows([np.array([0.0, 1.0]), np.array([0.0])], 3, seed=0, epoch=0)
    [array([1, 1, 1]), array([], dtype=int64)]
    """
    up_to = np.cumsum(np.concatenate(weights))
    drawn = _random(seed, epoch, _DRAWS).random(n) * up_to[-1]
    # A product may round up to the very end, which is no row's.
    last = int(np.searchsorted(up_to, up_to[-1], side="left"))
    rows = np.minimum(np.searchsorted(up_to, drawn, side="right"), last)
    rows.sort()
    ends = np.cumsum([len(weight) for weight in weights])
    cuts = np.searchsorted(rows, ends)
    return [
        rows[start:stop] - first
        for start, stop, first in zip([0, *cuts[:-1]], cuts, [0, *ends[:-1]], strict=True)
    ]


def plan_epoch(
    blocks: Blocks,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    group_bytes: int,
    is_shuffled: bool,
    drops_last: bool,
    rank: int = 0,
    world_size: int = 1,
) -> EpochPlan:
    """Plan one rank's share of an epoch.

    Parameters
    ----------
    blocks : Blocks
        The rows of the epoch.
    seed, epoch : int
        What random choices depend on, beside the other arguments.
    batch_size : int
        Rows of a batch, at least 1.
    group_bytes : int
        Most bytes of a group, unless a single batch takes more.
    is_shuffled : bool
        Whether blocks are permuted, and the rows of each group.
    drops_last : bool
        Leave out the rows of an incomplete last batch, and those that make one rank's share larger
        than another's.
    rank, world_size : int
        Which of how many shares. Shares are disjoint, cover the epoch, and differ by one row at
        most.

    Returns
    -------
    EpochPlan
        Every row of the share exactly once.

    Examples
    --------
    >>> blocks = Blocks(
    ...     slide=np.array([0, 1]), start=np.array([0, 0]), stop=np.array([4, 3]),
    ...     n_bytes=np.array([4, 3]),
    ... )
    >>> plan = plan_epoch(
    ...     blocks, seed=0, epoch=0, batch_size=2, group_bytes=5, is_shuffled=False,
    ...     drops_last=False,
    ... )
    >>> plan.bounds, plan.n_batches, plan.group(0).parts[0]
    (array([0, 4, 7]), 4, Part(slide=0, start=0, stop=4))
    """
    order = np.arange(len(blocks.slide))
    if is_shuffled:
        _random(seed, epoch, _BLOCKS).shuffle(order)
    lengths = (blocks.stop - blocks.start)[order]
    ends = np.cumsum(lengths, dtype=np.int64)
    n = int(ends[-1]) if len(ends) else 0
    if drops_last:
        share = n // world_size
        low = rank * share
        high = low + share // batch_size * batch_size
    else:
        low, high = (n * number // world_size for number in (rank, rank + 1))
    return EpochPlan(
        seed=seed,
        epoch=epoch,
        rank=rank,
        batch_size=batch_size,
        is_shuffled=is_shuffled,
        slide=blocks.slide[order],
        start=blocks.start[order],
        ends=ends,
        bounds=_bounds_of_groups(
            ends, blocks.n_bytes[order], low, high, batch_size=batch_size, group_bytes=group_bytes
        ),
    )


def _bounds_of_groups(
    ends: NDArray[np.int64],
    n_bytes: NDArray[np.int64],
    low: int,
    high: int,
    *,
    batch_size: int,
    group_bytes: int,
) -> NDArray[np.int64]:
    """Cut the rows from `low` to `high` into groups of whole batches."""
    # In integers: no rounding of floats decides where a group ends.
    n_bytes_to = np.cumsum(n_bytes)
    bounds = [low]
    while bounds[-1] < high:
        start = bounds[-1]
        limit = _along(start, ends, n_bytes_to) + group_bytes
        n_rows = min(_along(limit, n_bytes_to, ends), high) - start
        is_last = start + n_rows == high
        whole = n_rows if is_last else max(batch_size, n_rows // batch_size * batch_size)
        bounds.append(min(start + whole, high))
    return np.array(bounds, dtype=np.int64)


def _along(value: int, knots: NDArray[np.int64], heights: NDArray[np.int64]) -> int:
    """Return the height at a value, on straight lines from 0 through the knots, rounded down."""
    after = int(np.searchsorted(knots, value, side="right"))
    if after == len(knots):
        return int(heights[-1])
    x = int(knots[after - 1]) if after else 0
    y = int(heights[after - 1]) if after else 0
    return y + (value - x) * (int(heights[after]) - y) // (int(knots[after]) - x)


def _bounds_of_squares(xy: NDArray[np.float64], edge: int) -> NDArray[np.int64]:
    """Return where rows enter another square of an edge, with both ends."""
    square = np.floor(xy / edge)
    enters = np.flatnonzero((square[1:] != square[:-1]).any(axis=1)) + 1
    return np.concatenate([[0], enters, [len(xy)]]).astype(np.int64)


def map_runs[T](
    function: Callable[[NDArray[np.int64], NDArray[np.float64]], T],
    xy: NDArray[np.float64],
    bounds: NDArray[np.int64],
) -> T:
    """Call a function, such as that of `cut_blocks`, with the runs of rows between some bounds."""
    if len(bounds) == 1:
        return function(np.zeros(0, np.int64), np.zeros((0, 2)))
    low, high = _corners(xy, bounds)
    return function(np.diff(bounds), high - low)


def _corners(
    xy: NDArray[np.float64], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and the largest x and y of each run."""
    return np.minimum.reduceat(xy, bounds[:-1]), np.maximum.reduceat(xy, bounds[:-1])


def _joined(
    xy: NDArray[np.float64], bounds: NDArray[np.int64], n_bytes: Bytes, block_bytes: int
) -> NDArray[np.int64]:
    """Join neighbours that fit a block together, each to those before it."""
    lows, highs = _corners(xy, bounds)
    joined = [0]
    low, high = lows[0], highs[0]
    for run in range(1, len(lows)):
        both_low, both_high = np.minimum(low, lows[run]), np.maximum(high, highs[run])
        n_rows = bounds[run + 1 : run + 2] - joined[-1]
        extent = (both_high - both_low)[np.newaxis]
        if int(n_bytes(n_rows, extent)[0]) <= block_bytes:
            low, high = both_low, both_high
        else:
            joined.append(int(bounds[run]))
            low, high = lows[run], highs[run]
    return np.array([*joined, int(bounds[-1])], dtype=np.int64)


def _random(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
