"""One group of an epoch, read into memory, and the batches that are cut from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stformat import kernels
from stformat.kernels._pool import map_chunks
from stformat.loader.augment import Augmentation, Changes
from stformat.loader.expression import ExpressionRule, GroupExpression
from stformat.loader.group_pixels import GroupPixels, HeldPixels, PlacedTiles
from stformat.loader.held_counts import HeldCounts
from stformat.loader.inventory import Inventory
from stformat.loader.memory import Memory
from stformat.loader.plan import EpochPlan, GroupPlan
from stformat.loader.shelf import SlideShelf

__all__ = ["Batch", "Draws", "Group", "GroupReader", "Output", "StoppedError"]

type Batch = dict[str, Any]

type Draws = Sequence[NDArray[np.int64]] | None
"""Places of drawn rows among those of each slide that are loaded; None where none are drawn."""


class StoppedError(Exception):
    """The loop over batches ended before a group was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a batch is made of."""

    expression: Literal["dense", "csr"] | None
    """How expression is returned, if at all."""

    rule: ExpressionRule
    """What becomes of counts."""

    has_measured: bool
    """Whether a batch says which genes were measured."""

    dtype: DTypeLike | None
    """Type of tiles, or None for samples as they are."""

    mean: Sequence[float] | None
    """Mean of each channel, for floats."""

    std: Sequence[float] | None
    """Standard deviation of each channel, for floats."""

    augment: Augmentation | None
    """Random changes."""

    group_bytes: int
    """About how much memory a group takes."""

    memory: Memory
    """Where arrays of NumPy are made."""

    xp: Any
    """NumPy or CuPy: where arrays are made."""

    on_device: Callable[[], AbstractContextManager[None]]
    """Makes the device of the pass current, in whichever thread makes a batch."""

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Any:  # noqa: ANN401 - of NumPy or CuPy
        """Return an array of any content."""
        return self.memory.empty(shape, dtype) if self.xp is np else self.xp.empty(shape, dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """The rows of a group, in the order of its parts."""

    slide: NDArray[np.int64]
    """(n,) index of the slide."""

    row: NDArray[np.int64]
    """(n,) row of the slide's table."""

    part: NDArray[np.int64]
    """(n,) part of the plan."""

    occurrence: NDArray[np.int64]
    """(n,) how often the epoch has the row before."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """A group in memory."""

    plan: GroupPlan
    """What it holds."""

    seed: int
    """Seed of the loader."""

    epoch: int
    """Number of the epoch."""

    rows: _Rows
    """Its n rows."""

    xy: NDArray[np.float64]
    """(n, 2) centres in full-resolution pixels."""

    pixels: GroupPixels | None
    """What tiles are made of; None without tiles."""

    expression: GroupExpression | None
    """The counts; None without expression."""

    held_row: NDArray[np.int64]
    """(n,) place of each row in `expression`."""

    def batch(self, number: int, output: Output) -> Batch:
        """Make a batch."""
        chosen = self.plan.batch(number)
        batch: Batch = {}
        if self.pixels is not None:
            tiles = self.pixels.batch(number * self.plan.batch_size, chosen)
            batch["tile"] = _finished(tiles, self._changes(chosen, output), output)
        if self.expression is not None:
            held = self.held_row[chosen]
            is_dense = output.expression == "dense"
            expression = self.expression
            batch["expression"] = (
                expression.dense(held, output.empty) if is_dense else expression.csr(held)
            )
            if output.has_measured:
                batch["measured"] = expression.is_measured(held)
        return batch | {
            "slide": self.rows.slide[chosen],
            "row": self.rows.row[chosen],
            "x": self.xy[chosen, 0],
            "y": self.xy[chosen, 1],
            "epoch": self.epoch,
            "batch_index": self.plan.first_batch + number,
        }

    def apart(self, batch: Batch, output: Output) -> Batch:
        """Return a batch, of `batch`, that does not keep the memory of the group."""
        if output.dtype is not None or not isinstance(self.pixels, PlacedTiles):
            return batch
        tiles = output.empty(batch["tile"].shape, batch["tile"].dtype)
        np.copyto(tiles, batch["tile"])
        return batch | {"tile": tiles}

    def _changes(self, chosen: NDArray[np.int64], output: Output) -> Changes | None:
        if output.augment is None:
            return None
        return output.augment.draw(
            seed=self.seed,
            epoch=self.epoch,
            slide=self.rows.slide[chosen],
            row=self.rows.row[chosen],
            occurrence=self.rows.occurrence[chosen],
        )


@dataclass(frozen=True, slots=True, eq=False)
class GroupReader:
    """Reads groups."""

    shelf: SlideShelf
    """The slides."""

    inventory: Inventory
    """What is known of them."""

    draws: Draws
    """What the epoch draws."""

    output: Output
    """What batches are made of."""

    is_stopped: Callable[[], bool]
    """Asked between reads; once it is true, reading ends."""

    def read(self, epoch: EpochPlan, number: int) -> Group:
        """Read a group of an epoch.

        Raises
        ------
        StoppedError
            If `is_stopped` said so.
        StoreError
            If a slide cannot be read; a note names it.
        """
        plan = epoch.group(number)
        rows = self._rows(plan)
        rules = self.inventory.tiles or ()
        pixels = self._new_pixels(plan, rows)
        held_row = np.zeros_like(rows.row)
        xy = np.empty((len(rows.row), 2))
        counts = self._new_counts(rows)
        held_maps: list[NDArray[np.int64]] = []
        n_held = 0
        for slide in np.unique(rows.slide).tolist():
            here = np.flatnonzero(rows.slide == slide)
            distinct, which = np.unique(rows.row[here], return_inverse=True)
            held_row[here] = n_held + which
            n_held += len(distinct)
            with self.shelf.lend(slide) as opened:
                xy[here] = opened.centers_px(distinct)[which]
                if pixels is not None:
                    self._go_on()
                    pixels.add(opened, rules[slide], here, rows.row[here], go_on=self._go_on)
                if counts is not None:
                    number = int(self.inventory.map_of_slide[slide])
                    target = self.inventory.maps[number].target
                    counts.add(opened.counts, distinct, target, go_on=self._go_on)
                    held_maps.append(np.full(len(distinct), number))
        return Group(
            plan=plan,
            seed=epoch.seed,
            epoch=epoch.epoch,
            rows=rows,
            xy=xy,
            pixels=pixels,
            expression=None if counts is None else self._expression(counts, held_maps),
            held_row=held_row,
        )

    def _rows(self, plan: GroupPlan) -> _Rows:
        parts = plan.parts
        numbers = [np.arange(part.start, part.stop) for part in parts]
        places, before = numbers, [np.zeros_like(each) for each in numbers]
        if self.draws is not None:
            # Only what is drawn comes twice: as often before as there are equal draws before.
            drawn = [self.draws[part.slide] for part in parts]
            places = [each[of_part] for each, of_part in zip(drawn, numbers, strict=True)]
            before = [
                of_part - np.searchsorted(each, place)
                for each, place, of_part in zip(drawn, places, numbers, strict=True)
            ]
        lengths = [len(each) for each in numbers]
        rows_at = self.inventory.rows_at
        return _Rows(
            slide=np.repeat(np.array([part.slide for part in parts], dtype=np.int64), lengths),
            row=np.concatenate(
                [rows_at(part.slide, place) for part, place in zip(parts, places, strict=True)]
            ),
            part=np.repeat(np.arange(len(parts)), lengths),
            occurrence=np.concatenate(before),
        )

    def _new_pixels(self, plan: GroupPlan, rows: _Rows) -> GroupPixels | None:
        if not self.inventory.tiles:
            return None
        rule, memory, xp = self.inventory.tiles[0], self.output.memory, self.output.xp
        uses_regions = any(self.inventory.tiles[part.slide].uses_regions for part in plan.parts)
        if uses_regions or xp is not np:
            row_bytes = np.array(self.inventory.row_bytes)
            n_bytes = max(0, self.output.group_bytes - int(row_bytes[rows.slide].sum()))
            return HeldPixels(rows.part, rule, n_bytes, memory, self.output.empty, xp)
        return PlacedTiles(plan.order, rule, memory)

    def _new_counts(self, rows: _Rows) -> HeldCounts | None:
        """Return room for the counts of rows; None where none are wanted."""
        if self.output.expression is None:
            return None
        row_nnz = np.array(self.inventory.row_nnz)
        return HeldCounts(
            self.output.memory,
            *self.inventory.count_dtypes,
            n_values=int(np.bincount(rows.slide, minlength=len(row_nnz)) @ row_nnz),
            n_genes=self.output.rule.n_genes,
            has_totals=self.output.rule.normalize is not None,
        )

    def _expression(
        self, held: HeldCounts, held_maps: Sequence[NDArray[np.int64]]
    ) -> GroupExpression:
        return GroupExpression(
            self.output.rule,
            held,
            self.inventory.maps,
            np.concatenate(held_maps),
            self.output.xp,
        )

    def _go_on(self) -> None:
        if self.is_stopped():
            raise StoppedError


def _finished(tiles: Any, changes: Changes | None, output: Output) -> Any:  # noqa: ANN401 - of NumPy or CuPy
    """Change colours, mirror and turn, and turn samples into floats, whichever is asked for."""
    if changes is not None and changes.stains is not None:
        tiles = kernels.change_stains(tiles, changes.stains, out=tiles)
    if output.dtype is not None:
        return kernels.tiles_to_float(
            tiles,
            mean=output.mean,
            std=output.std,
            flips=None if changes is None else changes.flips,
            turns=None if changes is None else changes.turns,
            dtype=output.dtype,
            out=output.empty(tiles.shape, output.dtype),
        )
    return tiles if changes is None else _turned(tiles, changes, output.xp)


def _turned(tiles: Any, changes: Changes, xp: Any) -> Any:  # noqa: ANN401 - of NumPy or CuPy
    """Mirror and turn samples in place, as `stformat.kernels.tiles_to_float` defines it."""

    def turn(number: int) -> None:
        is_mirrored, is_upended = changes.flips[number].tolist()
        tile = xp.flip(tiles[number], axis=2) if is_mirrored else tiles[number]
        tile = xp.flip(tile, axis=1) if is_upended else tile
        tiles[number] = xp.rot90(tile, int(changes.turns[number]), axes=(1, 2)).copy()

    map_chunks(turn, range(len(tiles)), n_threads=None if xp is np else 1)
    return tiles
