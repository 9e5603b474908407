"""How many chunks of images an epoch decodes, some of them twice: told by its plan alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stformat.coords import tile_windows
from stformat.loader.group import Draws
from stformat.loader.inventory import Inventory
from stformat.loader.pixels import TileRule
from stformat.loader.plan import EpochPlan
from stformat.loader.shelf import SlideShelf
from stformat.store.chunk_windows import window_chunks
from stformat.store.reader import Slide

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
    """Count what an epoch decodes: each chunk once for every part of a group that touches it.

    Raises
    ------
    StoreError
        If a slide cannot be opened.
    """
    if inventory.tiles is None:
        return DecodeCounts(n_decoded=0, n_chunks=0)
    parts = defaultdict(list)
    for number in range(plan.n_groups):
        for part in plan.group(number).parts:
            parts[part.slide].append(part)
    n_decoded = n_chunks = 0
    for slide, of_slide in parts.items():
        with shelf.lend(slide) as opened:
            touched = []
            for part in of_slide:
                places = np.arange(part.start, part.stop)
                places = places if draws is None else draws[slide][places]
                rows = inventory.rows_at(slide, places)
                touched.append(_chunks_of(opened, rows, inventory.tiles[slide]))
        n_decoded += sum(map(len, touched))
        n_chunks += len(np.unique(np.concatenate(touched)))
    return DecodeCounts(n_decoded=n_decoded, n_chunks=n_chunks)


def _chunks_of(slide: Slide, rows: NDArray[np.int64], rule: TileRule) -> NDArray[np.int64]:
    """Return the flat numbers of the chunks that tiles of some rows touch."""
    level = slide.opened.engine.level(rule.grid.level)
    _, height, width = level.shape
    _, edge_y, edge_x = level.metadata.chunks
    windows = tile_windows(slide.centers_px(rows), rule.grid)
    _, chunks = window_chunks(windows, rule.grid.source_px, (height, width), (edge_y, edge_x))
    return np.unique(chunks)
