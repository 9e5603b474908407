"""Tiles from an image in memory, beside copying as many bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from peer_cases.case import Comparison, Peer, Work, at_most
from peer_cases.data import Data
from stformat import kernels
from stformat.kernels._pool import run_blocks, thread_count

__all__ = ["COMPARISONS"]

_COPIED_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    name: str
    tile_px: int
    pitch_px: int
    most: int


_LAYOUTS = (
    _Layout(name="Visium", tile_px=224, pitch_px=250, most=5000),
    _Layout(name="Visium HD", tile_px=64, pitch_px=20, most=40_000),
)


def _windows(layout: _Layout, data: Data) -> NDArray[np.int64]:
    corner = np.arange(0, data.scale.image_px - layout.tile_px, layout.pitch_px)
    top, left = np.meshgrid(corner, corner, indexing="ij")
    return np.column_stack([left.ravel(), top.ravel()])[: layout.most]


def _empty(layout: _Layout, n: int) -> NDArray[np.uint8]:
    # Written once, so that no run pays for new memory.
    return np.zeros((n, 3, layout.tile_px, layout.tile_px), np.uint8)


def _gathered(layout: _Layout, data: Data) -> Work:
    windows = _windows(layout, data)
    out = _empty(layout, len(windows))
    return Work(
        run=lambda: kernels.gather_tiles(data.pixels, windows, layout.tile_px, out=out),
        n_units=len(windows),
    )


def _copied(layout: _Layout, data: Data) -> Work:
    n = len(_windows(layout, data))
    source, target = _empty(layout, n), _empty(layout, n)

    def copy(start: int, stop: int) -> None:
        target[start:stop] = source[start:stop]

    return Work(run=lambda: run_blocks(copy, n, block=_COPIED_AT_ONCE), n_units=n)


COMPARISONS = tuple(
    Comparison(
        what=f"tiles from an image in memory, {layout.name}, {layout.tile_px} px",
        unit="tile",
        ours=partial(_gathered, layout),
        peers=(
            Peer(
                name=f"bound: copying the output, {thread_count()} threads",
                prepare=partial(_copied, layout),
                target=at_most(2),
                agrees=None,
            ),
        ),
    )
    for layout in _LAYOUTS
)
