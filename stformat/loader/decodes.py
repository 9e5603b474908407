"""How many chunks of images an epoch decodes, some of them twice: told by its plan alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stformat.coords import tile_windows
from stformat.loader.group import Draws
from stformat.loader.inventory import Inventory
from stformat.loader.pixels import TileRule, choose_held
from stformat.loader.plan import EpochPlan, Part
from stformat.loader.shelf import SlideShelf
from stformat.store.chunk_windows import window_chunks
from stformat.store.reader import Slide
from stformat.store.regions import region_chunks

__all__ = ["DecodeCounts", "count_decodes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCounts:
    """Chunks of images that an epoch decodes.

    Examples
    --------
    >>> DecodeCounts(n_decoded=120, n_chunks=100).ratio
    1.2
    """

    n_decoded: int
    """How many are decoded, each as often as it is."""

    n_chunks: int
    """How many different ones."""

    @property
    def ratio(self) -> float:
        """How often a chunk is decoded, on average; 1 where there are none."""
        return self.n_decoded / self.n_chunks if self.n_chunks else 1.0


def count_decodes(
    shelf: SlideShelf, inventory: Inventory, plan: EpochPlan, draws: Draws
) -> DecodeCounts:
    """Count what an epoch decodes: each chunk once for every group that touches it.

    Where a group holds regions of a slide beside tiles, what both need is decoded for both.

    Raises
    ------
    StoreError
        If a slide cannot be opened.
    """
    if inventory.tiles is None:
        return DecodeCounts(n_decoded=0, n_chunks=0)
    of_slides: dict[int, list[list[Part]]] = defaultdict(list)
    for number in range(plan.n_groups):
        parts = plan.group(number).parts
        for slide in {part.slide for part in parts}:
            of_slides[slide].append([part for part in parts if part.slide == slide])
    n_decoded = n_chunks = 0
    for slide, groups in of_slides.items():
        with shelf.lend(slide) as opened:
            touched: list[NDArray[np.int64]] = []
            for parts_of_group in groups:
                places = [np.arange(part.start, part.stop) for part in parts_of_group]
                numbers = np.repeat(np.arange(len(places)), [len(each) for each in places])
                drawn = np.concatenate(places)
                drawn = drawn if draws is None else draws[slide][drawn]
                rows = inventory.rows_at(slide, drawn)
                touched += _chunks_of(opened, rows, numbers, inventory.tiles[slide])
        n_decoded += sum(map(len, touched))
        n_chunks += len(np.unique(np.concatenate(touched)))
    return DecodeCounts(n_decoded=n_decoded, n_chunks=n_chunks)


def _chunks_of(
    slide: Slide, rows: NDArray[np.int64], part: NDArray[np.int64], rule: TileRule
) -> list[NDArray[np.int64]]:
    """Return the flat numbers of the chunks that rows of a group need: of regions, and of tiles."""
    level = slide.opened.engine.level(rule.grid.level)
    windows = tile_windows(slide.centers_px(rows), rule.grid)
    held = choose_held(windows, rows, part, rule)
    of_regions = [
        region_chunks(level, region.top, region.left, region.height, region.width)
        for region, _ in held.regions
    ]
    _, *extent = level.shape
    _, *edges = level.metadata.chunks
    _, of_tiles = window_chunks(
        windows[held.of_tiles], rule.grid.source_px, (extent[0], extent[1]), (edges[0], edges[1])
    )
    return [np.unique(np.concatenate([np.zeros(0, np.int64), *of_regions])), np.unique(of_tiles)]
