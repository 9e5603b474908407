"""Tiles at another resolution than the slide's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stformat as stf
from peer_cases.case import Comparison, OutputsDifferError, Peer, Work, at_least
from peer_cases.data import Data
from peer_cases.tiles import TILE_PX, part_of, squidpy_crops, tiles_of
from stformat import coords
from stformat.coords import TileGrid
from stformat.kernels import _reference

__all__ = ["COMPARISONS"]

_N_SLOWEST = 6
"""Tiles that the slowest make: the definition is written to be read, not to be fast."""

_MOST_LEVELS_APART = 5.0
"""Grey levels that two ways to resample may differ by on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Windows:
    """What a part of our tiles is cut from."""

    part: NDArray[np.int64]
    """Places of the tiles among all."""

    grid: TileGrid
    """Level and step."""

    on_level: NDArray[np.int64]
    """(n, 2) first column and row in pixels of the level."""

    @property
    def edge_px(self) -> int:
        """Edge in full-resolution pixels, rounded."""
        return round(TILE_PX * self.grid.ratio / coords.UNIT_STEP)

    @property
    def on_level_0(self) -> NDArray[np.int64]:
        """(n, 2) first column and row in full-resolution pixels."""
        return self.on_level << self.grid.level


def _windows(downsample: float, data: Data, n: int) -> _Windows:
    with stf.open_slide(data.store) as slide:
        grid = coords.grid_for_mpp(
            TILE_PX,
            target_mpp=downsample * slide.mpp,
            mpp=slide.mpp,
            n_levels=len(slide.levels),
        )
    part = part_of(data, n)
    on_level = coords.tile_windows(data.centers_px[part], grid)
    return _Windows(part=part, grid=grid, on_level=on_level)


def _ours(downsample: float, data: Data) -> Work:
    rows = np.arange(len(data.centers_px))
    with stf.open_slide(data.store) as slide:
        mpp = downsample * slide.mpp
    return Work(run=lambda: tiles_of(data, rows, mpp=mpp), n_units=len(rows))


def _definition(downsample: float, data: Data) -> Work:
    """Cut windows of the level and resample them by the NumPy definition."""
    windows = _windows(downsample, data, _N_SLOWEST)
    grid, slide = windows.grid, stf.open_slide(data.store)

    def run() -> NDArray[np.uint8]:
        edge = grid.source_px
        source = np.stack(
            [
                slide.read_region(grid.level, top, left, edge, edge)
                for left, top in windows.on_level.tolist()
            ]
        )
        if grid.is_copy:
            return source
        out = np.empty((len(source), 3, TILE_PX, TILE_PX), np.uint8)
        _reference.resample_coarser(source, grid.step, out)
        return out

    return Work(run=run, n_units=len(windows.part), part=windows.part)


def _openslide(downsample: float, data: Data) -> Work:
    import openslide
    from PIL.Image import Resampling

    image = openslide.OpenSlide(data.tiff)
    windows = _windows(downsample, data, data.scale.n_few)
    edge, places = windows.edge_px, windows.on_level_0.tolist()

    def cut(left: int, top: int) -> NDArray[np.uint8]:
        window = image.read_region((left, top), 0, (edge, edge)).convert("RGB")
        tile = window.resize((TILE_PX, TILE_PX), Resampling.BILINEAR)
        return np.asarray(tile).transpose(2, 0, 1)

    return Work(
        run=lambda: np.stack([cut(left, top) for left, top in places]),
        n_units=len(places),
        part=windows.part,
    )


def _squidpy(downsample: float, data: Data) -> Work:
    windows = _windows(downsample, data, _N_SLOWEST)
    centers = windows.on_level_0 + windows.edge_px // 2
    crops = squidpy_crops(data, centers, windows.edge_px, scale=1 / downsample)

    def run() -> NDArray[np.uint8]:
        return np.stack([crop[:TILE_PX, :TILE_PX].transpose(2, 0, 1) for crop in crops()])

    return Work(run=run, n_units=len(centers), part=windows.part)


def _alike(ours: NDArray[np.uint8], theirs: NDArray[Any]) -> str:
    """Compare tiles of other rules of resampling."""
    if theirs.shape != ours.shape:
        raise OutputsDifferError(f"shape {theirs.shape} instead of {ours.shape}")
    apart = float(np.abs(ours.astype(float) - theirs).mean())
    if apart > _MOST_LEVELS_APART:
        raise OutputsDifferError(f"{apart:.1f} grey levels apart on average")
    return f"{apart:.2f} grey levels apart on average"


COMPARISONS = tuple(
    Comparison(
        what=f"tiles at {downsample:g} x the slide's mpp",
        unit="tile",
        ours=partial(_ours, downsample),
        peers=(
            Peer(name="the definition in NumPy", prepare=partial(_definition, downsample)),
            Peer(
                name="OpenSlide level 0, Pillow resize",
                prepare=partial(_openslide, downsample),
                target=at_least(50),
                agrees=_alike,
                note="bilinear",
            ),
            Peer(
                name=f"squidpy generate_spot_crops(scale={1 / downsample:g})",
                prepare=partial(_squidpy, downsample),
                agrees=_alike,
                note="image in memory",
            ),
        ),
    )
    for downsample in (2.0, 1.25)
)
